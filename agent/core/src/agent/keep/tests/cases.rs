//! One claim a case.

use super::*;

/// One claim a case: what is done to a host, and what holds then.
macro_rules! cases {
    ($( $name:ident($memory:ident = $start:expr) $body:block )*) => {$(
        #[test]
        #[allow(unused_mut, reason = "some cases only look at what the start left")]
        fn $name() {
            let mut $memory = $start;
            $body
        }
    )*};
}

cases! {
    what_is_applied_is_in_force_and_in_the_history(memory = applied()) {
        assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
        assert_eq!(memory.kinds(), [Kind::Applied]);
    }
    the_same_applied_again_is_no_new_entry(memory = applied()) {
        apply(&mut memory, &policy(1)).unwrap();
        assert_eq!(memory.digests(), ["1"]);
        assert_eq!(memory.kinds(), [Kind::Applied]);
    }
    other_lists_of_the_same_text_are_no_new_entry_but_kept_for_boot(memory = applied()) {
        apply(&mut memory, &with_lists(1, 100)).unwrap();
        assert_eq!(memory.digests(), ["1"]);
        memory.reboot();
        boot_it(&mut memory);
        assert_eq!(memory.kernel, Some(101));
    }
    what_cannot_be_loaded_changes_nothing(memory = applied()) {
        memory.mishaps = [Mishap::None, Mishap::Fails].into();
        assert!(matches!(apply(&mut memory, &policy(2)), Err(Refusal::NotLoaded(_))));
        assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    }
    an_apply_that_cannot_be_noted_is_in_force_and_says_so(memory = applied()) {
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
        assert!(matches!(apply(&mut memory, &policy(2)), Err(Refusal::State(_))));
        assert_eq!(memory.kernel, Some(2));
    }
    a_trial_is_in_force_and_not_in_the_history(memory = tried()) {
        assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1"]));
        assert_eq!(memory.guards, 1);
    }
    a_trial_goes_back_when_its_time_is_over(memory = tried()) {
        memory.millis += 60_000;
        assert!(waiting(&mut memory).unwrap().unwrap().is_over(&memory.clock()));
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
        assert_eq!(memory.history.refused.as_deref(), Some("2"));
        assert_eq!(memory.kinds(), [Kind::Applied, Kind::Tried, Kind::RanOut]);
    }
    a_trial_goes_back_when_whoever_keeps_it_is_stopped(memory = tried()) {
        go_back(&mut memory, None, Ending::Stopped).unwrap().unwrap();
        assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
        assert_eq!(memory.history.refused.as_deref(), Some("2"));
        assert_eq!(memory.kinds(), [Kind::Applied, Kind::Tried, Kind::Stopped]);
    }
    a_trial_where_nothing_was_goes_back_to_nothing(memory = TestHost::default()) {
        try_number(&mut memory, 2).unwrap();
        go_back(&mut memory, None, Ending::RanOut).unwrap();
        assert_eq!(memory.kernel, None);
    }
    a_guard_of_another_trial_leaves_this_one_alone(memory = tried()) {
        assert_eq!(go_back(&mut memory, Some(77), Ending::RanOut).unwrap(), None);
        assert_eq!(memory.kernel, Some(2));
    }
    going_back_that_fails_is_done_by_the_next_call(memory = tried()) {
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::Passes].into();
        assert!(go_back(&mut memory, None, Ending::RanOut).is_err());
        assert!(waiting(&mut memory).unwrap().is_some());
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!(memory.kernel, Some(1));
    }
    going_back_that_dies_after_loading_is_finished_by_the_next(memory = tried()) {
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::DiesAfter].into();
        assert!(go_back(&mut memory, None, Ending::RanOut).is_err());
        memory.restart();
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!((memory.kernel, memory.history.refused.as_deref()), (Some(1), Some("2")));
    }
    a_confirmed_trial_stays(memory = tried()) {
        confirm(&mut memory, &2).unwrap();
        memory.millis += 60_000;
        assert_eq!(go_back(&mut memory, None, Ending::RanOut).unwrap(), None);
        assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1", "2"]));
    }
    a_trial_is_not_confirmed_from_where_it_was_tried(memory = tried()) {
        assert_eq!(confirm(&mut memory, &1), Err(Refusal::SameCaller));
        assert_eq!(memory.digests(), ["1"]);
    }
    a_trial_is_not_confirmed_when_its_time_is_over(memory = tried()) {
        memory.millis += 60_000;
        assert_eq!(confirm(&mut memory, &2), Err(Refusal::TooLate));
    }
    a_trial_is_not_confirmed_after_a_reboot(memory = tried()) {
        memory.reboot();
        assert_eq!(confirm(&mut memory, &2), Err(Refusal::TooLate));
    }
    nothing_is_confirmed_where_nothing_waits(memory = applied()) {
        assert_eq!(confirm(&mut memory, &2), Err(Refusal::NothingWaits));
    }
    what_is_confirmed_is_in_force_again_if_somebody_changed_it(memory = tried()) {
        memory.kernel = Some(99);
        confirm(&mut memory, &2).unwrap();
        assert_eq!(memory.kernel, Some(2));
    }
    a_confirmation_that_dies_after_the_history_counts(memory = tried()) {
        // trial, history, load, history, store, set_history; then set_trial.
        memory.mishaps = [Mishap::None; 6].into();
        memory.mishaps.push_back(Mishap::DiesBefore);
        let _ = confirm(&mut memory, &2);
        memory.restart();
        memory.millis += 60_000;
        assert_eq!(go_back(&mut memory, None, Ending::RanOut).unwrap(), None);
        assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1", "2"]));
    }
    a_confirmation_that_cannot_be_written_does_not_count(memory = tried()) {
        memory.mishaps = [Mishap::None; 5].into();
        memory.mishaps.push_back(Mishap::Fails);
        assert!(matches!(confirm(&mut memory, &2), Err(Refusal::State(_))));
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    }
    an_apply_does_not_end_a_trial(memory = tried()) {
        let refused = apply(&mut memory, &policy(2));
        assert_eq!(refused, Err(Refusal::Waits { policy: "2.toml".into(), seconds: 60 }));
        assert_eq!(memory.digests(), ["1"]);
    }
    a_second_trial_does_not_end_the_first(memory = tried()) {
        assert!(matches!(try_number(&mut memory, 3), Err(Refusal::Waits { .. })));
        assert_eq!(memory.kernel, Some(2));
    }
    a_trial_without_a_guard_does_not_begin(memory = applied()) {
        // trial, history, set_trial, then the guard.
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
        assert!(matches!(try_number(&mut memory, 2), Err(Refusal::NoWayBack(_))));
        assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
    }
    a_trial_that_cannot_be_noted_does_not_begin(memory = applied()) {
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::Fails].into();
        assert!(matches!(try_number(&mut memory, 2), Err(Refusal::NoWayBack(_))));
        assert_eq!((memory.kernel, memory.guards), (Some(1), 0));
    }
    a_trial_that_cannot_be_loaded_leaves_nothing(memory = applied()) {
        memory.mishaps = [Mishap::None; 4].into();
        memory.mishaps.push_back(Mishap::Fails);
        assert!(matches!(try_number(&mut memory, 2), Err(Refusal::NotLoaded(_))));
        assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
        assert_eq!(confirm(&mut memory, &2), Err(Refusal::NothingWaits));
    }
    a_trial_that_may_have_been_loaded_goes_back_at_once(memory = applied()) {
        memory.mishaps = [Mishap::None; 4].into();
        memory.mishaps.push_back(Mishap::Unknown);
        assert!(matches!(try_number(&mut memory, 2), Err(Refusal::NotLoaded(_))));
        assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
    }
    a_trial_that_died_while_loading_cannot_be_confirmed(memory = applied()) {
        memory.mishaps = [Mishap::None; 4].into();
        memory.mishaps.push_back(Mishap::DiesAfter);
        assert!(try_number(&mut memory, 2).is_err());
        memory.restart();
        assert_eq!(confirm(&mut memory, &2), Err(Refusal::NotInForce));
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!(memory.kernel, Some(1));
    }
    a_removal_is_recorded_once(memory = applied()) {
        assert_eq!(remove(&mut memory), Ok(true));
        assert_eq!(remove(&mut memory), Ok(false));
        assert_eq!((memory.kernel, memory.kinds()), (None, vec![Kind::Applied, Kind::Removed]));
    }
    a_removal_does_not_end_a_trial(memory = tried()) {
        assert!(matches!(remove(&mut memory), Err(Refusal::Waits { .. })));
        assert_eq!(memory.kernel, Some(2));
    }
    a_trial_that_nobody_ended_in_time_is_in_nobodys_way(memory = tried()) {
        memory.millis += 61_000;
        apply(&mut memory, &policy(3)).unwrap();
        assert_eq!((memory.kernel, waiting(&mut memory)), (Some(3), Ok(None)));
        assert_eq!(memory.kinds(), [Kind::Applied, Kind::Tried, Kind::RanOut, Kind::Applied]);
    }
    an_unknown_boot_is_no_other_boot(memory = tried()) {
        memory.is_boot_unknown = true;
        assert!(try_number(&mut memory, 3).is_err());
        memory.millis += 61_000;
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!(memory.kernel, Some(1));
        assert!(matches!(try_number(&mut memory, 3), Err(Refusal::NoWayBack(_))));
    }
    a_rollback_ends_a_trial(memory = tried()) {
        assert_eq!(roll_back(&mut memory), Ok(RolledBack::Trial(None)));
        assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
        assert_eq!(memory.kinds().last(), Some(&Kind::RolledBack));
    }
    a_rollback_of_a_trial_that_cannot_be_noted_says_so(memory = tried()) {
        // trial, history, the load, the lists (history, stored), history, then writing it.
        memory.mishaps = [Mishap::None; 6].into();
        memory.mishaps.push_back(Mishap::Fails);
        assert!(matches!(roll_back(&mut memory), Ok(RolledBack::Trial(Some(_)))));
        assert_eq!((memory.kernel, waiting(&mut memory)), (Some(1), Ok(None)));
    }
    a_rollback_goes_to_the_one_before(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        assert!(matches!(roll_back(&mut memory), Ok(RolledBack::To(entry, None)) if entry.digest == "1"));
        assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
        assert_eq!(memory.history.refused.as_deref(), Some("2"));
    }
    a_rollback_after_copy_confirm_and_move_goes_to_what_was_before(memory = tried()) {
        confirm(&mut memory, &2).unwrap();
        // The copy becomes the policy: the same text.
        let entry = Entry { policy: "policy.toml".into(), ..policy(2).entry };
        apply(&mut memory, &Kept { entry, ruleset: 2 }).unwrap();
        roll_back(&mut memory).unwrap();
        assert_eq!(memory.kernel, Some(1));
    }
    a_rollback_with_nothing_before_changes_nothing(memory = applied()) {
        assert_eq!(roll_back(&mut memory), Err(Refusal::NothingBefore));
        assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    }
    a_rollback_that_fails_leaves_history_and_rules(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        // trial, history, stored, then the load.
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
        assert!(matches!(roll_back(&mut memory), Err(Refusal::NotLoaded(_))));
        assert_eq!((memory.kernel, memory.digests()), (Some(2), vec!["1", "2"]));
    }
    a_rollback_that_was_made_says_so_whatever_failed_after(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::None, Mishap::Fails].into();
        assert!(matches!(roll_back(&mut memory), Ok(RolledBack::To(_, Some(_)))));
        assert_eq!(memory.kernel, Some(1));
    }
    a_peer_that_joined_is_not_taken_out_by_going_back(memory = tried()) {
        memory.lists = LISTS;
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!(memory.kernel, Some(11));
        memory.reboot();
        boot_it(&mut memory);
        assert_eq!(memory.kernel, Some(11), "the next boot knows of it");
    }
    a_peer_that_joined_is_not_taken_out_by_a_confirmation(memory = tried()) {
        memory.lists = LISTS;
        confirm(&mut memory, &2).unwrap();
        assert_eq!((memory.kernel, memory.rulesets.get(&2)), (Some(12), Some(&12)));
    }
    a_peer_that_joined_is_not_taken_out_by_a_rollback(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        memory.lists = LISTS;
        assert!(matches!(roll_back(&mut memory), Ok(RolledBack::To(_, None))));
        assert_eq!((memory.kernel, memory.rulesets.get(&1)), (Some(11), Some(&11)));
    }
    lists_that_cannot_be_read_do_not_keep_from_going_back(memory = tried()) {
        (memory.lists, memory.are_lists_wrong) = (LISTS, true);
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!(memory.kernel, Some(1));
    }
    lists_that_this_kernel_refuses_do_not_keep_from_going_back(memory = tried()) {
        memory.lists = LISTS;
        // trial, history, then the load.
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::Fails].into();
        go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
        assert_eq!(memory.kernel, Some(1));
    }
    other_lists_are_kept_for_boot_and_change_no_history(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        roll_back(&mut memory).unwrap();
        let before = memory.history.clone();
        update(&mut memory, &with_lists(1, LISTS)).unwrap();
        assert_eq!(memory.history, before, "what was gone back from stays refused");
        memory.reboot();
        boot_it(&mut memory);
        assert_eq!(memory.kernel, Some(11));
    }
    boot_loads_what_was_confirmed_last(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        memory.reboot();
        assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(entry) if entry.digest == "2"));
        assert_eq!(memory.kernel, Some(2));
    }
    boot_does_not_load_a_trial(memory = tried()) {
        memory.reboot();
        let boot = boot_it(&mut memory);
        assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
        assert!(boot.problems[0].contains("2.toml was still on trial"), "{boot:?}");
        assert_eq!(memory.history.refused.as_deref(), Some("2"));
    }
    boot_tries_again_what_may_pass(memory = applied()) {
        memory.reboot();
        // trial, history, stored, then the load.
        memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Passes].into();
        assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(_)));
        assert_eq!(memory.pauses, 1);
    }
    boot_goes_to_the_one_before_a_damaged_one(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        memory.rulesets.remove(&2);
        memory.reboot();
        assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(entry) if entry.digest == "1"));
    }
    boot_takes_the_policy_where_nothing_was_confirmed(memory = TestHost::default()) {
        let boot = boot(&mut memory, |_| Ok(policy(5)), &policy(CLOSED));
        assert!(matches!(boot.booted, Booted::Policy(_)));
        assert_eq!(memory.kernel, Some(5));
    }
    boot_takes_the_policy_where_the_history_cannot_be_read(memory = applied()) {
        memory.reboot();
        memory.mishaps = [Mishap::Fails, Mishap::Fails].into();
        boot(&mut memory, |_| Ok(policy(5)), &policy(CLOSED));
        assert_eq!(memory.kernel, Some(5));
    }
    boot_does_not_take_a_policy_that_was_gone_back_from(memory = TestHost::default()) {
        try_number(&mut memory, 2).unwrap();
        go_back(&mut memory, None, Ending::RanOut).unwrap();
        memory.reboot();
        let boot = boot(&mut memory, |_| Ok(policy(2)), &policy(CLOSED));
        assert_eq!((boot.booted, memory.kernel), (Booted::Closed, Some(CLOSED)));
    }
    boot_closes_where_nothing_else_can_be_loaded(memory = TestHost::default()) {
        assert_eq!(boot_it(&mut memory).booted, Booted::Closed);
        assert_eq!(memory.kernel, Some(CLOSED));
    }
    boot_says_that_nothing_is_loaded(memory = TestHost::with(&[Mishap::None, Mishap::None, Mishap::Fails])) {
        assert_eq!(boot_it(&mut memory).booted, Booted::Nothing);
    }
    boot_loads_an_earlier_one_before_it_tries_the_other_backend(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        memory.reboot();
        memory.lacks.0 = [2].into();
        assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(entry) if entry.digest == "1"));
        assert_eq!((memory.kernel, memory.by_iptables), (Some(1), false));
    }
    boot_loads_the_newest_by_the_other_backend_where_the_kernel_lacks_something(memory = applied()) {
        apply(&mut memory, &policy(2)).unwrap();
        memory.reboot();
        memory.lacks.0 = [CLOSED, 1, 2].into();
        let boot = boot_it(&mut memory);
        assert!(matches!(boot.booted, Booted::Confirmed(entry) if entry.digest == "2" && entry.by_iptables));
        assert_eq!((memory.kernel, memory.by_iptables), (Some(2), true));
        assert_eq!(boot.problems.len(), 2);
        // The history is not changed: the next kernel may have it again.
        assert!(memory.history.kept.iter().all(|entry| !entry.by_iptables));
    }
    boot_uses_nf_tables_where_iptables_is_gone(memory = TestHost::default()) {
        let mut by_iptables = policy(1);
        by_iptables.entry.by_iptables = true;
        apply(&mut memory, &by_iptables).unwrap();
        memory.reboot();
        memory.lacks.1 = [CLOSED, 1].into();
        assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(_)));
        assert_eq!((memory.kernel, memory.by_iptables), (Some(1), false));
    }
    boot_does_not_try_the_other_backend_for_what_is_only_damaged(memory = applied()) {
        memory.rulesets.clear();
        memory.reboot();
        assert_eq!(boot_it(&mut memory).problems.len(), 2);
        assert_eq!((memory.kernel, memory.by_iptables), (Some(CLOSED), false));
    }
    boot_applies_the_policy_by_the_other_backend(memory = TestHost::default()) {
        memory.lacks.0 = [5].into();
        let boot = boot(&mut memory, |_| Ok(policy(5)), &policy(CLOSED));
        assert!(matches!(boot.booted, Booted::Policy(entry) if entry.by_iptables));
        assert_eq!((memory.kernel, memory.by_iptables), (Some(5), true));
    }
    boot_closes_by_the_other_backend(memory = TestHost::default()) {
        memory.lacks.0 = [CLOSED].into();
        assert_eq!(boot_it(&mut memory).booted, Booted::Closed);
        assert_eq!((memory.kernel, memory.by_iptables), (Some(CLOSED), true));
    }
    boot_loads_nothing_where_neither_backend_can(memory = TestHost::default()) {
        memory.lacks = ([CLOSED].into(), [CLOSED].into());
        assert_eq!(boot_it(&mut memory).booted, Booted::Nothing);
    }
    a_clock_that_is_set_back_moves_no_deadline(memory = tried()) {
        // Time since the boot only grows; another boot's deadline is over.
        memory.millis += 59_000;
        let trial = waiting(&mut memory).unwrap().unwrap();
        assert_eq!(trial.seconds_left(&memory.clock()), 1);
        let other = Clock { boot: "another".into(), millis: 0 };
        assert!(trial.is_over(&other));
    }
    only_the_last_ones_are_kept(memory = applied()) {
        for number in 2..10 {
            apply(&mut memory, &policy(number)).unwrap();
        }
        assert_eq!(memory.digests(), ["4", "5", "6", "7", "8", "9"]);
        assert_eq!(memory.history.last().map(|last| last.number), Some(9));
    }
}

