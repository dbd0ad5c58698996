//! Tables of nf_tables on a host without nft: their base chains, by netlink. The rules are not
//! read, so the chains accept nothing.

use std::collections::BTreeSet;

use peerwall_core::nft::foreign::printed::is_printed;
use peerwall_proto::iptables::{BUILTIN, TABLES};
use peerwall_proto::nf_tables::event::Event;
use peerwall_proto::nf_tables::{
    self as nft, NF_DROP, NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_PRE_ROUTING, NFPROTO_INET,
    NFPROTO_IPV4, NFPROTO_IPV6, NFT_TABLE_F_DORMANT, family_name, msg,
};
use serde_json::{Value, json};

use crate::enforce::foreign::list;
use crate::kernel::netlink::{NetlinkError, Socket};

/// Statement in place of the rules, in the report too.
const REASON: &str = "rules that only nft can read (install nft)";
/// A table with its chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KernelTable {
    family: &'static str,
    name: String,
    handle: u64,
    chains: Vec<KernelChain>,
    /// Whether rules have expressions that iptables-save does not print.
    has_other_expressions: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KernelChain {
    name: String,
    handle: u64,
    /// Type, hook and priority of a base chain.
    base: Option<(String, &'static str, i64)>,
    drops: bool,
    rules: usize,
}

/// Lists the tables of this network namespace that packets of IP pass, without peerwall's.
///
/// # Errors
/// [`NetlinkError`] if the kernel has no nf_tables, or refuses the dump.
pub(super) fn tables() -> Result<Vec<KernelTable>, NetlinkError> {
    let mut socket = Socket::open()?;
    let mut found: Vec<(u8, KernelTable)> = Vec::new();
    for (family, event) in list(
        &mut socket,
        msg::NFT_MSG_GETTABLE,
        0,
        &nft::Table::default(),
    )? {
        let Event::Table(_, table) = event else {
            continue;
        };
        let name = table.name.unwrap_or_default();
        let is_dormant = table.flags.unwrap_or(0) & NFT_TABLE_F_DORMANT != 0;
        let family_name = ip_family(family).filter(|of| !is_dormant && (*of, &*name) != OURS);
        if let Some(family_name) = family_name {
            let table = KernelTable {
                family: family_name,
                name,
                handle: table.handle.unwrap_or_default(),
                ..KernelTable::default()
            };
            found.push((family, table));
        }
    }
    for (family, event) in list(
        &mut socket,
        msg::NFT_MSG_GETCHAIN,
        0,
        &nft::Chain::default(),
    )? {
        if let Event::Chain(_, chain) = event
            && let Some(table) = table_of(&mut found, family, chain.table.as_deref())
        {
            table.chains.push(of_chain(chain));
        }
    }
    for (family, event) in list(&mut socket, msg::NFT_MSG_GETRULE, 0, &nft::Rule::default())? {
        if let Event::Rule(_, rule) = event
            && let Some(table) = table_of(&mut found, family, rule.table.as_deref())
        {
            table.add(&rule);
        }
    }
    Ok(found.into_iter().map(|(_, table)| table).collect())
}

/// Family and name of peerwall's table.
const OURS: (&str, &str) = ("inet", "peerwall");

/// Returns the name of a family whose tables are for packets of IP, not for frames.
fn ip_family(number: u8) -> Option<&'static str> {
    let is_ip = [NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6].contains(&number);
    family_name(number).filter(|_| is_ip)
}

fn table_of<'t>(
    all: &'t mut [(u8, KernelTable)],
    family: u8,
    name: Option<&str>,
) -> Option<&'t mut KernelTable> {
    let is_it =
        |(of, table): &&mut (u8, KernelTable)| *of == family && Some(table.name.as_str()) == name;
    all.iter_mut().find(is_it).map(|(_, table)| table)
}

