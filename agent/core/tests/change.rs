//! What becomes different from one ruleset to another, in the words of the policy.

use peerwall_core::backend::Backend;
use peerwall_core::generate::policy;
use peerwall_core::nft::memory::Memory;
use peerwall_core::nft::observed::Observed;
use peerwall_core::nft::plan::plan;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::policy::{Mode, Policy};
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::change::{Change, What, changes, raw};
use peerwall_core::ruleset::compile::compile;
use proptest::prelude::*;

const POLICY: &str = r#"
version = 1

[peers]
master   = "129.21.49.49"
worker-1 = ["129.21.49.48", "2001:db8:49::48"]
worker-2 = "129.21.49.53"

[groups]
admins  = ["198.51.100.0/24"]
nothing = ["198.51.100.200"]

[overlay.flannel]
backend    = "vxlan"
subnets    = ["10.244.0.0/16"]
interfaces = ["flannel.1", "cni0"]

[[allow]]
name  = "ssh"
ports = ["22/tcp"]
from  = "any"

[[allow]]
name  = "web"
ports = ["80/tcp", "443/tcp"]
from  = ["admins", "203.0.113.7"]
"#;

fn compiled(text: &str) -> Ruleset {
    let loaded = load("policy.toml", text, &NoFiles);
    let wrong: Vec<&String> = loaded.diagnostics.iter().map(|d| &d.message).collect();
    compile(&loaded.policy.unwrap_or_else(|| panic!("{wrong:?}"))).0
}

fn lines(changes: &[Change]) -> Vec<String> {
    let lines = changes.iter().flat_map(Change::lines);
    lines.map(|line| line.to_string()).collect()
}

