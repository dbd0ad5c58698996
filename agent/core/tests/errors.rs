//! A policy that is wrong in every section: all of it is reported at once, each error at its place.

use std::collections::BTreeMap;

use peerwall_core::diagnostic::{Diagnostic, Severity};
use peerwall_core::policy::Discovery;
use peerwall_core::policy::load::{Discovered, Elsewhere, Files, Loaded, ReadError, Text, load};
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::expect::{self, Tested};

/// Files by name.
#[derive(Default)]
struct Map(BTreeMap<&'static str, &'static str>);

impl Files for Map {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        let found = self.0.get(path).map(|text| Text {
            name: path.to_owned(),
            text: (*text).to_owned(),
            doubts: Vec::new(),
        });
        found.ok_or_else(|| ReadError::Absent(format!("cannot read {path}: there is no such file")))
    }

    fn glob(&self, pattern: &str, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(vec![pattern.to_owned()])
    }
}

/// Each `!` ends a line with an error, or several.
const WRONG: &str = r#"version = 2 !
include = ["more.toml", 7] !
peers_files = ["nobody.txt", "bad.txt"] !
nonsense = true !

[peers]
"a b" = "10.0.0.1/24" !!
good = ["192.0.2.1", 5, "192.0.2.300"] !!
twice = "192.0.2.2"

[groups]
twice = "192.0.2.3/33" !!
empty = {} !
odd = { addresses = ["x"], files = ["none.txt"], more = 1 } !!!

[overlay.one]
subnets = ["10.0.0.1/16"] !
tunnel_from = "nobody" !
interfaces = ["eth0", "a-name-that-is-too-long"] !
colour = "red" !

[overlay.both]
backend = "vxlam" !
subnets = ["10.300.0.0/16"] !
discover = "x" !
port = 0 !

[[allow]]
ports = ["22/tpc", "0/tcp"] !!
from = ["nobody", "10.0.0.1/8"] !!
to = "any" !
interfaces = ["eth*0"] !
limit = "fast" !
form = "any" !

[[allow]]
name = "no one" !
ports = ["70000/tcp"] !
from = "goood" !

[[allow]]
name = 5 !
from = 6 !

[interfaces]
trusted = ["eth0", "eth0"] !
bridged = ["br*"] !
gests = ["virbr0"] !

[icmp]
v4 = ["echo-requests", 300] !!
v6 = "some" !
core = "yes" !
ping = "nobody" !

[options]
backend = "nftables" !
hook_priority = 1000 !
denied = "rejct" !
mode = "audits" !
invalid = 1 !
revoke = "cuts" !
speed = 1 !

[log]
denied = { group = 70000, rate = "often", prefix = "", loud = true } !!!!

[[expect]]
hook = "output" !
from = "nobody" !
to = ["192.0.2.1", "192.0.2.2"] !
port = ["22/tcp", "23/tcp"] !
interface = "a-name-that-is-too-long" !
when = "now" !
verdict = "acept" !

[[expect]]
from = "any" !
"#;

/// Lines with more errors than marks: the whole entry is their place.
fn wanted() -> BTreeMap<usize, usize> {
    let marks = WRONG.lines().map(|line| line.matches('!').count());
    let mut wanted: BTreeMap<usize, usize> =
        (1..).zip(marks).filter(|(_, count)| *count > 0).collect();
    let at = |text: &str, nth: usize| {
        let mut lines = (1..)
            .zip(WRONG.lines())
            .filter(|(_, line)| line.starts_with(text));
        lines.nth(nth).map_or(0, |(number, _)| number)
    };
    for line in [
        // No backend.
        at("[overlay.one]", 0),
        // No name.
        at("[[allow]]", 0),
        // No verdict.
        at("[[expect]]", 1),
    ] {
        *wanted.entry(line).or_default() += 1;
    }
    wanted
}

fn errors(loaded: &Loaded) -> Vec<&Diagnostic> {
    let errors = loaded.diagnostics.iter();
    errors.filter(|d| d.severity == Severity::Error).collect()
}

