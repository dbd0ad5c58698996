//! What the rules of an iptables-save file mean: conditions and targets instead of words.
//!
//! Words: `iptables(8)` and `iptables-extensions(8)`. A word that is not known here stays in the rule
//! as [`Test::Unknown`]; what that does is decided by whoever evaluates, and never widens a rule.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use peerwall_proto::iptables;

use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::CtState;
use crate::net::port::{self, ICMP, ICMPV6};

/// A line of one of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Which input.
    pub input: usize,
    /// Its line, from 1.
    pub line: usize,
}

/// Numbers from first to last.
pub type Span = (u128, u128);

/// Sets of `ipset save`, by name: addresses and networks.
pub type IpSets = BTreeMap<String, Vec<IpNet>>;

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is the other way around: `!`.
    pub negated: bool,
    /// What is looked at.
    pub test: Test,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Source address in one of these.
    Source(Vec<Span>),
    /// Destination address in one of these.
    Destination(Vec<Span>),
    /// Came in by.
    In(InterfacePattern),
    /// Goes out by.
    Out(InterfacePattern),
    /// Of this protocol.
    Protocol(u8),
    /// Source port in one of these.
    SourcePorts(Vec<(u16, u16)>),
    /// Destination port in one of these.
    DestinationPorts(Vec<(u16, u16)>),
    /// Either port in one of these.
    EitherPort(Vec<(u16, u16)>),
    /// Of the TCP flags in the first byte exactly those in the second are set.
    TcpFlags(u8, u8),
    /// One of these states of connection tracking, or rewritten by DNAT.
    State {
        /// The states.
        states: Vec<CtState>,
        /// `DNAT`.
        dnat: bool,
    },
    /// The port that was dialled.
    Dialled(u16, u16),
    /// ICMP type, and code if one is asked for.
    Icmp(u8, Option<u8>),
    /// TTL or hop limit: from, to.
    HopLimit(u8, u8),
    /// What the destination is to this host (`addrtype --dst-type`).
    To(Kind),
    /// Holds as long as a rate or number is not exceeded (true), or once it is (false).
    Rate(bool, String),
    /// Always, or never.
    Always(bool),
    /// Words that are not known, or whose answer is not in the packet.
    Unknown(String),
}

/// Kinds of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An address of this host.
    Local,
    /// Everybody on the link.
    Broadcast,
    /// A group.
    Multicast,
}

/// What happens to a packet that a rule fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Counted, logged or marked; it goes on with the next rule.
    Continue(String),
    /// Accepted.
    Accept,
    /// Dropped.
    Drop,
    /// Refused.
    Reject,
    /// Back to where the chain was jumped to from; in one of the kernel's own chains: its policy.
    Return,
    /// On in this chain, and then here again.
    Jump(String),
    /// On in this chain, and not here again.
    Goto(String),
    /// Rewritten to this address and port (`DNAT`), or this port of the host (`REDIRECT`).
    Dnat(Option<IpNet>, Option<u16>),
    /// Source rewritten.
    Masquerade,
    /// A target that is not known. The packet is taken for lost.
    Unknown(String),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub at: At,
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// Then this happens.
    pub target: Target,
    /// `-m comment`
    pub comment: Option<String>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Whether packets that reach its end are accepted; `None` for chains of one's own.
    pub accepts: Option<bool>,
    /// Where it is declared.
    pub at: Option<At>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Chains of one table, by name.
pub type Chains = BTreeMap<String, Chain>;

/// The tables of one family that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The filter table.
    pub filter: Chains,
    /// The nat table.
    pub nat: Chains,
}

impl Condition {
    /// Sources that it names, whether it is for them or for all others.
    pub fn sources(&self) -> Option<&[Span]> {
        if let Test::Source(spans) = &self.test {
            return Some(spans);
        }
        None
    }

    /// Destinations that it names, whether it is for them or for all others.
    pub fn destinations(&self) -> Option<&[Span]> {
        if let Test::Destination(spans) = &self.test {
            return Some(spans);
        }
        None
    }

