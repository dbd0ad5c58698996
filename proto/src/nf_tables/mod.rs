//! nf_tables objects as typed values.
//!
//! Numbers and layouts: `include/uapi/linux/netfilter/nf_tables.h`; kernel implementation:
//! `net/netfilter/nf_tables_api.c`. All integers in attributes are big-endian.
//!
//! Every object keeps unknown attributes in `other` and writes them back, so that
//! `encode(decode(bytes))` loses nothing on a newer kernel.

pub mod batch;
pub mod bridge;
pub mod event;
pub mod expr;
mod object;
pub(crate) mod schema;
pub mod trace;
pub mod userdata;

pub use object::{
    Chain, Counter, Element, ElementList, Generation, Hook, Object, Rule, Set, SetDesc,
    SetDescField, Table, element_lists,
};
pub use schema::{Attributes, Field, Nested, Unknown};

/// The nf_tables subsystem number (`NFNL_SUBSYS_NFTABLES`), high byte of message types.
pub const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`
pub const NFNL_MSG_BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`
pub const NFNL_MSG_BATCH_END: u16 = 17;
/// `NFNL_BATCH_GENID`: the generation that a batch requires.
pub const NFNL_BATCH_GENID: u16 = 1;
/// `NFNLGRP_NFTABLES`: multicast group for changes.
pub const NFNLGRP_NFTABLES: u32 = 7;

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub const NFPROTO_INET: u8 = 1;
/// `NFPROTO_IPV4`
pub const NFPROTO_IPV4: u8 = 2;
/// `NFPROTO_ARP`
pub const NFPROTO_ARP: u8 = 3;
/// `NFPROTO_BRIDGE`: frames between ports of a bridge.
pub const NFPROTO_BRIDGE: u8 = 7;
/// `NFPROTO_IPV6`
pub const NFPROTO_IPV6: u8 = 10;

/// `NFPROTO_NETDEV`: packets on their way into or out of a device.
pub const NFPROTO_NETDEV: u8 = 5;

/// Returns nft's name of a family (`NFPROTO_*`); `None` for others.
pub fn family_name(family: u8) -> Option<&'static str> {
    match family {
        NFPROTO_INET => Some("inet"),
        NFPROTO_IPV4 => Some("ip"),
        NFPROTO_NETDEV => Some("netdev"),
        NFPROTO_BRIDGE => Some("bridge"),
        NFPROTO_IPV6 => Some("ip6"),
        _ => None,
    }
}

/// `enum nf_tables_msg_types`, without the subsystem in the high byte.
#[expect(missing_docs, reason = "kernel names, documented in the kernel header")]
pub mod msg {
    pub const NFT_MSG_NEWTABLE: u16 = 0;
    pub const NFT_MSG_GETTABLE: u16 = 1;
    pub const NFT_MSG_DELTABLE: u16 = 2;
    pub const NFT_MSG_NEWCHAIN: u16 = 3;
    pub const NFT_MSG_GETCHAIN: u16 = 4;
    pub const NFT_MSG_DELCHAIN: u16 = 5;
    pub const NFT_MSG_NEWRULE: u16 = 6;
    pub const NFT_MSG_GETRULE: u16 = 7;
    pub const NFT_MSG_DELRULE: u16 = 8;
    pub const NFT_MSG_NEWSET: u16 = 9;
    pub const NFT_MSG_GETSET: u16 = 10;
    pub const NFT_MSG_DELSET: u16 = 11;
    pub const NFT_MSG_NEWSETELEM: u16 = 12;
    pub const NFT_MSG_GETSETELEM: u16 = 13;
    pub const NFT_MSG_DELSETELEM: u16 = 14;
    pub const NFT_MSG_NEWGEN: u16 = 15;
    pub const NFT_MSG_GETGEN: u16 = 16;
    pub const NFT_MSG_TRACE: u16 = 17;
    pub const NFT_MSG_NEWOBJ: u16 = 18;
    pub const NFT_MSG_GETOBJ: u16 = 19;
    pub const NFT_MSG_DELOBJ: u16 = 20;
}

/// Returns the `nlmsg_type` of an nf_tables message.
pub const fn message_type(msg: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | msg
}

/// Returns the nf_tables message of an `nlmsg_type`; `None` for other subsystems.
pub const fn message_of(kind: u16) -> Option<u16> {
    if kind >> 8 == NFNL_SUBSYS_NFTABLES {
        Some(kind & 0xff)
    } else {
        None
    }
}

/// `NFT_TABLE_F_DORMANT`: the table's base chains are not registered.
pub const NFT_TABLE_F_DORMANT: u32 = 1;
/// `NFT_TABLE_F_OWNER` (Linux 5.12): only the socket that created the table may change it.
pub const NFT_TABLE_F_OWNER: u32 = 2;
/// `NFT_TABLE_F_PERSIST` (Linux 6.9): the table survives the closing of its owner's socket.
pub const NFT_TABLE_F_PERSIST: u32 = 4;

/// `NFT_SET_ANONYMOUS`: the set belongs to one rule.
pub const NFT_SET_ANONYMOUS: u32 = 0x1;
/// `NFT_SET_CONSTANT`
pub const NFT_SET_CONSTANT: u32 = 0x2;
/// `NFT_SET_INTERVAL`: elements are intervals.
pub const NFT_SET_INTERVAL: u32 = 0x4;
/// `NFT_SET_MAP`
pub const NFT_SET_MAP: u32 = 0x8;
/// `NFT_SET_TIMEOUT`
pub const NFT_SET_TIMEOUT: u32 = 0x10;
/// `NFT_SET_EVAL`
pub const NFT_SET_EVAL: u32 = 0x20;
/// `NFT_SET_OBJECT`
pub const NFT_SET_OBJECT: u32 = 0x40;
/// `NFT_SET_CONCAT`
pub const NFT_SET_CONCAT: u32 = 0x80;
/// `NFT_SET_ELEM_INTERVAL_END`: the key is the first value after the interval.
pub const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
/// `NFT_OBJECT_COUNTER`
pub const NFT_OBJECT_COUNTER: u32 = 1;

/// `NF_INET_PRE_ROUTING`
pub const NF_INET_PRE_ROUTING: u32 = 0;
/// `NF_INET_LOCAL_IN`
pub const NF_INET_LOCAL_IN: u32 = 1;
/// `NF_INET_FORWARD`
pub const NF_INET_FORWARD: u32 = 2;
/// `NF_DROP`
pub const NF_DROP: u32 = 0;
/// `NF_ACCEPT`
pub const NF_ACCEPT: u32 = 1;
