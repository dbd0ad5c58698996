use std::convert::Infallible;

use super::*;

/// Finds drops in chains written as `NAME [input|forward] [drop]: rule, rule`. Rules are `accept`,
/// `drop`, `return`, `jump NAME`, `goto NAME`, and `-` for a rule with conditions.
fn found(engine: Engine, family: &'static str, name: &str, chains: &[&str]) -> Vec<ForeignDrop> {
    let mut rules: BTreeMap<String, Vec<ForeignRule>> = BTreeMap::new();
    let mut table = ForeignTable {
        engine,
        family,
        name: name.into(),
        chains: Vec::new(),
    };
    for text in chains {
        let (head, tail) = text.split_once(':').unwrap();
        let words: Vec<&str> = head.split(' ').collect();
        table.chains.push(ForeignChain {
            name: words[0].into(),
            hook: match words.get(1) {
                Some(&"input") => Some(Hook::Input),
                Some(&"forward") => Some(Hook::Forward),
                _ => None,
            },
            drops: words.contains(&"drop"),
        });
        let tail = tail.split(',').map(str::trim).filter(|t| !t.is_empty());
        let list = tail.enumerate().map(|(index, text)| ForeignRule {
            handle: Some(100 + index as u64),
            does: does(text),
        });
        rules.insert(words[0].into(), list.collect());
    }
    drops(&table, |chain: &str| {
        Ok::<_, Infallible>(rules.get(chain).cloned().unwrap_or_default())
    })
    .unwrap_or_default()
}

fn does(text: &str) -> Does {
    match text.split_once(' ') {
        Some(("jump", to)) => Does::Jump(to.into()),
        Some(("goto", to)) => Does::Goto(to.into()),
        _ => match text {
            "accept" => Does::Accept,
            "drop" => Does::Drop,
            "return" => Does::Return,
            _ => Does::Nothing,
        },
    }
}