    /// The interface that it is for, by which packets come in.
    pub fn interface(&self) -> Option<&InterfacePattern> {
        if let Test::In(pattern) = &self.test {
            return Some(pattern).filter(|_| !self.negated);
        }
        None
    }

    /// The interface that it names, by which packets go out.
    pub fn out(&self) -> Option<&InterfacePattern> {
        if let Test::Out(pattern) = &self.test {
            return Some(pattern);
        }
        None
    }

    /// The protocol that it is for.
    pub fn protocol(&self) -> Option<u8> {
        if let Test::Protocol(number) = self.test {
            return Some(number).filter(|_| !self.negated);
        }
        None
    }
}

impl Target {
    /// The chain that it leads to.
    pub fn chain(&self) -> Option<&str> {
        if let Self::Jump(to) | Self::Goto(to) = self {
            return Some(to);
        }
        None
    }
}

impl Rule {
    /// Sources that it is for.
    pub fn sources(&self) -> impl Iterator<Item = &Span> {
        let positive = self.conditions.iter().filter(|c| !c.negated);
        positive.filter_map(Condition::sources).flatten()
    }

    /// Interfaces that it is for, by which packets come in.
    pub fn interfaces(&self) -> impl Iterator<Item = &InterfacePattern> {
        self.conditions.iter().filter_map(Condition::interface)
    }

    /// Words that are not known, in the order of the rule.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|c| {
            if let Test::Unknown(words) = &c.test {
                return Some(words.as_str());
            }
            None
        })
    }

    /// Rates that a policy cannot say.
    pub fn rates(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|c| {
            if let Test::Rate(_, words) = &c.test {
                return Some(words.as_str());
            }
            None
        })
    }
}

/// A rule that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleError {
    pub line: usize,
    pub why: String,
    pub help: &'static str,
}

/// The chains of a table.
pub(super) fn chains(
    table: &iptables::Table,
    family: Family,
    input: usize,
    sets: &IpSets,
) -> Result<Chains, Vec<RuleError>> {
    let mut chains = Chains::new();
    for chain in &table.chains {
        let accepts = chain.policy.as_deref().map(|policy| policy == "ACCEPT");
        let at = At {
            input,
            line: chain.line,
        };
        let chain_of_ours = Chain {
            accepts,
            at: Some(at),
            rules: Vec::new(),
        };
        chains.insert(chain.name.clone(), chain_of_ours);
    }
    let mut errors = Vec::new();
    for rule in &table.rules {
        let at = At {
            input,
            line: rule.line,
        };
        match read(&rule.words, family, at, sets) {
            Err((why, help)) => errors.push(RuleError {
                line: rule.line,
                why,
                help,
            }),
            Ok(read) => {
                let chain = chains.entry(rule.chain.clone()).or_insert(Chain {
                    accepts: Some(true),
                    at: None,
                    rules: Vec::new(),
                });
                let at = match rule.position {
                    iptables::Position::Append => chain.rules.len(),
                    iptables::Position::Insert(at) => at.saturating_sub(1).min(chain.rules.len()),
                };
                chain.rules.insert(at, read);
            }
        }
    }
    errors.extend(unknown_chains(&chains));
    match errors.is_empty() {
        true => Ok(chains),
        false => Err(errors),
    }
}

/// Targets that are written like a chain's name and are none, and chains that go in circles.
fn unknown_chains(chains: &Chains) -> Vec<RuleError> {
    let mut errors = Vec::new();
    for chain in chains.values() {
        for rule in &chain.rules {
            if let Some(to) = rule.target.chain()
                && !chains.contains_key(to)
            {
                errors.push(RuleError {
                    line: rule.at.line,
                    why: format!("`{to}` is neither a chain of this table nor a target"),
                    help: "a chain of one's own is declared by a line like `:NAME - [0:0]`",
                });
            }
        }
    }
    for name in circles(chains) {
        let at = chains.get(name).and_then(|chain| chain.at);
        errors.push(RuleError {
            line: at.map_or(1, |at| at.line),
            why: format!("the chain {name} leads back to itself"),
            help: "iptables-restore refuses that",
        });
    }
    errors
}

