//! Members that are changed in a ruleset, against the policy that is compiled again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use peerwall_core::diagnostic::Diagnostic;
use peerwall_core::net::host::{Host, Interface, RT_TABLE_MAIN, Route};
use peerwall_core::policy::load::{Files, Member, ReadError, Text, load};
use peerwall_core::policy::{MemberSource, Policy, TemporaryPeer};
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::members::{Basis, Patched};
use peerwall_core::ruleset::{Ruleset, expect, temporary};
use peerwall_core::sources::{Listing, Members, Saved};
use proptest::prelude::*;

/// Everything that a policy is compiled from.
struct World {
    text: String,
    list: String,
    host: Host,
    members: BTreeMap<String, Members>,
    temporary: Option<Vec<TemporaryPeer>>,
}

impl Files for World {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        Ok(Text {
            name: path.to_owned(),
            text: self.list.clone(),
            doubts: Vec::new(),
        })
    }

    fn glob(&self, _: &str, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }

    fn members(&self, source: &MemberSource) -> Result<Option<Vec<Member>>, ReadError> {
        let members = self.members.get(&source.name).map(|members| {
            let members = members.iter();
            members.map(|(at, name)| (at, name.to_owned())).collect()
        });
        Ok(members)
    }

    fn host(&self) -> Result<Option<Host>, ReadError> {
        Ok(Some(self.host.clone()))
    }
}

impl World {
    fn new(text: &str, list: &str) -> Self {
        let mut world = Self {
            text: text.to_owned(),
            list: list.to_owned(),
            host: host(0),
            members: BTreeMap::new(),
            temporary: None,
        };
        let policy = world.load().expect("the policy is valid without members");
        for source in policy.sources {
            let members = Members::new(source.limits, Saved::default(), Duration::ZERO);
            world.members.insert(source.name, members);
        }
        world
    }

    fn load(&self) -> Result<Policy, Vec<Diagnostic>> {
        let loaded = load("policy.toml", &self.text, self);
        loaded.policy.ok_or(loaded.diagnostics)
    }

    /// Compiles the policy as the agent does; `None` if it has errors or unmet expectations.
    fn compile(&self) -> Option<(Policy, Ruleset)> {
        let mut policy = self.load().ok()?;
        let (ruleset, _) = compile(&policy);
        if !expect::check(&policy, &ruleset).is_empty() {
            return None;
        }
        if self.temporary.is_none() {
            return Some((policy, ruleset));
        }
        policy.temporary = Some(self.possible(&ruleset));
        let (ruleset, _) = compile(&policy);
        Some((policy, ruleset))
    }

    fn list(&mut self, source: &str, entries: &[(u8, u8)], is_accepted: bool) {
        let entries = entries.iter();
        let entry = |(at, name): &(u8, u8)| (address(*at), Some(format!("n{name}").into()));
        let listing = Listing {
            entries: entries.map(entry).collect(),
            ..Listing::default()
        };
        if let Some(members) = self.members.get_mut(source) {
            members.observe(listing, Duration::ZERO);
            if is_accepted {
                members.accept(Duration::ZERO);
            }
        }
    }

    fn possible(&self, ruleset: &Ruleset) -> Vec<TemporaryPeer> {
        let peers = self.temporary.iter().flatten().cloned();
        peers
            .filter(|peer| temporary::check(ruleset, peer.address).is_ok())
            .collect()
    }
}

/// A host with one of a few sets of routes.
fn host(number: u8) -> Host {
    let interface = |name: &str, kind: Option<&str>| Interface {
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        ..Interface::default()
    };
    let route = |net: &str, interface: &str| Route {
        destination: net.parse().expect("a valid network"),
        interface: interface.to_owned(),
        gateway: None,
        table: RT_TABLE_MAIN,
    };
    let mut routes = vec![route("0.0.0.0/0", "eth0"), route("10.0.0.8/29", "br0")];
    if number & 1 > 0 {
        routes.push(route("10.0.0.4/30", "br1"));
    }
    if number & 2 > 0 {
        routes.push(route("10.0.4.0/26", "br1"));
        routes.push(route("fd00::/125", "eth1"));
    }
    Host {
        interfaces: vec![
            interface("eth0", None),
            interface("eth1", None),
            interface("br0", Some("bridge")),
            interface("br1", Some("bridge")),
        ],
        routes,
        neighbours: Vec::new(),
    }
}

