//! Files in the styles of many programs and people, loaded as they are: by the shell, by
//! iptables-restore or by nft. Packets near what the text names go through the rules, and the
//! imported policy accepts none that they refuse, unless the report says so.
//!
//! `PEERWALL_STYLES` sets another folder of such files, `PEERWALL_PROBES` the packets per file.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use peerwall::import::{iptables as reader, nft};
use peerwall_core::import::{Direction, Facts, Fate, File, Import, Line, Options, import_read};
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::{CtState, Hook, Packet, Transport, Verdict};
use peerwall_core::policy::Policy;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::ns::{Host, world};
use peerwall_integration::random::Random;
use peerwall_integration::target::Target;
use peerwall_integration::wild::rules::Language;

const STYLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/import-styles");

/// What a text names, in any order.
struct Named {
    sources: Vec<IpAddr>,
    interfaces: Vec<String>,
    ports: Vec<u16>,
    /// Ports of lines that translate destinations: the policy means other packets by them.
    translated: BTreeSet<u16>,
}

impl Named {
    fn new(text: &str, family: Family) -> Self {
        let (other, host) = match family {
            Family::V4 => (["198.51.100.77", "10.1.2.3", "192.168.1.5"], HOST_V4),
            Family::V6 => (["2001:db8:77::1", "fd00::5", "fe80::5"], HOST_V6),
        };
        let mut sources: Vec<IpAddr> = other.iter().map(|text| text.parse().unwrap()).collect();
        let mut interfaces = vec!["zz0".to_owned()];
        let mut ports = vec![1, 22, 53, 80, 443, 8080, 50_000];
        let mut translated = BTreeSet::new();
        let separators = |c: char| " \t\n\"',;{}()[]=".contains(c);
        for line in text.lines() {
            let is_nat = ["DNAT", "REDIRECT", "dnat", "redirect"];
            let is_nat = is_nat.iter().any(|word| line.contains(word));
            let words: Vec<&str> = line.split(separators).collect();
            for (index, word) in words.iter().enumerate() {
                let before = index.checked_sub(1).and_then(|at| words.get(at));
                if before.is_some_and(|word| ["-i", "iif", "iifname"].contains(word)) {
                    interfaces.push(word.replace(['+', '*'], "7"));
                }
                let numbers = word
                    .split([':', '-', '/'])
                    .filter_map(|text| text.parse::<u16>().ok());
                for number in numbers.filter(|number| *number > 0) {
                    ports.extend([number, number.saturating_add(1)]);
                    if is_nat {
                        translated.insert(number);
                    }
                }
                for part in word.split('-') {
                    let net = part.parse::<IpNet>().ok();
                    let one = part.parse::<IpAddr>().ok().map(IpNet::from);
                    for net in net.or(one).into_iter().filter(|net| net.prefix_len() > 3) {
                        sources.extend([net.addr(), net.hosts().nth(1).unwrap_or(net.addr())]);
                        sources.push(net.broadcast());
                    }
                }
            }
        }
        let is_usable = |address: &IpAddr| {
            let of_family = Family::of(*address) == family;
            let is_host = !address.is_loopback() && !address.is_multicast();
            let is_own = address.to_string() == host;
            let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            of_family && is_host && !is_own && !is_broadcast && !address.is_unspecified()
        };
        sources.retain(is_usable);
        let is_name = |name: &String| {
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
            starts && name.len() < 15 && name != "lo"
        };
        interfaces.retain(|name| {
            is_name(name)
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        });
        Self {
            sources,
            interfaces,
            ports,
            translated,
        }
    }

    fn packet(&self, random: &mut Random, family: Family) -> Packet {
        let source = self.sources[random.below(self.sources.len())];
        let interface = self.interfaces[random.below(self.interfaces.len())].clone();
        let port = self.ports[random.below(self.ports.len())];
        let protocol = [6, 6, 17][random.below(3)];
        let source_port = if random.chance(10) {
            port.max(1)
        } else {
            40_000
        };
        let ping = if family == Family::V4 { 8 } else { 128 };
        let transport = match random.below(8) {
            0 => Transport::Icmp {
                kind: ping,
                code: 0,
            },
            1 => Transport::Other(47),
            _ => Transport::Ports {
                protocol,
                source: source_port,
                destination: port,
            },
        };
        let hook = if random.chance(25) {
            Hook::Forward
        } else {
            Hook::Input
        };
        let to = match (hook, family) {
            (Hook::Input, Family::V4) => HOST_V4.parse().unwrap(),
            (Hook::Input, Family::V6) => HOST_V6.parse().unwrap(),
            _ if random.chance(60) => self.sources[random.below(self.sources.len())],
            (Hook::Forward, Family::V4) => "203.0.113.200".parse().unwrap(),
            (Hook::Forward, Family::V6) => "2001:db8:eeee::200".parse().unwrap(),
        };
        let mut packet = Packet::new(hook, interface, source, to, transport);
        packet.state = CtState::New;
        if hook == Hook::Forward {
            packet.out = Some(self.interfaces[random.below(self.interfaces.len())].clone());
            packet.hop_limit += 1;
        }
        packet
    }

    /// Whether a packet gets where it is to go, without a translation.
    fn is_direct(&self, packet: &Packet) -> bool {
        let link_local = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_forward = packet.hook == Hook::Forward;
        let is_stuck = is_forward && (link_local(packet.source) || link_local(packet.destination));
        let is_same = packet.source == packet.destination;
        let destination = match packet.transport {
            Transport::Ports { destination, .. } => Some(destination),
            Transport::Icmp { .. } | Transport::Other(_) => None,
        };
        !is_stuck && !is_same && destination.is_none_or(|port| !self.translated.contains(&port))
    }
}

