//! Lists of packets: a verdict and a packet on each line.
//!
//! ```text
//! # verdict, then words of `explain`, or a line that a tool printed
//! accept from 192.0.2.7 port 22/tcp
//! drop   forward from 198.51.100.1 to 10.244.1.5 port 80/tcp interface eth0
//! drop   IN=eth0 OUT= SRC=198.51.100.1 DST=192.0.2.10 PROTO=TCP SPT=40000 DPT=6443 SYN
//! ```

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::report::Kind;
use super::setup::icmp_state;
use super::{Case, Wanted};
use crate::diagnostic::{Code, Diagnostic, FileId, Place, Sources};
use crate::explain::{self, Asked, Unknown, complete, icmp_type, transport};
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Dialled, Hook, Packet, Transport};
use crate::policy::Policy;
use crate::ruleset::expect::{HOST_V4, HOST_V6};

/// What a line must be, for help.
const LISTS: &str = "write a verdict and a packet, like: accept from 192.0.2.7 port 22/tcp";
/// The words of a line, for help.
const WORDS: &str = "input, forward, from, to, port, source-port, icmp, interface, out, dialled, \
    state, mac, ttl";
/// States of connections, with their names.
const STATES: [(&str, CtState); 5] = [
    ("new", CtState::New),
    ("established", CtState::Established),
    ("related", CtState::Related),
    ("invalid", CtState::Invalid),
    ("untracked", CtState::Untracked),
];

/// Reads a list of packets for a policy, which completes them.
///
/// # Errors
/// All errors of the file, with their places.
pub fn parse(
    policy: &Policy,
    name: &str,
    text: &str,
) -> (Sources, Result<Vec<Case>, Vec<Diagnostic>>) {
    let mut sources = Sources::default();
    let file = sources.add(name, text);
    let mut cases = Vec::new();
    let mut errors = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let words = words(line, start);
        start += line.len();
        let read = match &words[..] {
            [] => continue,
            [verdict, rest @ ..] => case(policy, file, verdict, rest),
        };
        match read {
            Ok(case) => cases.push(case),
            Err(wrong) => errors.push(wrong.diagnostic(file)),
        }
    }
    let result = match errors.is_empty() {
        true => Ok(cases),
        false => Err(errors),
    };
    (sources, result)
}

/// A word with its place in the file.
#[derive(Debug, Clone)]
struct Word<'t> {
    text: &'t str,
    span: Range<usize>,
}

/// Splits a line that starts at this byte into words, without its comment.
fn words(line: &str, start: usize) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut from = 0;
    for text in line.split_whitespace() {
        // Words are in order, so that each is found after the one before it.
        let Some(at) = line.get(from..).and_then(|rest| rest.find(text)) else {
            break;
        };
        if text.starts_with('#') {
            break;
        }
        let first = from + at;
        from = first + text.len();
        words.push(Word {
            text,
            span: start + first..start + from,
        });
    }
    words
}

/// An error: where, what, and what would do.
struct Wrong {
    span: Range<usize>,
    why: String,
    help: Option<String>,
}

