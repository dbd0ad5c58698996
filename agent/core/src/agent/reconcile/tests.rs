//! Tests with a simulated clock.

use super::*;

fn ms(ms: u64) -> Time {
    Duration::from_millis(ms)
}

fn nft() -> Culprit {
    Culprit {
        pid: 7,
        process: "nft".into(),
    }
}

/// Returns a machine that applied its policy at time 0.
fn started() -> Reconcile {
    let mut reconcile = Reconcile::new(None);
    assert_eq!(reconcile.step(ms(0), Input::Start), Some(Task::Read));
    assert_eq!(
        reconcile.step(ms(0), Input::Accepted),
        Some(Task::Converge(Why::Start))
    );
    assert_eq!(reconcile.step(ms(0), Input::Converged(Ok(true))), None);
    reconcile
}

#[test]
fn when_all_is_well_nothing_wakes_it() {
    let mut reconcile = started();
    assert_eq!(reconcile.deadline(), None);
    assert_eq!(reconcile.step(ms(10_000), Input::Tick), None);
    assert_eq!(reconcile.in_sync_since, Some(ms(0)));
}

#[test]
fn a_change_is_repaired_at_once_and_its_author_named() {
    let mut reconcile = started();
    let action = reconcile.step(ms(5), Input::Touched(Some(nft())));
    assert_eq!(action, Some(Task::Converge(Why::Repair(vec![nft()]))));
    assert_eq!(reconcile.in_sync_since, None);
    assert_eq!(reconcile.step(ms(6), Input::Converged(Ok(true))), None);
    assert_eq!(reconcile.in_sync_since, Some(ms(6)));
    assert_eq!(
        reconcile.last_repair.as_ref().map(|r| r.culprits.clone()),
        Some(vec![nft()])
    );
    assert_eq!(reconcile.deadline(), None);
}

#[test]
fn what_is_wanted_meanwhile_does_not_make_a_bad_policy_good() {
    let mut reconcile = started();
    assert_eq!(reconcile.step(ms(5), Input::Reload), Some(Task::Read));
    assert_eq!(reconcile.step(ms(5), Input::Rejected("bad".into())), None);
    let action = reconcile.step(ms(6), Input::Wanted);
    assert_eq!(action, Some(Task::Converge(Why::Policy)));
    assert_eq!(reconcile.policy_error.as_deref(), Some("bad"));
}

#[test]
fn a_storm_is_met_at_a_bounded_rate_and_never_given_up() {
    let mut reconcile = started();
    let mut repairs = 0u32;
    // Another program flushes the rules a thousand times per second for ten seconds.
    for now in 1..=10_000 {
        let mut action = reconcile.step(ms(now), Input::Touched(Some(nft())));
        while let Some(Task::Converge(_)) = action {
            repairs += 1;
            action = reconcile.step(ms(now), Input::Converged(Ok(true)));
        }
    }
    let most = REPAIRS_BURST + 10_000 / 10 + 2;
    assert!((900..=most).contains(&repairs), "{repairs}");
    assert!(reconcile.is_storm());
    // The last change is repaired too.
    let at = ms(10_001);
    let mut action = reconcile.step(at, Input::Touched(Some(nft())));
    let at = reconcile.deadline().unwrap_or(at);
    assert!(at <= ms(10_020), "{at:?}");
    if action.is_none() {
        action = reconcile.step(at, Input::Tick);
    }
    assert!(matches!(action, Some(Task::Converge(Why::Repair(_)))));
    reconcile.step(at, Input::Converged(Ok(true)));
    // The storm ends.
    reconcile.step(at + CALM, Input::Touched(None));
    assert!(!reconcile.is_storm());
}

#[test]
fn files_are_read_when_they_have_settled_but_not_never() {
    let mut reconcile = started();
    assert_eq!(reconcile.step(ms(1000), Input::Files), None);
    assert_eq!(reconcile.step(ms(1100), Input::Files), None);
    assert_eq!(reconcile.deadline(), Some(ms(1100) + SETTLE));
    assert_eq!(
        reconcile.step(ms(1100) + SETTLE, Input::Tick),
        Some(Task::Read)
    );
    assert_eq!(reconcile.deadline(), None);
    // A file changes continuously.
    let mut read_at = None;
    for now in (5000..20_000).step_by(50) {
        if reconcile.step(ms(now), Input::Files) == Some(Task::Read) {
            read_at = Some(now);
            break;
        }
    }
    assert!(read_at.is_some_and(|at| at <= 7100), "{read_at:?}");
}

#[test]
fn a_policy_that_cannot_be_read_changes_nothing_and_waits_for_a_file() {
    let mut reconcile = started();
    assert_eq!(reconcile.step(ms(1), Input::Reload), Some(Task::Read));
    assert_eq!(
        reconcile.step(ms(2), Input::Rejected("line 3".into())),
        None
    );
    assert_eq!(reconcile.policy_error.as_deref(), Some("line 3"));
    assert_eq!(reconcile.deadline(), None);
    assert_eq!(
        reconcile.in_sync_since,
        Some(ms(0)),
        "the old one is in force"
    );
    // Repairs continue with the old policy.
    assert!(matches!(
        reconcile.step(ms(3), Input::Touched(None)),
        Some(Task::Converge(_))
    ));
    reconcile.step(ms(4), Input::Converged(Ok(true)));
    reconcile.step(ms(5), Input::Files);
    assert_eq!(
        reconcile.step(ms(5) + SETTLE, Input::Tick),
        Some(Task::Read)
    );
    assert_eq!(
        reconcile.step(ms(200), Input::Accepted),
        Some(Task::Converge(Why::Policy))
    );
    assert_eq!(reconcile.policy_error, None);
}

