//! What an agent decides: when to look after the rules, and what becomes of trials and
//! confirmations.

pub mod keep;
pub mod reconcile;
