//! The formats that rules come in.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use peerwall_core::import::rule::{ImportedRule, Test};
use peerwall_core::import::rules;

const RULES: &str = "*filter\n\
    :INPUT DROP [0:0]\n\
    :FORWARD DROP [0:0]\n\
    :OUTPUT ACCEPT [0:0]\n\
    -A INPUT -i lo -j ACCEPT\n\
    -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
    -A INPUT -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -m comment --comment \"say hi\" -j ACCEPT\n\
    COMMIT\n";

fn read(text: &str) -> Import {
    let file = File {
        name: "rules".into(),
        text: text.into(),
        family: None,
    };
    import(&[file], &Facts::default()).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"))
}

/// The policy without its first line, which names the files.
fn policy(text: &str) -> String {
    let import = read(text);
    assert!(import.is_whole(), "{import}");
    import.policy.split_once('\n').unwrap().1.to_owned()
}

fn gzip(text: &str) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    STANDARD.encode(encoder.finish().unwrap())
}

fn indented(text: &str, by: usize) -> String {
    let lines = text.lines().map(|line| format!("{:by$}{line}\n", ""));
    lines.collect()
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn every_format_gives_the_same_policy() {
    let wanted = policy(RULES);
    let base64 = STANDARD.encode(RULES);
    let gzip = gzip(RULES);
    let path = "/var/lib/iptables/rules-save";
    let cloud = |encoding: &str, content: &str| {
        format!("#cloud-config\nwrite_files:\n  - path: {path}\n{encoding}    content: {content}\n")
    };
    let ignition = |source: &str, more: &str| {
        format!(
            "{{\"ignition\":{{\"version\":\"3.3.0\"}},\"storage\":{{\"files\":[\
             {{\"path\":\"/etc/motd\",\"contents\":{{\"source\":\"data:,hello\"}}}},\
             {{\"path\":\"{path}\",\"contents\":{{\"source\":\"{source}\"{more}}}}}]}}}}"
        )
    };
    let storage = |head: &str| {
        let inline = indented(RULES, 10);
        format!(
            "{head}storage:\n  files:\n    - path: {path}\n      contents:\n        inline: |\n{inline}"
        )
    };
    let listing = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n".to_owned()
        + &RULES
            .lines()
            .filter(|line| line.starts_with("-A"))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
    let script = "#!/bin/sh\n\
        set -e\n\
        iptables -F\n\
        iptables -X || true\n\
        iptables -A INPUT -p tcp --dport 23 -j ACCEPT\n\
        sudo /sbin/iptables -D INPUT -p tcp --dport telnet -j ACCEPT 2>/dev/null\n\
        iptables -t filter -P INPUT DROP; iptables -P FORWARD DROP\n\
        iptables -w 5 -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT # replies\n\
        iptables -I INPUT 1 -i lo -j ACCEPT\n\
        iptables -A INPUT -s 192.0.2.0/24 -p tcp --dport ssh \\\n  \
            -m comment --comment 'say hi' -j ACCEPT\n\
        iptables -L -n\n\
        exit 0\n\
        iptables -A INPUT -j ACCEPT\n"
        .to_owned();
    for (name, text) in [
        ("CRLF", RULES.replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{RULES}")),
        (
            "cloud-config",
            cloud("", &format!("|\n{}", indented(RULES, 6))),
        ),
        (
            "cloud-config, base64",
            cloud("    encoding: b64\n", &base64),
        ),
        ("cloud-config, gzip", cloud("    encoding: gz+b64\n", &gzip)),
        (
            "cloud-config, gzip",
            cloud("    encoding: gzip+base64\n", &gzip),
        ),
        ("Butane", storage("variant: fcos\nversion: 1.4.0\n")),
        ("Container Linux Config", storage("systemd:\n  units: []\n")),
        (
            "Ignition",
            ignition(&format!("data:,{}", percent(RULES)), ""),
        ),
        (
            "Ignition, base64",
            ignition(&format!("data:;base64,{base64}"), ""),
        ),
        (
            "Ignition, gzip",
            ignition(&format!("data:;base64,{gzip}"), ",\"compression\":\"gzip\""),
        ),
        ("iptables -S", format!("# iptables\n{listing}")),
        ("a script", script),
    ] {
        assert_eq!(policy(&text), wanted, "{name}\n{text}");
    }
}

#[test]
fn a_script_is_not_run_and_says_so_once() {
    let import = read(
        "IF=eth0\n\
         iptables -P INPUT DROP\n\
         iptables -P FORWARD DROP\n\
         iptables -A INPUT -i $IF -j ACCEPT\n\
         for port in 80 443; do\n\
         iptables -A INPUT -p tcp --dport $port -j ACCEPT\n\
         iptables -A INPUT -p tcp --dport 8080 -j ACCEPT\n\
         done\n\
         if true; then iptables -A INPUT -p tcp --dport 8081 -j ACCEPT; fi\n\
         iptables -C INPUT -j DROP || iptables -A INPUT -p tcp --dport 8082 -j ACCEPT\n\
         iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n\
         iptables-restore <more\n",
    );
    let left: Vec<usize> = import
        .lines
        .iter()
        .filter(|line| line.fate == Fate::Left)
        .map(|line| line.line)
        .collect();
    assert_eq!(left, [4, 6, 7, 9, 10, 12], "{import}");
    let remarks = import
        .lints
        .iter()
        .filter(|lint| lint.name == "script-not-run");
    assert_eq!(remarks.count(), 1, "{import}");
    assert!(import.policy.contains("22/tcp"), "{}", import.policy);
    for port in ["80", "443", "808"] {
        assert!(
            !import.policy.contains(&format!("\"{port}")),
            "{}",
            import.policy
        );
    }
}

#[test]
fn a_script_may_have_both_families_and_sets() {
    let import = read(
        "ipset create office hash:ip\n\
         ipset -exist add office 192.0.2.7\n\
         iptables -P INPUT DROP\n\
         iptables -P FORWARD DROP\n\
         iptables -A INPUT -p tcp -m set --match-set office src --dport 22 -j ACCEPT\n\
         ip6tables -P INPUT DROP\n\
         ip6tables -P FORWARD DROP\n\
         ip6tables -A INPUT -p tcp -s 2001:db8::7 --dport 22 -j ACCEPT\n",
    );
    assert!(import.is_whole(), "{import}");
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert!(import.policy.contains(address), "{}", import.policy);
    }
}

#[test]
fn lines_for_one_family_are_for_that_family() {
    let import = read(
        "*filter\n:INPUT DROP\n:FORWARD DROP\n\
         -4 -A INPUT -p tcp -s 192.0.2.7 --dport 22 -j ACCEPT\n\
         -6 -A INPUT -p tcp -s 2001:db8::7 --dport 22 -j ACCEPT\n\
         COMMIT\n",
    );
    assert!(import.is_whole(), "{import}");
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert!(import.policy.contains(address), "{}", import.policy);
    }
}

