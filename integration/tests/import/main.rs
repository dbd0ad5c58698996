//! The import on real kernels: rules do to packets what the evaluator says, the imported policy
//! does what the policy says, and so the differences between the two are the ones that are told.
//!
//! `PEERWALL_PROBES` sets how many packets each file is tried with, `PEERWALL_FILES` the number of
//! recombined files, `PEERWALL_SEED` the first of their seeds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod recombined;
mod styles;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use peerwall_core::import::eval::{Probe, ReadAs};
use peerwall_core::import::{Facts, File, import, probes, rules};
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::{Hook, Transport, Verdict};
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::compile::compile;
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::ns::{Host, world};
use peerwall_integration::story::{Cluster, Flavour, flows, matrix, wrong};
use peerwall_integration::target::{Filter, Sets, Target, agrees};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/import");
/// Whose words this kernel, or this iptables, does not have: it cannot load them.
const CANNOT_BE_LOADED: [&str; 2] = ["27-unknown-words", "37-by-every-name"];

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(FIXTURES)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    folders.retain(|f| !CANNOT_BE_LOADED.iter().any(|name| f.ends_with(name)));
    folders
}

fn input(folder: &Path, name: &str) -> Option<File> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    let family = match name {
        "v4.rules" => Some(Family::V4),
        "v6.rules" => Some(Family::V6),
        _ => None,
    };
    Some(File {
        name: name.into(),
        text,
        family,
    })
}

/// The table filter alone; what others do to packets is not asked.
fn filter_table(text: &str) -> String {
    let start = text.find("*filter").unwrap();
    let end = text[start..].find("COMMIT").unwrap();
    format!("{}COMMIT\n", &text[start..start + end])
}

/// Whether such a packet can be made, and gets to where it is to go.
fn is_real(probe: &Probe) -> bool {
    let packet = &probe.packet;
    let forwarded = packet.hook == Hook::Forward;
    let transport = match packet.transport {
        Transport::Ports { protocol: 33, .. } => false,
        Transport::Ports { source, .. } => source == 40_000,
        // Fragments and tunnels are unpacked or put together before any filter sees them.
        Transport::Other(protocol) => ![41, 44, 4].contains(&protocol),
        // Packets of the link are not passed on, and answers to nobody's question are not even
        // read.
        Transport::Icmp { kind, .. } => {
            // Routed discovery has lost its hop limit of 255, so that no rule takes it for any.
            let is_discovery = matches!(kind, 130..=137 | 141..=143);
            kind != 137 && !(forwarded && is_discovery && packet.family() == Family::V6)
        }
    };
    let loopback = packet.source.is_loopback() || packet.interface == "lo";
    transport && !loopback && !packet.destination.is_multicast()
}

/// This number of them, from all over the list.
fn sample(mut all: Vec<Probe>, count: usize) -> Vec<Probe> {
    all.retain(is_real);
    let step = all.len().div_ceil(count).max(1);
    // Not always the same service for each source.
    let step = if step.is_multiple_of(2) {
        step + 1
    } else {
        step
    };
    all.into_iter().step_by(step).collect()
}

fn try_file(
    target: &mut Target,
    folder: &Path,
    name: &str,
    flavour: Flavour,
    count: usize,
) -> usize {
    let (Some(file), Some(policy)) = (input(folder, name), input(folder, "policy.toml")) else {
        return 0;
    };
    let at = format!("{} {name} {flavour:?}", folder.display());
    let sets = input(folder, "sets.ipset");
    let text = filter_table(&file.text);
    let family = file.family.unwrap();
    let alone = File {
        text: text.clone(),
        ..file
    };
    // What is in sets is known only beside them.
    let files: Vec<File> = sets.iter().cloned().chain([alone]).collect();
    let rules = rules(&files).unwrap().remove(0);
    let host = [HOST_V4, HOST_V6].map(|address| address.parse::<IpAddr>().unwrap().into());
    let probes = sample(probes(&rules, &host), count);
    assert!(!probes.is_empty(), "{at}");
    let six = if family == Family::V6 { "6" } else { "" };
    let suffix = flavour.suffix();
    // One of them is not in the file, as after it was forgotten; iptables must find it.
    if let Some(sets) = &sets {
        target.host().sh(&format!(
            "ipset restore <<'END'\n{}create elsewhere hash:ip\nEND",
            sets.text
        ));
    }
    target.host().sh(&format!(
        "ip{six}tables-{suffix}-restore <<'END'\n{text}END"
    ));
    // Who knocked is remembered otherwise.
    let forget = "for list in /proc/net/xt_recent/*; do echo / >$list; done";
    for probe in &probes {
        if text.contains("-m recent") {
            target.host().sh(forget);
        }
        let narrow = rules.narrow(probe.packet.source, ReadAs::Kernel);
        let wanted = narrow.judge(probe).verdict == Verdict::Accept;
        let got = target.passes(&probe.packet, wanted);
        assert_eq!(got, wanted, "{at}: {probe:?}\n{text}");
    }
    target.host().sh(&format!(
        "ip{six}tables-{suffix}-restore <<'END'\n\
         *filter\n\
         :INPUT ACCEPT\n\
         :FORWARD ACCEPT\n\
         :OUTPUT ACCEPT\n\
         COMMIT\n\
         END"
    ));
    if sets.is_some() {
        target.host().sh("ipset destroy");
    }
    let policy = load("policy.toml", &policy.text, &NoFiles).policy.unwrap();
    target.hold(&compile(&policy).0, Filter::Nft, Sets::Rules);
    for probe in &probes {
        let wanted = policy.verdict(&probe.packet);
        let got = target.judge(&probe.packet, &wanted);
        assert!(
            agrees(&probe.packet, &wanted, &got),
            "{at}: {probe:?}: {wanted}, kernel {got}"
        );
    }
    target.host().peerwall_ok(&["remove"]);
    probes.len()
}

