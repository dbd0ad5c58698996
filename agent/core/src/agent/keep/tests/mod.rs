//! Tests: named cases, and random sequences against a small model.

mod applies;
mod blocks;
mod boot;
mod reading;
mod sequences;
mod trials;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

type R = u8;
type C = u8;

const CLOSED: R = 0;
/// Ruleset of a block. It depends on no list.
const BLOCK: R = 8;

/// Failure of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    /// The step fails.
    Fails,
    /// The step fails temporarily.
    Passes,
    /// The step succeeds but reports an unknown result.
    Unknown,
    /// The process dies before the step.
    DiesBefore,
    /// The process dies after the step.
    DiesAfter,
}

#[derive(Debug, Clone, Default)]
struct TestHost {
    history: History,
    trial: Option<Trial<R, C>>,
    rulesets: BTreeMap<u64, R>,
    kernel: Option<R>,
    boot: u64,
    is_boot_unknown: bool,
    millis: u64,
    guards: usize,
    mishaps: VecDeque<Mishap>,
    is_dead: bool,
    trail: Vec<(Kind, Option<String>)>,
    pauses: u32,
    /// Whether the history could not be read since this was reset.
    is_history_unread: bool,
    /// Numbers of all policies that were loaded.
    loaded: BTreeSet<R>,
    /// Members of all lists, as a multiple of [`LISTS`].
    lists: R,
    are_lists_wrong: bool,
    /// Rulesets that the kernel does not support with nf_tables, and with iptables.
    lacks: (BTreeSet<R>, BTreeSet<R>),
    /// Whether the rules are loaded with iptables.
    by_iptables: bool,
}

/// Multiplier of the members of lists in a ruleset: a ruleset is the number of its policy plus a
/// multiple of this.
const LISTS: R = 10;

impl TestHost {
    /// Executes one step that can fail.
    fn step<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> Result<T, Fault> {
        if self.is_dead {
            return Err(Fault::new("dead"));
        }
        let mishap = self.mishaps.pop_front().unwrap_or(Mishap::None);
        let fault = |is_passing, is_unknown| Fault {
            text: "a fault".into(),
            is_passing,
            is_unknown,
            is_lack: false,
        };
        match mishap {
            Mishap::None => Ok(act(self)),
            Mishap::Fails => Err(fault(false, false)),
            Mishap::Passes => Err(fault(true, false)),
            Mishap::Unknown => {
                act(self);
                Err(fault(false, true))
            }
            Mishap::DiesBefore => {
                self.is_dead = true;
                Err(fault(false, false))
            }
            Mishap::DiesAfter => {
                act(self);
                self.is_dead = true;
                Err(fault(false, true))
            }
        }
    }

