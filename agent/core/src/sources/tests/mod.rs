//! Tests: named situations, and random sequences against the history of all events.

mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        within: vec!["10.0.0.0/16".parse().unwrap()],
        never: vec!["10.0.244.0/24".parse().unwrap()],
        ..Limits::default()
    }
}

/// Returns the address of a node.
fn node(number: u16) -> IpAddr {
    let [high, low] = [number >> 8, number & 0xff].map(|byte| u8::try_from(byte).unwrap());
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

/// Returns a listing of these nodes.
fn of(revision: u64, nodes: impl IntoIterator<Item = u16>) -> Listing {
    let entry = |number| (node(number), Some(format!("node-{number}").into()));
    Listing {
        identity: Some("one".to_owned()),
        revision: Some(revision),
        entries: nodes.into_iter().map(entry).collect(),
        ..Listing::default()
    }
}

/// Returns a source with the nodes 1 to `count`, which are members for long.
fn with(count: u16) -> Members {
    let saved = Saved {
        members: (1..=count)
            .map(|number| (node(number), format!("node-{number}")))
            .collect(),
        ..Saved::default()
    };
    let mut members = Members::new(limits(), saved, Duration::ZERO);
    let change = members.observe(of(10, 1..=count), Duration::ZERO);
    assert_eq!(change, Change::default());
    members
}

/// Lets a source that is alive pass the time until `until`, in steps.
fn pass(members: &mut Members, from: Duration, until: Duration) -> Change {
    let mut change = Change::default();
    let mut now = from;
    while now < until {
        now = (now + 5 * SECOND).min(until);
        members.prove(now);
        let next = members.tick(now);
        change.joined.extend(next.joined);
        change.left.extend(next.left);
    }
    change
}

fn addresses(members: &Members) -> BTreeSet<IpAddr> {
    members.iter().map(|(address, _)| address).collect()
}

#[test]
fn a_node_that_joins_is_a_member_at_once() {
    let mut members = with(3);
    let change = members.observe(of(11, 1..=4), SECOND);
    assert_eq!(change.joined, [(node(4), "node-4".to_owned())]);
    assert_eq!(change.left, []);
}

#[test]
fn a_node_that_leaves_is_removed_after_the_grace() {
    let mut members = with(3);
    members.observe(of(11, [1, 3]), SECOND);
    assert_eq!(members.deadline(SECOND), Some(61 * SECOND));
    assert_eq!(members.held(SECOND), None);
    assert_eq!(pass(&mut members, SECOND, 60 * SECOND), Change::default());
    let change = members.tick(61 * SECOND);
    assert_eq!(change.left, [(node(2), "node-2".to_owned())]);
}

#[test]
fn a_node_that_is_registered_again_never_leaves() {
    let mut members = with(3);
    members.observe(of(11, [1, 3]), SECOND);
    members.observe(of(12, [1, 2, 3]), 31 * SECOND);
    members.observe(of(13, [1, 3]), 40 * SECOND);
    assert_eq!(
        pass(&mut members, 40 * SECOND, 99 * SECOND),
        Change::default()
    );
    assert_eq!(members.tick(100 * SECOND).left.len(), 1);
}

#[test]
fn an_empty_answer_is_held_until_it_is_accepted() {
    let mut members = with(3);
    members.observe(of(11, []), SECOND);
    let day = 24 * 60 * MINUTE;
    assert_eq!(pass(&mut members, SECOND, day), Change::default());
    let held = members.held(day).unwrap();
    assert_eq!(
        (held.why, held.addresses, held.until),
        (HeldWhy::Empty, 3, None)
    );
    assert_eq!(members.deadline(day), None);
    assert_eq!(members.accept(day).left.len(), 3);
    assert!(members.is_empty());
}

#[test]
fn an_answer_without_a_possible_member_is_empty() {
    let mut members = with(3);
    let outside = |number: u8| (IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)), None);
    let listing = Listing {
        entries: (1..9).map(outside).collect(),
        ..of(11, [])
    };
    members.observe(listing, SECOND);
    assert_eq!(members.held(SECOND).unwrap().why, HeldWhy::Empty);
    assert_eq!(members.refused()[&Refused::Outside], 8);
}

#[test]
fn a_half_answer_is_held_and_then_believed() {
    let mut members = with(8);
    members.observe(of(11, 1..=4), SECOND);
    let held = members.held(SECOND).unwrap();
    let end = SECOND + 16 * MINUTE;
    assert_eq!((held.why, held.until), (HeldWhy::Loss, Some(end)));
    assert_eq!(pass(&mut members, SECOND, end - SECOND), Change::default());
    assert_eq!(members.tick(end).left.len(), 4);
}

