//! `peerwall exposed`

use std::net::IpAddr;
use std::path::Path;

use peerwall_core::explain::live::{Publication, Rules, follow, packet, publications, said};
use peerwall_core::exposed::{
    Exposure, Judged, Reach, Socket, dot, html, mermaid, printable, redirected, svg,
};
use peerwall_core::import::meaning::{Access, Admitted, access, redirected_access};
use peerwall_core::net::packet::{Packet, Verdict};
use peerwall_core::net::port::PortRange;
use peerwall_core::policy::Policy;
use peerwall_core::ruleset::TABLE;

use super::{DONE, exposed_files, policy_path, refuse, report, trouble};
use crate::cli::{ExposedArgs, MapFormat};
use crate::color::{Meaning, paint};
use crate::host::live::Here;
use crate::host::{facts, listeners, rules};
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadedPolicy, prepare};

pub(super) fn run(args: &ExposedArgs) -> u8 {
    let output = Output::new(args.of.output.json || args.format == MapFormat::Json);
    let path = policy_path(&args.of.policy);
    let ready = match prepare(&path, &FileSystem::default()) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, &output),
    };
    let found = examine(&ready, &path);
    let files = [
        (&args.svg, svg as fn(&Exposure) -> String),
        (&args.html, html),
    ];
    for (path, write) in files {
        let Some(path) = path else { continue };
        if let Err(err) = exposed_files::write(path, &write(&found)) {
            return trouble("exposed", err, &output);
        }
    }
    match args.format {
        MapFormat::Json => output.json(&found),
        MapFormat::Text if output.is_json() => output.json(&found),
        MapFormat::Text => {
            report::warnings(&ready);
            output.text(&text(&found));
        }
        MapFormat::Dot => output.text(&dot(&found)),
        MapFormat::Mermaid => output.text(&mermaid(&found)),
    }
    DONE
}

/// Joins the policy with this host's sockets and rules.
fn examine(ready: &LoadedPolicy, path: &Path) -> Exposure {
    let sockets = listeners::sockets();
    let asked: Vec<(u8, u16)> = sockets
        .iter()
        .map(|each| (each.listener.protocol, each.listener.port))
        .collect();
    let access = access(&ready.ruleset, &asked);
    let (rules, why) = match rules::read() {
        Ok(rules) => (Some(rules), None),
        Err(err) => (None, Some(err.to_string())),
    };
    let mut not_examined = Vec::new();
    if let Some(why) = why {
        not_examined.push(format!("published ports and other firewalls: {why}"));
    }
    let mut host = OnHost::new(rules);
    let dropped = host.dropped_services(&sockets, &access);
    let (published, is_incomplete) = host.published(ready);
    if is_incomplete {
        not_examined.push("some published ports: rules name too many".to_owned());
    }
    let path = path.display().to_string();
    let mut found = Exposure::new(&ready.policy, path, access, &sockets, dropped, published);
    found.not_examined = not_examined;
    found
}

/// This host with its rules.
struct OnHost {
    here: Here,
    rules: Option<Rules>,
    own: Vec<IpAddr>,
    /// Interface on which strangers arrive.
    arrival: String,
}

impl OnHost {
    fn new(rules: Option<Rules>) -> Self {
        let mut here = Here::new();
        let interfaces = facts::interfaces();
        let is_usual = |address: &IpAddr| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        };
        let usual = interfaces
            .iter()
            .filter_map(|(name, address)| Some((name, address.filter(is_usual)?)));
        let mut own: Vec<IpAddr> = usual.clone().map(|(_, address)| address).collect();
        own.sort_unstable();
        own.dedup();
        Self {
            arrival: arrival(&mut here, usual.map(|(name, _)| name)),
            here,
            rules,
            own,
        }
    }

    /// Returns the rule of another firewall that drops a stranger's packet.
    fn dropped_by(&mut self, packet: &Packet) -> Option<String> {
        let found = follow(self.rules.as_ref()?, packet, &mut self.here);
        let (_, journey) = found.ways.first()?;
        if journey.verdict == Verdict::Accept {
            return None;
        }
        let last = journey.passages.last()?;
        let is_ours = last.family == "inet" && last.table == TABLE;
        match &journey.dropped_by_kernel {
            // Without a hook, the kernel refuses this source only.
            Some(why) => journey.hook.is_some().then(|| why.clone()),
            None => (!is_ours && last.verdict != Verdict::Accept).then(|| said(last)),
        }
    }

    fn dropped_services(&mut self, sockets: &[Socket], access: &Access) -> Vec<Option<String>> {
        let arrival = self.arrival.clone();
        let joined = sockets.iter().zip(&access.services);
        joined
            .map(|(socket, from)| {
                let v4 = self.own.iter().find(|own| own.is_ipv4());
                let address = *v4.or(self.own.first())?;
                let (protocol, port) = (socket.listener.protocol, socket.listener.port);
                let packet = packet(address, protocol, port, &arrival);
                self.dropped_by(&packet).filter(|_| is_public(from))
            })
            .collect()
    }

    /// Finds published ports, and who reaches them.
    fn published(&mut self, ready: &LoadedPolicy) -> (Vec<Judged>, bool) {
        let Some(rules) = &self.rules else {
            return (Vec::new(), false);
        };
        let ports = named_ports(&ready.policy);
        let found = publications(rules, &mut self.here, &self.own, &self.arrival, &ports);
        let with_end = |each: Publication| Some((redirected(&each)?, each));
        let (ends, found_there): (Vec<_>, Vec<_>) =
            found.found.into_iter().filter_map(with_end).unzip();
        let admitted = redirected_access(&ready.ruleset, &ends);
        let judged = found_there.into_iter().zip(admitted);
        let judged = judged.map(|(each, from)| {
            let by = match is_public(&from) && each.is_local {
                true => self.dropped_by(&each.packet),
                false => None,
            };
            (each, from, by)
        });
        (judged.collect(), found.is_incomplete)
    }
}