/// Chains that lead back to themselves, or lie between such: what is left when chains that nothing
/// leads to, or that lead nowhere, are taken away again and again.
fn circles(chains: &Chains) -> BTreeSet<&str> {
    let mut left: BTreeSet<&str> = chains.keys().map(String::as_str).collect();
    let next = |name: &str| {
        let rules = chains.get(name).map_or(&[][..], |chain| &chain.rules);
        rules.iter().filter_map(|rule| rule.target.chain())
    };
    let mut before: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in chains.keys() {
        for to in next(name) {
            before.entry(to).or_default().insert(name);
        }
    }
    let mut to_see: Vec<&str> = left.iter().copied().collect();
    while let Some(name) = to_see.pop() {
        let leads_on = next(name).any(|to| left.contains(to));
        let led_to = before
            .get(name)
            .is_some_and(|from| from.iter().any(|f| left.contains(f)));
        if (leads_on && led_to) || !left.remove(name) {
            continue;
        }
        to_see.extend(next(name).filter(|to| left.contains(to)));
        to_see.extend(
            before
                .get(name)
                .into_iter()
                .flatten()
                .filter(|from| left.contains(**from)),
        );
    }
    left
}

/// Chains that packets can get to from this one, itself first.
pub(super) fn reached<'c>(chains: &'c Chains, from: &'c str) -> Vec<&'c str> {
    let mut seen: Vec<&str> = vec![from];
    let mut next = 0;
    while let Some(name) = seen.get(next).copied() {
        next += 1;
        let rules = chains.get(name).map_or(&[][..], |chain| &chain.rules);
        for into in rules.iter().filter_map(|rule| rule.target.chain()) {
            if !seen.contains(&into) {
                seen.push(into);
            }
        }
    }
    seen
}

type Wrong = (String, &'static str);

/// Targets that let a packet go on.
const CONTINUE: [&str; 27] = [
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "TCPMSS",
    "SET",
    "TRACE",
    "CT",
    "NOTRACK",
    "CLASSIFY",
    "AUDIT",
    "DSCP",
    "TOS",
    "TTL",
    "HL",
    "CHECKSUM",
    "SECMARK",
    "CONNSECMARK",
    "TEE",
    "RATEEST",
    "IDLETIMER",
    "LED",
    "ECN",
    "HMARK",
    "TCPOPTSTRIP",
    "NETMAP",
];

/// Targets that may do anything with it.
const OTHER: [&str; 10] = [
    "NFQUEUE",
    "QUEUE",
    "TARPIT",
    "SYNPROXY",
    "DELUDE",
    "CHAOS",
    "MIRROR",
    "SNAT",
    "CLUSTERIP",
    "TPROXY",
];

/// Reads the words of one rule.
fn read(words: &[String], family: Family, at: At, sets: &IpSets) -> Result<Rule, Wrong> {
    let mut reader = Reader {
        words,
        next: 0,
        family,
        sets,
        module: String::new(),
        conditions: Vec::new(),
        comment: None,
        target: None,
    };
    reader.all()?;
    let target = reader.target.take();
    Ok(Rule {
        at,
        conditions: reader.conditions,
        target: target.unwrap_or_else(|| Target::Continue("count".into())),
        comment: reader.comment,
    })
}

struct Reader<'w> {
    words: &'w [String],
    next: usize,
    family: Family,
    sets: &'w IpSets,
    /// The last `-m`.
    module: String,
    conditions: Vec<Condition>,
    comment: Option<String>,
    target: Option<Target>,
}

