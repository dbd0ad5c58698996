//! One behaviour suite, run on every backend: memory, the kernel, both kinds of iptables, and
//! whichever is chosen. What only transactions promise is run on memory and on the kernel.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use peerwall::enforce::Enforcer;
use peerwall::enforce::iptables::Iptables;
use peerwall::enforce::nft::Kernel;
use peerwall_core::backend::{Backend, BackendError, Plan as _};
use peerwall_core::generate;
use peerwall_core::nft::memory::Memory;
use peerwall_core::nft::observed::{Observed, ObservedTable};
use peerwall_core::nft::plan::{Op, Plan, SetKind, plan};
use peerwall_core::policy::BackendChoice;
use peerwall_core::policy::Policy;
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::{Action, Element, KeyType, Rule, Ruleset};
use peerwall_integration::ns::world;
use peerwall_integration::story::Flavour;
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

fn transactions<B: Backend<Observed = Observed, Plan = Plan>>(backend: &mut B) {
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
    backend.commit(&first, &seen).unwrap();
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
        ..Plan::default()
    };
    assert_eq!(backend.commit(&more, &seen), Err(BackendError::Stale));
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
                vec![Element::one(5)].into(),
            ),
        ),
        (
            "delete a rule that is not there",
            Op::DeleteRule("input".into(), 999_999, None),
        ),
        (
            "add to a set that is not there",
            Op::AddElements(
                "none".into(),
                KeyType::Ipv4,
                SetKind::Values,
                vec![Element::one(5)].into(),
            ),
        ),
    ] {
        let bad = Plan {
            ops: vec![
                Op::AddTable,
                Op::AddCounter("more".into(), Default::default()),
                op,
            ],
            ..Plan::default()
        };
        assert_eq!(refused_at(backend.check(&bad)), [Some(2)], "check: {what}");
        assert_eq!(
            refused_at(backend.commit(&bad, &now)),
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
    backend.commit(&Plan::remove(&seen), &seen).unwrap();
    assert_eq!(backend.observe().unwrap().table, None);
}

/// What every backend promises, whatever its plans are.
fn promises<B: Backend>(backend: &mut B) {
    let wanted = compile(&example()).0;
    let mut other = example();
    other.allows.clear();
    let other = compile(&other).0;
    let nothing = backend.observe().unwrap();
    assert!(!B::is_loaded(&nothing) && B::ruleset(&nothing).is_none());
    assert!(
        backend.plan(None, &nothing).unwrap().is_empty(),
        "nothing to remove"
    );

    // A check changes nothing.
    let plan = backend.plan(Some(&wanted), &nothing).unwrap();
    assert!(!plan.is_empty() && !plan.summary().is_empty() && !plan.steps().is_empty());
    backend.check(&plan).unwrap();
    assert!(
        !B::is_loaded(&backend.observe().unwrap()),
        "a check changes nothing"
    );

    for ruleset in [&wanted, &other, &wanted] {
        let before = backend.observe().unwrap();
        let plan = backend.plan(Some(ruleset), &before).unwrap();
        assert!(!plan.is_empty(), "another ruleset is a change");
        backend.commit(&plan, &before).unwrap();
        backend.verify(Some(ruleset)).unwrap();
        let after = backend.observe().unwrap();
        assert!(B::is_loaded(&after));
        assert!(
            backend.plan(Some(ruleset), &after).unwrap().is_empty(),
            "it is in force"
        );
        // What cannot be read back is not known; what is known is right.
        assert!(B::ruleset(&after).is_none_or(|known| known == *ruleset));
    }
    let before = backend.observe().unwrap();
    let plan = backend.plan(None, &before).unwrap();
    backend.commit(&plan, &before).unwrap();
    backend.verify(None).unwrap();
    assert!(
        !B::is_loaded(&backend.observe().unwrap()),
        "all of it is gone"
    );
    backend.done();
}

/// Observes, plans, checks and commits.
fn load<B: Backend>(backend: &mut B, wanted: &Ruleset) -> Result<(), BackendError> {
    let seen = backend.observe()?;
    let plan = backend.plan(Some(wanted), &seen)?;
    backend.check(&plan)?;
    backend.commit(&plan, &seen)
}

#[test]
fn the_memory_backend_behaves() {
    promises(&mut Memory::new());
    transactions(&mut Memory::new());
}

/// The iptables of this kind: it has rules already.
fn iptables(flavour: Flavour) -> Iptables {
    let suffix = flavour.suffix();
    let rule = std::process::Command::new(format!("iptables-{suffix}"))
        .args(["-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP"])
        .status();
    assert!(rule.unwrap().success());
    let iptables = Iptables::choose().unwrap();
    assert!(
        iptables.describe().contains(suffix),
        "{}",
        iptables.describe()
    );
    iptables
}

/// The table without what only one of the two has: handles, owners, the order of chains.
fn comparable(seen: &Observed) -> Option<ObservedTable> {
    let mut table = seen.table.clone()?;
    table.hold = Default::default();
    table.chains.sort_by(|a, b| a.name.cmp(&b.name));
    for rule in table.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.handle = 0;
    }
    Some(table)
}

#[test]
fn the_kernel_behaves() {
    world(|| {
        promises(&mut Kernel::open().unwrap());
        transactions(&mut Kernel::open().unwrap());
    });
}

#[test]
fn iptables_nft_behaves() {
    world(|| {
        promises(&mut iptables(Flavour::Nft));
    });
}

#[test]
fn iptables_legacy_behaves() {
    world(|| {
        promises(&mut iptables(Flavour::Legacy));
    });
}

#[test]
fn whichever_is_chosen_behaves() {
    world(|| {
        for name in [
            BackendChoice::Nft,
            BackendChoice::Iptables,
            BackendChoice::Auto,
        ] {
            promises(&mut Enforcer::choose(name, |_| {}).unwrap());
        }
    });
}

#[test]
fn kernel_and_memory_agree_after_the_same_commits() {
    world(|| {
        let seed: u64 = match std::env::var("PEERWALL_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => 7,
        };
        let config = Config {
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..Config::default()
        };
        let mut runner = TestRunner::new(config);
        let (mut kernel, mut memory) = (Kernel::open().unwrap(), Memory::new());
        for round in 0..150 {
            let policy = generate::policy().new_tree(&mut runner).unwrap().current();
            let wanted = compile(&policy).0;
            for done in [load(&mut kernel, &wanted), load(&mut memory, &wanted)] {
                done.unwrap_or_else(|err| panic!("seed {seed}, round {round}: {err}"));
            }
            let (in_kernel, in_memory) = (kernel.observe().unwrap(), memory.observe().unwrap());
            assert_eq!(
                comparable(&in_kernel),
                comparable(&in_memory),
                "seed {seed}, round {round}"
            );
            assert_eq!(
                in_kernel.table.unwrap().ruleset(),
                Some(wanted),
                "seed {seed}, round {round}"
            );
        }
    });
}
