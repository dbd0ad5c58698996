//! Lines that tools print about packets: logs of the kernel, traces of nft, tcpdump, conntrack, ss.

use std::net::IpAddr;

use super::Asked;
use crate::net::addr::Family;
use crate::net::packet::{CtState, Dialled, Hook, Transport};
use crate::net::port::{self, ICMP, ICMPV6, TCP, has_ports};
use crate::policy::icmp;

/// What [`parse`] understands, for error messages.
const FORMS: &str = "paste a line of the kernel's log (IN=… SRC=… DST=…), of `nft monitor trace` \
     (with `packet:`), of `tcpdump -n`, `conntrack -L` or `ss -n`, or use --from and --to";

/// Reads a line that a tool printed about a packet.
///
/// # Errors
/// What is missing, and what would do.
pub fn parse(line: &str) -> Result<Asked, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let has = |start: &str| words.iter().any(|word| word.starts_with(start));
    if has("SRC=") {
        return of_log(&words);
    }
    if has("src=") {
        return of_conntrack(&words);
    }
    if let Some(at) = words.iter().position(|word| *word == "packet:") {
        return of_trace(words.get(at + 1..).unwrap_or_default());
    }
    if let Some(at) = words.iter().position(|word| *word == ">") {
        return of_tcpdump(&words, at);
    }
    of_sockets(&words).unwrap_or_else(|| Err(format!("no packet in this line; {FORMS}")))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let plain = text.split('%').next().unwrap_or(text);
    number(plain, "address")
}

fn missing(what: &str) -> String {
    format!("the line has no {what}; {FORMS}")
}

/// Reads a number or an address. Some tools print names.
fn number<N: std::str::FromStr>(text: &str, what: &str) -> Result<N, String> {
    let wrong = || format!("`{text}` is no {what}; use options that print numbers, such as -n");
    text.parse().ok().ok_or_else(wrong)
}

/// A line of nf_log_syslog, ulogd's LOGEMU or xtables-monitor (`nf_log_ip_packet()` in
/// `net/netfilter/nf_log_syslog.c`).
fn of_log(words: &[&str]) -> Result<Asked, String> {
    // An ICMP error contains the packet that it is about, in brackets.
    let own = words
        .iter()
        .take_while(|word| !word.starts_with("[SRC="))
        .copied();
    let own: Vec<&str> = own.collect();
    let value = |key: &str| {
        let found = own.iter().find_map(|word| word.strip_prefix(key));
        found.filter(|value| !value.is_empty())
    };
    let from = address(value("SRC=").ok_or_else(|| missing("SRC="))?)?;
    let to = address(value("DST=").ok_or_else(|| missing("DST="))?)?;
    let mut asked = Asked::new(from, to);
    asked.interface = value("IN=").map(str::to_owned);
    asked.out = value("OUT=").map(str::to_owned);
    if asked.interface.is_none() && asked.out.is_some() {
        return Err(
            "this host sends the packet (IN= is empty): peerwall does not filter what \
                    the host sends"
                .to_owned(),
        );
    }
    asked.hook = match (&asked.interface, &asked.out) {
        (Some(_), Some(_)) => Some(Hook::Forward),
        (Some(_), None) => Some(Hook::Input),
        (None, _) => None,
    };
    asked.mac = value("MAC=").and_then(sender);
    if let Some(limit) = value("TTL=").or_else(|| value("HOPLIMIT=")) {
        asked.hop_limit = Some(number(limit, "TTL")?);
    }
    let protocol = value("PROTO=").ok_or_else(|| missing("PROTO="))?;
    let protocol = protocol_number(protocol)?;
    asked.transport = Some(match (has_ports(protocol), value("DPT=")) {
        (true, Some(port)) => Transport::Ports {
            protocol,
            source: number(value("SPT=").unwrap_or("0"), "port")?,
            destination: number(port, "port")?,
        },
        (true, None) => return Err(missing("DPT=: a later fragment has no ports")),
        (false, _) if matches!(protocol, ICMP | ICMPV6) => Transport::Icmp {
            kind: number(value("TYPE=").ok_or_else(|| missing("TYPE="))?, "type")?,
            code: number(value("CODE=").unwrap_or("0"), "code")?,
        },
        (false, _) => Transport::Other(protocol),
    });
    if protocol == TCP {
        let has = |flag: &str| own.contains(&flag);
        asked.syn = Some(has("SYN") && !has("ACK") && !has("RST") && !has("FIN"));
    }
    Ok(asked)
}

