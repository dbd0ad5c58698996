//! A ruleset as input for `iptables-restore --noflush` and `ip6tables-restore --noflush`.
//!
//! All rules are in chains of peerwall, `PEERWALL-…`, with one jump each from INPUT and FORWARD of
//! the filter table and from PREROUTING of the mangle table. A rule with a counter has the
//! counter's name as comment, from which its packet counts are read.
//!
//! iptables has no sets of its own and no match for "none of these interfaces", and its ACCEPT ends
//! the whole table, not only peerwall's chains.

mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::iptables::CHAIN_PREFIX;
use crate::net::addr::Family;
use crate::ruleset::{Action, Chain, ChainHook, PREROUTING, Ruleset};
use rule::Written;

/// Maximum length of a chain name in bytes (`XT_EXTENSION_MAXNAMELEN` in
/// `include/uapi/linux/netfilter/x_tables.h`, without the NUL).
const CHAIN_MAX_BYTES: usize = 28;

/// Maximum length of an NFLOG prefix in bytes (`nflog_prefix` of `struct xt_nflog_info`, without
/// the NUL).
const LOG_PREFIX_MAX_BYTES: usize = 63;

/// A rule that iptables cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// Chain of the rule.
    pub chain: String,
    /// Position of the rule in the chain.
    pub rule: usize,
    /// Unsupported part, and the remedy.
    pub why: IptablesLimit,
}

/// A part of a rule that iptables cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IptablesLimit {
    /// ICMP type 255, which matches every type in iptables.
    IcmpType255,
    /// The route to the source, which iptables can match only in PREROUTING.
    ReversePath,
    /// A log prefix over 63 bytes (`nflog_prefix` of `struct xt_nflog_info`).
    LogPrefix(String),
}

impl fmt::Display for IptablesLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IcmpType255 => f.write_str(
                "ICMP type 255 matches every type in iptables; remove it from [icmp], or use nftables",
            ),
            Self::ReversePath => f.write_str(
                "iptables cannot match the route to the source in INPUT and FORWARD; use a backend with \
                 a tunnel for this overlay, or nftables on Linux 5.19 or newer",
            ),
            Self::LogPrefix(prefix) => write!(
                f,
                "the log prefix `{prefix}` is over {LOG_PREFIX_MAX_BYTES} bytes, the limit of iptables; \
                 use a shorter prefix in [log] denied"
            ),
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rule {} of chain {}: {}",
            self.rule + 1,
            self.chain,
            self.why
        )
    }
}

/// A table of iptables with chains of peerwall. The order is the order of changes: the mangle table
/// alone accepts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `mangle`: before DNAT.
    Mangle,
    /// `filter`
    Filter,
}

impl Table {
    /// All tables, in order.
    pub const ALL: [Self; 2] = [Self::Mangle, Self::Filter];

    /// Returns the name of the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
        }
    }
}

/// A wanted chain of peerwall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedChain {
    /// Table.
    pub table: Table,
    /// Name, unique among peerwall's chains in all tables.
    pub name: String,
    /// Rules: words after `-A CHAIN`.
    pub rules: Vec<String>,
}

/// A wanted jump into a chain of peerwall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedJump {
    /// Table.
    pub table: Table,
    /// Built-in chain.
    pub from: &'static str,
    /// Chain of peerwall.
    pub to: String,
}

/// Wanted chains of peerwall for one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Chains, in the order of their creation.
    pub chains: Vec<WantedChain>,
    /// Jumps into the chains.
    pub jumps: Vec<WantedJump>,
}

/// Comment of every jump into a chain of peerwall.
pub const JUMP_COMMENT: &str = "peerwall";

/// Minimum number of addresses for which a set becomes an ipset, if ipset is available.
pub const IPSET_FROM: usize = 16;

