//! An import, judged by packets of which neither the import nor its own judge has a model: special
//! addresses, flags, fragments, extension headers, frame types, broken headers.
//!
//! Files of a few lines are loaded by iptables-restore or nft in one host, and imported; its twin
//! applies the policy. What gets through one and not through the other must be in the report.
//!
//! `PEERWALL_FILES` sets the number of files, `PEERWALL_SEED` the first of their seeds,
//! `PEERWALL_PROBES` the packets for each, `PEERWALL_KEEP` a folder for the files that fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use peerwall::host::facts;
use peerwall::import::{iptables as reader, nft};
use peerwall_core::import::{Direction, Fate, File, Import, Line, Options, import_read};
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::Hook;
use peerwall_core::policy::reason::Reason;
use peerwall_integration::ns::world;
use peerwall_integration::random::Random;
use peerwall_integration::wild::named::Named;
use peerwall_integration::wild::packet::{Packet, packet};
use peerwall_integration::wild::rules::{self, Language};
use peerwall_integration::wild::twins::Twin;

/// How many packets of a file are tried alone, of those that one hook of one host accepts.
const AGAIN_MAX: usize = 8;

/// Both hosts.
struct Twins {
    rules: Twin,
    policy: Twin,
}

/// What became of the packets of a file.
#[derive(Debug, Default)]
struct Tally {
    /// Files that were loaded and imported.
    files: usize,
    /// Files with which `--strict` succeeds.
    whole: usize,
    /// Packets that only the policy accepts.
    wider: usize,
    /// Of those, the ones that a line drops which the policy lacks.
    left: usize,
    /// Packets that came to a host.
    came: usize,
    /// Of those, the ones that the rules accept.
    accepted: usize,
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn imported(twin: &Twin, language: Language, name: &str, text: &str) -> Result<Import, String> {
    let family = match language {
        Language::Iptables => Some(Family::V4),
        Language::Ip6tables => Some(Family::V6),
        Language::Nft => None,
    };
    let text = match language {
        Language::Nft => twin.host.run(|| nft::listing(name, text)),
        Language::Iptables | Language::Ip6tables => Ok(text.to_owned()),
    };
    let files = [File {
        name: name.to_owned(),
        text: text.map_err(|err| err.to_string())?,
        family,
    }];
    let (readings, facts) = twin
        .host
        .run(|| (reader::read(&files), facts::gather()));
    let readings = readings.map(|read| read.readings).unwrap_or_default();
    let options = Options {
        assume_accept: true,
    };
    import_read(&files, &facts, options, &readings).map_err(|err| format!("{err:?}"))
}

/// Loads rules without the lines that are not valid, or not known here, and returns what is loaded.
fn load(twin: &Twin, language: Language, flavour: &str, path: &Path, text: &str) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..8 {
        fs::write(path, &text).unwrap();
        let stderr = match try_load(twin, language, flavour, path) {
            Ok(()) => return Some(text),
            Err(stderr) => stderr,
        };
        // `FILE:12:3-9: Error: …`, `iptables-restore: line 12 failed`, `Error occurred at line: 12`.
        let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
        let shown = path.display().to_string();
        let places = match language {
            Language::Nft => stderr.split(&format!("{shown}:")).skip(1).map(number).collect(),
            Language::Iptables | Language::Ip6tables => {
                let words = stderr.split("line: ").skip(1).chain(stderr.split("line ").skip(1));
                words.map(number).collect::<Vec<_>>()
            }
        };
        let Some(bad) = places.iter().find_map(|text| text.parse::<usize>().ok()) else {
            println!("{stderr}");
            return None;
        };
        let lines = text.lines().enumerate().filter(|(index, _)| index + 1 != bad);
        text = lines.map(|(_, line)| format!("{line}\n")).collect();
    }
    None
}

