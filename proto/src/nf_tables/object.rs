//! Tables, chains, sets, elements, rules, stateful objects and the generation.

use super::expr::Expr;
use super::schema::{Attributes, NFTA_LIST_ELEM, Nested, attributes};
use crate::netlink::attr::{AttrWriter, TooLong};

attributes! {
    /// `enum nft_table_attributes`
    Table {
        /// Name, unique within a family.
        name: String = 1,
        /// `NFT_TABLE_F_*`
        flags: u32 = 2,
        /// Number of chains and sets (kernel to user).
        use_count: u32 = 3,
        /// Handle (kernel to user).
        handle: u64 = 4,
        /// User data, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 6,
        /// Netlink port id of the owner; absent if there is none (kernel to user).
        owner: u32 = 7,
    }

    /// `enum nft_hook_attributes`
    Hook {
        /// `NF_INET_*`
        hooknum: u32 = 1,
        /// Priority among chains at the hook; two's complement of an `i32`.
        priority: u32 = 2,
        /// Device of an ingress or egress hook.
        dev: String = 3,
    }

    /// `enum nft_chain_attributes`
    Chain {
        /// Table of the chain.
        table: String = 1,
        /// Handle.
        handle: u64 = 2,
        /// Name, unique within its table.
        name: String = 3,
        /// Hook; absent for a regular chain.
        hook: Nested<Hook> = 4,
        /// Verdict at the end, `NF_DROP` or `NF_ACCEPT`; base chains only.
        policy: u32 = 5,
        /// Number of jumps to the chain and of its rules (kernel to user).
        use_count: u32 = 6,
        /// `filter`, `nat` or `route`; base chains only.
        kind: String = 7,
        /// Packets and bytes that reached the policy; only for base chains created with counters.
        counters: Nested<Counter> = 8,
        /// `NFT_CHAIN_*`
        flags: u32 = 10,
        /// Number within the batch that creates the chain.
        id: u32 = 11,
        /// User data, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 12,
    }

    /// `enum nft_set_field_attributes`: one field of a concatenated key.
    SetDescField {
        /// Length in bytes.
        len: u32 = 1,
    }

    /// `enum nft_set_desc_attributes`
    SetDesc {
        /// Expected number of elements, used by the kernel for sizing.
        size: u32 = 1,
        /// Fields of a concatenated key.
        concat: Vec<SetDescField> = 2,
    }

    /// `enum nft_set_attributes`
    Set {
        /// Table of the set.
        table: String = 1,
        /// Name, unique within its table.
        name: String = 2,
        /// `NFT_SET_*`
        flags: u32 = 3,
        /// Number of the key type in nft. The kernel only stores it.
        key_type: u32 = 4,
        /// Length of the key in bytes.
        key_len: u32 = 5,
        /// Type of the values of a map.
        data_type: u32 = 6,
        /// Length of a map's values in bytes.
        data_len: u32 = 7,
        /// `NFT_SET_POL_*`
        policy: u32 = 8,
        /// Hints for choosing the data structure.
        desc: Nested<SetDesc> = 9,
        /// Number within the batch that creates the set.
        id: u32 = 10,
        /// Default timeout in milliseconds.
        timeout: u64 = 11,
        /// Milliseconds between garbage collections of expired elements.
        gc_interval: u32 = 12,
        /// User data, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 13,
        /// `NFT_OBJECT_*` of an object map.
        obj_type: u32 = 15,
        /// Handle.
        handle: u64 = 16,
        /// Expression of each new element.
        expr: Nested<Expr> = 17,
        /// Several expressions of each new element.
        exprs: Vec<Expr> = 18,
        /// Data structure in the kernel, as text (kernel to user, Linux 6.16).
        kind: String = 19,
        /// Number of elements, including inactive interval ends (kernel to user, Linux 6.16).
        count: u32 = 20,
    }

    /// `enum nft_set_elem_attributes`
    Element {
        /// Key, or start of an interval.
        key: Nested<super::expr::Data> = 1,
        /// Value of a map.
        data: Nested<super::expr::Data> = 2,
        /// `NFT_SET_ELEM_*`
        flags: u32 = 3,
        /// Timeout in milliseconds.
        timeout: u64 = 4,
        /// Remaining time in milliseconds (kernel to user).
        expiration: u64 = 5,
        /// User data, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 6,
        /// Expression of this element, such as a counter.
        expr: Nested<Expr> = 7,
        /// Name of the object that an object map assigns.
        objref: String = 9,
        /// Last value of an interval of a concatenated key.
        key_end: Nested<super::expr::Data> = 10,
        /// Several expressions of this element.
        exprs: Vec<Expr> = 11,
    }

    /// `enum nft_set_elem_list_attributes`
    ElementList {
        /// Table of the set.
        table: String = 1,
        /// Name of the set.
        set: String = 2,
        /// Elements. One message fits just under 64 KiB of them, see [`element_lists`].
        elements: Vec<Element> = 3,
        /// Number of the set within the batch.
        set_id: u32 = 4,
    }

    /// `enum nft_rule_attributes`
    Rule {
        /// Table of the rule.
        table: String = 1,
        /// Chain of the rule.
        chain: String = 2,
        /// Handle.
        handle: u64 = 3,
        /// Expressions, in order.
        exprs: Vec<Expr> = 4,
        /// Family and flags of an `xt` rule, not decoded.
        compat: Vec<u8> = 5,
        /// Handle of the preceding rule; in a request, of the rule to insert before or after.
        position: u64 = 6,
        /// User data, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 7,
        /// Number within the batch.
        id: u32 = 9,
        /// Like `position`, but the number within the batch.
        position_id: u32 = 10,
    }

    /// `enum nft_object_attributes`, with `NFT_OBJECT_COUNTER`'s data typed.
    Object {
        /// Table of the object.
        table: String = 1,
        /// Name, unique within table and type.
        name: String = 2,
        /// `NFT_OBJECT_*`
        kind: u32 = 3,
        /// Encoded state; a [`Counter`] if `kind` is `NFT_OBJECT_COUNTER`.
        data: Vec<u8> = 4,
        /// Number of rules and elements that refer to the object (kernel to user).
        use_count: u32 = 5,
        /// Handle.
        handle: u64 = 6,
        /// User data, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 8,
    }

    /// `enum nft_counter_attributes`
    Counter {
        /// Bytes counted.
        bytes: u64 = 1,
        /// Packets counted.
        packets: u64 = 2,
    }

    /// `enum nft_gen_attributes`
    Generation {
        /// Number of the generation. Each commit in the network namespace increments it.
        id: u32 = 1,
        /// Process id of the committing process.
        pid: u32 = 2,
        /// Process name as chosen by the process: arbitrary bytes up to the first NUL.
        process: Vec<u8> = 3,
    }
}

