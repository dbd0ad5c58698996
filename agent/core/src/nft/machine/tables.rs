//! The tables of a kernel, as its netlink dumps describe them.

use std::collections::BTreeMap;

use peerwall_proto::nf_tables::event::Event;
use peerwall_proto::nf_tables::expr::Expr;
use peerwall_proto::nf_tables::{self as nft, NF_DROP, NFT_TABLE_F_DORMANT, userdata};

use super::sets::KernelSet;

/// All tables of a network namespace, in the order of the dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelTables {
    tables: Vec<KernelTable>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelTable {
    /// `NFPROTO_*`
    pub family: u8,
    /// Name, unique within the family.
    pub name: String,
    /// Chains by name.
    pub chains: BTreeMap<String, KernelChain>,
    /// Sets by name.
    pub sets: BTreeMap<String, KernelSet>,
    /// Whether its chains are not registered.
    is_dormant: bool,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelChain {
    /// Hook; `None` for a regular chain.
    pub base: Option<BaseHook>,
    /// Rules, in order.
    pub rules: Vec<KernelRule>,
}

/// Hook of a base chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseHook {
    /// `NF_INET_*`, or `NF_NETDEV_*` in the family netdev.
    pub hook: u32,
    /// Priority; chains with a lower one are earlier.
    pub priority: i32,
    /// Whether the chain translates addresses (type `nat`).
    pub is_nat: bool,
    /// Whether packets at the end of the chain are dropped.
    pub drops: bool,
    /// Devices; none for every device.
    pub devices: Vec<String>,
}

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelRule {
    /// Handle, unique within the table.
    pub handle: u64,
    /// Expressions, in order.
    pub exprs: Vec<Expr>,
    /// Comment.
    pub comment: Option<String>,
}

impl KernelTables {
    /// Adds an object of a dump. Tables come first, then chains, and rules in their order.
    pub fn add(&mut self, family: u8, event: Event) {
        match event {
            Event::Table(_, table) => self.tables.push(KernelTable {
                family,
                name: table.name.unwrap_or_default(),
                is_dormant: table.flags.unwrap_or(0) & NFT_TABLE_F_DORMANT != 0,
                ..KernelTable::default()
            }),
            Event::Chain(_, chain) => {
                if let Some(table) = self.table_mut(family, chain.table.as_deref()) {
                    let name = chain.name.clone().unwrap_or_default();
                    table.chains.insert(name, of_chain(chain));
                }
            }
            Event::Rule(_, rule) => {
                let table = self.table_mut(family, rule.table.as_deref());
                let name = rule.chain.clone().unwrap_or_default();
                if let Some(chain) = table.and_then(|table| table.chains.get_mut(&name)) {
                    chain.rules.push(KernelRule {
                        handle: rule.handle.unwrap_or_default(),
                        comment: rule.userdata.as_deref().and_then(userdata::find_comment),
                        exprs: rule.exprs.unwrap_or_default(),
                    });
                }
            }
            Event::Set(_, set) => {
                if let Some(table) = self.table_mut(family, set.table.as_deref()) {
                    let name = set.name.clone().unwrap_or_default();
                    table.sets.insert(name, KernelSet::new(&set));
                }
            }
            Event::Elements(_, list) => {
                let table = self.table_mut(family, list.table.as_deref());
                let name = list.set.unwrap_or_default();
                if let Some(set) = table.and_then(|table| table.sets.get_mut(&name)) {
                    set.add(list.elements.unwrap_or_default());
                }
            }
            Event::Object(..) | Event::Generation(_) | Event::Other(_) => {}
        }
    }

    fn table_mut(&mut self, family: u8, name: Option<&str>) -> Option<&mut KernelTable> {
        let mut tables = self.tables.iter_mut();
        tables.find(|table| table.family == family && Some(table.name.as_str()) == name)
    }

    /// Finds a table.
    pub fn find(&self, family: u8, name: &str) -> Option<&KernelTable> {
        let mut tables = self.tables.iter();
        tables.find(|table| table.family == family && table.name == name)
    }

    /// Removes a table.
    pub fn remove(&mut self, family: u8, name: &str) {
        self.tables
            .retain(|table| table.family != family || table.name != name);
    }

    /// Removes base chains that do not translate addresses.
    pub fn keep_nat(&mut self) {
        let is_kept = |chain: &KernelChain| chain.base.as_ref().is_none_or(|base| base.is_nat);
        for table in &mut self.tables {
            table.chains.retain(|_, chain| is_kept(chain));
        }
    }

    /// Returns the tables whose chains are registered.
    pub fn registered(&self) -> impl Iterator<Item = &KernelTable> {
        self.tables.iter().filter(|table| !table.is_dormant)
    }

    /// Declares that all elements of a set were added.
    pub fn complete_set(&mut self, family: u8, table: &str, set: &str) {
        let table = self.table_mut(family, Some(table));
        if let Some(set) = table.and_then(|table| table.sets.get_mut(set)) {
            set.complete();
        }
    }

    /// Declares that all elements of all sets were added.
    pub fn complete(&mut self) {
        let sets = self
            .tables
            .iter_mut()
            .flat_map(|table| table.sets.values_mut());
        sets.for_each(KernelSet::complete);
    }

    /// Returns family, table and name of every set, for reading their elements.
    pub fn set_names(&self) -> Vec<(u8, String, String)> {
        let of_table = |table: &KernelTable| {
            let names = table.sets.keys().cloned();
            let (family, table) = (table.family, table.name.clone());
            names
                .map(move |set| (family, table.clone(), set))
                .collect::<Vec<_>>()
        };
        self.registered().flat_map(of_table).collect()
    }
}

/// `NFTA_HOOK_DEVS`: a list of devices.
const NFTA_HOOK_DEVS: u16 = 4;

fn of_chain(chain: nft::Chain) -> KernelChain {
    let base = chain.hook.map(|hook| {
        let hook = hook.0;
        let lists = hook
            .other
            .iter()
            .filter(|other| other.attribute == NFTA_HOOK_DEVS);
        let listed = lists.flat_map(|list| devices(&list.payload));
        BaseHook {
            hook: hook.hooknum.unwrap_or_default(),
            priority: hook.priority().unwrap_or_default(),
            is_nat: chain.kind.as_deref() == Some("nat"),
            drops: chain.policy == Some(NF_DROP),
            devices: hook.dev.iter().cloned().chain(listed).collect(),
        }
    });
    KernelChain {
        base,
        rules: Vec::new(),
    }
}

fn devices(list: &[u8]) -> Vec<String> {
    let attrs = peerwall_proto::netlink::attr::Attrs::new(list).flatten();
    let names = attrs.filter_map(|attr| attr.string().ok().map(str::to_owned));
    names.collect()
}
