//! Random sequences of answers, failures, restarts and commands.

use proptest::prelude::*;

use super::*;

/// Event of a source.
#[derive(Debug, Clone)]
enum Event {
    Lists(Listing),
    Proves,
    Fails(bool),
    Waits(u64),
    Restarts,
    Accept,
    Forget(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let some = prop::collection::btree_set(1u16..13, 0..12);
    let most = prop::collection::btree_set(1u16..13, 0..3)
        .prop_map(|without| (1..13).filter(|n| !without.contains(n)).collect());
    let listing = (prop_oneof![some, most], 0u64..30, 0u8..8, 0u8..6).prop_map(
        |(nodes, revision, identity, bad): (BTreeSet<u16>, _, _, _)| {
            let mut listing = of(revision, nodes);
            match identity {
                0 => listing.identity = Some("two".to_owned()),
                1 => listing.identity = None,
                _ => {}
            }
            if bad == 0 {
                let wrong = [[192, 0, 2, 1], [0; 4], [10, 0, 244, 1]].map(IpAddr::from);
                listing.entries.extend(wrong.map(|address| (address, None)));
            }
            listing
        },
    );
    prop_oneof![
        6 => listing.prop_map(Event::Lists),
        4 => Just(Event::Proves),
        1 => any::<bool>().prop_map(Event::Fails),
        8 => prop::sample::select(vec![1u64, 20, 61, 300, 901]).prop_map(Event::Waits),
        1 => Just(Event::Restarts),
        1 => Just(Event::Accept),
        1 => (1u16..13).prop_map(Event::Forget),
    ]
}

/// All that happened, from which each removal is checked.
#[derive(Default)]
struct Trail {
    now: Duration,
    /// Complete answers with their times.
    answers: Vec<(Duration, BTreeSet<IpAddr>)>,
    /// Removals by the source, and whether the members were old.
    removals: Vec<(Duration, IpAddr, bool)>,
    /// When each member joined.
    joined: BTreeMap<IpAddr, Duration>,
    is_failing: bool,
    proven: Duration,
}

impl Trail {
    /// Checks removals that nobody asked for.
    fn check(&mut self, members: &Members, before: &BTreeSet<IpAddr>, left: &[(IpAddr, String)]) {
        if left.is_empty() {
            return;
        }
        let limits = limits();
        assert!(!self.is_failing, "removed while the source fails");
        assert!(
            self.now - self.proven <= limits.stale_after,
            "removed while stale"
        );
        assert!(!members.is_empty(), "removed all");
        let mut small = true;
        for (address, _) in left {
            let listed = self
                .answers
                .iter()
                .rposition(|(_, all)| all.contains(address));
            // The first answer without it, after the last one with it.
            let first = self.answers.get(listed.map_or(0, |at| at + 1));
            let (since, _) = first.expect("an answer without it");
            let missing = self.now - *since;
            assert!(missing >= limits.grace, "{address} left after {missing:?}");
            small &= missing < limits.hold + limits.grace;
        }
        if small {
            let recent = self.removals.iter();
            let recent: Vec<_> = recent
                .filter(|(at, _, _)| self.now - *at < limits.hold)
                .collect();
            let old = before.iter().filter(|address| self.is_old(**address));
            let old_recent = recent.iter().filter(|(_, _, was_old)| *was_old);
            let old_recent = old_recent.map(|(_, address, _)| address);
            let all = old.chain(old_recent).collect::<BTreeSet<_>>().len();
            let recent = recent.iter().map(|(_, address, _)| *address);
            let lost = left.iter().map(|(address, _)| *address).chain(recent);
            let lost = lost.collect::<BTreeSet<IpAddr>>().len();
            let share = all * usize::from(limits.max_loss) / 100;
            assert!(lost <= share.max(1), "{lost} of {all} left at once");
        }
        for (address, _) in left {
            let was_old = self.is_old(*address);
            self.removals.push((self.now, *address, was_old));
        }
    }

    fn joins(&mut self, change: &Change) {
        let new = change.joined.iter();
        self.joined
            .extend(new.map(|(address, _)| (*address, self.now)));
    }

