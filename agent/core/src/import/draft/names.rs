//! Names of peers, groups and allows.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::prefixes::{joined, prefixes, usable};
use super::text::LIST_MAX;
use super::{From, PolicyWriter};
use crate::import::rule::Interval;
use crate::import::space::axes::highest;
use crate::net::addr::{self, Family};

impl PolicyWriter<'_> {
    /// Assigns unique names to all entries.
    pub(super) fn name_all(&mut self) {
        let overlays = self.draft.overlays.iter();
        let mut used = Used {
            names: overlays.map(|overlay| overlay.name.clone()).collect(),
            ..Used::default()
        };
        for peer in &mut self.draft.peers {
            let by_address = peer.addresses.first().map_or_else(String::new, |net| {
                let kind = match (
                    net.prefix_len() == net.max_prefix_len(),
                    peer.addresses.len(),
                ) {
                    (_, 2..) => "from",
                    (true, _) => "host",
                    (false, _) => "net",
                };
                match kind {
                    "from" => format!("from-{}", plain(net.addr().into())),
                    kind => format!("{kind}-{}", plain(*net)),
                }
            });
            peer.name = Some(used.unused(peer.name.take().unwrap_or(by_address)));
        }
        let mut allows = Used::default();
        for allow in &mut self.draft.allows {
            allow.name = allows.unused(std::mem::take(&mut allow.name));
        }
        let of_allows = self
            .draft
            .allows
            .iter()
            .map(|allow| (allow.name.as_str(), &allow.from));
        let of_ping = self.draft.ping.iter().map(|from| ("ping", from));
        for (name, from) in of_allows.chain(of_ping) {
            if let From::Nets(nets) = from
                && nets.len() > LIST_MAX
                && !self.draft.groups.iter().any(|(_, old)| old == nets)
            {
                let group = used.unused(list_name(nets, name));
                self.draft.groups.push((group, nets.clone()));
            }
        }
    }
}

/// Names of one kind of entries.
#[derive(Debug, Default)]
struct Used {
    names: BTreeSet<String>,
    /// The next number to try for each name.
    next: BTreeMap<String, u32>,
}

impl Used {
    /// Returns a name, or the name with the first free number, and notes it.
    fn unused(&mut self, name: String) -> String {
        if self.names.insert(name.clone()) {
            return name;
        }
        let next = self.next.entry(name.clone()).or_insert(2);
        loop {
            let numbered = format!("{name}-{next}");
            *next += 1;
            if self.names.insert(numbered.clone()) {
                return numbered;
            }
        }
    }
}

/// Names a list, by the excluded networks if these are fewer.
fn list_name(nets: &[IpNet], allow: &str) -> String {
    let Some(first) = nets.first() else {
        return format!("from-{allow}");
    };
    let family = Family::of(first.addr());
    let one_family: Vec<Interval> = nets
        .iter()
        .filter(|net| Family::of(net.addr()) == family)
        .map(|net| addr::bounds(*net))
        .collect();
    let mut left_out = Vec::new();
    let mut next = 0;
    for (first, last) in joined(one_family) {
        if first > next {
            left_out.push((next, first - 1));
        }
        next = last.saturating_add(1);
    }
    if next <= highest(family) && next > 0 {
        left_out.push((next, highest(family)));
    }
    let left_out = prefixes(family, &left_out).into_iter();
    let left_out: Vec<IpNet> = left_out.filter_map(usable).collect();
    match left_out[..] {
        [one] => format!("all-but-{}", plain(one)),
        _ if left_out.len() * 2 < nets.len() => format!("all-but-{}-networks", left_out.len()),
        _ => format!("from-{allow}"),
    }
}

/// Formats an address for use in a name.
fn plain(net: IpNet) -> String {
    let text = addr::short(net);
    let parts = text.split(['.', ':', '/']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Names well-known ports.
pub(super) fn service_name(ports: Option<&[String]>) -> String {
    let Some(ports) = ports else {
        return "everything".to_owned();
    };
    let known = |text: &str| {
        Some(match text {
            "22/tcp" => "ssh",
            "25/tcp" => "smtp",
            "53" | "53/udp" | "53/tcp" => "dns",
            "80/tcp" => "http",
            "68/udp" => "dhcp-client",
            "123/udp" => "ntp",
            "179/tcp" => "bgp",
            "443/tcp" => "https",
            "443/udp" => "http3",
            "546/udp" => "dhcpv6-client",
            "2379-2380/tcp" => "etcd",
            "6443/tcp" => "kubernetes-api",
            "10250/tcp" => "kubelet",
            "30000-32767/tcp" | "30000-32767/udp" | "30000-32767" => "node-ports",
            "51820/udp" => "wireguard",
            _ => return None,
        })
    };
    let names: Vec<&str> = ports.iter().filter_map(|text| known(text)).collect();
    match (&names[..], ports) {
        ([_, ..], _) if names.len() == ports.len() && ports.len() <= 3 => names.join("-"),
        (_, [one]) => match one.split_once('/') {
            Some((port, protocol)) => format!("{protocol}-{port}"),
            None if one.starts_with(|c: char| c.is_ascii_digit()) => format!("port-{one}"),
            None => one.clone(),
        },
        _ => "ports".to_owned(),
    }
}

/// Converts a comment to a name, if possible.
pub(super) fn name_of(comment: &str) -> Option<String> {
    let mut name = String::new();
    for c in comment.trim().chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let name = name.trim_matches(['-', '.']).to_owned();
    let good =
        (2..=40).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphabetic());
    // These have a meaning of their own.
    let is_free = !["any", "host"].contains(&name.as_str());
    (good && is_free).then_some(name)
}
