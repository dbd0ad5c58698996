//! Input of the import that other programs must read first.

pub mod nft;
mod private;
