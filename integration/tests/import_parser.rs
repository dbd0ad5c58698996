//! iptables as the reader of the files to import: its words decide, the report speaks of the
//! file's lines, and nothing outside of its namespace changes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod words {
    pub(crate) mod lines;
    pub(crate) mod plain;
}

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use peerwall::import::iptables;
use peerwall_core::import::rule::{At, ImportedRule, ImportedRules};
use peerwall_core::import::{File, rules, rules_read};
use peerwall_core::net::addr::Family;
use peerwall_integration::ns::{Host, peerwall_bin, sh, world};
use words::plain::{is_unknown, plain};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/import");

/// A line to try: family, table and rule.
type Line = (Family, &'static str, String);

/// Rules of each line, by family, table, chain and place.
type ByLine<'r> = BTreeMap<(Family, &'r str, &'r str, At), Vec<ImportedRule>>;

fn by_line(all: &[ImportedRules]) -> ByLine<'_> {
    let mut found = ByLine::new();
    for rules in all {
        for (table, chains) in [("filter", &rules.filter), ("nat", &rules.nat)] {
            for (name, chain) in chains {
                for rule in &chain.rules {
                    let key = (rules.family, table, name.as_str(), rule.at);
                    let plain = plain(rule.clone());
                    found.entry(key).or_default().extend(plain);
                }
            }
        }
    }
    found
}

/// Compares both readers; returns the number of lines that iptables read.
fn compare(name: &str, files: &[File]) -> usize {
    let Some(read) = iptables::read(files) else {
        return 0;
    };
    println!("{name}: {}", read.by);
    assert!(read.by.contains("tables-restore v"), "{name}: {}", read.by);
    let ours = rules(files).unwrap();
    let theirs = rules_read(files, &read.readings).unwrap();
    let (ours, theirs) = (by_line(&ours), by_line(&theirs));
    let lines = |all: &ByLine<'_>| format!("{:?}", all.keys().collect::<Vec<_>>());
    assert_eq!(lines(&ours), lines(&theirs), "{name}");
    for (place, ours) in &ours {
        // iptables may know more words.
        if !ours.iter().all(is_unknown) {
            assert_eq!(&theirs[place], ours, "{name}: {place:?}");
        }
    }
    read.readings.len()
}

fn files(folder: &Path) -> Vec<File> {
    let names = [
        "v4.rules",
        "v6.rules",
        "firewall.sh",
        "user_data.yaml",
        "sets.ipset",
    ];
    let read = |name: &&str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        let family = match *name {
            "v4.rules" => Some(Family::V4),
            "v6.rules" => Some(Family::V6),
            _ => None,
        };
        let name = (*name).to_owned();
        Some(File { name, text, family })
    };
    names.iter().filter_map(read).collect()
}

#[test]
fn both_readers_agree_on_every_line_of_the_corpus() {
    world(|| {
        let mut folders: Vec<_> = fs::read_dir(FIXTURES).unwrap().collect();
        folders.sort_by_key(|entry| entry.as_ref().unwrap().path());
        let mut count = [0, 0];
        let folders: Vec<_> = folders
            .into_iter()
            .map(|entry| entry.unwrap().path())
            .collect();
        for (variant, count) in count.iter_mut().enumerate() {
            if variant == 1 {
                hide("iptables-nft-restore");
            }
            for folder in &folders {
                *count += compare(&folder.display().to_string(), &files(folder));
            }
        }
        println!("{count:?} lines read by iptables-nft and iptables-legacy");
        assert!(count.iter().all(|count| *count > 500), "{count:?}");
    });
}

#[test]
fn both_readers_agree_on_lines_of_all_kinds() {
    world(|| {
        let mut tables: BTreeMap<(Family, &str), String> = BTreeMap::new();
        let of_host = |rule: &&str| (Family::V4, "filter", (*rule).to_owned());
        let lines: Vec<Line> = words::lines::all();
        let more = words::lines::UNDERSTOOD.iter().map(of_host);
        for (family, table, rule) in lines.into_iter().chain(more) {
            let text = tables.entry((family, table)).or_default();
            text.push_str(&rule);
            text.push('\n');
        }
        let mut count = 0;
        for ((family, table), lines) in tables {
            let file = File {
                name: "rules".into(),
                text: format!("*{table}\n:own - [0:0]\n{lines}COMMIT\n"),
                family: Some(family),
            };
            count += compare(&format!("{family:?} {table}"), &[file]);
        }
        assert!(count > 200, "{count}");
    });
}