    fn with(mishaps: &[Mishap]) -> Self {
        Self {
            mishaps: mishaps.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// Continues as another process with the state on disk.
    fn restart(&mut self) {
        self.is_dead = false;
        self.mishaps.clear();
    }

    fn reboot(&mut self) {
        self.restart();
        self.kernel = None;
        self.boot += 1;
        self.millis = 0;
    }

    fn before(&self) -> Before<R> {
        let last = self.history.last();
        let is_loaded = |last: &&Entry| self.rulesets.get(&last.number) == self.kernel.as_ref();
        Before {
            entry: last.filter(is_loaded).cloned(),
            ruleset: self.kernel,
            by_iptables: self.by_iptables,
            cut: true,
        }
    }

    fn digests(&self) -> Vec<&str> {
        self.history
            .kept
            .iter()
            .map(|entry| entry.digest.as_str())
            .collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        self.trail.iter().map(|(kind, _)| *kind).collect()
    }
}

impl World for TestHost {
    type Ruleset = R;
    type Caller = C;

    fn clock(&self) -> Clock {
        Clock {
            boot: match self.is_boot_unknown {
                true => String::new(),
                false => self.boot.to_string(),
            },
            millis: self.millis,
        }
    }
    fn history(&mut self) -> Result<History, Fault> {
        let read = self.step(|memory| memory.history.clone());
        self.is_history_unread |= read.is_err();
        read
    }
    fn set_history(&mut self, history: &History) -> Result<(), Fault> {
        self.step(|memory| memory.history = history.clone())
    }
    fn trial(&mut self) -> Result<Option<Trial<R, C>>, Fault> {
        self.step(|memory| memory.trial.clone())
    }
    fn set_trial(&mut self, trial: Option<&Trial<R, C>>) -> Result<(), Fault> {
        self.step(|memory| memory.trial = trial.cloned())
    }
    fn stored(&mut self, entry: &Entry) -> Result<R, Fault> {
        let found = self.step(|memory| memory.rulesets.get(&entry.number).copied())?;
        found.ok_or_else(|| Fault::new("gone"))
    }
    fn store(&mut self, number: u64, ruleset: &R) -> Result<(), Fault> {
        self.step(|memory| {
            memory.rulesets.insert(number, *ruleset);
        })
    }
    fn load(&mut self, kept: &Kept<R>) -> Result<(), Fault> {
        let lacks = match kept.entry.by_iptables {
            true => &self.lacks.1,
            false => &self.lacks.0,
        };
        if lacks.contains(&kept.ruleset) {
            return Err(Fault {
                is_lack: true,
                ..Fault::new("the kernel lacks something")
            });
        }
        self.step(|memory| {
            memory.kernel = Some(kept.ruleset);
            memory.by_iptables = kept.entry.by_iptables;
            memory.loaded.insert(kept.ruleset % LISTS);
        })
    }
    fn unload(&mut self) -> Result<bool, Fault> {
        self.step(|memory| memory.kernel.take().is_some())
    }
    fn recompile(&mut self, entry: &Entry) -> Option<R> {
        let number: R = entry.digest.parse().ok()?;
        (!self.are_lists_wrong).then(|| number + self.lists)
    }
    fn start_guard(&mut self) -> Result<(), Fault> {
        self.step(|memory| memory.guards += 1)
    }
    fn is_same(&self, here: &C, first: &C) -> bool {
        here == first
    }
    fn record(&mut self, record: Record<'_>) {
        if !self.is_dead {
            let digest = record.entry.map(|entry| entry.digest.clone());
            self.trail.push((record.kind, digest));
        }
    }
    fn pause(&mut self, _: Duration) {
        self.pauses += 1;
    }
}

/// Returns a policy whose text and ruleset have this number.
fn policy(number: R) -> Kept<R> {
    Kept {
        entry: Entry {
            number: 0,
            time: String::new(),
            policy: format!("{number}.toml"),
            digest: number.to_string(),
            by_iptables: false,
            cut: true,
            is_block: false,
        },
        ruleset: number,
    }
}

/// Returns a block.
fn a_block() -> Kept<R> {
    let kept = policy(BLOCK);
    Kept {
        entry: Entry {
            digest: "block".into(),
            is_block: true,
            ..kept.entry
        },
        ..kept
    }
}

/// Returns a policy with other lists.
fn with_lists(number: R, lists: R) -> Kept<R> {
    Kept {
        ruleset: number + lists,
        ..policy(number)
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn try_number(memory: &mut TestHost, number: R) -> Result<(), Refusal> {
    let before = memory.before();
    let new = with_lists(number, memory.lists);
    try_out(memory, new, before, MINUTE, 1).map(drop)
}

fn try_block(memory: &mut TestHost) -> Result<(), Refusal> {
    let before = memory.before();
    try_out(memory, a_block(), before, MINUTE, 1).map(drop)
}

/// Returns a host on which 1 is applied.
fn applied() -> TestHost {
    let mut memory = TestHost::default();
    apply(&mut memory, &policy(1)).expect("nothing fails");
    memory
}

/// Returns a host with 2 on trial after 1.
fn tried() -> TestHost {
    let mut memory = applied();
    try_number(&mut memory, 2).expect("nothing fails");
    memory
}

fn no_policy(_: &mut TestHost) -> Result<Kept<R>, Fault> {
    Err(Fault::new("the policy is invalid"))
}

fn boot_it(memory: &mut TestHost) -> Boot {
    boot(memory, no_policy, &policy(CLOSED))
}