fn is_public(from: &[Admitted]) -> bool {
    from.iter().any(|each| each.is_public)
}

/// Returns the interface of the default route, or another one that has an address.
fn arrival<'n>(here: &mut Here, names: impl Iterator<Item = &'n String>) -> String {
    use peerwall_core::explain::live::LiveHost as _;
    use peerwall_core::nft::machine::Host;
    let packet = packet(IpAddr::from([192, 0, 2, 1]), 6, 1, "");
    let mut ways = Host::ways(here, packet.source).into_iter();
    let names: Vec<&String> = names.collect();
    let mut others = names.iter().filter(|name| !here.is_bridge(name));
    let other = others.next().or(names.first());
    ways.next()
        .or_else(|| other.map(|name| (*name).clone()))
        .unwrap_or_else(|| "lo".to_owned())
}

/// Returns the ports of the policy, which divide published ranges.
fn named_ports(policy: &Policy) -> Vec<PortRange> {
    let specs = policy.allows.iter().flat_map(|allow| &allow.ports);
    specs.flatten().filter_map(|spec| spec.range).collect()
}

/// One line of a list, with who reaches it.
type Line<'e> = (String, String, Reach, String, &'e [Admitted]);

fn text(found: &Exposure) -> String {
    let mut text = String::new();
    if !found.every_port.is_empty() {
        text.push_str("every port is open to:\n");
        for each in &found.every_port {
            text.push_str(&format!("  {}\n", each.message));
        }
    }
    text.push_str(match found.services.is_empty() {
        true => "no program listens for other hosts\n",
        false => "programs that listen, and who else reaches them:\n",
    });
    let services = found.services.iter().map(|each| {
        let name = each.port.clone();
        (
            name,
            each.program(),
            each.state,
            each.words(),
            &each.from[..],
        )
    });
    text.push_str(&list(services.collect()));
    let published = found.published.iter().map(|each| {
        let name = each.port.clone();
        (
            name,
            each.program(),
            each.state,
            each.words(),
            &each.from[..],
        )
    });
    let others = found.service_addresses.iter().map(|each| {
        let words = match each.state {
            Reach::Closed => "closed".to_owned(),
            Reach::Reached | Reach::Dropped => String::new(),
        };
        (
            each.title(),
            each.program(),
            each.state,
            words,
            &each.from[..],
        )
    });
    let published: Vec<Line<'_>> = published.chain(others).collect();
    if !published.is_empty() {
        text.push_str("published ports, and who else reaches them:\n");
    }
    text.push_str(&list(published));
    if !found.unused.is_empty() {
        text.push_str("open in the policy, nobody listens:\n");
        for each in &found.unused {
            text.push_str(&format!("  {} ([[allow]] {})\n", each.port, each.allow));
        }
    }
    for why in &found.not_examined {
        text.push_str(&format!("not examined: {}\n", printable(why)));
    }
    text
}

/// Formats lines in columns.
fn list(lines: Vec<Line<'_>>) -> String {
    let mut text = String::new();
    let wide = |texts: Vec<usize>| texts.into_iter().max().unwrap_or(0);
    let names = wide(lines.iter().map(|each| each.0.chars().count()).collect());
    let programs = wide(lines.iter().map(|each| each.1.chars().count()).collect());
    for (name, program, state, words, from) in &lines {
        let start = format!("  {name:names$}  {program:programs$}");
        let blank = " ".repeat(names + programs + 4);
        let meaning = match state {
            Reach::Closed => Some(Meaning::Good),
            Reach::Dropped => Some(Meaning::Attention),
            Reach::Reached => None,
        };
        if let Some(meaning) = meaning {
            text.push_str(&format!("{start}  {}\n", paint(meaning, words)));
        }
        for (index, each) in from.iter().enumerate() {
            let is_first = index == 0 && meaning.is_none();
            let start = if is_first { &start } else { &blank };
            let message = match each.is_public {
                true => paint(Meaning::Attention, &each.message),
                false => each.message.clone(),
            };
            text.push_str(&format!("{start}  {message}\n"));
        }
    }
    text
}
