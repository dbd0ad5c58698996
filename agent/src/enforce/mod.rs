//! Where rulesets are enforced: by nf_tables or by iptables.

pub mod converge;
mod enforcer;
pub mod foreign;
mod holder;
pub mod iptables;
pub mod nft;
pub mod switch;
pub mod tools;

pub use enforcer::{AnyObserved, Enforcer};
pub use holder::{Done, Holder};
