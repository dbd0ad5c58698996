//! Two hosts with the same interfaces, addresses and routes: one has the rules, one the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::counter_reason;

use super::packet::Packet;
use crate::counts::Counts;
use crate::net::wire;
use crate::ns::Host;
use crate::raw::Sender;
use crate::setup::HOST_MAC;

/// Addresses that packets for the hosts go to.
pub(super) const OWN_V4: [&str; 9] = [
    "203.0.113.10",
    "203.0.113.10",
    "203.0.113.255",
    "192.168.1.1",
    "192.168.1.255",
    "10.244.0.1",
    "127.0.0.1",
    "224.0.0.251",
    "255.255.255.255",
];
/// The same for IPv6; the prefix itself is the subnet's anycast address (RFC 4291, section 2.6.1).
pub(super) const OWN_V6: [&str; 8] = [
    "2001:db8::10",
    "2001:db8::10",
    "2001:db8::",
    "fd00:1::1",
    "fe80::1",
    "ff02::1",
    "ff02::1:ff00:10",
    "::1",
];
/// Addresses of pods, of the LAN and elsewhere.
pub(super) const THROUGH_V4: [&str; 5] = [
    "10.244.0.7",
    "10.244.1.7",
    "192.168.1.50",
    "198.51.100.9",
    "10.96.0.1",
];
/// The same for IPv6.
pub(super) const THROUGH_V6: [&str; 5] = [
    "fd00:244::7",
    "fd00:244:1::7",
    "fd00:1::50",
    "2001:db8:9::9",
    "fd00:96::1",
];

/// Interfaces that every host has, with their addresses and routes.
const INTERFACES: [(&str, &str); 4] = [
    (
        "eth0",
        "ip address add 203.0.113.10/24 broadcast + dev eth0; \
         ip -6 address add 2001:db8::10/64 dev eth0 nodad; \
         ip -6 address add fe80::1/64 dev eth0 nodad; \
         ip route add default dev eth0; ip -6 route add default dev eth0",
    ),
    (
        "eth1",
        "ip address add 192.168.1.1/24 broadcast + dev eth1; \
         ip -6 address add fd00:1::1/64 dev eth1 nodad",
    ),
    (
        "cni0",
        "ip address add 10.244.0.1/24 broadcast + dev cni0; \
         ip -6 address add fd00:244::1/64 dev cni0 nodad",
    ),
    (
        "flannel.1",
        "ip address add 10.244.0.0/32 dev flannel.1; ip route add 10.244.1.0/24 dev flannel.1; \
         ip -6 route add fd00:244:1::/64 dev flannel.1",
    ),
];
/// What writes down the numbers of packets: at their arrival, and behind all filters. Nothing
/// leaves the host, so that no connection is ever answered.
const WRITER: &str = "
table inet wild {
    set came4 { typeof ip id; flags dynamic; size 65535; }
    set came6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
    set input4 { typeof ip id; flags dynamic; size 65535; }
    set input6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
    set forward4 { typeof ip id; flags dynamic; size 65535; }
    set forward6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
    chain before {
        type filter hook prerouting priority -2000;
        add @came4 { ip id };
        add @came6 { ip6 flowlabel };
    }
    chain input {
        type filter hook input priority 2000;
        add @input4 { ip id };
        add @input6 { ip6 flowlabel };
    }
    chain forward {
        type filter hook forward priority 2000;
        add @forward4 { ip id };
        add @forward6 { ip6 flowlabel };
    }
    chain output {
        type filter hook output priority -2000; policy drop;
    }
}
";

/// Numbers of packets, by what wrote them down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Those that came to the host.
    pub came: BTreeSet<u16>,
    /// Those that input let in.
    pub input: BTreeSet<u16>,
    /// Those that forward let through.
    pub forward: BTreeSet<u16>,
}

impl Seen {
    /// Reports whether a packet got through all filters.
    #[must_use]
    pub fn is_accepted(&self, number: u16) -> bool {
        self.input.contains(&number) || self.forward.contains(&number)
    }
}

/// Packets of the rules with a verdict, by chain and number, and of the policies, by chain.
#[derive(Debug, Default)]
struct Counted {
    rules: BTreeMap<String, u64>,
    policies: BTreeMap<String, u64>,
}

impl Counted {
    /// Reads what `iptables-save -c` prints.
    fn read(saved: &str) -> Self {
        let mut counted = Self::default();
        let mut numbers = BTreeMap::<&str, usize>::new();
        for line in saved.lines() {
            let packets = line
                .split('[')
                .nth(1)
                .and_then(|rest| rest.split(':').next());
            let packets = packets.and_then(|text| text.parse().ok()).unwrap_or(0);
            if let Some(policy) = line.strip_prefix(':') {
                let chain = policy.split(' ').next().unwrap_or_default();
                counted.policies.insert(chain.to_owned(), packets);
            } else if let Some((_, rule)) = line.split_once(" -A ") {
                let chain = rule.split(' ').next().unwrap_or_default();
                let number = numbers.entry(chain).or_default();
                *number += 1;
                let ends = ["-j ACCEPT", "-j DROP", "-j REJECT"];
                if ends.iter().any(|end| rule.contains(end)) {
                    counted.rules.insert(format!("{chain} {number}"), packets);
                }
            }
        }
        counted
    }
}

/// One of the two hosts.
pub struct Twin {
    /// The host.
    pub host: Host,
    far: Host,
    senders: BTreeMap<String, Sender>,
}

