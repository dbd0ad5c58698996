//! Random sequences of events, failures, deaths and boots, against a small model.

use super::*;

/// Event on a host.
#[derive(Debug, Clone)]
enum Event {
    Apply(R),
    TryOut(R),
    Confirm(C),
    /// The guard or the agent checks the trial.
    Look,
    RollBack,
    Remove,
    /// A block, permanently or on trial.
    Block(bool),
    Unblock,
    /// Reboot, with whether the kernel lacks a feature of nf_tables.
    Reboot(bool),
    Wait(u64),
    /// The agent reads its policy because a file changed.
    Read(R),
    /// The agent reads lists because they changed.
    Lists(R),
}

fn event() -> impl Strategy<Value = Event> {
    let number = 1u8..5;
    prop_oneof![
        2 => number.clone().prop_map(Event::Apply),
        3 => number.clone().prop_map(Event::TryOut),
        3 => (1u8..3).prop_map(Event::Confirm),
        3 => Just(Event::Look),
        1 => Just(Event::RollBack),
        1 => Just(Event::Remove),
        2 => any::<bool>().prop_map(Event::Block),
        2 => Just(Event::Unblock),
        1 => any::<bool>().prop_map(Event::Reboot),
        3 => prop::sample::select(vec![1_000u64, 30_000, 61_000]).prop_map(Event::Wait),
        2 => number.prop_map(Event::Read),
        2 => (0u8..4).prop_map(|times| Event::Lists(times * LISTS)),
    ]
}

fn mishaps() -> impl Strategy<Value = Vec<Mishap>> {
    let one = prop_oneof![
        12 => Just(Mishap::None),
        1 => Just(Mishap::Fails),
        1 => Just(Mishap::Passes),
        1 => Just(Mishap::Unknown),
        1 => Just(Mishap::DiesBefore),
        1 => Just(Mishap::DiesAfter),
    ];
    prop_oneof![
        1 => Just(Vec::new()),
        1 => prop::collection::vec(one, 0..12),
    ]
}

/// Permitted states, derived from the events alone.
#[derive(Debug, Default)]
struct Model {
    /// Policies that may be in the history: applied, or confirmed by another caller.
    permitted: BTreeSet<String>,
    /// Whether a ruleset must be loaded.
    is_closed: bool,
    /// Ruleset of a trial that was refused; it must not be loaded.
    failed: Option<R>,
}

struct Run {
    memory: TestHost,
    model: Model,
}

impl Run {
    fn happen(&mut self, event: &Event, mishaps: &[Mishap]) {
        self.memory.mishaps = mishaps.iter().copied().collect();
        self.memory.is_history_unread = false;
        let loaded = self.memory.loaded.clone();
        // Whether the current members of the lists must be loaded if nothing fails.
        let mut is_current = false;
        match event {
            Event::Apply(number) => self.apply(*number),
            Event::TryOut(number) => {
                self.model.failed = None;
                if try_number(&mut self.memory, *number).is_err() {
                    self.model.failed = Some(*number).filter(|number| !loaded.contains(number));
                }
            }
            Event::Confirm(caller) => is_current = self.confirm(*caller),
            Event::Look => is_current = self.look(),
            Event::RollBack => {
                let done = roll_back(&mut self.memory);
                is_current = matches!(done, Ok(RolledBack::To(..)));
            }
            Event::Lists(lists) => is_current = self.lists(*lists),
            Event::Remove => {
                // From here on, no ruleset has to be loaded.
                let done = remove(&mut self.memory);
                self.model.is_closed &=
                    matches!(done, Err(Refusal::Waits { .. } | Refusal::Blocked));
            }
            Event::Block(on_trial) => self.block(*on_trial),
            Event::Unblock => is_current = self.unblock(),
            Event::Reboot(lacks) => self.reboot(*lacks),
            Event::Wait(millis) => self.memory.millis += millis,
            Event::Read(number) => self.read(*number),
        }
        if let (true, [], Some(kernel)) = (is_current, mishaps, self.memory.kernel) {
            let members = kernel - kernel % LISTS;
            assert_eq!(members, self.memory.lists, "old members after {event:?}");
        }
        // Another process continues.
        self.memory.restart();
    }

