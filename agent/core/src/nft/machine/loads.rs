//! Expressions that load a value into a register: fields of headers, of metadata, of the
//! connection and of routes.
//!
//! Numbers: `enum nft_meta_keys`, `enum nft_ct_keys`, `enum nft_fib_result` and others in
//! `include/uapi/linux/netfilter/nf_tables.h`. Numbers in registers are in host byte order, except
//! for ports, protocols of frames and addresses.

use std::net::IpAddr;

use peerwall_proto::netlink::attr::{port_bytes, u16_register, u32_register};
use peerwall_proto::nf_tables::expr::{Ct, Exthdr, Fib, Meta, Payload};
use peerwall_proto::nf_tables::{NFPROTO_IPV4, NFPROTO_IPV6};

use super::bits::Bits;
use super::frame::{Frame, Host, RouteKind, ether_type, octets};
use super::registers::SIZE_BYTES;
use crate::net::addr::Family;
use crate::net::packet::CtState;

/// What a load gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Load {
    /// A value, and what is unknown in it.
    Value(Bits, &'static str),
    /// The packet has no such value: the rule does not match.
    Nothing,
}

impl Load {
    fn known(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Value(Bits::known(bytes), "")
    }

    fn unknown(len_bytes: usize, about: &'static str) -> Self {
        Self::Value(Bits::unknown(len_bytes), about)
    }
}

/// Size of a name of an interface in bytes (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;
/// Bits of `ct state` are in [`CtStates`](crate::ruleset::CtStates); this one is for no connection.
const UNTRACKED: u32 = 64;

/// Returns a length in bytes, at most that of all registers.
fn size(len_bytes: u32) -> usize {
    usize::try_from(len_bytes).map_or(SIZE_BYTES, |len| len.min(SIZE_BYTES))
}

/// Loads bytes of a header.
pub(super) fn payload(frame: &Frame, payload: &Payload) -> Load {
    let at = usize::try_from(payload.offset_bytes.unwrap_or_default()).unwrap_or(usize::MAX);
    let len = size(payload.len_bytes.unwrap_or_default());
    match payload.base {
        // `NFT_PAYLOAD_LL_HEADER` and the next ones.
        Some(0) => Load::Value(frame.link.part(at, len), "a field of the Ethernet header"),
        Some(1) => Load::Value(frame.network.part(at, len), network_field(frame.family, at)),
        Some(2) => Load::Value(
            frame.transport.part(at, len),
            "a field behind the IP header",
        ),
        _ => Load::unknown(len, "the packet's content"),
    }
}

/// Names the fields of IP headers that the description of a packet does not have.
fn network_field(family: Family, at: usize) -> &'static str {
    match (family, at) {
        (Family::V4, 1) | (Family::V6, 0 | 1) => "the packet's DSCP or ECN",
        (Family::V4, 2) | (Family::V6, 4) => "the packet's length",
        (Family::V4, 4) => "the packet's identification",
        (Family::V4, 6) => "whether the packet may be fragmented",
        _ => "a field of the IP header",
    }
}

/// What else a load of metadata needs.
pub(super) struct Place<'p> {
    /// The bridge, in the family of bridges.
    pub bridge: Option<&'p str>,
    pub has_out: bool,
}