#[test]
fn an_edit_of_the_policy_is_told_in_its_words_and_nothing_else_is() {
    let old = compiled(POLICY);
    for (name, from, to, want) in [
        ("no edit", "version = 1", "version = 1", &[][..]),
        (
            "an address of a peer",
            "\"129.21.49.53\"",
            "\"129.21.49.99\"",
            &["~ peer worker-2 129.21.49.53 → 129.21.49.99"],
        ),
        (
            "one address more",
            "worker-2 = \"129.21.49.53\"",
            "worker-2 = [\"129.21.49.53\", \"192.0.2.0/28\"]",
            &["+ peer worker-2 192.0.2.0/28"],
        ),
        (
            "a new peer",
            "[groups]",
            "worker-3 = [\"129.21.49.60\", \"2001:db8:49::60\"]\n[groups]",
            &["+ peer worker-3 129.21.49.60, 2001:db8:49::60"],
        ),
        (
            "a peer less",
            "master   = \"129.21.49.49\"\n",
            "",
            &["- peer master 129.21.49.49"],
        ),
        (
            "a peer with another name",
            "master   =",
            "mistress =",
            &["- peer master 129.21.49.49", "+ peer mistress 129.21.49.49"],
        ),
        (
            "a port more",
            "[\"22/tcp\"]",
            "[\"22/tcp\", \"443/tcp\"]",
            &["+ allow ssh 443/tcp"],
        ),
        (
            "another port",
            "[\"22/tcp\"]",
            "[\"2222/tcp\"]",
            &["~ allow ssh 22/tcp → 2222/tcp"],
        ),
        (
            "one of two ports",
            "\"80/tcp\", ",
            "",
            &["- allow web 80/tcp"],
        ),
        (
            "a protocol more",
            "[\"22/tcp\"]",
            "[\"22/tcp\", \"esp\"]",
            &["+ allow ssh esp"],
        ),
        (
            "every port",
            "ports = [\"22/tcp\"]\n",
            "",
            &["~ allow ssh 22/tcp → every port"],
        ),
        (
            "for fewer",
            "from  = \"any\"",
            "from  = \"admins\"",
            &["~ allow ssh from any → admins"],
        ),
        (
            "an address in an allow",
            "\"203.0.113.7\"",
            "\"203.0.113.8\"",
            &["~ allow web from 203.0.113.7 → 203.0.113.8"],
        ),
        (
            "another name for an allow",
            "name  = \"ssh\"",
            "name  = \"shell\"",
            &[
                "+ allow shell 22/tcp from any",
                "- allow ssh 22/tcp from any",
            ],
        ),
        (
            "an allow at an address",
            "from  = \"any\"",
            "from  = \"any\"\nto = \"192.0.2.10\"",
            &["~ allow ssh to host → 192.0.2.10"],
        ),
        (
            "an allow at another address too",
            "from  = \"any\"",
            "from  = \"any\"\nto = [\"host\", \"flannel\"]",
            &["+ allow ssh to flannel"],
        ),
        (
            "an allow by an interface",
            "from  = \"any\"",
            "from  = \"any\"\ninterfaces = [\"eth0\", \"bond*\"]",
            &["+ allow ssh interfaces eth0, bond*"],
        ),
        (
            "a limit",
            "from  = \"any\"",
            "from  = \"any\"\nlimit = \"10/minute\"",
            &["+ allow ssh limit 10/minute burst 5"],
        ),
        (
            "source ports",
            "from  = \"any\"",
            "from  = \"any\"\nfrom_ports = [\"53/tcp\"]",
            &["+ allow ssh from ports 53/tcp"],
        ),
        (
            "the order of allows",
            "name  = \"ssh\"\n\
             ports = [\"22/tcp\"]\n\
             from  = \"any\"\n\
             \n\
             [[allow]]\n\
             name  = \"web\"\n\
             ports = [\"80/tcp\", \"443/tcp\"]\n\
             from  = [\"admins\", \"203.0.113.7\"]",
            "name  = \"web\"\n\
             ports = [\"80/tcp\", \"443/tcp\"]\n\
             from  = [\"admins\", \"203.0.113.7\"]\n\
             [[allow]]\n\
             name  = \"ssh\"\n\
             ports = [\"22/tcp\"]\n\
             from  = \"any\"",
            &[
                "~ chain input one order → another",
                "~ chain published one order → another",
            ],
        ),
        (
            "a group",
            "\"198.51.100.0/24\"",
            "\"198.51.100.0/25\"",
            &["~ group admins 198.51.100.0/24 → 198.51.100.0/25"],
        ),
        (
            "a group that nothing uses",
            "\"198.51.100.200\"",
            "\"198.51.100.201\"",
            &[],
        ),
        (
            "the pods",
            "10.244.0.0/16",
            "10.42.0.0/16",
            &["~ overlay flannel 10.244.0.0/16 → 10.42.0.0/16"],
        ),
        (
            "where pods are",
            "\"cni0\"",
            "\"cni1\"",
            &["~ overlay flannel interfaces cni0 → cni1"],
        ),
        (
            "another tunnel",
            "backend    = \"vxlan\"",
            "backend    = \"udp\"",
            &["~ overlay flannel tunnel 8472/udp → 8285/udp"],
        ),
        (
            "no overlay",
            "[overlay.flannel]\n\
             backend    = \"vxlan\"\n\
             subnets    = [\"10.244.0.0/16\"]\n\
             interfaces = [\"flannel.1\", \"cni0\"]\n",
            "",
            &["- overlay flannel 10.244.0.0/16 interfaces flannel.1, cni0 tunnel 8472/udp"],
        ),
        (
            "an overlay more",
            "[[allow]]\nname  = \"ssh\"",
            "[overlay.wg]\n\
             backend = \"wireguard\"\n\
             subnets = [\"10.45.0.0/16\"]\n\
             interfaces = [\"wg0\"]\n\
             tunnel_from = \"any\"\n\
             [[allow]]\n\
             name  = \"ssh\"",
            &["+ overlay wg 10.45.0.0/16 interfaces wg0 tunnel 51820/udp tunnel from any"],
        ),
        (
            "trusted",
            "[groups]",
            "[interfaces]\ntrusted = [\"eth1\"]\n[groups]",
            &["+ interfaces trusted eth1"],
        ),
        (
            "guests",
            "[groups]",
            "[interfaces]\nguests = [\"virbr0\"]\n[groups]",
            &["+ interfaces guests virbr0"],
        ),
        (
            "bridged",
            "[groups]",
            "[interfaces]\nbridged = [\"br0\"]\n[groups]",
            &["+ interfaces bridged br0"],
        ),
        (
            "ping",
            "[groups]",
            "[icmp]\nping = [\"admins\", \"203.0.113.9\"]\n[groups]",
            &["+ icmp ping admins, 203.0.113.9"],
        ),
        (
            "one type",
            "[groups]",
            "[icmp]\nv4 = [\"timestamp-request\"]\n[groups]",
            &["+ icmp v4 timestamp-request"],
        ),
        (
            "all types",
            "[groups]",
            "[icmp]\nv6 = \"all\"\n[groups]",
            &["+ icmp v6 all"],
        ),
        (
            "no core",
            "[groups]",
            "[icmp]\ncore = false\n[groups]",
            &["~ icmp core true → false"],
        ),
        (
            "priority",
            "[groups]",
            "[options]\nhook_priority = -20\n[groups]",
            &["~ option hook_priority -10 → -20"],
        ),
        (
            "reject",
            "[groups]",
            "[options]\ndenied = \"reject\"\n[groups]",
            &["~ option denied drop → reject"],
        ),
        (
            "invalid",
            "[groups]",
            "[options]\ninvalid = \"accept\"\n[groups]",
            &["~ option invalid drop → accept"],
        ),
        (
            "no log",
            "[groups]",
            "[log]\ndenied = false\n[groups]",
            &["~ option log.denied group 5, rate 10/second burst 5, prefix peerwall → false"],
        ),
        (
            "what is not a rule",
            "[groups]",
            "[options]\nrevoke = \"keep\"\n[groups]",
            &[],
        ),
    ] {
        assert!(POLICY.contains(from), "{name}: nothing to edit");
        let new = compiled(&POLICY.replacen(from, to, 1));
        assert_eq!(lines(&changes(Some(&old), Some(&new))), want, "{name}");
    }
}

