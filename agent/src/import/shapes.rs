//! Lines of one shape: they differ only in addresses, ports, comments, and names of chains and
//! sets.
//!
//! A large file has thousands of lines of a few shapes, as iptables-save prints them. iptables
//! reads some lines of each shape. If it prints them as they are, their words have one meaning, and
//! the other lines are read as they are, too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};

use ipnet::IpNet;
use peerwall_core::import::canonical::RuleLine;
use peerwall_proto::iptables::BUILTIN;

use super::lines::{is_chain, is_set};

/// Tables with fewer lines are read whole.
const MANY: usize = 2_000;
/// Number of lines of one shape that iptables reads.
const SAMPLES: usize = 4;

/// Lines of a table, some of each shape and the others.
pub(super) struct Shapes<'t> {
    /// Lines that iptables is to read, in their order.
    pub samples: Vec<&'t RuleLine>,
    /// The other lines by their shapes, with the samples of the shape.
    others: Vec<Shape<'t>>,
}

#[derive(Default)]
struct Shape<'t> {
    samples: Vec<&'t RuleLine>,
    others: Vec<&'t RuleLine>,
}

impl<'t> Shapes<'t> {
    pub(super) fn new(table: &str, lines: &[&'t RuleLine]) -> Self {
        if lines.len() < MANY {
            return Self {
                samples: lines.to_vec(),
                others: Vec::new(),
            };
        }
        let mut shapes: BTreeMap<String, Shape<'t>> = BTreeMap::new();
        let mut samples = Vec::new();
        for line in lines {
            let shape = shapes.entry(shape(table, line)).or_default();
            if shape.samples.len() < SAMPLES {
                shape.samples.push(line);
                samples.push(*line);
            } else {
                shape.others.push(line);
            }
        }
        let others = shapes.into_values();
        Self {
            samples,
            others: others.filter(|shape| !shape.others.is_empty()).collect(),
        }
    }

    /// Divides the lines that are not samples into those whose samples are all printed as they are,
    /// and the others, in their order.
    pub(super) fn others(
        self,
        is_printed_alike: impl Fn(&RuleLine) -> bool,
    ) -> (Vec<&'t RuleLine>, Vec<&'t RuleLine>) {
        let (mut alike, mut rest) = (Vec::new(), Vec::new());
        for shape in self.others {
            match shape.samples.iter().all(|line| is_printed_alike(line)) {
                true => alike.extend(shape.others),
                false => rest.extend(shape.others),
            }
        }
        rest.sort_by_key(|line| line.id);
        (alike, rest)
    }
}

/// Returns the words of a line without what lines of one shape may differ in.
fn shape(table: &str, line: &RuleLine) -> String {
    let mut shape = match BUILTIN.contains(&line.chain.as_str()) {
        true => line.chain.clone(),
        false => "a chain".to_owned(),
    };
    let mut before = "";
    for word in &line.words {
        shape.push('\n');
        shape.push_str(placeholder(table, before, word).unwrap_or(word));
        before = word;
    }
    shape
}

/// Returns what stands for a word after another one; `None` if lines of one shape have that word.
/// Only words that can be written in no other way have a placeholder.
fn placeholder(table: &str, before: &str, word: &str) -> Option<&'static str> {
    match before {
        "-s" | "-d" => network(word),
        "--dport" | "--sport" => port(word),
        "-j" | "-g" => {
            // Targets have names of capital letters, and so have some chains.
            let is_target = word.chars().all(|c| c.is_ascii_uppercase());
            (!is_target && is_chain(table, word)).then_some("<chain>")
        }
        "--to-destination" => {
            let with_port = word.parse::<SocketAddrV4>().ok();
            let is_plain = with_port.is_some_and(|to| to.to_string() == word && to.port() > 0);
            is_plain.then_some("<address:port>")
        }
        "--match-set" => is_set(word).then_some("<set>"),
        "--comment" => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || " -_.:/".contains(c);
            let is_short = (1..200).contains(&word.len()) && !word.starts_with(['-', ' ']);
            (is_short && word.chars().all(is_plain)).then_some("<comment>")
        }
        _ => None,
    }
}

fn network(word: &str) -> Option<&'static str> {
    let net: IpNet = word.parse().ok()?;
    let is_plain = net.trunc() == net && net.to_string() == word && net.prefix_len() > 0;
    match net.addr() {
        IpAddr::V4(_) => is_plain.then_some("<network>"),
        // There are two ways to write addresses with an IPv4 address in them.
        IpAddr::V6(address) => {
            (is_plain && address.segments()[0] >= 0x2000).then_some("<IPv6 network>")
        }
    }
}