/// Loads metadata of a packet.
pub(super) fn meta(frame: &Frame, meta: &Meta, place: &Place<'_>, host: &dyn Host) -> Load {
    let in_bridge = place.bridge.is_some();
    let out = frame.out.as_deref().filter(|_| place.has_out);
    match meta.key.unwrap_or(u32::MAX) {
        0 => Load::unknown(4, "the packet's length"),
        1 => Load::known(ether_type(frame.family)),
        2 => Load::unknown(4, "the packet's priority"),
        3 => Load::Value(frame.mark.clone(), "the packet's mark"),
        4..=7 if in_bridge => Load::unknown(NAME_BYTES, "the port of the bridge"),
        4 => number(host.index(&frame.interface), "the interface's number"),
        5 => match (out, place.has_out) {
            (Some(out), _) => number(host.index(out), "the interface's number"),
            (None, true) => Load::unknown(4, "the outgoing interface"),
            (None, false) => Load::known(u32_register(0)),
        },
        6 => name(&frame.interface),
        7 => match (out, place.has_out) {
            (Some(out), _) => name(out),
            (None, true) => Load::unknown(NAME_BYTES, "the outgoing interface"),
            (None, false) => name(""),
        },
        8 if !in_bridge => interface_kind(host.kind_of_interface(&frame.interface)),
        9 if !place.has_out => Load::Nothing,
        8 | 9 => interface_kind(out.and_then(|out| host.kind_of_interface(out))),
        // Of a packet that arrives, no socket is known yet, except for connections.
        10 | 11 | 23 => match frame.tracked.state {
            CtState::New | CtState::Invalid | CtState::Untracked => Load::Nothing,
            CtState::Established | CtState::Related => Load::unknown(4, "the socket's owner"),
        },
        15 => Load::known([match frame.family {
            Family::V4 => NFPROTO_IPV4,
            Family::V6 => NFPROTO_IPV6,
        }]),
        16 => Load::known([frame.protocol]),
        17 | 18 => match place.bridge {
            Some(bridge) => name(bridge),
            None => Load::unknown(NAME_BYTES, "the bridge"),
        },
        19 => Load::known([match frame.destination() {
            IpAddr::V4(to) if to.is_broadcast() => 1,
            IpAddr::V4(to) if to.is_multicast() => 2,
            IpAddr::V6(to) if to.is_multicast() => 2,
            IpAddr::V4(_) | IpAddr::V6(_) => 0,
        }]),
        // Packets of IPsec are another question.
        25 => Load::known([0]),
        20 => Load::unknown(4, "the processor"),
        21 | 22 => Load::unknown(4, "the interface's group"),
        26 | 27 => Load::unknown(NAME_BYTES, "the interface's kind"),
        30..=32 => Load::unknown(8, "the time"),
        33 => Load::known(u32_register(0)),
        34 => name(""),
        _ => Load::unknown(NAME_BYTES, "metadata of the packet"),
    }
}

fn number(index: Option<u32>, about: &'static str) -> Load {
    match index {
        Some(index) => Load::known(u32_register(index)),
        None => Load::unknown(4, about),
    }
}

fn interface_kind(kind: Option<u16>) -> Load {
    match kind {
        Some(kind) => Load::known(u16_register(kind)),
        None => Load::unknown(2, "the interface's type"),
    }
}

fn name(name: &str) -> Load {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_BYTES, 0);
    Load::known(bytes)
}

/// Loads data of the connection (`nft_ct_get_eval()` in `net/netfilter/nft_ct.c`).
pub(super) fn ct(frame: &Frame, ct: &Ct) -> Load {
    let tracked = &frame.tracked;
    let key = ct.key.unwrap_or(u32::MAX);
    let state = match tracked.state {
        CtState::Invalid => 1,
        CtState::Established => 2,
        CtState::Related => 4,
        CtState::New => 8,
        CtState::Untracked => UNTRACKED,
    };
    if key == 0 {
        return Load::known(u32_register(state));
    }
    if matches!(tracked.state, CtState::Invalid | CtState::Untracked) {
        return Load::Nothing;
    }
    let is_new = tracked.state == CtState::New;
    let is_first = is_new || tracked.state == CtState::Related;
    match key {
        1 if is_first => Load::known([0]),
        1 => Load::unknown(1, "the direction of the packet in its connection"),
        2 => status(frame, is_new),
        3 => Load::Value(tracked.mark.clone(), "the connection's mark"),
        // A connection has no helper unless rules or a module give it one.
        6 => Load::unknown(NAME_BYTES, "the connection's helper"),
        7 => Load::known([match frame.family {
            Family::V4 => NFPROTO_IPV4,
            Family::V6 => NFPROTO_IPV6,
        }]),
        8 | 9 | 19..=22 | 11 | 12 if is_first && ct.direction.unwrap_or(0) == 0 => {
            original(frame, key)
        }
        8 | 9 | 20 | 22 => Load::unknown(16, "an address of the connection"),
        10 => Load::known([frame.protocol]),
        11 | 12 => Load::unknown(2, "a port of the connection"),
        13 => Load::Value(tracked.label.clone(), "the connection's label"),
        16 => Load::known(u16_register(0)),
        _ => Load::unknown(8, "data of the connection"),
    }
}