impl Wrong {
    fn at(word: &Word<'_>, why: impl Into<String>) -> Self {
        Self {
            span: word.span.clone(),
            why: why.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn diagnostic(self, file: FileId) -> Diagnostic {
        let place = Place {
            file,
            span: self.span,
        };
        let error = Diagnostic::error(Code::InvalidPacket, place, self.why);
        match self.help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}

fn case(
    policy: &Policy,
    file: FileId,
    verdict: &Word<'_>,
    rest: &[Word<'_>],
) -> Result<Case, Wrong> {
    let span = verdict.span.start..rest.last().unwrap_or(verdict).span.end;
    let whole = Word {
        text: "",
        span: span.clone(),
    };
    let wanted = Wanted::NAMES.iter().find(|(name, _)| *name == verdict.text);
    let Some((_, wanted)) = wanted else {
        let why = format!("`{}` is not a verdict", verdict.text);
        return Err(Wrong::at(verdict, why).help("begin the line with accept, drop or reject"));
    };
    let Some(first) = rest.first() else {
        return Err(Wrong::at(verdict, "there is no packet after the verdict").help(LISTS));
    };
    let asked = match Key::of(first.text) {
        Some(_) => said(rest, &whole)?,
        None => printed(first, rest)?,
    };
    let (packet, _) =
        complete(&asked, policy, &mut Unknown).map_err(|why| Wrong::at(&whole, why))?;
    Ok(Case {
        kind: Kind::Packet,
        place: Place { file, span },
        packets: vec![with_state(packet, asked.state)],
        wanted: *wanted,
        unknown: None,
    })
}

/// Reads a line that a tool printed.
fn printed(first: &Word<'_>, rest: &[Word<'_>]) -> Result<Asked, Wrong> {
    let texts: Vec<&str> = rest.iter().map(|word| word.text).collect();
    let end = rest.last().unwrap_or(first).span.end;
    let whole = Word {
        text: "",
        span: first.span.start..end,
    };
    let asked = explain::parse(&texts.join(" ")).map_err(|why| {
        // A single unknown word at the start is rather a slip than another tool's line.
        match texts.len() {
            1..=8 if why.starts_with("no packet in this line") => {
                let why = format!("`{}` is not a word of packet lists", first.text);
                Wrong::at(first, why).help(format!("the words are: {WORDS}"))
            }
            _ => Wrong::at(&whole, why),
        }
    })?;
    for name in [&asked.interface, &asked.out].into_iter().flatten() {
        interface(name, &whole)?;
    }
    Ok(asked)
}

/// Checks the name of an interface, which stands in this word or line.
fn interface(name: &str, word: &Word<'_>) -> Result<String, Wrong> {
    match InterfacePattern::parse(name) {
        Ok(InterfacePattern::Exact(name)) => Ok(name),
        Ok(InterfacePattern::Prefix(_)) => {
            let why = format!("`{name}` is a pattern, not an interface");
            Err(Wrong::at(word, why).help("write one name, like cali0"))
        }
        Err(why) => Err(Wrong::at(word, why.0)),
    }
}

/// Gives the packet the state that connection tracking gives it, if the line does not say one.
fn with_state(mut packet: Packet, said: Option<CtState>) -> Packet {
    if let (None, Transport::Icmp { kind, .. }) = (said, packet.transport) {
        packet.state = icmp_state(packet.family(), kind);
    }
    packet.syn &= matches!(packet.state, CtState::New | CtState::Untracked);
    packet
}

/// A word that says something about the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Hook(Hook),
    From,
    To,
    Port,
    SourcePort,
    Icmp,
    Interface,
    Out,
    Dialled,
    State,
    Mac,
    Ttl,
}

impl Key {
    /// Finds a word; `explain`'s options are accepted as they are, with two hyphens.
    fn of(text: &str) -> Option<Self> {
        Some(match text.strip_prefix("--").unwrap_or(text) {
            "input" => Self::Hook(Hook::Input),
            "forward" => Self::Hook(Hook::Forward),
            "from" => Self::From,
            "to" => Self::To,
            "port" => Self::Port,
            "source-port" => Self::SourcePort,
            "icmp" => Self::Icmp,
            "interface" => Self::Interface,
            "out" => Self::Out,
            "dialled" => Self::Dialled,
            "state" => Self::State,
            "mac" => Self::Mac,
            "ttl" => Self::Ttl,
            _ => return None,
        })
    }
}

/// The values of a line's words.
#[derive(Default)]
struct Values<'w, 't> {
    found: Vec<(Key, &'w Word<'t>)>,
}

impl<'w, 't> Values<'w, 't> {
    fn read(rest: &'w [Word<'t>]) -> Result<Self, Wrong> {
        let mut values = Self::default();
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            let Some(key) = Key::of(word.text) else {
                let why = format!("`{}` is not a word of packet lists", word.text);
                return Err(Wrong::at(word, why).help(format!("the words are: {WORDS}")));
            };
            let is_hook = |key| matches!(key, Key::Hook(_));
            let is_twice = values
                .found
                .iter()
                .any(|(other, _)| *other == key || (is_hook(*other) && is_hook(key)));
            if is_twice {
                let why = format!("`{}` is said twice", word.text);
                return Err(Wrong::at(word, why).help("write one packet on each line"));
            }
            let value = match key {
                Key::Hook(_) => word,
                Key::From
                | Key::To
                | Key::Port
                | Key::SourcePort
                | Key::Icmp
                | Key::Interface
                | Key::Out
                | Key::Dialled
                | Key::State
                | Key::Mac
                | Key::Ttl => words.next().ok_or_else(|| {
                    Wrong::at(word, format!("`{}` has no value", word.text))
                        .help("write the value after the word, like: from 192.0.2.7")
                })?,
            };
            values.found.push((key, value));
        }
        Ok(values)
    }

    fn get(&self, key: Key) -> Option<&'w Word<'t>> {
        let found = self.found.iter().find(|(other, _)| *other == key);
        found.map(|(_, word)| *word)
    }

    fn hook(&self) -> Option<Hook> {
        self.found.iter().find_map(|(key, _)| match key {
            Key::Hook(hook) => Some(*hook),
            Key::From
            | Key::To
            | Key::Port
            | Key::SourcePort
            | Key::Icmp
            | Key::Interface
            | Key::Out
            | Key::Dialled
            | Key::State
            | Key::Mac
            | Key::Ttl => None,
        })
    }

