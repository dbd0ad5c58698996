//! Resolves names of DNS, again and again.
//!
//! A name server may give another part of its addresses each time (round-robin). Therefore an
//! address counts until it was missing for a while.

mod ask;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use peerwall_proto::dns::Records;

use crate::config;
use crate::connection::Times;
use crate::credentials::Vigil;
use crate::error::{Ended, Error, Kind, Never, Step};
use crate::follow::Follow;
use crate::members::{Answer, Members};
use crate::report::Report;
use ask::{Found, ask};

/// Limits of a time to live.
const TTL_MIN: Duration = Duration::from_secs(30);
const TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// How long an address counts after the last answer with it, at least.
const UNION: Duration = Duration::from_secs(5 * 60);
/// Maximum number of addresses to remember.
const ADDRESSES_MAX: usize = crate::members::ADDRESSES_MAX;
/// The port of name servers.
const PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Maximum number of name servers in that file (`MAXNS` in resolv.conf(5)).
const RESOLV_CONF_SERVERS_MAX: usize = 3;

/// Names to resolve.
pub(crate) struct Resolver {
    config: config::Dns,
    times: Times,
    /// Until when each address of each name counts.
    seen: BTreeMap<(String, IpAddr), Instant>,
}

impl Resolver {
    pub(crate) fn new(config: &config::Dns, times: Times) -> Self {
        Self {
            config: config.clone(),
            times,
            seen: BTreeMap::new(),
        }
    }

    /// Resolves all names, once.
    fn round(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Duration> {
        let servers = self.name_servers(vigil)?;
        let server = servers[server % servers.len()];
        let mut wait = TTL_MAX;
        let mut found = Vec::new();
        for name in &self.config.names {
            for records in [Records::A, Records::Aaaa] {
                vigil.check()?;
                let Found { addresses, ttl } = ask(server, name, records, self.times, vigil)?;
                let ttl = ttl.clamp(TTL_MIN, TTL_MAX);
                wait = wait.min(ttl);
                let until = Instant::now() + counts_for(ttl);
                found.extend(
                    addresses
                        .into_iter()
                        .map(|each| ((name.clone(), each), until)),
                );
            }
        }
        // Only a complete round counts.
        self.remember(found, Instant::now());
        if self.seen.len() > ADDRESSES_MAX {
            let text = format!("more than {ADDRESSES_MAX} addresses");
            return Err(Ended::failed(Kind::TooMany, text));
        }
        report.answered(self.answer())?;
        Ok(wait)
    }

    /// Adds what a round found, and forgets addresses that no longer count.
    fn remember(&mut self, found: Vec<((String, IpAddr), Instant)>, now: Instant) {
        self.seen.extend(found);
        self.seen.retain(|_, until| *until > now);
    }

    fn answer(&self) -> Answer {
        let mut members = Members::new();
        for (name, address) in self.seen.keys() {
            members.entry(*address).or_insert_with(|| name.clone());
        }
        Answer {
            identity: "-".to_owned(),
            revision: None,
            members,
        }
    }

    fn name_servers(&self, vigil: &mut Vigil) -> Result<Vec<SocketAddr>, Error> {
        if !self.config.server.is_empty() {
            return self
                .config
                .server
                .iter()
                .map(|text| address(text))
                .collect();
        }
        let text = vigil.read(RESOLV_CONF)?;
        let servers = resolv_conf(&String::from_utf8_lossy(&text));
        match servers.is_empty() {
            true => {
                let text = format!("{RESOLV_CONF} has no usable name server; set `server`");
                Err(Error::new(Kind::Name, text))
            }
            false => Ok(servers),
        }
    }
}

impl Follow for Resolver {
    fn servers(&self) -> usize {
        match self.config.server.len() {
            0 => std::fs::read_to_string(RESOLV_CONF)
                .map_or(1, |text| resolv_conf(&text).len())
                .max(1),
            count => count,
        }
    }

    fn attempt(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Never> {
        if self.config.names.is_empty() {
            let text = "no name: set `names`";
            return Err(Ended::failed(Kind::Name, text));
        }
        loop {
            let wait = self.round(server, report, vigil)?;
            vigil.sleep(wait)?;
        }
    }
}

/// How long an address counts after an answer with this time to live.
fn counts_for(ttl: Duration) -> Duration {
    UNION.max(2 * ttl)
}

/// Parses the address of a name server, with or without a port.
fn address(text: &str) -> Result<SocketAddr, Error> {
    let plain = text.parse::<IpAddr>();
    let plain = plain.map(|address| SocketAddr::new(address, PORT)).ok();
    plain.or_else(|| text.parse().ok()).ok_or_else(|| {
        let text = format!("{text:?} is not the address of a name server, such as 10.0.0.53");
        Error::new(Kind::Name, text)
    })
}

/// Returns the name servers of resolv.conf(5). Those with a zone are not supported.
fn resolv_conf(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let address = words.next().filter(|_| is_server)?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    };
    text.lines()
        .filter_map(server)
        .take(RESOLV_CONF_SERVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_resolver_does() {
        let text = "# nameserver 10.0.0.1\nsearch example.org\nnameserver 10.0.0.2 # x\n\
                    nameserver\t2001:db8::53\nnameserver fe80::1%eth0\noptions edns0\n";
        let servers: Vec<_> = resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[2001:db8::53]:53"]);
        assert_eq!(resolv_conf("nameserver x\n"), []);
    }

    #[test]
    fn an_address_counts_until_it_was_missing_for_a_while() {
        let times = Times {
            answer: Duration::from_secs(1),
            watch: Duration::from_secs(1),
        };
        let mut resolver = Resolver::new(&config::Dns::default(), times);
        let start = Instant::now();
        let round = |resolver: &mut Resolver, seconds: u64, address: &str| {
            let now = start + Duration::from_secs(seconds);
            let key = ("lb".to_owned(), address.parse().unwrap());
            resolver.remember(vec![(key, now + counts_for(TTL_MIN))], now);
            let members = resolver.answer().members;
            members.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        // Round-robin: one of two addresses each time.
        assert_eq!(round(&mut resolver, 0, "192.0.2.1"), ["192.0.2.1"]);
        assert_eq!(
            round(&mut resolver, 30, "192.0.2.2"),
            ["192.0.2.1", "192.0.2.2"]
        );
        assert_eq!(
            round(&mut resolver, 60, "192.0.2.1"),
            ["192.0.2.1", "192.0.2.2"]
        );
        assert_eq!(
            round(&mut resolver, 329, "192.0.2.1"),
            ["192.0.2.1", "192.0.2.2"]
        );
        assert_eq!(round(&mut resolver, 331, "192.0.2.1"), ["192.0.2.1"]);
        assert_eq!(counts_for(TTL_MAX), 2 * TTL_MAX);
    }

    #[test]
    fn a_server_has_a_port_or_the_usual_one() {
        for (text, want) in [
            ("10.0.0.53", Some("10.0.0.53:53")),
            ("10.0.0.53:5353", Some("10.0.0.53:5353")),
            ("2001:db8::53", Some("[2001:db8::53]:53")),
            ("[2001:db8::53]:5353", Some("[2001:db8::53]:5353")),
            ("dns.example.org", None),
        ] {
            let found = address(text).ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), want, "{text}");
        }
    }
}
