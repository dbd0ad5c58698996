//! The laws that hold for every policy, ruleset and packet. proptest prints the failing case and
//! keeps its seed under `proptest-regressions/`.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use peerwall_core::backend::Backend;
use peerwall_core::generate::{packet, policy};
use peerwall_core::nft::memory::Memory;
use peerwall_core::nft::plan::plan;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::compile::compile;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_ruleset_says_of_every_packet_what_the_policy_says(
        policy in policy(),
        packets in prop::collection::vec(packet(), 32),
    ) {
        let (ruleset, origins) = compile(&policy);
        for packet in packets {
            let want = policy.verdict(&packet);
            let walk = ruleset.eval(&packet);
            let got = walk.decision().expect("every end of every chain counts");
            prop_assert!(got == want, "{packet:?}: policy {want}, ruleset {got} by {:?}", walk.path);
            for (chain, rule) in &walk.path {
                prop_assert!(origins.of(chain, *rule).is_some(), "{chain} {rule} has no origin");
            }
        }
    }

    #[test]
    fn a_plan_leads_where_it_says_and_then_there_is_nothing_to_do(a in policy(), b in policy()) {
        let (a, b) = (compile(&a).0, compile(&b).0);
        let mut memory = Memory::new();
        for wanted in [&a, &b, &a, &Ruleset::default()] {
            let seen = memory.observe().unwrap();
            let plan_to = plan(wanted, &seen);
            memory.check(&plan_to).unwrap();
            memory.commit(&plan_to, &seen).unwrap();
            let now = memory.observe().unwrap();
            let found = now.table.as_ref().unwrap().ruleset();
            prop_assert_eq!(found.as_ref(), Some(wanted));
            prop_assert!(plan(wanted, &now).is_empty());
        }
    }

    #[test]
    fn what_stays_is_not_touched(policy in policy()) {
        let wanted = compile(&policy).0;
        let mut memory = Memory::new();
        let seen = memory.observe().unwrap();
        let first = plan(&wanted, &seen);
        memory.commit(&first, &seen).unwrap();
        let before = memory.observe().unwrap();
        let mut fewer = policy.clone();
        fewer.peers.pop();
        let seen = memory.observe().unwrap();
        let second = plan(&compile(&fewer).0, &seen);
        memory.commit(&second, &seen).unwrap();
        let after = memory.observe().unwrap().table.unwrap();
        let handles = |table: &peerwall_core::nft::observed::ObservedTable| -> Vec<_> {
            table.chains.iter().flat_map(|c| c.rules.iter().map(|r| (r.handle, r.rule.clone()))).collect()
        };
        let old = handles(&before.table.unwrap());
        for (handle, rule) in handles(&after) {
            let known = old.iter().find(|(_, r)| *r == rule);
            if let Some((old_handle, _)) = known {
                // The same rule may be there more than once.
                let many = old.iter().filter(|(_, r)| *r == rule).count() > 1;
                prop_assert!(many || *old_handle == handle, "{rule:?} was recreated");
            }
        }
    }
}

mod as_the_kernel_would {
    //! Takes a batch apart as the kernel does, and dumps what it made.

    use std::collections::BTreeMap;

    use peerwall_core::nft::lift::{Dump, Point};
    use peerwall_core::nft::lower::lower;
    use peerwall_core::nft::plan::Plan;
    use peerwall_proto::netlink::message::Datagram;
    use peerwall_proto::nf_tables::Element;
    use peerwall_proto::nf_tables::event::{self, Change, Event};

    /// The dump of the table that a plan for an empty kernel makes.
    pub(super) fn dump(plan: &Plan) -> Dump {
        let sent = lower(plan, 0, std::time::Duration::ZERO)
            .unwrap()
            .commit(1, None);
        let mut dump = Dump::default();
        let mut elements: BTreeMap<String, Vec<Element>> = BTreeMap::new();
        for raw in Datagram::new(&sent.bytes) {
            let message = raw.unwrap().nfnetlink().unwrap();
            match event::decode(&message).unwrap() {
                Some(Event::Table(Change::New, table)) => dump.table = table,
                Some(Event::Chain(Change::New, chain)) => dump.chains.push(chain),
                Some(Event::Rule(Change::New, rule)) => dump.rules.push(rule),
                Some(Event::Set(Change::New, set)) => dump.sets.push(set),
                Some(Event::Object(Change::New, object)) => dump.objects.push(object),
                Some(Event::Elements(Change::New, list)) => {
                    let set = elements.entry(list.set.unwrap()).or_default();
                    set.extend(list.elements.unwrap());
                }
                // The batch's begin and end are of another subsystem.
                None => {}
                other => panic!("a plan for an empty kernel has no {other:?}"),
            }
        }
        for (name, mut list) in elements {
            // The kernel dumps in an order of its own.
            list.reverse();
            dump.elements
                .insert(name, list.iter().map(Point::read).collect());
        }
        dump
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_sent_reads_back_as_the_same_ruleset(policy in policy()) {
        let wanted = compile(&policy).0;
        let plan = plan(&wanted, &peerwall_core::nft::observed::Observed::default());
        let dump = as_the_kernel_would::dump(&plan);
        prop_assert_eq!(peerwall_core::nft::lift::lift(&dump).ruleset(), Some(wanted));
    }
}

/// Sets over the 64 KiB that one attribute list holds.
#[test]
fn large_sets_of_each_kind_are_split_and_read_back() {
    use peerwall_core::net::addr::Family;
    use peerwall_core::ruleset::{Element, KeyType, Set};
    for (interval, family) in [
        (false, Family::V4),
        (true, Family::V4),
        (false, Family::V6),
        (true, Family::V6),
    ] {
        let key = KeyType::address(family);
        let comment = |i: u128| i.is_multiple_of(3).then(|| format!("peer {i}").into());
        let element = |i: u128| Element {
            first: i * 4,
            last: if interval { i * 4 + 2 } else { i * 4 },
            comment: comment(i),
        };
        let mut wanted = Ruleset::default();
        wanted.sets.insert(
            "s".into(),
            Set {
                key,
                interval,
                meter: false,
                timed: false,
                elements: (0..20_000).map(element).collect(),
            },
        );
        let plan = plan(&wanted, &peerwall_core::nft::observed::Observed::default());
        let dump = as_the_kernel_would::dump(&plan);
        assert_eq!(
            peerwall_core::nft::lift::lift(&dump).ruleset(),
            Some(wanted),
            "{key:?} interval {interval}"
        );
    }
}
