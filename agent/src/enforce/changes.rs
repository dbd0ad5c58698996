//! What a plan changes, in the words of the policy.
//!
//! What is loaded is compared with what is wanted. Where another program changed what was loaded,
//! the ruleset as it was loaded is what the policy is compared with, and the other program's
//! changes are told apart.

use peerwall_core::backend::{Backend as _, Plan};
use peerwall_core::import::meaning::{Meaning, meaning};
use peerwall_core::iptables::diff::differences;
use peerwall_core::nft::observed::ObservedTable;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::change::{Change, What, changes, raw};

use super::enforcer::AnyPlan;
use super::iptables::{Iptables, IptablesObserved, WantedScripts};
use super::nft::Kernel;
use super::{AnyObserved, Enforcer};
use crate::store::{State, since};

impl Enforcer {
    /// What a plan from `observed` to `wanted` changes; nothing exactly if the plan is empty.
    pub fn changes(
        &self,
        wanted: Option<&Ruleset>,
        observed: &AnyObserved,
        plan: &AnyPlan,
    ) -> Vec<Change> {
        of_plan(plan, || match (observed, self) {
            (AnyObserved::Nft(seen), _) => {
                let known = seen.table.as_ref().map(ObservedTable::known);
                by_nft(wanted, known.as_ref(), false)
            }
            (AnyObserved::Iptables(seen), Self::Iptables(iptables)) => {
                let loaded = State::open().in_force_by_iptables();
                by_iptables(iptables, wanted, seen, loaded.as_ref())
            }
            (AnyObserved::Iptables(_), Self::Nft(_)) => Vec::new(),
        })
    }

    /// Compares what is loaded with what is wanted, packet by packet; `None` if no rules of
    /// peerwall are loaded. `changes` are those of the plan.
    pub fn meaning(
        wanted: &Ruleset,
        observed: &AnyObserved,
        changes: &[Change],
    ) -> Option<Meaning> {
        match observed {
            AnyObserved::Nft(seen) => {
                let (known, foreign) = seen.table.as_ref()?.known();
                let mut found = meaning(&known, wanted);
                if !foreign.is_empty() {
                    let why = "the table has rules that peerwall cannot read";
                    found.not_compared.push(why.to_owned());
                }
                Some(found)
            }
            AnyObserved::Iptables(_) => {
                let mut found = meaning(&State::open().in_force_by_iptables()?, wanted);
                if changes.iter().any(|change| change.by_others) {
                    let why = "another program changed the rules of iptables";
                    found.not_compared.push(why.to_owned());
                }
                Some(found)
            }
        }
    }
}

/// Finds what a plan changes; nothing exactly if the plan is empty.
pub(super) fn of_plan(plan: &impl Plan, find: impl FnOnce() -> Vec<Change>) -> Vec<Change> {
    if plan.is_empty() {
        return Vec::new();
    }
    let mut found = find();
    if found.is_empty() {
        // The same rules in other words, such as a set that became too small.
        let why = plan.rebuild().unwrap_or("in another form");
        let (was, is) = ("loaded".to_owned(), why.to_owned());
        found.push(Change::of_value(
            What::Rules,
            "of peerwall",
            Some(was),
            Some(is),
        ));
    }
    found
}

/// Compares with a table as [`ObservedTable::known`] returns it. With `is_untouched`, no other
/// program changed it since this process loaded it; otherwise the record of the last load is read.
pub(super) fn by_nft(
    wanted: Option<&Ruleset>,
    known: Option<&(Ruleset, Vec<Change>)>,
    is_untouched: bool,
) -> Vec<Change> {
    let state = State::open();
    let Some((known, foreign)) = known else {
        let old = state.in_force_by_iptables();
        return switched(old.as_ref(), wanted, "iptables", "nft");
    };
    let base = match foreign.is_empty() && (is_untouched || is_as_loaded(known)) {
        true => None,
        false => state.as_loaded(),
    };
    let mut found = changes(Some(base.as_ref().unwrap_or(known)), wanted);
    if let Some(base) = &base {
        found.extend(raw(known, base).into_iter().map(Change::by_others));
    }
    found.extend(foreign.iter().cloned());
    found
}

/// The first rules of a backend, which may replace those of the other.
fn switched(old: Option<&Ruleset>, wanted: Option<&Ruleset>, from: &str, to: &str) -> Vec<Change> {
    let backend = || {
        let (was, is) = (Some(from.to_owned()), Some(to.to_owned()));
        Change::of_value(What::Option, "backend", was, is)
    };
    let mut found: Vec<Change> = old.map(|_| backend()).into_iter().collect();
    found.extend(changes(old, wanted));
    found
}

fn loaded_by_nft() -> Option<Ruleset> {
    Kernel::open().ok()?.observe().ok()?.table?.ruleset()
}

/// Whether a ruleset is what was loaded last.
fn is_as_loaded(ruleset: &Ruleset) -> bool {
    let noted = since::last().and_then(|note| note.content);
    noted.is_some_and(|noted| noted == since::digest(ruleset))
}

/// Compares with chains of iptables. `loaded` is the ruleset that was loaded last, if known.
pub(super) fn by_iptables(
    iptables: &Iptables,
    wanted: Option<&Ruleset>,
    seen: &IptablesObserved,
    loaded: Option<&Ruleset>,
) -> Vec<Change> {
    if *seen == IptablesObserved::default() {
        return switched(loaded_by_nft().as_ref(), wanted, "nft", "iptables");
    }
    let Some(old) = loaded else {
        return Vec::new();
    };
    let mut found = changes(Some(old), wanted);
    if let Ok(old) = WantedScripts::new(old, iptables.ipset_from()) {
        let of_families =
            [(&old.v4, &seen.v4), (&old.v6, &seen.v6)].map(|(was, is)| differences(was, is));
        found.extend(of_families.into_iter().flatten().map(Change::by_others));
    }
    found
}