impl Reader<'_> {
    fn word(&mut self) -> Option<String> {
        let word = self.words.get(self.next).cloned();
        self.next += 1;
        word
    }

    fn value(&mut self, option: &str) -> Result<String, Wrong> {
        self.word().ok_or_else(|| {
            (
                format!("`{option}` wants a value"),
                "the line ends too early",
            )
        })
    }

    fn all(&mut self) -> Result<(), Wrong> {
        let mut negated = false;
        while let Some(word) = self.word() {
            if word == "!" {
                negated = true;
                continue;
            }
            // As older iptables wrote it: `-s ! 10.0.0.0/8`.
            if self.words.get(self.next).is_some_and(|next| next == "!") {
                self.next += 1;
                negated = true;
            }
            if self.target.is_some() {
                self.target_option(&word)?;
            } else {
                self.option(&word, negated)?;
            }
            negated = false;
        }
        Ok(())
    }

    fn push(&mut self, negated: bool, test: Test) {
        self.conditions.push(Condition { negated, test });
    }

    fn option(&mut self, word: &str, negated: bool) -> Result<(), Wrong> {
        let test = match word {
            "-s" | "--source" | "--src" => Test::Source(self.addresses(word)?),
            "-d" | "--destination" | "--dst" => Test::Destination(self.addresses(word)?),
            "-i" | "--in-interface" => match self.interface(word)? {
                Some(pattern) => Test::In(pattern),
                None => Test::Always(true),
            },
            "-o" | "--out-interface" => match self.interface(word)? {
                Some(pattern) => Test::Out(pattern),
                None => Test::Always(true),
            },
            "-p" | "--protocol" | "--proto" => {
                let name = self.value(word)?;
                self.module = name.clone();
                match protocol(&name)? {
                    Some(number) => Test::Protocol(number),
                    None => Test::Always(true),
                }
            }
            // No packet that is asked about is a fragment behind the first.
            "-f" | "--fragment" => Test::Always(false),
            "-m" | "--match" => {
                self.module = self.value(word)?;
                return self.whole_module(negated);
            }
            "-j" | "--jump" => return self.target(word, false),
            "-g" | "--goto" => return self.target(word, true),
            "-c" | "--set-counters" => {
                let _ = (self.value(word)?, self.value(word)?);
                return Ok(());
            }
            other => return self.module_option(other, negated),
        };
        self.push(negated, test);
        Ok(())
    }

    /// Modules that match without any option.
    fn whole_module(&mut self, negated: bool) -> Result<(), Wrong> {
        let bare = self
            .words
            .get(self.next)
            .is_none_or(|next| matches!(next.as_str(), "-m" | "-j" | "-g" | "--match" | "--jump"));
        match self.module.as_str() {
            "socket" | "rpfilter" | "eui64" if bare => {
                let text = format!("-m {}", self.module);
                self.push(negated, Test::Unknown(text));
            }
            // Without options: three an hour, bursts of five.
            "limit" if bare => self.push(negated, Test::Rate(true, "-m limit".into())),
            _ => {}
        }
        Ok(())
    }

    fn module_option(&mut self, word: &str, negated: bool) -> Result<(), Wrong> {
        let test = match word {
            "--sport" | "--source-port" => Test::SourcePorts(vec![self.port(word)?]),
            "--dport" | "--destination-port" => Test::DestinationPorts(vec![self.port(word)?]),
            "--sports" | "--source-ports" => Test::SourcePorts(self.ports(word)?),
            "--dports" | "--destination-ports" => Test::DestinationPorts(self.ports(word)?),
            "--ports" => Test::EitherPort(self.ports(word)?),
            "--syn" => Test::TcpFlags(tcp_flags("FIN,SYN,RST,ACK")?, tcp_flags("SYN")?),
            "--tcp-flags" => {
                let mask = tcp_flags(&self.value(word)?)?;
                Test::TcpFlags(mask, tcp_flags(&self.value(word)?)?)
            }
            "--state" | "--ctstate" => self.states(word)?,
            "--ctorigdstport" => {
                let (first, last) = self.port(word)?;
                Test::Dialled(first, last)
            }
            "--ctproto" => match protocol(&self.value(word)?)? {
                Some(number) => Test::Protocol(number),
                None => Test::Always(true),
            },
            "--icmp-type" | "--icmpv6-type" => self.icmp(word)?,
            "--src-range" => Test::Source(vec![self.range(word)?]),
            "--dst-range" => Test::Destination(vec![self.range(word)?]),
            "--match-set" => self.set(word)?,
            "--comment" => {
                let text = self.value(word)?;
                self.comment = Some(text);
                return Ok(());
            }
            "--hl-eq" | "--ttl-eq" => {
                let limit = self.number(word)?;
                Test::HopLimit(limit, limit)
            }
            "--hl-lt" | "--ttl-lt" => Test::HopLimit(0, self.number(word)?.saturating_sub(1)),
            "--hl-gt" | "--ttl-gt" => Test::HopLimit(self.number(word)?.saturating_add(1), u8::MAX),
            "--dst-type" => match self.value(word)?.as_str() {
                "LOCAL" => Test::To(Kind::Local),
                "BROADCAST" => Test::To(Kind::Broadcast),
                "MULTICAST" => Test::To(Kind::Multicast),
                other => Test::Unknown(format!("--dst-type {other}")),
            },
            _ => return self.rate_or_unknown(word, negated),
        };
        self.push(negated, test);
        Ok(())
    }

    /// `limit`, `hashlimit`, `connlimit` and `recent` hold or not by what was before.
    fn rate_or_unknown(&mut self, word: &str, negated: bool) -> Result<(), Wrong> {
        let text = self.gather(word);
        let module = self.module.clone();
        let test = match (module.as_str(), word) {
            ("limit", "--limit") => Test::Rate(true, text),
            ("limit", "--limit-burst") => match self.rate() {
                Some(_) => return Ok(()),
                None => Test::Rate(true, text),
            },
            ("hashlimit", "--hashlimit" | "--hashlimit-upto")
            | ("connlimit", "--connlimit-upto") => Test::Rate(true, text),
            ("hashlimit", "--hashlimit-above") | ("connlimit", "--connlimit-above") => {
                Test::Rate(false, text)
            }
            // How it counts, not whether.
            ("hashlimit", word) if word.starts_with("--hashlimit-") => return Ok(()),
            ("connlimit", "--connlimit-mask" | "--connlimit-saddr" | "--connlimit-daddr") => {
                return Ok(());
            }
            ("recent", "--name" | "--rsource" | "--rdest" | "--mask" | "--rttl" | "--reap") => {
                return Ok(());
            }
            ("recent", "--set") => Test::Always(true),
            ("recent", "--hitcount" | "--seconds") => match self.rate() {
                Some(all) => {
                    all.push(' ');
                    all.push_str(&text);
                    return Ok(());
                }
                None => Test::Rate(false, text),
            },
            ("recent", "--update" | "--rcheck" | "--remove") => Test::Rate(false, text),
            (module, _) if !module.is_empty() => Test::Unknown(format!("-m {module} {text}")),
            _ => Test::Unknown(text),
        };
        self.push(negated, test);
        Ok(())
    }

    /// The words of the last rate, to add to.
    fn rate(&mut self) -> Option<&mut String> {
        match self.conditions.last_mut().map(|c| &mut c.test) {
            Some(Test::Rate(_, text)) => Some(text),
            _ => None,
        }
    }

    /// A word with what looks like its values.
    fn gather(&mut self, word: &str) -> String {
        let mut text = word.to_owned();
        while let Some(next) = self.words.get(self.next)
            && !next.starts_with('-')
            && next != "!"
        {
            text.push(' ');
            text.push_str(next);
            self.next += 1;
        }
        text
    }

    fn addresses(&mut self, option: &str) -> Result<Vec<Span>, Wrong> {
        let value = self.value(option)?;
        value
            .split(',')
            .map(|each| address(each, self.family))
            .collect()
    }

    /// `None` for `+`, which is every interface.
    fn interface(&mut self, option: &str) -> Result<Option<InterfacePattern>, Wrong> {
        let name = self.value(option)?;
        let (name, is_prefix) = match name.strip_suffix('+') {
            Some(prefix) => (prefix.to_owned(), true),
            None => (name, false),
        };
        if is_prefix && name.is_empty() {
            return Ok(None);
        }
        let text = if is_prefix { format!("{name}*") } else { name };
        InterfacePattern::parse(&text).map(Some).map_err(|err| {
            (
                err.0,
                "like `-i eth0`, or `-i eth+` for every one that starts so",
            )
        })
    }

    fn port(&mut self, option: &str) -> Result<(u16, u16), Wrong> {
        port_range(&self.value(option)?)
    }

    fn ports(&mut self, option: &str) -> Result<Vec<(u16, u16)>, Wrong> {
        self.value(option)?.split(',').map(port_range).collect()
    }

    fn number(&mut self, option: &str) -> Result<u8, Wrong> {
        let value = self.value(option)?;
        value.parse().map_err(|err| {
            (
                format!("`{option} {value}`: {err}"),
                "a number from 0 to 255",
            )
        })
    }

    fn range(&mut self, option: &str) -> Result<Span, Wrong> {
        let value = self.value(option)?;
        let (first, last) = value.split_once('-').unwrap_or((&value, &value));
        let (first, last) = (
            address(first, self.family)?.0,
            address(last, self.family)?.1,
        );
        match first <= last {
            true => Ok((first, last)),
            false => Err((
                format!("`{value}` ends before it starts"),
                "like 192.0.2.10-192.0.2.20",
            )),
        }
    }

    fn states(&mut self, option: &str) -> Result<Test, Wrong> {
        let mut states = Vec::new();
        let mut dnat = false;
        for name in self.value(option)?.split(',') {
            states.push(match name {
                "NEW" => CtState::New,
                "ESTABLISHED" => CtState::Established,
                "RELATED" => CtState::Related,
                "INVALID" => CtState::Invalid,
                "UNTRACKED" => CtState::Untracked,
                "DNAT" => {
                    dnat = true;
                    continue;
                }
                "SNAT" => return Ok(Test::Unknown(format!("{option} SNAT"))),
                other => {
                    return Err((
                        format!("`{other}` is no state of a connection"),
                        "there are NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED, DNAT and SNAT",
                    ));
                }
            });
        }
        Ok(Test::State { states, dnat })
    }

    fn icmp(&mut self, option: &str) -> Result<Test, Wrong> {
        let value = self.value(option)?;
        if value == "any" || value == "255" {
            return Ok(Test::Always(true));
        }
        let (kind, code) = match value.split_once('/') {
            Some((kind, code)) => (kind, Some(code)),
            None => (value.as_str(), None),
        };
        let wrong = || {
            (
                format!("`{value}` is no ICMP type"),
                "like 8, 3/4 or echo-request",
            )
        };
        if let Ok(kind) = kind.parse() {
            let code = match code {
                Some(code) => Some(code.parse().ok().ok_or_else(wrong)?),
                None => None,
            };
            return Ok(Test::Icmp(kind, code));
        }
        icmp_name(self.family, kind).ok_or_else(wrong)
    }

    fn set(&mut self, option: &str) -> Result<Test, Wrong> {
        let name = self.value(option)?;
        let dimensions = self.value(option)?;
        let text = format!("-m set {option} {name} {dimensions}");
        let Some(nets) = self.sets.get(&name) else {
            return Ok(Test::Unknown(text));
        };
        let spans: Vec<Span> = nets
            .iter()
            .filter(|net| Family::of(net.addr()) == self.family)
            .map(|net| addr::bounds(*net))
            .collect();
        Ok(match dimensions.as_str() {
            "src" => Test::Source(spans),
            "dst" => Test::Destination(spans),
            _ => Test::Unknown(text),
        })
    }

    fn target(&mut self, option: &str, goto: bool) -> Result<(), Wrong> {
        let name = self.value(option)?;
        self.target = Some(match name.as_str() {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "REJECT" => Target::Reject,
            "RETURN" => Target::Return,
            "DNAT" | "REDIRECT" => Target::Dnat(None, None),
            "MASQUERADE" => Target::Masquerade,
            name if CONTINUE.contains(&name) => Target::Continue(name.to_owned()),
            name if OTHER.contains(&name) => Target::Unknown(name.to_owned()),
            name if goto => Target::Goto(name.to_owned()),
            name => Target::Jump(name.to_owned()),
        });
        Ok(())
    }

    /// Options behind `-j`; modules may still follow.
    fn target_option(&mut self, word: &str) -> Result<(), Wrong> {
        match (word, &mut self.target) {
            ("-m" | "--match", _) => {
                // iptables-save writes matches first; by hand they may follow.
                let target = self.target.take();
                self.option(word, false)?;
                while let Some(next) = self.word() {
                    let negated = next == "!";
                    let next = if negated { self.value("!")? } else { next };
                    self.option(&next, negated)?;
                }
                self.target = target;
            }
            ("--to-destination", Some(Target::Dnat(net, port))) => {
                let value = self.words.get(self.next).cloned().unwrap_or_default();
                self.next += 1;
                (*net, *port) = destination(&value);
            }
            ("--to-ports", Some(Target::Dnat(_, port))) => {
                let value = self.words.get(self.next).cloned().unwrap_or_default();
                self.next += 1;
                *port = value.split('-').next().and_then(|p| p.parse().ok());
            }
            _ => {
                let text = self.gather(word);
                if let Some(Target::Unknown(name) | Target::Continue(name)) = &mut self.target {
                    name.push(' ');
                    name.push_str(&text);
                }
            }
        }
        Ok(())
    }
}

