//! Other firewalls on this host: foreign chains that drop every packet that they do not accept.
//!
//! In netfilter, an accept ends one base chain, but a drop is final. A foreign chain in the same
//! hook can drop packets that the policy accepts. This module finds only chains that drop *by
//! default*, by their policy or by a rule without conditions. Rules with conditions, like those of
//! kube-proxy and Calico, are decisions about specific packets.

pub mod printed;
pub mod read;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::iptables::is_our_chain;
use crate::net::packet::Hook;
use crate::ruleset::TABLE;

/// Limit on nested jumps. The kernel's limit is 16 too (`NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;
/// Limit on chains read for one base chain.
const CHAINS_MAX: usize = 64;

/// Engine of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub enum Engine {
    /// nf_tables.
    #[serde(rename = "nftables")]
    Nft,
    /// nf_tables, managed by `iptables-nft` or `ebtables-nft`.
    #[serde(rename = "iptables-nft")]
    IptablesNft,
    /// x_tables, managed by `iptables-legacy`.
    #[serde(rename = "iptables-legacy")]
    IptablesLegacy,
}

/// Table of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTable {
    /// Engine.
    pub engine: Engine,
    /// `ip`, `ip6`, `inet` or `bridge`.
    pub family: &'static str,
    /// Name.
    pub name: String,
    /// Chains.
    pub chains: Vec<ForeignChain>,
}

/// Chain without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// Name.
    pub name: String,
    /// Hook of a base chain.
    pub hook: Option<Hook>,
    /// Whether the policy is drop.
    pub drops: bool,
}

/// Rule, reduced to its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    /// Handle; `None` for iptables-legacy.
    pub handle: Option<u64>,
    /// Effect on every packet.
    pub does: Does,
}

/// Effect of a rule on every packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// None: the rule counts, logs, or has conditions.
    Nothing,
    /// Accepts the packet.
    Accept,
    /// Drops or rejects the packet.
    Drop,
    /// Returns from the chain.
    Return,
    /// Continues in another chain, then returns.
    Jump(String),
    /// Continues in another chain without returning.
    Goto(String),
}

/// Base chain that drops every packet that it does not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ForeignDrop {
    /// Engine.
    pub engine: Engine,
    /// Family of the table.
    pub family: &'static str,
    /// Name of the table.
    pub table: String,
    /// Name of the base chain.
    pub chain: String,
    /// `input` or `forward`.
    pub hook: &'static str,
    /// Program that created the chain, if the names indicate one.
    pub program: Option<&'static str>,
    /// Rule that drops everything; `None` if the policy of the base chain does.
    pub rule: Option<DroppingRule>,
    /// Command that removes the drop.
    pub clear: String,
}

/// A rule that drops everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DroppingRule {
    /// Its chain.
    pub chain: String,
    /// Its number in that chain, from 1.
    pub number: usize,
}

impl ForeignDrop {
    /// Returns family, table, chain and program.
    pub fn name(&self) -> String {
        let program = match (self.program, self.engine) {
            (Some(program), _) => program,
            (None, Engine::Nft) => "nftables",
            (None, Engine::IptablesNft) if self.family == "bridge" => "ebtables-nft",
            (None, Engine::IptablesNft) => "iptables-nft",
            (None, Engine::IptablesLegacy) => "iptables-legacy",
        };
        format!("{} {} {} ({program})", self.family, self.table, self.chain)
    }

    /// Returns the cause of the drop.
    pub fn why(&self) -> String {
        match &self.rule {
            None => "its policy is drop".to_owned(),
            Some(DroppingRule { chain, number }) if *chain == self.chain => {
                format!("its rule {number} drops everything")
            }
            Some(DroppingRule { chain, number }) => {
                format!("rule {number} of {chain} drops everything")
            }
        }
    }
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} also filters the {} hook and drops packets that it does not accept ({})",
            self.name(),
            self.hook,
            self.why()
        )
    }
}

