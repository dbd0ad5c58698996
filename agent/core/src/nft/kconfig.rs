//! Options of the kernel configuration that a step needs, for error messages.
//!
//! Source: `net/netfilter/Kconfig`. Each option is a separate module unless it is built in.

use std::collections::BTreeSet;

use crate::import::gunzip;
use crate::nft::plan::{Op, SetKind};
use crate::ruleset::{Action, Match, Rule};

/// Returns the options that may be missing if the kernel does not support this step.
pub fn options(op: &Op) -> Vec<&'static str> {
    match op {
        Op::AddTable | Op::ClaimTable | Op::DeleteTable => {
            vec!["CONFIG_NF_TABLES", "CONFIG_NF_TABLES_INET"]
        }
        Op::AddCounter(..) | Op::DeleteCounter(_) => {
            vec!["CONFIG_NFT_COUNTER", "CONFIG_NFT_OBJREF"]
        }
        Op::AddSet(_, _, kind, _) => match kind {
            SetKind::Intervals => vec!["CONFIG_NFT_SET_RBTREE"],
            SetKind::Values | SetKind::Meter | SetKind::Timed => vec!["CONFIG_NFT_SET_HASH"],
        },
        Op::AddChain(_, Some(_)) => vec!["CONFIG_NF_TABLES_INET"],
        Op::AddRule(_, _, rule) => of_rule(rule),
        Op::AddChain(_, None)
        | Op::DeleteSet(_)
        | Op::AddElements(..)
        | Op::DeleteElements(..)
        | Op::SetPolicy(..)
        | Op::FlushChain(_)
        | Op::DeleteChain(_)
        | Op::DeleteRule(..) => Vec::new(),
    }
}

/// Decompresses `/proc/config.gz`; `None` if it is damaged.
pub fn unpack(packed: &[u8]) -> Option<String> {
    let bytes = gunzip(packed).ok()?;
    String::from_utf8(bytes).ok()
}

/// Returns those of the needed options without which a kernel was built, by its configuration.
/// An option that the configuration does not mention may be a part of another one in that version.
pub fn missing(config: &str, needed: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let is_off = |option: &&str| {
        let line = format!("# {option} is not set");
        config.lines().any(|each| each == line)
    };
    let needed: BTreeSet<&'static str> = needed.collect();
    needed.into_iter().filter(|option| is_off(option)).collect()
}

fn of_rule(rule: &Rule) -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    for condition in &rule.matches {
        found.extend(match condition {
            Match::CtState(_)
            | Match::Dnat
            | Match::NotDnat
            | Match::DialledAddress { .. }
            | Match::DialledPort(_) => Some("CONFIG_NFT_CT"),
            Match::DialledHere => Some("CONFIG_NF_CONNTRACK_LABELS"),
            Match::Local | Match::ReversePath { .. } => Some("CONFIG_NFT_FIB_INET"),
            Match::Loopback
            | Match::OutInterface(_)
            | Match::SourceMac(_)
            | Match::SourceNet(_)
            | Match::DestinationIn { .. }
            | Match::TcpSyn
            | Match::Ttl(_)
            | Match::Interface { .. }
            | Match::Family(_)
            | Match::Source { .. }
            | Match::Destination(_)
            | Match::Protocol(_)
            | Match::SourcePort(_)
            | Match::DestinationPort(_)
            | Match::Icmp(_)
            | Match::HopLimit(_) => None,
        });
    }
    found.extend(rule.label.then_some("CONFIG_NF_CONNTRACK_LABELS"));
    found.extend(rule.meter.as_ref().map(|_| "CONFIG_NFT_LIMIT"));
    found.extend(rule.limit.map(|_| "CONFIG_NFT_LIMIT"));
    if rule.log.is_some() {
        found.extend(["CONFIG_NFT_LOG", "CONFIG_NETFILTER_NETLINK_LOG"]);
    }
    found.extend(rule.counter.as_ref().map(|_| "CONFIG_NFT_OBJREF"));
    found.extend(match &rule.action {
        Some(Action::RejectTcpReset | Action::RejectAdminProhibited) => {
            Some("CONFIG_NFT_REJECT_INET")
        }
        Some(Action::Accept | Action::Drop | Action::Jump(_) | Action::Goto(_)) | None => None,
    });
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_configuration_turns_off_is_missing() {
        let config =
            "CONFIG_NF_TABLES=m\n# CONFIG_NFT_CT is not set\n# CONFIG_NFT_LOGS is not set\n";
        let needed = [
            "CONFIG_NFT_LOG",
            "CONFIG_NFT_CT",
            "CONFIG_NF_TABLES",
            "CONFIG_NFT_CT",
        ];
        assert_eq!(missing(config, needed.into_iter()), ["CONFIG_NFT_CT"]);
        assert!(missing("", needed.into_iter()).is_empty());
    }

    use crate::nft::observed::Observed;
    use crate::nft::plan::plan;
    use crate::policy::load::{NoFiles, load};
    use crate::ruleset::compile::compile;

    #[test]
    fn every_part_of_the_kernel_that_a_policy_needs_is_named() {
        let text = "version = 1\n\
            [peers]\n\
            a = [\"192.0.2.1\", \"198.51.100.0/24\"]\n\
            [overlay.o]\n\
            backend = \"host-gw\"\n\
            subnets = [\"10.1.0.0/16\"]\n\
            [[allow]]\n\
            name = \"s\"\n\
            ports = [\"22/tcp\"]\n\
            from = \"any\"\n\
            [options]\n\
            denied = \"reject\"\n";
        let policy = load("policy.toml", text, &NoFiles)
            .policy
            .expect("it is right");
        let plan = plan(&compile(&policy).0, &Observed::default());
        let mut found: Vec<&str> = plan.ops.iter().flat_map(options).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(
            found,
            [
                "CONFIG_NETFILTER_NETLINK_LOG",
                "CONFIG_NFT_COUNTER",
                "CONFIG_NFT_CT",
                "CONFIG_NFT_FIB_INET",
                "CONFIG_NFT_LIMIT",
                "CONFIG_NFT_LOG",
                "CONFIG_NFT_OBJREF",
                "CONFIG_NFT_REJECT_INET",
                "CONFIG_NFT_SET_HASH",
                "CONFIG_NFT_SET_RBTREE",
                "CONFIG_NF_CONNTRACK_LABELS",
                "CONFIG_NF_TABLES",
                "CONFIG_NF_TABLES_INET",
            ]
        );
    }
}
