//! What counted a packet: our rules, and a table of the harness around them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use peerwall::kernel::netlink::Socket;
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::{Decision, Packet, Transport, Verdict};
use peerwall_core::net::port::{TCP, UDP};
use peerwall_core::ruleset::counter_reason;
use peerwall_proto::netlink::attr::Attrs;
use peerwall_proto::netlink::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::{Attributes as _, NFPROTO_INET, Object, message_type, msg};

use crate::ns::Host;
use crate::story::Flavour;

/// Table of the harness. `came`: packets before any filter. Those with a loopback address are
/// counted in prerouting, since our own chain there drops them. `seen`: packets after every filter.
/// `told`: what only a reject sends, a TCP reset or an ICMP error that says so.
pub(crate) const PROBE: &str = "table inet probe {
  counter came { }
  counter seen { }
  counter told { }
  chain first-prerouting {
    type filter hook prerouting priority -310
    iifname != \"lo\" ip saddr 127.0.0.0/8 counter name came accept
    iifname != \"lo\" ip daddr 127.0.0.0/8 counter name came
  }
  chain first-input { type filter hook input priority -300; counter name came; }
  chain first-forward { type filter hook forward priority -300; counter name came; }
  chain input { type filter hook input priority 300; counter name seen; }
  chain forward { type filter hook forward priority 300; counter name seen; }
  chain output {
    type filter hook output priority 300
    tcp flags rst counter name told
    icmp type destination-unreachable icmp code 13 counter name told
    icmpv6 type destination-unreachable icmpv6 code 1 counter name told
  }
}";

/// Counters of our rules and of the probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ours: BTreeMap<String, u64>,
    pub(crate) seen: u64,
    pub(crate) came: u64,
    pub(crate) told: u64,
}

impl Counts {
    /// All of them; those of our rules from iptables, where that filters.
    pub(crate) fn read(host: &Host, packet: &Packet, filter: Option<Flavour>) -> Self {
        let mut counts = Self::by_nft(host);
        if let Some(flavour) = filter {
            let tool = match Family::of(packet.source) {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            let tool = format!("{tool}-{}-save", flavour.suffix());
            counts.ours.clear();
            for table in ["mangle", "filter"] {
                let saved = host.run(|| Command::new(&tool).args(["-c", "-t", table]).output());
                let saved = saved.expect("iptables is installed");
                let stderr = String::from_utf8_lossy(&saved.stderr);
                assert!(saved.status.success(), "{tool} -t {table}: {stderr}");
                add_iptables_counts(&mut counts.ours, &String::from_utf8_lossy(&saved.stdout));
            }
        }
        counts
    }

    /// Those of nf_tables.
    pub(crate) fn by_nft(host: &Host) -> Self {
        host.run(|| {
            let mut socket = Socket::open().expect("netfilter has netlink");
            let request =
                Message::request(message_type(msg::NFT_MSG_GETOBJ), NLM_F_DUMP, NFPROTO_INET);
            let mut counts = Self::default();
            socket
                .dump(
                    &request,
                    &mut counts,
                    |c| *c = Self::default(),
                    |counts, message| {
                        let object = Object::decode(Attrs::new(&message.attrs))?;
                        let packets = object.counter()?.and_then(|c| c.packets).unwrap_or(0);
                        counts.add(&object, packets);
                        Ok(())
                    },
                )
                .expect("counters can be read");
            counts
        })
    }

    fn add(&mut self, object: &Object, packets: u64) {
        let name = object.name.clone().unwrap_or_default();
        match (object.table.as_deref(), name.as_str()) {
            (Some("peerwall"), _) => {
                self.ours.insert(name, packets);
            }
            (Some("probe"), "came") => self.came = packets,
            (Some("probe"), "seen") => self.seen = packets,
            (Some("probe"), "told") => self.told = packets,
            _ => {}
        }
    }
}

/// Adds packets by the counter that stands in a rule's comment, from `iptables-save -c`.
fn add_iptables_counts(counts: &mut BTreeMap<String, u64>, saved: &str) {
    for line in saved.lines().filter(|line| line.contains(" PEERWALL-")) {
        let comment = line.split("--comment ").nth(1).unwrap_or_default();
        // A comment of several words is in quotation marks, and is no counter's name.
        let (comment, end) = match comment.strip_prefix('"') {
            Some(quoted) => (quoted, '"'),
            None => (comment, ' '),
        };
        let name = comment.split(end).next().unwrap_or_default();
        let packets = line
            .trim_start_matches('[')
            .split(':')
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        if counter_reason(name).is_some() {
            *counts.entry(name.to_owned()).or_default() += packets.unwrap_or(0);
        }
    }
}

/// Verdict of a packet, by the counters that changed.
pub(crate) fn decide(before: &Counts, after: &Counts, packet: &Packet) -> Decision {
    let changed: Vec<&String> = after
        .ours
        .iter()
        .filter(|(name, count)| before.ours.get(*name) != Some(count))
        // What the host answers to itself comes in by lo too.
        .filter(|(name, _)| packet.interface != "lo" || *name != "input.established")
        .map(|(name, _)| name)
        .collect();
    let [name] = changed[..] else {
        panic!("{packet:?} was counted by {changed:?}, not by one counter");
    };
    let (_, reason) = counter_reason(name).expect("all of our counters have a reason");
    let verdict = match (after.seen > before.seen, after.told > before.told) {
        (true, _) => Verdict::Accept,
        (false, true) => Verdict::Reject,
        (false, false) => Verdict::Drop,
    };
    Decision { verdict, reason }
}

/// Whether a reject of this packet sends something: TCP and UDP from addresses that can be
/// answered.
pub(crate) fn is_answered(packet: &Packet) -> bool {
    let has_ports = match packet.transport {
        Transport::Ports { protocol, .. } => [TCP, UDP].contains(&protocol),
        Transport::Icmp { .. } | Transport::Other(_) => false,
    };
    let link_local = matches!(packet.source, IpAddr::V6(a) if a.is_unicast_link_local());
    has_ports && !link_local && !packet.source.is_unspecified()
}

/// Whether the kernel's answer is the one that is wanted. A reject that sends nothing is a drop.
pub fn agrees(packet: &Packet, want: &Decision, got: &Decision) -> bool {
    let verdict = match want.verdict {
        Verdict::Reject if !is_answered(packet) => got.verdict != Verdict::Accept,
        Verdict::Accept | Verdict::Drop | Verdict::Reject => got.verdict == want.verdict,
    };
    verdict && want.reason == got.reason
}