/// Bits of `enum ip_conntrack_status` that a first packet does not have: a seen reply, assured,
/// confirmed, source NAT.
const NOT_AT_FIRST: u32 = 2 | 4 | 8 | 16;
/// `IPS_DST_NAT`
const IPS_DST_NAT: u32 = 32;

fn status(frame: &Frame, is_new: bool) -> Load {
    let mut known = IPS_DST_NAT;
    if is_new {
        known |= NOT_AT_FIRST;
    }
    let value = match frame.tracked.dialled {
        Some(_) => IPS_DST_NAT,
        None => 0,
    };
    let unknown = u32_register(!known);
    let bits = Bits::unknown(4).masked(&unknown, &u32_register(value));
    Load::Value(bits, "the connection's status")
}

/// Loads from the tuple of the first packet, before NAT.
fn original(frame: &Frame, key: u32) -> Load {
    let dialled = frame.tracked.dialled;
    let destination = dialled.map_or(frame.destination(), |dialled| dialled.address);
    let port = dialled
        .map(|dialled| dialled.port)
        .or(frame.destination_port());
    match key {
        8 | 19 | 21 => Load::known(octets(frame.source)),
        9 | 20 | 22 => Load::known(octets(destination)),
        11 => Load::Value(frame.transport.part(0, 2), "a port of the connection"),
        _ => match port {
            Some(port) => Load::known(port_bytes(port)),
            None => Load::unknown(2, "a port of the connection"),
        },
    }
}

/// `NFTA_FIB_F_SADDR`, `IIF`, `PRESENT`
const FIB_SADDR: u32 = 1;
const FIB_IIF: u32 = 8;
const FIB_PRESENT: u32 = 32;

/// Looks up a route (`nft_fib4_eval()` in `net/ipv4/netfilter/nft_fib_ipv4.c`).
pub(super) fn fib(frame: &Frame, fib: &Fib, host: &mut dyn Host) -> Load {
    let flags = fib.flags.unwrap_or_default();
    let address = match flags & FIB_SADDR != 0 {
        true => frame.source,
        false => frame.destination(),
    };
    // `NFT_FIB_RESULT_ADDRTYPE`
    if fib.result == Some(3) {
        let kind = host.kind(address);
        return match kind {
            // An address of another interface counts only without `iif`.
            Some(RouteKind::Local) if flags & FIB_IIF != 0 => {
                Load::unknown(4, "whether the address is of this interface")
            }
            Some(kind) => Load::known(u32_register(kind as u32)),
            None => Load::unknown(4, "the kind of an address"),
        };
    }
    let ways = host.ways(address);
    let here = ways.contains(&frame.interface) || frame.interface == "lo";
    let way = match flags & FIB_IIF != 0 {
        true => here.then(|| frame.interface.clone()),
        false => ways.first().cloned(),
    };
    if flags & FIB_PRESENT != 0 {
        return Load::known([u8::from(way.is_some())]);
    }
    match (fib.result, way) {
        (Some(2), way) => name(way.as_deref().unwrap_or_default()),
        (_, None) => Load::known(u32_register(0)),
        (_, Some(way)) => number(host.index(&way), "the interface's number"),
    }
}

/// `NFT_EXTHDR_F_PRESENT`
const EXTHDR_PRESENT: u32 = 1;

/// Loads from options or extension headers. A packet that is asked about has neither in its IP
/// header.
pub(super) fn exthdr(exthdr: &Exthdr) -> Load {
    let len = size(exthdr.len_bytes.unwrap_or(1));
    let is_presence = exthdr.flags.unwrap_or_default() & EXTHDR_PRESENT != 0;
    match (exthdr.op.unwrap_or_default(), is_presence) {
        // `NFT_EXTHDR_OP_IPV6` and `NFT_EXTHDR_OP_IPV4`
        (0 | 2, true) => Load::known([0]),
        (0 | 2, false) => Load::Nothing,
        _ => Load::unknown(len, "an option of the packet"),
    }
}
