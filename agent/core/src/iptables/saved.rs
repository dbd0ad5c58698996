//! What `iptables-save --counters` says of our chains, and what to feed `iptables-restore --noflush`
//! so that they become what is wanted.
//!
//! iptables prints a rule in other words than it was given: defaults are left out, protocols get
//! names, rates other units. So rules are compared in a canonical form: options in any order, values
//! normalized. One restore changes one family in one step; counters of rules that stay go along.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use ipnet::IpNet;
use peerwall_proto::iptables::{self, Line};

use crate::iptables::restore::{JUMP_COMMENT, Script, Table, WantedChain, WantedJump, jump};
use crate::iptables::{CHAIN_PREFIX, is_our_chain};
use crate::net::protocol;

/// `XT_LIMIT_SCALE` in `include/uapi/linux/netfilter/xt_limit.h`: rates are kept in parts of it.
const XT_LIMIT_SCALE: u64 = 10_000;
/// Burst that iptables has for a limit if none is given, and then does not print.
const LIMIT_BURST_DEFAULT: &str = "5";

/// Our part of the tables of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Our chains with their rules.
    pub chains: BTreeMap<(Table, String), Vec<SavedRule>>,
    /// Jumps into our chains from others', and whether each is the first rule of its chain.
    pub jumps: Vec<SavedJump>,
}

impl Saved {
    /// The same as something to want, for going back to it.
    pub fn as_script(&self) -> Script {
        let texts = |rules: &[SavedRule]| rules.iter().map(|rule| rule.text.clone()).collect();
        let chains = self
            .chains
            .iter()
            .map(|((table, name), rules)| WantedChain {
                table: *table,
                name: name.clone(),
                rules: texts(rules),
            });
        let jumps = self.jumps.iter().filter_map(|old| {
            let from = ["INPUT", "FORWARD", "PREROUTING"]
                .into_iter()
                .find(|from| *from == old.from)?;
            let to = words(&old.text)
                .into_iter()
                .find(|word| is_our_chain(word))?;
            let table = old.table;
            Some(WantedJump { table, from, to })
        });
        Script {
            chains: chains.collect(),
            jumps: jumps.collect(),
        }
    }
}

/// A rule as `iptables-save` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRule {
    /// What stands behind `-A CHAIN`.
    pub text: String,
    /// Packets it counted.
    pub packets: u64,
    /// Bytes it counted.
    pub bytes: u64,
}

/// A jump into one of our chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedJump {
    /// The table it is in.
    pub table: Table,
    /// The chain it is in.
    pub from: String,
    /// What stands behind `-A CHAIN`.
    pub text: String,
    /// Whether it is that chain's first rule.
    pub first: bool,
}

/// What cannot be read, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedError {
    /// Number of the line, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl std::fmt::Display for SavedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "line {} of iptables-save makes no sense: {}",
            self.line, self.text
        )
    }
}

impl std::error::Error for SavedError {}

/// Reads our part of the output of `iptables-save --counters`; of other tables than [`Table`]s nothing.
///
/// # Errors
/// [`SavedError`] for a line that is no line of such an output.
pub fn parse(text: &str) -> Result<Saved, SavedError> {
    let mut saved = Saved::default();
    let mut met: BTreeMap<(Table, &str), usize> = BTreeMap::new();
    let mut table = Some(Table::Filter);
    for (index, line) in text.lines().enumerate() {
        let wrong = || SavedError {
            line: index + 1,
            text: line.to_owned(),
        };
        let read = iptables::line(line);
        if let Ok(Line::Table(name)) = read {
            table = Table::ALL.into_iter().find(|table| table.name() == name);
            continue;
        }
        let Some(table) = table else {
            continue;
        };
        let (counters, rule) = match read {
            Err(_) => return Err(wrong()),
            Ok(Line::Blank | Line::Commit | Line::Table(_)) => continue,
            Ok(Line::Chain { name, .. }) => {
                if is_our_chain(name) {
                    saved.chains.entry((table, name.to_owned())).or_default();
                }
                continue;
            }
            Ok(Line::Command { counters, text }) => (counters, text),
        };
        let (packets, bytes) = counters.unwrap_or_default();
        let (chain, text) = rule
            .strip_prefix("-A ")
            .and_then(|r| r.split_once(' '))
            .unwrap_or((rule.strip_prefix("-A ").ok_or_else(wrong)?, ""));
        let position = met.entry((table, chain)).or_default();
        *position += 1;
        let text = text.to_owned();
        if is_our_chain(chain) {
            let rule = SavedRule {
                text,
                packets,
                bytes,
            };
            let key = (table, chain.to_owned());
            saved.chains.entry(key).or_default().push(rule);
        } else if words(&text).iter().any(|word| is_our_chain(word)) {
            saved.jumps.push(SavedJump {
                table,
                from: chain.to_owned(),
                first: *position == 1,
                text,
            });
        }
    }
    Ok(saved)
}

