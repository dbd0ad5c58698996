//! Inputs with errors.

use super::*;
use peerwall_core::import::{Options, import_with};

#[test]
fn a_line_with_an_unknown_word_accepts_nothing() {
    let import = case("27-unknown-words");
    for line in import
        .lines
        .iter()
        .filter(|line| line.text.contains("geoip") || line.text.contains("--mac-source"))
    {
        assert_eq!(line.fate, Fate::Left, "{}", line.text);
    }
    assert!(
        !import.policy.contains("8080") && !import.policy.contains("4500"),
        "{}",
        import.policy
    );
    assert!(!import.is_whole());
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let file = |name: &str, text: &str| File {
        name: name.into(),
        text: text.into(),
        family: None,
    };
    let rules = |rules: &str| format!("*filter\n:INPUT DROP [0:0]\n{rules}\nCOMMIT\n");
    for (name, files, wanted) in [
        (
            "no table",
            vec![file("a", "hello")],
            vec!["a: it is not a file of firewall rules; import output of iptables-save"],
        ),
        (
            "empty",
            vec![file("a", "")],
            vec!["a: it has no lines besides comments"],
        ),
        (
            "no family",
            vec![file("a", &rules("-A INPUT -p tcp --dport 22 -j ACCEPT"))],
            vec!["a: its content does not say", "--v4 FILE"],
        ),
        (
            "twice",
            vec![
                file("v4", &rules("-A INPUT -j DROP")),
                file("b-v4", &rules("-A INPUT -j DROP")),
            ],
            vec!["b-v4: line 1: this is the second table filter for IPv4"],
        ),
        (
            "no yaml",
            vec![file("c", "#cloud-config\nwrite_files: [\n")],
            vec!["c: not valid YAML"],
        ),
        (
            "no files",
            vec![file("c", "#cloud-config\nhostname: a\n")],
            vec!["c: the configuration has no list `write_files` or `storage.files`"],
        ),
        (
            "no rules",
            vec![file(
                "c",
                "#cloud-config\nwrite_files:\n  - path: /etc/motd\n    content: hi\n",
            )],
            vec!["c: the configuration writes no rules files"],
        ),
        (
            "encoded",
            vec![file(
                "c",
                concat!(
                    "#cloud-config\nwrite_files:\n  - path: /var/lib/iptables/rules-save\n",
                    "    encoding: gz\n    content: aGk=\n",
                ),
            )],
            vec!["/var/lib/iptables/rules-save is encoded as gz"],
        ),
        (
            "nftables",
            vec![file("n", "flush ruleset\ntable inet filter {\n}\n")],
            vec!["n: it is a ruleset of nftables"],
        ),
        (
            "nat only",
            vec![file(
                "v4",
                "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
            )],
            vec![
                "v4: only a part of a firewall: the table filter with the chain INPUT is missing for IPv4",
                "--assume-accept",
            ],
        ),
        (
            "filter incompatible",
            vec![file(
                "v4",
                "# Table `filter' is incompatible, use 'nft' tool.\n*nat\n:POSTROUTING ACCEPT\nCOMMIT\n",
            )],
            vec!["iptables-save could not print it, because nft changed it"],
        ),
        (
            "a fragment",
            vec![file(
                "v4",
                "*filter\n:DOCKER-USER - [0:0]\n-A DOCKER-USER -i eth0 -j DROP\nCOMMIT\n",
            )],
            vec!["the table filter with the chain INPUT is missing"],
        ),
        (
            "rules without a policy",
            vec![file(
                "v4",
                "*filter\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n",
            )],
            vec!["no line declares the policy of the chain INPUT for IPv4"],
        ),
    ] {
        let errors = import(&files, &Facts::default()).expect_err(name);
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        for part in wanted {
            assert!(text.contains(part), "{name}: {text}");
        }
    }
}

