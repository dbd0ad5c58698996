//! Finds other firewalls of this host that drop what they do not accept: in nf_tables by netlink,
//! in iptables-legacy by its own tool. Sets and their elements are not read.

use std::time::{Duration, Instant};

use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::Hook;
use peerwall_core::nft::foreign::{
    self, ForeignChain, ForeignDrop, ForeignRule, ForeignTable, read,
};
use peerwall_proto::iptables as text;
use peerwall_proto::netlink::attr::{AttrWriter, DecodeError};
use peerwall_proto::netlink::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::event::{self, Event};
use peerwall_proto::nf_tables::{
    self as nft, Attributes, NF_DROP, NF_INET_FORWARD, NF_INET_LOCAL_IN, NFPROTO_BRIDGE,
    NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFT_TABLE_F_DORMANT, message_type, msg,
};

use crate::enforce::iptables;
use crate::kernel::netlink::{NetlinkError, Socket};

/// How long a count stays valid.
const COUNT_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Finds the chains of other programs that drop what they do not accept. Leaves out what cannot be
/// read.
pub fn find() -> Vec<ForeignDrop> {
    let mut found = in_nf_tables().unwrap_or_else(|err| {
        log::debug!("other tables of nf_tables are not read: {err}");
        Vec::new()
    });
    for family in Family::BOTH {
        found.extend(in_legacy(family));
    }
    found
}

fn in_nf_tables() -> Result<Vec<ForeignDrop>, NetlinkError> {
    let mut socket = Socket::open()?;
    let mut found = Vec::new();
    for table in tables(&mut socket)? {
        let rules = |chain: &str| rules(&mut socket, &table, chain);
        // This table may have been deleted meanwhile; the others count.
        match foreign::drops(&table, rules) {
            Ok(list) => found.extend(list),
            Err(err) => log::debug!("table {} {} is not read: {err}", table.family, table.name),
        }
    }
    Ok(found)
}

/// Families whose chains see packets to or through this host, with nft's names.
const FAMILIES: [(u8, &str); 4] = [
    (NFPROTO_INET, "inet"),
    (NFPROTO_IPV4, "ip"),
    (NFPROTO_IPV6, "ip6"),
    (NFPROTO_BRIDGE, "bridge"),
];

/// Returns the foreign tables that have a filtering base chain, with all of their chains.
fn tables(socket: &mut Socket) -> Result<Vec<ForeignTable>, NetlinkError> {
    let mut found: Vec<ForeignTable> = Vec::new();
    for (family, event) in list(socket, msg::NFT_MSG_GETTABLE, 0, &nft::Table::default())? {
        let name_of = FAMILIES.iter().find(|(number, _)| *number == family);
        if let (Event::Table(_, table), Some((_, family))) = (event, name_of)
            && table.flags.unwrap_or(0) & NFT_TABLE_F_DORMANT == 0
        {
            found.push(ForeignTable {
                engine: foreign::Engine::Nft,
                family,
                name: table.name.unwrap_or_default(),
                chains: Vec::new(),
            });
        }
    }
    for (family, event) in list(socket, msg::NFT_MSG_GETCHAIN, 0, &nft::Chain::default())? {
        let Event::Chain(_, chain) = event else {
            continue;
        };
        let its = |table: &&mut ForeignTable| {
            number(table.family) == family && Some(&table.name) == chain.table.as_ref()
        };
        if let Some(table) = found.iter_mut().find(its) {
            table.chains.push(of_chain(&chain));
        }
    }
    for table in &mut found {
        table.engine = foreign::engine_of(table.family, &table.name, &table.chains);
    }
    found.retain(|table| {
        !foreign::is_ours(table.engine, table.family, &table.name)
            && table.chains.iter().any(|chain| chain.hook.is_some())
    });
    Ok(found)
}

fn number(family: &str) -> u8 {
    let found = FAMILIES.iter().find(|(_, name)| *name == family);
    found.map_or(0, |(number, _)| *number)
}

