//! What became of every line, and what was wrong with the rules from the start.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::draft::Unsaid;
use super::proof::{self, Fate as Packets, Proof};
use super::rule::{self, At, Chains, Condition, Rule, Target, Test};
use super::view::View;
use super::{Facts, Import, Parsed, managed};
use crate::net::addr::Family;
use crate::net::packet::CtState;
use crate::policy::reason::Reason;
use crate::policy::{Policy, icmp};

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is in the policy.
    Taken,
    /// The safe core, or the way a policy works, has it.
    Core,
    /// Some program keeps it by itself and goes on doing so.
    Beside,
    /// It decides nothing.
    Nothing,
    /// Only a part of it is in the policy.
    Partly,
    /// The policy cannot say it.
    Left,
}

impl Fate {
    /// Whether nothing of the line is lost.
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Partly | Self::Left)
    }

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Core => "core",
            Self::Beside => "beside",
            Self::Nothing => "-",
            Self::Partly => "partly",
            Self::Left => "LEFT",
        }
    }
}

/// A line and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The file.
    pub file: String,
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What became of it.
    pub fate: Fate,
    /// Into which entry, or why not and what to do.
    pub words: String,
}

/// A classic hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// A name that stays the same.
    pub name: &'static str,
    /// What is wrong with the rules.
    pub sentence: String,
    /// What the policy does about it, or what is left to do.
    pub answer: String,
}

impl fmt::Display for Import {
    /// The account for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut file = "";
        for line in &self.lines {
            if line.file != file {
                file = &line.file;
                writeln!(f, "{file}:")?;
            }
            writeln!(f, "{:>5}  {}", line.line, line.text)?;
            writeln!(f, "       {:<6} {}", line.fate.word(), line.words)?;
        }
        if !self.lints.is_empty() {
            writeln!(f, "\nholes in these rules:")?;
        }
        for lint in &self.lints {
            writeln!(f, "  {}\n    {}", lint.sentence, lint.answer)?;
        }
        let packets = self.compared;
        let thinned = if self.thinned {
            ", of more than could all be tried,"
        } else {
            ""
        };
        if self.differences.is_empty() {
            return writeln!(
                f,
                "\nno difference between rules and policy in {packets} packets{thinned}"
            );
        }
        writeln!(
            f,
            "\nwhere the policy differs from these rules ({packets} packets{thinned} compared):"
        )?;
        for difference in &self.differences {
            writeln!(
                f,
                "  {}{}",
                difference.sentence,
                at_lines(&difference.lines)
            )?;
        }
        Ok(())
    }
}

/// ` (line 12)`, for what is not said by too many.
fn at_lines(lines: &[At]) -> String {
    let mut lines: Vec<usize> = lines
        .iter()
        .map(|at| at.line)
        .filter(|line| *line > 0)
        .collect();
    lines.sort_unstable();
    lines.dedup();
    match lines[..] {
        [] => String::new(),
        [one] => format!(" (line {one})"),
        [one, two] => format!(" (lines {one} and {two})"),
        [one, ..] => format!(" (line {one} and {} more)", lines.len() - 1),
    }
}

/// Everything that became of the lines of all files.
pub(super) fn lines(
    parsed: &Parsed,
    policy: &Policy,
    proof: &Proof,
    unsaid: &[Unsaid],
) -> Vec<Line> {
    let mut out = Vec::new();
    for (index, file) in parsed.files.iter().enumerate() {
        for (number, text) in file.text.lines().enumerate() {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let at = At {
                input: index,
                line: number + 1,
            };
            let (fate, words) = fate(parsed, policy, proof, unsaid, at, text);
            out.push(Line {
                file: file.name.clone(),
                line: at.line,
                text: text.to_owned(),
                fate,
                words,
            });
        }
    }
    out
}

/// Where a line stands.
struct Found<'r> {
    table: String,
    chain: &'r str,
    rule: Option<&'r Rule>,
}