#[test]
fn a_quarter_of_the_nodes_may_leave_and_then_no_more_for_a_while() {
    let mut members = with(8);
    members.observe(of(11, 1..=6), SECOND);
    assert_eq!(members.held(SECOND), None);
    assert_eq!(pass(&mut members, SECOND, 61 * SECOND).left.len(), 2);
    members.observe(of(12, 1..=5), 70 * SECOND);
    assert_eq!(members.held(70 * SECOND).unwrap().why, HeldWhy::Loss);
    // The first two are forgotten after the hold.
    let change = pass(&mut members, 70 * SECOND, 17 * MINUTE);
    assert_eq!(change.left, [(node(6), "node-6".to_owned())]);
}

#[test]
fn a_source_that_gives_all_the_same_name_removes_no_faster() {
    let mut members = with(8);
    let same = |number| (node(number), Some("same".into()));
    let listing = Listing {
        entries: (1..=8).map(same).collect(),
        ..of(11, [])
    };
    members.observe(listing, SECOND);
    members.observe(of(12, [1]), 2 * SECOND);
    assert_eq!(members.held(2 * SECOND).unwrap().why, HeldWhy::Loss);
}

#[test]
fn a_source_that_is_lost_removes_nothing() {
    for is_failing in [false, true] {
        let mut members = with(3);
        members.observe(of(11, [1, 2]), SECOND);
        members.set_failing(is_failing);
        let week = 7 * 24 * 60 * MINUTE;
        let from = if is_failing { SECOND } else { 11 * MINUTE };
        let mut now = from.max(2 * SECOND);
        while now < week {
            assert_eq!(members.tick(now), Change::default(), "{now:?}");
            now += 60 * MINUTE;
        }
        assert!(members.is_stale(week));
        assert_eq!(members.deadline(week), None);
        members.set_failing(false);
        members.prove(week);
        assert_eq!(
            members.tick(week),
            Change::default(),
            "the grace starts again"
        );
        assert_eq!(members.tick(week + MINUTE).left.len(), 1);
    }
}

#[test]
fn stale_members_are_dropped_only_if_the_policy_says_so() {
    let mut members = with(3);
    let limits = Limits {
        stale_drop: Some(60 * MINUTE),
        ..limits()
    };
    members.set_limits(limits, Duration::ZERO);
    let end = 60 * MINUTE + Duration::from_millis(1);
    assert_eq!(members.deadline(MINUTE), Some(end));
    assert_eq!(members.tick(60 * MINUTE), Change::default());
    assert_eq!(members.tick(end).left.len(), 3);
}

#[test]
fn a_bad_entry_is_refused_and_the_rest_goes_on() {
    let mut members = with(1);
    let text = "peerwall-members 1 source=a identity=one revision=11\n\
        10.0.0.1 node-1\n0.0.0.0 a\n127.0.0.1 a\n224.0.0.1 a\n169.254.0.1 a\n255.255.255.255 a\n\
        ::ffff:10.0.0.9 a\nfe80::1 a\n192.0.2.1 b\n10.0.244.9 c\nx d\n10.0.0.7 good\nend 12\n";
    let change = members.observe(parse(text, "a").unwrap(), SECOND);
    assert_eq!(change.joined, [(node(7), "good".to_owned())]);
    let want = [
        (Refused::Garbage, 1),
        (Refused::NotUnicast, 7),
        (Refused::Outside, 1),
        (Refused::ClusterNetwork, 1),
    ];
    assert_eq!(*members.refused(), BTreeMap::from(want));
    assert_eq!(members.examples().len(), 8);
}

#[test]
fn a_node_has_at_most_sixteen_addresses() {
    let mut members = with(1);
    let same = |number| (node(number), Some("node-1".into()));
    let listing = Listing {
        entries: (1..=1000).rev().map(same).collect(),
        ..of(11, [])
    };
    members.observe(listing.clone(), SECOND);
    assert_eq!(members.len(), PER_NODE_MAX);
    assert!(
        addresses(&members).contains(&node(1)),
        "known ones come first"
    );
    assert_eq!(members.refused()[&Refused::PerNode], 984);
    let limits = Limits {
        has_nodes: false,
        ..limits()
    };
    members.set_limits(limits, SECOND);
    assert_eq!(members.len(), 1000);
}