/// Returns the sender's Ethernet address of `MAC=`: destination, source and type.
fn sender(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    bytes.get(6..12)?.try_into().ok()
}

fn protocol_number(name: &str) -> Result<u8, String> {
    let lower = name.to_ascii_lowercase();
    if let Ok(number) = lower.parse() {
        return Ok(number);
    }
    let name = match lower.as_str() {
        "icmpv6" | "ipv6-icmp" | "icmp6" => return Ok(ICMPV6),
        "icmp" => return Ok(ICMP),
        name => name,
    };
    let known = (0..=u8::MAX).find(|number| port::protocol_name(*number) == name);
    known.ok_or_else(|| format!("`{name}` is no protocol that peerwall knows; use its number"))
}

/// A line of conntrack(8): the original direction, then the direction of replies.
fn of_conntrack(words: &[&str]) -> Result<Asked, String> {
    let values = |key: &'static str| {
        let found = words.iter().filter_map(move |word| word.strip_prefix(key));
        found.collect::<Vec<&str>>()
    };
    let (sources, destinations) = (values("src="), values("dst="));
    let first =
        |list: &[&str], what: &str| address(list.first().copied().ok_or_else(|| missing(what))?);
    let (from, dialled) = (first(&sources, "src=")?, first(&destinations, "dst=")?);
    let protocol = words.iter().find_map(|word| {
        let known = [
            "tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "gre",
        ];
        known.contains(word).then(|| protocol_number(word))
    });
    let protocol = protocol.unwrap_or_else(|| Err(missing("protocol")))?;
    // Replies come from the translated destination.
    let to = match sources.get(1) {
        Some(text) => address(text)?,
        None => dialled,
    };
    let mut asked = Asked::new(from, to);
    let (from_ports, to_ports) = (values("sport="), values("dport="));
    asked.transport = Some(match (has_ports(protocol), protocol) {
        (true, _) => {
            let dialled: u16 = number(to_ports.first().ok_or_else(|| missing("dport="))?, "port")?;
            let now = from_ports
                .get(1)
                .map_or(Ok(dialled), |text| number(text, "port"))?;
            Transport::Ports {
                protocol,
                source: number(from_ports.first().unwrap_or(&"0"), "port")?,
                destination: now,
            }
        }
        (false, ICMP | ICMPV6) => Transport::Icmp {
            kind: number(
                values("type=").first().ok_or_else(|| missing("type="))?,
                "type",
            )?,
            code: number(values("code=").first().unwrap_or(&"0"), "code")?,
        },
        (false, _) => Transport::Other(protocol),
    });
    if let Some(Transport::Ports { destination, .. }) = asked.transport {
        let port = number(to_ports.first().unwrap_or(&"0"), "port")?;
        let is_translated = (dialled, port) != (to, destination);
        asked.dialled = is_translated.then_some(Dialled {
            address: dialled,
            port,
        });
    }
    let is_open = words
        .iter()
        .any(|word| word.contains("ESTABLISHED") || *word == "[ASSURED]");
    asked.state = Some(match is_open && !words.contains(&"[UNREPLIED]") {
        true => CtState::Established,
        false => CtState::New,
    });
    Ok(asked)
}