fn fate(
    parsed: &Parsed,
    policy: &Policy,
    proof: &Proof,
    unsaid: &[Unsaid],
    at: At,
    text: &str,
) -> (Fate, String) {
    if text.starts_with('#') {
        return (Fate::Nothing, "a comment".into());
    }
    if text.starts_with('*') || text == "COMMIT" {
        return (Fate::Nothing, "bounds of a table".into());
    }
    let Some(found) = find(parsed, at) else {
        return match parsed.is_set_line(at.input) {
            true => (
                Fate::Taken,
                "a set that rules match; its addresses are in the policy where they are accepted"
                    .into(),
            ),
            false => (Fate::Nothing, "says nothing".into()),
        };
    };
    if managed::is_ours(found.chain) {
        return (Fate::Nothing, "peerwall's own".into());
    }
    if found.table != "filter" {
        return other_table(&found, policy, proof, at);
    }
    match found.rule {
        None => chain(parsed, &found, policy, proof, at),
        Some(rule) => filter_rule(parsed, &found, rule, policy, proof, unsaid),
    }
}

fn find(parsed: &Parsed, at: At) -> Option<Found<'_>> {
    for (input, name, table) in &parsed.tables {
        if *input != at.input {
            continue;
        }
        for (chain, content) in table {
            let rule = content.rules.iter().find(|rule| rule.at == at);
            if rule.is_some() || content.at == Some(at) {
                return Some(Found {
                    table: name.clone(),
                    chain,
                    rule,
                });
            }
        }
    }
    None
}

/// Tables that a policy has nothing to do with.
fn other_table(found: &Found<'_>, policy: &Policy, proof: &Proof, at: At) -> (Fate, String) {
    let Some(rule) = found.rule else {
        return (
            Fate::Nothing,
            format!("a chain of {}, which peerwall leaves alone", found.table),
        );
    };
    let to = rule.target.chain();
    let manager = managed::by(found.chain).or_else(|| to.and_then(managed::by));
    let of_docker = rule.target == Target::Masquerade && is_dockers(rule);
    let name = manager
        .map(|manager| manager.name)
        .or(of_docker.then_some("Docker"));
    if let Some(name) = name {
        return (
            Fate::Beside,
            format!("{name} keeps it, and puts it back by itself"),
        );
    }
    let opened = proof.published.iter().find(|(line, _)| *line == at);
    let allow = opened.and_then(|(_, port)| {
        let allow = policy.allows.iter().find(|allow| {
            let mut ports = allow.ports.iter().flatten();
            ports.any(|spec| {
                spec.protocols.contains(&port.protocol)
                    && spec.range.is_some_and(|range| range.contains(port.dialled))
            })
        })?;
        Some(format!("; who may dial it says [[allow]] {}", allow.name))
    });
    (
        Fate::Left,
        format!(
            "peerwall rewrites and marks nothing: keep the table {} in a file of its own, loaded by iptables-restore{}",
            found.table,
            allow.unwrap_or_default()
        ),
    )
}

/// What Docker masquerades: its networks on the way out, and containers that dial themselves.
fn is_dockers(rule: &Rule) -> bool {
    let conditions = || rule.conditions.iter();
    let mut outs = conditions()
        .filter(|c| c.negated)
        .filter_map(Condition::out);
    let bridge = outs.any(|pattern| {
        let name = pattern.example();
        name.starts_with("docker") || name.starts_with("br-")
    });
    let from = conditions().find_map(Condition::sources);
    let to = conditions().find_map(Condition::destinations);
    bridge || (from.is_some() && from == to)
}

/// A line like `:INPUT DROP [0:0]`.
fn chain(
    parsed: &Parsed,
    found: &Found<'_>,
    policy: &Policy,
    proof: &Proof,
    at: At,
) -> (Fate, String) {
    let accepts = parsed.chain(at).and_then(|chain| chain.accepts);
    match (found.chain, accepts) {
        (_, None) => (Fate::Nothing, "a chain of one's own".into()),
        ("OUTPUT", Some(true)) => (
            Fate::Core,
            "peerwall leaves what this host sends alone".into(),
        ),
        ("OUTPUT", Some(false)) => (Fate::Left, OUTPUT.into()),
        (_, Some(false)) => (Fate::Core, "what no entry allows is dropped".into()),
        (_, Some(true)) => {
            let packets = proof.fates.get(&at).cloned().unwrap_or_default();
            accepting(policy, &packets, false, false, || {
                "what no entry allows is dropped; who may go through this host is a peer, an overlay or on a trusted interface".into()
            })
        }
    }
}

const OUTPUT: &str = "peerwall does not filter what this host sends: keep it in a rules file of its own, loaded by iptables-restore";

