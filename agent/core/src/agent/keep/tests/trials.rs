//! Cases of trials, one claim each.

use super::*;

#[test]
fn a_trial_is_in_force_and_not_in_the_history() {
    let memory = tried();
    assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1"]));
    assert_eq!(memory.guards, 1);
}

#[test]
fn a_trial_goes_back_when_its_time_is_over() {
    let mut memory = tried();
    memory.millis += 60_000;
    assert!(
        waiting(&mut memory)
            .unwrap()
            .unwrap()
            .is_over(&memory.clock())
    );
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
    assert_eq!(memory.kinds(), [Kind::Applied, Kind::Tried, Kind::RanOut]);
}

#[test]
fn a_trial_goes_back_when_whoever_keeps_it_is_stopped() {
    let mut memory = tried();
    go_back(&mut memory, None, Ending::Stopped)
        .unwrap()
        .unwrap();
    assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
    assert_eq!(memory.kinds(), [Kind::Applied, Kind::Tried, Kind::Stopped]);
}

#[test]
fn a_trial_where_nothing_was_goes_back_to_nothing() {
    let mut memory = TestHost::default();
    try_number(&mut memory, 2).unwrap();
    go_back(&mut memory, None, Ending::RanOut).unwrap();
    assert_eq!(memory.kernel, None);
}

#[test]
fn a_guard_of_another_trial_leaves_this_one_alone() {
    let mut memory = tried();
    assert_eq!(
        go_back(&mut memory, Some(77), Ending::RanOut).unwrap(),
        None
    );
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn going_back_that_fails_is_done_by_the_next_call() {
    let mut memory = tried();
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::Passes].into();
    assert!(go_back(&mut memory, None, Ending::RanOut).is_err());
    assert!(waiting(&mut memory).unwrap().is_some());
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn going_back_that_dies_after_loading_is_finished_by_the_next() {
    let mut memory = tried();
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::DiesAfter].into();
    assert!(go_back(&mut memory, None, Ending::RanOut).is_err());
    memory.restart();
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(
        (memory.kernel, memory.history.refused.as_deref()),
        (Some(1), Some("2"))
    );
}

#[test]
fn a_confirmed_trial_stays() {
    let mut memory = tried();
    confirm(&mut memory, &2).unwrap();
    memory.millis += 60_000;
    assert_eq!(go_back(&mut memory, None, Ending::RanOut).unwrap(), None);
    assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1", "2"]));
}

#[test]
fn a_trial_is_not_confirmed_from_where_it_was_tried() {
    let mut memory = tried();
    assert_eq!(confirm(&mut memory, &1), Err(Refusal::SameCaller));
    assert_eq!(memory.digests(), ["1"]);
}

#[test]
fn a_trial_is_not_confirmed_when_its_time_is_over() {
    let mut memory = tried();
    memory.millis += 60_000;
    assert_eq!(confirm(&mut memory, &2), Err(Refusal::TooLate));
}

#[test]
fn a_trial_is_not_confirmed_after_a_reboot() {
    let mut memory = tried();
    memory.reboot();
    assert_eq!(confirm(&mut memory, &2), Err(Refusal::TooLate));
}

#[test]
fn nothing_is_confirmed_where_nothing_waits() {
    let mut memory = applied();
    assert_eq!(confirm(&mut memory, &2), Err(Refusal::NothingWaits));
}

#[test]
fn what_is_confirmed_is_in_force_again_if_somebody_changed_it() {
    let mut memory = tried();
    memory.kernel = Some(99);
    confirm(&mut memory, &2).unwrap();
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn a_confirmation_that_dies_after_the_history_counts() {
    let mut memory = tried();
    // trial, history, load, history, store, set_history; then set_trial.
    memory.mishaps = [Mishap::None; 6].into();
    memory.mishaps.push_back(Mishap::DiesBefore);
    let _ = confirm(&mut memory, &2);
    memory.restart();
    memory.millis += 60_000;
    assert_eq!(go_back(&mut memory, None, Ending::RanOut).unwrap(), None);
    assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1", "2"]));
}

#[test]
fn a_confirmation_that_cannot_be_written_does_not_count() {
    let mut memory = tried();
    memory.mishaps = [Mishap::None; 5].into();
    memory.mishaps.push_back(Mishap::Fails);
    assert!(matches!(confirm(&mut memory, &2), Err(Refusal::State(_))));
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
}

#[test]
fn an_apply_does_not_end_a_trial() {
    let mut memory = tried();
    let refused = apply(&mut memory, &policy(2));
    assert_eq!(
        refused,
        Err(Refusal::Waits {
            policy: "2.toml".into(),
            seconds: 60
        })
    );
    assert_eq!(memory.digests(), ["1"]);
}

#[test]
fn a_second_trial_does_not_end_the_first() {
    let mut memory = tried();
    assert!(matches!(
        try_number(&mut memory, 3),
        Err(Refusal::Waits { .. })
    ));
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn a_trial_without_a_guard_does_not_begin() {
    let mut memory = applied();
    // trial, history, set_trial, then the guard.
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
    assert!(matches!(
        try_number(&mut memory, 2),
        Err(Refusal::NoWayBack(_))
    ));
    assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
}

#[test]
fn a_trial_that_cannot_be_noted_does_not_begin() {
    let mut memory = applied();
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::Fails].into();
    assert!(matches!(
        try_number(&mut memory, 2),
        Err(Refusal::NoWayBack(_))
    ));
    assert_eq!((memory.kernel, memory.guards), (Some(1), 0));
}

#[test]
fn a_trial_that_cannot_be_loaded_leaves_nothing() {
    let mut memory = applied();
    memory.mishaps = [Mishap::None; 4].into();
    memory.mishaps.push_back(Mishap::Fails);
    assert!(matches!(
        try_number(&mut memory, 2),
        Err(Refusal::NotLoaded(_))
    ));
    assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
    assert_eq!(confirm(&mut memory, &2), Err(Refusal::NothingWaits));
}

#[test]
fn a_trial_that_may_have_been_loaded_goes_back_at_once() {
    let mut memory = applied();
    memory.mishaps = [Mishap::None; 4].into();
    memory.mishaps.push_back(Mishap::Unknown);
    assert!(matches!(
        try_number(&mut memory, 2),
        Err(Refusal::NotLoaded(_))
    ));
    assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
}

#[test]
fn a_trial_that_died_while_loading_cannot_be_confirmed() {
    let mut memory = applied();
    memory.mishaps = [Mishap::None; 4].into();
    memory.mishaps.push_back(Mishap::DiesAfter);
    assert!(try_number(&mut memory, 2).is_err());
    memory.restart();
    assert_eq!(confirm(&mut memory, &2), Err(Refusal::NotInForce));
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn a_trial_that_nobody_ended_in_time_is_in_nobodys_way() {
    let mut memory = tried();
    memory.millis += 61_000;
    apply(&mut memory, &policy(3)).unwrap();
    assert_eq!((memory.kernel, waiting(&mut memory)), (Some(3), Ok(None)));
    assert_eq!(
        memory.kinds(),
        [Kind::Applied, Kind::Tried, Kind::RanOut, Kind::Applied]
    );
}

#[test]
fn a_clock_that_is_set_back_moves_no_deadline() {
    let mut memory = tried();
    // Time since the boot only increases, and a deadline of another boot has passed.
    memory.millis += 59_000;
    let trial = waiting(&mut memory).unwrap().unwrap();
    assert_eq!(trial.seconds_left(&memory.clock()), 1);
    let other = Clock {
        boot: "another".into(),
        millis: 0,
    };
    assert!(trial.is_over(&other));
}