fn of_chain(chain: &nft::Chain) -> ForeignChain {
    let hook = chain.hook.as_ref().and_then(|hook| hook.0.hooknum);
    ForeignChain {
        name: chain.name.clone().unwrap_or_default(),
        hook: match hook {
            Some(NF_INET_LOCAL_IN) => Some(Hook::Input),
            Some(NF_INET_FORWARD) => Some(Hook::Forward),
            _ => None,
        },
        drops: chain.policy == Some(NF_DROP),
    }
}

fn rules(
    socket: &mut Socket,
    table: &ForeignTable,
    chain: &str,
) -> Result<Vec<ForeignRule>, NetlinkError> {
    let wanted = nft::Rule {
        table: Some(table.name.clone()),
        chain: Some(chain.to_owned()),
        ..nft::Rule::default()
    };
    let family = number(table.family);
    let found = list(socket, msg::NFT_MSG_GETRULE, family, &wanted)?;
    let mut rules = Vec::new();
    for (_, event) in found {
        if let Event::Rule(_, rule) = event
            && rule.chain.as_deref() == Some(chain)
        {
            rules.push(ForeignRule {
                handle: rule.handle,
                does: read::of_expressions(&rule.exprs.unwrap_or_default()),
            });
        }
    }
    Ok(rules)
}

/// Dumps objects of a kind, each with the family of its table.
///
/// # Errors
/// [`NetlinkError`] if the kernel has no nf_tables, or refuses the dump.
pub fn list(
    socket: &mut Socket,
    kind: u16,
    family: u8,
    wanted: &impl Attributes,
) -> Result<Vec<(u8, Event)>, NetlinkError> {
    let mut w = AttrWriter::new();
    wanted.encode(&mut w);
    let request = Message {
        attrs: w
            .finish()
            .map_err(|_too_long| DecodeError::Missing("a name of usual length"))?,
        ..Message::request(message_type(kind), NLM_F_DUMP, family)
    };
    let mut found = Vec::new();
    socket.dump(&request, &mut found, Vec::clear, |found, message| {
        found.extend(event::decode(&message)?.map(|event| (message.family, event)));
        Ok(())
    })?;
    Ok(found)
}

/// Runs iptables-legacy-save for tables that exist: it would create the others.
fn in_legacy(family: Family) -> Vec<ForeignDrop> {
    let (name, names) = match family {
        Family::V4 => ("ip", "/proc/thread-self/net/ip_tables_names"),
        Family::V6 => ("ip6", "/proc/thread-self/net/ip6_tables_names"),
    };
    let there = std::fs::read_to_string(names).unwrap_or_default();
    let tables = there.lines().filter(|table| read::TABLES.contains(table));
    let mut found = Vec::new();
    for table in tables {
        let saved = match iptables::save_legacy(family, table) {
            Ok(saved) => saved,
            Err(err) => {
                log::info!("table {table} of iptables-legacy is not read: {err}");
                continue;
            }
        };
        let Ok(save) = text::parse(&saved) else {
            log::info!("table {table} of iptables-legacy cannot be understood");
            continue;
        };
        for (table, rules) in read::of_save(name, &save) {
            let of = |chain: &str| {
                Ok::<_, std::convert::Infallible>(rules.get(chain).cloned().unwrap_or_default())
            };
            found.extend(foreign::drops(&table, of).unwrap_or_default());
        }
    }
    found
}

/// Number of such chains, counted again when it is old.
#[derive(Debug, Default)]
pub struct Count {
    known: Option<(Instant, usize)>,
}

impl Count {
    /// Returns the number, at most half a minute old.
    pub fn get(&mut self) -> usize {
        match self.known {
            Some((at, count)) if at.elapsed() < COUNT_AGAIN_AFTER => count,
            _ => {
                let count = find().len();
                self.known = Some((Instant::now(), count));
                count
            }
        }
    }
}