/// The packet of a line of `nft monitor trace`.
fn of_trace(words: &[&str]) -> Result<Asked, String> {
    let after = |names: &[&str]| {
        let mut at = words.windows(names.len() + 1);
        at.find_map(|here| match here.split_last() {
            Some((value, keys)) if keys == names => Some(value.trim_matches('"')),
            _ => None,
        })
    };
    let either = |name: &str| after(&["ip", name]).or_else(|| after(&["ip6", name]));
    let from = address(either("saddr").ok_or_else(|| missing("`ip saddr`"))?)?;
    let to = address(either("daddr").ok_or_else(|| missing("`ip daddr`"))?)?;
    let mut asked = Asked::new(from, to);
    let name = |key: &str, longer: &str| after(&[key]).or_else(|| after(&[longer]));
    asked.interface = name("iif", "iifname").map(str::to_owned);
    asked.out = name("oif", "oifname").map(str::to_owned);
    if let Some(limit) = after(&["ip", "ttl"]).or_else(|| after(&["ip6", "hoplimit"])) {
        asked.hop_limit = Some(number(limit, "TTL")?);
    }
    for protocol in ["tcp", "udp", "sctp", "dccp", "udplite"] {
        if let Some(port) = after(&[protocol, "dport"]) {
            asked.transport = Some(Transport::Ports {
                protocol: protocol_number(protocol)?,
                source: number(after(&[protocol, "sport"]).unwrap_or("0"), "port")?,
                destination: number(port, "port")?,
            });
        }
    }
    for (family, key) in [(Family::V4, "icmp"), (Family::V6, "icmpv6")] {
        if let Some(kind) = after(&[key, "type"]) {
            let kind = match icmp::by_name(family, kind) {
                Some(kind) => kind,
                None => number(kind, "type")?,
            };
            let code = after(&[key, "code"]).and_then(|code| code.parse().ok());
            let code = code.unwrap_or(0);
            asked.transport = Some(Transport::Icmp { kind, code });
        }
    }
    if asked.transport.is_none() {
        let protocol = either("protocol").or_else(|| after(&["ip6", "nexthdr"]));
        let protocol = protocol.ok_or_else(|| missing("protocol"))?;
        asked.transport = Some(Transport::Other(protocol_number(protocol)?));
    }
    if let Some(at) = words.iter().position(|word| *word == "flags") {
        let flags = words.get(at + 1..).unwrap_or_default();
        let flags = flags.iter().find(|word| **word != "==");
        asked.syn = flags.map(|flags| *flags == "syn");
    }
    Ok(asked)
}

