//! `cases/NN-name/packets.txt`: one packet a line, with its verdict and reason.
//!
//! ```text
//! # hook   interface  source           destination  what                      verdict reason
//! input    eth0       129.21.49.48     host         tcp 22                 => accept peers
//! forward  eth0       198.51.100.7     10.244.1.5   tcp 8080 dialled 30080 => drop forward-default
//! ```
//!
//! `host` is an address of the host under test, of the source's family. Words behind the protocol:
//!
//! - `from PORT`: source port.
//! - `dialled PORT`: the connection is DNATed; this port was dialled, at the host.
//! - `at ADDRESS`: after `dialled`, at this address. It is not the host's.
//! - `out INTERFACE`: the route to the destination leaves by it.
//! - `mac ADDRESS`: Ethernet address of the sender.
//! - `hop N`: TTL or hop limit.
//! - `ack`: TCP with ACK and without SYN; connection tracking takes it for the first packet of a
//!   connection.
//! - `established`, `related`, `invalid`, `untracked`: state of the connection, otherwise new.
//! - `returns`: the way back to the source leaves by the interface.
//! - `martian`: a real kernel drops the packet before peerwall's chains; only the policy and the
//!   ruleset are asked about it.
//!
//! A folder may have a `host.sh`: what the host has before the policy is read. Its lines `wire
//! NAME…` and `bridge NAME…` give it interfaces; after that, a shell runs the other lines in the
//! host.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use peerwall_core::net::packet::{CtState, Decision, Dialled, Hook, Packet, Transport, Verdict};
use peerwall_core::net::port::{ICMP, ICMPV6, TCP, UDP};
use peerwall_core::policy::reason::Reason;

use crate::setup::ANY_PORT;

/// IPv4 address of the host under test.
pub const HOST_V4: &str = "192.0.2.254";
/// IPv6 address of the host under test.
pub const HOST_V6: &str = "2001:db8:ffff::fe";

/// A case: a folder.
#[derive(Debug, Clone)]
pub struct Case {
    /// `NN-name`
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// `host.sh`; empty without one.
    pub host: String,
    /// Packets with what should become of them.
    pub packets: Vec<Line>,
}

/// One line of `packets.txt`.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number, from 1.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// The packet.
    pub packet: Packet,
    /// Whether the kernel drops it without any rules.
    pub martian: bool,
    /// What should become of it.
    pub want: Decision,
}