/// A bad word never refuses a file: its line accepts nothing, and `--strict` fails.
#[test]
fn a_line_that_cannot_be_read_is_left_with_the_reason() {
    for (line, wanted) in [
        (
            "-A INPUT -s 2001:db8::1 -j ACCEPT",
            "`2001:db8::1` is not an IPv4 address; is this a file of the other",
        ),
        (
            "-A INPUT -s gateway.example -j ACCEPT",
            "`gateway.example` is not an IPv4 address; host names are not",
        ),
        (
            "-A INPUT -s 10.0.0.0/255.0.255.0 -j ACCEPT",
            "has a mask with gaps",
        ),
        (
            "-A INPUT -m state --state OLD -j ACCEPT",
            "`OLD` is not a connection state",
        ),
        (
            "-A INPUT -p tcp --dport 70000 -j ACCEPT",
            "`70000` is not a port",
        ),
        (
            "-A INPUT -p tcp --dport finger-print -j ACCEPT",
            "`finger-print` is not a port",
        ),
        ("-A INPUT -p frob -j ACCEPT", "`frob` is not a protocol"),
        (
            "-A INPUT -p tcp --frobnicate 22 -j ACCEPT",
            "`--frobnicate` is not an option here",
        ),
        (
            "-A INPUT -p tcp --dport 22 -j ACCEPT stray",
            "`stray` is not an option here",
        ),
        ("-A INPUT -p tcp --dport", "`--dport` needs 1 value"),
        (
            "-A INPUT ! -m tcp -p tcp -j ACCEPT",
            "`!` cannot precede `-m`",
        ),
        (
            "-A INPUT ! ! -s 10.0.0.1 -j ACCEPT",
            "two `!` follow each other",
        ),
        ("-A INPUT -j ACCEPT !", "nothing follows `!`"),
        (
            "-A INPUT -m frob --frob 1 -j ACCEPT",
            "`-m frob` is an unknown match",
        ),
        (
            "-A INPUT -m tcp --dport 22 -j ACCEPT",
            "`-m tcp` needs `-p` with its protocol",
        ),
        (
            "-A INPUT -s 10.0.0.1 -s 10.0.0.2 -j ACCEPT",
            "`-s` is there twice",
        ),
        ("-A INPUT -o eth0 -j ACCEPT", "`-o` cannot be used in INPUT"),
        (
            "-A INPUT -j LOG --log-frob 1",
            "`--log-frob` is not an option here",
        ),
        (
            "-A INPUT -j REJECT --reject-with tcp-reset",
            "a TCP reset needs `-p tcp`",
        ),
        ("-A INPUT -j MASQUERADE", "a target of the table nat only"),
        (
            "-A INPUT -j NOWHERE",
            "`NOWHERE` is neither a chain of this table nor a known target",
        ),
        ("-A NOWHERE -j ACCEPT", "the chain NOWHERE is not declared"),
        ("-A a -j b\n-A b -j a", "the chain a jumps back to itself"),
        (
            "-I INPUT 7 -j ACCEPT",
            "the chain INPUT has 0 rules above this line",
        ),
        (
            "-D INPUT -s 10.0.0.1 -j ACCEPT",
            "no rule above this line is the one that it deletes",
        ),
        (
            "frobnicate",
            "`frobnicate` cannot start a line of a rules file",
        ),
        ("-A INPUT -m comment --comment \"open -j ACCEPT", "unclosed"),
        ("-p tcp -j ACCEPT", "`-p` cannot start a line"),
        ("-i eth0 -A INPUT -D INPUT", "are two commands"),
    ] {
        let rest = "-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT";
        let text = format!("*filter\n:INPUT DROP\n:a -\n:b -\n{line}\n{rest}\nCOMMIT\n");
        let file = File {
            name: "v4".into(),
            text,
            family: Some(Family::V4),
        };
        let import = import(&[file], &Facts::default()).unwrap();
        let got = import.lines.iter().find(|line| line.line == 5).unwrap();
        assert_eq!(got.fate, Fate::Left, "{line}: {}", got.words);
        assert!(got.words.contains(wanted), "{line}: {}", got.words);
        assert!(!import.is_whole(), "{line}");
        let allows = import.policy.matches("[[allow]]").count();
        assert!(
            allows == 1 && import.policy.contains("443/tcp"),
            "{line}: {}",
            import.policy
        );
    }
}