    fn apply(&mut self, number: R) {
        self.model.failed = None;
        let waited = self.memory.trial.is_some();
        let new = with_lists(number, self.memory.lists);
        let result = apply(&mut self.memory, &new);
        self.model.is_closed |= result.is_ok();
        let is_refused = matches!(result, Err(Refusal::Blocked));
        let is_unchanged = matches!(result, Err(Refusal::Waits { .. } | Refusal::NotLoaded(_)));
        if !(is_refused || is_unchanged && waited) {
            self.model.permitted.insert(number.to_string());
        }
    }

    /// Confirms the trial. Returns whether this succeeded.
    fn confirm(&mut self, caller: C) -> bool {
        let trial = self.memory.trial.clone();
        let may = trial.is_some_and(|trial| {
            trial.from != caller && !trial.is_over(&self.memory.clock()) && trial.is_loaded
        });
        if may {
            let digest = self
                .memory
                .trial
                .as_ref()
                .map(|t| t.new.entry.digest.clone());
            self.model.permitted.extend(digest);
        }
        let confirmed = confirm(&mut self.memory, &caller);
        assert!(may || confirmed.is_err(), "confirmed without permission");
        self.model.is_closed |= confirmed.is_ok();
        confirmed.is_ok_and(|trial| !trial.new.entry.is_block)
    }

    /// Changes the lists and loads them like the agent. Returns whether they were loaded.
    fn lists(&mut self, lists: R) -> bool {
        let memory = &mut self.memory;
        memory.lists = lists;
        let (Ok(trial), Ok(history)) = (waiting(memory), memory.history()) else {
            return false;
        };
        let is_trial = trial.is_some();
        let entry = match trial {
            Some(trial) => trial.is_loaded.then_some(trial.new.entry),
            None => history.last().cloned(),
        };
        let Some(entry) = entry else { return false };
        let Some(ruleset) = memory.recompile(&entry) else {
            return false;
        };
        let kept = Kept { entry, ruleset };
        if memory.load(&kept).is_err() {
            return false;
        }
        if !is_trial {
            let _ = update(memory, &kept);
        }
        assert_eq!(memory.history, history, "lists changed the history");
        true
    }

    /// Ends the trial if its time is over. Returns whether a known ruleset was loaded again.
    fn look(&mut self) -> bool {
        let over = waiting(&mut self.memory)
            .ok()
            .flatten()
            .is_some_and(|trial| trial.is_over(&self.memory.clock()));
        if !over {
            return false;
        }
        let gone = go_back(&mut self.memory, None, Ending::RanOut);
        matches!(gone, Ok(Some(trial)) if trial.before.ruleset.is_some()
            && trial.before.entry.as_ref().is_some_and(|entry| !entry.is_block))
    }

    fn block(&mut self, on_trial: bool) {
        self.model.failed = None;
        let is_busy = self.memory.trial.is_some();
        let refused = self.memory.history.refused.clone();
        match on_trial {
            true => drop(try_block(&mut self.memory)),
            false => {
                let done = apply(&mut self.memory, &a_block());
                self.model.is_closed |= done.is_ok();
                self.model.permitted.insert("block".into());
            }
        }
        // An earlier trial may have run out.
        assert!(is_busy || self.memory.history.refused == refused);
    }

    /// Ends the block. Returns whether a ruleset of the history was loaded.
    fn unblock(&mut self) -> bool {
        let was_blocked = self.memory.history.block().is_some();
        let refused = self.memory.history.refused.clone();
        let way_back = self.memory.history.kept.iter().any(|entry| !entry.is_block);
        let trial = self.memory.trial.clone();
        let done = unblock(&mut self.memory);
        self.model.is_closed &= match was_blocked {
            true => way_back,
            false => trial.is_none_or(|trial| trial.before.ruleset.is_some()),
        };
        if let Ok((entry, noted)) = &done {
            assert!(noted.is_some() || self.memory.history.block().is_none());
            assert_eq!(self.memory.history.refused, refused);
            // A block on trial goes back to the loaded rules, those of a block that died.
            assert!(!was_blocked || self.memory.kernel != Some(BLOCK));
            return entry.is_some() && was_blocked;
        }
        false
    }