/// All cases, in order.
///
/// # Panics
/// If a case cannot be read.
pub fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display()));
    let mut cases: Vec<Case> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| read(&entry.path()))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn read(folder: &Path) -> Case {
    let path = folder.join("packets.txt");
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let mut packets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split('#').next().unwrap_or_default().trim();
        if words.is_empty() {
            continue;
        }
        let at = || format!("{}:{}: {words}", path.display(), index + 1);
        let (packet, want) = parse(words).unwrap_or_else(|why| panic!("{}: {why}", at()));
        packets.push(Line {
            number: index + 1,
            text: words.to_owned(),
            packet,
            martian: words.split_whitespace().any(|word| word == "martian"),
            want,
        });
    }
    Case {
        name: folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
        folder: folder.to_owned(),
        host: std::fs::read_to_string(folder.join("host.sh")).unwrap_or_default(),
        packets,
    }
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it: every word is accounted for.
pub fn parse(line: &str) -> Result<(Packet, Decision), String> {
    let (packet, want) = line.split_once("=>").ok_or("`=>` is missing")?;
    let mut words = packet.split_whitespace();
    let mut next = |what: &str| words.next().ok_or(format!("{what} is missing"));
    let hook = match next("the hook")? {
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        other => return Err(format!("`{other}` is not a hook")),
    };
    let interface = next("the interface")?.to_owned();
    let source: IpAddr = address(next("the source")?, "")?;
    let host = if source.is_ipv4() { HOST_V4 } else { HOST_V6 };
    let destination = address(next("the destination")?, host)?;
    let protocol = next("the protocol")?.to_owned();
    let mut packet = Packet {
        reverse_path: false,
        ..Packet::new(hook, interface, source, destination, Transport::Other(0))
    };
    let host: IpAddr = host.parse().map_err(|err| format!("{host}: {err}"))?;
    let mut numbers = Vec::new();
    let mut source_port = None;
    while let Some(word) = words.next() {
        let mut number = |what: &str| {
            words
                .next()
                .and_then(|w| w.parse().ok())
                .ok_or(format!("{what} wants a number"))
        };
        match word {
            "from" => source_port = Some(number("from")?),
            "dialled" => {
                packet.to_host = true;
                packet.dialled = Some(Dialled {
                    address: host,
                    port: number("dialled")?,
                });
            }
            "at" => {
                let text = words.next().ok_or("`at` wants an address")?;
                let at = packet.dialled.as_mut().ok_or("`at` goes after `dialled`")?;
                at.address = address(text, "")?;
                packet.to_host = false;
            }
            "out" => packet.out = Some(words.next().ok_or("`out` wants a name")?.to_owned()),
            "mac" => packet.mac = Some(mac(words.next().ok_or("`mac` wants an address")?)?),
            "martian" => {}
            "ack" => packet.syn = false,
            "hop" => {
                packet.hop_limit = u8::try_from(number("hop")?).map_err(|err| err.to_string())?
            }
            "established" => packet.state = CtState::Established,
            "related" => packet.state = CtState::Related,
            "invalid" => packet.state = CtState::Invalid,
            "untracked" => packet.state = CtState::Untracked,
            "returns" => packet.reverse_path = true,
            other => numbers.push(
                other
                    .parse::<u16>()
                    .map_err(|err| format!("`{other}` is no word: {err}"))?,
            ),
        }
    }
    packet.syn &= matches!(packet.state, CtState::New | CtState::Untracked);
    packet.transport = transport(&protocol, &numbers, source_port.unwrap_or(ANY_PORT))?;
    Ok((packet, decision(want)?))
}

fn address(text: &str, host: &str) -> Result<IpAddr, String> {
    let text = if text == "host" { host } else { text };
    text.parse()
        .map_err(|err| format!("`{text}` is no address: {err}"))
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Result<Vec<u8>, _> = text
        .split(':')
        .map(|hex| u8::from_str_radix(hex, 16))
        .collect();
    let bytes = bytes.map_err(|err| format!("`{text}`: {err}"))?;
    let six = bytes.try_into();
    six.map_err(|other: Vec<u8>| format!("`{text}` has {} bytes, not 6", other.len()))
}

fn transport(protocol: &str, numbers: &[u16], source: u16) -> Result<Transport, String> {
    let number = match protocol {
        "tcp" => TCP,
        "udp" => UDP,
        "sctp" => 132,
        "icmp" | "icmpv6" => {
            let [kind, code] = match numbers {
                [kind] => [*kind, 0],
                [kind, code] => [*kind, *code],
                _ => return Err("icmp wants a type, and may have a code".into()),
            };
            let narrow = |n: u16| u8::try_from(n).map_err(|err| err.to_string());
            return Ok(Transport::Icmp {
                kind: narrow(kind)?,
                code: narrow(code)?,
            });
        }
        other => {
            let number: u8 = other
                .strip_prefix("proto-")
                .and_then(|n| n.parse().ok())
                .ok_or(format!("`{other}` is no protocol"))?;
            if number == ICMP || number == ICMPV6 {
                return Err("write icmp".into());
            }
            return Ok(Transport::Other(number));
        }
    };
    let [destination] = numbers else {
        return Err(format!("{protocol} wants one port"));
    };
    Ok(Transport::Ports {
        protocol: number,
        source,
        destination: *destination,
    })
}

fn decision(text: &str) -> Result<Decision, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [verdict, reason] = words[..] else {
        return Err("behind `=>` stand a verdict and a reason".into());
    };
    let verdict = match verdict {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "reject" => Verdict::Reject,
        other => return Err(format!("`{other}` is no verdict")),
    };
    let reason = Reason::parse(reason).ok_or(format!("`{reason}` is not a reason"))?;
    Ok(Decision { verdict, reason })
}
