//! Decisions of peerwall, without I/O: no socket, file, process or clock.
//!
//! - Apply: text → [`policy`] → [`ruleset::compile`] → [`ruleset`] → [`nft::plan`] → [`nft::lower`]
//!   (netlink messages), [`ruleset::render`] (nft text) or [`iptables`].
//! - Observe: netlink messages → [`nft::lift`] → [`nft::observed`].
//! - Answer: a packet → [`explain`]; two rulesets → [`import::meaning`]; denied packets →
//!   [`denied`].
//! - Test by packets: expectations and packet lists → [`testing`].
//! - Test: the verdict of the policy ([`policy::Policy::verdict`]) must equal the verdict of the
//!   ruleset ([`ruleset::eval`]).

pub mod agent;
pub mod backend;
pub mod denied;
pub mod diagnostic;
pub mod doctor;
pub mod explain;
pub mod exposed;
pub mod import;
pub mod iptables;
pub mod net;
pub mod nft;
pub mod policy;
pub mod rates;
pub mod ruleset;
pub mod sources;
pub mod testing;
pub mod words;

#[cfg(any(test, feature = "generate"))]
pub mod generate;