/// Returns whether a table is peerwall's own.
pub fn is_ours(engine: Engine, family: &str, name: &str) -> bool {
    engine == Engine::Nft && family == "inet" && name == TABLE
}

/// Returns the engine of a table in nf_tables. Only iptables-nft gives base chains the names of
/// builtin chains, in capitals.
pub fn engine_of(family: &str, name: &str, chains: &[ForeignChain]) -> Engine {
    let is_table = matches!(name, "filter" | "mangle" | "security");
    let is_family = matches!(family, "ip" | "ip6" | "bridge");
    let is_builtin = |chain: &ForeignChain| match chain.hook {
        Some(Hook::Input) => chain.name == "INPUT",
        Some(Hook::Forward) => chain.name == "FORWARD",
        None => true,
    };
    match is_table && is_family && chains.iter().all(is_builtin) {
        true => Engine::IptablesNft,
        false => Engine::Nft,
    }
}

/// Returns the base chains of a table that drop every packet that they do not accept. `rules` reads
/// the rules of a chain.
///
/// # Errors
/// Errors of `rules`.
pub fn drops<E>(
    table: &ForeignTable,
    mut rules: impl FnMut(&str) -> Result<Vec<ForeignRule>, E>,
) -> Result<Vec<ForeignDrop>, E> {
    let mut found = Vec::new();
    let bases = table.chains.iter();
    for (chain, hook) in bases.filter_map(|chain| Some((chain, chain.hook?))) {
        let mut walk = ForeignWalk {
            rules: &mut rules,
            read: BTreeMap::new(),
        };
        let end = match walk.chain(&chain.name, 0)? {
            End::Falls if chain.drops => Some(None),
            End::Drops(rule) => Some(Some(rule)),
            End::Falls | End::Decided => None,
        };
        if let Some(rule) = end {
            found.push(foreign(table, chain, hook, rule));
        }
    }
    Ok(found)
}

/// Rule that drops everything: chain, number from 1, and handle.
type DropRule = (String, usize, Option<u64>);

/// Result for a packet that matches no rule with conditions.
enum End {
    /// The packet reaches the end of the chain.
    Falls,
    /// The packet is accepted, or peerwall's own chains decide.
    Decided,
    /// This rule drops the packet.
    Drops(DropRule),
}

struct ForeignWalk<'r, R> {
    rules: &'r mut R,
    /// Rules of the chains that were read.
    read: BTreeMap<String, Vec<ForeignRule>>,
}

impl<E, R: FnMut(&str) -> Result<Vec<ForeignRule>, E>> ForeignWalk<'_, R> {
    fn chain(&mut self, name: &str, depth: usize) -> Result<End, E> {
        if depth > DEPTH_MAX || self.read.len() > CHAINS_MAX {
            return Ok(End::Falls);
        }
        let rules = match self.read.get(name) {
            Some(rules) => rules.clone(),
            None => (self.rules)(name)?,
        };
        self.read.insert(name.to_owned(), rules.clone());
        for (index, rule) in rules.iter().enumerate() {
            let end = match &rule.does {
                Does::Nothing => continue,
                Does::Return => return Ok(End::Falls),
                Does::Accept => return Ok(End::Decided),
                // Drops in peerwall's own chains are not foreign.
                Does::Drop if is_our_chain(name) => return Ok(End::Decided),
                Does::Drop => {
                    return Ok(End::Drops((name.to_owned(), index + 1, rule.handle)));
                }
                Does::Jump(to) => self.chain(to, depth + 1)?,
                Does::Goto(to) => return self.chain(to, depth + 1),
            };
            match end {
                End::Falls => {}
                End::Decided | End::Drops(_) => return Ok(end),
            }
        }
        Ok(End::Falls)
    }
}

fn foreign(
    table: &ForeignTable,
    chain: &ForeignChain,
    hook: Hook,
    rule: Option<DropRule>,
) -> ForeignDrop {
    let within = rule.as_ref().map_or(&chain.name, |(chain, ..)| chain);
    let program = program(table, within, hook);
    ForeignDrop {
        engine: table.engine,
        family: table.family,
        table: table.name.clone(),
        chain: chain.name.clone(),
        hook: match hook {
            Hook::Input => "input",
            Hook::Forward => "forward",
        },
        program,
        clear: clear(table, chain, program, rule.as_ref()),
        rule: rule.map(|(chain, number, _)| DroppingRule { chain, number }),
    }
}

