//! The ruleset of `block`: the safe core, the caller's ssh, and the peers of the policy in force if
//! the caller keeps them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use peerwall_core::agent::keep::{Entry, Fault};
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::policy::{Icmp, Mode, Options, Policy};
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::compile::compile;

use crate::host::caller::{Caller, Ssh};
use crate::host::lockout;
use crate::json::{BlockOutcome, Blocked};
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare_stored;
use crate::store::{self, Kept, State, since};

/// Path of a block, where others have that of their policy.
pub const NAME: &str = "the block";

/// A block that can be loaded.
pub struct Block {
    /// Compiled ruleset.
    pub kept: Kept,
    /// Addresses from which ssh is accepted.
    pub ssh_from: Vec<IpAddr>,
    /// Number of accepted peers.
    pub peers: usize,
}

impl Block {
    /// Returns the result of a block.
    pub fn told(&self, outcome: BlockOutcome, confirm_seconds: Option<u64>) -> Blocked {
        Blocked {
            outcome,
            ssh_from: self.ssh_from.clone(),
            peers: self.peers,
            confirm_seconds,
            connections: None,
            not_recorded: None,
        }
    }
}

/// Builds the block for a caller. `in_force` is the last entry of the history that is no block.
///
/// # Errors
/// [`Fault`] if peers are to be kept, and are not known.
pub fn block(
    state: &State,
    in_force: Option<&Entry>,
    caller: &Caller,
    keep_peers: bool,
    by_iptables: bool,
) -> Result<Block, Fault> {
    let old = match in_force {
        Some(entry) => policy_of(state, entry),
        None => Err(Fault::new("no policy was confirmed")),
    };
    let sessions: Vec<&Ssh> = match &caller.ssh {
        Some(ssh) => vec![ssh],
        None => caller.maybe.iter().collect(),
    };
    let ssh_from: BTreeSet<IpAddr> = sessions.iter().map(|ssh| ssh.client).collect();
    let ports: BTreeSet<u16> = sessions
        .iter()
        .flat_map(|ssh| [lockout::dialled_port(ssh), ssh.server_port])
        .collect();
    let closed = ssh_only(&ssh_from, &ports)?;
    let policy = match (old, keep_peers) {
        (Ok(old), true) => Policy {
            // Their pods pass bridges of this host, and reach services.
            peers: old.peers.clone(),
            overlays: old.overlays.clone(),
            bridged: old.bridged.clone(),
            services: old.services.clone(),
            ..as_before(&old, closed)
        },
        (Err(why), true) => {
            return Err(Fault::new(format!(
                "the peers of the policy in force are not known: {why}; `peerwall block` without \
                 --keep-peers needs none"
            )));
        }
        (Ok(old), false) => as_before(&old, closed),
        (Err(_), false) => closed,
    };
    let ruleset = compile(&policy).0;
    Ok(Block {
        peers: policy.peer_count(),
        kept: Kept {
            entry: entry(&ruleset, by_iptables),
            ruleset,
        },
        ssh_from: ssh_from.into_iter().collect(),
    })
}

fn entry(ruleset: &Ruleset, by_iptables: bool) -> Entry {
    let digest = since::digest(ruleset);
    Entry {
        is_block: true,
        ..store::entry(Path::new(NAME), &digest, by_iptables, true)
    }
}

/// Keeps the options and the log of the policy in force. Its other entries accept packets.
fn as_before(old: &Policy, closed: Policy) -> Policy {
    Policy {
        options: Options {
            // A block is enforced, also during an audit.
            mode: Mode::Enforce,
            ..old.options
        },
        log: old.log.clone(),
        icmp: Icmp {
            core: old.icmp.core,
            ..Icmp::default()
        },
        ..closed
    }
}

/// Builds a policy that accepts only ssh and the safe core.
fn ssh_only(from: &BTreeSet<IpAddr>, ports: &BTreeSet<u16>) -> Result<Policy, Fault> {
    let list = |words: Vec<String>| format!("[\"{}\"]", words.join("\", \""));
    let allow = match from.is_empty() {
        true => String::new(),
        false => format!(
            "\n[[allow]]\nname = \"ssh\"\nports = {}\nfrom = {}\n",
            list(ports.iter().map(|port| format!("{port}/tcp")).collect()),
            list(from.iter().map(IpAddr::to_string).collect()),
        ),
    };
    let loaded = load(NAME, &format!("version = 1\n{allow}"), &NoFiles);
    loaded
        .policy
        .ok_or_else(|| Fault::new("the policy of the block has errors"))
}

/// Reads the policy of an entry from its stored text, with the current lists and facts.
fn policy_of(state: &State, entry: &Entry) -> Result<Policy, Fault> {
    let text = state.text(&entry.digest);
    let text =
        text.ok_or_else(|| Fault::new(format!("the text of {} is not stored", entry.policy)))?;
    let ready = prepare_stored(&text, &FileSystem::waiting());
    Ok(ready.map_err(|why| Fault::new(why.text.trim_end()))?.policy)
}
