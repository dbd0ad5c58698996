//! An import, judged by packets of which neither the import nor its own judge has a model: special
//! addresses, flags, fragments, extension headers, frame types, broken headers.
//!
//! Files of a few lines are loaded by iptables-restore or nft in one host, and imported; its twin
//! applies the policy. What gets through one and not through the other must be in the report.
//!
//! `PEERWALL_FILES` sets the number of files, `PEERWALL_SEED` the first of their seeds,
//! `PEERWALL_PROBES` the packets for each, `PEERWALL_KEEP` a folder for the files that fail,
//! `PEERWALL_STYLES` a folder of files to try instead, `PEERWALL_LANGUAGE` the end of the names of
//! all files: `v4`, `v6`, `nft` or `sh`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use peerwall_core::import::{Direction, Fate, Import, Line};
use peerwall_core::net::packet::Hook;
use peerwall_core::policy::reason::Reason;
use peerwall_integration::ns::world;
use peerwall_integration::random::Random;
use peerwall_integration::wild::named::Named;
use peerwall_integration::wild::packet::{Packet, packet};
use peerwall_integration::wild::rules::{self, Language};
use peerwall_integration::wild::twins::Twin;

use files::{command, given, imported, others};

/// How many packets of a file are tried alone, of those that only the policy accepts at a hook.
const WIDER_MAX: usize = 8;
/// The same of those that only the rules accept.
const NARROWER_MAX: usize = 2;

/// Both hosts.
struct Twins {
    rules: Twin,
    policy: Twin,
}

/// Numbers of files and packets.
#[derive(Debug, Default)]
struct Tally {
    /// Files that were loaded and imported.
    files: usize,
    /// Files with which `--strict` succeeds.
    strict: usize,
    /// Packets that only the policy accepts, as the report says.
    wider: usize,
    /// Packets that came to a host.
    came: usize,
    /// Of those, the ones that the rules accept.
    accepted: usize,
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A file that both hosts have, each in its way.
struct Applied<'f> {
    language: Language,
    flavour: &'f str,
    /// Without the lines that were refused.
    text: String,
    import: Import,
    /// The interfaces that packets come to.
    names: Vec<String>,
}

/// A packet that only one of the hosts accepts.
struct Disagreement {
    change: Direction,
    hook: Hook,
    /// Reasons that the policy counted.
    reasons: Vec<Reason>,
    /// Line of the rules that decided, if the kernel counts by rule.
    line: Option<usize>,
}

impl Applied<'_> {
    /// Reports whether the report says that the policy changes what becomes of such a packet.
    fn is_told(&self, found: &Disagreement) -> bool {
        self.import.differences.iter().any(|difference| {
            let reasons = &found.reasons;
            let is_reason = reasons.is_empty() || reasons.contains(&difference.reason);
            let mut lines = difference.lines.iter();
            let is_line = found
                .line
                .is_none_or(|line| lines.any(|at| at.line == line));
            let is_place = difference.change == found.change && difference.hook == found.hook;
            is_place && is_reason && is_line
        })
    }

    /// Whether a line that the policy lacks drops packets, so that it is wider, or accepts them, so
    /// that it is narrower.
    fn is_left(&self, change: Direction) -> bool {
        let is_left = |line: &Line| match (line.fate, change) {
            (Fate::Left | Fate::Partly, Direction::Closed) => true,
            (Fate::Beside, Direction::New) => line.words.contains("still drops"),
            (Fate::Left, Direction::New) => !line.words.contains("accepts nothing"),
            _ => false,
        };
        self.import.lines.iter().any(is_left)
    }

    /// Whether every policy refuses such a packet, or the report speaks of its family as a whole.
    fn is_of_every_policy(&self, packet: &Packet, found: &Disagreement) -> bool {
        let forged = [Reason::LoopbackSpoof, Reason::OverlaySpoof];
        let is_forged = matches!(found.reasons.as_slice(), [one] if forged.contains(one));
        let is_closed = found.change == Direction::Closed;
        let forgotten = if packet.is_v6 {
            "ipv6-forgotten"
        } else {
            "ipv4-forgotten"
        };
        // Matches of iptables drop what is too short for them, whichever rule they are part of.
        let is_iptables = self.language != Language::Nft;
        let is_cut = is_iptables && packet.is_cut && found.line.is_none() && !is_closed;
        let mut lints = self.import.lints.iter();
        let is_forgotten = lints.any(|lint| lint.name == forgotten);
        // Linux forwards these only back to the link that they came from, whose hosts they reach
        // anyway.
        let is_on_link = found.hook == Hook::Forward && packet.is_on_link;
        is_closed && (is_forged || packet.is_to_port_0 || packet.is_in_part)
            || is_forgotten
            || is_on_link
            || is_cut
            || packet.is_tcp_to_many
    }
}