#[test]
fn every_error_of_every_section_is_reported_at_once_at_its_place() {
    let files = Map(BTreeMap::from([
        ("bad.txt", "192.0.2.9\n192.0.2.9/8\nnot an address\n"),
        (
            "more.toml",
            "[options]\n\
             denied = \"drop\"\n\
             invalid = 2\n\
             [[allow]]\n\
             name = \"more\"\n\
             ports = [\"0\"]\n\
             from = \"nobody\"\n",
        ),
    ]));
    let text = WRONG.replace('!', "");
    let loaded = load("policy.toml", &text, &files);
    assert!(loaded.policy.is_none());
    let mut found: BTreeMap<String, BTreeMap<usize, Vec<String>>> = BTreeMap::new();
    for error in errors(&loaded) {
        let json = loaded.sources.json(error);
        let of_file = found.entry(json.file).or_default();
        of_file
            .entry(json.start.line)
            .or_default()
            .push(json.message);
    }
    let counts = |file: &str| -> BTreeMap<usize, usize> {
        let lines = found.get(file).into_iter().flatten();
        lines
            .map(|(line, messages)| (*line, messages.len()))
            .collect()
    };
    let (told, wanted) = (counts("policy.toml"), wanted());
    for (number, line) in (1..).zip(text.lines()) {
        assert_eq!(
            told.get(&number),
            wanted.get(&number),
            "line {number}: {line}: {:?}",
            found["policy.toml"].get(&number)
        );
    }
    assert_eq!(counts("bad.txt"), BTreeMap::from([(2, 1), (3, 1)]));
    // [options] is there twice, and what is wrong in it is told all the same.
    assert_eq!(
        counts("more.toml"),
        BTreeMap::from([(1, 1), (3, 1), (6, 1), (7, 1)]),
        "{found:?}"
    );
}

#[test]
fn a_wrong_overlay_that_names_its_tunnels_senders_does_no_harm() {
    let text = "version = 1\n[overlay.one]\nsubnets = [\"10.1.0.0/16\"]\ntunnel_from = \"any\"\n";
    let loaded = load("p", text, &Map::default());
    let told: Vec<&str> = errors(&loaded).iter().map(|d| d.message.as_str()).collect();
    assert_eq!(told, ["overlay `one` has no backend"]);
}

#[test]
fn single_brackets_hide_no_error() {
    let text = "version = 1\n[allow]\nname = \"x\"\nports = [\"0/tcp\"]\nfrom = \"nobody\"\n";
    let loaded = load("p", text, &Map::default());
    assert_eq!(errors(&loaded).len(), 3, "{:?}", errors(&loaded));
}

const CLUSTER: &str = r#"version = 1
[peers]
node = "192.0.2.11"
[overlay.flannel]
backend = "vxlan"
discover = "/run/flannel/subnet.env"
interfaces = ["flannel.1", "cni0"]
[[allow]]
name = "ssh"
ports = ["22/tcp"]
from = "any"
[[expect]]
from = "flannel"
verdict = "accept"
[[expect]]
from = "10.244.7.7"
interface = "cni0"
verdict = "accept"
[[expect]]
from = "198.51.100.7"
port = "22/tcp"
verdict = "accept"
[[expect]]
from = "10.244.7.7"
interface = "eth0"
port = "22/tcp"
verdict = "drop"
[[expect]]
from = "node"
verdict = "accept"
"#;

fn tested(text: &str, files: &dyn Files) -> (Loaded, Tested) {
    let loaded = load("policy.toml", text, files);
    let told: Vec<String> = loaded
        .diagnostics
        .iter()
        .map(|d| d.message.clone())
        .collect();
    let policy = loaded.policy.as_ref().unwrap_or_else(|| panic!("{told:?}"));
    let tested = expect::test(policy, &compile(policy).0);
    (loaded, tested)
}

#[test]
fn off_the_node_what_depends_on_pods_is_not_tested_and_the_rest_is() {
    let on_node = Map::default();
    assert!(
        load("p", CLUSTER, &on_node).policy.is_none(),
        "on the node, it is an error"
    );
    let files = Elsewhere::new(&on_node, None);
    let (loaded, result) = tested(CLUSTER, &files);
    let overlay = &loaded.policy.unwrap().overlays[0];
    assert!(matches!(overlay.discovery, Discovery::Awaited(_)));
    assert_eq!(result.failed, []);
    let lines: Vec<usize> = result
        .unknown
        .iter()
        .map(|d| loaded.sources.json(d).start.line)
        .collect();
    assert_eq!(lines, [14, 18, 27], "{:?}", result.unknown);
    assert!(
        result
            .unknown
            .iter()
            .all(|d| d.message.contains("overlay `flannel`"))
    );
    // What no pod can decide fails here as there.
    for (from, to) in [
        (
            "from = \"198.51.100.7\"\nport = \"22/tcp\"",
            "from = \"198.51.100.7\"\nport = \"23/tcp\"",
        ),
        (
            "from = \"node\"\nverdict = \"accept\"",
            "from = \"node\"\nverdict = \"drop\"",
        ),
    ] {
        let (_, result) = tested(&CLUSTER.replace(from, to), &files);
        assert_eq!(result.failed.len(), 1, "{to}");
    }
    // A file that is there and wrong is an error anywhere.
    let wrong = Map(BTreeMap::from([(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.244.0.0/99\n",
    )]));
    assert!(
        load("p", CLUSTER, &Elsewhere::new(&wrong, None))
            .policy
            .is_none()
    );
}