/// Files and programs of a host.
struct Files {
    host: Host,
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let (host, folder) = (Host::new("host"), tempfile::tempdir().unwrap());
        fs::copy(peerwall_bin(), folder.path().join("peerwall")).unwrap();
        let files = Self { host, folder };
        files
            .host
            .sh(&format!("chmod -R a+rX {}", files.folder.path().display()));
        files
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        self.host.sh(&format!("chmod a+rx {}", path.display()));
    }

    /// Runs `peerwall import`; returns the policy and the report.
    fn import(&self, before: &str, arguments: &str) -> (String, String) {
        let folder = self.folder.path().display();
        let output = self
            .host
            .try_sh(&format!("cd {folder} && {before} ./peerwall {arguments}"));
        assert!(output.status.success(), "{arguments}: {output:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }
}

/// Hides a program in the world's mount namespace.
fn hide(program: &str) {
    sh(&format!(
        "touch /run/nothing && mount --bind /run/nothing $(readlink -f $(command -v {program}))"
    ));
}

/// A table filter with these lines after `-P INPUT DROP`.
fn table(lines: &str) -> String {
    format!("*filter\n:INPUT DROP\n:FORWARD DROP\n{lines}\nCOMMIT\n")
}

/// Returns what the report says of a line.
fn fate<'r>(report: &'r str, line: &str) -> &'r str {
    let mut lines = report
        .lines()
        .skip_while(|each| !each.ends_with(line))
        .skip(1);
    lines
        .next()
        .unwrap_or_else(|| panic!("{line} is not in\n{report}"))
}

/// A service that only this host knows.
const SERVICE: &str = "frobnication 4711/tcp\n";

#[test]
fn names_of_this_host_are_those_of_the_policy() {
    world(|| {
        let files = Files::new();
        files.write("services", &format!("ssh 22/tcp\n{SERVICE}"));
        files.write(
            "rules.v4",
            &table(
                "-A INPUT -p tcp -m state --state NEW -m multiport --dports ssh,frobnication -j ACCEPT\n\
                 -A INPUT -s 192.0.2.7,192.0.2.9 -p udp --dpor 53 --jump ACCEPT\n\
                 -A INPUT -p udp --dport 99 -j CT --notrack\n\
                 -A INPUT -p udp --dport 98 --nothing -j ACCEPT\n\
                 -A INPUT -s nowhere.example -j ACCEPT\n\
                 -A INPUT -m set --match-set absent src -j ACCEPT",
            ),
        );
        let path = files.folder.path().join("services");
        files
            .host
            .sh(&format!("mount --bind {} /etc/services", path.display()));
        let before = files
            .host
            .sh("nft list ruleset; ip -o link | cut -d: -f2; ipset list -n");
        let (policy, report) = files.import("", "import --v4 rules.v4");
        for want in [
            "\"22/tcp\", \"4711/tcp\"",
            "\"53/udp\"",
            "[\"192.0.2.7\", \"192.0.2.9\"]",
        ] {
            assert!(policy.contains(want), "{want}\n{policy}");
        }
        assert!(report.starts_with("read by iptables-restore v"), "{report}");
        assert!(
            report.contains("; 2 lines that it cannot load here by peerwall\n"),
            "{report}"
        );
        for (line, want) in [
            (
                "-m multiport --dports ssh,frobnication -j ACCEPT",
                "converted  ",
            ),
            (
                "-A INPUT -p udp --dport 99 -j CT --notrack",
                "not converted",
            ),
            (
                "-A INPUT -p udp --dport 98 --nothing -j ACCEPT",
                "`--nothing` is not an option",
            ),
            (
                "-A INPUT -s nowhere.example -j ACCEPT",
                "host names are not looked up",
            ),
            (
                "-A INPUT -m set --match-set absent src -j ACCEPT",
                "not converted",
            ),
        ] {
            assert!(
                fate(&report, line).contains(want),
                "{line}: {want}\n{report}"
            );
        }
        let after = files
            .host
            .sh("nft list ruleset; ip -o link | cut -d: -f2; ipset list -n");
        assert_eq!(before, after);
        let (json, _) = files.import("", "import --json --v4 rules.v4");
        assert!(json.contains("\"read_by\""), "{json}");
    });
}