impl Twin {
    /// Makes it.
    ///
    /// # Panics
    /// If namespaces cannot be had.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let host = Host::new(name);
        let far = Host::new(&format!("{name}-far"));
        far.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.accept_local", "1"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv4.icmp_ratelimit", "0"),
        ] {
            host.sysctl(key, value);
        }
        let mut twin = Self {
            host,
            far,
            senders: BTreeMap::new(),
        };
        for (name, script) in INTERFACES {
            twin.add_interface(name);
            twin.host.sh(script);
        }
        twin
    }

    /// Adds an interface without addresses.
    ///
    /// # Panics
    /// If that fails.
    pub fn add_interface(&mut self, name: &str) {
        if self.senders.contains_key(name) {
            return;
        }
        let far = format!("f{}", self.senders.len());
        wire(&self.host, name, &[], &self.far, &far, &[]);
        let mac = HOST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        self.host
            .sh(&format!("ip link set {name} address {mac} arp off"));
        let sender = self.far.run(|| Sender::open(&far));
        self.senders
            .insert(name.to_owned(), sender.expect("the wire takes frames"));
    }

    /// Forgets all rules and connections, and starts to write down numbers.
    ///
    /// # Panics
    /// If that fails.
    pub fn empty(&self) {
        self.host
            .sh("for t in iptables-legacy ip6tables-legacy; do \
             for n in $(cat /proc/net/ip*_tables_names 2>/dev/null | sort -u); do \
             for c in INPUT FORWARD OUTPUT; do $t -t $n -P $c ACCEPT 2>/dev/null; done; \
             $t -t $n -P PREROUTING ACCEPT 2>/dev/null; $t -t $n -F; $t -t $n -X; \
             done; done 2>/dev/null; \
             nft flush ruleset; ipset destroy 2>/dev/null; true");
    }

    /// Starts to write down numbers, with what else is loaded.
    ///
    /// # Panics
    /// If nft fails.
    pub fn watch(&self) {
        self.host.sh(&format!("nft -f - <<'END'\n{WRITER}\nEND"));
    }

    /// Sends packets, and returns what came and what got through.
    ///
    /// # Panics
    /// If they cannot be sent, or the sets cannot be read.
    pub fn send(&self, names: &[String], packets: &[&Packet]) -> Seen {
        self.host.sh(
            "conntrack -F >/dev/null 2>&1; for s in came input forward; do \
             echo flush set inet wild ${s}4; echo flush set inet wild ${s}6; done | nft -f -",
        );
        for packet in packets {
            let sender = &self.senders[&names[packet.wire]];
            for frame in &packet.frames {
                sender.send(frame).expect("the wire takes frames");
            }
        }
        // The last may still be on its way.
        let mut seen = self.seen();
        loop {
            thread::sleep(Duration::from_millis(4));
            let next = self.seen();
            if next == seen {
                return seen;
            }
            seen = next;
        }
    }

    /// Sends one packet, and returns the reasons that the policy counted for it.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    pub fn reasons(&self, names: &[String], packet: &Packet) -> Vec<Reason> {
        let before = Counts::by_nft(&self.host);
        self.send(names, &[packet]);
        let after = Counts::by_nft(&self.host);
        let more = after
            .ours
            .iter()
            .filter(|(name, packets)| **packets > before.ours.get(*name).copied().unwrap_or(0));
        more.filter_map(|(name, _)| Some(counter_reason(name)?.1))
            .collect()
    }

    /// Sends one packet, and returns the line of the table filter that decided about it: of its
    /// rule, or of its chain's policy. `save` prints the rules with their counters.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    pub fn deciding_line(
        &self,
        names: &[String],
        packet: &Packet,
        (save, text): (&str, &str),
    ) -> Option<usize> {
        let saved = || Counted::read(&self.host.sh(&format!("{save} -c -t filter")));
        let before = saved();
        self.send(names, &[packet]);
        let after = saved();
        let more = |map: &dyn Fn(&Counted) -> BTreeMap<String, u64>| {
            let (before, after) = (map(&before), map(&after));
            let more = after
                .into_iter()
                .find(|(name, packets)| before.get(name) < Some(packets));
            more.map(|(name, _)| name)
        };
        let name = more(&|all| all.rules.clone()).or_else(|| more(&|all| all.policies.clone()))?;
        let start = text.lines().position(|line| line == "*filter")?;
        let mut numbers = BTreeMap::<&str, usize>::new();
        for (index, line) in text.lines().enumerate().skip(start) {
            let mut words = line.split_whitespace();
            let found = match words.next() {
                Some("-A") => {
                    let chain = words.next().unwrap_or_default();
                    let number = numbers.entry(chain).or_default();
                    *number += 1;
                    format!("{chain} {number}")
                }
                Some(word) if word.starts_with(':') => word[1..].to_owned(),
                Some(_) | None => continue,
            };
            if found == name {
                return Some(index + 1);
            }
        }
        None
    }

    fn seen(&self) -> Seen {
        let text = self.host.sh("nft -j list table inet wild");
        let json: serde_json::Value = serde_json::from_str(&text).expect("nft prints JSON");
        let objects = json["nftables"].as_array().into_iter().flatten();
        let mut seen = Seen::default();
        for set in objects.map(|object| &object["set"]) {
            let numbers = match set["name"]
                .as_str()
                .map(|name| name.trim_end_matches(['4', '6']))
            {
                Some("came") => &mut seen.came,
                Some("input") => &mut seen.input,
                Some("forward") => &mut seen.forward,
                Some(_) | None => continue,
            };
            let elements = set["elem"].as_array().into_iter().flatten();
            numbers.extend(elements.filter_map(|each| u16::try_from(each.as_u64()?).ok()));
        }
        seen
    }
}