/// Builds peerwall's chains for one family. Sets with at least `ipset_from` addresses are matched
/// as ipsets (see [`ipset`](crate::iptables::ipset)); `None` disables ipsets.
///
/// # Errors
/// Every rule that iptables cannot express.
pub fn script(
    ruleset: &Ruleset,
    family: Family,
    ipset_from: Option<usize>,
) -> Result<Script, Vec<Unsupported>> {
    let mut writer = ScriptWriter {
        ruleset,
        family,
        ipset_from,
        names: chain_names(ruleset),
        before_dnat: reached(ruleset, PREROUTING),
        chains: Vec::new(),
        unsupported: Vec::new(),
    };
    for chain in &ruleset.chains {
        writer.chain(chain);
    }
    if !writer.unsupported.is_empty() {
        return Err(writer.unsupported);
    }
    let bases = ruleset
        .chains
        .iter()
        .filter_map(|chain| Some((chain, chain.base?)));
    let jumps = bases
        .map(|(chain, base)| {
            let (table, from) = match base.hook {
                ChainHook::Prerouting => (Table::Mangle, "PREROUTING"),
                ChainHook::Input => (Table::Filter, "INPUT"),
                ChainHook::Forward => (Table::Filter, "FORWARD"),
            };
            let to = writer.name(&chain.name);
            WantedJump { table, from, to }
        })
        .collect();
    Ok(Script {
        chains: writer.chains,
        jumps,
    })
}

impl Script {
    /// Returns input for `iptables-restore --noflush` on a host without peerwall's chains.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for table in Table::ALL {
            let chains = || self.chains.iter().filter(|chain| chain.table == table);
            out.push_str(&format!("*{}\n", table.name()));
            for chain in chains() {
                out.push_str(&format!(":{} - [0:0]\n", chain.name));
            }
            for chain in chains() {
                for rule in &chain.rules {
                    out.push_str(&format!("-A {} {rule}\n", chain.name));
                }
            }
            for each in self.jumps.iter().filter(|jump| jump.table == table) {
                out.push_str(&format!("-I {} 1 {}\n", each.from, jump(&each.to)));
            }
            out.push_str("COMMIT\n");
        }
        out
    }
}

/// Returns the words after `-A CHAIN` of a jump into a chain of peerwall.
pub(crate) fn jump(to: &str) -> String {
    format!("-m comment --comment {JUMP_COMMENT} -j {to}")
}

/// Returns the iptables names of a ruleset's chains. Names that would be truncated to equal ones
/// get a number.
fn chain_names(ruleset: &Ruleset) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut used = BTreeSet::new();
    for chain in &ruleset.chains {
        let mut whole = format!("{CHAIN_PREFIX}{}", chain.name.to_ascii_uppercase());
        whole.truncate(CHAIN_MAX_BYTES);
        let mut name = whole.clone();
        let mut number = 2;
        while !used.insert(name.clone()) {
            let suffix = format!("-{number}");
            whole.truncate(CHAIN_MAX_BYTES - suffix.len());
            name = format!("{whole}{suffix}");
            number += 1;
        }
        names.insert(chain.name.clone(), name);
    }
    names
}

/// Returns the names of the chains that are reachable from this one, including itself.
fn reached<'r>(ruleset: &'r Ruleset, from: &'r str) -> BTreeSet<&'r str> {
    let mut found = BTreeSet::from([from]);
    let mut rest = vec![from];
    while let Some(chain) = rest.pop().and_then(|name| ruleset.chain(name)) {
        for rule in &chain.rules {
            if let Some(Action::Jump(to) | Action::Goto(to)) = &rule.action
                && found.insert(to)
            {
                rest.push(to);
            }
        }
    }
    found
}

struct ScriptWriter<'r> {
    ruleset: &'r Ruleset,
    family: Family,
    ipset_from: Option<usize>,
    names: BTreeMap<String, String>,
    before_dnat: BTreeSet<&'r str>,
    chains: Vec<WantedChain>,
    unsupported: Vec<Unsupported>,
}

impl ScriptWriter<'_> {
    fn name(&self, chain: &str) -> String {
        self.names.get(chain).cloned().unwrap_or_default()
    }

    fn chain(&mut self, chain: &Chain) {
        let name = self.name(&chain.name);
        let table = match self.before_dnat.contains(chain.name.as_str()) {
            true => Table::Mangle,
            false => Table::Filter,
        };
        let mut rules = Vec::new();
        let mut helpers: Vec<(String, Vec<String>)> = Vec::new();
        for (index, rule) in chain.rules.iter().enumerate() {
            match self.rule(rule, &name, helpers.len() + 1) {
                Ok(Written { lines, helper }) => {
                    rules.extend(lines);
                    helpers.extend(helper);
                }
                Err(why) => self.unsupported.push(Unsupported {
                    chain: chain.name.clone(),
                    rule: index,
                    why,
                }),
            }
        }
        let all = std::iter::once((name, rules)).chain(helpers);
        self.chains
            .extend(all.map(|(name, rules)| WantedChain { table, name, rules }));
    }
}
