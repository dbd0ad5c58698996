//! What lines mean, without a kernel. `integration/tests/import_words.rs` compares more lines with
//! iptables itself.

use super::*;
use peerwall_core::import::rule::{ImportedRule, Test};
use peerwall_core::import::rules;

/// The rules of a table with these lines.
fn read(table: &str, family: Family, lines: &str) -> Vec<ImportedRule> {
    let text = format!("*{table}\n:INPUT DROP\n:OUTPUT ACCEPT\n:a -\n{lines}\nCOMMIT\n");
    let file = File {
        name: "rules".into(),
        text,
        family: Some(family),
    };
    let mut rules = rules(&[file]).unwrap().remove(0);
    let chains = match table {
        "nat" => &mut rules.nat,
        _ => &mut rules.filter,
    };
    chains
        .values_mut()
        .flat_map(|chain| chain.rules.drain(..))
        .collect()
}

/// Two ways to write one rule.
#[test]
fn words_mean_the_same_in_every_spelling() {
    for (written, canonical) in [
        (
            "-j ACCEPT -p tcp --dport 22",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        (
            "-m tcp -p tcp -j ACCEPT --dport 22",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        (
            "-p tcp --dpo 22 -j ACCEPT",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        (
            "-p tcp --dport=22 -j ACCEPT",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        (
            "--protocol TCP --destination-port ssh --jump ACCEPT",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        (
            "-p 0x6 --dport 0x16 -j ACCEPT",
            "-p tcp -m tcp --dport 22 -j ACCEPT",
        ),
        (
            "-p tcp --dport auth -j ACCEPT",
            "-p tcp -m tcp --dport 113 -j ACCEPT",
        ),
        (
            "-p tcp --dport 22 --syn ! -s 198.51.100.0/24 -j DROP",
            "! -s 198.51.100.0/24 -p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        ),
        ("-s ! 10.0.0.0/8 -j DROP", "! -s 10.0.0.0/8 -j DROP"),
        (
            "-p tcp --dport ! 22 -j DROP",
            "-p tcp -m tcp ! --dport 22 -j DROP",
        ),
        (
            "-m comment --comment ! -s 10.0.0.1 -j ACCEPT",
            "-s 10.0.0.1/32 -m comment --comment \"!\" -j ACCEPT",
        ),
        ("-s 10/8 -j ACCEPT", "-s 10.0.0.0/8 -j ACCEPT"),
        ("-s 10.1/16 -j ACCEPT", "-s 10.1.0.0/16 -j ACCEPT"),
        ("-s 0/0 -i + -p all -j ACCEPT", "-j ACCEPT"),
        (
            "-s 10.1.2.3/255.255.0.0 -j ACCEPT",
            "-s 10.1.0.0/16 -j ACCEPT",
        ),
        (
            "-p tcp --dport :1023 -j ACCEPT",
            "-p tcp -m tcp --dport 0:1023 -j ACCEPT",
        ),
        (
            "-p tcp --sport 1024: -j ACCEPT",
            "-p tcp -m tcp --sport 1024:65535 -j ACCEPT",
        ),
        (
            "-p icmp --icmp-type host-prohibited -j ACCEPT",
            "-p icmp -m icmp --icmp-type 3/10 -j ACCEPT",
        ),
        ("-p icmp --icmp-type any -j ACCEPT", "-p icmp -j ACCEPT"),
        (
            "-m state --state est,rel -j ACCEPT",
            "-m state --state RELATED,ESTABLISHED -j ACCEPT",
        ),
        ("-4 -p icmp -j ACCEPT", "-p icmp -j ACCEPT"),
        (
            "-m addrtype --dst-type bro -j DROP",
            "-m addrtype --dst-type BROADCAST -j DROP",
        ),
    ] {
        let [written, canonical] = [written, canonical].map(|words| {
            let rules = read("filter", Family::V4, &format!("-A INPUT {words}"));
            assert_eq!(rules.len(), 1, "{words}");
            assert_eq!(rules[0].unknown().next(), None, "{words}");
            rules[0].clone()
        });
        assert_eq!(written, canonical);
    }
}

/// Lines that a policy cannot express; they are understood, but accept nothing.
#[test]
fn conditions_outside_of_the_model_are_unknown() {
    for (family, line) in [
        (Family::V6, "-m ah -j ACCEPT"),
        (Family::V6, "-m hbh -j ACCEPT"),
        (Family::V6, "-m eui64 -j ACCEPT"),
        (Family::V6, "-m frag --fragfirst -j ACCEPT"),
        (Family::V4, "-m rpfilter -j ACCEPT"),
        (Family::V4, "-m socket -j ACCEPT"),
        (
            Family::V4,
            "-m mac --mac-source 02:00:00:00:00:01 -j ACCEPT",
        ),
        (Family::V4, "-m pkttype --pkt-type broadcast -j ACCEPT"),
        (
            Family::V4,
            "-m addrtype --dst-type LOCAL --limit-iface-in -j ACCEPT",
        ),
        (Family::V4, "-m addrtype --dst-type LOCAL,UNICAST -j ACCEPT"),
        (Family::V4, "-m conntrack --ctstatus EXPECTED -j ACCEPT"),
        (
            Family::V4,
            "-m conntrack --ctstate NEW --ctdir ORIGINAL -j ACCEPT",
        ),
        (Family::V4, "-m conntrack --ctstate SNAT -j ACCEPT"),
        (Family::V4, "-m connlimit --connlimit-above 0 -j ACCEPT"),
        (
            Family::V4,
            "-m statistic --mode random --probability 0.5 -j ACCEPT",
        ),
        (Family::V4, "-m set --match-set nowhere src -j ACCEPT"),
        (Family::V4, "-m time --timestart 08:00 -j ACCEPT"),
        (Family::V4, "-p tcp --tcp-option 8 -j ACCEPT"),
    ] {
        let rules = read("filter", family, &format!("-A INPUT {line}"));
        assert_eq!(rules[0].unknown().count(), 1, "{line}: {rules:?}");
    }
}

/// Rates hold while nothing is exceeded; `!` is honoured.
#[test]
fn rates_are_nominal() {
    for (line, wanted) in [
        ("-m limit --limit 5/sec", true),
        ("-m limit", true),
        ("-m hashlimit --hashlimit 5/sec --hashlimit-name a", true),
        (
            "-m hashlimit --hashlimit-above 5/sec --hashlimit-name a",
            false,
        ),
        (
            "-m hashlimit ! --hashlimit-upto 5/sec --hashlimit-name a",
            false,
        ),
        ("-m connlimit --connlimit-above 3", false),
        ("-m connlimit ! --connlimit-above 3", true),
        ("-m recent --set", true),
        ("-m recent ! --set", false),
        ("-m recent --rcheck --seconds 60 --hitcount 4", false),
        ("-m recent ! --update --seconds 60", true),
        ("-m quota --quota 1000", true),
    ] {
        let rules = read("filter", Family::V4, &format!("-A INPUT {line} -j ACCEPT"));
        let [condition] = rules[0].conditions.as_slice() else {
            panic!("{line}: {rules:?}");
        };
        let (Test::Rate(nominal, _) | Test::Always(nominal)) = condition.test else {
            panic!("{line}: {condition:?}");
        };
        assert_eq!(nominal != condition.negated, wanted, "{line}");
    }
}

#[test]
fn later_lines_change_earlier_ones() {
    let first = "-A INPUT -s 10.0.0.1 -j ACCEPT\n-A INPUT -s 10.0.0.2 -j ACCEPT\n";
    for (edit, wanted) in [
        ("-I INPUT -s 10.0.0.3 -j ACCEPT", vec![3, 1, 2]),
        ("-I INPUT 3 -s 10.0.0.3 -j ACCEPT", vec![1, 2, 3]),
        ("-R INPUT 1 -s 10.0.0.3 -j ACCEPT", vec![3, 2]),
        ("-D INPUT 1", vec![2]),
        ("-D INPUT --source 10.0.0.1/32 -j ACCEPT", vec![2]),
        ("-F INPUT", vec![]),
        ("-F", vec![]),
        ("-F a", vec![1, 2]),
        ("-Z", vec![1, 2]),
        ("-6 -A INPUT -s 10.0.0.3 -j ACCEPT", vec![1, 2]),
    ] {
        let rules = read("filter", Family::V4, &format!("{first}{edit}"));
        let hosts = rules
            .iter()
            .flat_map(ImportedRule::sources)
            .map(|span| span.0 & 0xff);
        assert_eq!(hosts.collect::<Vec<u128>>(), wanted, "{edit}");
    }
}