/// Names of tables with their programs.
const TABLES: [(&str, &str); 11] = [
    ("firewalld", "firewalld"),
    ("kube-router", "kube-router"),
    ("docker-bridges", "Docker"),
    ("docker", "Docker"),
    ("kube-proxy", "kube-proxy"),
    ("calico", "Calico"),
    ("cilium", "Cilium"),
    ("libvirt_network", "libvirt"),
    ("netavark", "netavark (Podman)"),
    ("f2b-table", "fail2ban"),
    ("fw4", "OpenWrt fw4"),
];

/// Prefixes of chains with their programs.
const CHAINS: [(&str, &str); 10] = [
    ("ufw-", "ufw"),
    ("ufw6-", "ufw"),
    ("KUBE-ROUTER-", "kube-router"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("INPUT_ZONES", "firewalld"),
    ("FORWARD_IN_ZONES", "firewalld"),
    ("LIBVIRT_", "libvirt"),
    ("NETAVARK_", "netavark (Podman)"),
    ("DOCKER", "Docker"),
];

/// Guesses the program that created a chain from the names of the table, of the chain, and of the
/// other chains of the table.
fn program(table: &ForeignTable, within: &str, hook: Hook) -> Option<&'static str> {
    let named = |name: &str| {
        let mut all = CHAINS.iter();
        all.find(|(prefix, _)| name.starts_with(prefix))
            .map(|(_, program)| *program)
    };
    let by_table = TABLES
        .iter()
        .find(|(name, _)| table.engine == Engine::Nft && table.name == *name)
        .map(|(_, program)| *program);
    let by_chain = || named(within);
    // ufw and firewalld change the policies of all builtin chains, Docker that of FORWARD.
    let beside = || {
        let all: Vec<&str> = table.chains.iter().filter_map(|c| named(&c.name)).collect();
        let blamed: &[&str] = match hook {
            Hook::Input => &["ufw", "firewalld"],
            Hook::Forward => &["ufw", "firewalld", "Docker"],
        };
        blamed.iter().copied().find(|each| all.contains(each))
    };
    by_table.or_else(by_chain).or_else(beside)
}

/// Returns the command that removes the drop.
fn clear(
    table: &ForeignTable,
    chain: &ForeignChain,
    program: Option<&str>,
    rule: Option<&DropRule>,
) -> String {
    match program {
        Some("firewalld") => return "systemctl disable --now firewalld".into(),
        Some("ufw") => return "ufw disable".into(),
        _ => {}
    }
    let (family, name) = (table.family, &table.name);
    match (table.engine, rule) {
        (Engine::Nft, None) => {
            format!(
                "nft chain {family} {name} {} '{{ policy accept; }}'",
                chain.name
            )
        }
        (Engine::Nft, Some((within, _, handle))) => format!(
            "nft delete rule {family} {name} {within} handle {}",
            handle.unwrap_or(0)
        ),
        (Engine::IptablesNft | Engine::IptablesLegacy, rule) => {
            let tool = iptables(table);
            let of = match name.as_str() {
                "filter" => String::new(),
                other => format!(" -t {other}"),
            };
            match rule {
                None => format!("{tool}{of} -P {} ACCEPT", chain.name),
                Some((within, number, _)) => format!("{tool}{of} -D {within} {number}"),
            }
        }
    }
}

fn iptables(table: &ForeignTable) -> String {
    let base = match table.family {
        "ip6" => "ip6tables",
        "bridge" => "ebtables",
        _ => "iptables",
    };
    match table.engine {
        Engine::IptablesLegacy => format!("{base}-legacy"),
        Engine::IptablesNft | Engine::Nft => format!("{base}-nft"),
    }
}

#[cfg(test)]
mod tests;