#[test]
fn what_is_missing_can_be_assumed_to_accept() {
    for (text, is_open) in [
        (
            "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
            true,
        ),
        (
            "*filter\n-A INPUT -s 192.0.2.1 -j ACCEPT\n-A INPUT -p tcp --dport 22 -j DROP\nCOMMIT\n",
            true,
        ),
        // Nothing reaches the end of the chain, so its policy decides nothing.
        (
            "*filter\n-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n",
            false,
        ),
    ] {
        let file = File {
            name: "v4".into(),
            text: text.into(),
            family: Some(Family::V4),
        };
        let files = [file];
        let strict = import(&files, &Facts::default());
        assert_eq!(strict.is_err(), is_open, "{text}");
        let options = Options {
            assume_accept: true,
        };
        let assumed = import_with(&files, &Facts::default(), options).unwrap();
        assert!(
            assumed.policy.contains("from  = \"any\""),
            "{text}: {}",
            assumed.policy
        );
    }
}

/// A packet that may go to another chain for good is accepted only if both ways accept it.
#[test]
fn a_goto_that_is_unknown_narrows_what_follows() {
    let rules = |goto: &str, inside: &str| {
        let text = format!(
            "*filter\n:INPUT DROP [0:0]\n:X - [0:0]\n:Y - [0:0]\n-A INPUT -j X\n\
             -A INPUT -p tcp --dport 25 -j ACCEPT\n-A X -m owner --uid-owner 3 {goto} Y\n\
             -A X -p tcp --dport 22 -j ACCEPT\n-A Y {inside}\nCOMMIT\n"
        );
        let file = File {
            name: "rules-v4".into(),
            text,
            family: None,
        };
        import(&[file], &Facts::default()).unwrap().policy
    };
    // What comes back from there does not get to the accept.
    let policy = rules("-g", "-p udp --dport 53 -j ACCEPT");
    assert!(!policy.contains("22/tcp"), "{policy}");
    assert!(policy.contains("25/tcp"), "{policy}");
    assert!(!policy.contains("53/udp"), "{policy}");
    // Accepted either way.
    for policy in [
        rules("-g", "-p tcp --dport 22 -j ACCEPT"),
        rules("-j", "-p udp --dport 53 -j ACCEPT"),
    ] {
        assert!(policy.contains("22/tcp"), "{policy}");
    }
}

/// iptables knows only `+` as a pattern.
#[test]
fn a_star_in_a_name_is_no_pattern() {
    for condition in [
        "-i eth*",
        "! -i eth*",
        "-i eth*+",
        "-m physdev --physdev-in eth*",
    ] {
        let text = format!(
            "*filter\n:INPUT DROP [0:0]\n-A INPUT {condition} -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"
        );
        let file = File {
            name: "rules-v4".into(),
            text,
            family: None,
        };
        let import = import(&[file], &Facts::default()).unwrap();
        assert!(!import.policy.contains("22/tcp"), "{import}");
        let line = import.lines.iter().find(|line| line.line == 3).unwrap();
        assert_eq!(line.fate, Fate::Left, "{import}");
    }
}

/// Neither names nor lines of files change a terminal or the policy.
#[test]
fn control_characters_of_files_are_escaped() {
    let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -m comment \
                --comment \"\u{1b}[2J\" -j ACCEPT\nCOMMIT\n";
    let name = "x\n[peers]\nevil = \"192.0.2.1\"\n#v4";
    let file = |text: &str| File {
        name: name.into(),
        text: text.into(),
        family: Some(Family::V4),
    };
    let import = import(&[file(text)], &Facts::default()).unwrap();
    assert!(!import.policy.contains("\n[peers]"), "{}", import.policy);
    let told = import.to_string();
    assert!(
        !told.contains('\u{1b}') && !told.contains("\n[peers]"),
        "{told}"
    );
    let errors = super::import(&[file("\u{1b}")], &Facts::default()).unwrap_err();
    assert!(!errors[0].to_string().contains('\n'), "{errors:?}");
}

/// It reads lines in a buffer of 10240 bytes.
#[test]
fn a_line_that_iptables_restore_divides_is_not_read() {
    let comment = format!("#{}-I INPUT -p tcp --dport 22 -j DROP", "x".repeat(10_238));
    let text = format!(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\n{comment}\nCOMMIT\n"
    );
    let file = File {
        name: "rules-v4".into(),
        text,
        family: None,
    };
    let import = import(&[file], &Facts::default()).unwrap();
    let left = import.lines.iter().filter(|line| line.fate == Fate::Left);
    assert_eq!(left.count(), 1);
}
