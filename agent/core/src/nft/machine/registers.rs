//! Registers of nf_tables (`struct nft_regs` in `include/net/netfilter/nf_tables.h`).

use super::bits::Bits;

/// Size of all data registers in bytes.
pub(super) const SIZE_BYTES: usize = 64;
/// Size of a register `NFT_REG32_*` in bytes.
const WORD_BYTES: usize = 4;
/// `NFT_REG32_00`
const NFT_REG32_00: u32 = 8;
/// Last of the registers of 16 bytes (`NFT_REG_4`).
const NFT_REG_4: u32 = 4;

/// Data registers, and what is unknown in each word.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    data: Bits,
    unknown: [Option<String>; SIZE_BYTES / WORD_BYTES],
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            data: Bits::unknown(SIZE_BYTES),
            unknown: Default::default(),
        }
    }
}

/// Returns the position of a register in bytes.
fn position(register: u32) -> usize {
    let word = match register {
        1..=NFT_REG_4 => (register - 1) * 4,
        _ => register.saturating_sub(NFT_REG32_00),
    };
    usize::try_from(word)
        .unwrap_or(SIZE_BYTES)
        .saturating_mul(WORD_BYTES)
}

impl Registers {
    /// Writes a value, padded with zeros to whole words. `about` says what is unknown in it.
    pub(super) fn write(&mut self, register: u32, value: Bits, about: &str) {
        let len = value.len_bytes().next_multiple_of(WORD_BYTES);
        let is_known = value.whole().is_some();
        let at = position(register);
        self.data.put(at, &value.padded(len));
        let words = self.unknown.iter_mut().skip(at / WORD_BYTES);
        for word in words.take(len / WORD_BYTES) {
            *word = (!is_known).then(|| about.to_owned());
        }
    }

    pub(super) fn read(&self, register: u32, len_bytes: usize) -> Bits {
        self.data
            .part(position(register), len_bytes.min(SIZE_BYTES))
    }

    /// Says what is unknown in a value.
    pub(super) fn about(&self, register: u32, len_bytes: usize) -> String {
        let words = self.unknown.iter().skip(position(register) / WORD_BYTES);
        let mut words = words.take(len_bytes.div_ceil(WORD_BYTES)).flatten();
        words
            .next()
            .cloned()
            .unwrap_or_else(|| "a value".to_owned())
    }
}
