//! Backend in memory with the semantics of the kernel: transactions, generations, references.
//!
//! One behaviour suite runs on this backend and on the kernel (`integration/tests/backend.rs`).

use crate::backend::{Backend, BackendError, RefusedStep};
use crate::nft::observed::{
    Observed, ObservedChain, ObservedRule, ObservedSet, ObservedTable, Ownership,
};
use crate::nft::plan::{Op, Plan, SetKind, plan};
use crate::ruleset::{Action, Element, Elements, METER_SIZE, Match, Rule, Ruleset, Set};

const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENFILE: i32 = 23;

/// Network namespace with only peerwall's table.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: Observed,
    last_handle: u64,
}

impl Memory {
    /// Creates an empty namespace.
    pub fn new() -> Self {
        Self::default()
    }

    fn attempt(&self, plan: &Plan) -> Result<Self, BackendError> {
        let mut next = self.clone();
        for (index, op) in plan.ops.iter().enumerate() {
            next.step(op).map_err(|errno| {
                BackendError::Refused(vec![RefusedStep {
                    op: Some(index),
                    what: crate::ruleset::render::op(op),
                    is_lack: false,
                    errno,
                    why: format!("errno {errno}"),
                }])
            })?;
        }
        if !plan.ops.is_empty() {
            next.state.generation = next.state.generation.wrapping_add(1);
        }
        Ok(next)
    }

    fn table(&mut self) -> Result<&mut ObservedTable, i32> {
        self.state.table.as_mut().ok_or(ENOENT)
    }

    fn step(&mut self, op: &Op) -> Result<(), i32> {
        match op {
            Op::AddTable | Op::ClaimTable => {
                self.state.table.get_or_insert_default();
            }
            Op::DeleteTable => {
                self.state.table.take().ok_or(ENOENT)?;
            }
            Op::AddCounter(name, start) => {
                self.table()?.counters.entry(name.clone()).or_insert(*start);
            }
            Op::DeleteCounter(name) => {
                refuse_if(
                    self.uses(|rule| rule.counter.as_ref() == Some(name))?,
                    EBUSY,
                )?;
                self.table()?.counters.remove(name).ok_or(ENOENT)?;
            }
            Op::AddSet(name, key, kind, capacity) => {
                let set = ObservedSet::Known {
                    set: Set {
                        key: *key,
                        interval: *kind == SetKind::Intervals,
                        meter: *kind == SetKind::Meter,
                        timed: *kind == SetKind::Timed,
                        elements: Elements::default(),
                    },
                    capacity: match kind {
                        SetKind::Meter => Some(METER_SIZE),
                        SetKind::Values | SetKind::Intervals | SetKind::Timed => *capacity,
                    },
                };
                self.table()?.sets.entry(name.clone()).or_insert(set);
            }
            Op::DeleteSet(name) => {
                refuse_if(self.uses(|rule| uses_set(rule, name))?, EBUSY)?;
                self.table()?.sets.remove(name).ok_or(ENOENT)?;
            }
            Op::AddElements(name, _, _, elements) => {
                let (set, capacity) = self.known_set(name)?;
                let mut list = set.elements.to_vec();
                let mut added = elements.iter();
                added.try_for_each(|element| insert(&mut list, element))?;
                let most = capacity.map_or(usize::MAX, |most| most as usize);
                refuse_if(list.len() > most, ENFILE)?;
                set.elements = list.into();
            }
            Op::DeleteElements(name, _, _, elements) => {
                let (set, _) = self.known_set(name)?;
                let mut list = set.elements.to_vec();
                let mut deleted = elements.iter();
                deleted.try_for_each(|element| take_out(&mut list, element))?;
                set.elements = list.into();
            }
            Op::AddChain(name, base) => {
                let table = self.table()?;
                if table.chain(name).is_none() {
                    table.chains.push(ObservedChain {
                        name: name.clone(),
                        base: Ok(*base),
                        rules: Vec::new(),
                    });
                }
            }
            Op::SetPolicy(name, policy) => match &mut self.chain(name)?.base {
                Ok(Some(base)) => base.policy = *policy,
                Ok(None) | Err(_) => return Err(EEXIST),
            },
            Op::FlushChain(name) => self.chain(name)?.rules.clear(),
            Op::DeleteChain(name) => {
                let busy =
                    !self.chain(name)?.rules.is_empty() || self.uses(|r| jumps_to(r, name))?;
                refuse_if(busy, EBUSY)?;
                self.table()?.chains.retain(|chain| chain.name != *name);
            }
            Op::AddRule(chain, before, rule) => self.add_rule(chain, *before, rule)?,
            Op::DeleteRule(chain, handle, _) => {
                let rules = &mut self.chain(chain)?.rules;
                let at = rules
                    .iter()
                    .position(|r| r.handle == *handle)
                    .ok_or(ENOENT)?;
                rules.remove(at);
            }
        }
        Ok(())
    }