/// `10.1.2.3:80`, `[2001:db8::1]:80`, `10.1.2.3`
fn destination(text: &str) -> (Option<IpNet>, Option<u16>) {
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return (Some(socket.ip().into()), Some(socket.port()));
    }
    let bare = text.trim_matches(['[', ']']);
    (bare.parse::<std::net::IpAddr>().ok().map(IpNet::from), None)
}

fn address(text: &str, family: Family) -> Result<Span, Wrong> {
    let wrong = |help| {
        (
            format!("`{text}` is no address of IPv{}", family.digit()),
            help,
        )
    };
    let (host, len) = match text.split_once('/') {
        Some((host, len)) => (host, Some(len)),
        None => (text, None),
    };
    let host: std::net::IpAddr = host.parse().ok().ok_or_else(|| {
        wrong("host names are not looked up; write addresses, or files of the right family")
    })?;
    if Family::of(host) != family {
        return Err(wrong(
            "is this a file of the other family? see --v4 and --v6",
        ));
    }
    let len = match len {
        None => family.bits(),
        Some(len) => match (len.parse::<u8>(), len.parse::<std::net::Ipv4Addr>()) {
            (Ok(len), _) => len,
            (Err(_), Ok(mask)) => ipnet::ipv4_mask_to_prefix(mask)
                .ok()
                .ok_or_else(|| wrong("the mask is not one of leading ones"))?,
            (Err(_), Err(_)) => return Err(wrong("like 192.0.2.0/24")),
        },
    };
    let net = IpNet::new(host, len)
        .ok()
        .ok_or_else(|| wrong("the prefix is longer than the address"))?;
    // As iptables does: host bits are cut off.
    Ok(addr::bounds(net.trunc()))
}

