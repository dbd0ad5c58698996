//! What nft does not list.
//!
//! In a table of one family, nft leaves out a condition for packets of the other family, like `meta
//! protocol ip6` before an address. No packet meets such a rule; without the condition, it would
//! apply to packets. In every table, it takes `ct l3proto` and `meta iiftype` before other
//! conditions for what those need. `nft --debug=netlink` prints the instructions of each rule.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// A rule: its family, table, chain and handle.
type RuleName = (String, String, String, u64);

/// Adds the conditions that nft leaves out to a listing in JSON, by the output of `nft
/// --debug=netlink list ruleset`; `None` if there are none.
pub(super) fn complete(json: &str, instructions: &str) -> Option<String> {
    let hidden = hidden(instructions);
    if hidden.is_empty() {
        return None;
    }
    let mut listing: Value = serde_json::from_str(json).ok()?;
    for object in listing.get_mut("nftables")?.as_array_mut()? {
        let Some(rule) = object.get_mut("rule") else {
            continue;
        };
        let Some((name, kinds)) = name(rule).and_then(|name| hidden.get_key_value(&name)) else {
            continue;
        };
        let listed = rule.get("expr").map(Value::to_string).unwrap_or_default();
        let left_out = kinds.iter().filter(|kind| !kind.is_in(&listed));
        let conditions: Vec<Value> = left_out.map(|kind| kind.condition(&name.0)).collect();
        if let Some(statements) = rule.get_mut("expr").and_then(Value::as_array_mut) {
            statements.splice(0..0, conditions);
        }
    }
    Some(listing.to_string())
}

/// A condition that nft may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hidden {
    /// The protocol of the packet is that of the other family.
    OtherFamily,
    /// The interface is of Ethernet, or something is in the Ethernet header.
    Link,
    /// The family of the connection.
    Tracked,
    /// The protocol of the connection.
    TrackedProtocol,
}

impl Hidden {
    /// Reports whether statements in JSON have it.
    fn is_in(self, listed: &str) -> bool {
        let words: &[&str] = match self {
            Self::OtherFamily => &[],
            Self::Link => &["\"iiftype\"", "\"ether\"", "\"vlan\"", "\"arp\""],
            Self::Tracked => &["\"l3proto\""],
            Self::TrackedProtocol => &["\"key\":\"protocol\""],
        };
        words.iter().any(|word| listed.contains(word))
    }

    /// Returns the condition for a table of this family.
    fn condition(self, family: &str) -> Value {
        let (left, right) = match self {
            Self::OtherFamily if family == "ip" => (json!({"meta": {"key": "protocol"}}), "ip6"),
            Self::OtherFamily => (json!({"meta": {"key": "protocol"}}), "ip"),
            Self::Link => (json!({"meta": {"key": "iiftype"}}), "ether"),
            Self::Tracked => (json!({"ct": {"key": "l3proto"}}), "of the connection"),
            Self::TrackedProtocol => (json!({"ct": {"key": "protocol"}}), "of the connection"),
        };
        json!({"match": {"op": "==", "left": left, "right": right}})
    }
}

fn name(rule: &Value) -> Option<RuleName> {
    let text = |key: &str| rule.get(key)?.as_str().map(str::to_owned);
    let handle = rule.get("handle")?.as_u64()?;
    Some((text("family")?, text("table")?, text("chain")?, handle))
}

/// Returns the rules with instructions that nft may leave out.
fn hidden(instructions: &str) -> BTreeMap<RuleName, BTreeSet<Hidden>> {
    let mut found = BTreeMap::<RuleName, BTreeSet<Hidden>>::new();
    let mut add = |rule: &Option<RuleName>, kind: Hidden| {
        if let Some(rule) = rule {
            found.entry(rule.clone()).or_default().insert(kind);
        }
    };
    let mut rule = None;
    let mut register = None;
    for line in instructions.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // `ip filter input 5 4`: the last number is the handle of the rule before it.
            [family @ ("ip" | "ip6" | "inet"), table, chain, handle, ..]
                if !line.starts_with([' ', '\t']) =>
            {
                let name = |handle| {
                    (
                        family.to_owned(),
                        table.to_owned(),
                        chain.to_owned(),
                        handle,
                    )
                };
                rule = handle.parse().ok().map(name);
                register = None;
            }
            // Another family, or a set.
            [_, ..] if !line.starts_with([' ', '\t']) => {
                rule = None;
                register = None;
            }
            ["[", "meta", "load", "protocol", "=>", "reg", number, "]"] => register = Some(number),
            ["[", "cmp", "eq", "reg", number, value, "]"] if register == Some(number) => {
                let of_family = |rule: &&RuleName| is_other_family(&rule.0, value);
                add(
                    &rule.as_ref().filter(of_family).cloned(),
                    Hidden::OtherFamily,
                );
                register = None;
            }
            ["[", "meta", "load", "iiftype", ..] => add(&rule, Hidden::Link),
            ["[", "payload", "load", _, "@", "link", ..] => add(&rule, Hidden::Link),
            ["[", "ct", "load", "l3protocol", ..] => add(&rule, Hidden::Tracked),
            ["[", "ct", "load", "protocol", ..] => add(&rule, Hidden::TrackedProtocol),
            _ => register = None,
        }
    }
    found
}