#[test]
fn with_what_is_discovered_there_everything_is_tested() {
    let discovered = Discovered::parse(
        "node.toml",
        r#"
[files]
"/run/flannel/subnet.env" = ["10.244.0.0/16", "fd00:244::/48"]
[[interface]]
name = "flannel.1"
kind = "vxlan"
port = 4789
vni = 1
[[interface]]
name = "eth0"
addresses = ["192.0.2.10/24"]
[[route]]
to = "192.0.2.0/24"
interface = "eth0"
[[neighbour]]
address = "192.0.2.11"
interface = "eth0"
mac = "02:00:00:00:00:0b"
"#,
    )
    .map_err(|(_, wrong)| wrong)
    .unwrap();
    let here = Map::default();
    let files = Elsewhere::new(&here, Some(discovered.clone()));
    let (loaded, result) = tested(CLUSTER, &files);
    assert_eq!((result.failed, result.unknown), (vec![], vec![]));
    let overlay = &loaded.policy.unwrap().overlays[0];
    assert_eq!(overlay.subnets.len(), 2);
    assert_eq!(overlay.link.as_ref().and_then(|link| link.port), Some(4789));
    let unmasqueraded = CLUSTER.replace("[[allow]]\n", "unmasqueraded = true\n[[allow]]\n");
    let (loaded, _) = tested(&unmasqueraded, &files);
    assert_eq!(
        loaded.policy.unwrap().overlays[0].peer_macs,
        [[2, 0, 0, 0, 0, 11]]
    );
    // As a text, too.
    let text = "[files]\n\"/run/flannel/subnet.env\" = \"FLANNEL_NETWORK=10.99.0.0/16\\n\"\n";
    let discovered = Discovered::parse("node.toml", text)
        .map_err(|(_, wrong)| wrong)
        .unwrap();
    let (_, result) = tested(
        &CLUSTER.replace("10.244.7.7", "10.99.7.7"),
        &Elsewhere::new(&here, Some(discovered)),
    );
    assert_eq!((result.failed, result.unknown), (vec![], vec![]));
}

#[test]
fn every_error_in_what_is_discovered_is_told() {
    let text = "files = 1\n\
        file = 2\n\
        [[interface]]\n\
        kind = 5\n\
        addresses = [\"x\"]\n\
        port = \"1\"\n\
        [[route]]\n\
        to = \"nowhere\"\n\
        [[neighbour]]\n\
        address = \"192.0.2.1\"\n\
        interface = \"eth0\"\n\
        mac = \"1:2:3\"\n";
    let (sources, wrong) = Discovered::parse("node.toml", text).unwrap_err();
    let mut lines: Vec<usize> = wrong.iter().map(|d| sources.json(d).start.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 12], "{wrong:?}");
    let two = "[files]\nx = [\"10.1.0.0/16\", \"10.2.0.0/16\"]\n";
    assert!(Discovered::parse("node.toml", two).is_err());
}

#[test]
fn an_unmet_expectation_names_port_interface_family_and_address() {
    let text = "version = 1\n\
        [peers]\n\
        p = \"192.0.2.1\"\n\
        [[allow]]\n\
        name = \"ssh\"\n\
        ports = [\"22/tcp\"]\n\
        from = \"any\"\n";
    for (expectation, want) in [
        (
            "from = \"198.51.100.7\"\nport = \"22/tcp\"\nverdict = \"drop\"",
            "the policy does not meet this expectation: accept (allow.ssh) for a packet to port 22/tcp \
             from 198.51.100.7 (IPv4) that arrives on eth0",
        ),
        (
            "from = \"2001:db8::7\"\nport = \"443\"\ninterface = \"bond0\"\nverdict = \"accept\"",
            "the policy does not meet this expectation: drop (input-default) for a packet to port \
             443/tcp from 2001:db8::7 (IPv6) that arrives on bond0 and 1 other packet",
        ),
        (
            "hook = \"forward\"\n\
             from = \"198.51.100.0/24\"\n\
             to = \"203.0.113.1\"\n\
             port = \"esp\"\n\
             verdict = \"accept\"",
            "the policy does not meet this expectation: drop (forward-default) for a forwarded packet \
             to esp from 198.51.100.0 (IPv4) that arrives on eth0 and 1 other packet",
        ),
    ] {
        let (_, result) = tested(
            &format!("{text}[[expect]]\n{expectation}\n"),
            &Map::default(),
        );
        let told: Vec<&str> = result.failed.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(told, [want]);
    }
}
