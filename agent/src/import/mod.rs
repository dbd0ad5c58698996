//! Input of the import that other programs must read first.

mod hidden;
pub mod iptables;
mod lines;
pub mod live;
pub mod nft;
mod private;
mod refusal;
mod shapes;
mod unread;