/// Reports whether an EtherType, as nft prints it in one byte order or the other, is that of the
/// other family.
fn is_other_family(family: &str, value: &str) -> bool {
    let digits = value.trim_start_matches("0x").trim_matches('0');
    match family {
        "ip" => matches!(digits, "dd86" | "86dd"),
        "ip6" => digits == "8",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it.
    const INSTRUCTIONS: &str = "\
ip t @s
\telement 0000dd86  : 0 [end]
ip t input 2
  [ meta load protocol => reg 1 ]
  [ cmp eq reg 1 0x0000dd86 ]
  [ immediate reg 0 accept ]

ip t input 5 2
  [ meta load protocol => reg 1 ]
  [ cmp neq reg 1 0x0000dd86 ]
  [ immediate reg 0 accept ]

ip t input 6 5
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000006 ]
  [ meta load protocol => reg 1 ]
  [ cmp eq reg 1 0x0000dd86 ]

ip6 t input 2
  [ meta load protocol => reg 9 ]
  [ cmp eq reg 9 0x00000008 ]

ip6 t input 3 2
  [ meta load protocol => reg 1 ]
  [ lookup reg 1 set __set0 0x0 ]

inet t input 4
  [ meta load protocol => reg 1 ]
  [ cmp eq reg 1 0x0000dd86 ]

inet t input 5 4
  [ meta load iiftype => reg 1 ]
  [ cmp eq reg 1 0x00000001 ]
  [ ct load l3protocol => reg 1 ]
  [ cmp eq reg 1 0x00000002 ]
  [ ct load protocol => reg 1 , dir original ]
  [ cmp eq reg 1 0x00000006 ]

netdev t ingress 2
  [ meta load protocol => reg 1 ]
  [ cmp eq reg 1 0x00000008 ]

table ip t {
\tchain input {
\t\tip saddr 192.0.2.1 accept
";

    #[test]
    fn rules_for_the_other_family_are_found() {
        let found: Vec<String> = hidden(INSTRUCTIONS)
            .into_iter()
            .map(|((family, table, chain, handle), kinds)| {
                format!("{family} {table} {chain} {handle} {kinds:?}")
            })
            .collect();
        assert_eq!(
            found,
            [
                "inet t input 5 {Link, Tracked, TrackedProtocol}",
                "ip t input 2 {OtherFamily}",
                "ip t input 6 {OtherFamily}",
                "ip6 t input 2 {OtherFamily}"
            ]
        );
    }

    #[test]
    fn the_listing_gets_the_condition() {
        let rule = |family: &str, handle: u64| {
            json!({"rule": {"family": family, "table": "t", "chain": "input", "handle": handle,
                "expr": [{"accept": null}]}})
        };
        let rules = [("ip", 2), ("ip", 5), ("ip6", 2), ("inet", 2), ("inet", 5)];
        let listing = json!({"nftables": rules.map(|(family, handle)| rule(family, handle))});
        let completed = complete(&listing.to_string(), INSTRUCTIONS).unwrap();
        let completed: Value = serde_json::from_str(&completed).unwrap();
        let right = |at: usize| {
            let first = &completed["nftables"][at]["rule"]["expr"][0];
            first["match"]["right"].as_str().unwrap_or_default()
        };
        assert_eq!([0, 1, 2, 3, 4].map(right), ["ip6", "", "ip", "", "ether"]);
        let all = completed["nftables"][4]["rule"]["expr"].as_array().unwrap();
        assert_eq!(all.len(), 4);
        assert!(
            Hidden::Link.is_in(&all[0].to_string()) && Hidden::Tracked.is_in(&all[1].to_string())
        );
        assert_eq!(complete(&listing.to_string(), ""), None);
    }
}
