//! What no rule shows: a log that is not read, peers that do not answer, and a kernel without parts
//! that the policy needs.

use std::net::IpAddr;

use super::{Finding, Settings};
use crate::nft::kconfig;
use crate::nft::observed::Observed;
use crate::nft::plan::plan;
use crate::policy::{BackendChoice, Policy};
use crate::ruleset::compile::compile;
use crate::words::count;

/// Why an agent does not read the log of denied packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTrouble {
    /// It runs with `--no-denied`.
    Left,
    /// Another process reads it, or an error, as a sentence.
    Other(String),
}

/// Number of peers that are named.
const NAMED_MAX: usize = 5;

pub(super) fn log(settings: &Settings) -> Option<Finding> {
    let (why, help) = match settings.log_trouble.as_ref()? {
        LogTrouble::Left => (
            "the agent leaves the log to other programs (--no-denied)",
            "if no other program reads it: restart the agent without --no-denied",
        ),
        LogTrouble::Other(why) => (
            why.as_str(),
            "stop that program, or set another group for one of them (`[log] denied = { group = 6 \
             }`)",
        ),
    };
    Some(Finding {
        code: "log-not-read",
        is_problem: false,
        message: format!("denied packets are not recorded: {why}"),
        why: "`peerwall denied` and `peerwall top` do not list them; the counters of the rules \
              count them"
            .to_owned(),
        help: help.to_owned(),
    })
}

/// Peers for which the neighbour table has an entry without an answer.
pub(super) fn silent_peers(policy: &Policy, settings: &Settings) -> Option<Finding> {
    let mut silent: Vec<String> = Vec::new();
    for (address, interface) in &settings.silent_neighbours {
        if let Some(name) = peer(policy, *address) {
            silent.push(format!("{address} ({name}) on {interface}"));
        }
    }
    let number = silent.len();
    if number == 0 {
        return None;
    }
    let more = number.saturating_sub(NAMED_MAX);
    silent.truncate(NAMED_MAX);
    let more = match more {
        0 => String::new(),
        more => format!(", and {}", count(more, "more peer")),
    };
    let verb = if number == 1 { "does" } else { "do" };
    Some(Finding {
        code: "peer-silent",
        is_problem: false,
        message: format!(
            "{} {verb} not answer on the link: {}{more}",
            count(number, "peer"),
            silent.join(", ")
        ),
        why: "this host asked for the Ethernet address by ARP or neighbour discovery, and no answer \
              came; no rule of the policy decides that. This command sends no packets: it reads what \
              earlier ones left in the neighbour table"
            .to_owned(),
        help: "see `ip neigh show nud failed`; the peer is down, on another network, or has another \
               address than in the policy"
            .to_owned(),
    })
}

/// Returns the name of the peer that is this host; none for a network, of which an address may be
/// unused.
fn peer(policy: &Policy, address: IpAddr) -> Option<&str> {
    let is_it =
        |net: &ipnet::IpNet| net.addr() == address && net.prefix_len() == net.max_prefix_len();
    let found = policy.peers.iter().find(|peer| {
        let mut addresses = peer.addresses.iter();
        addresses.any(|each| is_it(&each.net))
    });
    Some(found?.name.as_deref().unwrap_or("a peer of a list"))
}

/// Options of the kernel that the rules need, and with which it was not built.
pub(super) fn kernel(policy: &Policy, settings: &Settings) -> Option<Finding> {
    let config = settings.kernel_config.as_ref()?;
    if policy.options.backend == BackendChoice::Iptables {
        return None;
    }
    let plan = plan(&compile(policy).0, &Observed::default());
    let missing = kconfig::missing(config, plan.ops.iter().flat_map(kconfig::options));
    (!missing.is_empty()).then(|| Finding {
        code: "kernel-options",
        is_problem: true,
        message: format!("the kernel was built without {}", missing.join(", ")),
        why:
            "nf_tables rejects the rules of this policy that need them; with `backend = \"auto\"`, \
              peerwall uses iptables instead"
                .to_owned(),
        help: "use a kernel with these options, or set `backend = \"iptables\"` under [options]"
            .to_owned(),
    })
}