#[test]
fn only_what_drops_by_default_is_found() {
    for (name, chains, want) in [
        (
            "nothing",
            &["INPUT input:", "FORWARD forward:"][..],
            &[][..],
        ),
        ("a policy", &["FORWARD forward drop:"], &["FORWARD policy"]),
        ("rules with conditions", &["FORWARD forward: -, -"], &[]),
        (
            "a bare drop at the end",
            &["INPUT input: -, -, drop"],
            &["INPUT INPUT 3"],
        ),
        (
            "a bare drop at the start",
            &["INPUT input: drop, accept"],
            &["INPUT INPUT 1"],
        ),
        ("accepted before", &["INPUT input drop: accept"], &[]),
        (
            "accepted in another chain",
            &["INPUT input drop: jump a", "a: -, accept"],
            &[],
        ),
        (
            "dropped in another chain",
            &["INPUT input: -, jump a", "a: -, drop"],
            &["INPUT a 2"],
        ),
        (
            "dropped by way of two",
            &["INPUT input: jump a", "a: goto b", "b: drop"],
            &["INPUT b 1"],
        ),
        (
            "returned from another chain",
            &["INPUT input drop: jump a", "a: return, drop"],
            &["INPUT policy"],
        ),
        (
            "a goto does not come back",
            &[
                "INPUT input drop: jump a, accept",
                "a: goto b, drop",
                "b: -",
            ],
            &[],
        ),
        ("nobody jumps there", &["INPUT input:", "a: drop"], &[]),
        (
            "a jump with conditions",
            &["INPUT input: -", "a: drop"],
            &[],
        ),
        (
            "a loop ends",
            &["INPUT input drop: jump a", "a: jump a"],
            &["INPUT policy"],
        ),
        (
            "our chains decide before the policy",
            &[
                "INPUT input drop: jump PEERWALL-INPUT",
                "PEERWALL-INPUT: -, goto PEERWALL-D",
                "PEERWALL-D: -, drop",
            ],
            &[],
        ),
        (
            "a drop before our chains",
            &[
                "INPUT input: drop, jump PEERWALL-INPUT",
                "PEERWALL-INPUT: drop",
            ],
            &["INPUT INPUT 1"],
        ),
        (
            "a policy after our chains, where they return",
            &[
                "FORWARD forward drop: jump PEERWALL-FORWARD",
                "PEERWALL-FORWARD: -",
            ],
            &["FORWARD policy"],
        ),
    ] {
        let found = found(Engine::IptablesNft, "ip", "filter", chains);
        let got: Vec<String> = found
            .iter()
            .map(|each| match &each.rule {
                None => format!("{} policy", each.chain),
                Some(rule) => format!("{} {} {}", each.chain, rule.chain, rule.number),
            })
            .collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn the_program_and_what_ends_it_are_named() {
    use Engine::{IptablesLegacy, IptablesNft, Nft};
    for (engine, family, table, chains, want) in [
        (
            IptablesNft,
            "ip",
            "filter",
            &["FORWARD forward drop: -", "DOCKER-USER: -"][..],
            "ip filter FORWARD (Docker) also filters the forward hook and drops packets that it \
             does not accept (its policy is drop) | iptables-nft -P FORWARD ACCEPT",
        ),
        (
            IptablesNft,
            "ip",
            "filter",
            &["INPUT input drop: -", "DOCKER: -"],
            "ip filter INPUT (iptables-nft) also filters the input hook and drops packets that \
             it does not accept (its policy is drop) | iptables-nft -P INPUT ACCEPT",
        ),
        (
            IptablesNft,
            "ip",
            "filter",
            &["FORWARD forward: jump DOCKER-USER", "DOCKER-USER: -, drop"],
            "ip filter FORWARD (Docker) also filters the forward hook and drops packets that it \
             does not accept (rule 2 of DOCKER-USER drops everything) | iptables-nft -D \
             DOCKER-USER 2",
        ),
        (
            IptablesLegacy,
            "ip6",
            "mangle",
            &["FORWARD forward: drop"],
            "ip6 mangle FORWARD (iptables-legacy) also filters the forward hook and drops \
             packets that it does not accept (its rule 1 drops everything) | ip6tables-legacy -t \
             mangle -D FORWARD 1",
        ),
        (
            IptablesNft,
            "bridge",
            "filter",
            &["FORWARD forward drop:"],
            "bridge filter FORWARD (ebtables-nft) also filters the forward hook and drops \
             packets that it does not accept (its policy is drop) | ebtables-nft -P FORWARD ACCEPT",
        ),
        (
            IptablesNft,
            "ip",
            "filter",
            &["INPUT input drop:", "ufw-user-input:"],
            "ip filter INPUT (ufw) also filters the input hook and drops packets that it does \
             not accept (its policy is drop) | ufw disable",
        ),
        (
            Nft,
            "inet",
            "firewalld",
            &["filter_INPUT input: -, drop"],
            "inet firewalld filter_INPUT (firewalld) also filters the input hook and drops \
             packets that it does not accept (its rule 2 drops everything) | systemctl disable \
             --now firewalld",
        ),
        (
            Nft,
            "inet",
            "filter",
            &["input input drop:"],
            "inet filter input (nftables) also filters the input hook and drops packets that it \
             does not accept (its policy is drop) | nft chain inet filter input '{ policy \
             accept; }'",
        ),
        (
            Nft,
            "ip",
            "docker",
            &["forwarding forward: -, drop"],
            "ip docker forwarding (Docker) also filters the forward hook and drops packets that \
             it does not accept (its rule 2 drops everything) | nft delete rule ip docker \
             forwarding handle 101",
        ),
    ] {
        let found = found(engine, family, table, chains);
        let got: Vec<String> = found
            .iter()
            .map(|each| format!("{each} | {}", each.clear))
            .collect();
        assert_eq!(got, [want]);
    }
}

#[test]
fn tables_of_iptables_nft_are_told_from_others() {
    let chain = |name: &str, hook| ForeignChain {
        name: name.into(),
        hook,
        drops: false,
    };
    let (input, mine) = (
        chain("INPUT", Some(Hook::Input)),
        chain("input", Some(Hook::Input)),
    );
    for (family, name, chains, want) in [
        ("ip", "filter", vec![input.clone()], Engine::IptablesNft),
        ("ip", "filter", vec![mine.clone()], Engine::Nft),
        ("inet", "filter", vec![input.clone()], Engine::Nft),
        ("ip6", "mangle", vec![input.clone()], Engine::IptablesNft),
        ("ip", "other", vec![input], Engine::Nft),
    ] {
        assert_eq!(engine_of(family, name, &chains), want, "{family} {name}");
    }
    assert!(is_ours(Engine::Nft, "inet", TABLE));
    assert!(!is_ours(Engine::Nft, "ip", TABLE));
}
