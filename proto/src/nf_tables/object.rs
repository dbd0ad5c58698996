//! Tables, chains, sets, elements, rules, stateful objects, the generation.

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
        /// Kernel's number for it (kernel to user).
        handle: u64 = 4,
        /// What user space keeps with it, see [`userdata`](super::userdata).
        userdata: Vec<u8> = 6,
        /// Netlink port id of the owner; absent without one (kernel to user).
        owner: u32 = 7,
    }

    /// `enum nft_hook_attributes`
    Hook {
        /// `NF_INET_*`
        hooknum: u32 = 1,
        /// Order among chains of a hook; two's complement of an `i32`.
        priority: u32 = 2,
        /// Device of an ingress or egress hook.
        dev: String = 3,
    }

    /// `enum nft_chain_attributes`
    Chain {
        /// Table it is in.
        table: String = 1,
        /// Kernel's number for it.
        handle: u64 = 2,
        /// Name, unique within its table.
        name: String = 3,
        /// Where packets enter it; absent for a regular chain.
        hook: Nested<Hook> = 4,
        /// Verdict at its end, `NF_DROP` or `NF_ACCEPT`; base chains only.
        policy: u32 = 5,
        /// Number of jumps into it and rules in it (kernel to user).
        use_count: u32 = 6,
        /// `filter`, `nat` or `route`; base chains only.
        kind: String = 7,
        /// Packets and bytes that met the policy; base chains that asked for it.
        counters: Nested<Counter> = 8,
        /// `NFT_CHAIN_*`
        flags: u32 = 10,
        /// Number for use within the batch that makes it.
        id: u32 = 11,
        /// See [`userdata`](super::userdata).
        userdata: Vec<u8> = 12,
    }

    /// `enum nft_set_field_attributes`: one field of a concatenated key.
    SetDescField {
        /// Length in bytes.
        len: u32 = 1,
    }

    /// `enum nft_set_desc_attributes`
    SetDesc {
        /// How many elements it is going to have; the kernel sizes by it.
        size: u32 = 1,
        /// Fields of a concatenated key.
        concat: Vec<SetDescField> = 2,
    }

    /// `enum nft_set_attributes`
    Set {
        /// Table it is in.
        table: String = 1,
        /// Name, unique within its table.
        name: String = 2,
        /// `NFT_SET_*`
        flags: u32 = 3,
        /// nft's number for the type of the key; the kernel only keeps it.
        key_type: u32 = 4,
        /// Length of the key in bytes.
        key_len: u32 = 5,
        /// Type of what a map maps to.
        data_type: u32 = 6,
        /// Its length in bytes.
        data_len: u32 = 7,
        /// `NFT_SET_POL_*`
        policy: u32 = 8,
        /// Hints for the choice of data structure.
        desc: Nested<SetDesc> = 9,
        /// Number for use within the batch that makes it.
        id: u32 = 10,
        /// Default timeout in milliseconds.
        timeout: u64 = 11,
        /// Milliseconds between collections of timed-out elements.
        gc_interval: u32 = 12,
        /// See [`userdata`](super::userdata).
        userdata: Vec<u8> = 13,
        /// `NFT_OBJECT_*` of an object map.
        obj_type: u32 = 15,
        /// Kernel's number for it.
        handle: u64 = 16,
        /// Expression each new element carries.
        expr: Nested<Expr> = 17,
        /// Several such expressions.
        exprs: Vec<Expr> = 18,
        /// The kernel's data structure, as text (kernel to user, Linux 6.16).
        kind: String = 19,
        /// Number of elements, inactive ones of intervals included (kernel to user, Linux 6.16).
        count: u32 = 20,
    }

    /// `enum nft_set_elem_attributes`
    Element {
        /// The key, or where an interval starts.
        key: Nested<super::expr::Data> = 1,
        /// What a map maps the key to.
        data: Nested<super::expr::Data> = 2,
        /// `NFT_SET_ELEM_*`
        flags: u32 = 3,
        /// Milliseconds it lives.
        timeout: u64 = 4,
        /// Milliseconds it has left (kernel to user).
        expiration: u64 = 5,
        /// See [`userdata`](super::userdata).
        userdata: Vec<u8> = 6,
        /// A counter or the like on this element.
        expr: Nested<Expr> = 7,
        /// Object an object map maps the key to.
        objref: String = 9,
        /// Last value of an interval of a concatenated key.
        key_end: Nested<super::expr::Data> = 10,
        /// Several expressions on this element.
        exprs: Vec<Expr> = 11,
    }

    /// `enum nft_set_elem_list_attributes`
    ElementList {
        /// Table the set is in.
        table: String = 1,
        /// The set's name.
        set: String = 2,
        /// The elements; under 64 KiB of them fit one message, see [`element_lists`].
        elements: Vec<Element> = 3,
        /// The set's number within a batch.
        set_id: u32 = 4,
    }

    /// `enum nft_rule_attributes`
    Rule {
        /// Table it is in.
        table: String = 1,
        /// Chain it is in.
        chain: String = 2,
        /// Kernel's number for it.
        handle: u64 = 3,
        /// What it does, in order.
        exprs: Vec<Expr> = 4,
        /// Family and flags of an `xt` rule; kept as bytes.
        compat: Vec<u8> = 5,
        /// Handle of the rule before (or, when adding, behind or before) it.
        position: u64 = 6,
        /// See [`userdata`](super::userdata).
        userdata: Vec<u8> = 7,
        /// Number for use within a batch.
        id: u32 = 9,
        /// As `position`, by the number within a batch.
        position_id: u32 = 10,
    }

    /// `enum nft_object_attributes`, with `NFT_OBJECT_COUNTER`'s data typed.
    Object {
        /// Table it is in.
        table: String = 1,
        /// Name, unique within table and type.
        name: String = 2,
        /// `NFT_OBJECT_*`
        kind: u32 = 3,
        /// Its state; a [`Counter`] when `kind` is `NFT_OBJECT_COUNTER`.
        data: Vec<u8> = 4,
        /// Rules and elements that refer to it (kernel to user).
        use_count: u32 = 5,
        /// Kernel's number for it.
        handle: u64 = 6,
        /// See [`userdata`](super::userdata).
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
        /// Number of the generation; each commit anywhere in the namespace adds one.
        id: u32 = 1,
        /// Process that made it.
        pid: u32 = 2,
        /// Its name as the process chose it: any bytes, up to the first NUL.
        process: Vec<u8> = 3,
    }
}

impl Object {
    /// The counter's state, if this is a counter.
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
    /// The priority as the signed number it is.
    pub fn priority(&self) -> Option<i32> {
        self.priority.map(u32::cast_signed)
    }
}

/// Bytes of elements in one message. The attribute that holds them may have 65,535; the margin is
/// for its header and for what a newer kernel adds on the way back.
const ELEMENT_LIST_BYTES: usize = 60_000;

/// Splits elements over as many attribute lists as it takes, each ready to be a message's `attrs`.
///
/// `elements` is asked to write one element at a time; `false` ends it. The messages belong into
/// the same batch: that keeps the whole change one transaction.
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

/// Writes one element into a list made by [`element_lists`].
pub(crate) fn write_element(w: &mut AttrWriter, element: &Element) {
    w.nest(NFTA_LIST_ELEM, |w| element.encode(w));
}

impl Element {
    /// Writes this element as a member of a list.
    pub fn write(&self, w: &mut AttrWriter) {
        write_element(w, self);
    }
}