fn file(path: &Path) -> File {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let family = match path.extension().and_then(|text| text.to_str()) {
        Some("v4") => Some(Family::V4),
        Some("v6") => Some(Family::V6),
        _ => None,
    };
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    File { name, text, family }
}

/// Loads a file, and says whether that succeeded; a script may fail in some lines.
fn load_rules(host: &Host, path: &Path, flavour: &str) -> bool {
    let shown = path.display();
    let language = match path.extension().and_then(|text| text.to_str()) {
        Some("v4") => Language::Iptables,
        Some("v6") => Language::Ip6tables,
        Some("nft") => Language::Nft,
        _ => Language::Shell,
    };
    let command = language.command(flavour, path);
    let output = host.try_sh(&command);
    if !output.status.success() {
        println!("{shown}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn unload(host: &Host) {
    host.sh(
        "for t in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do \
         for c in INPUT FORWARD OUTPUT; do $t -P $c ACCEPT; done; \
         for n in filter nat mangle raw; do $t -t $n -F; $t -t $n -X; done; done 2>/dev/null; \
         nft list tables | grep -v probe | while read line; do nft delete $line; done; \
         ipset destroy 2>/dev/null; true",
    );
}

fn imported(host: &Host, path: &Path) -> Option<(Import, Policy)> {
    let mut file = file(path);
    if peerwall_core::import::nft::is_script(&file.text) {
        file.text = match host.run(|| nft::listing(&file.name, &file.text)) {
            Ok(text) => text,
            Err(err) => {
                println!("{err}");
                return None;
            }
        };
    }
    let files = [file];
    let readings = host.run(|| reader::read(&files));
    let readings = readings.map(|read| read.readings).unwrap_or_default();
    let imported = import_read(&files, &Facts::default(), Options::default(), &readings);
    let imported = match imported {
        Ok(imported) => imported,
        Err(errors) => {
            println!("{}: {errors:?}", path.display());
            return None;
        }
    };
    let policy = load("policy.toml", &imported.policy, &NoFiles).policy;
    Some((imported, policy.expect("an imported policy is valid")))
}

fn families(path: &Path) -> &'static [Family] {
    match path.extension().and_then(|text| text.to_str()) {
        Some("v4") => &[Family::V4],
        Some("v6") => &[Family::V6],
        _ => &[Family::V4, Family::V6],
    }
}

/// Whether a line that drops stays beside the policy, as its own or another program's, or cannot be
/// read: the report says so.
fn leaves_drops(import: &Import) -> bool {
    let is_left = |line: &Line| {
        let may_drop = !line.words.contains("accepts nothing");
        let is_managed = line.words.contains("still drops beside peerwall");
        (line.fate == Fate::Left && may_drop) || is_managed
    };
    import.lines.iter().any(is_left)
}

/// Tries one file, and returns the numbers of packets accepted and refused.
fn try_file(
    target: &mut Target,
    (path, flavour): (&Path, &str),
    count: usize,
    wider: &mut Vec<String>,
) -> [usize; 2] {
    let Some((import, policy)) = imported(target.host(), path) else {
        return [0, 0];
    };
    let is_loaded = load_rules(target.host(), path, flavour);
    let text = file(path).text;
    let mut counts = [0; 2];
    for family in families(path) {
        // A family without rules is open; the report says that the policy closes it.
        let named = Named::new(&text, *family);
        let mut random = Random::new(7);
        for _ in 0..count {
            let packet = named.packet(&mut random, *family);
            if !is_loaded || !named.is_direct(&packet) {
                continue;
            }
            let mut arrived = packet.clone();
            if packet.hook == Hook::Forward {
                arrived.hop_limit -= 1;
            }
            let decision = policy.verdict(&arrived);
            let is_open = decision.verdict == Verdict::Accept;
            // Tables before filter stay, and so do their drops.
            let Some(got) = target.passes_if_it_comes(&packet, is_open) else {
                continue;
            };
            counts[usize::from(!got)] += 1;
            let change = match (got, is_open) {
                (false, true) => Direction::New,
                (true, false) => Direction::Closed,
                _ => continue,
            };
            let is_listed = import.differences.iter().any(|difference| {
                difference.change == change && difference.reason == decision.reason
            });
            let has_rules = import
                .lints
                .iter()
                .all(|lint| lint.name != "ipv6-forgotten" && lint.name != "ipv4-forgotten");
            if change == Direction::Closed && !is_listed && has_rules {
                println!(
                    "{flavour} {}: closed and not told: {packet:?}",
                    path.display()
                );
            }
            if !is_listed && change == Direction::New && !leaves_drops(&import) {
                let report = format!("{}\n{import}", import.policy);
                let at = path.display();
                wider.push(format!(
                    "{flavour} {at}: {decision} and not in the report: {packet:?}\n{report}"
                ));
            }
        }
    }
    unload(target.host());
    counts
}

#[test]
fn policies_of_files_in_many_styles_are_not_wider() {
    world(|| {
        let folder = std::env::var("PEERWALL_STYLES").unwrap_or_else(|_| STYLES.to_owned());
        let count = std::env::var("PEERWALL_PROBES").map_or(8, |count| count.parse().unwrap());
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        let mut sum = [0; 2];
        let mut wider = Vec::new();
        for flavour in ["legacy", "nft"] {
            let mut target = Target::named(flavour);
            for path in &paths {
                let counts = try_file(&mut target, (path, flavour), count, &mut wider);
                println!("{flavour} {}: {counts:?}", path.display());
                for (all, one) in sum.iter_mut().zip(counts) {
                    *all += one;
                }
            }
        }
        println!("packets accepted and refused: {sum:?}");
        assert!(wider.is_empty(), "{}", wider.join("\n"));
        assert!(sum.iter().all(|count| *count > 0));
    });
}