/// How many packets each file is tried with.
fn probes_per_file() -> usize {
    std::env::var("PEERWALL_PROBES").map_or(36, |n| n.parse().unwrap())
}

fn try_all(flavour: Flavour) -> usize {
    let count = probes_per_file();
    let mut target = Target::named(flavour.suffix());
    let mut tried = 0;
    for folder in folders() {
        for name in ["v4.rules", "v6.rules"] {
            tried += try_file(&mut target, &folder, name, flavour, count);
        }
    }
    tried
}

#[test]
fn rules_and_imported_policies_do_on_kernels_what_was_compared() {
    world(|| {
        let tried: Vec<usize> = std::thread::scope(|scope| {
            let both = [Flavour::Legacy, Flavour::Nft]
                .map(|flavour| scope.spawn(move || try_all(flavour)));
            both.into_iter()
                .map(|handle| handle.join().expect("no disagreement"))
                .collect()
        });
        println!(
            "{tried:?} packets by iptables-legacy and iptables-nft, and as many by the policies"
        );
        let wanted = 22 * probes_per_file();
        assert!(tried.iter().all(|tried| *tried > wanted), "{tried:?}");
    });
}

#[test]
fn the_imported_story_passes_the_matrix() {
    world(|| {
        let cluster = Cluster::build(Flavour::Nft);
        cluster.wait_until_up();
        let file = |name: &str| {
            let path = Path::new(FIXTURES).join("../story").join(name);
            File {
                name: name.into(),
                text: fs::read_to_string(path).unwrap(),
                family: None,
            }
        };
        let import = import(
            &[file("rules-save.final"), file("rules6-save")],
            &Facts::default(),
        )
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, import.policy).unwrap();
        cluster.apply(path.to_str().unwrap());
        let flows = flows();
        let reached = cluster.reach(&flows);
        assert_eq!(
            wrong(&flows, &reached, false),
            [""; 0],
            "{}",
            matrix(&flows, &[("imported", reached)])
        );
    });
}

#[test]
fn what_is_loaded_now_is_imported_with_what_the_host_knows() {
    world(|| {
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            let host = Host::new(flavour.suffix());
            let suffix = flavour.suffix();
            let nothing = host.peerwall(&["import", "--live"]);
            assert_eq!(nothing.status.code(), Some(2), "there are no rules");
            host.sh(&format!(
                "ip link add eth0 type veth peer name eth0-far && \
                 ip address add 192.0.2.7/24 dev eth0 && \
                 ipset create nodes hash:ip && \
                 ipset add nodes 198.51.100.1 && ipset add nodes 198.51.100.2 && \
                 iptables-{suffix} -P INPUT DROP && iptables-{suffix} -A INPUT -i lo -j ACCEPT && \
                 iptables-{suffix} -A INPUT -d 192.0.2.7 -p tcp --dport 443 -j ACCEPT && \
                 iptables-{suffix} -A INPUT -m set --match-set nodes src -j ACCEPT && \
                 iptables-{suffix} -P FORWARD DROP"
            ));
            let policy = host.peerwall_ok(&["import", "--live"]);
            // The one address that the port is open on is the only one there is.
            for wanted in ["198.51.100.1", "198.51.100.2", "443/tcp"] {
                assert!(policy.contains(wanted), "{flavour:?}: {wanted}\n{policy}");
            }
        }
    });
}
