//! The order in which base chains see packets: every chain at every hook of a host.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::exposed::printable;
use crate::nft::foreign::Engine;

/// A hook of netfilter, in the order in which a packet passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HookName {
    /// Every frame of a device, before everything else.
    Ingress,
    /// Every incoming packet, before the routing decision.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// Every outgoing packet, after the routing decision.
    Postrouting,
    /// Every frame that leaves by a device.
    Egress,
}

impl HookName {
    /// Returns the hook with a number in tables of a family (`enum nf_inet_hooks`,
    /// `enum nf_dev_hooks` in `include/uapi/linux/netfilter.h`; `NF_ARP_IN` and so on in
    /// `netfilter_arp.h`). The bridge family has the numbers of the inet family.
    pub fn of_number(family: &str, number: u32) -> Option<Self> {
        let names: &[Self] = match family {
            "netdev" => &[Self::Ingress, Self::Egress],
            "arp" => &[Self::Input, Self::Output, Self::Forward],
            _ => &[
                Self::Prerouting,
                Self::Input,
                Self::Forward,
                Self::Output,
                Self::Postrouting,
                Self::Ingress,
            ],
        };
        let index = usize::try_from(number).ok()?;
        names.get(index).copied()
    }

    /// Returns the name in nft.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Egress => "egress",
        }
    }
}

/// A base chain, or a table of iptables-legacy at one of its hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HookChain {
    /// The hook.
    pub hook: HookName,
    /// Priority among the chains of the hook; lower runs earlier.
    pub priority: i32,
    /// Family of the table.
    pub family: &'static str,
    /// Name of the table.
    pub table: String,
    /// Name of the chain.
    pub chain: String,
    /// Type: `filter`, `nat` or `route`.
    pub kind: String,
    /// Device of a chain that sees the frames of one; absent for the others.
    pub device: Option<String>,
    /// Verdict at the end of the chain; absent for iptables-legacy, which is not read for it.
    pub policy: Option<&'static str>,
    /// Engine.
    pub engine: Engine,
    /// Whether peerwall's rules are in it, or called from it.
    pub is_ours: bool,
}

/// Priorities of the tables of iptables at their hooks (`net/ipv4/netfilter/iptable_*.c`; those of
/// IPv6 are the same).
const LEGACY: [(&str, HookName, i32); 17] = [
    ("raw", HookName::Prerouting, -300),
    ("raw", HookName::Output, -300),
    ("mangle", HookName::Prerouting, -150),
    ("mangle", HookName::Input, -150),
    ("mangle", HookName::Forward, -150),
    ("mangle", HookName::Output, -150),
    ("mangle", HookName::Postrouting, -150),
    ("nat", HookName::Prerouting, -100),
    ("nat", HookName::Input, 100),
    ("nat", HookName::Output, -100),
    ("nat", HookName::Postrouting, 100),
    ("filter", HookName::Input, 0),
    ("filter", HookName::Forward, 0),
    ("filter", HookName::Output, 0),
    ("security", HookName::Input, 50),
    ("security", HookName::Forward, 50),
    ("security", HookName::Output, 50),
];

/// Returns the chains of a table of iptables-legacy; none for a table that iptables does not have.
pub fn of_legacy(family: &'static str, table: &str) -> Vec<HookChain> {
    let its = LEGACY.iter().filter(|(name, ..)| *name == table);
    let chain = |(_, hook, priority): &(&str, HookName, i32)| HookChain {
        hook: *hook,
        priority: *priority,
        family,
        table: table.to_owned(),
        chain: hook.name().to_uppercase(),
        kind: if table == "nat" { "nat" } else { "filter" }.to_owned(),
        device: None,
        policy: None,
        engine: Engine::IptablesLegacy,
        is_ours: false,
    };
    its.map(chain).collect()
}

/// Sorts chains in the order in which a packet passes them. Chains of one hook and priority run in
/// an order that the kernel does not show.
pub fn sort(chains: &mut [HookChain]) {
    chains.sort_by(|a, b| {
        let key = |each: &HookChain| (each.hook, each.priority, each.family);
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.table, &a.chain).cmp(&(&b.table, &b.chain)))
    });
}

