//! Sets of a kernel, and look-ups with keys that may be known only in part.

use peerwall_proto::nf_tables::NFT_SET_ELEM_INTERVAL_END;
use peerwall_proto::nf_tables::expr::Data;
use peerwall_proto::nf_tables::{self as nft, Element, NFT_SET_CONCAT, NFT_SET_INTERVAL};

use super::bits::Bits;
use super::registers::SIZE_BYTES;

/// `NFT_SET_ELEM_CATCHALL`: the element for all keys that no other one has.
const NFT_SET_ELEM_CATCHALL: u32 = 2;
/// Fields of a concatenated key begin at multiples of this (`NFT_REG32_SIZE`).
const FIELD_BYTES: usize = 4;

/// A set or map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelSet {
    key_bytes: usize,
    is_interval: bool,
    /// Lengths of the fields of a concatenated key in bytes.
    fields: Vec<usize>,
    elements: Vec<Element>,
    /// Whether all elements were read.
    is_read: bool,
}

/// Answer to a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found<'s> {
    /// No element has the key.
    No,
    /// An element has it.
    Yes(&'s Element),
    /// Unknown bits of the key, or elements that were not read, decide between no element and
    /// these.
    Maybe(Vec<&'s Element>),
}

impl KernelSet {
    pub(super) fn new(set: &nft::Set) -> Self {
        let flags = set.flags.unwrap_or_default();
        let concat = set.desc.as_ref().and_then(|desc| desc.0.concat.as_ref());
        let lengths = concat.into_iter().flatten();
        let lengths = lengths.filter_map(|field| usize::try_from(field.len?).ok());
        let lengths = lengths.map(|len| len.min(SIZE_BYTES));
        Self {
            key_bytes: usize::try_from(set.key_len.unwrap_or_default())
                .map_or(SIZE_BYTES, |len| len.min(SIZE_BYTES)),
            is_interval: flags & NFT_SET_INTERVAL != 0,
            fields: if flags & NFT_SET_CONCAT == 0 {
                Vec::new()
            } else {
                lengths.collect()
            },
            elements: Vec::new(),
            is_read: false,
        }
    }

    pub(super) fn add(&mut self, elements: Vec<Element>) {
        self.elements.extend(elements);
    }

    /// Declares that all elements were added.
    pub(super) fn complete(&mut self) {
        self.is_read = true;
        if self.is_interval && self.fields.is_empty() {
            // An end sorts before the start at the same key.
            self.elements
                .sort_by_key(|element| (key(element).to_vec(), !is_end(element)));
        }
    }

    /// Returns the bytes of all keys, of ends of intervals too.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self
            .elements
            .iter()
            .filter_map(|element| element.key_end.as_ref());
        let ends = ends.filter_map(|end| end.0.value.as_deref());
        self.elements.iter().map(key).chain(ends)
    }

    /// Length of the keys in bytes.
    pub(super) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    pub(super) fn find(&self, wanted: &Bits) -> Found<'_> {
        if !self.is_read {
            return Found::Maybe(Vec::new());
        }
        let mut possible = Vec::new();
        for (index, element) in self.elements.iter().enumerate() {
            if is_end(element) || is_catchall(element) {
                continue;
            }
            match self.has(index, element, wanted) {
                Some(true) => return Found::Yes(element),
                Some(false) => {}
                None => possible.push(element),
            }
        }
        let others = self.elements.iter().find(|element| is_catchall(element));
        match (possible.is_empty(), others) {
            (true, Some(element)) => Found::Yes(element),
            (true, None) => Found::No,
            (false, others) => {
                possible.extend(others);
                Found::Maybe(possible)
            }
        }
    }

    fn has(&self, index: usize, element: &Element, wanted: &Bits) -> Option<bool> {
        let first = key(element);
        if !self.is_interval {
            return wanted.equals(first.get(..self.key_bytes).unwrap_or(first));
        }
        if let Some(last) = element
            .key_end
            .as_ref()
            .and_then(|end| end.0.value.as_deref())
        {
            return self.has_fields(first, last, wanted);
        }
        if !self.fields.is_empty() {
            return self.has_fields(first, first, wanted);
        }
        let order = wanted.compared(first);
        let is_behind = order.map(std::cmp::Ordering::is_ge);
        let end = self.elements.get(index + 1);
        let is_before_end = match end.map(|end| wanted.compared(key(end))) {
            None => Some(true),
            Some(order) => order.map(std::cmp::Ordering::is_lt),
        };
        both(is_behind, is_before_end)
    }

    /// Compares each field of a concatenated key with its range.
    fn has_fields(&self, first: &[u8], last: &[u8], wanted: &Bits) -> Option<bool> {
        let whole = [self.key_bytes];
        let fields = if self.fields.is_empty() {
            &whole[..]
        } else {
            &self.fields
        };
        let mut at = 0;
        let mut found = Some(true);
        for len in fields {
            let range = at..usize::saturating_add(at, *len);
            let is_within = match (first.get(range.clone()), last.get(range)) {
                (Some(first), Some(last)) => wanted.part(at, *len).is_within(first, last),
                _ => Some(false),
            };
            found = both(found, is_within);
            at = at.saturating_add(len.next_multiple_of(FIELD_BYTES));
        }
        found
    }
}

fn key(element: &Element) -> &[u8] {
    let key = element.key.as_ref().and_then(|key| key.0.value.as_deref());
    key.unwrap_or_default()
}

fn is_end(element: &Element) -> bool {
    element.flags.unwrap_or_default() & NFT_SET_ELEM_INTERVAL_END != 0
}

fn is_catchall(element: &Element) -> bool {
    element.flags.unwrap_or_default() & NFT_SET_ELEM_CATCHALL != 0
}

/// Returns the value of an element of a map.
pub(super) fn data(element: &Element) -> Option<&Data> {
    element.data.as_ref().map(|data| &data.0)
}

fn both(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}
