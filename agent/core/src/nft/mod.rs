//! The nf_tables backend: what is observed, the plan from there to a ruleset, and both ways between
//! rules and the kernel's messages.

mod expr;
pub mod foreign;
pub mod kconfig;
pub mod lift;
pub mod lower;
pub mod memory;
pub mod observed;
pub mod plan;
mod summary;