#[test]
fn what_fails_is_tried_again_later_each_time_and_at_once_when_something_changes() {
    let mut reconcile = started();
    reconcile.step(ms(1), Input::Touched(None));
    let mut now = ms(1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!(
            reconcile.step(now, Input::Converged(Err(failure(false)))),
            None
        );
        let next = reconcile.deadline().expect("it is tried again");
        waits.push(next - now);
        now = next;
        assert_eq!(
            reconcile.step(now, Input::Tick),
            Some(Task::Converge(Why::Retry))
        );
    }
    assert!(
        waits.is_sorted() && waits[0] == RETRY_MIN && waits[11] == RETRY_MAX,
        "{waits:?}"
    );
    reconcile.step(now, Input::Converged(Err(failure(false))));
    let action = reconcile.step(now + ms(1), Input::Touched(None));
    assert!(
        matches!(action, Some(Task::Converge(Why::Repair(_)))),
        "{action:?}"
    );
    reconcile.step(now + ms(2), Input::Converged(Ok(true)));
    assert_eq!(reconcile.last_error, None);
    assert_eq!(reconcile.deadline(), None);
}

#[test]
fn what_fails_while_no_rules_are_loaded_is_tried_again_within_a_second() {
    let mut reconcile = started();
    reconcile.step(ms(1), Input::Touched(None));
    let mut now = ms(1);
    // Independent of earlier failures of another kind.
    for is_open in [false, false, false, false, false, false, true, true, true] {
        reconcile.step(now, Input::Converged(Err(failure(is_open))));
        let next = reconcile.deadline().expect("it is tried again");
        assert!(!is_open || next - now <= RETRY_MAX_OPEN, "{:?}", next - now);
        now = next;
        reconcile.step(now, Input::Tick);
    }
}

#[test]
fn lost_events_mean_looking_again_and_where_there_are_none_it_looks_by_itself() {
    let mut reconcile = started();
    assert_eq!(
        reconcile.step(ms(9), Input::Lost),
        Some(Task::Converge(Why::Resync))
    );
    let mut polling = Reconcile::new(Some(ms(10_000)));
    polling.step(ms(0), Input::Start);
    polling.step(ms(0), Input::Accepted);
    polling.step(ms(1), Input::Converged(Ok(true)));
    assert_eq!(polling.deadline(), Some(ms(10_001)));
    assert_eq!(
        polling.step(ms(10_001), Input::Tick),
        Some(Task::Converge(Why::Resync))
    );
}

#[test]
fn events_that_are_lost_again_and_again_keep_it_busy_only_so_much() {
    let mut reconcile = started();
    let mut looks = 0u32;
    let mut action = reconcile.step(ms(1), Input::Lost);
    while action.is_some() {
        looks += 1;
        reconcile.step(ms(1), Input::Converged(Ok(true)));
        action = reconcile.step(ms(1), Input::Lost);
    }
    assert!(looks <= REPAIRS_BURST, "{looks}");
    assert!(reconcile.deadline().is_some_and(|at| at > ms(1)));
}

#[test]
fn without_a_policy_nothing_is_made_of_the_rules() {
    let mut reconcile = Reconcile::new(None);
    assert_eq!(reconcile.step(ms(0), Input::Start), Some(Task::Read));
    assert_eq!(
        reconcile.step(ms(0), Input::Rejected("not there".into())),
        None
    );
    assert_eq!(reconcile.step(ms(1), Input::Touched(None)), None);
    assert_eq!(reconcile.step(ms(1), Input::Lost), None);
}

fn failure(is_open: bool) -> Failure {
    Failure {
        why: "no".into(),
        is_open,
    }
}

/// For any sequence of events, tasks do not repeat without end, and a deadline exists while the
/// rules are not in sync.
#[test]
fn it_never_stops_while_something_is_wrong() {
    use proptest::prelude::*;
    let input = prop_oneof![
        Just(Input::Touched(None)),
        Just(Input::Lost),
        Just(Input::Files),
        Just(Input::Reload),
        Just(Input::Tick),
    ];
    let steps = prop::collection::vec((0u64..500, input, any::<bool>()), 0..200);
    proptest!(|(steps in steps)| {
        let mut reconcile = started();
        let mut now = ms(0);
        let mut broken = false;
        for (wait, input, works) in steps {
            now += ms(wait);
            broken |= matches!(input, Input::Touched(_));
            let mut action = reconcile.step(now, input);
            for _ in 0..4 {
                action = match action {
                    None => break,
                    Some(Task::Read) => {
                        let input = if works { Input::Accepted } else { Input::Rejected("bad".into()) };
                        reconcile.step(now, input)
                    }
                    Some(Task::Converge(_)) => {
                        broken &= !works;
                        let converged = if works { Ok(true) } else { Err(failure(false)) };
                        reconcile.step(now, Input::Converged(converged))
                    }
                };
            }
            prop_assert_eq!(action, None);
            prop_assert!(!broken || reconcile.deadline().is_some(), "broken and nothing to wait for");
        }
    });
}