#[test]
fn a_policy_that_cannot_be_read_at_the_moment_is_read_again_at_boot() {
    let mut memory = TestHost::default();
    let mut tries = 0;
    let read = |_: &mut TestHost| {
        tries += 1;
        match tries {
            3 => Ok(policy(5)),
            _ => Err(Fault {
                is_passing: true,
                ..Fault::new("too many open files")
            }),
        }
    };
    let boot = boot(&mut memory, read, &policy(CLOSED));
    assert_eq!(boot.booted, Booted::Policy(policy(5).entry));
    assert_eq!((memory.kernel, tries), (Some(5), 3));
}

#[test]
fn what_an_agent_reads_is_judged_by_its_text() {
    let idle = Situation {
        wanted: Some("a"),
        is_trial: false,
        refused: None,
        read: None,
        is_asked: false,
        locks_out: false,
    };
    for (name, situation, digest, wanted) in [
        ("the same text", idle, "a", Reading::Same),
        ("another text", idle, "b", Reading::Take),
        (
            "at the start",
            Situation {
                wanted: None,
                ..idle
            },
            "a",
            Reading::Take,
        ),
        (
            "gone back from",
            Situation {
                refused: Some("b"),
                ..idle
            },
            "b",
            Reading::Refused,
        ),
        (
            "gone back from, and asked for",
            Situation {
                refused: Some("b"),
                is_asked: true,
                ..idle
            },
            "b",
            Reading::Take,
        ),
        (
            "changed since it was gone back from",
            Situation {
                refused: Some("b"),
                ..idle
            },
            "c",
            Reading::Take,
        ),
        (
            "during a trial",
            Situation {
                is_trial: true,
                ..idle
            },
            "b",
            Reading::Later,
        ),
        (
            "read before another was confirmed",
            Situation {
                read: Some("b"),
                ..idle
            },
            "b",
            Reading::PassedOver,
        ),
        (
            "changed since another was confirmed",
            Situation {
                read: Some("b"),
                ..idle
            },
            "c",
            Reading::Take,
        ),
        (
            "lists of what is tried",
            Situation {
                is_trial: true,
                ..idle
            },
            "a",
            Reading::Same,
        ),
        (
            "locks everybody out",
            Situation {
                locks_out: true,
                ..idle
            },
            "b",
            Reading::LocksOut,
        ),
        (
            "locks everybody out, and asked for",
            Situation {
                locks_out: true,
                is_asked: true,
                ..idle
            },
            "b",
            Reading::Take,
        ),
        (
            "locks everybody out where nothing is in force",
            Situation {
                wanted: None,
                locks_out: true,
                ..idle
            },
            "b",
            Reading::Take,
        ),
    ] {
        assert_eq!(judge(situation, digest), wanted, "{name}");
    }
}
