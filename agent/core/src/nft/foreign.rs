//! Other firewalls of this host: chains beside ours that drop what they do not accept.
//!
//! In netfilter an accept ends one chain, and a drop ends the packet. Whatever a chain of somebody else's
//! in the same hook drops is lost, whatever the policy says. Only chains that drop *by default* are found
//! here: by their policy, or by a rule without conditions. A rule with conditions is somebody's decision
//! about single packets, as kube-proxy's and Calico's are, and none of our business.

pub mod read;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::iptables::is_our_chain;
use crate::net::packet::Hook;
use crate::ruleset::TABLE;

/// Jumps that are followed; the kernel's own limit is 16 (`NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;
/// Chains that are looked at for one base chain.
const CHAINS_MAX: usize = 64;

/// What has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Engine {
    /// nf_tables.
    #[serde(rename = "nftables")]
    Nft,
    /// nf_tables, by way of `iptables-nft` or `ebtables-nft`.
    #[serde(rename = "iptables-nft")]
    IptablesNft,
    /// The older iptables of the kernel.
    #[serde(rename = "iptables-legacy")]
    IptablesLegacy,
}

/// A table of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTable {
    /// What has it.
    pub engine: Engine,
    /// `ip`, `ip6`, `inet` or `bridge`.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// Its chains.
    pub chains: Vec<ForeignChain>,
}

/// A chain, without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// Its name.
    pub name: String,
    /// The hook, if packets enter here.
    pub hook: Option<Hook>,
    /// Whether its policy is to drop.
    pub drops: bool,
}

/// A rule, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    /// The kernel's number for it; iptables-legacy has none.
    pub handle: Option<u64>,
    /// What becomes of every packet that comes to it.
    pub does: Does,
}

/// What a rule does to every packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// Nothing: it counts, logs, or has conditions.
    Nothing,
    /// Accepts it.
    Accept,
    /// Drops or rejects it.
    Drop,
    /// Ends the chain.
    Return,
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Goes on in another chain, and does not.
    Goto(String),
}

/// A chain that drops what it does not accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeignDrop {
    /// What has it.
    pub engine: Engine,
    /// Family of its table.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// The base chain, where packets enter.
    pub chain: String,
    /// `input` or `forward`.
    pub hook: &'static str,
    /// Which program made it, as far as names tell.
    pub program: Option<&'static str>,
    /// The rule that drops everything, as chain and number from 1; absent if it is the policy.
    pub rule: Option<(String, usize)>,
    /// The command that ends it.
    pub clear: String,
}

impl ForeignDrop {
    /// Where it is, in a few words.
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

    /// What in it drops.
    pub fn why(&self) -> String {
        match &self.rule {
            None => "its policy is drop".to_owned(),
            Some((chain, number)) if *chain == self.chain => {
                format!("its rule {number} drops everything")
            }
            Some((chain, number)) => format!("rule {number} of {chain} drops everything"),
        }
    }
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} also decides: what it does not accept in the {} hook is dropped ({})",
            self.name(),
            self.hook,
            self.why()
        )
    }
}

/// Whether a table is our own.
pub fn is_ours(engine: Engine, family: &str, name: &str) -> bool {
    engine == Engine::Nft && family == "inet" && name == TABLE
}

/// Which engine a table of nf_tables is used by. iptables-nft keeps its builtin chains' names in capitals,
/// and no one else has a reason to.
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

/// Chains of a table that drop what they do not accept. `rules` reads those of one chain.
///
/// # Errors
/// What `rules` answers.
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

/// The rule that ends it, with its handle.
type DropRule = (String, usize, Option<u64>);

/// What becomes of a packet that no rule with conditions decides about.
enum End {
    /// It comes to the end of the chain.
    Falls,
    /// It is accepted, or our own chains decide.
    Decided,
    /// This rule drops it.
    Drops(DropRule),
}

struct ForeignWalk<'r, R> {
    rules: &'r mut R,
    /// Chains that were read already.
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
                // What our own chains drop is no other firewall's decision.
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
        rule: rule.map(|(chain, number, _)| (chain, number)),
    }
}

/// Names of tables, with the programs that make them.
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

/// What chains of a program start with.
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

/// The program that is to blame, by the names of the table, of the chain, and of the chains beside it.
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
    // These change the policies of builtin chains: ufw and firewalld any, Docker that of FORWARD.
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

/// The command that ends it.
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
