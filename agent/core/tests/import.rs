//! The import, on files in the styles of many programs and people: `integration/fixtures/import`.
//!
//! Each folder has the files of one host, the policy that comes of them (`policy.toml`), and the
//! account of it (`report.txt`). `PEERWALL_BLESS=1` writes both anew.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]
#![expect(clippy::disallowed_methods, reason = "fixtures are files")]

use std::fs;
use std::path::{Path, PathBuf};

use peerwall_core::import::{Change, Facts, Fate, File, Import, import};
use peerwall_core::net::addr::Family;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::compile::compile;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/fixtures")
}

fn files(folder: &Path) -> Vec<File> {
    let mut names: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    let is_input = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name != "policy.toml" && name != "report.txt"
    };
    let file = |path: &PathBuf| File {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(path).unwrap(),
        family: None,
    };
    names.iter().filter(is_input).map(file).collect()
}

fn cases() -> Vec<(String, PathBuf)> {
    let mut folders: Vec<PathBuf> = fs::read_dir(fixtures().join("import"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    let named = folders
        .into_iter()
        .map(|f| (f.file_name().unwrap().to_str().unwrap().to_owned(), f));
    named.collect()
}

fn case(name: &str) -> Import {
    let files = files(&fixtures().join("import").join(name));
    import(&files, &Facts::default()).unwrap()
}

fn same(path: &Path, got: &str, case: &str) {
    if std::env::var_os("PEERWALL_BLESS").is_some() {
        fs::write(path, got).unwrap();
    }
    let want = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        got,
        want,
        "{case}: {} (PEERWALL_BLESS=1 writes it)",
        path.display()
    );
}

#[test]
fn every_case_gives_its_policy_and_its_report() {
    let cases = cases();
    assert!(cases.len() >= 28, "{}", cases.len());
    for (name, folder) in cases {
        let import = import(&files(&folder), &Facts::default())
            .unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        same(&folder.join("policy.toml"), &import.policy, &name);
        same(&folder.join("report.txt"), &import.to_string(), &name);
    }
}

#[test]
fn every_line_is_accounted_for_once_and_with_words() {
    for (name, folder) in cases() {
        let files = files(&folder);
        let import = import(&files, &Facts::default()).unwrap();
        for file in files.iter().filter(|file| !file.name.ends_with(".yaml")) {
            let wanted: Vec<(usize, &str)> = file
                .text
                .lines()
                .enumerate()
                .map(|(index, text)| (index + 1, text.trim()))
                .filter(|(_, text)| !text.is_empty())
                .collect();
            let got: Vec<(usize, &str)> = import
                .lines
                .iter()
                .filter(|line| line.file == file.name)
                .map(|line| (line.line, line.text.as_str()))
                .collect();
            assert_eq!(got, wanted, "{name}");
        }
        assert!(
            import.lines.iter().all(|line| !line.words.is_empty()),
            "{name}"
        );
    }
}

#[test]
fn a_policy_that_was_imported_has_no_warning_and_can_be_compiled() {
    for (name, folder) in cases() {
        let text = import(&files(&folder), &Facts::default()).unwrap().policy;
        let loaded = load("policy.toml", &text, &NoFiles);
        let said = loaded.sources.render(&loaded.diagnostics, false);
        assert!(loaded.diagnostics.is_empty(), "{name}: {said}");
        compile(&loaded.policy.unwrap());
    }
}

/// What makes a policy wider than the rules is a promise of the policy, and named: replies, the
/// core, peers through the host, overlays on their interfaces. No allow accepts what no line did,
/// but for packets that no connection tracking saw.
#[test]
fn no_allow_is_wider_than_the_rules() {
    for (name, folder) in cases() {
        let files = files(&folder);
        let untracked = files.iter().any(|file| file.text.contains("UNTRACKED"));
        for difference in import(&files, &Facts::default()).unwrap().differences {
            let widens = difference.change == Change::New
                && matches!(difference.reason, Reason::Allow(_) | Reason::Ping);
            assert!(!widens || untracked, "{name}: {}", difference.sentence);
        }
    }
}

/// The policy without names and places: what it means.
fn meaning(text: &str) -> String {
    let loaded = load("policy.toml", text, &NoFiles);
    let mut policy = loaded.policy.unwrap();
    for peer in &mut policy.peers {
        peer.name = None;
    }
    format!("{:?}", compile(&policy).0)
}

#[test]
fn the_storys_final_files_give_the_example_policy() {
    let example = fs::read_to_string(fixtures().join("../../policy.toml")).unwrap();
    for name in ["02-story-final", "03-story-cloud-config"] {
        let import = case(name);
        assert_eq!(meaning(&import.policy), meaning(&example), "{name}");
        assert!(
            import.is_whole(),
            "{name}: every line is taken, so --strict is met"
        );
        let report = import.to_string();
        for wanted in [
            "new: replies to pods' own connections pass FORWARD (IPv4)",
            "closed: 10.244.0.0/16 by eth0: pods' addresses are believed only where pods are",
            "IPv6 between the machines is cut",
        ] {
            assert!(report.contains(wanted), "{name}: {wanted}\n{report}");
        }
    }
}

#[test]
fn the_storys_first_file_is_told_its_mistakes() {
    let import = case("01-story-first");
    let names: Vec<&str> = import.lints.iter().map(|lint| lint.name).collect();
    assert!(
        names.contains(&"forward-empty") && names.contains(&"ipv6-forgotten"),
        "{names:?}"
    );
}

#[test]
fn every_lint_is_found_somewhere() {
    let mut found: Vec<&str> = Vec::new();
    for (_, folder) in cases() {
        let import = import(&files(&folder), &Facts::default()).unwrap();
        found.extend(import.lints.iter().map(|lint| lint.name));
    }
    for name in [
        "overlay-anywhere",
        "no-pod-network",
        "forward-empty",
        "forward-without-replies",
        "no-neighbour-discovery",
        "no-packet-too-big",
        "ipv6-forgotten",
        "ipv4-forgotten",
        "node-ports-open",
        "overlay-without-peers",
    ] {
        assert!(found.contains(&name), "{name} is in none of the cases");
    }
}

#[test]
fn a_line_with_an_unknown_word_accepts_nothing() {
    let import = case("27-unknown-words");
    for line in import
        .lines
        .iter()
        .filter(|line| line.text.contains("geoip") || line.text.contains("--mac-source"))
    {
        assert_eq!(line.fate, Fate::Left, "{}", line.text);
    }
    assert!(
        !import.policy.contains("8080") && !import.policy.contains("4500"),
        "{}",
        import.policy
    );
    assert!(!import.is_whole());
}

#[test]
fn the_host_is_asked_which_networks_are_pods_and_which_addresses_are_its_own() {
    let text = "*filter\n\
        :INPUT DROP [0:0]\n\
        :FORWARD DROP [0:0]\n\
        -A INPUT -s 10.1.0.0/24 -j ACCEPT\n\
        -A INPUT -d 192.0.2.1/32 -p tcp --dport 80 -j ACCEPT\n\
        COMMIT\n";
    let file = File {
        name: "v4".into(),
        text: text.into(),
        family: None,
    };
    let without = import(std::slice::from_ref(&file), &Facts::default()).unwrap();
    assert!(
        without.policy.contains("[peers]") && !without.policy.contains("80/tcp"),
        "{}",
        without.policy
    );
    let facts = Facts {
        pod_networks: vec!["10.1.0.0/16".parse().unwrap()],
        interfaces: vec!["flannel-wg".into()],
        addresses: vec!["192.0.2.1/24".parse().unwrap()],
    };
    let with = import(&[file], &facts).unwrap();
    assert!(
        with.policy
            .contains("[overlay.flannel]\nbackend    = \"wireguard\""),
        "{}",
        with.policy
    );
    assert!(with.policy.contains("80/tcp"), "{}", with.policy);
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let file = |name: &str, text: &str| File {
        name: name.into(),
        text: text.into(),
        family: None,
    };
    let rules = |rules: &str| format!("*filter\n:INPUT DROP [0:0]\n{rules}\nCOMMIT\n");
    for (name, files, wanted) in [
        (
            "no table",
            vec![file("a", "hello")],
            vec!["a: line 1: this stands in no table"],
        ),
        (
            "empty",
            vec![file("a", "")],
            vec!["a: line 1: there is no table in it"],
        ),
        (
            "a script",
            vec![file("a", "iptables -A INPUT -j DROP\n")],
            vec!["a: line 1", "import with --live"],
        ),
        (
            "no family",
            vec![file("a", &rules("-A INPUT -p tcp --dport 22 -j ACCEPT"))],
            vec!["a: nothing in it tells", "--v4 FILE"],
        ),
        (
            "the wrong family",
            vec![file(
                "v6",
                &rules("-A INPUT -s 10.0.0.1 -j ACCEPT\n-A INPUT -s 2001:db8::1 -j ACCEPT"),
            )],
            vec!["v6: line 4", "no address of IPv4"],
        ),
        (
            "no state",
            vec![file(
                "v4",
                &rules("-A INPUT -m state --state OLD -j ACCEPT"),
            )],
            vec!["v4: line 3", "`OLD` is no state"],
        ),
        (
            "no port",
            vec![file(
                "v4",
                &rules("-A INPUT -p tcp --dport 70000 -j ACCEPT"),
            )],
            vec!["v4: line 3", "`70000` is no port"],
        ),
        (
            "no chain",
            vec![file("v4", &rules("-A INPUT -j NOWHERE"))],
            vec!["v4: line 3", "`NOWHERE` is neither a chain"],
        ),
        (
            "a circle",
            vec![file(
                "v4",
                "*filter\n:INPUT DROP\n:a -\n:b -\n-A INPUT -j a\n-A a -j b\n-A b -j a\nCOMMIT\n",
            )],
            vec!["v4: line 3: the chain a leads back to itself"],
        ),
        (
            "twice",
            vec![
                file("v4", &rules("-A INPUT -j DROP")),
                file("b-v4", &rules("-A INPUT -j DROP")),
            ],
            vec!["b-v4: line 1: this is the second table filter of IPv4"],
        ),
        (
            "no yaml",
            vec![file("c", "#cloud-config\nwrite_files: [\n")],
            vec!["c: it is not YAML"],
        ),
        (
            "no files",
            vec![file("c", "#cloud-config\nhostname: a\n")],
            vec!["c: it has no list `write_files`"],
        ),
        (
            "no rules",
            vec![file(
                "c",
                "#cloud-config\nwrite_files:\n  - path: /etc/motd\n    content: hi\n",
            )],
            vec!["c: none of the files it writes"],
        ),
        (
            "encoded",
            vec![file(
                "c",
                concat!(
                    "#cloud-config\nwrite_files:\n  - path: /var/lib/iptables/rules-save\n",
                    "    encoding: b64\n    content: aGk=\n",
                ),
            )],
            vec!["is written in b64"],
        ),
        (
            "a bad set",
            vec![
                file("s", "create a hash:ip\nadd a nonsense\n"),
                file("v4", &rules("-A INPUT -j DROP")),
            ],
            vec!["s: line 2: `nonsense` is no address"],
        ),
    ] {
        let errors = import(&files, &Facts::default()).expect_err(name);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        for part in wanted {
            assert!(text.contains(part), "{name}: {text}");
        }
    }
}

#[test]
fn many_chains_are_no_trouble() {
    // One behind the other, and each leading twice to the next.
    let chains: String = (0..200).map(|i| format!(":c{i} -\n")).collect();
    let jumps: String = (0..199)
        .map(|i| {
            format!(
                "-A c{i} -s 192.0.2.1 -j c{}\n-A c{i} -s 192.0.2.2 -j c{}\n",
                i + 1,
                i + 1
            )
        })
        .collect();
    let text = format!(
        "*filter\n:INPUT DROP\n{chains}-A INPUT -j c0\n{jumps}-A c199 -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"
    );
    let file = File {
        name: "v4".into(),
        text,
        family: Some(Family::V4),
    };
    let import = import(&[file], &Facts::default()).unwrap();
    assert!(
        import
            .policy
            .contains("from  = [\"192.0.2.1\", \"192.0.2.2\"]"),
        "{}",
        import.policy
    );
}

#[test]
fn a_family_can_be_told_where_nothing_in_the_file_does() {
    let text = "*filter\n:INPUT DROP\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n";
    for (family, wanted) in [(Family::V4, "no IPv6 rules"), (Family::V6, "no IPv4 rules")] {
        let file = File {
            name: "a".into(),
            text: text.into(),
            family: Some(family),
        };
        let report = import(&[file], &Facts::default()).unwrap().to_string();
        assert!(report.contains(wanted), "{report}");
    }
}

/// Rules by chance, over few enough addresses, ports and interfaces that they meet.
mod random {
    use super::*;
    use proptest::prelude::*;

    fn condition() -> impl Strategy<Value = String> {
        let not = prop_oneof![3 => Just(""), 1 => Just("! ")];
        let source = prop::sample::select(vec![
            "192.0.2.0/24",
            "192.0.2.7/32",
            "192.0.2.8/32",
            "198.51.100.0/28",
            "10.244.0.0/16",
            "10.1.0.0/16",
            "0.0.0.0/1",
        ]);
        let interface =
            prop::sample::select(vec!["eth0", "eth1", "cni0", "flannel.1", "docker0", "eth+"]);
        let ports = prop::sample::select(vec!["22", "80", "1:1023", "8000:8100", "8472"]);
        prop_oneof![
            4 => (not.clone(), source).prop_map(|(not, value)| format!("{not}-s {value}")),
            2 => (not.clone(), interface.clone()).prop_map(|(not, value)| format!("{not}-i {value}")),
            1 => (not.clone(), interface).prop_map(|(not, value)| format!("{not}-o {value}")),
            4 => (not.clone(), ports).prop_map(|(not, value)| format!("-p tcp -m tcp {not}--dport {value}")),
            2 => Just("-p udp -m multiport --dports 53,8472".to_owned()),
            1 => Just("-p udp -m udp --sport 53".to_owned()),
            1 => Just("-p icmp -m icmp --icmp-type 8".to_owned()),
            1 => Just("-d 192.0.2.254/32".to_owned()),
            1 => Just("-d 203.0.113.0/24".to_owned()),
            1 => Just("-p esp".to_owned()),
            1 => Just("-m geoip --source-country XX".to_owned()),
            1 => Just("-m limit --limit 5/sec".to_owned()),
            1 => prop::sample::select(vec!["NEW", "RELATED,ESTABLISHED", "INVALID", "DNAT"])
                .prop_map(|state| format!("-m conntrack --ctstate {state}")),
        ]
    }

    fn rule() -> impl Strategy<Value = String> {
        let chain = prop::sample::select(vec!["INPUT", "INPUT", "FORWARD", "a", "b"]);
        let conditions = prop::collection::vec(condition(), 0..3);
        let target = prop::sample::select(vec![
            "ACCEPT", "ACCEPT", "DROP", "REJECT", "RETURN", "a", "b", "LOG",
        ]);
        (chain, conditions, target).prop_filter_map("a circle", |(chain, conditions, target)| {
            // `a` may lead to `b`, and nothing back.
            let circle = matches!((chain, target), ("a", "a") | ("b", "a" | "b"));
            (!circle).then(|| format!("-A {chain} {} -j {target}\n", conditions.join(" ")))
        })
    }

    fn file() -> impl Strategy<Value = String> {
        let policy = || prop::sample::select(vec!["DROP", "DROP", "ACCEPT"]);
        let nat = prop::sample::select(vec![
            "",
            "*nat\n\
             :PREROUTING ACCEPT\n\
             -A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n\
             COMMIT\n",
            "*nat\n\
             :PREROUTING ACCEPT\n\
             :POSTROUTING ACCEPT\n\
             -A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 80\n\
             -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
             COMMIT\n",
        ]);
        (
            policy(),
            policy(),
            prop::collection::vec(rule(), 0..12),
            nat,
        )
            .prop_map(|(input, forward, rules, nat)| {
                format!(
                    "{nat}*filter\n:INPUT {input}\n:FORWARD {forward}\n:a -\n:b -\n{}COMMIT\n",
                    rules.concat()
                )
            })
    }

    #[test]
    fn a_network_of_peers_that_contains_pods_is_the_rest_of_it() {
        let text = "*filter\n\
            :INPUT DROP\n\
            :FORWARD ACCEPT\n\
            -A INPUT -s 0.0.0.0/1 -j ACCEPT\n\
            -A INPUT -s 10.244.0.0/16 -j ACCEPT\n\
            COMMIT\n";
        let file = File {
            name: "v4".into(),
            text: text.into(),
            family: Some(Family::V4),
        };
        let import = import(&[file], &Facts::default()).unwrap();
        assert!(
            !import.policy.contains("\"0.0.0.0/1\"") && import.policy.contains("\"64.0.0.0/2\""),
            "{}",
            import.policy
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_rules_become_a_policy_that_opens_no_port_they_do_not(text in file()) {
            let file = File { name: "v4".into(), text: text.clone(), family: Some(Family::V4) };
            let import = import(&[file], &Facts::default());
            let import = match import {
                Ok(import) => import,
                Err(errors) => {
                    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    return Err(TestCaseError::fail(format!("{text}\n{}", said.join("\n"))));
                }
            };
            for difference in &import.differences {
                let widens = difference.change == Change::New
                    && matches!(difference.reason, Reason::Allow(_) | Reason::Ping);
                prop_assert!(!widens, "{}\n{}\n{}", difference.sentence, text, import.policy);
            }
            // What is closed is told of some line.
            let closed = import.differences.iter().any(|d| {
                d.change == Change::Closed && matches!(d.reason, Reason::InputDefault)
            });
            let told = import.lines.iter().any(|line| !line.fate.is_whole() || line.words.contains("closed"));
            prop_assert!(!closed || told, "{}\n{}", text, import);
        }
    }
}
