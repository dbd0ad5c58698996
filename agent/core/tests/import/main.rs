//! The import, on files in the styles of many programs and people: `integration/fixtures/import`.
//!
//! Each folder has the files of one host, the policy that comes of them (`policy.toml`), and the
//! account of it (`report.txt`). `PEERWALL_BLESS=1` rewrites both.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]
#![expect(clippy::disallowed_methods, reason = "fixtures are files")]

mod formats;
mod icmp;
mod judged;
mod marks;
mod maybe_redirected;
mod nft;
mod random;
mod ranges;
mod reading;
mod reasons;
mod refused;
mod scripts;
mod told;
mod wrong;

use std::fs;
use std::path::{Path, PathBuf};

use peerwall_core::import::{Direction, Facts, Fate, File, Import, import};
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

/// What makes a policy wider than the rules is a promise of the policy: replies, the core, peers
/// through the host, overlays on their interfaces. An allow that accepts what no line did is told
/// at a line that is not converted, or not wholly.
pub(crate) fn untold(import: &Import) -> Option<&str> {
    let widens = import.differences.iter().find(|difference| {
        let is_told = difference.lines.iter().any(|at| {
            let mut of = import.lines.iter().filter(|line| line.line == at.line);
            of.any(|line| !line.fate.is_whole())
        });
        let is_said = import
            .lines
            .iter()
            .any(|line| line.words.contains("it also accepts"));
        difference.change == Direction::New
            && matches!(difference.reason, Reason::Allow(_) | Reason::Ping)
            && !is_told
            && !is_said
    });
    widens.map(|difference| difference.sentence.as_str())
}

#[test]
fn no_allow_is_wider_than_the_rules_unless_a_line_says_so() {
    for (name, folder) in cases() {
        let import = import(&files(&folder), &Facts::default()).unwrap();
        assert_eq!(untold(&import), None, "{name}");
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
            "{name}: every line is converted, so --strict succeeds"
        );
        let report = import.to_string();
        for wanted in [
            "new: replies to pods' own connections pass FORWARD (IPv4)",
            "closed: 10.244.0.0/16 on eth0: pods' addresses are accepted only on the overlay's interfaces",
            "IPv6 between the machines is blocked",
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
        without.policy.contains("[peers]") && without.policy.contains("to    = \"192.0.2.1\""),
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
    assert!(!with.policy.contains("to "), "{}", with.policy);
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

fn of_v4(text: &str) -> Import {
    imported(Family::V4, text, &Facts::default())
}

fn imported(family: Family, text: &str, facts: &Facts) -> Import {
    let file = File {
        name: "rules".into(),
        text: text.into(),
        family: Some(family),
    };
    import(&[file], facts).unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
}

#[test]
fn what_only_the_exact_comparison_sees_is_told() {
    let rules = |lines: &str| format!("*filter\n:INPUT DROP\n:FORWARD DROP\n{lines}COMMIT\n");
    let nat = |lines: &str| format!("*nat\n:PREROUTING ACCEPT\n{lines}COMMIT\n");
    let dnat =
        nat("-A PREROUTING -d 198.51.100.1 -p tcp --dport 443 -j DNAT --to-destination 10.7.0.5\n");
    for (name, text, policy, report) in [
        (
            "a TTL is in no policy",
            rules("-A INPUT -p tcp --dport 179 -m ttl --ttl-eq 255 -j ACCEPT\n"),
            "version = 1\n",
            "a policy cannot match the TTL",
        ),
        (
            "an allow does not look at flags",
            rules("-A INPUT -p tcp --syn --dport 25 -j ACCEPT\n"),
            "ports = [\"25/tcp\"]",
            "it also accepts 25/tcp without SYN",
        ),
        (
            "invalid packets cost no peer",
            rules(
                "-A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -s 192.0.2.7 -j ACCEPT\n",
            ),
            "[peers]",
            "dropped, except from [peers]",
        ),
        (
            "source ports are named",
            rules("-A INPUT -p udp --sport 123 -j ACCEPT\n"),
            "from_ports = [\"123/udp\"]",
            "[[allow]] udp",
        ),
        (
            "a rate on a return decides",
            rules(
                ":a -\n-A INPUT -j a\n-A a -m limit --limit 5/sec -j RETURN\n-A a -j DROP\n\
                 -A INPUT -p tcp --dport 22 -j ACCEPT\n",
            ),
            "ports = [\"22/tcp\"]",
            "treats packets as if it were not exceeded",
        ),
        (
            "an address that DNAT names is this host's",
            dnat + &rules("-A FORWARD -d 10.7.0.5 -p tcp --dport 443 -j ACCEPT\n"),
            "to    = \"198.51.100.1\"",
            "[[allow]] https opens its port",
        ),
        (
            "a private network beside public peers is no pod network",
            rules("-A INPUT -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -s 203.0.113.7 -j ACCEPT\n"),
            "\"10.0.0.0/8\"",
            "are these machines, or pods?",
        ),
    ] {
        let import = of_v4(&text);
        assert!(import.policy.contains(policy), "{name}: {}", import.policy);
        let said = import.to_string();
        assert!(said.contains(report), "{name}: {said}");
        assert!(!said.contains("for 198.51.100.1 from"), "{name}: {said}");
    }
}

#[test]
fn an_interface_has_one_role() {
    let import = of_v4(
        "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n\
         *filter\n:INPUT DROP\n:FORWARD ACCEPT\n-A FORWARD -s 172.17.0.0/16 -i docker0 -j ACCEPT\n\
         -A INPUT -s 10.244.0.0/16 -i docker0 -j ACCEPT\nCOMMIT\n",
    );
    assert!(
        import.policy.contains("guests = [\"docker0\"]") != import.policy.contains("[overlay."),
        "{}",
        import.policy
    );
}

#[test]
fn a_redirected_port_is_as_closed_as_the_rules_on_every_interface() {
    let import = of_v4(
        "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n\
         -A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 80\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n\
         *filter\n:INPUT DROP\n:FORWARD ACCEPT\n-A INPUT ! -i docker0 -j ACCEPT\nCOMMIT\n",
    );
    let opened = import
        .differences
        .iter()
        .find(|each| each.sentence.contains("81/tcp from"));
    let opened = opened.filter(|each| each.change == Direction::New);
    assert_eq!(opened, None, "{}", import.policy);
}