/// `None` for all protocols.
fn protocol(name: &str) -> Result<Option<u8>, Wrong> {
    let name = name.to_ascii_lowercase();
    let number = crate::iptables::saved::protocol(&name);
    match (name.as_str(), number.parse::<u8>()) {
        ("all", _) | (_, Ok(0)) => Ok(None),
        (_, Ok(number)) => Ok(Some(number)),
        (_, Err(_)) => Err((
            format!("`{name}` is no protocol"),
            "write its number; see /etc/protocols",
        )),
    }
}

/// Services that people write by name, from `/etc/services`.
const SERVICES: [(&str, u16); 22] = [
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("http", 80),
    ("www", 80),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ntp", 123),
    ("imap2", 143),
    ("imap", 143),
    ("snmp", 161),
    ("https", 443),
    ("submissions", 465),
    ("submission", 587),
    ("imaps", 993),
    ("pop3s", 995),
    ("mysql", 3306),
    ("postgresql", 5432),
];

fn port_range(text: &str) -> Result<(u16, u16), Wrong> {
    let one = |text: &str, open: u16| -> Result<u16, Wrong> {
        let service = SERVICES.iter().find(|(name, _)| *name == text);
        match (text.is_empty(), service, text.parse()) {
            (true, _, _) => Ok(open),
            (_, Some((_, port)), _) => Ok(*port),
            (_, None, Ok(port)) => Ok(port),
            (_, None, Err(_)) => Err((
                format!("`{text}` is no port"),
                "a number from 0 to 65535; of services only the most usual names are known",
            )),
        }
    };
    let (first, last) = match text.split_once(':') {
        Some((first, last)) => (one(first, 0)?, one(last, u16::MAX)?),
        None => (one(text, 0)?, one(text, 0)?),
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err((format!("`{text}` ends before it starts"), "like 8000:8100")),
    }
}