    fn reboot(&mut self, lacks: bool) {
        self.memory.lacks.0 = (0..=R::MAX).filter(|_| lacks).collect();
        let mishaps = std::mem::take(&mut self.memory.mishaps);
        self.memory.reboot();
        self.memory.mishaps = mishaps;
        let refused = self.memory.history.refused.clone();
        let boot = boot(&mut self.memory, |_| Ok(policy(9)), &policy(CLOSED));
        self.model.is_closed = boot.booted != Booted::Nothing;
        if let (Booted::Policy(entry), false) = (&boot.booted, self.memory.is_dead) {
            assert_ne!(
                Some(&entry.digest),
                refused.as_ref(),
                "loaded a policy that was rolled back"
            );
        }
    }

    /// Reads a policy like the agent.
    fn read(&mut self, number: R) {
        let (Ok(trial), Ok(history)) = (waiting(&mut self.memory), self.memory.history()) else {
            return;
        };
        let wanted = match &trial {
            Some(trial) => Some(trial.new.entry.digest.clone()),
            None => history.last().map(|last| last.digest.clone()),
        };
        let digest = number.to_string();
        let is_blocked = history.block().is_some();
        let reading = judge(
            Situation {
                wanted: wanted.as_deref(),
                is_blocked,
                is_trial: trial.is_some(),
                refused: history.refused.as_deref(),
                read: None,
                is_asked: false,
                locks_out: false,
            },
            &digest,
        );
        assert_eq!(is_blocked, reading == Reading::Blocked);
        if reading == Reading::Take {
            assert_ne!(history.refused.as_ref(), Some(&digest));
            self.apply(number);
        }
    }

    /// Checks that only [`Event::Unblock`] ends a block that was on disk before the event.
    fn check_block(&self, event: &Event, before: &TestHost) {
        let was_blocked = before.history.block().is_some();
        if !was_blocked || matches!(event, Event::Unblock) {
            return;
        }
        let memory = &self.memory;
        assert!(memory.history.block().is_some(), "opened by {event:?}");
        // A boot that cannot read the history does not know of the block.
        if matches!(event, Event::Reboot(_)) && memory.is_history_unread {
            return;
        }
        let is_kept = memory.kernel == before.kernel;
        let is_shut = matches!(memory.kernel, Some(BLOCK | CLOSED) | None);
        assert!(is_kept || is_shut, "{:?} after {event:?}", memory.kernel);
    }

    fn check(&mut self, event: &Event) {
        let memory = &self.memory;
        if self.model.is_closed {
            assert!(memory.kernel.is_some(), "open after {event:?}");
        }
        for digest in memory.digests() {
            assert!(
                self.model.permitted.contains(digest),
                "{digest} is in the history after {event:?}"
            );
        }
        let twice = memory.digests().windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!twice, "an entry twice after {event:?}");
    }

    /// Checks that every trial ends if nothing fails any more.
    fn settle(&mut self) {
        self.memory.restart();
        self.memory.millis += 3_600_000;
        let _ = (self.look(), self.look());
        let memory = &mut self.memory;
        assert_eq!(waiting(memory).unwrap(), None, "a trial is left");
        if let Some(failed) = self.model.failed {
            let last = memory.history.last().map(|last| last.digest.clone());
            let applied = last == Some(failed.to_string());
            assert!(
                applied || memory.kernel.map(|kernel| kernel % LISTS) != Some(failed),
                "a refused trial was loaded"
            );
        }
    }
}

/// Returns a configuration with four times the default number of cases. `PROPTEST_CASES=25000` runs
/// a hundred thousand.
fn sequences() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases * 4,
        ..default
    }
}

proptest! {
    #![proptest_config(sequences())]
    #[test]
    fn no_sequence_of_events_failures_and_deaths_breaks_a_promise(
        events in prop::collection::vec((event(), mishaps()), 1..25)
    ) {
        let mut run = Run { memory: TestHost::default(), model: Model::default() };
        for (event, mishaps) in &events {
            let before = run.memory.clone();
            run.happen(event, mishaps);
            run.check_block(event, &before);
            run.check(event);
        }
        run.settle();
    }
}
