//! One behaviour suite, run on the memory backend and on the kernel.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use peerwall::enforce::nft::Kernel;
use peerwall_core::backend::{Backend, BackendError};
use peerwall_core::generate;
use peerwall_core::nft::memory::Memory;
use peerwall_core::nft::observed::{Observed, SeenTable};
use peerwall_core::nft::plan::{Op, Plan, SetKind, plan};
use peerwall_core::policy::Policy;
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::{Action, Element, KeyType, Rule};
use peerwall_integration::netns_test;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};

fn example() -> Policy {
    let text = include_str!("../../policy.toml");
    let loaded = peerwall_core::policy::load::load(
        "policy.toml",
        text,
        &peerwall_core::policy::load::NoFiles,
    );
    loaded.policy.unwrap()
}

fn refused_at(result: Result<(), BackendError>) -> Vec<Option<usize>> {
    match result {
        Err(BackendError::Refused(refusals)) => refusals.iter().map(|r| r.op).collect(),
        other => panic!("not refused: {other:?}"),
    }
}

fn suite(backend: &mut dyn Backend) {
    let wanted = compile(&example()).0;
    assert_eq!(
        backend.observe().unwrap().table,
        None,
        "nothing is there at first"
    );

    // A check changes nothing.
    let first = plan(&wanted, &backend.observe().unwrap());
    backend.check(&first).unwrap();
    let seen = backend.observe().unwrap();
    assert_eq!(seen.table, None, "a check changes nothing");

    // A commit does what the plan says, and moves the generation on.
    backend.commit(&first, seen.generation).unwrap();
    let now = backend.observe().unwrap();
    assert_eq!(now.table.as_ref().unwrap().ruleset(), Some(wanted.clone()));
    assert_ne!(now.generation, seen.generation);
    assert!(plan(&wanted, &now).is_empty());

    // What was planned before that is stale now.
    let more = Plan {
        ops: vec![
            Op::AddTable,
            Op::AddCounter("more".into(), Default::default()),
        ],
        rebuild: None,
    };
    assert_eq!(
        backend.commit(&more, seen.generation),
        Err(BackendError::Stale)
    );
    assert_eq!(
        backend.observe().unwrap(),
        now,
        "a stale plan changes nothing"
    );

    // A step that is refused names itself, and takes the whole plan along.
    let jump = |to: &str| Rule {
        action: Some(Action::Jump(to.into())),
        ..Rule::default()
    };
    let counted = Rule {
        counter: Some("nobody".into()),
        ..Rule::default()
    };
    for (what, op) in [
        (
            "jump to nowhere",
            Op::AddRule("input".into(), None, jump("nowhere")),
        ),
        (
            "count with nobody",
            Op::AddRule("input".into(), None, counted),
        ),
        (
            "rule in no chain",
            Op::AddRule("nowhere".into(), None, Rule::default()),
        ),
        ("delete a set in use", Op::DeleteSet("peers4".into())),
        (
            "delete a counter in use",
            Op::DeleteCounter("input.peers".into()),
        ),
        ("delete a chain in use", Op::DeleteChain("published".into())),
        (
            "delete an element that is not there",
            Op::DeleteElements(
                "peers4".into(),
                KeyType::Ipv4,
                SetKind::Values,
                vec![Element::one(5)],
            ),
        ),
        (
            "delete a rule that is not there",
            Op::DeleteRule("input".into(), 999_999),
        ),
        (
            "add to a set that is not there",
            Op::AddElements(
                "none".into(),
                KeyType::Ipv4,
                SetKind::Values,
                vec![Element::one(5)],
            ),
        ),
    ] {
        let bad = Plan {
            ops: vec![
                Op::AddTable,
                Op::AddCounter("more".into(), Default::default()),
                op,
            ],
            rebuild: None,
        };
        assert_eq!(refused_at(backend.check(&bad)), [Some(2)], "check: {what}");
        assert_eq!(
            refused_at(backend.commit(&bad, now.generation)),
            [Some(2)],
            "commit: {what}"
        );
        assert_eq!(
            backend.observe().unwrap().table,
            now.table,
            "{what} changed something"
        );
    }

    // And away with it.
    let seen = backend.observe().unwrap();
    backend
        .commit(&Plan::remove(&seen), seen.generation)
        .unwrap();
    assert_eq!(backend.observe().unwrap().table, None);
}

#[test]
fn the_memory_backend_behaves() {
    suite(&mut Memory::new());
}

/// The table without what only one of the two has: handles, owners, the order of chains.
fn comparable(seen: &Observed) -> Option<SeenTable> {
    let mut table = seen.table.clone()?;
    table.hold = Default::default();
    table.chains.sort_by(|a, b| a.name.cmp(&b.name));
    for rule in table.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.handle = 0;
    }
    Some(table)
}

netns_test! {
    fn the_kernel_behaves() {
        suite(&mut Kernel::open().unwrap());
    }

    fn kernel_and_memory_agree_after_the_same_commits() {
        let seed: u64 = match std::env::var("PEERWALL_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => 7,
        };
        let config = Config { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        let (mut kernel, mut memory) = (Kernel::open().unwrap(), Memory::new());
        for round in 0..150 {
            let policy = generate::policy().new_tree(&mut runner).unwrap().current();
            let wanted = compile(&policy).0;
            for backend in [&mut kernel as &mut dyn Backend, &mut memory] {
                let seen = backend.observe().unwrap();
                let plan = plan(&wanted, &seen);
                let done = backend.check(&plan).and_then(|()| backend.commit(&plan, seen.generation));
                done.unwrap_or_else(|err| panic!("seed {seed}, round {round}: {err}"));
            }
            let (in_kernel, in_memory) = (kernel.observe().unwrap(), memory.observe().unwrap());
            assert_eq!(comparable(&in_kernel), comparable(&in_memory), "seed {seed}, round {round}");
            assert_eq!(in_kernel.table.unwrap().ruleset(), Some(wanted), "seed {seed}, round {round}");
        }
    }
}
