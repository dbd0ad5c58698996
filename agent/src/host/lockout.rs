//! Whether the caller could open the same ssh connection again.

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

/// Checks that a ruleset would accept the caller's ssh connection again; where only several are
/// known of which one may be the caller's, that it would accept one of them.
///
/// # Errors
/// [`LockedOut`] if it would not.
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

/// Why a ruleset is not loaded: ssh sessions to this host could not be opened again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockedOut {
    /// The caller's own session.
    #[error("this policy would not let you in again: {0}; add an allow for it, or use --force")]
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
    /// The port that the client dialled, and the server's own if it is another.
    dialled: String,
    interface: String,
    verdict: Verdict,
    reason: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a new connection from {} to {} by {} would meet {}",
            self.source, self.dialled, self.interface, self.verdict
        )?;
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// What has to be known about this host.
struct Host {
    place: HostAddresses,
    routes: Routes,
    /// `None` if there is no ctnetlink; then nothing can have been rewritten either.
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

    /// Returns how the connection would be refused by one of the interfaces that it may arrive by;
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

    /// The connection as conntrack has it: with the port that the client dialled, where another one
    /// was redirected to the server's.
    fn tracked(&mut self, ssh: &Ssh) -> Option<revoke::Connection> {
        let ends = (ssh.server_end(), ssh.client_end());
        let found = self.connections.as_mut()?.find(TCP, ends.0, ends.1);
        match found {
            Ok(found) => connections::known(&found?),
            Err(err) => {
                log::info!("whether the ssh connection was redirected is not known: {err}");
                None
            }
        }
    }

    /// Interfaces that the connection may arrive by: of the link-local address, or of the route
    /// back to the client, else those with the server's address.
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

/// A connection that conntrack does not know: nothing was rewritten.
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

/// The port that was dialled, and where that leads if it was rewritten.
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
