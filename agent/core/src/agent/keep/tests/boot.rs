//! Cases of boot, one claim each.

use super::*;

#[test]
fn other_lists_of_the_same_text_are_no_new_entry_but_kept_for_boot() {
    let mut memory = applied();
    apply(&mut memory, &with_lists(1, 100)).unwrap();
    assert_eq!(memory.digests(), ["1"]);
    memory.reboot();
    boot_it(&mut memory);
    assert_eq!(memory.kernel, Some(101));
}

#[test]
fn an_unknown_boot_is_no_other_boot() {
    let mut memory = tried();
    memory.is_boot_unknown = true;
    assert!(try_number(&mut memory, 3).is_err());
    memory.millis += 61_000;
    go_back(&mut memory, None, Ending::RanOut).unwrap().unwrap();
    assert_eq!(memory.kernel, Some(1));
    assert!(matches!(
        try_number(&mut memory, 3),
        Err(Refusal::NoWayBack(_))
    ));
}

#[test]
fn other_lists_are_kept_for_boot_and_change_no_history() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    roll_back(&mut memory).unwrap();
    let before = memory.history.clone();
    update(&mut memory, &with_lists(1, LISTS)).unwrap();
    assert_eq!(
        memory.history, before,
        "a policy that was rolled back stays refused"
    );
    memory.reboot();
    boot_it(&mut memory);
    assert_eq!(memory.kernel, Some(11));
}

#[test]
fn boot_loads_what_was_confirmed_last() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    memory.reboot();
    assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(entry) if entry.digest == "2"));
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn boot_does_not_load_a_trial() {
    let mut memory = tried();
    memory.reboot();
    let boot = boot_it(&mut memory);
    assert_eq!((memory.kernel, memory.trial.is_none()), (Some(1), true));
    assert!(
        boot.problems[0].contains("2.toml was still unconfirmed"),
        "{boot:?}"
    );
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
}

#[test]
fn boot_tries_again_what_may_pass() {
    let mut memory = applied();
    memory.reboot();
    // trial, history, stored, then the load.
    memory.mishaps = [Mishap::None, Mishap::None, Mishap::None, Mishap::Passes].into();
    assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(_)));
    assert_eq!(memory.pauses, 1);
}

#[test]
fn boot_goes_to_the_one_before_a_damaged_one() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    memory.rulesets.remove(&2);
    memory.reboot();
    assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(entry) if entry.digest == "1"));
}

#[test]
fn boot_takes_the_policy_where_nothing_was_confirmed() {
    let mut memory = TestHost::default();
    let boot = boot(&mut memory, |_| Ok(policy(5)), &policy(CLOSED));
    assert!(matches!(boot.booted, Booted::Policy(_)));
    assert_eq!(memory.kernel, Some(5));
}

#[test]
fn boot_takes_the_policy_where_the_history_cannot_be_read() {
    let mut memory = applied();
    memory.reboot();
    memory.mishaps = [Mishap::Fails, Mishap::Fails].into();
    boot(&mut memory, |_| Ok(policy(5)), &policy(CLOSED));
    assert_eq!(memory.kernel, Some(5));
}

#[test]
fn boot_does_not_take_a_policy_that_was_gone_back_from() {
    let mut memory = TestHost::default();
    try_number(&mut memory, 2).unwrap();
    go_back(&mut memory, None, Ending::RanOut).unwrap();
    memory.reboot();
    let boot = boot(&mut memory, |_| Ok(policy(2)), &policy(CLOSED));
    assert_eq!((boot.booted, memory.kernel), (Booted::Closed, Some(CLOSED)));
}

#[test]
fn boot_closes_where_nothing_else_can_be_loaded() {
    let mut memory = TestHost::default();
    assert_eq!(boot_it(&mut memory).booted, Booted::Closed);
    assert_eq!(memory.kernel, Some(CLOSED));
}

#[test]
fn boot_says_that_nothing_is_loaded() {
    let mut memory = TestHost::with(&[Mishap::None, Mishap::None, Mishap::Fails]);
    assert_eq!(boot_it(&mut memory).booted, Booted::Nothing);
}

#[test]
fn boot_loads_an_earlier_one_before_it_tries_the_other_backend() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    memory.reboot();
    memory.lacks.0 = [2].into();
    assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(entry) if entry.digest == "1"));
    assert_eq!((memory.kernel, memory.by_iptables), (Some(1), false));
}

#[test]
fn boot_loads_the_newest_by_the_other_backend_where_the_kernel_lacks_something() {
    let mut memory = applied();
    apply(&mut memory, &policy(2)).unwrap();
    memory.reboot();
    memory.lacks.0 = [CLOSED, 1, 2].into();
    let boot = boot_it(&mut memory);
    assert!(
        matches!(boot.booted, Booted::Confirmed(entry) if entry.digest == "2" && entry.by_iptables)
    );
    assert_eq!((memory.kernel, memory.by_iptables), (Some(2), true));
    assert_eq!(boot.problems.len(), 2);
    // The history is unchanged, because the next kernel may support nf_tables again.
    assert!(memory.history.kept.iter().all(|entry| !entry.by_iptables));
}

#[test]
fn boot_uses_nf_tables_where_iptables_is_gone() {
    let mut memory = TestHost::default();
    let mut by_iptables = policy(1);
    by_iptables.entry.by_iptables = true;
    apply(&mut memory, &by_iptables).unwrap();
    memory.reboot();
    memory.lacks.1 = [CLOSED, 1].into();
    assert!(matches!(boot_it(&mut memory).booted, Booted::Confirmed(_)));
    assert_eq!((memory.kernel, memory.by_iptables), (Some(1), false));
}

#[test]
fn boot_does_not_try_the_other_backend_for_what_is_only_damaged() {
    let mut memory = applied();
    memory.rulesets.clear();
    memory.reboot();
    assert_eq!(boot_it(&mut memory).problems.len(), 2);
    assert_eq!((memory.kernel, memory.by_iptables), (Some(CLOSED), false));
}

#[test]
fn boot_applies_the_policy_by_the_other_backend() {
    let mut memory = TestHost::default();
    memory.lacks.0 = [5].into();
    let boot = boot(&mut memory, |_| Ok(policy(5)), &policy(CLOSED));
    assert!(matches!(boot.booted, Booted::Policy(entry) if entry.by_iptables));
    assert_eq!((memory.kernel, memory.by_iptables), (Some(5), true));
}

#[test]
fn boot_closes_by_the_other_backend() {
    let mut memory = TestHost::default();
    memory.lacks.0 = [CLOSED].into();
    assert_eq!(boot_it(&mut memory).booted, Booted::Closed);
    assert_eq!((memory.kernel, memory.by_iptables), (Some(CLOSED), true));
}

#[test]
fn boot_loads_nothing_where_neither_backend_can() {
    let mut memory = TestHost {
        lacks: ([CLOSED].into(), [CLOSED].into()),
        ..TestHost::default()
    };
    assert_eq!(boot_it(&mut memory).booted, Booted::Nothing);
}
