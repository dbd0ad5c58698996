//! Decisions of the agent: when to check the rules, and the state of trials and confirmations.

pub mod keep;
pub mod reconcile;