#[test]
fn all_is_new_at_first_and_all_goes_at_the_end() {
    let ruleset = compiled(POLICY);
    let items = [
        "peer master 129.21.49.49",
        "peer worker-1 129.21.49.48, 2001:db8:49::48",
        "peer worker-2 129.21.49.53",
        "group admins 198.51.100.0/24",
        "overlay flannel 10.244.0.0/16 interfaces flannel.1, cni0 tunnel 8472/udp",
        "allow ssh 22/tcp from any",
        "allow web 443/tcp, 80/tcp from admins, 203.0.113.7",
    ];
    for (sign, from, to) in [('+', None, Some(&ruleset)), ('-', Some(&ruleset), None)] {
        let told = lines(&changes(from, to));
        assert_eq!(told[0], format!("{sign} rules of peerwall"));
        for item in items {
            let web = item
                .contains("443")
                .then(|| item.replace("443/tcp, 80/tcp", "80/tcp, 443/tcp"));
            let want = format!("{sign} {}", web.as_deref().unwrap_or(item));
            assert!(told.contains(&want), "{want} is not in {told:#?}");
        }
    }
    assert_eq!(changes(None, None), []);
}

#[test]
fn what_another_program_did_is_told_by_the_text_of_its_rules() {
    let wanted = compiled(POLICY);
    let mut found = wanted.clone();
    let input = found
        .chains
        .iter_mut()
        .find(|chain| chain.name == "input")
        .unwrap();
    let removed = input.rules.remove(0);
    assert!(removed.action.is_some());
    let odd = input.rules.last().unwrap().clone();
    input.rules.insert(0, odd);
    found.counters.insert("odd".into());
    let changes: Vec<Change> = raw(&found, &wanted)
        .into_iter()
        .map(Change::by_others)
        .collect();
    assert_eq!(
        lines(&changes),
        [
            "- rule input: goto input-default comment \"to this host, not allowed by the policy\" \
             (another program added it)",
            "+ rule input: ct state established counter name \"input.established\" accept comment \
             \"replies and errors of known connections\" (another program removed it)",
            "- counter odd (another program added it)",
        ]
    );
}

#[test]
fn long_lists_are_counted_for_people_and_whole_for_machines() {
    let new = POLICY.replace(
        "\"129.21.49.53\"",
        &format!(
            "{:?}",
            (1..=40).map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>()
        ),
    );
    let changes = changes(Some(&compiled(POLICY)), Some(&compiled(&new)));
    let line = lines(&changes).pop().unwrap();
    assert!(
        line.ends_with(" and 32 more")
            && line.starts_with("~ peer worker-2 129.21.49.53 → 192.0.2.1, "),
        "{line}"
    );
    assert_eq!(changes[0].parts[0].to.len(), 40);
    let json = serde_json::to_value(&changes).unwrap();
    assert_eq!(json[0]["kind"], "changed");
    assert_eq!(json[0]["what"], "peer");
    assert_eq!(json[0]["parts"][0]["part"], "value");
}

