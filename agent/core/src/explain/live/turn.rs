//! The base chains of a hook, in their turns.

use super::Printed;
use crate::nft::machine::KernelTable;

/// A base chain at a hook.
#[derive(Clone, Copy)]
pub(super) enum Layer<'r> {
    Nft(&'r KernelTable, &'r str, bool),
    Printed(&'r Printed),
}

impl Layer<'_> {
    /// Reports whether the chain translates addresses.
    pub(super) fn is_nat(self) -> bool {
        match self {
            Self::Nft(_, _, is_nat) => is_nat,
            Self::Printed(printed) => printed.table.name == "nat",
        }
    }

    fn has_rules(self, builtin: &str) -> bool {
        match self {
            Self::Nft(table, name, _) => {
                let chain = table.chains.get(name);
                chain.is_some_and(|chain| !chain.rules.is_empty())
            }
            Self::Printed(printed) => {
                let chain = printed.table.chains.get(builtin);
                chain.is_some_and(|chain| !chain.rules.is_empty())
            }
        }
    }
}

/// A base chain in its turn.
#[derive(Clone, Copy)]
pub(super) struct Turn<'r> {
    pub priority: i32,
    pub layer: Layer<'r>,
    /// Whether it translates after others of its priority.
    pub is_delayed: bool,
}

impl Turn<'_> {
    /// Reports whether a chain may translate before another one; `builtin` is what iptables calls
    /// the hook's chain.
    pub(super) fn can_precede(&self, other: &Turn<'_>, builtin: &str) -> bool {
        let is_peer = self.layer.is_nat() && self.priority == other.priority;
        is_peer && !self.is_delayed && self.layer.has_rules(builtin)
    }
}
