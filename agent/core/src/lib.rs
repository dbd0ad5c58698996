//! What peerwall decides, without touching the world: no socket, file, process or clock.
//!
//! Down: text → [`policy`] → [`compile`] → [`ruleset`] → [`plan`] → [`lower`] (netlink messages)
//! or [`render`] (nft text). Up: netlink messages → [`lift`] → [`observed`]. Aside: the policy's own
//! answer to a packet ([`policy::Policy::verdict`]) must equal the ruleset's ([`eval`]).

pub mod addr;
pub mod backend;
pub mod compile;
pub mod diagnostic;
pub mod eval;
pub mod expect;
pub mod flannel;
pub mod foreign;
pub mod host;
pub mod import;
pub mod interface;
pub mod ipset;
pub mod kconfig;
pub mod keep;
pub mod lift;
pub mod link;
pub mod lower;
pub mod memory;
pub mod observed;
pub mod packet;
pub mod plan;
pub mod policy;
pub mod port;
pub mod reason;
pub mod reconcile;
pub mod render;
pub mod restore;
pub mod revoke;
pub mod ruleset;
pub mod saved;
mod wire;

#[cfg(any(test, feature = "generate"))]
pub mod generate;