fn filter_rule(
    parsed: &Parsed,
    found: &Found<'_>,
    rule: &Rule,
    policy: &Policy,
    proof: &Proof,
    unsaid: &[Unsaid],
) -> (Fate, String) {
    let filter = parsed.filter(rule.at);
    let judged = filter.is_some_and(|chains| {
        reaches(chains, "INPUT", found.chain) || reaches(chains, "FORWARD", found.chain)
    });
    if !judged {
        let output = filter.is_some_and(|chains| reaches(chains, "OUTPUT", found.chain));
        return match (&rule.target, output) {
            (_, false) => (
                Fate::Nothing,
                format!("nothing leads to the chain {}", found.chain),
            ),
            (Target::Drop | Target::Reject | Target::Unknown(_), true) => {
                match managed::by(found.chain) {
                    Some(manager) => (Fate::Beside, format!("{} keeps it", manager.name)),
                    None => (Fate::Left, OUTPUT.into()),
                }
            }
            (_, true) => (
                Fate::Core,
                "peerwall leaves what this host sends alone".into(),
            ),
        };
    }
    let manager = managed::by(found.chain);
    if rule.unknown().next().is_some() {
        return unknown(rule, manager);
    }
    let packets = proof.fates.get(&rule.at).cloned().unwrap_or_default();
    match &rule.target {
        Target::Continue(what) => continuing(what, manager),
        Target::Dnat(..) | Target::Masquerade => {
            (Fate::Left, "no rule of the filter table can do this".into())
        }
        Target::Return => (
            Fate::Core,
            "what it spares from the rest of its chain is spared by the policy".into(),
        ),
        Target::Jump(to) | Target::Goto(to) => {
            (Fate::Nothing, format!("leads to the chain {to}; see there"))
        }
        Target::Accept => {
            let is_icmp = rule
                .conditions
                .iter()
                .any(|c| matches!(c.test, Test::Protocol(1 | 58)));
            let (fate, mut words) = accepting(policy, &packets, is_icmp, is_for_some(rule), || {
                why_not(rule, unsaid)
            });
            if let Some(manager) = manager.filter(|_| !fate.is_whole()) {
                return (
                    Fate::Beside,
                    format!(
                        "{} keeps it; what it accepts beyond the policy is closed",
                        manager.name
                    ),
                );
            }
            if fate == Fate::Nothing && packets.kept.is_empty() {
                if let Some(why) = unsaid.iter().find(|u| u.at == rule.at) {
                    return (Fate::Left, why.why.clone());
                }
                if never(rule) {
                    return (Fate::Left, why_not(rule, unsaid));
                }
            }
            let rates: Vec<&str> = rule.rates().collect();
            if !rates.is_empty() && fate.is_whole() && fate != Fate::Nothing {
                words.push_str(&format!(
                    "; without its rate ({}), which the policy cannot say: limit it in the service, or keep a rule that drops above the rate",
                    rates.join(", ")
                ));
                return (Fate::Partly, words);
            }
            (fate, words)
        }
        Target::Drop | Target::Reject | Target::Unknown(_) => denying(rule, &packets, manager),
    }
}

/// Whether some condition holds for no packet that was asked about.
fn never(rule: &Rule) -> bool {
    rule.conditions
        .iter()
        .any(|c| matches!(c.test, Test::Always(holds) | Test::Rate(holds, _) if holds == c.negated))
}

fn unknown(rule: &Rule, manager: Option<managed::Manager>) -> (Fate, String) {
    let words: Vec<&str> = rule.unknown().collect();
    let words = words.join(" ");
    if let Some(manager) = manager {
        return (
            Fate::Beside,
            format!("{} keeps it, and puts it back by itself", manager.name),
        );
    }
    match rule.target {
        Target::Accept => (
            Fate::Left,
            format!(
                "`{words}` has no word in the policy, so nothing is accepted by it; if the rest of the line will do, write an allow for that"
            ),
        ),
        Target::Drop | Target::Reject | Target::Unknown(_) => (
            Fate::Left,
            format!(
                "`{words}` has no word in the policy; a drop in another table still drops: keep it in a rules file of its own"
            ),
        ),
        Target::Continue(_) => (Fate::Nothing, "decides nothing".into()),
        Target::Return
        | Target::Jump(_)
        | Target::Goto(_)
        | Target::Dnat(..)
        | Target::Masquerade => (
            Fate::Left,
            format!(
                "`{words}` has no word in the policy, so only what is accepted with and without it is taken"
            ),
        ),
    }
}