#[test]
fn both_families_are_read_by_their_programs() {
    world(|| {
        let files = Files::new();
        files.write("services", &format!("ssh 22/tcp\n{SERVICE}domain 53/udp\n"));
        let path = files.folder.path().join("services");
        files
            .host
            .sh(&format!("mount --bind {} /etc/services", path.display()));
        files.write(
            "firewall.sh",
            "#!/bin/sh\niptables -P INPUT DROP; ip6tables -P INPUT DROP\n\
             iptables -A INPUT -s 192.0.2.1 -p tcp --dport frobnication -j ACCEPT; \
             ip6tables -A INPUT -s 2001:db8::1 -p tcp --dport frobnication -j ACCEPT\n",
        );
        files.write(
            "rules",
            &table(
                "-4 -A INPUT -s 192.0.2.1 -p tcp --dport frobnication -j ACCEPT\n\
                 -6 -A INPUT -s 2001:db8::1 -p tcp --dport frobnication -j ACCEPT",
            ),
        );
        for name in ["firewall.sh", "rules"] {
            let (policy, report) = files.import("", &format!("import {name}"));
            let head = report.lines().next().unwrap();
            assert!(
                head.contains("tables-restore v") && !head.contains("peerwall"),
                "{report}"
            );
            assert!(
                policy.contains("\"4711/tcp\""),
                "{name}: {policy}\n{report}"
            );
            let from = "from  = [\"192.0.2.1\", \"2001:db8::1\"]";
            assert!(policy.contains(from), "{name}: {policy}\n{report}");
        }
    });
}

#[test]
fn without_iptables_peerwall_reads_the_lines() {
    world(|| {
        let files = Files::new();
        files.write("rules.v4", &table("-A INPUT -p tcp --dport ssh -j ACCEPT"));
        let (with, report) = files.import("", "import --v4 rules.v4");
        assert!(report.starts_with("read by iptables-restore v"), "{report}");
        fs::create_dir(files.folder.path().join("empty")).unwrap();
        let folder = files.folder.path().display();
        let elsewhere = format!("--iptables {folder}/empty import --v4 rules.v4");
        hide("iptables-nft-restore");
        // The other variant is still there.
        let (_, report) = files.import("", "import --v4 rules.v4");
        assert!(report.starts_with("read by iptables-restore v"), "{report}");
        hide("iptables-legacy-restore");
        for arguments in ["import --v4 rules.v4", &elsewhere] {
            let (policy, report) = files.import("", arguments);
            let head = report.lines().next().unwrap();
            assert_eq!(
                head, "read by peerwall: iptables-restore is not installed",
                "{arguments}"
            );
            assert_eq!(policy, with, "{arguments}");
        }
    });
}

/// The 3,000 lines that iptables-save could print are read by a few of them, the others one by one.
#[test]
fn some_of_many_similar_lines_are_read() {
    world(|| {
        let files = Files::new();
        let saved = |n: u32| {
            let (high, low) = (n / 250, n % 250);
            format!(
                "-A INPUT -s 10.1.{high}.{low}/32 -p tcp -m tcp --dport {} -j ACCEPT",
                n + 1
            )
        };
        let short = |n: u32| format!("-A INPUT -s 10.2.0.{n} -p tcp --dport ssh -j ACCEPT");
        let mut lines: Vec<String> = (0..3000).map(saved).collect();
        lines.extend((0..20).map(short));
        lines.push("-A INPUT -s 10.3.0.1/32 -p tcp -m tcp --dport 70000 -j ACCEPT".into());
        files.write("rules.v4", &table(&lines.join("\n")));
        let (with, report) = files.import("", "import --v4 rules.v4");
        let head = report.lines().next().unwrap();
        assert!(head.starts_with("read by iptables-restore v"), "{head}");
        assert!(
            head.ends_with(" lines for 3021 that differ only in addresses, ports and names"),
            "{head}"
        );
        assert!(report.contains("`70000` is not a port"), "{report}");
        hide("iptables-nft-restore");
        hide("iptables-legacy-restore");
        let (without, report) = files.import("", "import --v4 rules.v4");
        assert!(report.starts_with("read by peerwall: "), "{report}");
        assert_eq!(with, without);
    });
}

