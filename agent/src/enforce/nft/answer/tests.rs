//! Every answer of the kernel to a batch, and the error that it becomes.

use peerwall_core::ruleset::{Action, LogTo, Match, Rule};

use super::*;

/// The number of the batch's begin; its messages follow.
const BEGIN: u32 = 100;
const TABLE: u32 = 101;
const RULE: u32 = 102;
const LAST: u32 = 103;

/// A plan of three steps, and the batch in which it was sent.
fn sent() -> (Plan, EncodedBatch<OpIndex>) {
    let reject = Rule {
        action: Some(Action::RejectTcpReset),
        ..Rule::default()
    };
    let ops = vec![
        Op::ClaimTable,
        Op::AddRule("input".into(), None, reject),
        Op::DeleteSet("peers4".into()),
    ];
    let batch = EncodedBatch {
        bytes: Vec::new(),
        begin_seq: BEGIN,
        tags: vec![0, 1, 2],
        acked_seq: LAST,
    };
    (
        Plan {
            ops,
            ..Plan::default()
        },
        batch,
    )
}

fn ack(seq: u32, errno: i32) -> Ack {
    Ack {
        seq,
        errno,
        message: None,
        offset: None,
    }
}

fn answer(acks: &[Ack]) -> Result<(), BackendError> {
    let (plan, batch) = sent();
    outcome(&plan, &batch, acks)
}

