//! Blocks: what ends them, and what does not.

use super::*;

/// Returns a host on which 1 is confirmed, 2 was rolled back, and a block is in force.
fn blocked() -> TestHost {
    let mut memory = tried();
    go_back(&mut memory, None, Ending::RolledBack).unwrap();
    apply(&mut memory, &a_block()).unwrap();
    memory
}

#[test]
fn nothing_but_unblock_ends_a_block() {
    let mut memory = blocked();
    assert_eq!(apply(&mut memory, &policy(3)), Err(Refusal::Blocked));
    assert_eq!(try_number(&mut memory, 3), Err(Refusal::Blocked));
    assert_eq!(roll_back(&mut memory), Err(Refusal::Blocked));
    assert_eq!(remove(&mut memory), Err(Refusal::Blocked));
    memory.reboot();
    let booted = boot_it(&mut memory).booted;
    assert!(matches!(booted, Booted::Confirmed(entry) if entry.is_block));
    assert_eq!(memory.kernel, Some(BLOCK));
    memory.lists = LISTS;
    assert_eq!(unblocked(&mut memory), Ok(Some(1 + LISTS)));
    let (entry, noted) = unblock(&mut memory).unwrap();
    assert_eq!(entry.map(|entry| entry.digest), Some("1".into()));
    assert_eq!((noted, memory.kernel), (None, Some(1 + LISTS)));
    assert_eq!(memory.digests(), ["1"]);
    assert_eq!(memory.rulesets[&1], 1 + LISTS, "for the next boot");
    assert_eq!(unblock(&mut memory), Err(Refusal::NotBlocked));
    assert_eq!(unblocked(&mut memory), Err(Refusal::NotBlocked));
    let events = [Kind::Blocked, Kind::Booted, Kind::Unblocked];
    assert_eq!(memory.kinds()[memory.trail.len() - 3..], events);
}

#[test]
fn a_block_leaves_the_policy_that_was_rolled_back() {
    let mut memory = blocked();
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
    unblock(&mut memory).unwrap();
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
    try_block(&mut memory).unwrap();
    go_back(&mut memory, None, Ending::RanOut).unwrap();
    assert_eq!(memory.history.refused.as_deref(), Some("2"));
    assert_eq!(memory.kernel, Some(1));
}

#[test]
fn a_block_on_trial_ends_with_it_or_stays() {
    let mut memory = applied();
    try_block(&mut memory).unwrap();
    assert!(blocked_by(&mut memory).unwrap().is_some());
    assert_eq!(unblocked(&mut memory), Ok(Some(1)));
    unblock(&mut memory).unwrap();
    assert_eq!((memory.kernel, &memory.trial), (Some(1), &None));
    assert_eq!(blocked_by(&mut memory), Ok(None));
    try_block(&mut memory).unwrap();
    confirm(&mut memory, &2).unwrap();
    assert_eq!(memory.digests(), ["1", "block"]);
    assert_eq!(memory.kernel, Some(BLOCK));
}

#[test]
fn unblock_goes_back_beyond_a_block_on_trial_after_a_block() {
    let mut memory = blocked();
    let mut other = a_block();
    other.entry.digest = "other block".into();
    let before = memory.before();
    try_out(&mut memory, other, before, MINUTE, 1).unwrap();
    assert_eq!(unblocked(&mut memory), Ok(Some(1)));
    unblock(&mut memory).unwrap();
    assert_eq!((memory.kernel, memory.digests()), (Some(1), vec!["1"]));
    assert_eq!(waiting(&mut memory), Ok(None));
}

#[test]
fn blocks_do_not_displace_policies() {
    let mut memory = TestHost::default();
    for number in 1..=u8::try_from(KEPT).unwrap() {
        apply(&mut memory, &policy(number)).unwrap();
    }
    let policies: Vec<String> = memory.digests().iter().map(ToString::to_string).collect();
    for digest in ["block", "another", "block"] {
        let mut block = a_block();
        block.entry.digest = digest.into();
        apply(&mut memory, &block).unwrap();
        assert_eq!(memory.digests()[..KEPT], policies);
        assert_eq!(memory.digests()[KEPT..], [digest]);
    }
    unblock(&mut memory).unwrap();
    assert_eq!(memory.digests(), policies);
}

#[test]
fn a_block_that_cannot_be_loaded_at_boot_closes_the_host() {
    let mut memory = blocked();
    memory
        .rulesets
        .remove(&memory.history.last().unwrap().number);
    memory.reboot();
    assert_eq!(boot_it(&mut memory).booted, Booted::Closed);
    assert_eq!(memory.kernel, Some(CLOSED));
    assert!(
        blocked_by(&mut memory).unwrap().is_some(),
        "it still refuses policies"
    );
}

#[test]
fn a_block_of_a_host_without_rules_ends_without_rules() {
    let mut memory = TestHost::default();
    apply(&mut memory, &a_block()).unwrap();
    assert_eq!(unblocked(&mut memory), Ok(None));
    assert_eq!(unblock(&mut memory), Ok((None, None)));
    assert_eq!((memory.kernel, memory.digests()), (None, Vec::new()));
}

#[test]
fn a_policy_on_trial_is_no_block() {
    let mut memory = tried();
    assert_eq!(blocked_by(&mut memory), Ok(None));
    assert!(matches!(unblock(&mut memory), Err(Refusal::Waits { .. })));
    assert!(matches!(try_block(&mut memory), Err(Refusal::Waits { .. })));
    assert_eq!(memory.kernel, Some(2));
}

#[test]
fn a_death_while_a_block_ends_leaves_the_block_for_the_next_boot() {
    for at in 0..8 {
        let mut memory = blocked();
        memory.mishaps = vec![Mishap::None; at].into();
        memory.mishaps.push_back(Mishap::DiesBefore);
        let done = unblock(&mut memory);
        if !memory.is_dead {
            assert!(done.is_ok());
            return;
        }
        memory.reboot();
        boot_it(&mut memory);
        let is_ended = memory.history.block().is_none();
        assert_eq!(
            memory.kernel,
            Some(if is_ended { 1 } else { BLOCK }),
            "step {at}"
        );
    }
    panic!("unblock takes more steps");
}

#[test]
fn a_trial_on_a_blocked_host_ends_with_the_block() {
    let mut memory = blocked();
    memory.reboot();
    // This boot cannot read the history, and loads the policy.
    memory.mishaps = vec![Mishap::None, Mishap::Fails].into();
    boot(&mut memory, |_| Ok(policy(9)), &policy(CLOSED));
    memory.restart();
    assert_eq!(memory.kernel, Some(9));
    for lost in [false, true] {
        try_block(&mut memory).unwrap();
        if lost {
            memory.rulesets.clear();
        }
        memory.millis += 61_000;
        assert!(matches!(
            apply(&mut memory, &policy(1)),
            Err(Refusal::Blocked)
        ));
        assert_eq!(memory.kernel, Some(BLOCK), "lost: {lost}");
    }
}
