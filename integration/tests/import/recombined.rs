//! Files of recombined lines of real files: matches of one line, target of another, in a few
//! chains. The same packets go through the rules in one namespace, and through the imported policy
//! in another.

use std::collections::BTreeSet;
use std::net::IpAddr;

use peerwall_core::import::eval::Probe;
use peerwall_core::import::{File, probes, rules};
use peerwall_core::net::addr::Family;
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::imported::{Imported, accepts, is_decided, sent};
use peerwall_integration::ns::world;
use peerwall_integration::random::Random;
use peerwall_integration::story::Flavour;
use peerwall_integration::target::Target;

use super::{folders, input, sample};

/// Words with which packets depend on each other, or on what is not loaded.
const NOT: [&str; 9] = [
    "limit",
    "recent",
    "quota",
    "statistic",
    "-m set",
    "time",
    "owner",
    "RATEEST",
    "cgroup",
];

/// The matches and the targets of all lines of the fixtures.
struct Parts {
    matches: BTreeSet<String>,
    targets: BTreeSet<String>,
}

fn parts(name: &str) -> Parts {
    let (mut matches, mut targets) = (BTreeSet::new(), BTreeSet::new());
    for folder in folders() {
        let Some(file) = input(&folder, name) else {
            continue;
        };
        let filter = super::filter_table(&file.text);
        for line in filter.lines().filter_map(|line| line.strip_prefix("-A ")) {
            let rule = line.split_once(' ').map_or("", |(_, rule)| rule);
            let (matched, target) = match rule.rsplit_once("-j ") {
                Some((matched, target)) => (matched.trim(), format!("-j {target}")),
                None => continue,
            };
            if NOT.iter().any(|word| rule.contains(word)) {
                continue;
            }
            matches.insert(matched.to_owned());
            targets.insert(target);
        }
    }
    Parts { matches, targets }
}

/// Chains, each of which leads only to later ones.
const CHAINS: [&str; 4] = ["INPUT", "FORWARD", "one", "two"];
const LINES: usize = 16;

/// The lines of a file, without its declarations.
fn recombined(random: &mut Random, parts: &Parts) -> Vec<String> {
    let matches: Vec<&str> = parts.matches.iter().map(String::as_str).collect();
    let is_plain = |target: &&String| {
        ["ACCEPT", "DROP", "REJECT", "RETURN", "LOG", "NFLOG", "MARK"]
            .iter()
            .any(|name| target.starts_with(&format!("-j {name}")))
    };
    let targets: Vec<&str> = parts
        .targets
        .iter()
        .filter(is_plain)
        .map(String::as_str)
        .collect();
    let mut lines = Vec::new();
    for _ in 0..LINES {
        let chain = random.of(&["INPUT", "INPUT", "INPUT", "FORWARD", "one", "two"]);
        let target = match (random.below(6), chain) {
            (0, "INPUT" | "FORWARD") => random.of(&["-j one", "-g one", "-j two"]),
            (0, "one") => "-j two",
            (1, _) => random.of(&targets),
            (2, _) => random.of(&["-j DROP", "-j REJECT", "-j RETURN"]),
            _ => "-j ACCEPT",
        };
        let both = random.below(5) == 0;
        let mut matched = random.of(&matches).to_owned();
        if both {
            matched = format!("{matched} {}", random.of(&matches));
        }
        lines.push(format!("-A {chain} {matched} {target}"));
    }
    lines
}

fn text(random: &mut Random, lines: &[String]) -> String {
    let policies = [0, 1].map(|_| random.of(&["DROP", "DROP", "DROP", "ACCEPT"]));
    let mut text = String::from("*filter\n");
    for (chain, policy) in CHAINS.iter().zip([policies[0], policies[1], "-", "-"]) {
        text += &format!(":{chain} {policy} [0:0]\n");
    }
    text += &lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    text + "COMMIT\n"
}

