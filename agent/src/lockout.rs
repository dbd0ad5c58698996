//! Whether a caller could come back by the way he came.

use std::net::IpAddr;

use peerwall_core::packet::{CtState, Hook, Packet, Transport, Verdict};
use peerwall_core::port::TCP;
use peerwall_core::ruleset::Ruleset;

use crate::facts;

/// An ssh connection, as `SSH_CONNECTION` has it (ssh(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    client: IpAddr,
    client_port: u16,
    server: IpAddr,
    server_port: u16,
}

impl Connection {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [client, client_port, server, server_port] = words[..] else {
            return None;
        };
        // Link-local addresses have a zone.
        let address = |text: &str| text.split('%').next().unwrap_or_default().parse().ok();
        Some(Self {
            client: address(client)?,
            client_port: client_port.parse().ok()?,
            server: address(server)?,
            server_port: server_port.parse().ok()?,
        })
    }
}

/// Checks that a ruleset would let the caller's connection be made anew.
///
/// # Errors
/// A sentence that says that it would not, why, and what would do.
pub fn check(ruleset: &Ruleset, ssh: Option<&str>) -> Result<(), String> {
    let Some(connection) = ssh.and_then(Connection::parse) else {
        return Ok(());
    };
    let mut interfaces = interfaces_with(connection.server);
    if interfaces.is_empty() {
        return Ok(()); // not a connection to this host's namespace
    }
    interfaces.sort();
    for interface in &interfaces {
        let packet = Packet {
            hook: Hook::Input,
            interface: interface.clone(),
            source: connection.client,
            destination: connection.server,
            transport: Transport::Ports {
                protocol: TCP,
                source: connection.client_port,
                destination: connection.server_port,
            },
            hop_limit: 64,
            state: CtState::New,
            dialled: None,
            reverse_path: true,
        };
        let walk = ruleset.eval(&packet);
        if walk.verdict != Verdict::Accept {
            let why = walk
                .reason()
                .map_or_else(String::new, |reason| format!(" ({reason})"));
            return Err(format!(
                "this policy would not let you in again: a new connection from {} to port {} by {interface} is met with {}{why}; add an allow for it, or use --force",
                connection.client, connection.server_port, walk.verdict
            ));
        }
    }
    Ok(())
}

/// Interfaces that have this address; none of them is `lo`.
fn interfaces_with(address: IpAddr) -> Vec<String> {
    let found = facts::interfaces()
        .into_iter()
        .filter(|(name, of)| *of == Some(address) && name != "lo");
    let mut names: Vec<String> = found.map(|(name, _)| name).collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_leaves_in_the_environment_is_read() {
        let read = Connection::parse("192.0.2.7 50022 192.0.2.1 22")
            .map(|c| (c.client_port, c.server_port));
        assert_eq!(read, Some((50022, 22)));
        let read =
            Connection::parse("fe80::1%eth0 50022 fe80::2%eth0 22").map(|c| c.client.is_ipv6());
        assert_eq!(read, Some(true));
        for text in ["", "192.0.2.7", "a b c d", "192.0.2.7 1 192.0.2.1 99999"] {
            assert_eq!(Connection::parse(text), None, "{text}");
        }
    }
}