impl Twins {
    fn new(half: usize) -> Self {
        Self {
            rules: Twin::new(&format!("rules-{half}")),
            policy: Twin::new(&format!("policy-{half}")),
        }
    }

    /// Loads rules in one host and applies the imported policy in the other, beside the tables that
    /// stay.
    fn apply<'f>(
        &mut self,
        (language, flavour): (Language, &'f str),
        text: &str,
        named: &Named,
    ) -> Option<Applied<'f>> {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rules.{}", language.extension());
        let path = folder.path().join(&name);
        self.rules.empty();
        self.policy.empty();
        let command = command((language, flavour), &path);
        // Not all that is written is valid, or known here.
        let text = match rules::load(&self.rules.host, &command, &path, text) {
            Ok(text) => text,
            Err(why) => {
                println!("not loaded: {why}");
                return None;
            }
        };
        let import = match imported(&self.rules, language, &name, &text) {
            Ok(import) => import,
            Err(why) => {
                // A policy that the import wrote is always valid.
                assert!(!why.contains("the generated policy is invalid"), "{why}");
                println!("not imported: {why}");
                return None;
            }
        };
        let always = ["eth0", "eth1", "cni0", "flannel.1"].map(str::to_owned);
        let names: BTreeSet<String> = always.iter().chain(named.interfaces()).cloned().collect();
        for twin in [&mut self.rules, &mut self.policy] {
            names.iter().for_each(|name| twin.add_interface(name));
        }
        if matches!(language, Language::Iptables | Language::Ip6tables) {
            fs::write(&path, others(&text)).unwrap();
            self.policy.host.sh(&command);
        }
        let policy = folder.path().join("policy.toml");
        fs::write(&policy, &import.policy).unwrap();
        let apply = ["apply", policy.to_str().unwrap()];
        self.policy.host.peerwall_ok(&apply);
        self.rules.watch();
        self.policy.watch();
        Some(Applied {
            language,
            flavour,
            text,
            import,
            names: names.into_iter().collect(),
        })
    }

    /// Sends a packet alone, since those of a batch may be of one connection.
    fn disagreement(&self, applied: &Applied<'_>, packet: &Packet) -> Option<Disagreement> {
        let (names, number) = (&applied.names, packet.number);
        let by_rules = self.rules.send(names, &[packet]);
        let by_policy = self.policy.send(names, &[packet]);
        let is_accepted = [&by_rules, &by_policy].map(|seen| seen.is_accepted(number));
        let (change, accepting) = match is_accepted {
            [false, true] => (Direction::New, by_policy),
            [true, false] => (Direction::Closed, by_rules),
            [true, true] | [false, false] => return None,
        };
        let hook = match accepting.input.contains(&number) {
            true => Hook::Input,
            false => Hook::Forward,
        };
        let save = match applied.language {
            Language::Nft | Language::Shell => None,
            Language::Iptables => Some("iptables"),
            Language::Ip6tables => Some("ip6tables"),
        };
        let save = save.map(|name| format!("{name}-{}-save", applied.flavour));
        let line = |save: String| {
            let rules = (save.as_str(), applied.text.as_str());
            self.rules.deciding_line(names, packet, rules)
        };
        Some(Disagreement {
            change,
            hook,
            reasons: self.policy.reasons(names, packet),
            line: save.and_then(line),
        })
    }

    /// Tries one file, and returns what is wrong.
    fn try_file(
        &mut self,
        rules: (Language, &str),
        text: &str,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Vec<String> {
        let named = Named::new(text);
        let Some(applied) = self.apply(rules, text, &named) else {
            return Vec::new();
        };
        let (import, names) = (&applied.import, &applied.names);
        let packets: Vec<Packet> = (0..number("PEERWALL_PROBES", 400))
            .map(|index| {
                let is_v6 = match applied.language {
                    Language::Iptables => false,
                    Language::Ip6tables => true,
                    Language::Nft | Language::Shell => index % 2 == 1,
                };
                let number = u16::try_from(index + 1).unwrap();
                packet(random, &named, names.len(), is_v6, number)
            })
            .collect();
        tally.files += 1;
        tally.strict += usize::from(import.is_whole() && !import.opens_more());
        let all: Vec<&Packet> = packets.iter().collect();
        let by_rules = self.rules.send(names, &all);
        let by_policy = self.policy.send(names, &all);
        let mut problems = Vec::new();
        let mut tries = BTreeMap::<(bool, bool), usize>::new();
        for packet in &packets {
            let number = packet.number;
            let is_accepted = by_rules.is_accepted(number);
            tally.came += usize::from(by_rules.came.contains(&number));
            tally.accepted += usize::from(is_accepted);
            if is_accepted == by_policy.is_accepted(number) {
                continue;
            }
            let mut both = [&by_rules, &by_policy].into_iter();
            let is_forward = both.any(|seen| seen.forward.contains(&number));
            let tried = tries.entry((is_accepted, is_forward)).or_default();
            *tried += 1;
            // Narrower is a nuisance; wider is a hole.
            let max = if is_accepted { NARROWER_MAX } else { WIDER_MAX };
            if *tried > max {
                continue;
            }
            let Some(found) = self.disagreement(&applied, packet) else {
                continue;
            };
            let is_told = applied.is_told(&found);
            tally.wider += usize::from(found.change == Direction::New && is_told);
            if !is_told
                && !applied.is_left(found.change)
                && !applied.is_of_every_policy(packet, &found)
            {
                // A busy machine delivers a packet late once, and not twice.
                if self.disagreement(&applied, packet).is_none() {
                    continue;
                }
                let Disagreement {
                    change,
                    hook,
                    reasons,
                    line,
                } = found;
                let (words, interface) = (&packet.words, &names[packet.wire]);
                problems.push(format!(
                    "{change:?} {hook:?} {reasons:?}, line {line:?}: {words} on {interface}"
                ));
            }
        }
        if !problems.is_empty() {
            let Applied { flavour, text, .. } = &applied;
            problems.push(format!(
                "{flavour} rules\n{text}\n{}\n{import}",
                import.policy
            ));
        }
        problems
    }
}