#[test]
fn an_ordinary_user_gets_the_same_result() {
    world(|| {
        let files = Files::new();
        let user = "setpriv --reuid 65534 --regid 65534 --clear-groups";
        // A user namespace has no other user.
        if !files.host.try_sh(&format!("{user} true")).status.success() {
            return;
        }
        files.write("rules.v4", &table("-A INPUT -p tcp --dpor ssh -j ACCEPT"));
        let arguments = "import --v4 rules.v4";
        let theirs = files.import(user, arguments);
        assert!(
            theirs.1.starts_with("read by iptables-restore v"),
            "{}",
            theirs.1
        );
        assert_eq!(theirs, files.import("", arguments));
        // iptables-legacy locks a file of root.
        hide("iptables-nft-restore");
        let theirs = files.import(user, arguments);
        assert!(
            theirs.1.starts_with("read by iptables-restore v"),
            "{}",
            theirs.1
        );
    });
}

/// Programs that reject what peerwall and iptables understand, and that fail without a line.
#[test]
fn a_line_that_iptables_rejects_accepts_nothing() {
    world(|| {
        let files = Files::new();
        files.write(
            "rules.v4",
            &table("-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp --dport 80 -j ACCEPT"),
        );
        fs::create_dir(files.folder.path().join("bin")).unwrap();
        let folder = files.folder.path().display().to_string();
        let real = files
            .host
            .sh("command -v iptables-nft-restore; command -v iptables-nft-save");
        let (restore, save) = real.trim().split_once('\n').unwrap();
        let arguments = format!("--iptables {folder}/bin import --v4 rules.v4");
        files.write(
            "bin/iptables-save",
            &format!("#!/bin/sh\nexec {save} \"$@\"\n"),
        );
        for (name, fails, head, want, closed) in [
            (
                "words",
                "awk '/dport 22/ {print \"iptables-restore v1: unknown option \\\"x\\\"\\nError \
                 occurred at line: \" NR}'",
                "read by iptables-nft-restore v",
                "iptables refuses this line: unknown option \"x\"",
                true,
            ),
            (
                "the kernel",
                "awk '/dport 22/ {print \"line \" NR \": RULE_APPEND failed (No such file)\"}'",
                "; 1 line that it cannot load here by peerwall",
                "converted",
                false,
            ),
            (
                "no line",
                "awk '/dport 22/ {print \"iptables-restore: line 9 failed\"}'",
                "; 1 line that it cannot load here by peerwall",
                "converted",
                false,
            ),
        ] {
            let script = format!(
                "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
                 [ \"$1\" != --version ] || exec {restore} --version\n\
                 cat >/run/input.$$\nsaid=$({fails} /run/input.$$)\n\
                 [ -z \"$said\" ] || {{ echo \"$said\" >&2; exit 1; }}\n\
                 exec {restore} \"$@\" </run/input.$$\n"
            );
            files.write("bin/iptables-restore", &script);
            let (policy, report) = files.import("", &arguments);
            assert!(
                report.lines().next().unwrap().contains(head),
                "{name}: {report}"
            );
            let line = fate(&report, "-A INPUT -p tcp --dport 22 -j ACCEPT");
            assert!(line.contains(want), "{name}: {report}");
            assert_eq!(!policy.contains("22/tcp"), closed, "{name}: {policy}");
            assert!(policy.contains("80/tcp"), "{name}: {policy}");
        }
    });
}