impl Object {
    /// Returns the state of a counter; `None` for other objects.
    ///
    /// # Errors
    /// [`DecodeError`](crate::netlink::attr::DecodeError) if the state is malformed.
    pub fn counter(&self) -> Result<Option<Counter>, crate::netlink::attr::DecodeError> {
        match (self.kind, &self.data) {
            (Some(super::NFT_OBJECT_COUNTER), Some(data)) => {
                Counter::decode(crate::netlink::attr::Attrs::new(data)).map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Hook {
    /// Returns the priority as a signed number.
    pub fn priority(&self) -> Option<i32> {
        self.priority.map(u32::cast_signed)
    }
}

/// Maximum size of a message's elements in bytes. Their attribute may have 65,535 bytes; the margin
/// is for its header and for attributes that a newer kernel adds to a response.
const ELEMENT_LIST_BYTES: usize = 60_000;

/// Splits elements into attribute lists, each ready to be a message's `attrs`.
///
/// `elements` writes one element per call and returns `false` at the end. Send all messages in one
/// batch to keep the change a single transaction.
///
/// # Errors
/// [`TooLong`] if a single element does not fit.
pub fn element_lists(
    table: &str,
    set: &str,
    mut elements: impl FnMut(&mut AttrWriter) -> bool,
) -> Result<Vec<Vec<u8>>, TooLong> {
    let mut lists = Vec::new();
    let mut more = true;
    while more {
        let mut w = AttrWriter::new();
        w.string(1, table);
        w.string(2, set);
        let mut any = false;
        w.nest(3, |w| {
            let start = w.len_bytes();
            while more && w.len_bytes() - start < ELEMENT_LIST_BYTES {
                let before = w.len_bytes();
                more = elements(w);
                any |= w.len_bytes() > before;
            }
        });
        if any {
            lists.push(w.finish()?);
        }
    }
    Ok(lists)
}

/// Writes one element into a list of [`element_lists`].
pub(crate) fn write_element(w: &mut AttrWriter, element: &Element) {
    w.nest(NFTA_LIST_ELEM, |w| element.encode(w));
}

impl Element {
    /// Writes the element as a member of a list.
    pub fn write(&self, w: &mut AttrWriter) {
        write_element(w, self);
    }
}
