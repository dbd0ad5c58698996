//! Whether a caller could come back by the way he came.

use peerwall_core::packet::{Hook, Packet, Transport, Verdict};
use peerwall_core::port::TCP;
use peerwall_core::ruleset::Ruleset;

use crate::caller::{Caller, Ssh};
use crate::facts;

/// Checks that a ruleset would let the caller's connection be made anew; where only several are known of
/// which his may be one, that it would let one of them.
///
/// # Errors
/// A sentence that says that it would not, why, and what would do.
pub fn check(ruleset: &Ruleset, caller: &Caller) -> Result<(), String> {
    if let Some(ssh) = &caller.ssh {
        return admits(ruleset, ssh).map_err(|why| {
            format!(
                "this policy would not let you in again: {why}; add an allow for it, or use --force"
            )
        });
    }
    let refused: Result<Vec<String>, ()> = caller
        .maybe
        .iter()
        .map(|ssh| admits(ruleset, ssh).err().ok_or(()))
        .collect();
    match refused {
        Ok(list) if !list.is_empty() => Err(format!(
            "this policy would let in again none of those who are here by ssh, and you are probably one of them: {}; add an allow, or use --force",
            list.join("; ")
        )),
        _ => Ok(()),
    }
}

/// Whether this connection would be let in by every interface that it can have come by.
fn admits(ruleset: &Ruleset, ssh: &Ssh) -> Result<(), String> {
    let found = facts::interfaces()
        .into_iter()
        .filter(|(name, of)| *of == Some(ssh.server) && name != "lo");
    let mut interfaces: Vec<String> = found.map(|(name, _)| name).collect();
    interfaces.sort();
    interfaces.dedup();
    // None: it is not a connection to this host's namespace.
    for interface in interfaces {
        let transport = Transport::Ports {
            protocol: TCP,
            source: ssh.client_port,
            destination: ssh.server_port,
        };
        let packet = Packet::new(Hook::Input, &interface, ssh.client, ssh.server, transport);
        let walk = ruleset.eval(&packet);
        if walk.verdict != Verdict::Accept {
            let why = walk
                .reason()
                .map_or_else(String::new, |reason| format!(" ({reason})"));
            return Err(format!(
                "a new connection from {} to port {} by {interface} is met with {}{why}",
                ssh.client, ssh.server_port, walk.verdict
            ));
        }
    }
    Ok(())
}