/// Removes the lines that this iptables refuses, one at a time.
fn loaded(target: &Target, tool: &str, random: &mut Random, mut lines: Vec<String>) -> String {
    let state = random.clone();
    loop {
        *random = state.clone();
        let text = text(random, &lines);
        let output = target
            .host()
            .try_sh(&format!("{tool}-restore <<'END'\n{text}END"));
        if output.status.success() {
            return text;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let number = said.split(['l', 'L']).find_map(|part| {
            let rest = part.strip_prefix("ine ")?;
            let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
            digits
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse::<usize>()
                .ok()
        });
        // The declarations and the table's own line come first.
        match number.and_then(|number| number.checked_sub(CHAINS.len() + 2)) {
            Some(index) if index < lines.len() => drop(lines.remove(index)),
            _ => assert!(lines.pop().is_some(), "{said}"),
        }
    }
}

/// Tries one file. Returns the numbers of its lines, and of packets accepted and refused.
fn try_one(
    pair: (&mut Target, &mut Target),
    flavour: Flavour,
    parts: &[Parts; 2],
    seed: u64,
) -> [usize; 3] {
    let (target, other) = pair;
    let mut random = Random::new(seed);
    let (family, six) = match random.below(4) {
        0 => (Family::V6, "6"),
        _ => (Family::V4, ""),
    };
    let tool = format!("ip{six}tables-{}", flavour.suffix());
    let parts = &parts[usize::from(family == Family::V6)];
    let lines = recombined(&mut random, parts);
    let text = loaded(target, &tool, &mut random, lines);
    let file = File {
        name: "rules".into(),
        text: text.clone(),
        family: Some(family),
    };
    let at = format!("seed {seed} {flavour:?}\n{text}");
    let rules = rules(std::slice::from_ref(&file)).unwrap().remove(0);
    let host = [HOST_V4, HOST_V6].map(|address| address.parse::<IpAddr>().unwrap().into());
    let is_decided = is_decided(&rules);
    let mut all = probes(&rules, &host);
    let start = random.below(all.len().max(1));
    all.rotate_left(start);
    all.retain(|probe| is_decided(probe));
    let (accepted, refused): (Vec<Probe>, Vec<Probe>) =
        all.into_iter().partition(|probe| accepts(&rules, probe));
    let counts = [
        text.lines().count() - CHAINS.len() - 2,
        accepted.len().min(6),
        refused.len().min(6),
    ];
    let mut tried = sample(accepted, 6);
    tried.extend(sample(refused, 6));
    for probe in &tried {
        let wanted = accepts(&rules, probe);
        let got = target.passes(&sent(probe), wanted);
        assert_eq!(got, wanted, "{at}: {probe:?}");
    }
    let imported = Imported::load(other, &at, file);
    imported.try_packets(other, &rules, &tried);
    counts
}

fn try_all(flavour: Flavour, first: u64, count: u64) -> [usize; 3] {
    let parts = ["v4.rules", "v6.rules"].map(parts);
    let mut target = Target::named(flavour.suffix());
    let mut other = Target::named(&format!("{}-policy", flavour.suffix()));
    let mut sum = [0; 3];
    for seed in first..first + count {
        let found = try_one((&mut target, &mut other), flavour, &parts, seed);
        for (all, one) in sum.iter_mut().zip(found) {
            *all += one;
        }
        for six in ["", "6"] {
            target.host().sh(&format!(
                "ip{six}tables-{}-restore <<'END'\n*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\nEND",
                flavour.suffix()
            ));
        }
    }
    sum
}

#[test]
fn recombined_lines_and_their_policies_do_on_kernels_what_was_compared() {
    world(|| {
        let number = |name: &str, other| std::env::var(name).map_or(other, |n| n.parse().unwrap());
        let (first, count) = (number("PEERWALL_SEED", 1), number("PEERWALL_FILES", 6));
        let sums: Vec<[usize; 3]> = std::thread::scope(|scope| {
            let both = [Flavour::Legacy, Flavour::Nft]
                .map(|flavour| scope.spawn(move || try_all(flavour, first, count)));
            let sums = both.into_iter().map(|handle| handle.join().unwrap());
            sums.collect()
        });
        for [lines, accepted, refused] in sums {
            println!("lines: {lines}, packets accepted: {accepted}, refused: {refused}");
            assert!(accepted > 0 && refused > 0 && lines > 0);
        }
    });
}
