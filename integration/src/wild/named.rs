//! Addresses, networks, ports and interfaces that a text names.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::random::Random;

/// What a text names, in any order, beside a few that any host meets.
#[derive(Debug, Clone)]
pub struct Named {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    numbers: Vec<u16>,
    interfaces: Vec<String>,
}

/// IPv4 addresses that are special to a host, or to rules that people write.
const SPECIAL_V4: [&str; 14] = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.9",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.7.7",
    "172.16.5.5",
    "192.168.1.5",
    "192.168.1.255",
    "198.51.100.77",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
];
/// The same for IPv6.
const SPECIAL_V6: [&str; 10] = [
    "::",
    "::1",
    "::ffff:10.1.2.3",
    "64:ff9b::1",
    "2001:db8:77::1",
    "fd00::5",
    "fe80::5",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
];
const NUMBERS: [u16; 12] = [0, 1, 22, 53, 67, 68, 80, 443, 546, 8080, 50_000, 65_535];

impl Named {
    /// Reads a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let special = |all: &[&str]| all.iter().filter_map(|text| text.parse().ok()).collect();
        let mut named = Self {
            v4: special(&SPECIAL_V4),
            v6: special(&SPECIAL_V6),
            numbers: NUMBERS.to_vec(),
            interfaces: Vec::new(),
        };
        for line in text.lines() {
            let words: Vec<&str> = line
                .split(|c: char| " \t\"',;{}()[]=".contains(c))
                .filter(|word| !word.is_empty())
                .collect();
            for (index, word) in words.iter().enumerate() {
                let before = index.checked_sub(1).map_or("", |at| words[at]);
                if matches!(before, "-i" | "-o" | "iif" | "oif" | "iifname" | "oifname") {
                    named.interfaces.push(word.replace(['+', '*'], "7"));
                }
                for part in word.split('-').chain(word.split(',')) {
                    named.address(part);
                }
                let numbers = word.split([':', '-', '/', ',']);
                for number in numbers.filter_map(|text| text.parse::<u16>().ok()) {
                    let beside = [number.wrapping_sub(1), number, number.wrapping_add(1)];
                    named.numbers.extend(beside);
                }
            }
        }
        let is_name = |name: &String| {
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
            let rest = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            starts && name.len() < 15 && name != "lo" && name != "type" && name.chars().all(rest)
        };
        named.interfaces.retain(is_name);
        named.interfaces.sort();
        named.interfaces.dedup();
        named.interfaces.truncate(6);
        named
    }

    fn address(&mut self, text: &str) {
        let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let Some(net) = text.parse::<IpNet>().ok().or_else(one) else {
            return;
        };
        let second = net.hosts().nth(1).unwrap_or(net.addr());
        let ends = [net.addr(), net.network(), second, net.broadcast()];
        match net {
            IpNet::V4(_) => self.v4.extend(ends),
            IpNet::V6(_) => self.v6.extend(ends),
        }
    }

    /// Returns the interfaces.
    #[must_use]
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Returns an address; IPv6, or IPv4.
    pub fn some_address(&self, random: &mut Random, is_v6: bool) -> IpAddr {
        let all = if is_v6 { &self.v6 } else { &self.v4 };
        all[random.below(all.len())]
    }

    /// Returns a number: a port, a type, a length.
    pub fn number(&self, random: &mut Random) -> u16 {
        self.numbers[random.below(self.numbers.len())]
    }
}