/// The words of a rule; one that cannot be split is one word, and like no rule of ours.
fn words(line: &str) -> Vec<String> {
    iptables::words(line).unwrap_or_else(|_| vec![line.to_owned()])
}

/// A rule in canonical form: negation, option and value of each of its parts, in ascending order.
pub type Canonical = Vec<(bool, String, String)>;

/// The canonical form of what stands behind `-A CHAIN`.
pub fn canonical(rule: &str) -> Canonical {
    let mut parts = Vec::new();
    let mut negated = false;
    let mut words = words(rule).into_iter();
    while let Some(option) = words.next() {
        if option == "!" {
            negated = true;
            continue;
        }
        let has_value = option.starts_with('-') && option != "--set";
        let mut value = match has_value {
            true => words.next().unwrap_or_default(),
            false => String::new(),
        };
        // The options of ours with two values: a set and which address of the packet, TCP flags and which of
        // them are set.
        if matches!(option.as_str(), "--match-set" | "--tcp-flags") {
            value.push(' ');
            value.push_str(&words.next().unwrap_or_default());
        }
        if let Some(value) = normalized(&option, value) {
            parts.push((negated, option, value));
        }
        negated = false;
    }
    parts.sort();
    parts
}

/// The value as all spellings of it are compared; `None` if the option says nothing.
fn normalized(option: &str, value: String) -> Option<String> {
    match option {
        // Which module an option is of is clear from the option.
        "-m" => None,
        "--limit-burst" | "--hashlimit-burst" if value == LIMIT_BURST_DEFAULT => None,
        "--nflog-group" if value == "0" => None,
        "-s" | "-d" => address(&value),
        "--ctorigdst" => Some(address(&value).unwrap_or_else(|| "0".to_owned())),
        "--mac-source" => Some(value.to_ascii_lowercase()),
        "-p" => Some(protocol::by_name(&value).map_or(value, |number| number.to_string())),
        "--ctstate" => {
            let mut states: Vec<&str> = value.split(',').collect();
            states.sort_unstable();
            Some(states.join(","))
        }
        "--limit" | "--hashlimit-upto" => Some(rate(&value).unwrap_or(value)),
        _ => Some(value),
    }
}

/// Every address is the same as none.
fn address(value: &str) -> Option<String> {
    let net = match value.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match value.parse::<std::net::IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => return Some(value.to_owned()),
        },
    };
    (net.prefix_len() > 0).then(|| net.to_string())
}