/// A line of tcpdump(8): `IP 10.0.0.1.40000 > 10.0.0.2.80: Flags [S], …`.
fn of_tcpdump(words: &[&str], at: usize) -> Result<Asked, String> {
    let before = at.checked_sub(1).and_then(|at| words.get(at));
    let after = words.get(at + 1).map(|word| word.trim_end_matches(':'));
    let (before, after) = before
        .zip(after)
        .ok_or_else(|| missing("address on both sides of `>`"))?;
    let ((from, source), (to, port)) = (dotted(before)?, dotted(after)?);
    let mut asked = Asked::new(from, to);
    // `tcpdump -i any` prints the interface and the direction.
    if let Some(direction) = words.iter().position(|word| *word == "In") {
        let name = direction.checked_sub(1).and_then(|at| words.get(at));
        asked.interface = name.map(|name| (*name).to_owned());
    }
    let rest = words.get(at + 2..).unwrap_or_default();
    let protocol = match rest.first().copied() {
        Some("Flags") => Some(TCP),
        Some("ICMP" | "ICMP6,") => None,
        Some(word) if word.starts_with("UDP") => Some(port::UDP),
        Some(word) if word.to_ascii_lowercase().starts_with("sctp") => Some(132),
        // tcpdump names what UDP carries: `VXLAN`, `NTPv4`, a DNS query number.
        Some(_) if port.is_some() => Some(port::UDP),
        _ => return Err(missing("protocol")),
    };
    asked.transport = Some(match (protocol, port) {
        (Some(protocol), Some(destination)) => Transport::Ports {
            protocol,
            source: source.unwrap_or(0),
            destination,
        },
        (Some(_), None) => return Err(missing("port")),
        (None, _) => {
            let text = rest.join(" ");
            let family = Family::of(from);
            let kinds: [(&str, u8); 8] = match family {
                Family::V4 => [
                    ("echo request", 8),
                    ("echo reply", 0),
                    ("redirect", 5),
                    ("time exceeded", 11),
                    ("unreachable", 3),
                    ("parameter problem", 12),
                    ("router advertisement", 9),
                    ("timestamp", 13),
                ],
                Family::V6 => [
                    ("echo request", 128),
                    ("echo reply", 129),
                    ("redirect", 137),
                    ("time exceeded", 3),
                    ("unreachable", 1),
                    ("packet too big", 2),
                    ("router advertisement", 134),
                    ("neighbor solicitation", 135),
                ],
            };
            let kind = kinds.iter().find(|(name, _)| text.contains(name));
            let (_, kind) = kind.ok_or_else(|| missing("type of ICMP that peerwall knows"))?;
            Transport::Icmp {
                kind: *kind,
                code: 0,
            }
        }
    });
    if protocol == Some(TCP) {
        asked.syn = rest.get(1).map(|flags| flags.starts_with("[S]"));
    }
    Ok(asked)
}

/// Reads an address with a port after a dot, or without a port.
fn dotted(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse() {
        return Ok((address, None));
    }
    let (start, end) = text
        .rsplit_once('.')
        .ok_or_else(|| address(text).err().unwrap_or_default())?;
    Ok((address(start)?, Some(number(end, "port")?)))
}

/// A line of ss(8): state, two queues, the local address and the other one.
fn of_sockets(words: &[&str]) -> Option<Result<Asked, String>> {
    const STATES: [&str; 6] = [
        "ESTAB",
        "SYN-RECV",
        "SYN-SENT",
        "LISTEN",
        "UNCONN",
        "TIME-WAIT",
    ];
    let at = words.iter().position(|word| STATES.contains(word))?;
    let state = words.get(at).copied()?;
    let protocol = match words.first().copied()? {
        "udp" => port::UDP,
        _ => TCP,
    };
    let (local, other) = (words.get(at + 3)?, words.get(at + 4)?);
    Some(read_sockets(state, protocol, local, other))
}

fn read_sockets(state: &str, protocol: u8, local: &str, other: &str) -> Result<Asked, String> {
    if matches!(state, "LISTEN" | "UNCONN") {
        return Err(
            "the socket waits for packets from anywhere: give the sender with --from, and --port"
                .to_owned(),
        );
    }
    let ((local, local_port), (other, other_port)) = (with_port(local)?, with_port(other)?);
    let is_own = state == "SYN-SENT";
    let (from, source, to, destination) = match is_own {
        true => (local, local_port, other, other_port),
        false => (other, other_port, local, local_port),
    };
    let mut asked = Asked::new(from, to);
    asked.transport = Some(Transport::Ports {
        protocol,
        source,
        destination,
    });
    if is_own {
        asked.notes.push(
            "the socket's packet is one that this host sends; this is what the policy would say \
             on the other host"
                .to_owned(),
        );
        asked.hook = Some(Hook::Input);
    }
    Ok(asked)
}

/// Reads `10.0.0.1:22`, `[2001:db8::1]:22` or `10.0.0.1%eth0:22`.
fn with_port(text: &str) -> Result<(IpAddr, u16), String> {
    let (start, end) = text.rsplit_once(':').ok_or_else(|| missing("port"))?;
    let start = start.trim_start_matches('[').trim_end_matches(']');
    Ok((address(start)?, number(end, "port")?))
}
