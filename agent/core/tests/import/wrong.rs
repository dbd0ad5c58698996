//! Inputs with errors.

use super::*;

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
            vec!["a: line 1: this line is outside of a table"],
        ),
        (
            "empty",
            vec![file("a", "")],
            vec!["a: line 1: the file has no table"],
        ),
        (
            "a script",
            vec![file("a", "iptables -A INPUT -j DROP\n")],
            vec!["a: line 1", "import with --live"],
        ),
        (
            "no family",
            vec![file("a", &rules("-A INPUT -p tcp --dport 22 -j ACCEPT"))],
            vec!["a: its content does not say", "--v4 FILE"],
        ),
        (
            "the wrong family",
            vec![file(
                "v6",
                &rules("-A INPUT -s 10.0.0.1 -j ACCEPT\n-A INPUT -s 2001:db8::1 -j ACCEPT"),
            )],
            vec!["v6: line 4", "not an IPv4 address"],
        ),
        (
            "no state",
            vec![file(
                "v4",
                &rules("-A INPUT -m state --state OLD -j ACCEPT"),
            )],
            vec!["v4: line 3", "`OLD` is not a connection state"],
        ),
        (
            "no port",
            vec![file(
                "v4",
                &rules("-A INPUT -p tcp --dport 70000 -j ACCEPT"),
            )],
            vec!["v4: line 3", "`70000` is not a port"],
        ),
        (
            "no chain",
            vec![file("v4", &rules("-A INPUT -j NOWHERE"))],
            vec!["v4: line 3", "`NOWHERE` is neither a chain"],
        ),
        (
            "a circle",
            vec![file(
                "v4",
                "*filter\n:INPUT DROP\n:a -\n:b -\n-A INPUT -j a\n-A a -j b\n-A b -j a\nCOMMIT\n",
            )],
            vec!["v4: line 3: the chain a jumps back to itself"],
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
            vec!["c: the cloud-config has no list `write_files`"],
        ),
        (
            "no rules",
            vec![file(
                "c",
                "#cloud-config\nwrite_files:\n  - path: /etc/motd\n    content: hi\n",
            )],
            vec!["c: the cloud-config writes no iptables rules files"],
        ),
        (
            "encoded",
            vec![file(
                "c",
                concat!(
                    "#cloud-config\nwrite_files:\n  - path: /var/lib/iptables/rules-save\n",
                    "    encoding: b64\n    content: aGk=\n",
                ),
            )],
            vec!["is encoded as b64"],
        ),
        (
            "a bad set",
            vec![
                file("s", "create a hash:ip\nadd a nonsense\n"),
                file("v4", &rules("-A INPUT -j DROP")),
            ],
            vec!["s: line 2: `nonsense` is not an address"],
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