/// Tries random files. `half` is the number of one of two threads, whose files differ.
fn try_all(half: usize, languages: &[(Language, &str)]) -> (Tally, Vec<String>) {
    let (files, first) = (number("PEERWALL_FILES", 20), number("PEERWALL_SEED", 1));
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let wanted = std::env::var("PEERWALL_LANGUAGE").ok();
    let is_wanted = |language: &Language| {
        let wanted = wanted.as_ref();
        wanted.is_none_or(|wanted| language.extension() == wanted)
    };
    let languages = languages.iter().filter(|(language, _)| is_wanted(language));
    let languages: Vec<(Language, &str)> = languages.copied().collect();
    let mut twins = Twins::new(half);
    let given = given();
    let files = if given.is_empty() { files } else { given.len() };
    for seed in first..first + files {
        let (mut language, flavour) = languages[seed % languages.len()];
        let mut random = Random::new((seed * 2 + half) as u64);
        let mut text = rules::file(&mut random, language);
        if let Some((name, given, of)) = given.get(seed - first) {
            println!("{name}");
            text.clone_from(given);
            language = *of;
        }
        let problems = twins.try_file((language, flavour), &text, &mut random, &mut tally);
        if problems.is_empty() {
            continue;
        }
        let problem = format!("== seed {seed} {}", problems.join("\n"));
        if let Ok(folder) = std::env::var("PEERWALL_KEEP") {
            fs::write(format!("{folder}/{flavour}-{seed}-{half}"), &problem).unwrap();
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
                (
                    0,
                    vec![
                        (Language::Nft, "nft"),
                        (Language::Iptables, "nft"),
                        (Language::Ip6tables, "nft"),
                        (Language::Shell, "nft"),
                    ],
                ),
                (
                    1,
                    vec![
                        (Language::Iptables, "legacy"),
                        (Language::Ip6tables, "legacy"),
                        (Language::Nft, "nft"),
                        (Language::Shell, "legacy"),
                    ],
                ),
            ]
            .map(|(half, languages)| scope.spawn(move || try_all(half, &languages)))
            .map(|thread| thread.join().expect("the files can be tried"))
        });
        let mut failures = Vec::new();
        for (tally, wrong) in both {
            println!("{tally:?}");
            let is_mixed = tally.accepted > 0 && tally.accepted < tally.came;
            assert!(is_mixed && tally.wider > 0, "{tally:?}");
            failures.extend(wrong);
        }
        assert!(
            failures.is_empty(),
            "{} files\n{}",
            failures.len(),
            failures.join("\n\n")
        );
    });
}
