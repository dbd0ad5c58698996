//! Evaluates chains, like `nft_do_chain()` in `net/netfilter/nf_tables_core.c`.

use std::collections::BTreeSet;

use peerwall_proto::nf_tables::expr::Expr;

use super::choices::Choices;
use super::frame::{Frame, Host};
use super::registers::Registers;
use super::step::Step;
use super::tables::{KernelChain, KernelTable};
use crate::net::packet::Verdict;

/// Maximum nesting of jumps (`NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 16;

/// Maximum number of rules that are evaluated for one base chain. Chains that call each other many
/// times can have more; the packet counts as dropped then.
const RULES_MAX: usize = 1_000_000;

/// What an evaluation asks and assumes.
pub struct Way<'w> {
    /// The host.
    pub host: &'w mut dyn Host,
    /// Answers to what cannot be known.
    pub choices: &'w mut Choices,
    /// What was assumed, as clauses.
    pub assumed: &'w mut BTreeSet<String>,
}

/// How a base chain treats a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treatment {
    /// Verdict.
    pub verdict: Verdict,
    /// Whether a NAT rule decided: later NAT chains do not see the packet.
    pub is_translated: bool,
    /// The deciding rule, as chain and index; `None` for the chain's policy.
    pub by: Option<(String, usize)>,
    /// All rules that matched, in order.
    pub path: Vec<(String, usize)>,
}

/// End of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    Drop,
    Reject,
    Return,
    Translated,
    Jump(String),
    Goto(String),
}

/// One evaluation of a base chain.
pub(super) struct Run<'r, 'w> {
    pub table: &'r KernelTable,
    pub frame: &'r mut Frame,
    pub way: &'r mut Way<'w>,
    pub registers: Registers,
    /// The bridge, in the family of bridges.
    pub bridge: Option<&'r str>,
    /// Whether the hook is behind the routing decision, so that there is an outgoing interface.
    pub has_out: bool,
    /// Whether the present rule does more than log and count.
    pub decides: bool,
    /// Number of rules that were evaluated.
    rules: usize,
    path: Vec<(String, usize)>,
}

/// The hook at which a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At<'a> {
    /// The bridge on which the packet arrived, in the family of bridges.
    pub bridge: Option<&'a str>,
    /// Whether packets have an outgoing interface at this hook.
    pub has_out: bool,
}

/// Evaluates a base chain.
pub fn treat(
    table: &KernelTable,
    name: &str,
    at: At<'_>,
    frame: &mut Frame,
    way: &mut Way<'_>,
) -> Treatment {
    let mut run = Run {
        table,
        frame,
        way,
        registers: Registers::default(),
        bridge: at.bridge,
        has_out: at.has_out,
        decides: false,
        rules: 0,
        path: Vec::new(),
    };
    let found = run.chain(name, 0);
    let base = table.chains.get(name).and_then(|chain| chain.base.as_ref());
    let drops = base.is_some_and(|base| base.drops);
    let policy = if drops {
        Verdict::Drop
    } else {
        Verdict::Accept
    };
    let (verdict, is_translated) = match &found {
        Some((_, Action::Accept)) => (Verdict::Accept, false),
        Some((_, Action::Translated)) => (Verdict::Accept, true),
        Some((_, Action::Reject)) => (Verdict::Reject, false),
        Some((_, Action::Drop)) => (Verdict::Drop, false),
        Some((_, Action::Return | Action::Jump(_) | Action::Goto(_))) | None => (policy, false),
    };
    Treatment {
        verdict,
        is_translated,
        by: found.map(|(by, _)| by),
        path: run.path,
    }
}

impl Run<'_, '_> {
    /// Evaluates a chain; `None` at its end.
    fn chain(&mut self, name: &str, depth: usize) -> Option<((String, usize), Action)> {
        let table = self.table;
        let chain: &KernelChain = table.chains.get(name)?;
        for (index, rule) in chain.rules.iter().enumerate() {
            self.rules += 1;
            if self.rules > RULES_MAX {
                let assumed = format!("chains with more than {RULES_MAX} rules drop the packet");
                self.way.assumed.insert(assumed);
                return Some(((name.to_owned(), index), Action::Drop));
            }
            let action = self.rule(&rule.exprs);
            let Some(action) = action else {
                continue;
            };
            let by = (name.to_owned(), index);
            self.path.push(by.clone());
            let target = match &action {
                Action::Return => return None,
                Action::Jump(to) | Action::Goto(to) => to.clone(),
                Action::Accept | Action::Drop | Action::Reject | Action::Translated => {
                    return Some((by, action));
                }
            };
            // The kernel refuses deeper chains when they are loaded.
            if depth >= DEPTH_MAX {
                return Some((by, Action::Drop));
            }
            let found = self.chain(&target, depth + 1);
            if found.is_some() || matches!(action, Action::Goto(_)) {
                return found;
            }
        }
        None
    }

    /// Evaluates a rule; `None` if it does not match, or only has side effects.
    fn rule(&mut self, exprs: &[Expr]) -> Option<Action> {
        self.decides = exprs.iter().any(decides);
        for expr in exprs {
            match self.step(expr) {
                Step::Next => {}
                Step::Break => return None,
                Step::Act(action) => return Some(action),
            }
        }
        None
    }
}

/// Reports whether an expression can have an effect beyond logs and counters.
fn decides(expr: &Expr) -> bool {
    if let Expr::Immediate(immediate) = expr {
        return immediate.dreg.unwrap_or_default() == 0;
    }
    if let Expr::Meta(meta) = expr {
        return meta.sreg.is_some();
    }
    if let Expr::Ct(ct) = expr {
        return ct.sreg.is_some();
    }
    if let Expr::Lookup(lookup) = expr {
        return lookup.dreg.is_some();
    }
    let is_aside = matches!(
        expr,
        Expr::Log(_)
            | Expr::CounterExpr(_)
            | Expr::Last(_)
            | Expr::Limit(_)
            | Expr::Cmp(_)
            | Expr::Payload(_)
            | Expr::Bitwise(_)
    );
    !is_aside
}