/// The conditions of `-m set --match-set s src`, or of `src,dst`.
fn condition(sets: &str, family: Family, dimensions: &str) -> Test {
    let file = |name: &str, text: String| File {
        name: name.into(),
        text,
        family: Some(family),
    };
    let text = format!("*filter\n-A INPUT -m set --match-set s {dimensions} -j ACCEPT\nCOMMIT\n");
    let files = [file("sets", sets.to_owned()), file("rules", text)];
    let rule: ImportedRule = rules(&files)
        .unwrap()
        .remove(0)
        .filter
        .remove("INPUT")
        .unwrap()
        .rules
        .remove(0);
    rule.conditions[0].test.clone()
}

#[test]
fn sets_have_the_elements_that_ipset_gives_them() {
    for (sets, wanted) in [
        ("create s hash:ip\nadd s 10.0.0.1\nadd s 10.0.0.2", "1 2"),
        ("create s hash:ip\nadd s 10.0.0.1-10.0.0.3", "1-3"),
        ("create s hash:ip\nadd s 10.0.0.0/30", "0-3"),
        ("create s hash:ip netmask 24\nadd s 10.0.0.9", "0-255"),
        (
            "create s hash:ip counters comment\nadd s 10.0.0.1 packets 1 bytes 2 comment \"no timeout\"",
            "1",
        ),
        (
            "create s hash:ip\nadd s 10.0.0.1 -exist\nadd -exist s 10.0.0.1",
            "1 1",
        ),
        (
            "create s hash:ip\nadd s 10.0.0.0/30\ndel s 10.0.0.1",
            "0 2-3",
        ),
        (
            "create s hash:ip\nadd s 10.0.0.1\nflush s\nadd s 10.0.0.2",
            "2",
        ),
        (
            "create s hash:ip\nadd s 10.0.0.1\ncreate s hash:ip -exist",
            "1",
        ),
        ("create a hash:ip\nadd a 10.0.0.1\nrename a s", "1"),
        (
            "create a hash:ip\nadd a 10.0.0.1\ncreate s hash:ip\nswap a s\ndestroy a",
            "1",
        ),
        (
            "create s hash:net\nadd s 10.0.0.0/29\nadd s 10.0.0.2/31 nomatch\nadd s 10.0.0.3",
            "0-1 4-7 3",
        ),
        ("create s hash:net\nadd s 10.0.0.1-10.0.0.4", "1 2-3 4"),
        (
            "create s bitmap:ip range 10.0.0.0/24\nadd s 10.0.0.1-10.0.0.3",
            "1-3",
        ),
        (
            "create a hash:ip\nadd a 10.0.0.1\ncreate b hash:net\nadd b 10.0.0.4/31\n\
             create s list:set\nadd s a\nadd s b",
            "1 4-5",
        ),
    ] {
        let Test::Source(spans) = condition(sets, Family::V4, "src") else {
            panic!("{sets}: {:?}", condition(sets, Family::V4, "src"));
        };
        let base = 10 << 24;
        let text = spans.iter().map(|(first, last)| match first == last {
            true => format!("{}", first - base),
            false => format!("{}-{}", first - base, last - base),
        });
        assert_eq!(text.collect::<Vec<_>>().join(" "), wanted, "{sets}");
    }
    for (sets, wanted) in [
        ("create s hash:ip timeout 600", "its elements expire"),
        (
            "create s hash:ip timeout 0\nadd s 10.0.0.1 timeout 0",
            "its elements expire",
        ),
        ("create s hash:mac", "nothing like a set of type hash:mac"),
        (
            "create s hash:ip\nadd s nonsense",
            "one of its elements cannot be read",
        ),
        (
            "create a hash:ip timeout 5\ncreate s list:set\nadd s a",
            "its member a is not known",
        ),
    ] {
        let Test::Unknown(why) = condition(sets, Family::V4, "src") else {
            panic!("{sets}");
        };
        assert!(why.contains(wanted), "{sets}: {why}");
    }
    let pairs = "create s hash:ip,port\nadd s 10.0.0.1,udp:53\nadd s 10.0.0.2,80-90";
    let Test::Any(lists) = condition(pairs, Family::V4, "src,dst") else {
        panic!("{pairs}");
    };
    assert_eq!(lists.len(), 2);
    assert_eq!(lists[1][1].test, Test::Protocol(vec![6]));
    assert_eq!(lists[1][2].test, Test::DestinationPorts(vec![(80, 90)]));
}

/// Lines about a set that is not in the policy say so, and bad ones their reason.
#[test]
fn lines_of_sets_have_a_fate() {
    let sets = "create s hash:ip timeout 600\nadd s 192.0.2.1\nadd t 192.0.2.1\nlist s\ncreate ok hash:ip\n";
    let file = |name: &str, text: &str| File {
        name: name.into(),
        text: text.into(),
        family: None,
    };
    let import = import(&[file("sets", sets), file("v4", RULES)], &Facts::default()).unwrap();
    for (line, fate, wanted) in [
        (1, Fate::Left, "its elements expire"),
        (2, Fate::Left, "its elements expire"),
        (3, Fate::Left, "no line above creates the set `t`"),
        (4, Fate::Left, "not a command of `ipset restore`"),
        (5, Fate::Taken, "a set in rules"),
    ] {
        let got = &import.lines[line - 1];
        assert_eq!(got.fate, fate, "{line}: {}", got.words);
        assert!(got.words.contains(wanted), "{line}: {}", got.words);
    }
}
