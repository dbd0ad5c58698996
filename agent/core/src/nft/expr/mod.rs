//! Conversion between matches and statements, and nf_tables expressions.
//!
//! The sequences are exactly those of nft, so that nft prints peerwall's table like its own. The
//! goldens in `proto` and the round trip in `lower` keep writer and reader consistent.

mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::net::addr::Family;
use crate::net::interface::NAME_MAX_BYTES;
pub(super) use read::read_rule;
pub(super) use write::rule_exprs;

const REG: u32 = 1; // NFT_REG_1
const NFT_REG_VERDICT: u32 = 0;
const NFT_META_IIF: u32 = 4;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_IIFTYPE: u32 = 8;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFT_CT_PROTO_DST: u32 = 12;
const NFT_CT_LABELS: u32 = 13;
const NFT_CT_DST_IP: u32 = 20;
const NFT_CT_DST_IP6: u32 = 22;
const IP_CT_DIR_ORIGINAL: u8 = 0;
const IPS_DST_NAT: u32 = 0x20;
const NFT_PAYLOAD_LL_HEADER: u32 = 0;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;
const NFT_FIB_RESULT_OIF: u32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2; // NFTA_FIB_F_DADDR
const RTN_LOCAL: u32 = 2;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
/// `ARPHRD_ETHER`
const ARPHRD_ETHER: u16 = 1;
const FIB_SADDR_IIF_PRESENT: u32 = 1 | 8 | 32; // NFTA_FIB_F_SADDR, _IIF, _PRESENT
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_ADMIN_PROHIBITED: u8 = 3;
const NFT_LIMIT_PKTS: u32 = 0;
/// Index of `lo` in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// `IFNAMSIZ`
const IFNAMSIZ: usize = NAME_MAX_BYTES + 1;

/// Returns offset and length of the source address in bytes, within the network header.
const fn source_field(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    }
}

const fn destination_field(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    }
}

const HOP_LIMIT_FIELD: (u32, u32) = (7, 1);
const TTL_FIELD: (u32, u32) = (8, 1);
/// Source address in the Ethernet header.
const MAC_FIELD: (u32, u32) = (6, 6);
/// Octet of the TCP header that contains the flags.
const TCP_FLAGS_FIELD: (u32, u32) = (13, 1);
/// FIN, SYN, RST and ACK.
const TCP_FLAGS_OF_START: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
const SOURCE_PORT_FIELD: (u32, u32) = (0, 2);
const DESTINATION_PORT_FIELD: (u32, u32) = (2, 2);
/// Source and destination port, which nft merges into one match if they are adjacent.
const BOTH_PORTS_FIELD: (u32, u32) = (0, 4);
const ICMP_TYPE_FIELD: (u32, u32) = (0, 1);
