//! The reader of iptables lines beside iptables itself: it claims to understand no line that
//! iptables refuses, and means by the file's words what it means by the words of iptables-save.
//!
//! `PEERWALL_SEED` sets the seed of the recombined lines, `PEERWALL_LINES` their number.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod words {
    pub(crate) mod lines;
    pub(crate) mod parts;
    pub(crate) mod plain;
}

use std::fmt::Write as _;
use std::fs;

use peerwall_core::import::rule::{ImportedRule, ImportedRules};
use peerwall_core::import::{File, rules};
use peerwall_core::net::addr::Family;
use peerwall_integration::ns::{Host, world};
use words::plain::{is_unknown, plain};

/// A line to try: family, table and rule.
type Line = (Family, &'static str, String);

/// What one iptables made of a line: `None` if it refused it.
type Answer = Option<String>;

const FLAVOURS: [&str; 2] = ["legacy", "nft"];

/// Loads each line alone into an empty table, and prints what is there then.
const LOOP: &str = r#"
while IFS='|' read -r six table rule; do
  for flavour in legacy nft; do
    echo "@"
    if printf '*%s\n:own - [0:0]\n%s\nCOMMIT\n' "$table" "$rule" |
      "ip${six}tables-$flavour-restore" >/dev/null 2>&1
    then
      echo "+"
      "ip${six}tables-$flavour-save" -t "$table" | grep '^-A' || true
    fi
    "ip${six}tables-$flavour" -t "$table" -F && "ip${six}tables-$flavour" -t "$table" -X
  done
done
"#;

fn ask(host: &Host, lines: &[Line]) -> Vec<[Answer; 2]> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let mut text = String::new();
    for (family, table, rule) in lines {
        let six = if *family == Family::V6 { "6" } else { "" };
        writeln!(text, "{six}|{table}|{rule}").unwrap();
    }
    fs::write(&path, text).unwrap();
    let script = folder.path().join("loop.sh");
    fs::write(&script, LOOP).unwrap();
    let output = host.sh(&format!("sh {} <{}", script.display(), path.display()));
    let mut answers = output.split("@\n").skip(1).map(|part| {
        let lines = part.strip_prefix("+\n")?;
        Some(lines.to_owned())
    });
    let mut both = || [answers.next().unwrap(), answers.next().unwrap()];
    lines.iter().map(|_| both()).collect()
}

/// Reads lines of one table.
fn read(family: Family, table: &str, lines: &str) -> ImportedRules {
    let text = format!("*{table}\n:own - [0:0]\n{lines}\nCOMMIT\n");
    let file = File {
        name: "rules".into(),
        text,
        family: Some(family),
    };
    rules(&[file]).unwrap().remove(0)
}

fn rules_of(family: Family, table: &str, lines: &str) -> Vec<ImportedRule> {
    let read = read(family, table, lines);
    let chains = if table == "nat" {
        read.nat
    } else {
        read.filter
    };
    let rules = chains.into_values().flat_map(|chain| chain.rules);
    rules.flat_map(plain).collect()
}

/// Compares one line; returns what is wrong.
fn wrong(line: &Line, answers: &[Answer; 2]) -> Option<String> {
    let (family, table, rule) = line;
    let ours = rules_of(*family, table, rule);
    let is_claimed = ours.iter().any(|rule| !is_unknown(rule));
    if !is_claimed {
        return None;
    }
    if answers.iter().all(Option::is_none) {
        return Some(format!("refused by iptables, but read as {ours:?}"));
    }
    for (flavour, answer) in FLAVOURS.iter().zip(answers) {
        let Some(saved) = answer else {
            continue;
        };
        let theirs = rules_of(*family, table, saved);
        if ours != theirs {
            return Some(format!(
                "{flavour} prints\n{saved}  as {theirs:?}\n  not {ours:?}"
            ));
        }
    }
    None
}

fn check(host: &Host, lines: &[Line]) -> usize {
    let answers = ask(host, lines);
    let mut accepted = 0;
    let mut errors = String::new();
    for (line, answers) in lines.iter().zip(&answers) {
        accepted += usize::from(answers.iter().any(Option::is_some));
        if let Some(why) = wrong(line, answers) {
            writeln!(errors, "{}\n  {why}", line.2).unwrap();
        }
    }
    assert!(errors.is_empty(), "{errors}");
    accepted
}

#[test]
fn lines_mean_what_iptables_makes_of_them() {
    world(|| {
        let host = Host::new("words");
        host.sh("ipset create known hash:ip");
        let lines = words::lines::all();
        let accepted = check(&host, &lines);
        println!("{accepted} of {} lines accepted by iptables", lines.len());
        assert!(
            lines.len() >= 200 && accepted >= 100,
            "{accepted} of {}",
            lines.len()
        );
        // What a reader of canonical words must understand.
        let unread: Vec<&str> = words::lines::UNDERSTOOD
            .iter()
            .filter(|rule| rules_of(Family::V4, "filter", rule).iter().any(is_unknown))
            .copied()
            .collect();
        assert_eq!(unread, [""; 0]);
    });
}

#[test]
fn recombined_words_mean_what_iptables_makes_of_them() {
    world(|| {
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |text| text.parse().unwrap())
        };
        let seed = number("PEERWALL_SEED", 1);
        let count = usize::try_from(number("PEERWALL_LINES", 500)).unwrap();
        println!("PEERWALL_SEED={seed}");
        let host = Host::new("words");
        host.sh("ipset create known hash:ip");
        let lines = words::parts::lines(seed, count);
        let accepted = check(&host, &lines);
        println!("{accepted} of {count} lines accepted by iptables");
        assert!(accepted > count / 10, "{accepted}");
    });
}

/// The names that `iptables -p icmp -h` prints.
#[test]
fn every_icmp_name_of_iptables_is_known() {
    world(|| {
        let host = Host::new("words");
        for (family, command, option) in [
            (Family::V4, "iptables -p icmp -h", "-p icmp --icmp-type"),
            (
                Family::V6,
                "ip6tables -p icmpv6 -h",
                "-p icmpv6 --icmpv6-type",
            ),
        ] {
            let help = host.sh(command);
            let names = help.split_once("Valid ICMP").unwrap().1.lines().skip(1);
            let names = names.flat_map(|line| line.split([' ', '(', ')']));
            let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
            assert!(names.len() > 25, "{names:?}");
            let lines = names.iter().map(|name| {
                (
                    family,
                    "filter",
                    format!("-A INPUT {option} {name} -j ACCEPT"),
                )
            });
            let lines: Vec<Line> = lines.collect();
            assert_eq!(check(&host, &lines), lines.len());
            for (_, table, rule) in lines {
                assert!(
                    !rules_of(family, table, &rule).iter().any(is_unknown),
                    "{rule}"
                );
            }
        }
    });
}