/// The refusals of an answer that is nothing but refusals.
fn refusals(name: &str, acks: &[Ack]) -> Vec<RefusedStep> {
    match answer(acks) {
        Err(BackendError::Refused(refusals)) => refusals,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn only_the_ack_of_the_last_message_is_success() {
    assert_eq!(answer(&[ack(LAST, 0)]), Ok(()));
    for acks in [&[][..], &[ack(BEGIN, 0)], &[ack(TABLE, 0), ack(RULE, 0)]] {
        let answer = answer(acks);
        assert!(
            matches!(answer, Err(BackendError::Unknown(_))),
            "{acks:?}: {answer:?}"
        );
    }
}

#[test]
fn a_change_by_others_is_stale_whatever_else_was_refused() {
    for acks in [
        &[ack(BEGIN, libc::ERESTART)][..],
        &[ack(RULE, libc::ENOENT), ack(BEGIN, libc::ERESTART)],
        &[ack(LAST, 0), ack(BEGIN, libc::ERESTART)],
    ] {
        assert_eq!(answer(acks), Err(BackendError::Stale), "{acks:?}");
    }
}

#[test]
fn eperm_of_the_table_says_that_another_process_owns_it() {
    let everywhere = [TABLE, RULE, LAST].map(|seq| ack(seq, libc::EPERM));
    assert_eq!(answer(&everywhere), Err(BackendError::Owned));
    assert_eq!(answer(&everywhere[..1]), Err(BackendError::Owned));
    // Without the table, of the batch as a whole, or beside another error it is a lack of rights.
    for (name, acks) in [
        ("a rule", vec![ack(RULE, libc::EPERM)]),
        ("the whole", vec![ack(BEGIN, libc::EPERM)]),
        (
            "the whole, and the table",
            vec![ack(BEGIN, libc::EPERM), ack(TABLE, libc::EPERM)],
        ),
        (
            "another error",
            vec![ack(TABLE, libc::EPERM), ack(RULE, libc::ENOENT)],
        ),
    ] {
        let refused = refusals(name, &acks);
        assert_eq!(refused.len(), acks.len(), "{name}");
        assert_eq!(
            (refused[0].errno, refused[0].is_lack),
            (libc::EPERM, false),
            "{name}"
        );
        assert!(
            refused[0].why.starts_with("EPERM "),
            "{name}: {}",
            refused[0].why
        );
    }
}

#[test]
fn every_error_has_its_name_its_step_and_the_kernels_words() {
    // The name that is shown, and whether it says that the kernel does not know an expression.
    for (errno, name, is_lack) in [
        (libc::EPERM, "EPERM ", false),
        (libc::ENOENT, "ENOENT ", true),
        (libc::EEXIST, "EEXIST ", false),
        (libc::EBUSY, "EBUSY ", false),
        (libc::EOPNOTSUPP, "EOPNOTSUPP ", true),
        (libc::EINVAL, "EINVAL ", false),
        (libc::ENOMEM, "ENOMEM ", false),
        (libc::ENOBUFS, "No buffer space", false),
    ] {
        let of_rule = refusals(name, &[ack(RULE, errno)]).remove(0);
        assert_eq!(
            (of_rule.op, of_rule.errno, of_rule.is_lack),
            (Some(1), errno, is_lack),
            "{name}"
        );
        assert!(
            of_rule.what.contains("reject with tcp reset"),
            "{name}: {}",
            of_rule.what
        );
        assert!(of_rule.why.starts_with(name), "{name}: {}", of_rule.why);
        let option = of_rule.why.contains("CONFIG_NFT_REJECT_INET");
        assert_eq!(option, is_lack, "{name}: {}", of_rule.why);

        let extended = Ack {
            message: Some("Set is bound".into()),
            offset: Some(36),
            ..ack(RULE, errno)
        };
        let why = refusals(name, &[extended]).remove(0).why;
        assert!(
            why.contains(" (Set is bound) at byte 36 of the message"),
            "{name}: {why}"
        );

        let of_whole = refusals(name, &[ack(BEGIN, errno)]).remove(0);
        assert_eq!((of_whole.op, of_whole.is_lack), (None, false), "{name}");
    }
}

#[test]
fn a_table_is_never_refused_for_what_the_kernel_does_not_know() {
    for errno in [libc::ENOENT, libc::EOPNOTSUPP] {
        let refused = refusals("the table", &[ack(TABLE, errno)]).remove(0);
        assert_eq!((refused.op, refused.is_lack), (Some(0), false));
        assert!(!refused.why.contains("CONFIG_"), "{}", refused.why);
    }
}

#[test]
fn a_kernel_without_nf_tables_is_told_from_one_that_does_not_let_us() {
    let of = |errno| missing(&NetlinkError::Answer(ack(BEGIN, errno)));
    for errno in [
        libc::EPROTONOSUPPORT,
        libc::EAFNOSUPPORT,
        libc::EINVAL,
        libc::EOPNOTSUPP,
    ] {
        assert!(matches!(of(errno), BackendError::Missing(_)), "{errno}");
    }
    for errno in [libc::EPERM, libc::ENOBUFS, libc::ENOENT, libc::EBUSY] {
        assert!(matches!(of(errno), BackendError::Transport(_)), "{errno}");
    }
    let denied = of(libc::EPERM).to_string();
    assert!(denied.contains("CAP_NET_ADMIN"), "{denied}");
    assert!(matches!(
        missing(&NetlinkError::Lost),
        BackendError::Transport(_)
    ));
}

#[test]
fn only_lacks_of_log_rules_are_for_the_log() {
    let log = Rule {
        log: Some(LogTo {
            group: 5,
            prefix: "denied".into(),
        }),
        ..Rule::default()
    };
    let counted = Rule {
        counter: Some("peers".into()),
        ..log.clone()
    };
    let (mut plan, batch) = sent();
    let rules = [log, counted];
    let add = |rule: &Rule| Op::AddRule("input".into(), None, rule.clone());
    plan.ops = rules.iter().map(add).chain([Op::ClaimTable]).collect();
    let cases: [(&[Ack], bool); 5] = [
        (&[ack(TABLE, libc::ENOENT)], true),
        (&[ack(TABLE, libc::EOPNOTSUPP)], true),
        (&[ack(TABLE, libc::EINVAL)], false),
        (&[ack(RULE, libc::ENOENT)], false),
        (&[ack(TABLE, libc::ENOENT), ack(RULE, libc::ENOENT)], false),
    ];
    for (acks, want) in cases {
        let Err(BackendError::Refused(refusals)) = outcome(&plan, &batch, acks) else {
            panic!("{acks:?}");
        };
        assert_eq!(super::super::cannot_log(&plan, &refusals), want, "{acks:?}");
    }
    let left = plan.without_logs();
    assert_eq!(left.ops, plan.ops[1..]);
}

#[test]
fn options_that_accepted_rules_need_are_not_missing() {
    let rule = |label: bool, counter: Option<&str>| Rule {
        label,
        counter: counter.map(str::to_owned),
        ..Rule::default()
    };
    let (mut plan, batch) = sent();
    let add = |rule: Rule| Op::AddRule("input".into(), None, rule);
    plan.ops = vec![
        add(rule(true, None)),
        add(rule(true, Some("peers"))),
        add(rule(false, None)),
    ];
    let why = |acks: &[Ack]| match outcome(&plan, &batch, acks) {
        Err(BackendError::Refused(refusals)) => refusals[0].why.clone(),
        other => panic!("{other:?}"),
    };
    let one = why(&[ack(RULE, libc::ENOENT)]);
    assert!(
        one.ends_with("the kernel may lack CONFIG_NFT_OBJREF"),
        "{one}"
    );
    let both = why(&[ack(RULE, libc::ENOENT), ack(TABLE, libc::ENOENT)]);
    let all = "CONFIG_NFT_OBJREF or CONFIG_NF_CONNTRACK_LABELS";
    assert!(both.ends_with(all), "{both}");
    // Every option is there, and still it was refused.
    let (mut plan, batch) = (plan.clone(), batch);
    plan.ops[1] = plan.ops[0].clone();
    let Err(BackendError::Refused(refusals)) = outcome(&plan, &batch, &[ack(RULE, libc::ENOENT)])
    else {
        panic!("it was accepted");
    };
    assert!(
        refusals[0].why.ends_with("CONFIG_NF_CONNTRACK_LABELS"),
        "{refusals:?}"
    );
}

#[test]
fn a_refused_route_to_the_source_names_the_version_and_is_the_only_error() {
    let route = Rule {
        matches: vec![Match::ReversePath { exists: false }],
        counter: Some("peer-spoof".into()),
        ..Rule::default()
    };
    let later = Rule {
        counter: Some("router-advert".into()),
        label: true,
        ..Rule::default()
    };
    let (mut plan, batch) = sent();
    let add = |rule: Rule| Op::AddRule("route-side".into(), None, rule);
    plan.ops = vec![add(route.clone()), add(later), add(route)];
    let why = |acks: &[Ack]| match outcome(&plan, &batch, acks) {
        Err(BackendError::Refused(refusals)) => refusals,
        other => panic!("{other:?}"),
    };
    // The answer of Linux 5.10: every rule from the first route on.
    let refused = why(&[TABLE, RULE, LAST].map(|seq| ack(seq, libc::EOPNOTSUPP)));
    let of_route = |refusal: &RefusedStep| {
        (
            refusal.op,
            refusal.is_lack,
            refusal.why.ends_with(ROUTE_NEEDS),
        )
    };
    let seen: Vec<_> = refused.iter().map(of_route).collect();
    assert_eq!(seen, [(Some(0), true, true), (Some(2), true, true)]);
    let said = BackendError::Refused(refused).to_string();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("fib saddr . iif oif missing"), "{said}");
    assert!(
        said.contains("needs Linux 5.19") && !said.contains("CONFIG_"),
        "{said}"
    );
    // Other errors stay, and the options of a kernel without fib are named.
    let refused = why(&[
        ack(TABLE, libc::ENOENT),
        ack(RULE, libc::EOPNOTSUPP),
        ack(LAST, libc::ENOENT),
    ]);
    assert_eq!(refused.len(), 3);
    assert!(
        refused[0].why.contains("CONFIG_NFT_FIB_INET"),
        "{}",
        refused[0].why
    );
    assert!(!refused[0].why.contains("5.19"), "{}", refused[0].why);
    let refused = why(&[ack(TABLE, libc::EOPNOTSUPP), ack(RULE, libc::EINVAL)]);
    assert_eq!(refused.len(), 2);
}
