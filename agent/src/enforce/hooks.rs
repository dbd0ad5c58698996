//! Reads every base chain of this network namespace, of all families.

use peerwall_core::doctor::hooks::{HookChain, HookName, of_legacy, sort};
use peerwall_core::nft::foreign::{Engine, is_ours};
use peerwall_proto::nf_tables::event::Event;
use peerwall_proto::nf_tables::{
    self as nft, NF_DROP, NFPROTO_ARP, NFPROTO_BRIDGE, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6,
    NFPROTO_NETDEV, NFT_TABLE_F_DORMANT, msg,
};

use super::foreign::list;
use crate::kernel::netlink::{NetlinkError, Socket};

/// Families of nf_tables with nft's names.
const FAMILIES: [(u8, &str); 6] = [
    (NFPROTO_INET, "inet"),
    (NFPROTO_IPV4, "ip"),
    (NFPROTO_IPV6, "ip6"),
    (NFPROTO_ARP, "arp"),
    (NFPROTO_BRIDGE, "bridge"),
    (NFPROTO_NETDEV, "netdev"),
];
/// Files with the loaded tables of iptables-legacy (`net/netfilter/x_tables.c`).
const LEGACY_TABLES: [(&str, &str); 2] = [
    ("ip", "/proc/thread-self/net/ip_tables_names"),
    ("ip6", "/proc/thread-self/net/ip6_tables_names"),
];

/// Returns the base chains in the order in which a packet passes them, and why some may be missing.
/// `called` says which variant of iptables has peerwall's chains.
pub fn find(called: Option<Engine>) -> (Vec<HookChain>, Option<NetlinkError>) {
    let (mut found, error) = match of_nf_tables() {
        Ok(found) => (found, None),
        Err(err) => (Vec::new(), Some(err)),
    };
    for (family, path) in LEGACY_TABLES {
        let names = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(names.lines().flat_map(|table| of_legacy(family, table)));
    }
    for chain in &mut found {
        chain.is_ours |= called == Some(chain.engine) && calls(chain);
    }
    sort(&mut found);
    (found, error)
}

fn of_nf_tables() -> Result<Vec<HookChain>, NetlinkError> {
    let mut socket = Socket::open()?;
    let mut dormant = Vec::new();
    for (family, event) in list(
        &mut socket,
        msg::NFT_MSG_GETTABLE,
        0,
        &nft::Table::default(),
    )? {
        if let Event::Table(_, table) = event
            && table.flags.unwrap_or(0) & NFT_TABLE_F_DORMANT != 0
        {
            dormant.push((family, table.name));
        }
    }
    let chains = list(
        &mut socket,
        msg::NFT_MSG_GETCHAIN,
        0,
        &nft::Chain::default(),
    )?;
    let chains = chains.into_iter().filter_map(|(family, event)| {
        let Event::Chain(_, chain) = event else {
            return None;
        };
        let sees_packets = !dormant
            .iter()
            .any(|(of, table)| *of == family && *table == chain.table);
        of_chain(family, &chain).filter(|_| sees_packets)
    });
    Ok(chains.collect())
}

/// Describes a base chain; `None` for a chain that is called by others.
fn of_chain(family: u8, chain: &nft::Chain) -> Option<HookChain> {
    let (_, family) = FAMILIES.iter().find(|(number, _)| *number == family)?;
    let hook = &chain.hook.as_ref()?.0;
    let table = chain.table.clone().unwrap_or_default();
    let name = chain.name.clone().unwrap_or_default();
    let engine = match is_of_iptables(family, &table, &name) {
        true => Engine::IptablesNft,
        false => Engine::Nft,
    };
    Some(HookChain {
        hook: HookName::of_number(family, hook.hooknum?)?,
        priority: hook.priority?.cast_signed(),
        family,
        kind: chain.kind.clone().unwrap_or_default(),
        device: hook.dev.clone(),
        policy: Some(match chain.policy {
            Some(NF_DROP) => "drop",
            Some(_) | None => "accept",
        }),
        engine,
        is_ours: is_ours(engine, family, &table),
        table,
        chain: name,
    })
}

/// Whether iptables-nft or ebtables-nft made a base chain: only they give chains the names of hooks
/// in capitals, in tables with names of iptables.
fn is_of_iptables(family: &str, table: &str, chain: &str) -> bool {
    let is_table = matches!(table, "raw" | "mangle" | "nat" | "filter" | "security");
    let is_family = matches!(family, "ip" | "ip6" | "bridge");
    let is_chain = matches!(
        chain,
        "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING"
    );
    is_table && is_family && is_chain
}

/// Whether the iptables backend calls peerwall's chains from this one.
fn calls(chain: &HookChain) -> bool {
    let place = (chain.table.as_str(), chain.chain.as_str());
    let is_family = matches!(chain.family, "ip" | "ip6");
    is_family
        && matches!(
            place,
            ("mangle", "PREROUTING") | ("filter", "INPUT" | "FORWARD")
        )
}
