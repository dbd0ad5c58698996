//! What peerwall decides, without touching the world: no socket, file, process or clock.
//!
//! Down: text → [`policy`] → [`ruleset::compile`] → [`ruleset`] → [`nft::plan`] → [`nft::lower`]
//! (netlink messages) or [`ruleset::render`] (nft text) or [`iptables`]. Up: netlink messages →
//! [`nft::lift`] → [`nft::observed`]. Aside: the policy's own answer to a packet
//! ([`policy::Policy::verdict`]) must equal the ruleset's ([`ruleset::eval`]).

pub mod agent;
pub mod backend;
pub mod diagnostic;
pub mod import;
pub mod iptables;
pub mod net;
pub mod nft;
pub mod policy;
pub mod ruleset;

#[cfg(any(test, feature = "generate"))]
pub mod generate;