/// Bits of the TCP header (RFC 9293 section 3.1).
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

fn tcp_flags(text: &str) -> Result<u8, Wrong> {
    let mut bits = 0;
    for name in text.split(',') {
        bits |= match name {
            "FIN" => 0x01,
            "SYN" => SYN,
            "RST" => RST,
            "PSH" => 0x08,
            "ACK" => ACK,
            "URG" => 0x20,
            "ALL" => 0x3f,
            "NONE" => 0,
            other => {
                return Err((
                    format!("`{other}` is no TCP flag"),
                    "there are FIN, SYN, RST, PSH, ACK, URG, ALL and NONE",
                ));
            }
        };
    }
    Ok(bits)
}

/// Names of iptables for types and codes (`icmp_codes` in `extensions/libxt_icmp.h`), the usual ones.
fn icmp_name(family: Family, name: &str) -> Option<Test> {
    let (kind, code) = match (family, name) {
        (Family::V4, "echo-reply" | "pong") => (0, None),
        (Family::V4, "destination-unreachable") => (3, None),
        (Family::V4, "network-unreachable") => (3, Some(0)),
        (Family::V4, "host-unreachable") => (3, Some(1)),
        (Family::V4, "protocol-unreachable") => (3, Some(2)),
        (Family::V4, "port-unreachable") => (3, Some(3)),
        (Family::V4, "fragmentation-needed") => (3, Some(4)),
        (Family::V4, "source-quench") => (4, None),
        (Family::V4, "redirect") => (5, None),
        (Family::V4, "echo-request" | "ping") => (8, None),
        (Family::V4, "router-advertisement") => (9, None),
        (Family::V4, "router-solicitation") => (10, None),
        (Family::V4, "time-exceeded" | "ttl-exceeded") => (11, None),
        (Family::V4, "parameter-problem") => (12, None),
        (Family::V4, "timestamp-request") => (13, None),
        (Family::V4, "timestamp-reply") => (14, None),
        (Family::V4, "address-mask-request") => (17, None),
        (Family::V4, "address-mask-reply") => (18, None),
        (Family::V6, "destination-unreachable") => (1, None),
        (Family::V6, "packet-too-big") => (2, None),
        (Family::V6, "time-exceeded" | "ttl-exceeded") => (3, None),
        (Family::V6, "parameter-problem") => (4, None),
        (Family::V6, "echo-request" | "ping") => (128, None),
        (Family::V6, "echo-reply" | "pong") => (129, None),
        (Family::V6, "router-solicitation") => (133, None),
        (Family::V6, "router-advertisement") => (134, None),
        (Family::V6, "neighbour-solicitation" | "neighbor-solicitation") => (135, None),
        (Family::V6, "neighbour-advertisement" | "neighbor-advertisement") => (136, None),
        (Family::V6, "redirect") => (137, None),
        _ => return None,
    };
    Some(Test::Icmp(kind, code))
}

/// Whether the packets of a family have types of ICMP under this protocol.
pub(super) fn is_icmp(family: Family, protocol: u8) -> bool {
    matches!(
        (family, protocol),
        (Family::V4, ICMP) | (Family::V6, ICMPV6)
    )
}

/// Whether a protocol has ports that iptables can look at.
pub(super) fn has_ports(protocol: u8) -> bool {
    port::has_ports(protocol)
}