/// A rate as the kernel keeps it: 60/min and 1/sec are the same.
fn rate(value: &str) -> Option<String> {
    let (count, unit) = value.split_once('/')?;
    let count: u64 = count.parse().ok().filter(|n| *n > 0)?;
    let seconds = match unit.get(..1)? {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    Some((XT_LIMIT_SCALE * seconds / count).to_string())
}

/// Input for `iptables-restore --noflush --counters` that makes `wanted` of `seen`; `None` if it is.
/// `None` for `wanted` takes everything of ours away.
pub fn restore(wanted: Option<&Script>, seen: &Saved) -> Option<String> {
    let nothing = Script::default();
    let all = wanted.unwrap_or(&nothing);
    let mut order = Table::ALL;
    // What is taken away goes in the other order: while the filter table is there, it has its labels.
    if wanted.is_none() {
        order.reverse();
    }
    let texts = order
        .into_iter()
        .filter_map(|table| of_table(table, all, seen));
    let text: String = texts.collect();
    (!text.is_empty()).then_some(text)
}

/// The input for one table; `None` if it is as it should be.
fn of_table(table: Table, wanted: &Script, seen: &Saved) -> Option<String> {
    if is_same(table, wanted, seen) {
        return None;
    }
    let chains = || wanted.chains.iter().filter(|chain| chain.table == table);
    let stale: Vec<&String> = seen
        .chains
        .keys()
        .filter(|(of, name)| *of == table && !has_chain(wanted, table, name))
        .map(|(_, name)| name)
        .collect();
    let mut out = format!("*{}\n", table.name());
    // To declare a chain is to make it, or to empty it.
    let names = chains()
        .map(|chain| &chain.name)
        .chain(stale.iter().copied());
    for name in names {
        let _ = writeln!(out, ":{name} - [0:0]");
    }
    for chain in chains() {
        let name = &chain.name;
        let old = seen.chains.get(&(table, name.clone()));
        let mut counted = counted_by_form(old.map_or(&[], Vec::as_slice));
        for rule in &chain.rules {
            let same = counted
                .get_mut(&canonical(rule))
                .and_then(VecDeque::pop_front);
            let (packets, bytes) = same.unwrap_or_default();
            let _ = writeln!(out, "[{packets}:{bytes}] -A {name} {rule}");
        }
    }
    for old in seen.jumps.iter().filter(|old| old.table == table) {
        if !keeps(wanted, old) {
            let _ = writeln!(out, "-D {} {}", old.from, old.text);
        }
    }
    for each in wanted.jumps.iter().filter(|each| each.table == table) {
        if !seen.jumps.iter().any(|old| is_jump(old, each)) {
            let _ = writeln!(out, "-I {} 1 {}", each.from, jump(&each.to));
        }
    }
    for name in stale {
        let _ = writeln!(out, "-X {name}");
    }
    out.push_str("COMMIT\n");
    Some(out)
}

fn is_same(table: Table, wanted: &Script, seen: &Saved) -> bool {
    let same_rules = |chain: &WantedChain| {
        let Some(old) = seen.chains.get(&(table, chain.name.clone())) else {
            return false;
        };
        let forms = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|t| canonical(t)).collect::<Vec<_>>()
        };
        forms(&mut chain.rules.iter()) == forms(&mut old.iter().map(|rule| &rule.text))
    };
    let chains = || wanted.chains.iter().filter(|chain| chain.table == table);
    let jumps = || wanted.jumps.iter().filter(|jump| jump.table == table);
    let seen_jumps = || seen.jumps.iter().filter(|jump| jump.table == table);
    let seen_chains = seen.chains.keys().filter(|(of, _)| *of == table);
    chains().count() == seen_chains.count()
        && chains().all(same_rules)
        && jumps().count() == seen_jumps().count()
        && seen_jumps().all(|old| keeps(wanted, old))
}

fn has_chain(script: &Script, table: Table, name: &str) -> bool {
    let mut chains = script.chains.iter();
    chains.any(|chain| chain.table == table && chain.name == name)
}

fn keeps(wanted: &Script, old: &SavedJump) -> bool {
    wanted.jumps.iter().any(|jump| is_jump(old, jump))
}

/// Whether this is the jump that is wanted: first in its chain, and nothing else to it.
fn is_jump(old: &SavedJump, wanted: &WantedJump) -> bool {
    old.first
        && (old.table, old.from.as_str()) == (wanted.table, wanted.from)
        && canonical(&old.text) == canonical(&jump(&wanted.to))
}

/// What rules counted, by their form; rules of the same form in their order.
fn counted_by_form(rules: &[SavedRule]) -> BTreeMap<Canonical, VecDeque<(u64, u64)>> {
    let mut counted: BTreeMap<Canonical, VecDeque<(u64, u64)>> = BTreeMap::new();
    for rule in rules {
        let same = counted.entry(canonical(&rule.text)).or_default();
        same.push_back((rule.packets, rule.bytes));
    }
    counted
}

/// Packets and bytes by the counter that a rule has for a comment.
pub fn counters(seen: &Saved) -> BTreeMap<String, (u64, u64)> {
    let mut counters: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for rule in seen.chains.values().flatten() {
        let parts = canonical(&rule.text);
        let comment = parts.iter().find(|(_, option, _)| option == "--comment");
        let known = comment.filter(|(_, _, name)| crate::ruleset::counter_reason(name).is_some());
        if let Some((_, _, name)) = known {
            let entry = counters.entry(name.clone()).or_default();
            entry.0 += rule.packets;
            entry.1 += rule.bytes;
        }
    }
    counters
}