fn address(number: u8) -> IpAddr {
    match number {
        0..16 => IpAddr::from([10, 0, 0, number]),
        // In the overlay.
        16 => IpAddr::from([10, 0, 4, 1]),
        _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

/// What an agent knows of the ruleset that it loads.
struct Agent {
    world: World,
    ruleset: Ruleset,
    basis: Option<Basis>,
}

impl Agent {
    fn new(world: World) -> Self {
        let (policy, ruleset) = world.compile().expect("the policy has no errors");
        Self {
            world,
            ruleset,
            basis: Basis::of(&policy),
        }
    }

    fn compile(&mut self) {
        self.basis = None;
        if let Some((policy, ruleset)) = self.world.compile() {
            self.basis = Basis::of(&policy);
            self.ruleset = ruleset;
        }
    }

    /// Follows the members, and checks the result.
    fn follow(&mut self) -> Patched {
        let members = &self.world.members;
        let before = self.ruleset.clone();
        let patched = self.basis.as_mut().map_or(Patched::Impossible, |basis| {
            basis.patch(&mut self.ruleset, |name| members.get(name))
        });
        if patched == Patched::Impossible {
            assert_eq!(self.ruleset, before, "nothing is changed");
            self.compile();
            return patched;
        }
        let (policy, ruleset) = self.world.compile().expect("it compiles");
        assert_eq!(self.ruleset, ruleset);
        assert_eq!(self.basis, Basis::of(&policy), "the basis follows");
        let count = self.basis.as_ref().map(Basis::peer_count);
        assert_eq!(count, Some(policy.peer_count()));
        patched
    }
}

/// Event of an agent.
#[derive(Debug, Clone)]
enum Event {
    /// A source lists addresses with nodes, and what is missing may leave at once.
    Lists(&'static str, Vec<(u8, u8)>, bool),
    /// A source lists the same and one more.
    Adds(&'static str, u8, u8),
    /// A source lists the same without one.
    Omits(&'static str, usize),
    Host(u8),
    Temporary(Option<Vec<u8>>),
    /// Another ruleset is loaded, and then that of this policy, as after a block or trial.
    Restores,
}

fn event() -> impl Strategy<Value = Event> {
    let source = || prop::sample::select(vec!["a", "b", "g"]);
    let entry = || (0u8..24, 0u8..6);
    let lists = (
        source(),
        prop::collection::vec(entry(), 0..12),
        any::<bool>(),
    );
    let temporary = prop::option::of(prop::collection::vec(0u8..24, 0..3));
    prop_oneof![
        4 => lists.prop_map(|(source, entries, all)| Event::Lists(source, entries, all)),
        12 => (source(), entry()).prop_map(|(source, (at, name))| Event::Adds(source, at, name)),
        8 => (source(), 0usize..12).prop_map(|(source, at)| Event::Omits(source, at)),
        2 => (0u8..4).prop_map(Event::Host),
        2 => temporary.prop_map(Event::Temporary),
        1 => Just(Event::Restores),
    ]
}

/// Parts of a policy, which are combined.
const PARTS: [&str; 10] = [
    "[[allow]]\nname = \"x\"\nports = [\"80/tcp\"]\nfrom = [\"g\", \"a\"]\n",
    "[[allow]]\nname = \"y\"\nports = [\"81/tcp\"]\nfrom = [\"any\"]\nto = [\"b\", \"g\"]\n",
    "[[allow]]\nname = \"z\"\nports = [\"82/tcp\"]\nfrom = [\"h\", \"b\"]\n",
    "[overlay.o]\nbackend = \"wireguard\"\nsubnets = [\"10.0.4.0/24\"]\ntunnel_from = [\"g\"]\n",
    "[overlay.p]\nbackend = \"host-gw\"\nsubnets = [\"10.0.5.0/24\"]\ninterfaces = [\"cni0\", \
     \"br0\"]\n",
    "[[expect]]\nfrom = \"10.0.0.3\"\nport = \"90/tcp\"\nverdict = \"drop\"\n",
    "[[expect]]\nfrom = \"fd00::15\"\nport = \"80/tcp\"\nverdict = \"drop\"\n",
    "[interfaces]\nguests = [\"virbr0\"]\n",
    "[icmp]\nping = [\"a\", \"h\"]\n",
    "[options]\ndenied = \"reject\"\n",
];

fn policy() -> impl Strategy<Value = (String, String)> {
    let written = prop::collection::vec((0u8..12, any::<bool>()), 0..6);
    let limits = (3usize..10, 1usize..10, 1usize..10, any::<bool>());
    (written, limits, 0u16..1 << PARTS.len()).prop_map(|(written, (a, b, g, is_named), bits)| {
        let within = "kind = \"files\"\nwithin = [\"10.0.0.0/16\", \"fd00::/16\"]";
        let mut peers = vec!["master = \"192.0.2.1\"".to_owned()];
        let mut list = vec!["10.0.0.12/30".to_owned(), "10.0.0.9".to_owned()];
        for (at, (number, is_peer)) in written.into_iter().enumerate() {
            let address = address(number);
            match is_peer {
                true => peers.push(format!("p{at} = \"{address}\"")),
                false => list.push(address.to_string()),
            }
        }
        let peers = match is_named {
            true => format!("[peers]\n{}\n", peers.join("\n")),
            false => String::new(),
        };
        let parts = PARTS.iter().enumerate();
        let parts = parts.filter(|(bit, _)| bits & 1 << bit > 0);
        let parts: String = parts.map(|(_, part)| *part).collect();
        let text = format!(
            "version = 1\npeers_files = [\"list.txt\"]\n{peers}[groups]\nh = [\"10.0.0.2\"]\n\
             [peers_from.b]\n{within}\nmax = {b}\n[peers_from.a]\n{within}\nmax = {a}\n\
             [groups_from.g]\n{within}\nmax = {g}\n{parts}"
        );
        (text, list.join("\n"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn changed_members_are_those_that_the_policy_compiles_to(
        (text, list) in policy(),
        events in prop::collection::vec(event(), 1..40),
    ) {
        let world = World::new(&text, &list);
        prop_assume!(world.compile().is_some());
        let mut agent = Agent::new(world);
        let mut listed: BTreeMap<&str, Vec<(u8, u8)>> = BTreeMap::new();
        for event in events {
            match event {
                Event::Lists(source, entries, all) => {
                    agent.world.list(source, &entries, all);
                    listed.insert(source, entries);
                }
                Event::Adds(source, at, name) => {
                    let entries = listed.entry(source).or_default();
                    entries.push((at, name));
                    agent.world.list(source, entries, false);
                }
                Event::Omits(source, at) => {
                    let entries = listed.entry(source).or_default();
                    if at < entries.len() {
                        entries.remove(at);
                    }
                    agent.world.list(source, entries, true);
                }
                Event::Host(number) => {
                    agent.world.host = host(number);
                    agent.compile();
                }
                Event::Temporary(peers) => {
                    let peer = |number: &u8| TemporaryPeer {
                        name: format!("t{number}"),
                        address: address(*number),
                        end: None,
                    };
                    let is_some = agent.world.temporary.is_some();
                    let peers = peers.map(|all| all.iter().map(peer).collect());
                    agent.world.temporary = peers;
                    let possible = agent.world.possible(&agent.ruleset);
                    if !is_some
                        || agent.world.temporary.is_none()
                        || !temporary::replace(&mut agent.ruleset, &possible)
                    {
                        agent.compile();
                    }
                }
                Event::Restores => agent.basis = None,
            }
            agent.follow();
        }
    }
}

const SOURCES: &str = "[peers_from.a]\nkind = \"files\"\nwithin = [\"10.0.0.0/16\"]\nmax = 5\n\
    [groups_from.g]\nkind = \"files\"\nwithin = [\"10.0.0.0/16\", \"fd00::/16\"]\n";

#[test]
fn a_policy_is_compiled_again_only_where_more_than_elements_can_change() {
    use Patched::{Changed, Impossible, Same};
    let allow = "[[allow]]\nname = \"x\"\nports = [\"80/tcp\"]\nfrom = [\"g\"]\n";
    let member =
        "[[allow]]\nname = \"x\"\nports = [\"80/tcp\"]\nfrom = [\"any\"]\nto = [\"a/n1\"]\n";
    let bound = "[[expect]]\nfrom = \"10.0.0.3\"\nport = \"90/tcp\"\nverdict = \"drop\"\n";
    let tested = "[[expect]]\nfrom = \"a\"\nport = \"90/tcp\"\nverdict = \"accept\"\n";
    let overlay = "[overlay.o]\nbackend = \"host-gw\"\nsubnets = [\"10.0.4.0/24\"]\n";
    let macs = "[overlay.o]\nbackend = \"host-gw\"\nsubnets = [\"10.0.4.0/24\"]\nunmasqueraded = \
        true\n";
    let start = [(1, 1), (2, 2)];
    for (name, rest, source, entries, want) in [
        ("a join", "", "a", &[(1, 1), (2, 2), (3, 3)][..], Changed),
        ("the same", "", "a", &[(2, 2), (1, 1)], Same),
        ("a leave", "", "a", &[(1, 1)], Changed),
        ("another name", "", "a", &[(1, 1), (2, 3)], Changed),
        (
            "another name in a group",
            allow,
            "g",
            &[(1, 1), (2, 3)],
            Same,
        ),
        ("a group that no rule uses", "", "g", &[(1, 1)], Changed),
        ("a group that rules use", allow, "g", &[(1, 1)], Changed),
        (
            "the first of a family",
            allow,
            "g",
            &[(1, 1), (2, 2), (20, 3)],
            Impossible,
        ),
        (
            "the first of a family in an unused group",
            "",
            "g",
            &[(1, 1), (20, 3)],
            Changed,
        ),
        (
            "more than the maximum",
            "",
            "a",
            &[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)],
            Changed,
        ),
        (
            "another interface",
            "",
            "a",
            &[(1, 1), (2, 2), (8, 3)],
            Impossible,
        ),
        (
            "another interface, for a group",
            "",
            "g",
            &[(1, 1), (2, 2), (8, 3)],
            Changed,
        ),
        (
            "with an overlay",
            overlay,
            "a",
            &[(1, 1), (2, 2), (3, 3)],
            Changed,
        ),
        (
            "neighbors of peers",
            macs,
            "a",
            &[(1, 1), (2, 2), (3, 3)],
            Impossible,
        ),
        (
            "an expectation that is met",
            bound,
            "a",
            &[(1, 1), (2, 2), (4, 4)],
            Changed,
        ),
        (
            "an expectation that is not",
            bound,
            "a",
            &[(1, 1), (2, 2), (3, 3)],
            Impossible,
        ),
        (
            "an expectation of members",
            tested,
            "a",
            &[(1, 1), (2, 2), (3, 3)],
            Impossible,
        ),
    ] {
        let text = format!("version = 1\n[peers]\nm = \"192.0.2.1\"\n{SOURCES}{rest}");
        let mut world = World::new(&text.replace(tested, ""), "");
        world.text = text;
        world.list("a", &start, true);
        world.list("g", &start, true);
        let mut agent = Agent::new(world);
        agent.world.list(source, entries, true);
        assert_eq!(agent.follow(), want, "{name}");
    }
    let text = format!("version = 1\n[peers]\nm = \"192.0.2.1\"\n{SOURCES}");
    let mut agent = Agent::new(World::new(&text, ""));
    agent.world.list("a", &start, true);
    agent.follow();
    agent.world.text += member;
    agent.compile();
    assert_eq!(agent.basis, None, "a rule names a member");
}
