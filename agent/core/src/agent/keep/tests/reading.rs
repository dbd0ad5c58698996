//! Cases of decisions on a policy that was read.

use super::*;

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
        is_blocked: false,
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
            "rolled back",
            Situation {
                refused: Some("b"),
                ..idle
            },
            "b",
            Reading::Refused,
        ),
        (
            "rolled back, and requested",
            Situation {
                refused: Some("b"),
                is_asked: true,
                ..idle
            },
            "b",
            Reading::Take,
        ),
        (
            "changed after the rollback",
            Situation {
                refused: Some("b"),
                ..idle
            },
            "c",
            Reading::Take,
        ),
        (
            "on a blocked host, also if requested",
            Situation {
                is_blocked: true,
                is_asked: true,
                ..idle
            },
            "b",
            Reading::Blocked,
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
            "read before another policy was confirmed",
            Situation {
                read: Some("b"),
                ..idle
            },
            "b",
            Reading::PassedOver,
        ),
        (
            "changed after another policy was confirmed",
            Situation {
                read: Some("b"),
                ..idle
            },
            "c",
            Reading::Take,
        ),
        (
            "changed lists of the policy on trial",
            Situation {
                is_trial: true,
                ..idle
            },
            "a",
            Reading::Same,
        ),
        (
            "locks out every session",
            Situation {
                locks_out: true,
                ..idle
            },
            "b",
            Reading::LocksOut,
        ),
        (
            "locks out every session, and requested",
            Situation {
                locks_out: true,
                is_asked: true,
                ..idle
            },
            "b",
            Reading::Take,
        ),
        (
            "locks out every session while nothing is loaded",
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