/// Whether a rule is one of our jumps by its comment, for who counts others' rules.
pub fn is_ours(line: &str) -> bool {
    line.contains(CHAIN_PREFIX) || line.contains(&format!("--comment {JUMP_COMMENT} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both columns were loaded into and printed by iptables 1.8.9.
    #[test]
    fn what_iptables_prints_is_what_it_was_given() {
        for (given, printed) in [
            (
                "-s 129.21.49.48 -m comment --comment \"input.peers\" -j ACCEPT",
                "-s 129.21.49.48/32 -m comment --comment input.peers -j ACCEPT",
            ),
            (
                "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
                "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ),
            (
                "-m limit --limit 60/minute --limit-burst 5 -j DROP",
                "-m limit --limit 1/sec -j DROP",
            ),
            (
                "-m limit --limit 100/minute --limit-burst 20 -j DROP",
                "-m limit --limit 100/min --limit-burst 20 -j DROP",
            ),
            (
                "-s 2001:db8:1::/48 -p 47 -j ACCEPT",
                "-s 2001:db8:1::/48 -p gre -j ACCEPT",
            ),
            ("-s 0.0.0.0/0 -j ACCEPT", "-j ACCEPT"),
            (
                "-m addrtype --dst-type LOCAL -m connlabel --label 127 --set -m comment --comment \"here\"",
                "-m addrtype --dst-type LOCAL -m connlabel --label \"127\" --set -m comment --comment here",
            ),
            (
                "-p tcp -m tcp --dport 22 -m hashlimit --hashlimit-upto 10/second --hashlimit-burst 20 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT",
                "-p tcp -m tcp --dport 22 -m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT",
            ),
            (
                "-p udp -m udp --sport 67 -m udp --dport 68 -j ACCEPT",
                "-p udp -m udp --sport 67 --dport 68 -j ACCEPT",
            ),
        ] {
            assert_eq!(canonical(given), canonical(printed), "{given}");
        }
        for (one, other) in [
            ("-s 10.0.0.1 -j ACCEPT", "-s 10.0.0.2 -j ACCEPT"),
            ("-i eth0 -j ACCEPT", "! -i eth0 -j ACCEPT"),
            (
                "-m limit --limit 1/sec -j DROP",
                "-m limit --limit 2/sec -j DROP",
            ),
            ("-j ACCEPT", "-j DROP"),
            ("-j ACCEPT", "-p tcp -j ACCEPT"),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one}");
        }
    }

    #[test]
    fn only_what_is_ours_is_read_and_a_jump_that_is_not_first_is_moved() {
        let saved = "*filter\n:INPUT ACCEPT [5:6]\n:PEERWALL-INPUT - [0:0]\n:KUBE - [0:0]\n[1:2] -A INPUT -j KUBE\n[3:4] -A INPUT -m comment --comment peerwall -j PEERWALL-INPUT\n[7:8] -A PEERWALL-INPUT -i lo -j ACCEPT\nCOMMIT\n";
        let seen = parse(saved).unwrap();
        let wanted = Script {
            chains: vec![WantedChain {
                table: Table::Filter,
                name: "PEERWALL-INPUT".into(),
                rules: vec!["-i lo -j ACCEPT".into()],
            }],
            jumps: vec![WantedJump {
                table: Table::Filter,
                from: "INPUT",
                to: "PEERWALL-INPUT".into(),
            }],
        };
        let text = restore(Some(&wanted), &seen).unwrap();
        assert_eq!(
            text,
            "*filter\n:PEERWALL-INPUT - [0:0]\n[7:8] -A PEERWALL-INPUT -i lo -j ACCEPT\n-D INPUT -m comment --comment peerwall -j PEERWALL-INPUT\n-I INPUT 1 -m comment --comment peerwall -j PEERWALL-INPUT\nCOMMIT\n"
        );
        let text = restore(None, &seen).unwrap();
        assert_eq!(
            text,
            "*filter\n:PEERWALL-INPUT - [0:0]\n-D INPUT -m comment --comment peerwall -j PEERWALL-INPUT\n-X PEERWALL-INPUT\nCOMMIT\n"
        );
        assert_eq!(restore(None, &Saved::default()), None);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error_with_its_number() {
        for text in [
            "*filter\nnonsense\n",
            "[1:x] -A INPUT -j ACCEPT\n",
            "[1:2 -A\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
