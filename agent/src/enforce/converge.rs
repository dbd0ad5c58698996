//! Makes a backend enforce a ruleset: observe, plan, commit, verify, and again if another program
//! changed rules in between.

use std::thread;
use std::time::Duration;

use peerwall_core::backend::{Backend, BackendError, Plan as _};
use peerwall_core::ruleset::Ruleset;

/// Maximum number of attempts while other programs change rules.
const TRIES: u32 = 200;
/// How long to wait for another owner of the table: an apply owns it briefly, an agent permanently.
const OWNED_PATIENCE: Duration = Duration::from_secs(1);
const OWNED_PAUSE: Duration = Duration::from_millis(10);

/// The result of [`converge`].
#[derive(Debug, Clone)]
pub struct Converged<B: Backend> {
    /// What was observed before the first commit.
    pub before: B::Observed,
    /// The plan that was committed first; empty if the rules were as wanted. Later ones undo what
    /// other programs changed in between.
    pub plan: B::Plan,
}

/// Maximum number of commits whose answer was lost.
const UNKNOWN_TRIES: u32 = 3;

/// Makes a backend enforce `wanted`; `None` removes peerwall's rules.
///
/// # Errors
/// The last one of the backend. Unless it is [`BackendError::Unknown`], nothing was changed.
pub fn converge<B: Backend>(
    backend: &mut B,
    wanted: Option<&Ruleset>,
) -> Result<Converged<B>, BackendError> {
    let converged = attempt(backend, wanted);
    backend.done();
    converged
}

