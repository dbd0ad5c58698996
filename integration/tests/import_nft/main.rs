//! The import of nftables files on a real kernel: rules do to packets what the evaluator says, and
//! imported policies accept no packet that the rules refuse, unless the report says so.
//!
//! `PEERWALL_PROBES` sets the number of packets for each file and family, `PEERWALL_RULESETS` the
//! number of random rulesets, `PEERWALL_SEED` the first of their seeds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod command;
mod losses;
mod random;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use peerwall::import::nft::listing;
use peerwall_core::import::eval::Probe;
use peerwall_core::import::rule::ImportedRules;
use peerwall_core::import::{File, probes, rules};
use peerwall_core::net::packet::{CtState, Hook, Transport};
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::imported::{Imported, accepts, is_decided, sent};
use peerwall_integration::ns::world;
use peerwall_integration::target::Target;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/import-nft");
/// Fixtures with conditions that packets alone do not decide: the others have none.
const WITH_UNKNOWNS: [&str; 8] = [
    "03-arch-simple-stateful",
    "04-arch-server-chains",
    "06-firewalld",
    "07-foomuuri",
    "14-home-router-vlans",
    "17-tcp-flags",
    "20-port-knocking",
    "27-unknown-statements",
];

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(FIXTURES)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    let only = std::env::var("PEERWALL_FIXTURE").unwrap_or_default();
    folders.retain(|folder| folder.display().to_string().contains(&only));
    folders
}

/// Whether such a packet can be made, and gets to where it is to go.
fn is_real(probe: &Probe) -> bool {
    let packet = &probe.packet;
    let forwarded = packet.hook == Hook::Forward;
    let transport = match packet.transport {
        Transport::Ports { protocol: 33, .. } => false,
        Transport::Ports { .. } => true,
        // Fragments and tunnels are unpacked or put together before any filter sees them. ICMP of
        // the other family is invalid to the kernel.
        Transport::Other(protocol) => ![41, 44, 4, 1, 58].contains(&protocol),
        // Packets of the link are not forwarded, and answers that nobody waits for are not read.
        Transport::Icmp { kind, .. } => {
            kind != 137 && !(forwarded && packet.state == CtState::Untracked)
        }
    };
    // The kernel decrements the hop limit before the hook.
    let transport = transport && !(forwarded && packet.hop_limit == u8::MAX);
    let loopback = packet.source.is_loopback() || packet.destination.is_loopback();
    transport && !loopback && packet.interface != "lo" && !packet.destination.is_multicast()
}

/// This number of them, from all over the list.
fn sample(mut all: Vec<Probe>, count: usize) -> Vec<Probe> {
    all.retain(is_real);
    let step = all.len().div_ceil(count).max(1) | 1;
    all.into_iter().step_by(step).collect()
}

/// The file without what makes packets depend on each other, and without what would remove the
/// counters of the harness.
fn independent(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| line.trim() != "flush ruleset") {
        let mut line = line.to_owned();
        for unit in ["/second", "/minute"] {
            line = unlimited(&line, unit);
        }
        out += &line.replace("count over 200", "count over 60000");
        out.push('\n');
    }
    out
}

/// Replaces the rate in `10/minute` by a large one.
fn unlimited(line: &str, unit: &str) -> String {
    let Some((before, after)) = line.split_once(unit) else {
        return line.to_owned();
    };
    let before = before.trim_end_matches(|c: char| c.is_ascii_digit());
    let after = match after.strip_prefix(" burst ") {
        Some(burst) => burst.split_once(" packets").unwrap().1,
        None => after,
    };
    format!(
        "{before}1000000/second burst 100000 packets{}",
        unlimited(after, unit)
    )
}

/// Loads a file into the target, without its nat chains, which would send packets elsewhere.
fn load(target: &Target, folder: &Path, text: &str, rules: &[ImportedRules]) {
    let text = independent(text);
    let folder = folder.display();
    target
        .host()
        .sh(&format!("cd {folder} && nft -f - <<'END'\n{text}\nEND"));
    for chain in rules
        .iter()
        .flat_map(|rules| rules.paths.prerouting.iter().flatten())
    {
        target.host().sh(&format!("nft flush chain {chain}"));
    }
}