    fn is_old(&self, address: IpAddr) -> bool {
        let joined = self.joined.get(&address);
        joined.is_none_or(|since| self.now - *since >= limits().hold)
    }
}

/// A change of an answer.
#[derive(Debug, Clone)]
enum Edit {
    /// Adds new nodes at these places, some of them with the same name.
    Add(Vec<(usize, bool)>),
    Outside,
    /// Lists an entry twice.
    Repeat(usize),
    Remove(usize),
    Rename(usize),
    Garbage(usize),
    OtherCluster,
    /// Removes what is wrong or there twice.
    Clean,
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = 0..256usize;
    let new = prop::collection::vec((place.clone(), any::<bool>()), 0..5);
    prop_oneof![
        24 => new.prop_map(Edit::Add),
        1 => Just(Edit::Outside),
        1 => place.clone().prop_map(Edit::Repeat),
        1 => place.clone().prop_map(Edit::Remove),
        1 => place.prop_map(Edit::Rename),
        1 => (0..2usize).prop_map(Edit::Garbage),
        1 => Just(Edit::OtherCluster),
        2 => Just(Edit::Clean),
    ]
}

impl Edit {
    fn make(self, listing: &mut Listing, last: &mut u16) {
        let entries = &mut listing.entries;
        let count = entries.len();
        match self {
            Self::Add(new) => {
                for (place, is_same) in new {
                    *last += 1;
                    let name = is_same.then(|| "same".into());
                    entries.insert(place % (entries.len() + 1), (node(*last), name));
                }
            }
            Self::Outside => entries.push((IpAddr::from([192, 0, 2, 1]), None)),
            Self::Repeat(at) if count > 0 => entries.push(entries[at % count].clone()),
            Self::Remove(at) if count > 0 => drop(entries.remove(at % count)),
            Self::Rename(at) if count > 0 => entries[at % count].1 = Some("new".into()),
            Self::Repeat(_) | Self::Remove(_) | Self::Rename(_) => {}
            Self::Garbage(garbage) => listing.garbage = garbage,
            Self::OtherCluster => listing.identity = Some("two".to_owned()),
            Self::Clean => {
                let mut seen = BTreeSet::new();
                let is_good = |address: &IpAddr| limits().check(*address).is_ok();
                entries.retain(|(address, _)| is_good(address) && seen.insert(*address));
                listing.garbage = 0;
            }
        }
        listing.revision = listing.revision.map(|revision| revision + 1);
    }
}

/// Texts that look like listings.
const TEXTS: &str = "(peerwall-members 1( source=a| revision=[0-9]{1,25}| [a-z=]{0,9}){0,3}\n)?\
    ([0-9a-f.: ]{0,20}\n){0,9}(end [0-9]\n)?";

proptest! {
    #[test]
    fn no_sequence_of_answers_removes_members_too_fast(
        events in prop::collection::vec(event(), 1..40),
        max in prop::sample::select(vec![4, 1024]),
    ) {
        let limits = || Limits { max, ..limits() };
        let mut members = Members::new(limits(), Saved::default(), Duration::ZERO);
        let mut trail = Trail::default();
        let mut ever = BTreeSet::new();
        for event in events {
            let before = addresses(&members);
            let now = trail.now;
            match event {
                Event::Lists(listing) => {
                    let possible = |(address, _): &(IpAddr, _)| limits().check(*address).is_ok();
                    let all = listing.entries.iter().filter(|entry| possible(entry));
                    let all: BTreeSet<IpAddr> = all.map(|(address, _)| *address).collect();
                    ever.extend(all.clone());
                    trail.answers.push((now, all));
                    let change = members.observe(listing, now);
                    trail.joins(&change);
                    trail.proven = members.proven().unwrap();
                    trail.check(&members, &before, &change.left);
                }
                Event::Proves => {
                    trail.proven = now;
                    members.prove(now);
                }
                Event::Fails(is_failing) => {
                    trail.is_failing = is_failing;
                    members.set_failing(is_failing);
                }
                Event::Waits(seconds) => trail.now += Duration::from_secs(seconds),
                Event::Restarts => {
                    members = Members::new(limits(), members.saved(), now);
                    prop_assert_eq!(&addresses(&members), &before);
                    // Grace starts again, and the share of this agent too.
                    trail.answers.clear();
                    trail.removals.clear();
                    trail.joined.clear();
                    trail.is_failing = false;
                    trail.proven = now;
                }
                Event::Accept => trail.joins(&members.accept(now)),
                Event::Forget(number) => {
                    trail.joins(&members.forget(node(number), now).unwrap_or_default());
                }
            }
            let before = addresses(&members);
            let change = members.tick(trail.now);
            trail.joins(&change);
            trail.check(&members, &before, &change.left);
            let all = addresses(&members);
            if members.refused().contains_key(&Refused::Max) {
                prop_assert_eq!(all.len(), max, "who is refused has no place");
            }
            trail.joined.retain(|address, _| all.contains(address));
            prop_assert!(all.is_subset(&ever));
            prop_assert_eq!(members.tick(trail.now), Change::default());
            if let Some(at) = members.deadline(trail.now) {
                prop_assert!(at > trail.now, "{at:?} is over at {:?}", trail.now);
            }
        }
    }

    /// Without the answer before, each is judged as a whole.
    #[test]
    fn joins_are_judged_as_a_whole_answer_is(
        edits in prop::collection::vec((edit(), 0..90u64), 1..60),
        max in 5..200usize,
        has_nodes: bool,
    ) {
        let limits = Limits { max, has_nodes, ..limits() };
        let mut members = Members::new(limits, Saved::default(), Duration::ZERO);
        let (mut listing, mut last) = (of(1, []), 0);
        let mut now = Duration::ZERO;
        for (edit, pause) in edits {
            now += Duration::from_secs(pause);
            edit.make(&mut listing, &mut last);
            let mut whole = members.clone();
            whole.listing = None;
            let change = members.observe(listing.clone(), now);
            prop_assert_eq!(change, whole.observe(listing.clone(), now));
            prop_assert_eq!(format!("{members:?}"), format!("{whole:?}"));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in TEXTS) {
        if let Ok(listing) = parse(&text, "a") {
            let lines = text.lines().count() - 2;
            prop_assert_eq!(listing.entries.len() + listing.garbage, lines);
        }
    }
}