fn attempt<B: Backend>(
    backend: &mut B,
    wanted: Option<&Ruleset>,
) -> Result<Converged<B>, BackendError> {
    let mut last = BackendError::Stale;
    let mut patience = OWNED_PATIENCE;
    let mut unknown = 0;
    let mut sent = None;
    if let Some(wanted) = wanted {
        backend.expect(wanted);
    }
    for _ in 0..TRIES {
        let before = match backend.observe() {
            Ok(before) => before,
            // Other programs can disturb it. The change is made, and an error would deny that.
            Err(err) if sent.is_some() && unknown < UNKNOWN_TRIES => {
                unknown += 1;
                last = err;
                continue;
            }
            Err(err) => return Err(err),
        };
        let plan = backend.plan(wanted, &before)?;
        if plan.is_empty() {
            // A commit whose answer was lost has succeeded.
            return Ok(sent.unwrap_or(Converged { before, plan }));
        }
        let result = backend.commit(&plan, &before);
        let this = Converged { before, plan };
        match result {
            Ok(()) => {}
            Err(err @ BackendError::Stale) => {
                last = err;
                continue;
            }
            Err(err @ BackendError::Owned) if !patience.is_zero() => {
                patience = patience.saturating_sub(OWNED_PAUSE);
                last = err;
                thread::sleep(OWNED_PAUSE);
                continue;
            }
            // The next observation shows whether the change was made.
            Err(err @ BackendError::Unknown(_)) if unknown < UNKNOWN_TRIES => {
                unknown += 1;
                last = err;
                sent = sent.or(Some(this));
                continue;
            }
            Err(err) => return Err(err),
        }
        match backend.verify(wanted) {
            Ok(()) => return Ok(sent.unwrap_or(this)),
            // Another program changed the rules at once, or the kernel did not do what it
            // acknowledged.
            Err(err) => {
                last = err;
                sent = sent.or(Some(this));
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use peerwall_core::nft::memory::Memory;
    use peerwall_core::nft::observed::Observed;
    use peerwall_core::nft::plan::Plan;
    use peerwall_core::policy::load::{NoFiles, load};
    use peerwall_core::ruleset::compile::compile;

    use super::*;

    /// A failure of a commit.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        /// Another program changed rules in between.
        Stale,
        /// Another process owns the table for now.
        Owned,
        /// The answer is lost, and the change was made.
        LostAfter,
        /// The answer is lost, and the change was not made.
        LostBefore,
        /// The change is acknowledged and not made.
        AckedAndNotMade,
        /// Another program adds a counter at once.
        Touched,
        /// The same, and the next observation fails.
        Disturbed,
        /// The change is refused.
        Refused,
        /// The request cannot be sent.
        Transport,
    }

    /// A backend with these faults, one for each commit, and then none.
    struct Faulty {
        memory: Memory,
        faults: Vec<Fault>,
        commits: usize,
        is_disturbed: bool,
    }

    impl Faulty {
        fn new(faults: &[Fault]) -> Self {
            Self {
                memory: Memory::new(),
                faults: faults.iter().rev().copied().collect(),
                commits: 0,
                is_disturbed: false,
            }
        }
    }

    impl Backend for Faulty {
        type Observed = Observed;
        type Plan = Plan;

        fn plan(&self, wanted: Option<&Ruleset>, seen: &Observed) -> Result<Plan, BackendError> {
            self.memory.plan(wanted, seen)
        }
        fn ruleset(observed: &Observed) -> Option<Ruleset> {
            Memory::ruleset(observed)
        }
        fn is_loaded(observed: &Observed) -> bool {
            Memory::is_loaded(observed)
        }
        fn observe(&mut self) -> Result<Observed, BackendError> {
            match std::mem::take(&mut self.is_disturbed) {
                true => Err(BackendError::Transport("disturbed".into())),
                false => self.memory.observe(),
            }
        }
        fn verify(&mut self, wanted: Option<&Ruleset>) -> Result<(), BackendError> {
            self.memory.verify(wanted)
        }
        fn check(&mut self, plan: &Plan) -> Result<(), BackendError> {
            self.memory.check(plan)
        }
        fn commit(&mut self, plan: &Plan, seen: &Observed) -> Result<(), BackendError> {
            self.commits += 1;
            let lost = || BackendError::Unknown("lost".into());
            let fault = self.faults.pop();
            self.is_disturbed = fault == Some(Fault::Disturbed);
            match fault {
                None => self.memory.commit(plan, seen),
                Some(Fault::Stale) => Err(BackendError::Stale),
                Some(Fault::Owned) => Err(BackendError::Owned),
                Some(Fault::LostAfter) => self.memory.commit(plan, seen).and(Err(lost())),
                Some(Fault::LostBefore) => Err(lost()),
                Some(Fault::AckedAndNotMade) => Ok(()),
                Some(Fault::Touched | Fault::Disturbed) => {
                    self.memory.commit(plan, seen)?;
                    let mut other = wanted();
                    other.counters.insert("other".into());
                    converge(&mut self.memory, Some(&other)).map(drop)
                }
                Some(Fault::Refused) => Err(BackendError::Refused(Vec::new())),
                Some(Fault::Transport) => Err(BackendError::Transport("no".into())),
            }
        }
    }

    fn wanted() -> Ruleset {
        let loaded = load(
            "policy.toml",
            include_str!("../../../policy.toml"),
            &NoFiles,
        );
        compile(&loaded.policy.expect("the example is fine")).0
    }

    #[test]
    fn what_can_be_got_over_is_got_over() {
        use Fault::{AckedAndNotMade, Disturbed, LostAfter, LostBefore, Owned, Stale, Touched};
        for (faults, commits) in [
            (vec![], 1),
            (vec![Stale, Stale, Stale], 4),
            (vec![Owned, Owned], 3),
            // The change was made: the next observation shows it, and nothing is sent twice.
            (vec![LostAfter], 1),
            (vec![LostBefore], 2),
            (vec![AckedAndNotMade], 2),
            (vec![Touched, LostAfter], 2),
            (vec![Disturbed, Disturbed], 3),
            (vec![LostBefore, Touched, Stale], 4),
            (
                vec![Stale, LostBefore, Owned, AckedAndNotMade, LostAfter],
                5,
            ),
        ] {
            let mut backend = Faulty::new(&faults);
            let converged = converge(&mut backend, Some(&wanted()))
                .unwrap_or_else(|err| panic!("{faults:?}: {err}"));
            assert!(
                !converged.plan.is_empty(),
                "{faults:?}: it says nothing was done"
            );
            // The caller ends connections by the difference from what was loaded before.
            assert!(converged.before.table.is_none(), "{faults:?}");
            let found = backend.observe().expect("memory can be read").table;
            assert_eq!(
                found.and_then(|t| t.ruleset()),
                Some(wanted()),
                "{faults:?}"
            );
            assert_eq!(backend.commits, commits, "{faults:?}");
        }
    }

    #[test]
    fn what_cannot_is_said_and_nothing_was_changed() {
        for fault in [Fault::Refused, Fault::Transport] {
            let mut backend = Faulty::new(&[fault]);
            let result = converge(&mut backend, Some(&wanted()));
            assert!(result.is_err(), "{fault:?}");
            assert_eq!(backend.commits, 1, "{fault:?} is not tried again");
            assert_eq!(
                backend.observe().expect("memory can be read").table,
                None,
                "{fault:?}"
            );
        }
        let mut backend = Faulty::new(&[Fault::LostBefore; 10]);
        let result = converge(&mut backend, Some(&wanted()));
        assert!(matches!(result, Err(BackendError::Unknown(_))));
    }
}