fn port(word: &str) -> Option<&'static str> {
    let number: u16 = word.parse().ok()?;
    (number.to_string() == word && number > 0).then_some("<port>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerwall_core::import::File;
    use peerwall_core::import::canonical::{RuleTable, tables};
    use peerwall_core::net::addr::Family;

    fn table(lines: &[String]) -> RuleTable {
        let text = format!("*filter\n{}\nCOMMIT\n", lines.join("\n"));
        let (name, family) = ("rules".into(), Some(Family::V4));
        tables(&[File { name, text, family }]).remove(0)
    }

    #[test]
    fn lines_of_one_shape_differ_in_values_that_have_one_spelling() {
        let same = [
            (
                "-s 192.0.2.1/32 -j ACCEPT",
                "-s 198.51.100.0/24 -j ACCEPT",
                true,
            ),
            ("-s 192.0.2.1/32 -j ACCEPT", "-s 192.0.2.1 -j ACCEPT", false),
            (
                "-s 192.0.2.1/32 -j ACCEPT",
                "-s 192.0.2.1/24 -j ACCEPT",
                false,
            ),
            (
                "-s 192.0.2.1/32 -j ACCEPT",
                "-s 192.0.2.1/32 -j DROP",
                false,
            ),
            (
                "-s 192.0.2.1/32 -j ACCEPT",
                "! -s 192.0.2.1/32 -j ACCEPT",
                false,
            ),
            (
                "-s 192.0.2.1/32 -j ACCEPT",
                "-d 192.0.2.1/32 -j ACCEPT",
                false,
            ),
            ("-s 192.0.2.1/32 -j ACCEPT", "-s 0.0.0.0/0 -j ACCEPT", false),
            ("--dport 22 -j ACCEPT", "--dport 80 -j ACCEPT", true),
            ("--dport 22 -j ACCEPT", "--dport 022 -j ACCEPT", false),
            ("--dport 22 -j ACCEPT", "--dport ssh -j ACCEPT", false),
            ("--dport 22 -j ACCEPT", "--dport 22:23 -j ACCEPT", false),
            ("--dport 22 -j ACCEPT", "--dport 70000 -j ACCEPT", false),
            ("-j KUBE-SVC-A", "-j KUBE-SVC-B", true),
            ("-j KUBE-SVC-A", "-j ACCEPT", false),
            ("-j KUBE-SVC-A", "-g KUBE-SVC-A", false),
            (
                "-m limit --limit 1/sec -j ACCEPT",
                "-m limit --limit 2/sec -j ACCEPT",
                false,
            ),
            (
                "-m comment --comment \"a b\" -j DROP",
                "-m comment --comment c -j DROP",
                true,
            ),
            (
                "-m comment --comment \"a b\" -j DROP",
                "-m comment --comment \"a \\\" b\" -j DROP",
                false,
            ),
        ];
        for (one, other, want) in same {
            let lines = [one, other].map(|line| format!("-A INPUT {line}"));
            let table = table(&lines);
            let [one, other] = &table.lines[..] else {
                panic!("{table:?}");
            };
            let is_same = shape("filter", one) == shape("filter", other);
            assert_eq!(is_same, want, "{one:?} {other:?}");
        }
    }

    #[test]
    fn some_lines_of_each_shape_stand_for_the_others() {
        let mut lines: Vec<String> = (0..2500)
            .map(|n| format!("-A INPUT -s 10.1.{}.{}/32 -j DROP", n / 250, n % 250))
            .collect();
        lines.insert(1000, "-A INPUT -p tcp --dport ssh -j ACCEPT".into());
        lines.extend((0..10).map(|n| format!("-A INPUT -s 10.2.0.{n} -j DROP")));
        let table = table(&lines);
        let all: Vec<&RuleLine> = table.lines.iter().collect();
        let shapes = Shapes::new("filter", &all);
        assert_eq!(shapes.samples.len(), SAMPLES + 1 + 10);
        let (alike, rest) = shapes.others(|line| line.words[1].ends_with("/32"));
        assert_eq!((alike.len(), rest.len()), (2500 - SAMPLES, 0));
        let (alike, rest) = Shapes::new("filter", &all).others(|_| false);
        assert_eq!((alike.len(), rest.len()), (0, 2500 - SAMPLES));
        assert!(rest.is_sorted_by_key(|line| line.id));
        let few = Shapes::new("filter", &all[..100]);
        assert_eq!(few.samples.len(), 100);
    }
}