fn continuing(what: &str, manager: Option<managed::Manager>) -> (Fate, String) {
    match (what.split(' ').next().unwrap_or_default(), manager) {
        ("LOG" | "NFLOG" | "ULOG" | "AUDIT", _) => (
            Fate::Core,
            "peerwall logs what it denies, by NFLOG with the reason; see [log]".into(),
        ),
        ("count", _) => (Fate::Nothing, "only counts".into()),
        (_, Some(manager)) => (Fate::Beside, format!("{} keeps it", manager.name)),
        (name, None) => (
            Fate::Left,
            format!("peerwall marks and changes no packet: keep {name} in a rules file of its own"),
        ),
    }
}

/// A line that accepts.
fn accepting(
    policy: &Policy,
    packets: &Packets,
    is_icmp: bool,
    is_for_some: bool,
    why_not: impl Fn() -> String,
) -> (Fate, String) {
    let entries = entries(policy, packets, is_icmp, is_for_some);
    // What is closed since it cannot be true is no loss.
    let lost = packets.closed.iter().any(|reason| {
        !matches!(
            reason,
            Reason::OverlaySpoof | Reason::OverlayInject | Reason::Invalid
        )
    });
    let core = packets.kept.iter().all(is_core);
    let icmp = is_icmp
        && packets
            .kept
            .iter()
            .all(|r| is_core(r) || *r == Reason::Ping);
    match (packets.kept.is_empty(), lost) {
        (true, false) if packets.closed.is_empty() && !packets.foreign => (
            Fate::Nothing,
            "decides nothing: lines above it do, or no packet is like that".into(),
        ),
        (true, false) if packets.closed.contains(&Reason::Invalid) && packets.closed.len() == 1 => {
            (
                Fate::Core,
                "answers are accepted as replies; what is of no connection is dropped".into(),
            )
        }
        (true, _) => (Fate::Left, why_not()),
        (false, true) if icmp => (
            Fate::Core,
            format!("{entries}; what no network needs of it is closed, see [icmp] for more"),
        ),
        (false, true) => (
            Fate::Partly,
            format!("{entries}; the rest is closed: {}", why_not()),
        ),
        (false, false) if core => (Fate::Core, entries),
        (false, false) => (Fate::Taken, entries),
    }
}

fn is_core(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Established | Reason::Loopback | Reason::Icmp | Reason::Dhcp
    )
}