    /// Reads a value with a standard parser.
    fn value<T: std::str::FromStr>(
        &self,
        key: Key,
        what: &str,
        like: &str,
    ) -> Result<Option<T>, Wrong> {
        let Some(word) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || {
            let why = format!("`{}` is not {what}", word.text);
            Wrong::at(word, why).help(format!("like {like}"))
        };
        word.text.parse().map(Some).ok().ok_or_else(wrong)
    }
}

/// Reads a packet in words.
fn said(rest: &[Word<'_>], whole: &Word<'_>) -> Result<Asked, Wrong> {
    let values = Values::read(rest)?;
    let like = "192.0.2.7 or 2001:db8::7";
    let from: Option<IpAddr> = values.value(Key::From, "an address", like)?;
    let from = from.ok_or_else(|| {
        Wrong::at(whole, "the packet has no source").help("add its address: from 192.0.2.7")
    })?;
    let to: Option<IpAddr> = values.value(Key::To, "an address", like)?;
    let hook = values.hook();
    if let (Some(word), Some(Hook::Input)) = (values.get(Key::Out), hook) {
        let why = "a packet to this host leaves by no interface";
        return Err(Wrong::at(word, why).help("remove `out`, or write forward for input"));
    }
    let is_forwarded = hook == Some(Hook::Forward) || values.get(Key::Out).is_some();
    let to = match (to, is_forwarded) {
        (Some(to), _) => to,
        (None, false) => match Family::of(from) {
            Family::V4 => HOST_V4,
            Family::V6 => HOST_V6,
        },
        (None, true) => {
            let why = "a packet through this host needs its destination";
            return Err(Wrong::at(whole, why).help("add its address: to 10.244.1.5"));
        }
    };
    let mut asked = Asked::new(from, to);
    asked.hook = match (hook, is_forwarded) {
        (None, true) => Some(Hook::Forward),
        // Without a destination, the packet is one to this host.
        (None, false) if values.get(Key::To).is_none() => Some(Hook::Input),
        (hook, _) => hook,
    };
    let named = |key| {
        let word = values.get(key);
        word.map(|word| interface(word.text, word)).transpose()
    };
    asked.interface = named(Key::Interface)?;
    asked.out = named(Key::Out)?;
    asked.hop_limit = values.value(Key::Ttl, "a number of hops", "64")?;
    let dialled: Option<SocketAddr> =
        values.value(Key::Dialled, "an address with a port", "192.0.2.10:30080")?;
    asked.dialled = dialled.map(|dialled| Dialled {
        address: dialled.ip(),
        port: dialled.port(),
    });
    asked.mac = values.get(Key::Mac).map(mac).transpose()?;
    asked.state = values.get(Key::State).map(state).transpose()?;
    asked.transport = transport_of(&values, from)?;
    Ok(asked)
}

fn transport_of(values: &Values<'_, '_>, from: IpAddr) -> Result<Option<Transport>, Wrong> {
    let mut found = match (values.get(Key::Port), values.get(Key::Icmp)) {
        (Some(_), Some(icmp)) => {
            let why = "a packet has a port or a type of ICMP, not both";
            return Err(Wrong::at(icmp, why).help("write two lines"));
        }
        (Some(port), None) => Some(transport(port.text).map_err(|why| Wrong::at(port, why))?),
        (None, Some(kind)) => {
            Some(icmp_type(kind.text, Some(from)).map_err(|why| Wrong::at(kind, why))?)
        }
        (None, None) => None,
    };
    let number: Option<u16> = values.value(Key::SourcePort, "a port", "68")?;
    if let (Some(number), Some(word)) = (number, values.get(Key::SourcePort)) {
        match &mut found {
            Some(Transport::Ports { source, .. }) => *source = number,
            Some(Transport::Icmp { .. } | Transport::Other(_)) | None => {
                let why = "only a packet with a port has a source port";
                return Err(Wrong::at(word, why).help("add the destination: port 67/udp"));
            }
        }
    }
    Ok(found)
}

fn mac(word: &Word<'_>) -> Result<[u8; 6], Wrong> {
    let octets = word.text.split(':');
    let octets: Option<Vec<u8>> = octets
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    let wrong = || {
        let why = format!("`{}` is not an Ethernet address", word.text);
        Wrong::at(word, why).help("like 02:00:00:00:00:0b")
    };
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(wrong)
}

fn state(word: &Word<'_>) -> Result<CtState, Wrong> {
    let found = STATES.iter().find(|(name, _)| *name == word.text);
    found.map(|(_, state)| *state).ok_or_else(|| {
        let names = STATES.map(|(name, _)| name).join(", ");
        let why = format!("`{}` is not a state of a connection", word.text);
        Wrong::at(word, why).help(format!("the states are: {names}"))
    })
}
