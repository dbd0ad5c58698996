//! Checks that a ruleset does not lock out the caller's ssh session.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use peerwall_core::net::packet::{Hook, Transport, Verdict};
use peerwall_core::net::port::TCP;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::revoke::{self, HostAddresses};

use crate::connections::{self, Connections};
use crate::host::caller::{Caller, Ssh};
use crate::host::facts;
use crate::kernel::routes::Routes;

/// Checks that a ruleset would accept the caller's ssh connection again. If only several possible
/// connections of the caller are known, it must accept at least one of them.
///
/// # Errors
/// [`LockedOut`] if it would refuse them.
pub fn check(ruleset: &Ruleset, caller: &Caller) -> Result<(), LockedOut> {
    let mut host = Host::new();
    if let Some(ssh) = &caller.ssh {
        return match host.refusal(ruleset, ssh) {
            None => Ok(()),
            Some(why) => Err(LockedOut::Caller(why)),
        };
    }
    let possible = caller.maybe.iter();
    let refused: Option<Vec<Refused>> = possible.map(|ssh| host.refusal(ruleset, ssh)).collect();
    match refused {
        Some(all) if !all.is_empty() => Err(LockedOut::Everybody(all)),
        _ => Ok(()),
    }
}

/// Returns the original destination port of an ssh connection, before a redirection.
pub fn dialled_port(ssh: &Ssh) -> u16 {
    let tracked = Host::new().tracked(ssh);
    tracked.map_or(ssh.server_port, |connection| connection.dialled)
}

/// Error of a ruleset that would lock out ssh sessions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockedOut {
    /// The session of the caller.
    #[error("this policy would block your ssh session: {0}; add an allow for it, or use --force")]
    Caller(Refused),
    /// Every session, one of which is probably the caller's.
    #[error(
        "this policy would block every current ssh session to this host, probably including yours: \
         {}; add an allow, or use --force",
        list(.0)
    )]
    Everybody(Vec<Refused>),
}

fn list(refused: &[Refused]) -> String {
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    refused.join("; ")
}

/// A connection that a ruleset refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    source: IpAddr,
    /// Original destination port, with the server's own port if that differs.
    dialled: String,
    interface: String,
    verdict: Verdict,
    reason: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a new connection from {} to {} on {} would get the verdict {}",
            self.source, self.dialled, self.interface, self.verdict
        )?;
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// State of this host that the check needs.
struct Host {
    place: HostAddresses,
    routes: Routes,
    /// `None` without ctnetlink; then no connection was rewritten, either.
    connections: Option<Connections>,
}

impl Host {
    fn new() -> Self {
        Self {
            place: connections::place(),
            routes: Routes::default(),
            connections: Connections::open().ok(),
        }
    }

    /// Returns how the ruleset would refuse the connection on one of its possible interfaces;
    /// `None` if it would be accepted.
    fn refusal(&mut self, ruleset: &Ruleset, ssh: &Ssh) -> Option<Refused> {
        let tracked = self.tracked(ssh);
        let is_here = self.place.has(ssh.server);
        let hook = match (is_here, &tracked) {
            (true, _) => Hook::Input,
            (false, Some(_)) => Hook::Forward,
            // The server is in another network namespace.
            (false, None) => return None,
        };
        let connection = tracked.unwrap_or_else(|| untracked(ssh));
        for interface in self.ways(ssh, is_here) {
            let packet = revoke::first_packet(&self.place, hook, &interface, &connection);
            let walk = ruleset.eval(&packet);
            if walk.verdict != Verdict::Accept {
                return Some(Refused {
                    source: connection.source,
                    dialled: dialled(&connection),
                    reason: walk.reason().map(|reason| reason.to_string()),
                    verdict: walk.verdict,
                    interface,
                });
            }
        }
        None
    }

    /// Finds the connection in conntrack, which also knows the original destination port of a
    /// redirected connection.
    fn tracked(&mut self, ssh: &Ssh) -> Option<revoke::Connection> {
        let ends = (ssh.server_end(), ssh.client_end());
        let found = self.connections.as_mut()?.find(TCP, ends.0, ends.1);
        match found {
            Ok(found) => connections::known(&found?),
            Err(err) => {
                log::info!("cannot tell whether the ssh connection was redirected: {err}");
                None
            }
        }
    }

    /// Finds the possible incoming interfaces of the connection: that of the link-local address, or
    /// that of the route back to the client, else those with the server's address.
    fn ways(&mut self, ssh: &Ssh, is_here: bool) -> Vec<String> {
        if let Some(scope) = &ssh.scope {
            return vec![scope.clone()];
        }
        let own = is_here.then_some(ssh.server);
        let ways = self.routes.ways(ssh.client, own);
        if !ways.is_empty() {
            return ways;
        }
        let interfaces = facts::interfaces().into_iter();
        let mut ways: Vec<String> = interfaces
            .filter(|(name, of)| *of == Some(ssh.server) && name != "lo")
            .map(|(name, _)| name)
            .collect();
        ways.sort();
        ways.dedup();
        ways
    }
}

/// Builds a connection without a conntrack entry, which was not rewritten.
fn untracked(ssh: &Ssh) -> revoke::Connection {
    revoke::Connection {
        source: ssh.client,
        transport: Transport::Ports {
            protocol: TCP,
            source: ssh.client_port,
            destination: ssh.server_port,
        },
        dialled_address: ssh.server,
        dialled: ssh.server_port,
        is_dnat: false,
        destination: ssh.server,
    }
}

/// Describes the original destination port, and the redirection if there was one.
fn dialled(connection: &revoke::Connection) -> String {
    match connection.transport {
        Transport::Ports { destination, .. } if connection.is_dnat => {
            let to = SocketAddr::new(connection.destination, destination);
            format!("port {} (redirected to {to})", connection.dialled)
        }
        Transport::Ports { .. } | Transport::Icmp { .. } | Transport::Other(_) => {
            format!("port {}", connection.dialled)
        }
    }
}