/// The policy's entries that accept what a line accepted.
fn entries(policy: &Policy, packets: &Packets, is_icmp: bool, is_for_some: bool) -> String {
    let mut names: BTreeSet<String> = BTreeSet::new();
    // What comes along with everything is worth naming only by itself: replies, and what the core
    // accepts; peers and pods, whom a line for everybody is not there for.
    let rank = |reason: &Reason| match reason {
        Reason::Established => 0,
        Reason::Icmp if is_icmp => 3,
        Reason::Icmp | Reason::Dhcp | Reason::Loopback => 1,
        Reason::Peers | Reason::Overlay(_) => 2,
        Reason::Allow(_) | Reason::Ping | Reason::Trusted | Reason::Bridged | Reason::Guests => 3,
        // No packet is accepted for these.
        Reason::OverlaySpoof
        | Reason::OverlayInject
        | Reason::LoopbackSpoof
        | Reason::Redirect
        | Reason::RouterAdvert
        | Reason::PeerSpoof
        | Reason::GuestBlocked
        | Reason::ServiceAddress
        | Reason::Invalid
        | Reason::InputDefault
        | Reason::ForwardDefault => 0,
    };
    let highest = packets.kept.iter().map(rank).max().unwrap_or(0);
    let lowest = if is_for_some { highest.min(2) } else { highest };
    for reason in packets.kept.iter().filter(|reason| rank(reason) >= lowest) {
        if *reason == Reason::Peers {
            names.extend(peers(policy, packets));
        } else if *reason == Reason::Icmp && policy.icmp.v4 == crate::policy::IcmpTypes::All {
            names.insert("[icmp] v4".into());
        } else {
            names.insert(proof::entry(reason));
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    match names.is_empty() {
        true => "[peers]".into(),
        false => names.join(", "),
    }
}

/// Whether a line is for some sources or interfaces only.
fn is_for_some(rule: &Rule) -> bool {
    rule.conditions
        .iter()
        .any(|c| !c.negated && matches!(c.test, Test::Source(_) | Test::In(_)))
}

fn peers(policy: &Policy, packets: &Packets) -> Vec<String> {
    const FEW: usize = 4;
    let among = |peer: &&crate::policy::Peer| {
        peer.addresses
            .iter()
            .any(|a| packets.sources.iter().any(|s| a.net.contains(s)))
    };
    let names: Vec<String> = policy
        .peers
        .iter()
        .filter(among)
        .filter_map(|peer| Some(format!("[peers] {}", peer.name.as_deref()?)))
        .collect();
    if names.len() > FEW { Vec::new() } else { names }
}

/// Why the policy does not accept what a line does, and what to do.
fn why_not(rule: &Rule, unsaid: &[Unsaid]) -> String {
    if let Some(why) = unsaid.iter().find(|u| u.at == rule.at) {
        return why.why.clone();
    }
    let mut why: Vec<&str> = Vec::new();
    for condition in &rule.conditions {
        why.push(match (&condition.test, condition.negated) {
            (Test::SourcePorts(_) | Test::EitherPort(_), _) => "a source port is the sender's to choose, and proves nothing; replies are accepted as replies",
            (Test::Destination(_), _) => "an allow is for every address of this host; add one for the port if that will do",
            (Test::Out(_), _) => "a policy says who may go through this host, not by which way out; make who sends it a peer, or its interface trusted",
            (Test::In(_), true) => "a policy can only name interfaces that something is for",
            (Test::Rate(..), _) => "what was seen before is not in the packet; a policy cannot wait for it",
            (Test::Always(false), false) => "a policy has no word for fragments, broadcasts and multicasts",
            (Test::State { dnat: true, .. }, _) => "published ports are allowed one by one, by the port that is dialled",
            _ => continue,
        });
    }
    why.dedup();
    match why.is_empty() {
        true => "a policy opens this host and its published ports; who may go through is a peer, an overlay or on a trusted interface".into(),
        false => why.join("; "),
    }
}

/// A line that drops or refuses.
fn denying(rule: &Rule, packets: &Packets, manager: Option<managed::Manager>) -> (Fate, String) {
    if let Some(manager) = manager.filter(|m| m.keeps_drops) {
        return (
            Fate::Beside,
            format!(
                "{} keeps it; a drop beside peerwall still drops",
                manager.name
            ),
        );
    }
    if let Target::Unknown(name) = &rule.target {
        return (
            Fate::Left,
            format!(
                "peerwall does not know {name}; what it got is dropped, unless another line accepts it"
            ),
        );
    }
    if let Some(rate) = rule.rates().next() {
        return (
            Fate::Left,
            format!(
                "a policy has no rates ({rate}): limit it in the service, or keep the line in a rules file of its own; a drop in another table still drops"
            ),
        );
    }
    let opened: Vec<String> = packets
        .opened
        .iter()
        .filter(|reason| !is_core(reason))
        .map(proof::entry)
        .collect();
    match (opened.is_empty(), packets.opened.is_empty(), packets.denied) {
        (true, true, true) if drops_invalid(rule) => {
            (Fate::Core, "packets of no connection are dropped".into())
        }
        (true, true, true) => (Fate::Core, "what no entry allows is dropped".into()),
        (true, false, _) => (
            Fate::Core,
            format!(
                "what no entry allows is dropped; the safe core accepts {}",
                core_words(packets)
            ),
        ),
        (false, _, _) => (
            Fate::Left,
            format!(
                "a policy has no rule that drops, and {} accepts some of it: keep the line in a rules file of its own; a drop in another table still drops",
                opened.join(", ")
            ),
        ),
        (true, true, false) => match strange(rule) {
            true => (
                Fate::Core,
                "such packets are of no connection, and dropped as invalid".into(),
            ),
            false => (
                Fate::Nothing,
                "decides nothing: lines above it do, or no packet is like that".into(),
            ),
        },
    }
}

fn core_words(packets: &Packets) -> String {
    let words: Vec<String> = packets.opened.iter().map(Reason::sentence).collect();
    words.join(", ")
}

fn drops_invalid(rule: &Rule) -> bool {
    rule.conditions.iter().any(|c| {
        matches!(&c.test, Test::State { states, .. } if !c.negated && states.contains(&CtState::Invalid))
    })
}

/// TCP flags that no connection has, and fragments: connection tracking takes care of both.
fn strange(rule: &Rule) -> bool {
    rule.conditions
        .iter()
        .any(|c| matches!(c.test, Test::TcpFlags(..) | Test::Always(false)))
}

fn reaches(chains: &Chains, from: &str, to: &str) -> bool {
    rule::reached(chains, from).contains(&to)
}

/// The classic holes.
pub(super) fn lints(views: &[View<'_>], policy: &Policy, facts: &Facts) -> Vec<Lint> {
    let mut lints = Vec::new();
    let of = |family| views.iter().find(|view| view.family == family);
    for view in views {
        overlay_anywhere(view, policy, &mut lints);
        forward(view, policy, facts, &mut lints);
    }
    if let Some(v6) = of(Family::V6) {
        neighbours(v6, &mut lints);
    }
    alone(policy, &mut lints);
    forgotten(of(Family::V4), of(Family::V6), policy, &mut lints);
    node_ports(policy, &mut lints);
    let mut names: Vec<(&str, String)> = Vec::new();
    lints.retain(|lint| {
        let is_new = !names.contains(&(lint.name, lint.sentence.clone()));
        names.push((lint.name, lint.sentence.clone()));
        is_new
    });
    lints
}

fn overlay_anywhere(view: &View<'_>, policy: &Policy, lints: &mut Vec<Lint>) {
    let stranger = view.interfaces.len().saturating_sub(1);
    for overlay in &policy.overlays {
        for subnet in &overlay.subnets {
            if Family::of(subnet.net.addr()) != view.family {
                continue;
            }
            let inside = view.within(crate::net::addr::bounds(subnet.net));
            let anywhere = inside
                .iter()
                .any(|s| (0..view.services.len()).all(|v| view.accepts(stranger, *s, v).is_some()));
            let through = inside.iter().any(|s| view.passes_all(stranger, *s));
            if anywhere || through {
                lints.push(Lint {
                    name: "overlay-anywhere",
                    sentence: format!(
                        "{} is accepted on every interface: whoever forges such a source is let in",
                        subnet.net
                    ),
                    answer: format!(
                        "[overlay.{}] accepts it from {} only",
                        overlay.name,
                        names(&overlay.interfaces)
                    ),
                });
            }
            let interface = overlay.interfaces.first().map(|pattern| pattern.example());
            let position = view
                .interfaces
                .iter()
                .position(|name| Some(name) == interface.as_ref());
            let own = position.unwrap_or(stranger);
            let to_host = inside
                .iter()
                .any(|s| (0..view.services.len()).all(|v| view.accepts(own, *s, v).is_some()));
            if !inside.is_empty() && !to_host && overlay.tunnel.is_some() {
                lints.push(Lint {
                    name: "no-pod-network",
                    sentence: format!("pods of {} may not reach this host: kubelet, API server and host-network services hang for them", subnet.net),
                    answer: format!("[overlay.{}] lets them", overlay.name),
                });
            }
        }
    }
}

fn names(patterns: &[crate::net::interface::InterfacePattern]) -> String {
    let names: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

fn forward(view: &View<'_>, policy: &Policy, facts: &Facts, lints: &mut Vec<Lint>) {
    let Some(chain) = view.rules.filter.get("FORWARD") else {
        return;
    };
    let cluster =
        !policy.overlays.is_empty() || !facts.pod_networks.is_empty() || policy.peers.len() > 1;
    let replies = view.replies_pass();
    if chain.accepts == Some(false) && !view.lets_through && cluster && !policy.peers.is_empty() {
        lints.push(Lint {
            name: "forward-empty",
            sentence: format!("FORWARD lets nothing new through ({}): where there are pods, half of all requests hang", digit(view)),
            answer: match policy.overlays.is_empty() {
                true => "peers go through; if there are pods here, add their network as [overlay.NAME]".into(),
                false => "peers and pods go through".into(),
            },
        });
    } else if view.lets_through && !replies {
        lints.push(Lint {
            name: "forward-without-replies",
            sentence: format!("FORWARD drops replies ({}): a pod's own connection to the outside hangs, unless another program's rules hide it", digit(view)),
            answer: "replies are accepted".into(),
        });
    }
}

fn digit(view: &View<'_>) -> &'static str {
    match view.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn neighbours(view: &View<'_>, lints: &mut Vec<Lint>) {
    let interface = view.interfaces.len().saturating_sub(1);
    let stranger = super::classes::stranger(Family::V6);
    let Some(source) = view.sources.iter().position(|s| s.example == stranger) else {
        return;
    };
    let refused = |kind: u8| {
        let service = view.icmp().find(|(_, k, _)| *k == kind).map(|(v, _, _)| v);
        service.is_some_and(|v| view.accepts(interface, source, v).is_none())
    };
    if refused(135) || refused(136) {
        lints.push(Lint {
            name: "no-neighbour-discovery",
            sentence: "ICMPv6 neighbour discovery is dropped: IPv6 stops when the neighbours' entries expire".into(),
            answer: "the safe core has it, with hop limit 255".into(),
        });
    } else if refused(icmp::errors(Family::V6)[1]) {
        lints.push(Lint {
            name: "no-packet-too-big",
            sentence: "ICMPv6 packet-too-big is dropped: large packets get lost without a word"
                .into(),
            answer: "the safe core has it".into(),
        });
    }
}

fn forgotten(v4: Option<&View<'_>>, v6: Option<&View<'_>>, policy: &Policy, lints: &mut Vec<Lint>) {
    let has = |family| {
        let mut addresses = policy.peers.iter().flat_map(|peer| &peer.addresses);
        addresses.any(|a| Family::of(a.net.addr()) == family)
    };
    match (v4, v6) {
        (Some(_), None) => lints.push(Lint {
            name: "ipv6-forgotten",
            sentence: "there are no IPv6 rules here: without any, IPv6 is open".into(),
            answer: "the policy is for both families: of IPv6, it lets in what is from \"any\", and the safe core".into(),
        }),
        (None, Some(_)) => lints.push(Lint {
            name: "ipv4-forgotten",
            sentence: "there are no IPv4 rules here".into(),
            answer: "the policy is for both families: of IPv4, it lets in what is from \"any\", and the safe core".into(),
        }),
        (Some(_), Some(_)) if has(Family::V4) && !has(Family::V6) => lints.push(Lint {
            name: "ipv6-forgotten",
            sentence: "no peer has an IPv6 address: IPv6 between the machines is cut".into(),
            answer: "add their IPv6 addresses to [peers]".into(),
        }),
        _ => {}
    }
}

fn alone(policy: &Policy, lints: &mut Vec<Lint>) {
    for overlay in &policy.overlays {
        if overlay.tunnel.is_some() && policy.peers.is_empty() {
            lints.push(Lint {
                name: "overlay-without-peers",
                sentence: "no rule is for the other nodes by their addresses: who may send tunnel packets cannot be told".into(),
                answer: format!("name the other nodes under [peers], or [overlay.{}] is cut from theirs", overlay.name),
            });
        }
    }
}

fn node_ports(policy: &Policy, lints: &mut Vec<Lint>) {
    for allow in &policy.allows {
        let any = allow.from.contains(&crate::policy::Source::Any) && allow.interfaces.is_empty();
        let wide = allow
            .ports
            .iter()
            .flatten()
            .filter_map(|spec| spec.range)
            .any(|range| range.first <= 30_000 && range.last >= 32_767);
        if any && wide {
            lints.push(Lint {
                name: "node-ports-open",
                sentence: "the whole range of NodePorts is open to everybody".into(),
                answer: format!(
                    "[[allow]] {} says so still; name the ports that are meant",
                    allow.name
                ),
            });
        }
    }
}

impl Parsed {
    fn chain(&self, at: At) -> Option<&super::rule::Chain> {
        let tables = self
            .tables
            .iter()
            .filter(|(input, _, _)| *input == at.input);
        tables
            .flat_map(|(_, _, chains)| chains.values())
            .find(|chain| chain.at == Some(at))
    }

    fn filter(&self, at: At) -> Option<&Chains> {
        let mut tables = self.tables.iter();
        tables
            .find(|(input, name, _)| *input == at.input && name == "filter")
            .map(|(_, _, chains)| chains)
    }
}
