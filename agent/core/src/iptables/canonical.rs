//! Rules in a canonical form for comparison.
//!
//! iptables prints a rule differently from its input: it omits defaults, replaces protocol numbers
//! by names, and converts the units of rates. In the canonical form, options are sorted and values
//! normalized.

use ipnet::IpNet;
use peerwall_proto::iptables;

use crate::net::protocol;

/// `XT_LIMIT_SCALE` in `include/uapi/linux/netfilter/xt_limit.h`: the unit of rates.
const XT_LIMIT_SCALE: u64 = 10_000;

/// Default burst of a limit, which iptables omits.
const LIMIT_BURST_DEFAULT: &str = "5";

/// A rule in canonical form: negation, option and value of each part, in ascending order.
pub(super) type Canonical = Vec<(bool, String, String)>;

/// Converts the words after `-A CHAIN` to canonical form.
pub(super) fn canonical(rule: &str) -> Canonical {
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
        // These options have two values: set and direction, or examined and required TCP flags.
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

/// Normalizes a value; `None` if the option has no effect.
fn normalized(option: &str, value: String) -> Option<String> {
    match option {
        // The option implies its module.
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

/// Normalizes an address; `None` for a prefix of length 0, which matches everything.
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

/// Converts a rate to the kernel's unit: 60/min and 1/sec are the same.
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

/// Splits a rule into words. If that fails, the result is one word, which matches no rule of
/// peerwall.
pub(super) fn words(line: &str) -> Vec<String> {
    iptables::words(line).unwrap_or_else(|_| vec![line.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// iptables 1.8.9 printed the second text after loading the first.
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
                "-p tcp -m tcp --dport 22 -m hashlimit --hashlimit-upto 10/second --hashlimit-burst \
                 20 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT",
                "-p tcp -m tcp --dport 22 -m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 \
                 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT",
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
}
