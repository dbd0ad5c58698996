//! The two backends that enforce rulesets: nf_tables and iptables.

mod changes;
pub mod converge;
mod enforcer;
pub mod foreign;
pub mod hooks;
pub mod iptables;
pub mod nft;
pub mod switch;
mod watched;

pub use enforcer::{AnyObserved, Enforcer};
pub use watched::{Enforced, Watched};
