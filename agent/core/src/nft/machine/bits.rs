//! Values of which only some bits are known.

use std::cmp::Ordering;

use peerwall_proto::netlink::attr::u32_from_register;

/// Bytes with a mask of the bits that are known. Unknown bits are 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    known: Vec<u8>,
}

impl Bits {
    /// Creates a known value.
    pub(super) fn known(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let known = vec![0xff; bytes.len()];
        Self { bytes, known }
    }

    /// Creates an unknown value of a length in bytes.
    pub(super) fn unknown(len_bytes: usize) -> Self {
        Self {
            bytes: vec![0; len_bytes],
            known: vec![0; len_bytes],
        }
    }

    /// Length in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes, if all of them are known.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        let is_known = self.known.iter().all(|mask| *mask == 0xff);
        is_known.then_some(&self.bytes)
    }

    /// Returns the first 4 bytes as a number in host byte order, and the bits of it that are known.
    pub(super) fn number(&self) -> (u32, u32) {
        let number = |bytes: &[u8]| {
            let mut word = [0; 4];
            word.iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            u32_from_register(&word).unwrap_or_default()
        };
        (number(&self.bytes), number(&self.known))
    }

    /// Returns a part; bytes behind the end are unknown.
    #[must_use]
    pub(super) fn part(&self, from_bytes: usize, len_bytes: usize) -> Self {
        let mut found = Self::unknown(len_bytes);
        let end = self.bytes.len().min(from_bytes.saturating_add(len_bytes));
        if let Some(len) = end.checked_sub(from_bytes) {
            found.bytes[..len].copy_from_slice(&self.bytes[from_bytes..end]);
            found.known[..len].copy_from_slice(&self.known[from_bytes..end]);
        }
        found
    }

    /// Replaces bytes from a position on. What is behind the end is ignored.
    pub(super) fn put(&mut self, from_bytes: usize, value: &Self) {
        for (index, (byte, known)) in value.bytes.iter().zip(&value.known).enumerate() {
            let at = from_bytes.saturating_add(index);
            if let (Some(here), Some(mask)) = (self.bytes.get_mut(at), self.known.get_mut(at)) {
                (*here, *mask) = (*byte, *known);
            }
        }
    }

    /// Returns the value with zeros added to a length in bytes.
    #[must_use]
    pub(super) fn padded(mut self, len_bytes: usize) -> Self {
        let len = self.bytes.len().max(len_bytes);
        self.bytes.resize(len, 0);
        self.known.resize(len, 0xff);
        self
    }

    /// Computes `(value & mask) ^ xor`, as the kernel does; shorter operands count as 0.
    #[must_use]
    pub(super) fn masked(&self, mask: &[u8], xor: &[u8]) -> Self {
        let mut found = self.clone();
        for (index, (byte, known)) in found.bytes.iter_mut().zip(&mut found.known).enumerate() {
            let mask = mask.get(index).copied().unwrap_or(0);
            *known |= !mask;
            *byte = ((*byte & mask) ^ xor.get(index).copied().unwrap_or(0)) & *known;
        }
        found
    }

    /// Combines two values bit by bit; a bit of the result is known only if both are.
    #[must_use]
    pub(super) fn combined(&self, other: &Self, combine: fn(u8, u8) -> u8) -> Self {
        let mut found = self.clone();
        for (index, (byte, known)) in found.bytes.iter_mut().zip(&mut found.known).enumerate() {
            *known &= other.known.get(index).copied().unwrap_or(0);
            *byte = combine(*byte, other.bytes.get(index).copied().unwrap_or(0)) & *known;
        }
        found
    }

    /// Reverses the bytes of each unit, as a change of byte order does.
    #[must_use]
    pub(super) fn swapped(&self, unit_bytes: usize) -> Self {
        let swap = |bytes: &[u8]| -> Vec<u8> {
            let units = bytes.chunks(unit_bytes.max(1));
            units.flat_map(|unit| unit.iter().rev().copied()).collect()
        };
        Self {
            bytes: swap(&self.bytes),
            known: swap(&self.known),
        }
    }

    /// Compares the first bytes with a constant, as `memcmp()` does. `None` if unknown bits decide.
    pub(super) fn compared(&self, with: &[u8]) -> Option<Ordering> {
        let (least, most) = self.bounds(with.len());
        match (least.as_slice().cmp(with), most.as_slice().cmp(with)) {
            (least, most) if least == most => Some(least),
            _ => None,
        }
    }

    /// Reports whether the first bytes equal a constant. `None` if unknown bits decide.
    pub(super) fn equals(&self, with: &[u8]) -> Option<bool> {
        let head = self.part(0, with.len());
        let bits = head.bytes.iter().zip(&head.known).zip(with);
        let differs = bits
            .clone()
            .any(|((byte, known), want)| (byte ^ want) & known != 0);
        match (differs, head.whole()) {
            (true, _) => Some(false),
            (false, Some(_)) => Some(true),
            (false, None) => None,
        }
    }

    /// Returns the least and the greatest possible value of the first bytes.
    fn bounds(&self, len_bytes: usize) -> (Vec<u8>, Vec<u8>) {
        let head = self.part(0, len_bytes);
        let most = head.bytes.iter().zip(&head.known);
        (
            head.bytes.clone(),
            most.map(|(byte, known)| byte | !known).collect(),
        )
    }

    /// Reports whether the first bytes are within a range. `None` if unknown bits decide.
    pub(super) fn is_within(&self, first: &[u8], last: &[u8]) -> Option<bool> {
        match (self.compared(first), self.compared(last)) {
            (Some(Ordering::Less), _) | (_, Some(Ordering::Greater)) => Some(false),
            (Some(_), Some(_)) => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All values of two bytes that have these known bits.
    fn all(bits: &Bits) -> Vec<[u8; 2]> {
        let values = (0..=u16::MAX).map(u16::to_be_bytes);
        let fits = |value: &[u8; 2]| bits.equals(value) != Some(false);
        values.filter(fits).collect()
    }

    /// What all values agree on.
    fn agreed<T: PartialEq + Copy>(mut all: impl Iterator<Item = T>) -> Option<T> {
        let first = all.next()?;
        all.all(|each| each == first).then_some(first)
    }

    fn some_bits() -> impl Strategy<Value = Bits> {
        (any::<[u8; 2]>(), any::<[u8; 2]>(), any::<[u8; 2]>()).prop_map(|(bytes, a, b)| {
            let known = [a[0] | b[0], a[1] | b[1]];
            Bits {
                bytes: vec![bytes[0] & known[0], bytes[1] & known[1]],
                known: known.to_vec(),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn answers_are_those_of_all_values(bits in some_bits(), a: [u8; 2], b: [u8; 2]) {
            let values = all(&bits);
            let values = || values.iter();
            prop_assert_eq!(bits.equals(&a), agreed(values().map(|v| *v == a)));
            prop_assert_eq!(bits.compared(&a), agreed(values().map(|v| v.cmp(&a))));
            // Unknown bits can give values around a range: then no answer is right, too.
            let within = agreed(values().map(|v| (a..=b).contains(v)));
            let said = bits.is_within(&a, &b);
            prop_assert!(said.is_none() || said == within, "{:?} {:?}", said, within);
        }

        #[test]
        fn masks_make_bits_known(bits in some_bits(), mask: [u8; 2], xor: [u8; 2], want: [u8; 2]) {
            let computed = |v: &[u8; 2]| {
                [(v[0] & mask[0]) ^ xor[0], (v[1] & mask[1]) ^ xor[1]]
            };
            let wanted = agreed(all(&bits).iter().map(|v| computed(v) == want));
            prop_assert_eq!(bits.masked(&mask, &xor).equals(&want), wanted);
        }
    }

    #[test]
    fn parts_behind_the_end_are_unknown() {
        let bits = Bits::known([1, 2, 3]);
        assert_eq!(bits.part(1, 2).whole(), Some(&[2, 3][..]));
        assert_eq!(bits.part(2, 2).whole(), None);
        assert_eq!(bits.part(9, 1), Bits::unknown(1));
        assert_eq!(bits.part(1, 4).equals(&[9, 0, 0, 0]), Some(false));
        assert_eq!(bits.swapped(2).whole(), Some(&[2, 1, 3][..]));
        assert_eq!(bits.padded(4).whole(), Some(&[1, 2, 3, 0][..]));
    }
}