fn of_chain(chain: nft::Chain) -> KernelChain {
    let kind = chain.kind.unwrap_or_default();
    let base = chain.hook.and_then(|hook| {
        let name = match hook.0.hooknum? {
            NF_INET_LOCAL_IN => "input",
            NF_INET_FORWARD => "forward",
            NF_INET_PRE_ROUTING => "prerouting",
            // They decide nothing about packets that arrive.
            _ => "output",
        };
        let priority = hook.0.priority().unwrap_or_default();
        Some((kind, name, i64::from(priority)))
    });
    KernelChain {
        name: chain.name.unwrap_or_default(),
        handle: chain.handle.unwrap_or_default(),
        base,
        drops: chain.policy == Some(NF_DROP),
        rules: 0,
    }
}

impl KernelTable {
    fn add(&mut self, rule: &nft::Rule) {
        let mut exprs = rule.exprs.iter().flatten();
        self.has_other_expressions |= !exprs.all(|expr| is_printed(self.family, expr));
        let name = rule.chain.as_deref();
        let mut chains = self.chains.iter_mut();
        if let Some(chain) = chains.find(|chain| Some(chain.name.as_str()) == name) {
            chain.rules += 1;
        }
    }

    /// Reports whether iptables-save prints everything in the table.
    fn is_of_iptables(&self) -> bool {
        let is_builtin = |chain: &KernelChain| {
            let is_builtin = BUILTIN.contains(&chain.name.as_str());
            is_builtin == chain.base.is_some()
        };
        self.family != "inet"
            && TABLES.contains(&self.name.as_str())
            && !self.has_other_expressions
            && self.chains.iter().all(is_builtin)
    }

    /// Returns the base chains that decide about packets that arrive.
    fn deciding(&self) -> impl Iterator<Item = (&KernelChain, &(String, &'static str, i64))> {
        let chains = self
            .chains
            .iter()
            .filter(|chain| chain.drops || chain.rules > 0);
        let bases = chains.filter_map(|chain| Some((chain, chain.base.as_ref()?)));
        bases.filter(|(_, base)| base.1 != "output")
    }
}

/// Tables that cannot be read, in the form of nft's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) listing: Option<String>,
    /// Family and name of each table of iptables-nft.
    pub(super) of_iptables: BTreeSet<(String, String)>,
}

/// Writes the tables that iptables-save does not print.
pub(super) fn unread(tables: &[KernelTable], printed: impl Fn(&str, &str) -> bool) -> Unread {
    let mut of_iptables = BTreeSet::new();
    let mut objects: Vec<Value> = Vec::new();
    let mut listing = String::new();
    for table in tables {
        let (family, name) = (table.family, &table.name);
        if printed(family, name) && table.is_of_iptables() {
            of_iptables.insert((family.to_owned(), name.clone()));
            continue;
        }
        if table.deciding().next().is_none() {
            continue;
        }
        objects.push(json!({"table": {"family": family, "name": name, "handle": table.handle}}));
        listing.push_str(&format!(
            "table {family} {name} {{ # handle {}\n",
            table.handle
        ));
        for (chain, (kind, hook, priority)) in table.deciding() {
            let (own, handle) = (&chain.name, chain.handle);
            let policy = if chain.drops { "drop" } else { "accept" };
            // What is not read accepts nothing.
            objects.push(json!({"chain": {
                "family": family, "table": name, "name": own, "handle": handle,
                "type": kind, "hook": hook, "prio": priority, "policy": "drop",
            }}));
            listing.push_str(&format!(
                "\tchain {own} {{ # handle {handle}\n\
                 \t\ttype {kind} hook {hook} priority {priority}; policy {policy};\n"
            ));
            if chain.rules > 0 {
                objects.push(json!({"rule": {
                    "family": family, "table": name, "chain": own, "handle": handle,
                    "expr": [{REASON: null}, {"accept": null}],
                }}));
                let count = chain.rules;
                listing.push_str(&format!(
                    "\t\t{REASON}: {count} in chain {own} of table {family} {name} # handle {handle}\n"
                ));
            }
            listing.push_str("\t}\n");
        }
        listing.push_str("}\n");
    }
    let listing = (!objects.is_empty()).then(|| {
        let objects = json!({ "nftables": objects });
        format!("{objects}\n{listing}")
    });
    Unread {
        listing,
        of_iptables,
    }
}