#[test]
fn more_than_the_maximum_are_refused_and_known_ones_stay() {
    let limits = Limits {
        max: 10,
        ..limits()
    };
    let mut members = Members::new(limits, Saved::default(), Duration::ZERO);
    members.observe(of(10, 91..=100), Duration::ZERO);
    members.observe(of(11, 1..=100), SECOND);
    assert_eq!(members.refused()[&Refused::Max], 90);
    assert_eq!(addresses(&members), (91..=100).map(node).collect());
    // When one leaves, another takes its place, without another answer.
    members.observe(of(12, 1..100), 2 * SECOND);
    let change = pass(&mut members, 2 * SECOND, 70 * SECOND);
    assert_eq!(change.left, [(node(100), "node-100".to_owned())]);
    assert_eq!(change.joined, [(node(1), "node-1".to_owned())]);
    assert_eq!((members.len(), members.refused()[&Refused::Max]), (10, 89));
    // Also if it is removed by hand.
    members.observe(of(14, 1..99), 71 * SECOND);
    let change = members.forget(node(99), 71 * SECOND).unwrap();
    assert_eq!(change.joined, [(node(2), "node-2".to_owned())]);
    members.observe(of(15, 1..98), 72 * SECOND);
    let change = members.accept(72 * SECOND);
    assert_eq!(change.joined, [(node(3), "node-3".to_owned())]);
}

#[test]
fn an_older_answer_is_not_believed_at_once() {
    let mut members = with(8);
    members.observe(of(9, 1..=9), SECOND);
    assert_eq!(members.held(SECOND).unwrap().why, HeldWhy::Older);
    assert_eq!(members.len(), 8);
    members.observe(of(11, 1..=9), 2 * SECOND);
    assert_eq!((members.len(), members.held(2 * SECOND)), (9, None));
    members.observe(of(5, 1..=8), 3 * SECOND);
    let change = pass(&mut members, 3 * SECOND, 3 * SECOND + 15 * MINUTE);
    assert_eq!(change, Change::default());
    assert_eq!(members.held(16 * MINUTE).unwrap().why, HeldWhy::Older);
    let change = pass(&mut members, 3 * SECOND + 15 * MINUTE, 32 * MINUTE);
    assert_eq!(change.left, [(node(9), "node-9".to_owned())]);
}

#[test]
fn another_cluster_is_like_a_loss() {
    let mut members = with(8);
    let other = Listing {
        identity: Some("two".to_owned()),
        ..of(1, [1, 2, 3, 4, 5, 6, 7, 20])
    };
    assert_eq!(members.observe(other, SECOND).joined.len(), 1);
    assert_eq!(members.held(SECOND).unwrap().why, HeldWhy::OtherCluster);
    assert_eq!(pass(&mut members, SECOND, 15 * MINUTE), Change::default());
    assert_eq!(pass(&mut members, 15 * MINUTE, 17 * MINUTE).left.len(), 1);
    assert_eq!(members.held(17 * MINUTE), None);
}

#[test]
fn a_member_is_forgotten_by_hand_unless_it_is_listed() {
    let mut members = with(3);
    assert_eq!(members.forget(node(9), SECOND), Err(Forget::NoMember));
    assert_eq!(members.forget(node(2), SECOND), Err(Forget::Listed));
    members.observe(of(11, [1]), SECOND);
    assert_eq!(members.forget(node(2), SECOND).unwrap().left.len(), 1);
    let saved = members.saved();
    let mut next = Members::new(limits(), saved, Duration::ZERO);
    assert_eq!(next.len(), 2);
    assert!(next.forget(node(3), SECOND).is_ok(), "nobody lists it");
}

#[test]
fn narrower_limits_apply_at_once() {
    let mut members = with(8);
    let narrow = Limits {
        within: vec!["10.0.0.0/30".parse().unwrap()],
        ..limits()
    };
    assert_eq!(members.set_limits(narrow, SECOND).left.len(), 5);
    assert_eq!(members.set_limits(limits(), SECOND).joined.len(), 5);
    let few = Limits { max: 2, ..limits() };
    members.observe(of(11, 2..=8), 2 * SECOND);
    members.set_limits(few, 2 * SECOND);
    assert_eq!(addresses(&members), [node(2), node(3)].into());
}

#[test]
fn a_source_cannot_add_nodes_so_that_more_may_leave() {
    let mut members = with(4);
    members.observe(of(11, 1..=100), SECOND);
    members.observe(of(12, 3..=100), 2 * SECOND);
    assert_eq!(members.held(2 * SECOND).unwrap().why, HeldWhy::Loss);
}
