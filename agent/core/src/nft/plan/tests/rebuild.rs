//! Reasons for a rebuild of the table.

use super::super::*;
use crate::nft::observed::Unrecognized;
use crate::ruleset::{ChainHook, Element, INPUT};

fn base(hook: ChainHook, priority: i32, policy: ChainPolicy) -> Option<Base> {
    Some(Base {
        hook,
        priority,
        policy,
    })
}

fn set(key: KeyType, interval: bool, count: u128) -> Set {
    Set {
        key,
        interval,
        meter: false,
        timed: false,
        elements: (0..count).map(|value| Element::one(value * 2)).collect(),
    }
}

/// A ruleset with one set and one base chain.
fn wanted() -> Ruleset {
    let chain = Chain {
        name: INPUT.to_owned(),
        base: base(ChainHook::Input, 0, ChainPolicy::Drop),
        rules: Vec::new(),
    };
    Ruleset {
        sets: BTreeMap::from([("peers4".to_owned(), set(KeyType::Ipv4, false, 3))]),
        chains: vec![chain],
        ..Ruleset::default()
    }
}

/// The table that holds just that.
fn loaded() -> ObservedTable {
    let known = |(name, set): (&String, &Set)| {
        let set = set.clone();
        let capacity = None;
        (name.clone(), ObservedSet::Known { set, capacity })
    };
    let chain = |chain: &Chain| ObservedChain {
        name: chain.name.clone(),
        base: Ok(chain.base),
        rules: Vec::new(),
    };
    ObservedTable {
        sets: wanted().sets.iter().map(known).collect(),
        chains: wanted().chains.iter().map(chain).collect(),
        ..ObservedTable::default()
    }
}

fn with_set(set: Set, capacity: Option<u32>) -> ObservedTable {
    let mut table = loaded();
    let known = ObservedSet::Known { set, capacity };
    table.sets.insert("peers4".to_owned(), known);
    table
}

fn with_base(base: Result<Option<Base>, Unrecognized>) -> ObservedTable {
    let mut table = loaded();
    table.chains[0].base = base;
    table
}

#[test]
fn the_table_is_rebuilt_for_what_cannot_be_changed_in_place_and_for_nothing_else() {
    let same = || set(KeyType::Ipv4, false, 3);
    let meter = Set {
        meter: true,
        elements: Elements::default(),
        ..same()
    };
    let foreign_set = |name: &str| {
        let mut table = loaded();
        table
            .sets
            .insert(name.to_owned(), ObservedSet::Unrecognized);
        table
    };
    let unknown = Err(Unrecognized("type nat".to_owned()));
    let policy = ChainPolicy::Drop;
    // The table as it is, and what the reason for a rebuild must name; `None` if there is none.
    let table: [(&str, ObservedTable, Option<&str>); 19] = [
        ("the same", loaded(), None),
        ("an empty table", ObservedTable::default(), None),
        (
            "other elements",
            with_set(set(KeyType::Ipv4, false, 9), None),
            None,
        ),
        ("room enough", with_set(same(), Some(3)), None),
        (
            "too little room",
            with_set(same(), Some(2)),
            Some("set peers4"),
        ),
        (
            "another key",
            with_set(set(KeyType::Ipv6, false, 3), None),
            Some("set peers4"),
        ),
        (
            "intervals",
            with_set(set(KeyType::Ipv4, true, 3), None),
            Some("set peers4"),
        ),
        ("a meter", with_set(meter, None), Some("set peers4")),
        (
            "a foreign set of its name",
            foreign_set("peers4"),
            Some("set peers4"),
        ),
        ("a foreign set of another name", foreign_set("other"), None),
        (
            "another policy",
            with_base(Ok(base(ChainHook::Input, 0, ChainPolicy::Accept))),
            None,
        ),
        (
            "another hook",
            with_base(Ok(base(ChainHook::Forward, 0, policy))),
            Some("chain input"),
        ),
        (
            "another priority",
            with_base(Ok(base(ChainHook::Input, 1, policy))),
            Some("chain input"),
        ),
        ("no hook", with_base(Ok(None)), Some("chain input")),
        ("a foreign hook", with_base(unknown), Some("chain input")),
        (
            "a foreign object",
            ObservedTable {
                foreign: vec!["map other".to_owned()],
                ..loaded()
            },
            Some("map other"),
        ),
        (
            "a foreign object, and nothing else",
            ObservedTable {
                foreign: vec!["map other".to_owned()],
                ..ObservedTable::default()
            },
            Some("map other"),
        ),
        (
            "another chain",
            {
                let mut table = loaded();
                table.chains[0].name = "other".to_owned();
                table
            },
            None,
        ),
        (
            "a rule that is not ours",
            {
                let mut table = loaded();
                let rule = Err(Unrecognized("unknown expression `numgen`".to_owned()));
                table.chains[0].rules.push(ObservedRule { handle: 7, rule });
                table
            },
            None,
        ),
    ];
    for (name, table, reason) in table {
        let seen = Observed {
            generation: 1,
            table: Some(table),
        };
        let plan = plan(&wanted(), &seen);
        match (&plan.rebuild, reason) {
            (Some(why), Some(object)) => assert!(why.contains(object), "{name}: {why}"),
            (why, reason) => assert_eq!(why.as_deref(), reason, "{name}"),
        }
        let is_new = plan.ops.starts_with(&[Op::DeleteTable, Op::AddTable]);
        assert_eq!(is_new, reason.is_some(), "{name}: {:?}", plan.ops);
        let deletes = plan.ops.iter().filter(|op| **op == Op::DeleteTable).count();
        assert_eq!(deletes, usize::from(is_new), "{name}: {:?}", plan.ops);
    }
}

#[test]
fn a_table_that_is_not_there_is_added_and_not_rebuilt() {
    let plan = plan(&wanted(), &Observed::default());
    assert_eq!(plan.rebuild, None);
    assert_eq!(plan.ops.first(), Some(&Op::AddTable));
}

#[test]
fn counters_go_on_from_where_they_were_after_a_rebuild() {
    let counted = ObservedCounter {
        packets: 7,
        bytes: 420,
    };
    let name = "allow.ssh".to_owned();
    let mut ruleset = wanted();
    ruleset.counters.insert(name.clone());
    let table = ObservedTable {
        counters: BTreeMap::from([(name.clone(), counted)]),
        foreign: vec!["map other".to_owned()],
        ..loaded()
    };
    let seen = Observed {
        generation: 1,
        table: Some(table),
    };
    let ops = plan(&ruleset, &seen).ops;
    assert!(ops.contains(&Op::AddCounter(name, counted)), "{ops:?}");
}