    fn add_rule(&mut self, chain: &str, before: Option<u64>, rule: &Rule) -> Result<(), i32> {
        let table = self.table()?;
        let counter = rule
            .counter
            .iter()
            .all(|name| table.counters.contains_key(name));
        let sets = used_sets(rule).all(|name| table.sets.contains_key(name));
        let target = jump_target(rule).is_none_or(|name| table.chain(name).is_some());
        refuse_if(!(counter && sets && target), ENOENT)?;
        self.last_handle += 1;
        let handle = self.last_handle;
        let rules = &mut self.chain(chain)?.rules;
        let at = match before {
            None => rules.len(),
            Some(handle) => rules
                .iter()
                .position(|r| r.handle == handle)
                .ok_or(ENOENT)?,
        };
        rules.insert(
            at,
            ObservedRule {
                handle,
                rule: Ok(rule.clone()),
            },
        );
        Ok(())
    }

    fn chain(&mut self, name: &str) -> Result<&mut ObservedChain, i32> {
        let chains = &mut self.table()?.chains;
        chains
            .iter_mut()
            .find(|chain| chain.name == name)
            .ok_or(ENOENT)
    }

    fn known_set(&mut self, name: &str) -> Result<(&mut Set, Option<u32>), i32> {
        match self.table()?.sets.get_mut(name).ok_or(ENOENT)? {
            ObservedSet::Known { set, capacity } => Ok((set, *capacity)),
            ObservedSet::Unrecognized => Err(EEXIST),
        }
    }

    fn uses(&mut self, uses: impl Fn(&Rule) -> bool) -> Result<bool, i32> {
        let mut rules = self.table()?.chains.iter().flat_map(|chain| &chain.rules);
        Ok(rules.any(|seen| seen.rule.as_ref().is_ok_and(&uses)))
    }
}

impl Backend for Memory {
    type Observed = Observed;
    type Plan = Plan;

    fn plan(&self, wanted: Option<&Ruleset>, observed: &Observed) -> Result<Plan, BackendError> {
        Ok(match wanted {
            Some(wanted) => plan(wanted, observed),
            None => Plan::remove(observed),
        })
    }

    fn ruleset(observed: &Observed) -> Option<Ruleset> {
        observed.table.as_ref()?.ruleset()
    }

    fn is_loaded(observed: &Observed) -> bool {
        observed.table.is_some()
    }

    fn observe(&mut self) -> Result<Observed, BackendError> {
        Ok(self.state.clone())
    }

    fn check(&mut self, plan: &Plan) -> Result<(), BackendError> {
        self.attempt(plan).map(drop)
    }

    fn commit(&mut self, plan: &Plan, observed: &Observed) -> Result<(), BackendError> {
        if observed.generation != self.state.generation {
            return Err(BackendError::Stale);
        }
        *self = self.attempt(plan)?;
        if let Some(table) = &mut self.state.table {
            table.hold = Ownership::default();
        }
        Ok(())
    }
}

fn refuse_if(refuse: bool, errno: i32) -> Result<(), i32> {
    match refuse {
        true => Err(errno),
        false => Ok(()),
    }
}

fn insert(set: &mut Vec<Element>, element: &Element) -> Result<(), i32> {
    let at = set.partition_point(|e| e.last < element.first);
    let is_taken = |next: &Element| next.first <= element.last;
    if set.get(at).is_some_and(is_taken) {
        return Err(EEXIST);
    }
    set.insert(at, element.clone());
    Ok(())
}

fn take_out(set: &mut Vec<Element>, element: &Element) -> Result<(), i32> {
    let same = |e: &Element| (e.first, e.last) == (element.first, element.last);
    let at = set.iter().position(same).ok_or(ENOENT)?;
    set.remove(at);
    Ok(())
}

fn used_sets(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.matches.iter().filter_map(Match::set)
}

fn uses_set(rule: &Rule, name: &str) -> bool {
    used_sets(rule).any(|set| set == name)
}

fn jump_target(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Some(Action::Jump(name) | Action::Goto(name)) => Some(name),
        Some(
            Action::Accept | Action::Drop | Action::RejectTcpReset | Action::RejectAdminProhibited,
        )
        | None => None,
    }
}

fn jumps_to(rule: &Rule, name: &str) -> bool {
    jump_target(rule) == Some(name)
}
