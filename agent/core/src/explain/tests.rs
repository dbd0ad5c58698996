//! Questions in all forms, and suggestions that must hold.

use proptest::prelude::*;

use super::*;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

#[test]
fn lines_of_tools_are_understood() {
    let mut count = 0;
    let cases = include_str!("lines.txt").split("\n\n").skip(1);
    for case in cases {
        let (line, wanted) = case.split_once("\n=> ").unwrap();
        let wanted = wanted.trim_end();
        count += 1;
        let asked = parse(line).unwrap_or_else(|why| panic!("{line}: {why}"));
        let (packet, _) = complete(&asked, &Policy::default(), &mut Unknown).unwrap();
        let found = described(&packet);
        assert_eq!(found, wanted, "{line}: {found}");
    }
    assert_eq!(count, 23);
}

#[test]
fn other_lines_get_a_clear_error() {
    let cases = [
        ("", "no packet in this line"),
        ("hello world", "no packet in this line"),
        (
            "IN= OUT=eth0 SRC=10.0.0.1 DST=10.0.0.2 PROTO=TCP SPT=1 DPT=2",
            "does not filter what",
        ),
        ("IN=eth0 OUT= SRC=10.0.0.1 PROTO=TCP", "has no DST="),
        ("IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2", "has no PROTO="),
        (
            "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 PROTO=TCP",
            "fragment",
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 PROTO=FOO",
            "no protocol",
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0 DST=10.0.0.2 PROTO=TCP",
            "`10.0.0` is no address",
        ),
        (
            "IP host.example.40000 > 10.0.0.2.http: Flags [S]",
            "print numbers",
        ),
        ("IP 10.0.0.1.1 >", "no address on both sides"),
        ("> ", "no address on both sides"),
        ("LISTEN 0 128 0.0.0.0:22 0.0.0.0:*", "--from"),
        (
            "ESTAB 0 0 192.0.2.1:ssh 198.51.100.7:51000",
            "print numbers",
        ),
        ("tcp 6 117 SYN_SENT src=10.0.0.1 sport=1 dport=2", "no dst="),
        (
            "trace id 1 inet x y packet: iif \"eth0\" ip saddr 10.0.0.1",
            "no `ip daddr`",
        ),
        (
            "trace id 1 inet x y rule tcp dport 22 accept (verdict accept)",
            "no packet in this line",
        ),
    ];
    for (line, wanted) in cases {
        let why = parse(line).expect_err(line);
        assert!(why.contains(wanted), "{line}: {why}");
    }
}

/// Words of lines, and others.
fn word() -> impl Strategy<Value = String> {
    let known = include_str!("lines.txt").split_whitespace();
    let known: Vec<String> = known.map(str::to_owned).collect();
    prop_oneof![
        6 => prop::sample::select(known),
        1 => "[ -~]{0,12}",
        1 => "(SRC|DST|src|dst|SPT|DPT|MAC|PROTO|TTL)=[0-9a-f.:]{0,9}",
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn any_line_is_read_or_refused(words in prop::collection::vec(word(), 0..40)) {
        let policy = Policy::default();
        if let Ok(asked) = parse(&words.join(" "))
            && let Ok((packet, _)) = complete(&asked, &policy, &mut Unknown)
        {
            let (ruleset, origins) = compile(&policy);
            let found = explain(&policy, &ruleset, &origins, &packet);
            prop_assert!(!described(&packet).is_empty());
            prop_assert!(found.reason.is_some(), "{:?}", packet);
        }
    }
}

/// Suggestions are true: with the lines in the policy, the packet is accepted.
#[test]
fn suggestions_let_the_packet_in() {
    let base =
        "version = 1\n[overlay.flannel]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n";
    let cases = [
        (
            "IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 TTL=60 PROTO=TCP SPT=1 DPT=80 SYN",
            2,
        ),
        (
            "IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 TTL=60 PROTO=ICMP TYPE=8 CODE=0",
            2,
        ),
        (
            "IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 TTL=60 PROTO=ICMP TYPE=13 CODE=0",
            2,
        ),
        (
            "IN=eth0 OUT= SRC=2001:db8::7 DST=2001:db8::1 HOPLIMIT=60 PROTO=UDP SPT=1 DPT=53",
            2,
        ),
        (
            "IN=cali0 OUT= SRC=10.99.3.7 DST=10.0.0.2 TTL=60 PROTO=TCP SPT=1 DPT=9100 SYN",
            2,
        ),
        (
            "IN=docker0 OUT=eth0 SRC=172.17.0.2 DST=192.0.2.9 TTL=60 PROTO=TCP SPT=1 DPT=443 SYN",
            3,
        ),
        (
            "IN=eth0 OUT=eth1 SRC=198.51.100.7 DST=192.0.2.9 TTL=60 PROTO=TCP SPT=1 DPT=443 SYN",
            2,
        ),
        (
            "IN=eth0 OUT=cni0 SRC=10.244.1.7 DST=10.244.0.3 TTL=60 PROTO=TCP SPT=1 DPT=80 SYN",
            1,
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0.9 DST=10.0.0.2 TTL=60 PROTO=UDP SPT=1 DPT=8472",
            1,
        ),
        (
            "tcp 6 9 SYN_SENT src=198.51.100.7 dst=192.0.2.1 sport=4 dport=8080 [UNREPLIED] \
             src=172.17.0.2 dst=198.51.100.7 sport=80 dport=4",
            2,
        ),
    ];
    for (line, count) in cases {
        let (policy, ruleset, origins) = compiled(base);
        let (packet, _) = complete(&parse(line).unwrap(), &policy, &mut Unknown).unwrap();
        let denied = explain(&policy, &ruleset, &origins, &packet);
        assert_eq!(denied.fixes.len(), count, "{line}: {denied:#?}");
        for fix in denied.fixes {
            let text = with(base, &fix.toml);
            let (policy, ruleset, origins) = compiled(&text);
            let now = explain(&policy, &ruleset, &origins, &packet);
            assert_eq!(now.verdict, Verdict::Accept, "{line}: {text}: {now:?}");
        }
    }
}

fn compiled(text: &str) -> (Policy, Ruleset, Origins) {
    let loaded = load("policy.toml", text, &NoFiles);
    let policy = loaded.policy.unwrap_or_else(|| {
        panic!(
            "{text}: {}",
            loaded.sources.render(&loaded.diagnostics, false)
        )
    });
    let (ruleset, origins) = compile(&policy);
    (policy, ruleset, origins)
}

/// Adds lines as their comment says.
fn with(base: &str, lines: &str) -> String {
    match lines.split_once('\n') {
        Some(("# under [peers]:", entry)) => format!("{base}[peers]\n{entry}"),
        Some((comment, entry)) if comment.starts_with("# under [overlay.") => {
            match entry.strip_prefix("subnets = [") {
                Some(more) => base.replace(
                    "\"10.244.0.0/16\"]",
                    &format!("\"10.244.0.0/16\", {}", more.trim_end()),
                ),
                None => format!("{base}{entry}"),
            }
        }
        _ => format!("{base}{lines}"),
    }
}
