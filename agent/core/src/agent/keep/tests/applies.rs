//! Cases of apply, removal and rollback, one claim each.

use super::*;

#[test]
fn what_is_applied_is_in_force_and_in_the_history() {
    let memory = applied();
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    assert_eq!(memory.kinds(), [Kind::Applied]);
}

#[test]
fn the_same_applied_again_is_no_new_entry() {
    let mut memory = applied();
    apply(&mut memory, &policy(1)).unwrap();
    assert_eq!(memory.digests(), ["1"]);
    assert_eq!(memory.kinds(), [Kind::Applied]);
}

#[test]
fn what_cannot_be_loaded_changes_nothing() {
    let mut memory = applied();
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::Fails].into();
    assert!(matches!(
        apply(&mut memory, &policy(2)),
        Err(Refusal::NotLoaded(_))
    ));
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
}

#[test]
fn an_apply_that_cannot_be_noted_is_in_force_and_says_so() {
    let mut memory = applied();
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
    assert!(matches!(
        apply(&mut memory, &policy(2)),
        Err(Refusal::State(_))
    ));
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn a_removal_is_recorded_once() {
    let mut memory = applied();
    assert_eq!(remove(&mut memory), Ok(true));
    assert_eq!(remove(&mut memory), Ok(false));
    assert_eq!(
        (memory.kernel, memory.kinds()),
        (None, vec![Kind::Applied, Kind::Removed])
    );
}

#[test]
fn a_removal_does_not_end_a_trial() {
    let mut memory = tried();
    assert!(matches!(remove(&mut memory), Err(Refusal::Waits { .. })));
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn a_rollback_ends_a_trial() {
    let mut memory = tried();
    assert_eq!(roll_back(&mut memory), Ok(RolledBack::Trial(None)));
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    assert_eq!(memory.kinds().last(), Some(&Kind::RolledBack));
}

#[test]
fn a_rollback_of_a_trial_that_cannot_be_noted_says_so() {
    let mut memory = tried();
    // trial, history, the load, the lists (history, stored), history, then writing it.
    memory.mishaps = [Mishap::None; 6].into();
    memory.mishaps.push_back(Mishap::Fails);
    assert!(matches!(
        roll_back(&mut memory),
        Ok(RolledBack::Trial(Some(_)))
    ));
    assert_eq!((memory.kernel, waiting(&mut memory)), (Some(1), Ok(None)));
}

#[test]
fn a_rollback_goes_to_the_one_before() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    assert!(
        matches!(roll_back(&mut memory), Ok(RolledBack::To(entry, None)) if entry.digest == "1")
    );
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
}

#[test]
fn a_rollback_after_copy_confirm_and_move_goes_to_what_was_before() {
    let mut memory = tried();
    confirm(&mut memory, &2).unwrap();
    // The copy becomes the policy: the same text.
    let entry = Entry {
        policy: "policy.toml".into(),
        ..policy(2).entry
    };
    apply(&mut memory, &Kept { entry, ruleset: 2 }).unwrap();
    roll_back(&mut memory).unwrap();
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn a_rollback_with_nothing_before_changes_nothing() {
    let mut memory = applied();
    assert_eq!(roll_back(&mut memory), Err(Refusal::NothingBefore));
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
}

#[test]
fn a_rollback_that_fails_leaves_history_and_rules() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    // trial, history, stored, then the load.
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
    assert!(matches!(roll_back(&mut memory), Err(Refusal::NotLoaded(_))));
    assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1", "2"]));
}

#[test]
fn a_rollback_that_was_made_says_so_whatever_failed_after() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    memory.mishaps = [
        Mishap::None,
        Mishap::None,
        Mishap::None,
        Mishap::None,
        Mishap::Fails,
    ]
    .into();
    assert!(matches!(
        roll_back(&mut memory),
        Ok(RolledBack::To(_, Some(_)))
    ));
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn a_peer_that_joined_is_not_taken_out_by_going_back() {
    let mut memory = tried();
    memory.lists = LISTS;
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(memory.kernel, Some(11));
    memory.reboot();
    boot_it(&mut memory);
    assert_eq!(memory.kernel, Some(11), "stored for the next boot");
}

#[test]
fn a_peer_that_joined_is_not_taken_out_by_a_confirmation() {
    let mut memory = tried();
    memory.lists = LISTS;
    confirm(&mut memory, &2).unwrap();
    assert_eq!(
        (memory.kernel, memory.rulesets.get(&2)),
        (Some(12), Some(&12))
    );
}

#[test]
fn a_peer_that_joined_is_not_taken_out_by_a_rollback() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    memory.lists = LISTS;
    assert!(matches!(
        roll_back(&mut memory),
        Ok(RolledBack::To(_, None))
    ));
    assert_eq!(
        (memory.kernel, memory.rulesets.get(&1)),
        (Some(11), Some(&11))
    );
}

#[test]
fn lists_that_cannot_be_read_do_not_keep_from_going_back() {
    let mut memory = tried();
    (memory.lists, memory.are_lists_wrong) = (LISTS, true);
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn lists_that_this_kernel_refuses_do_not_keep_from_going_back() {
    let mut memory = tried();
    memory.lists = LISTS;
    // The trial, and twice the history; then the load.
    let none = Mishap::None;
    memory.mishaps = [none, none, none, Mishap::Fails].into();
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn only_the_last_ones_are_kept() {
    let mut memory = applied();
    for number in 2..10 {
        apply(&mut memory, &policy(number)).unwrap();
    }
    assert_eq!(memory.digests(), ["4", "5", "6", "7", "8", "9"]);
    assert_eq!(memory.history.last().map(|last| last.number), Some(9));
}
