//! Which rules of nf_tables iptables-save prints completely: those that iptables-nft writes, but
//! not all of them.

use peerwall_proto::iptables::{BUILTIN, TABLES};
use peerwall_proto::nf_tables::expr::Expr;

use crate::nft::machine::KernelTable;

/// Expressions that iptables-save prints, of those that iptables-nft writes. Others have limits.
const OF_IPTABLES: [&str; 8] = [
    "match",
    "target",
    "cmp",
    "range",
    "bitwise",
    "immediate",
    "counter",
    "log",
];
/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`, with the offsets of fields that
/// iptables-nft loads: fragment, protocol and addresses; ports, flags and types.
const FIELDS: [(&str, u32, &[u32]); 4] = [
    ("ip", 1, &[6, 9, 12, 16]),
    ("ip6", 1, &[6, 8, 24]),
    ("ip", 2, &[0, 1, 2, 13]),
    ("ip6", 2, &[0, 1, 2, 13]),
];
/// `NFT_META_MARK`, `IIF`, `OIF`, `IIFNAME`, `OIFNAME`, `NFTRACE`, `L4PROTO`.
const META_KEYS: [u32; 7] = [3, 4, 5, 6, 7, 12, 16];

/// Reports whether iptables-save prints an expression. `family` is `ip` or `ip6`.
pub fn is_printed(family: &str, expr: &Expr) -> bool {
    if let Expr::Payload(payload) = expr {
        let mut fields = FIELDS.iter().filter(|(of, base, _)| {
            *of == family && Some(*base) == payload.base && payload.sreg.is_none()
        });
        let offset = payload.offset_bytes.unwrap_or_default();
        return fields.any(|(.., offsets)| offsets.contains(&offset));
    }
    if let Expr::Meta(meta) = expr {
        return meta.key.is_some_and(|key| META_KEYS.contains(&key));
    }
    if let Expr::Limit(limit) = expr {
        return limit.flags.unwrap_or_default() == 0 && limit.kind.unwrap_or_default() == 0;
    }
    OF_IPTABLES.contains(&expr.name())
}

/// Reports whether iptables-save prints everything in a table.
pub fn is_table_printed(family: &str, table: &KernelTable) -> bool {
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    let mut exprs = rules.flat_map(|rule| &rule.exprs);
    let has_hooks = table.chains.iter().all(|(name, chain)| {
        let is_builtin = BUILTIN.contains(&name.as_str());
        is_builtin == chain.base.is_some()
    });
    TABLES.contains(&table.name.as_str()) && has_hooks && exprs.all(|expr| is_printed(family, expr))
}