/// Formats sorted chains as a table; `*` marks those with peerwall's rules.
pub fn text(chains: &[HookChain]) -> String {
    if chains.is_empty() {
        return "no base chains: no rules of any program are loaded\n".to_owned();
    }
    let mut rows = vec![["hook", "priority", "type", "policy", "chain"].map(str::to_owned)];
    rows.extend(chains.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..4).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (index, [hook, priority, kind, policy, chain]) in rows.iter().enumerate() {
        let mark = match index.checked_sub(1).map(|index| chains[index].is_ours) {
            Some(true) => '*',
            Some(false) | None => ' ',
        };
        let _ = writeln!(
            text,
            "{mark} {hook:a$}  {priority:>b$}  {kind:c$}  {policy:d$}  {chain}",
            a = widths[0],
            b = widths[1],
            c = widths[2],
            d = widths[3]
        );
    }
    text.push_str("* peerwall; a packet passes the chains of its hooks in this order\n");
    text
}

fn row(chain: &HookChain) -> [String; 5] {
    let engine = match chain.engine {
        Engine::Nft => "",
        Engine::IptablesNft => " (iptables-nft)",
        Engine::IptablesLegacy => " (iptables-legacy)",
    };
    let device = chain.device.as_deref().map(printable);
    let device = device.map_or_else(String::new, |name| format!(" on {name}"));
    [
        chain.hook.name().to_owned(),
        chain.priority.to_string(),
        printable(&chain.kind),
        chain.policy.unwrap_or("?").to_owned(),
        format!(
            "{} {} {}{device}{engine}",
            chain.family,
            printable(&chain.table),
            printable(&chain.chain)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hook: HookName, priority: i32, table: &str, is_ours: bool) -> HookChain {
        HookChain {
            hook,
            priority,
            family: "inet",
            table: table.to_owned(),
            chain: "c".to_owned(),
            kind: "filter".to_owned(),
            device: None,
            policy: Some("accept"),
            engine: Engine::Nft,
            is_ours,
        }
    }

    #[test]
    fn chains_are_in_the_order_of_a_packet() {
        let mut chains = of_legacy("ip", "nat");
        chains.extend([
            chain(HookName::Input, 0, "b", false),
            chain(HookName::Input, 0, "a", false),
            chain(HookName::Input, -1, "peerwall", true),
            HookChain {
                device: Some("eth0\n".to_owned()),
                ..chain(HookName::Ingress, 10, "late", false)
            },
        ]);
        sort(&mut chains);
        let want = "  hook         priority  type    policy  chain
  ingress            10  filter  accept  inet late c on eth0\\n
  prerouting       -100  nat     ?       ip nat PREROUTING (iptables-legacy)
* input              -1  filter  accept  inet peerwall c
  input               0  filter  accept  inet a c
  input               0  filter  accept  inet b c
  input             100  nat     ?       ip nat INPUT (iptables-legacy)
  output           -100  nat     ?       ip nat OUTPUT (iptables-legacy)
  postrouting       100  nat     ?       ip nat POSTROUTING (iptables-legacy)
* peerwall; a packet passes the chains of its hooks in this order
";
        assert_eq!(text(&chains), want);
    }

    #[test]
    fn numbers_of_hooks_depend_on_the_family() {
        for (family, number, want) in [
            ("inet", 0, Some(HookName::Prerouting)),
            ("inet", 5, Some(HookName::Ingress)),
            ("bridge", 4, Some(HookName::Postrouting)),
            ("ip6", 6, None),
            ("arp", 1, Some(HookName::Output)),
            ("netdev", 1, Some(HookName::Egress)),
            ("netdev", 2, None),
        ] {
            assert_eq!(
                HookName::of_number(family, number),
                want,
                "{family} {number}"
            );
        }
        assert_eq!(of_legacy("ip", "nat").len(), 4);
        assert_eq!(of_legacy("ip6", "broute"), []);
    }
}
