//! Parses values of options: numbers, addresses, protocols, ports, flags and ICMP types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::names;
use super::{Interval, Test};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::port;

/// Words that cannot be read, and what to write.
pub(super) type WordError = (String, &'static str);

/// Parses a number like `xtables_strtoui()`: decimal, `0x` and octal.
pub(super) fn number(text: &str, most: u64) -> Option<u64> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0X")) {
        (Some(digits), _) | (_, Some(digits)) => (digits, 16),
        _ if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        _ => (text, 10),
    };
    let is_digits = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let number = u64::from_str_radix(digits, radix)
        .ok()
        .filter(|_| is_digits)?;
    (number <= most).then_some(number)
}

/// Parses a number of up to 255.
pub(super) fn byte(text: &str) -> Result<u8, WordError> {
    let value = number(text, u8::MAX.into()).and_then(|value| u8::try_from(value).ok());
    value.ok_or_else(|| {
        (
            format!("`{text}` is not a number from 0 to 255"),
            "write one",
        )
    })
}

/// Parses the numeric part of an IPv4 address as iptables does: `10.1` is 10.1.0.0.
fn ipv4(text: &str, complete: bool) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 4 || (complete && parts.len() < 4) {
        return None;
    }
    let mut bytes = [0; 4];
    for (byte, part) in bytes.iter_mut().zip(&parts) {
        *byte = u8::try_from(number(part, u8::MAX.into())?).ok()?;
    }
    Some(bytes.into())
}

fn host(text: &str, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => ipv4(text, false).map(IpAddr::V4),
        Family::V6 => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

fn not_an_address(text: &str, family: Family) -> WordError {
    let help = match text.split('/').next().unwrap_or_default().parse::<IpAddr>() {
        Ok(_) => "is this a file of the other family? see --v4 and --v6",
        Err(_) => "host names are not looked up; write addresses",
    };
    (
        format!("`{text}` is not an IPv{} address", family.digit()),
        help,
    )
}

/// Parses `ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK`.
pub(super) fn address(text: &str, family: Family) -> Result<Interval, WordError> {
    let (name, mask) = match text.split_once('/') {
        Some((name, mask)) => (name, Some(mask)),
        None => (text, None),
    };
    let host = host(name, family).ok_or_else(|| not_an_address(text, family))?;
    let length = match mask {
        None => family.bits(),
        Some(mask) => length(mask, family).map_err(|why| (format!("`{text}` {why}"), MASK_HELP))?,
    };
    let net = IpNet::new(host, length).ok();
    let net = net.ok_or_else(|| not_an_address(text, family))?;
    // iptables also ignores host bits.
    Ok(addr::bounds(net.trunc()))
}

const MASK_HELP: &str = "write it like 192.0.2.0/24";

/// Parses a prefix length, or a mask of leading ones.
fn length(mask: &str, family: Family) -> Result<u8, &'static str> {
    let ones = match (family, ipv4(mask, true), mask.parse::<Ipv6Addr>()) {
        (Family::V4, Some(mask), _) => Some(ipnet::ipv4_mask_to_prefix(mask).ok()),
        (Family::V6, _, Ok(mask)) => Some(ipnet::ipv6_mask_to_prefix(mask).ok()),
        (Family::V4 | Family::V6, _, _) => None,
    };
    if let Some(ones) = ones {
        return ones.ok_or("has a mask with gaps, which is no network");
    }
    let length = number(mask, family.bits().into()).and_then(|bits| u8::try_from(bits).ok());
    length.ok_or("has no valid prefix length")
}

/// Parses a list of addresses and networks. One that covers everything covers the list.
pub(super) fn addresses(text: &str, family: Family) -> Result<Vec<Interval>, WordError> {
    let all = text.split(',');
    let all = all.map(|each| address(each.trim_start_matches(' '), family));
    let mut spans = all.collect::<Result<Vec<Interval>, WordError>>()?;
    spans.shrink_to_fit();
    Ok(spans)
}

/// Reports whether the intervals cover every address.
pub(super) fn is_everything(spans: &[Interval], family: Family) -> bool {
    let last = match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    spans.contains(&(0, last))
}

/// Parses `FIRST-LAST` or one address.
pub(super) fn range(text: &str, family: Family) -> Result<Interval, WordError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let one = |part: &str| host(part, family).ok_or_else(|| not_an_address(part, family));
    let (first, last) = (addr::number(one(first)?), addr::number(one(last)?));
    match first <= last {
        true => Ok((first, last)),
        false => Err((
            format!("`{text}` ends before it starts"),
            "write it like 192.0.2.10-192.0.2.20",
        )),
    }
}

/// Parses a protocol; `None` matches all of them.
pub(super) fn protocol(name: &str) -> Result<Option<u8>, WordError> {
    let name = name.to_ascii_lowercase();
    let given = number(&name, u8::MAX.into()).and_then(|value| u8::try_from(value).ok());
    match given.or_else(|| names::protocol(&name)) {
        Some(0) => Ok(None),
        Some(number) => Ok(Some(number)),
        None => Err((
            format!("`{name}` is not a protocol"),
            "write its number; see /etc/protocols",
        )),
    }
}

/// Parses an interface; `None` for `+`, which matches every interface.
pub(super) fn interface(text: &str) -> Result<Option<InterfacePattern>, WordError> {
    let help = "write it like `-i eth0`, or `-i eth+` for every interface with that prefix";
    if text.contains('*') {
        let why = format!("`{text}` is one name: to iptables, a `*` stands for itself");
        return Err((why, help));
    }
    let pattern = match text.strip_suffix('+') {
        Some("") => return Ok(None),
        Some(prefix) => format!("{prefix}*"),
        None => text.to_owned(),
    };
    InterfacePattern::parse(&pattern)
        .map(Some)
        .map_err(|err| (err.0, help))
}