/// Counts packets that a chain in prerouting drops as ones that came.
fn count_early(target: &Target) {
    let rule = "inet probe first-prerouting counter name came";
    target.host().sh(&format!("nft add rule {rule}"));
}

fn unload(target: &Target) {
    target
        .host()
        .sh("nft list tables | while read -r _ family name; do \
         [ $name = probe ] || nft delete table $family $name; done; conntrack -F 2>/dev/null");
}

/// Numbers of packets.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    accepted: usize,
    refused: usize,
    /// Packets that unknown conditions decide.
    unknown: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}

/// Sends the packets that rules decide.
fn try_packets(target: &mut Target, name: &str, rules: &ImportedRules, probes: &[Probe]) -> Counts {
    let is_decided = is_decided(rules);
    let mut counts = Counts::default();
    for probe in probes {
        let wanted = accepts(rules, probe);
        if !is_decided(probe) {
            counts.unknown += 1;
            continue;
        }
        let got = target.passes(&sent(probe), wanted);
        assert_eq!(got, wanted, "{name}: {probe:?}\n{rules:#?}");
        counts.accepted += usize::from(got);
        counts.refused += usize::from(!got);
    }
    counts
}

/// Tries a file.
fn try_folder(target: &mut Target, other: &mut Target, folder: &Path, count: usize) -> Counts {
    let name = folder.file_name().unwrap().to_str().unwrap();
    std::env::set_current_dir(folder).unwrap();
    let text = fs::read_to_string("nftables.conf").unwrap();
    let file = File {
        name: name.to_owned(),
        text: listing(name, &text).unwrap_or_else(|err| panic!("{err}")),
        family: None,
    };
    let families = rules(std::slice::from_ref(&file));
    let families = families.unwrap_or_else(|err| panic!("{name}: {err:?}"));
    let host = [HOST_V4, HOST_V6].map(|address| address.parse::<IpAddr>().unwrap().into());
    let tried: Vec<Vec<Probe>> = families
        .iter()
        .map(|rules| {
            let all = probes(rules, &host).into_iter();
            let (accepted, refused) = all.partition(|probe| accepts(rules, probe));
            let mut both = sample(accepted, count / 2);
            both.extend(sample(refused, count / 2));
            both
        })
        .collect();
    // Chains of devices need them before they are loaded.
    target.add_interface("eth0");
    for probe in tried.iter().flatten() {
        target.add_interface(&probe.packet.interface);
        if let Some(out) = &probe.out {
            target.add_interface(out);
        }
    }
    for name in ["virbr0", "ppp0", "wan0", "lan0"] {
        target.add_interface(name);
    }
    load(target, folder, &text, &families);
    let mut counts = Counts::default();
    for (rules, probes) in families.iter().zip(&tried) {
        counts += try_packets(target, name, rules, probes);
    }
    unload(target);
    let imported = Imported::load(other, name, file);
    for (rules, probes) in families.iter().zip(&tried) {
        imported.try_packets(other, rules, probes);
    }
    println!("{name}: {counts:?}");
    counts
}

#[test]
fn nftables_files_and_their_policies_do_on_the_kernel_what_was_compared() {
    world(|| {
        let count = std::env::var("PEERWALL_PROBES").map_or(24, |n| n.parse().unwrap());
        let mut target = Target::new();
        let mut other = Target::named("other");
        count_early(&target);
        let mut all = Counts::default();
        for folder in folders() {
            let found = try_folder(&mut target, &mut other, &folder, count);
            let has_unknowns = WITH_UNKNOWNS.iter().any(|name| folder.ends_with(name));
            // A reverse path check, for example, decides all packets that are not refused.
            let decides_all = found.accepted > 0 && found.refused > 0 && found.unknown == 0;
            assert!(has_unknowns || decides_all, "{folder:?} {found:?}");
            all += found;
        }
        println!("{all:?}");
        let least = if std::env::var("PEERWALL_FIXTURE").is_ok() {
            1
        } else {
            8 * count
        };
        assert!(all.accepted > least && all.refused > least, "{all:?}");
    });
}
