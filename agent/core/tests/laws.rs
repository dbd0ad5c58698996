//! The laws that hold for every policy, ruleset and packet. proptest prints the failing case and
//! keeps its seed under `proptest-regressions/`.

use peerwall_core::backend::Backend;
use peerwall_core::compile::compile;
use peerwall_core::generate::{packet, policy};
use peerwall_core::memory::Memory;
use peerwall_core::plan::plan;
use peerwall_core::ruleset::Ruleset;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_ruleset_says_of_every_packet_what_the_policy_says(policy in policy(), packets in prop::collection::vec(packet(), 32)) {
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
            memory.commit(&plan_to, seen.generation).unwrap();
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
        let first = plan(&wanted, &memory.observe().unwrap());
        memory.commit(&first, 0).unwrap();
        let before = memory.observe().unwrap();
        let mut fewer = policy.clone();
        fewer.peers.pop();
        let seen = memory.observe().unwrap();
        let second = plan(&compile(&fewer).0, &seen);
        memory.commit(&second, seen.generation).unwrap();
        let after = memory.observe().unwrap().table.unwrap();
        let handles = |table: &peerwall_core::observed::SeenTable| -> Vec<_> {
            table.chains.iter().flat_map(|c| c.rules.iter().map(|r| (r.handle, r.rule.clone()))).collect()
        };
        let old = handles(&before.table.unwrap());
        for (handle, rule) in handles(&after) {
            let known = old.iter().find(|(_, r)| *r == rule);
            if let Some((old_handle, _)) = known {
                // The same rule may be there more than once.
                let many = old.iter().filter(|(_, r)| *r == rule).count() > 1;
                prop_assert!(many || *old_handle == handle, "{rule:?} was made anew");
            }
        }
    }
}
