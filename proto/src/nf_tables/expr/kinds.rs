//! The table of expressions: name, type and number of each attribute.
//!
//! Registers are `NFT_REG_VERDICT` (0), `NFT_REG_1` to `NFT_REG_4` (1 to 4, 16 bytes each) or
//! `NFT_REG32_00` to `NFT_REG32_15` (8 to 23, 4 bytes each).

use super::{Data, Expr};
use crate::nf_tables::schema::{Nested, attributes};

attributes! {
    /// `enum nft_payload_attributes`, `net/netfilter/nft_payload.c`: loads or writes bytes of the
    /// packet.
    Payload {
        /// Register to load into.
        dreg: u32 = 1,
        /// `NFT_PAYLOAD_*_HEADER` that the offset is relative to.
        base: u32 = 2,
        /// Offset in bytes.
        offset_bytes: u32 = 3,
        /// Length in bytes.
        len_bytes: u32 = 4,
        /// Register to write from.
        sreg: u32 = 5,
        /// Type of checksum to update.
        csum_type: u32 = 6,
        /// Offset of the checksum in bytes.
        csum_offset_bytes: u32 = 7,
        /// `NFT_PAYLOAD_L4CSUM_*`.
        csum_flags: u32 = 8,
    }

    /// `enum nft_meta_attributes`, `net/netfilter/nft_meta.c`: metadata of the packet.
    Meta {
        /// Register to load into.
        dreg: u32 = 1,
        /// `NFT_META_*`.
        key: u32 = 2,
        /// Register to set from.
        sreg: u32 = 3,
    }

    /// `enum nft_cmp_attributes`, `net/netfilter/nft_cmp.c`: compares a register with a constant
    /// bytewise.
    Cmp {
        /// Register.
        sreg: u32 = 1,
        /// `NFT_CMP_*`.
        op: u32 = 2,
        /// Constant.
        data: Nested<Data> = 3,
    }

    /// `enum nft_range_attributes`, `net/netfilter/nft_range.c`: tests whether a register is within
    /// a range.
    Range {
        /// Register.
        sreg: u32 = 1,
        /// `NFT_RANGE_EQ` or `NFT_RANGE_NEQ`.
        op: u32 = 2,
        /// First value.
        from: Nested<Data> = 3,
        /// Last value.
        to: Nested<Data> = 4,
    }

    /// `enum nft_bitwise_attributes`, `net/netfilter/nft_bitwise.c`: `(reg & mask) ^ xor`, or a
    /// shift.
    Bitwise {
        /// Register read.
        sreg: u32 = 1,
        /// Register written.
        dreg: u32 = 2,
        /// Width in bytes.
        len_bytes: u32 = 3,
        /// Mask, applied first.
        mask: Nested<Data> = 4,
        /// Value for the xor, applied second.
        xor: Nested<Data> = 5,
        /// `NFT_BITWISE_*`; absent on old kernels.
        op: u32 = 6,
        /// Bits to shift by.
        data: Nested<Data> = 7,
        /// Second register of and, or, xor.
        sreg2: u32 = 8,
    }

    /// `enum nft_byteorder_attributes`, `net/netfilter/nft_byteorder.c`
    Byteorder {
        /// Register read.
        sreg: u32 = 1,
        /// Register written.
        dreg: u32 = 2,
        /// `NFT_BYTEORDER_*`.
        op: u32 = 3,
        /// Width in bytes.
        len_bytes: u32 = 4,
        /// Width of each unit in bytes.
        size_bytes: u32 = 5,
    }

    /// `enum nft_ct_attributes`, `net/netfilter/nft_ct.c`: connection tracking data of the packet.
    Ct {
        /// Register to load into.
        dreg: u32 = 1,
        /// `NFT_CT_*`.
        key: u32 = 2,
        /// `IP_CT_DIR_*`.
        direction: u8 = 3,
        /// Register to set from.
        sreg: u32 = 4,
    }

    /// `enum nft_immediate_attributes`, `net/netfilter/nft_immediate.c`: a constant or a verdict.
    Immediate {
        /// Register, `NFT_REG_VERDICT` for a verdict.
        dreg: u32 = 1,
        /// Constant or verdict.
        data: Nested<Data> = 2,
    }

    /// `enum nft_lookup_attributes`, `net/netfilter/nft_lookup.c`: looks up a register in a set or
    /// map.
    Lookup {
        /// Name of the set.
        set: String = 1,
        /// Register with the key.
        sreg: u32 = 2,
        /// Register for the value of a map.
        dreg: u32 = 3,
        /// Number of the set within the batch.
        set_id: u32 = 4,
        /// `NFT_LOOKUP_F_INV`.
        flags: u32 = 5,
    }

    /// `enum nft_dynset_attributes`, `net/netfilter/nft_dynset.c`: adds to a set from the packet
    /// path.
    Dynset {
        /// Name of the set.
        set: String = 1,
        /// Number of the set within the batch.
        set_id: u32 = 2,
        /// `NFT_DYNSET_OP_*`.
        op: u32 = 3,
        /// Register with the key.
        sreg_key: u32 = 4,
        /// Register with the data.
        sreg_data: u32 = 5,
        /// Timeout in milliseconds.
        timeout: u64 = 6,
        /// Expression for the element.
        expr: Box<Nested<Expr>> = 7,
        /// `NFT_DYNSET_F_*`.
        flags: u32 = 9,
        /// Several expressions for the element.
        exprs: Vec<Expr> = 10,
    }

    /// `enum nft_counter_attributes`, `net/netfilter/nft_counter.c`
    CounterExpr {
        /// Bytes counted.
        bytes: u64 = 1,
        /// Packets counted.
        packets: u64 = 2,
    }

    /// `enum nft_last_attributes`, `net/netfilter/nft_last.c`: time of the last matching packet.
    Last {
        /// Whether any packet has matched.
        set: u32 = 1,
        /// Milliseconds since the last packet.
        msecs: u64 = 2,
    }

    /// `enum nft_limit_attributes`, `net/netfilter/nft_limit.c`: a token bucket.
    Limit {
        /// Tokens per unit.
        rate: u64 = 1,
        /// Length of the unit in seconds.
        unit: u64 = 2,
        /// Additional tokens.
        burst: u32 = 3,
        /// `NFT_LIMIT_*`: packets or bytes.
        kind: u32 = 4,
        /// `NFT_LIMIT_F_INV`.
        flags: u32 = 5,
    }

    /// `enum nft_quota_attributes`, `net/netfilter/nft_quota.c`
    Quota {
        /// Limit in bytes.
        bytes: u64 = 1,
        /// `NFT_QUOTA_F_*`.
        flags: u32 = 2,
        /// Bytes used.
        consumed: u64 = 4,
    }

    /// `enum nft_log_attributes`, `net/netfilter/nft_log.c`
    Log {
        /// NFLOG group.
        group: u16 = 1,
        /// Text before each message.
        prefix: String = 2,
        /// Maximum number of packet bytes to log.
        snaplen: u32 = 3,
        /// Number of messages to queue.
        qthreshold: u16 = 4,
        /// syslog level; only without a group.
        level: u32 = 5,
        /// `NF_LOG_*`.
        flags: u32 = 6,
    }

    /// `enum nft_reject_attributes`, `net/netfilter/nft_reject.c`
    Reject {
        /// `NFT_REJECT_*`.
        kind: u32 = 1,
        /// ICMP code, or `NFT_REJECT_ICMPX_*`.
        icmp_code: u8 = 2,
    }

    /// `enum nft_objref_attributes`, `net/netfilter/nft_objref.c`: refers to a named object.
    Objref {
        /// `NFT_OBJECT_*`.
        imm_type: u32 = 1,
        /// Name of the object.
        imm_name: String = 2,
        /// Register with the key of an object map.
        set_sreg: u32 = 3,
        /// Name of the map.
        set_name: String = 4,
        /// Number of the map within the batch.
        set_id: u32 = 5,
    }

    /// `enum nft_fib_attributes`, `net/netfilter/nft_fib.c`: a routing table lookup.
    Fib {
        /// Register to load into.
        dreg: u32 = 1,
        /// `NFT_FIB_RESULT_*`.
        result: u32 = 2,
        /// `NFTA_FIB_F_*`.
        flags: u32 = 3,
    }

    /// `enum nft_nat_attributes`, `net/netfilter/nft_nat.c`
    Nat {
        /// `NFT_NAT_SNAT` or `NFT_NAT_DNAT`.
        kind: u32 = 1,
        /// `NFPROTO_*`.
        family: u32 = 2,
        /// Register with the first address.
        reg_addr_min: u32 = 3,
        /// Register with the last address.
        reg_addr_max: u32 = 4,
        /// Register with the first port.
        reg_proto_min: u32 = 5,
        /// Register with the last port.
        reg_proto_max: u32 = 6,
        /// `NF_NAT_RANGE_*`.
        flags: u32 = 7,
    }

    /// `enum nft_masq_attributes`, `net/netfilter/nft_masq.c`
    Masq {
        /// `NF_NAT_RANGE_*`.
        flags: u32 = 1,
        /// Register with the first port.
        reg_proto_min: u32 = 2,
        /// Register with the last port.
        reg_proto_max: u32 = 3,
    }

    /// `enum nft_redir_attributes`, `net/netfilter/nft_redir.c`
    Redir {
        /// Register with the first port.
        reg_proto_min: u32 = 1,
        /// Register with the last port.
        reg_proto_max: u32 = 2,
        /// `NF_NAT_RANGE_*`.
        flags: u32 = 3,
    }

    /// `enum nft_tproxy_attributes`, `net/netfilter/nft_tproxy.c`
    Tproxy {
        /// `NFPROTO_*`.
        family: u32 = 1,
        /// Register with the address.
        reg_addr: u32 = 2,
        /// Register with the port.
        reg_port: u32 = 3,
    }

    /// `enum nft_queue_attributes`, `net/netfilter/nft_queue.c`
    Queue {
        /// First queue.
        num: u16 = 1,
        /// Number of queues.
        total: u16 = 2,
        /// `NFT_QUEUE_FLAG_*`.
        flags: u16 = 3,
        /// Register with the queue.
        sreg_qnum: u32 = 4,
    }

    /// `enum nft_exthdr_attributes`, `net/netfilter/nft_exthdr.c`: IPv6 extension headers, TCP and
    /// IP options.
    Exthdr {
        /// Register to load into.
        dreg: u32 = 1,
        /// Header or option.
        kind: u8 = 2,
        /// Offset in bytes.
        offset_bytes: u32 = 3,
        /// Length in bytes.
        len_bytes: u32 = 4,
        /// `NFT_EXTHDR_F_*`.
        flags: u32 = 5,
        /// `NFT_EXTHDR_OP_*`.
        op: u32 = 6,
        /// Register to write from.
        sreg: u32 = 7,
    }

    /// `enum nft_hash_attributes`, `net/netfilter/nft_hash.c`
    Hash {
        /// Register read.
        sreg: u32 = 1,
        /// Register written.
        dreg: u32 = 2,
        /// Width in bytes.
        len_bytes: u32 = 3,
        /// Exclusive upper bound of the result.
        modulus: u32 = 4,
        /// Seed.
        seed: u32 = 5,
        /// Added to the result.
        offset: u32 = 6,
        /// `NFT_HASH_*`.
        kind: u32 = 7,
        /// Map to look the result up in.
        set_name: String = 8,
        /// Number of the map within the batch.
        set_id: u32 = 9,
    }

    /// `enum nft_ng_attributes`, `net/netfilter/nft_numgen.c`
    Numgen {
        /// Register written.
        dreg: u32 = 1,
        /// Exclusive upper bound of the result.
        modulus: u32 = 2,
        /// `NFT_NG_*`.
        kind: u32 = 3,
        /// Added to the result.
        offset: u32 = 4,
    }

    /// `enum nft_rt_attributes`, `net/netfilter/nft_rt.c`
    Rt {
        /// Register to load into.
        dreg: u32 = 1,
        /// `NFT_RT_*`.
        key: u32 = 2,
    }

    /// `enum nft_socket_attributes`, `net/netfilter/nft_socket.c`
    Socket {
        /// `NFT_SOCKET_*`.
        key: u32 = 1,
        /// Register to load into.
        dreg: u32 = 2,
        /// Level of a cgroup.
        level: u32 = 3,
    }

    /// `enum nft_osf_attributes`, `net/netfilter/nft_osf.c`
    Osf {
        /// Register to load into.
        dreg: u32 = 1,
        /// Treatment of the TTL.
        ttl: u8 = 2,
        /// `NFT_OSF_F_*`.
        flags: u32 = 3,
    }

    /// `enum nft_connlimit_attributes`, `net/netfilter/nft_connlimit.c`
    Connlimit {
        /// Number of connections.
        count: u32 = 1,
        /// `NFT_CONNLIMIT_F_INV`.
        flags: u32 = 2,
    }

    /// `enum nft_dup_attributes`, `net/ipv4/netfilter/nft_dup_ipv4.c`
    Dup {
        /// Register with the address.
        sreg_addr: u32 = 1,
        /// Register with the device.
        sreg_dev: u32 = 2,
    }

    /// `enum nft_fwd_attributes`, `net/netfilter/nft_fwd_netdev.c`
    Fwd {
        /// Register with the device.
        sreg_dev: u32 = 1,
        /// Register with the address.
        sreg_addr: u32 = 2,
        /// `NFPROTO_*`.
        nfproto: u32 = 3,
    }

    /// `enum nft_match_attributes`, `net/netfilter/nft_compat.c`: an xtables match, as used by
    /// iptables-nft.
    Match {
        /// Name of the match.
        match_name: String = 1,
        /// Revision.
        rev: u32 = 2,
        /// Undecoded struct of the match.
        info: Vec<u8> = 3,
    }

    /// `enum nft_target_attributes`, `net/netfilter/nft_compat.c`: an xtables target.
    Target {
        /// Name of the target.
        target_name: String = 1,
        /// Revision.
        rev: u32 = 2,
        /// Undecoded struct of the target.
        info: Vec<u8> = 3,
    }

    /// `enum nft_synproxy_attributes`, `net/netfilter/nft_synproxy.c`
    Synproxy {
        /// Segment size.
        mss: u16 = 1,
        /// Window scale.
        wscale: u8 = 2,
        /// `NF_SYNPROXY_OPT_*`.
        flags: u32 = 3,
    }

    /// `enum nft_offload_attributes`, `net/netfilter/nft_flow_offload.c`
    FlowOffload {
        /// Name of the flowtable.
        flowtable: String = 1,
    }

    /// `enum nft_inner_attributes`, `net/netfilter/nft_inner.c`: matches within a tunnel.
    Inner {
        /// Number of the inner header.
        num: u32 = 1,
        /// Tunnel type.
        kind: u32 = 2,
        /// `NFT_INNER_*`.
        flags: u32 = 3,
        /// Size of the tunnel's header in bytes.
        hdrsize_bytes: u32 = 4,
        /// Expression to evaluate on the inner header.
        expr: Box<Nested<Expr>> = 5,
    }

    /// `enum nft_xfrm_attributes`, `net/netfilter/nft_xfrm.c`
    Xfrm {
        /// Register to load into.
        dreg: u32 = 1,
        /// `NFT_XFRM_KEY_*`.
        key: u32 = 2,
        /// `XFRM_POLICY_*`.
        dir: u8 = 3,
        /// Number of the transformation.
        spnum: u32 = 4,
    }

    /// `enum nft_tunnel_key_attributes`, `net/netfilter/nft_tunnel.c`
    Tunnel {
        /// `NFT_TUNNEL_*`.
        key: u32 = 1,
        /// Register to load into.
        dreg: u32 = 2,
        /// `NFT_TUNNEL_MODE_*`.
        mode: u32 = 3,
    }
}