fn try_load(twin: &Twin, language: Language, flavour: &str, path: &Path) -> Result<(), String> {
    let path = path.display();
    let command = match language {
        Language::Iptables => format!("iptables-{flavour}-restore <{path}"),
        Language::Ip6tables => format!("ip6tables-{flavour}-restore <{path}"),
        Language::Nft => format!("nft -f {path}"),
    };
    let output = twin.host.try_sh(&command);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The tables that stay beside a policy.
fn others(text: &str) -> String {
    let start = text.find("*filter").unwrap_or(text.len());
    text[..start].to_owned()
}

/// Reports whether the report says of packets at this hook that the policy changes what becomes of
/// them, for one of the reasons.
fn is_told(import: &Import, change: Direction, hook: Hook, reasons: &[Reason], line: Option<usize>) -> bool {
    import.differences.iter().any(|difference| {
        let is_reason = reasons.is_empty() || reasons.contains(&difference.reason);
        let is_line = line.is_none_or(|line| difference.lines.iter().any(|at| at.line == line));
        difference.change == change && difference.hook == hook && is_reason && is_line
    })
}

/// Whether a line that the policy lacks drops packets, so that it is wider, or accepts them, so that
/// it is narrower.
fn is_left(import: &Import, change: Direction) -> bool {
    let is_left = |line: &Line| match (line.fate, change) {
        (Fate::Left | Fate::Partly, Direction::Closed) => true,
        (Fate::Left, Direction::New) => !line.words.contains("accepts nothing"),
        _ => false,
    };
    import.lines.iter().any(is_left)
}

impl Twins {
    fn new(flavour: &str) -> Self {
        Self {
            rules: Twin::new(&format!("{flavour}-rules")),
            policy: Twin::new(&format!("{flavour}-policy")),
        }
    }

    /// Tries one file, and returns what is wrong.
    fn try_file(
        &mut self,
        (language, flavour): (Language, &str),
        text: &str,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Vec<String> {
        let count = number("PEERWALL_PROBES", 400);
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rules.{}", language.extension());
        let path = folder.path().join(&name);
        self.rules.empty();
        let Some(text) = load(&self.rules, language, flavour, &path, text) else {
            return Vec::new();
        };
        let text = text.as_str();
        let import = match imported(&self.rules, language, &name, text) {
            Ok(import) => import,
            Err(why) => {
                println!("not imported: {why}");
                return Vec::new();
            }
        };
        let named = Named::new(text);
        let mut names: Vec<String> = ["eth0", "eth1", "cni0", "flannel.1"].map(str::to_owned).into();
        names.extend(named.interfaces().iter().cloned());
        names.sort();
        names.dedup();
        for twin in [&mut self.rules, &mut self.policy] {
            names.iter().for_each(|name| twin.add_interface(name));
        }
        self.policy.empty();
        if language != Language::Nft {
            let before = folder.path().join("others");
            fs::write(&before, others(text)).unwrap();
            try_load(&self.policy, language, flavour, &before).unwrap();
        }
        let policy = folder.path().join("policy.toml");
        fs::write(&policy, &import.policy).unwrap();
        self.policy.host.peerwall_ok(&["apply", policy.to_str().unwrap()]);
        self.rules.watch();
        self.policy.watch();
        let packets: Vec<Packet> = (0..count)
            .map(|index| {
                let is_v6 = match language {
                    Language::Iptables => false,
                    Language::Ip6tables => true,
                    Language::Nft => index % 2 == 1,
                };
                packet(random, &named, names.len(), is_v6, 1 + u16::try_from(index).unwrap())
            })
            .collect();
        tally.files += 1;
        tally.whole += usize::from(import.is_whole() && !import.opens_more());
        let all: Vec<&Packet> = packets.iter().collect();
        let (by_rules, by_policy) = (self.rules.send(&names, &all), self.policy.send(&names, &all));
        let mut problems = Vec::new();
        let mut tries = BTreeMap::<(bool, bool), usize>::new();
        let mut seen = BTreeMap::<String, usize>::new();
        for packet in &packets {
            let number = packet.number;
            tally.came += usize::from(by_rules.came.contains(&number));
            tally.accepted += usize::from(by_rules.is_accepted(number));
            if by_rules.is_accepted(number) == by_policy.is_accepted(number) {
                continue;
            }
            let kind = (by_rules.is_accepted(number), by_rules.forward.contains(&number) || by_policy.forward.contains(&number));
            let tried = tries.entry(kind).or_default();
            *tried += 1;
            // Narrower is a nuisance; wider is a hole.
            if *tried > if kind.0 { AGAIN_MAX / 4 } else { AGAIN_MAX } {
                continue;
            }
            // Packets of a batch may be of one connection.
            let (by_rules, by_policy) = (self.rules.send(&names, &[packet]), self.policy.send(&names, &[packet]));
            let (change, accepting) = match (by_rules.is_accepted(number), by_policy.is_accepted(number)) {
                (false, true) => (Direction::New, by_policy),
                (true, false) => (Direction::Closed, by_rules),
                _ => continue,
            };
            let hook = match accepting.input.contains(&number) {
                true => Hook::Input,
                false => Hook::Forward,
            };
            // Linux forwards these only back to the link that they came from, whose hosts they
            // reach anyway.
            if hook == Hook::Forward && packet.is_from_link {
                continue;
            }
            let reasons = self.policy.reasons(&names, packet);
            let save = match language {
                Language::Nft => None,
                Language::Iptables => Some(format!("iptables-{flavour}-save")),
                Language::Ip6tables => Some(format!("ip6tables-{flavour}-save")),
            };
            let line = save.and_then(|save| self.rules.deciding_line(&names, packet, (&save, text)));
            if change == Direction::New {
                tally.wider += 1;
                if !is_told(&import, change, hook, &reasons, line) { tally.left += usize::from(is_left(&import, change)); }
            }
            let is_core = change == Direction::Closed && reasons == [Reason::LoopbackSpoof];
            let forgotten = if packet.is_v6 { "ipv6-forgotten" } else { "ipv4-forgotten" };
            let is_forgotten = import.lints.iter().any(|lint| lint.name == forgotten);
            if is_told(&import, change, hook, &reasons, line) || is_left(&import, change) || is_core || is_forgotten {
                continue;
            }
            let kind = format!("{change:?} {hook:?} {reasons:?} {line:?}");
            let times = seen.entry(kind.clone()).or_default();
            *times += 1;
            if *times <= 2 {
                problems.push(format!("{kind}: {} on {}", packet.words, names[packet.wire]));
            }
        }
        if !problems.is_empty() {
            problems.push(format!("{flavour} {name}\n{text}\n{}\n{import}", import.policy));
        }
        problems
    }
}

fn try_all(languages: &[(Language, &str)]) -> (Tally, Vec<String>) {
    let (files, first) = (number("PEERWALL_FILES", 20), number("PEERWALL_SEED", 1));
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let (_, flavour) = languages[0];
    let mut twins = Twins::new(flavour);
    for seed in first..first + files {
        let (language, flavour) = languages[seed % languages.len()];
        let mut random = Random::new(seed as u64 * 2 + u64::from(flavour == "legacy"));
        let text = rules::file(&mut random, language);
        let problems = twins.try_file((language, flavour), &text, &mut random, &mut tally);
        if problems.is_empty() {
            continue;
        }
        let problem = format!("== seed {seed} {}", problems.join("\n"));
        if let Ok(folder) = std::env::var("PEERWALL_KEEP") {
            fs::write(format!("{folder}/{flavour}-{seed}"), &problem).unwrap();
        }
        failures.push(problem);
    }
    (tally, failures)
}

#[test]
fn what_the_policy_changes_for_packets_of_any_kind_is_in_the_report() {
    world(|| {
        let both = std::thread::scope(|scope| {
            [
                vec![(Language::Nft, "nft"), (Language::Iptables, "nft"), (Language::Ip6tables, "nft")],
                vec![(Language::Iptables, "legacy"), (Language::Ip6tables, "legacy"), (Language::Nft, "nft")],
            ]
            .map(|languages| scope.spawn(move || try_all(&languages)))
            .map(|thread| thread.join().expect("the files can be tried"))
        });
        let mut failures = Vec::new();
        for (tally, wrong) in both {
            println!("{tally:?}");
            assert!(tally.accepted > 0 && tally.accepted < tally.came, "{tally:?}");
            failures.extend(wrong);
        }
        assert!(failures.is_empty(), "{} files\n{}", failures.len(), failures.join("\n\n"));
    });
}