#[test]
fn very_many_addresses_are_only_counted() {
    // Every other address, so that none of them join to networks.
    let many: Vec<String> = (0..1500)
        .map(|n| format!("\"10.9.{}.{}\"", n / 100, n % 100 * 2))
        .collect();
    let new = POLICY.replace(
        "\"129.21.49.53\"",
        &format!("[\"129.21.49.53\", {}]", many.join(", ")),
    );
    let (old, new) = (compiled(POLICY), compiled(&new));
    let want = "+ peer addresses 1500 elements of peers4".to_owned();
    assert_eq!(lines(&changes(Some(&old), Some(&new))), [want]);
    let want = "- peer addresses 1500 elements of peers4".to_owned();
    assert_eq!(lines(&changes(Some(&new), Some(&old))), [want]);
}

/// Edits of a generated policy that may or may not change its rules.
fn edited(policy: &Policy, other: &Policy, which: u8) -> Policy {
    let mut new = policy.clone();
    match which {
        0 => new.peers.clone_from(&other.peers),
        1 => new.groups.clone_from(&other.groups),
        2 => new.overlays.clone_from(&other.overlays),
        3 => new.allows.clone_from(&other.allows),
        4 => new.allows.reverse(),
        5 => new.peers.reverse(),
        6 => new.icmp.clone_from(&other.icmp),
        7 => new.options = other.options,
        8 => new.log.clone_from(&other.log),
        9 => new.trusted.clone_from(&other.trusted),
        10 => new.guests.clone_from(&other.guests),
        11 => new.bridged.clone_from(&other.bridged),
        12 => new.switches.clone_from(&other.switches),
        13 => new.services.clone_from(&other.services),
        14 => new.overlays.reverse(),
        15 => new.groups.clear(),
        _ => new = other.clone(),
    }
    new
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn there_are_changes_exactly_if_there_is_something_to_do(
        a in policy(),
        other in policy(),
        which in 0u8..18,
    ) {
        let b = edited(&a, &other, which);
        // A group that is gone is named by nothing.
        let (a, b) = (compile(&a).0, compile(&b).0);
        let mut memory = Memory::new();
        let first = plan(&a, &Observed::default());
        let seen = memory.observe().unwrap();
        memory.commit(&first, &seen).unwrap();
        let seen = memory.observe().unwrap();
        let told = changes(Some(&a), Some(&b));
        prop_assert_eq!(told.is_empty(), plan(&b, &seen).is_empty(), "{:?}", told);
        prop_assert_eq!(told.is_empty(), a == b);
        prop_assert_eq!(raw(&a, &b).is_empty(), a == b);
        prop_assert!(told.iter().all(|change| !change.lines().is_empty()), "{:?}", told);
        // The other way round, what was new is removed.
        let back = changes(Some(&b), Some(&a));
        prop_assert_eq!(told.len(), back.len(), "{:?} and {:?}", told, back);
    }

    #[test]
    fn an_item_that_did_not_change_is_not_told(a in policy(), other in policy(), which in 0u8..17) {
        let only = match which {
            0 | 5 => Some(What::Peer),
            7 | 8 => Some(What::Option),
            9..=11 => Some(What::Interfaces),
            12 | 13 => Some(What::Host),
            _ => None,
        };
        let Some(only) = only else { return Ok(()) };
        let b = edited(&a, &other, which);
        let told = changes(Some(&compile(&a).0), Some(&compile(&b).0));
        let pieces = [What::Rule, What::Chain, What::Set, What::Counter];
        for change in &told {
            // A ruleset shows that all denied packets pass only if it has chains for all of them.
            let is_mode = a.options.mode == Mode::AuditAll && change.name == "mode";
            let is_only = change.what == only || pieces.contains(&change.what);
            prop_assert!(is_only || is_mode, "{:?}", change);
        }
    }
}