/// Parses a port or the name of a service of this protocol (`t`, `u` or `s`), or of any.
pub(super) fn port(text: &str, protocol: Option<char>) -> Result<u16, WordError> {
    let given = number(text, u16::MAX.into()).and_then(|value| u16::try_from(value).ok());
    given
        .or_else(|| names::service(text, protocol))
        .ok_or_else(|| {
            (
                format!("`{text}` is not a port"),
                "write a number from 0 to 65535, or a name of /etc/services",
            )
        })
}

/// Parses `PORT`, `FIRST:LAST`, `:LAST` or `FIRST:`.
pub(super) fn port_range(text: &str, protocol: Option<char>) -> Result<(u16, u16), WordError> {
    let (first, last) = match text.split_once(':') {
        Some(ends) => ends,
        None => return port(text, protocol).map(|port| (port, port)),
    };
    let first = if first.is_empty() {
        0
    } else {
        port(first, protocol)?
    };
    let last = if last.is_empty() {
        u16::MAX
    } else {
        port(last, protocol)?
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err((
            format!("`{text}` ends before it starts"),
            "write it like 8000:8100",
        )),
    }
}

/// Maximum number of ports of `multiport`; a range counts twice (`XT_MULTI_PORTS`).
const MULTI_PORTS_MAX: usize = 15;

/// Parses the list of `multiport`, whose ranges have both ends.
pub(super) fn port_list(text: &str, protocol: Option<char>) -> Result<Vec<(u16, u16)>, WordError> {
    let mut ranges = Vec::new();
    let mut count = 0;
    for each in text.split(',') {
        let Some((first, last)) = each.split_once(':') else {
            let port = port(each, protocol)?;
            ranges.push((port, port));
            count += 1;
            continue;
        };
        let (first, last) = (port(first, protocol)?, port(last, protocol)?);
        if first >= last {
            return Err((
                format!("`{each}` is not a range"),
                "write it like 8000:8100",
            ));
        }
        ranges.push((first, last));
        count += 2;
    }
    match count <= MULTI_PORTS_MAX {
        true => Ok(ranges),
        false => Err((
            format!("`{text}` has more than {MULTI_PORTS_MAX} ports"),
            "split the rule; a range counts as two ports",
        )),
    }
}

/// TCP flag bits (RFC 9293 section 3.1).
pub(in crate::import) const SYN: u8 = 0x02;

pub(in crate::import) const RST: u8 = 0x04;

pub(in crate::import) const ACK: u8 = 0x10;

pub(super) fn tcp_flags(text: &str) -> Result<u8, WordError> {
    const FLAGS: [(&str, u8); 8] = [
        ("FIN", 0x01),
        ("SYN", SYN),
        ("RST", RST),
        ("PSH", 0x08),
        ("ACK", ACK),
        ("URG", 0x20),
        ("ALL", 0x3f),
        ("NONE", 0),
    ];
    let mut bits = 0;
    for name in text.split(',') {
        let found = FLAGS
            .iter()
            .find(|(flag, _)| flag.eq_ignore_ascii_case(name));
        let Some((_, bit)) = found else {
            return Err((
                format!("`{name}` is not a TCP flag"),
                "the flags are FIN, SYN, RST, PSH, ACK, URG, ALL and NONE",
            ));
        };
        bits |= bit;
    }
    Ok(bits)
}

/// Parses `TYPE`, `TYPE/CODE`, a name or `any`; `None` matches all of them.
pub(super) fn icmp(text: &str, family: Family) -> Result<Option<names::IcmpKind>, WordError> {
    let wrong = || {
        (
            format!("`{text}` is not an ICMP type"),
            "write it like 8, 3/4 or echo-request",
        )
    };
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => (kind, Some(code)),
        None => (text, None),
    };
    let Some(kind) = number(kind, u8::MAX.into()) else {
        if family == Family::V4 && text.eq_ignore_ascii_case("any") {
            return Ok(None);
        }
        return names::icmp(family, text).map(Some).ok_or_else(wrong);
    };
    let small = |value| u8::try_from(value).ok().ok_or_else(wrong);
    let code = match code {
        Some(code) => Some(small(number(code, u8::MAX.into()).ok_or_else(wrong)?)?),
        None => None,
    };
    // The kernel treats type 255 as any type (`icmp_type_code_match()`), but not for ICMPv6.
    match (family, kind) {
        (Family::V4, 255) => Ok(None),
        (Family::V4 | Family::V6, kind) => Ok(Some((small(kind)?, code))),
    }
}

/// The test for an ICMP type.
pub(super) fn icmp_test(kind: Option<names::IcmpKind>) -> Test {
    kind.map_or(Test::Always(true), |kind| Test::Icmp(vec![kind]))
}

/// Parses a mark or a mark and a mask: `1`, `0x1/0xff`.
pub(super) fn is_mark(text: &str) -> bool {
    let (mark, mask) = text.split_once('/').unwrap_or((text, "0"));
    [mark, mask]
        .iter()
        .all(|part| number(part, u32::MAX.into()).is_some())
}

/// Reports whether iptables can match ports of a protocol.
pub(in crate::import) fn has_ports(protocol: u8) -> bool {
    port::has_ports(protocol)
}
