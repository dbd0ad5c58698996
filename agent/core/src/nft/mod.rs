//! nf_tables backend: observed state, plans, and conversion between rules and netlink messages.

mod expr;
pub mod foreign;
pub mod judge;
pub mod kconfig;
pub mod lift;
pub mod lower;
pub mod machine;
pub mod memory;
pub mod observed;
pub mod plan;
mod summary;
pub mod tracing;
pub mod unchanged;
