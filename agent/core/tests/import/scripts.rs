//! Scripts, units and commands of configurations: what is not read is told.

use super::*;

pub(super) const HEADER: &str = "iptables -P INPUT DROP\niptables -P FORWARD DROP\n";

pub(super) fn read(text: &str) -> Import {
    let file = File {
        name: "rules".into(),
        text: text.into(),
        family: None,
    };
    import(&[file], &Facts::default()).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"))
}

/// Texts of the lines that are not converted.
pub(super) fn left(import: &Import) -> Vec<&str> {
    let left = import.lines.iter().filter(|line| line.fate == Fate::Left);
    left.map(|line| line.text.as_str()).collect()
}

pub(super) fn words(import: &Import, text: &str) -> String {
    let line = import.lines.iter().find(|line| line.text == text);
    line.unwrap_or_else(|| panic!("{text}\n{import}"))
        .words
        .clone()
}

#[test]
fn lines_that_only_the_shell_evaluates_are_left() {
    for line in [
        "! iptables -A INPUT -p tcp --dport 23 -j ACCEPT",
        "eval iptables -A INPUT -p tcp --dport 23 -j ACCEPT",
        "sh -c 'iptables -A INPUT -p tcp --dport 23 -j ACCEPT'",
        "bash -c \"iptables -A INPUT -p tcp --dport 23 -j ACCEPT\"",
        "env -i iptables -A INPUT -j ACCEPT",
        "timeout -s KILL 5 iptables -A INPUT -j ACCEPT",
        "timeout -k 1 4 iptables -D INPUT -j ACCEPT",
        "flock /run/lock iptables -A INPUT -j ACCEPT",
        "sudo -u root iptables -A INPUT -j ACCEPT",
        "find /a -exec iptables -A INPUT -s {} -j DROP \\;",
        "xargs iptables -A INPUT -j DROP -s",
        "run iptables -A INPUT -j DROP",
        "$ipt -A INPUT -j DROP",
        "\"$@\"",
        "alias ipt=iptables",
        "python3 -c 'import os'",
        "python3.11 /other.py",
        "perl -e 1",
        "sh /other.sh",
        "/usr/local/sbin/other.sh",
        ". /other.sh",
        "source x",
        "X=$(iptables -A INPUT -j ACCEPT)",
        "echo \"$(iptables -A INPUT -j ACCEPT)\"",
        "echo iptables -A INPUT -j ACCEPT | sh",
        "systemctl restart iptables",
        "trap 'iptables -P INPUT ACCEPT' EXIT",
    ] {
        let import = read(&format!("{HEADER}{line}\n"));
        assert_eq!(left(&import).first(), Some(&line), "{import}");
    }
}

#[test]
fn lines_that_change_no_rules_have_no_effect() {
    for (line, wanted) in [
        ("IPT=/sbin/iptables", "sets a variable"),
        ("ipt=\"iptables -A INPUT\"", "sets a variable"),
        ("IPT=$(which iptables)", "sets a variable"),
        ("IPT=\"$(command -v iptables)\"", "sets a variable"),
        ("export IPT=/sbin/iptables", "sets a variable"),
        ("echo iptables -A INPUT -j ACCEPT", "changes no rules"),
        ("[ -x /sbin/iptables ]", "changes no rules"),
        ("mkdir -p /etc/iptables", "changes no rules"),
        ("command -v iptables", "changes no rules"),
        ("ssh h iptables -A INPUT -j ACCEPT", "another host"),
        ("ip netns exec lab iptables -A INPUT -j ACCEPT", "namespace"),
    ] {
        let import = read(&format!("{HEADER}{line}\n"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
        let words = words(&import, line);
        assert!(words.contains(wanted), "{line}: {words}");
    }
}

#[test]
fn words_before_a_command_are_skipped() {
    for before in [
        "LC_ALL=C",
        "env",
        "env LC_ALL=C",
        "nice",
        "nice -n 5",
        "ionice -c 3",
        "ionice -c3 -n 7",
        "setsid",
        "sudo",
        "command",
        "time",
        "nohup",
        "timeout 5",
        "timeout 5s nice",
        "/sbin/xtables-nft-multi",
        "xtables-legacy-multi",
    ] {
        let text = format!("{HEADER}{before} iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n");
        let import = read(&text);
        assert!(import.policy.contains("22/tcp"), "{import}");
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    }
    let import = read(&format!(
        "{HEADER}iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n\
         timeout 4 iptables -D INPUT -p tcp --dport 22 -j ACCEPT\n"
    ));
    assert!(!import.policy.contains("22/tcp"), "{import}");
}

#[test]
fn lines_where_a_script_may_end_are_told() {
    const AFTER: &str = "iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n";
    for (lines, wanted) in [
        ("[ -f /a ] || exit 0", "[ -f /a ] || exit 0"),
        ("[ -f /a ] && return", "[ -f /a ] && return"),
        (
            "if [ -f /a ]; then exit 0; fi",
            "if [ -f /a ]; then exit 0; fi",
        ),
        ("if [ -f /a ]; then\nexit 0\nfi", "exit 0"),
        ("case $1 in\nx) exit 0 ;;\nesac", "x) exit 0 ;;"),
        (
            "case $1 in x) exit 0 ;; esac",
            "case $1 in x) exit 0 ;; esac",
        ),
        ("{ exit 0; }", "{ exit 0; }"),
        ("return", "return"),
        ("exec sleep 5", "exec sleep 5"),
        ("kill $$", "kill $$"),
        (
            "die() { echo \"$1\"; exit 1; }\n[ -f /a ] || die no",
            "[ -f /a ] || die no",
        ),
        ("die() {\n exit 1\n}\nend() { die; }\nend", "end"),
        ("f(){\nexit 1\n}\nf", "f"),
    ] {
        let import = read(&format!("{HEADER}{lines}\n{AFTER}"));
        assert_eq!(left(&import), [wanted], "{import}");
        assert!(words(&import, wanted).contains("may end here"), "{import}");
        assert!(import.policy.contains("22/tcp"), "{import}");
        let import = read(&format!("#!/bin/sh\n{lines}\n{HEADER}{AFTER}"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    }
    for lines in [
        "[ -x /sbin/iptables ] || exit 0",
        "if [ ! -x /sbin/iptables ]; then\n exit 0\nfi",
        "exec >/dev/null 2>&1",
        "f() { return 1; }\nf",
        "f() { echo iptables; }\nf",
    ] {
        let import = read(&format!("#!/bin/sh\n{lines}\n{HEADER}{AFTER}"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    }
    let import = read(&format!(
        "{HEADER}{AFTER}exit $?\niptables -A INPUT -j ACCEPT\n"
    ));
    assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    let words = words(&import, "iptables -A INPUT -j ACCEPT");
    assert!(words.contains("the script ends above"), "{words}");
    let import = read(&format!("{HEADER}iptables -A INPUT -j DROP || exit 1\n"));
    assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
}

#[test]
fn a_line_that_fails_may_end_a_script() {
    const SETS: &str = "ipset create a hash:ip\nipset add a 10.1.2.3\n";
    const AFTER: &str = "ip6tables -A INPUT -p tcp --dport 22 -j ACCEPT\n";
    let wrong = "ip6tables -A INPUT -p tcp --dport 80 -m set ! --match-set a src -j ACCEPT";
    for (start, may_end) in [
        ("#!/bin/sh\n", false),
        ("#!/bin/sh -e\n", true),
        ("#!/usr/bin/env bash\nset -euo pipefail\n", true),
        ("set -o errexit\n", true),
        ("set -u\n", false),
        ("#!/bin/bash --posix\nset --\n", false),
    ] {
        let import = read(&format!(
            "{start}{SETS}ip6tables -P INPUT DROP\nip6tables -P FORWARD DROP\n{wrong}\n{AFTER}"
        ));
        assert_eq!(left(&import), [wrong], "{import}");
        let words = words(&import, wrong);
        assert!(words.contains("the set `a` has IPv4 addresses"), "{words}");
        assert_eq!(words.contains("ends here"), may_end, "{words}");
        assert!(!import.policy.contains("80/tcp"), "{import}");
        assert!(import.policy.contains("22/tcp"), "{import}");
    }
}

#[test]
fn subshells_are_as_conditional_as_what_they_stand_behind() {
    const OPEN: &str = "iptables -A INPUT -p tcp --dport 3306 -j ACCEPT";
    for (start, end) in [
        ("[ \"$1\" = open ] && (", ")"),
        ("test -f /a || (", ")"),
        ("[ -f /a ] && ( cd /", ")"),
        ("[ -f /a ] && (", ") >/dev/null 2>&1"),
        ("open () (", ")"),
        ("open() (", ")"),
        ("if [ -f /a ]; then (", "); fi"),
    ] {
        let import = read(&format!("{HEADER}{start}\n{OPEN}\n{end}\n"));
        assert!(!import.policy.contains("3306"), "{start}: {import}");
        assert!(left(&import).contains(&OPEN), "{start}: {import}");
    }
    for lines in ["(\n# a\nREPLACE\n)", "(cd /\nREPLACE\n) 2>/dev/null"] {
        let import = read(&format!("{HEADER}{}\n", lines.replace("REPLACE", OPEN)));
        assert!(import.policy.contains("3306"), "{lines}: {import}");
        assert_eq!(left(&import), Vec::<&str>::new(), "{lines}: {import}");
    }
    // A body on the line of the function's name.
    let line = "block() ( iptables -I INPUT -s 203.0.113.0/24 -j DROP )";
    let import = read(&format!("{HEADER}{OPEN}\n{line}\nblock\n"));
    assert_eq!(left(&import), [line, "block"], "{import}");
    // Lines in quotes are part of their command.
    let inner = "iptables -I INPUT -s 203.0.113.0/24 -j DROP";
    let import = read(&format!("{HEADER}R=\"\n{inner}\n\"\neval \"$R\"\n"));
    assert_eq!(words(&import, inner), "part of the command above");
    // A shift is no here-document.
    let import = read(&format!("{HEADER}MASK=$((1<<8))\n{OPEN}\n"));
    assert!(import.policy.contains("3306"), "{import}");
}

#[test]
fn numbers_of_rules_behind_a_line_that_is_not_read_are_not_trusted() {
    const DROP: &str = "iptables -A INPUT -s 203.0.113.0/24 -j DROP\n";
    const OPEN: &str = "iptables -A INPUT -p tcp --dport 80 -j ACCEPT\n";
    for last in [
        "iptables -I INPUT 2 -s 203.0.113.0/24 -j DROP",
        "iptables -D INPUT 1",
        "iptables --delete INPUT 2",
        "iptables -t filter -R INPUT 1 -j ACCEPT",
    ] {
        for unread in [
            "iptables -I INPUT -s $ADMIN -j ACCEPT",
            "for a in $B; do iptables -I INPUT -s $a -j DROP; done",
            "/usr/local/sbin/other.sh",
        ] {
            let import = read(&format!("{HEADER}{DROP}{OPEN}{unread}\n{last}\n"));
            let words = words(&import, last);
            assert!(words.contains("may change the numbers of rules"), "{words}");
        }
        let import = read(&format!("{HEADER}{DROP}{OPEN}{last}\n"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    }
    // The first place is the same whatever was added.
    let first = "iptables -I INPUT 1 -s 203.0.113.0/24 -j DROP";
    let import = read(&format!(
        "{HEADER}{OPEN}iptables -I INPUT -s $A -j ACCEPT\n{first}\n"
    ));
    assert_eq!(left(&import).len(), 1, "{import}");
}

#[test]
fn calls_of_functions_and_aliases_that_change_rules_are_left() {
    for (definition, call) in [
        (
            "ipt() { iptables \"$@\"; }",
            "ipt -A INPUT -s 192.0.2.1 -j DROP",
        ),
        ("ipt () {\n iptables \"$@\"\n}", "ipt -A INPUT -j DROP"),
        ("ipt(){\n iptables \"$@\"\n}", "ipt -A INPUT -j DROP"),
        (
            "function ipt {\n iptables \"$@\"\n}",
            "ipt -A INPUT -j DROP",
        ),
        (
            "function ipt\n{\n iptables \"$@\"\n}",
            "ipt -A INPUT -j DROP",
        ),
        ("a() { iptables -F; }\nb() { a; }", "b"),
        ("run() { \"$@\"; }", "run -A INPUT -j DROP"),
        ("alias ipt=iptables", "ipt -A INPUT -j DROP"),
        (
            "iptables() { /sbin/iptables \"$@\"; }",
            "iptables -A INPUT -j DROP",
        ),
    ] {
        let more = "ip6tables -P INPUT DROP";
        let import = read(&format!("{HEADER}{definition}\n{call}\n{more}\n"));
        assert!(left(&import).contains(&call), "{import}");
        assert!(!left(&import).contains(&more), "{import}");
    }
}

#[test]
fn a_document_for_a_restore_does_not_hide_the_script() {
    let import = read(&format!(
        "{HEADER}true && iptables-restore -n <<X\n*filter\n-A INPUT -j DROP\nCOMMIT\nX\n\
         cat >/dev/null <<Y\n-A INPUT\nY\n"
    ));
    let wanted = [
        "true && iptables-restore -n <<X",
        "*filter",
        "-A INPUT -j DROP",
        "COMMIT",
    ];
    assert!(left(&import).starts_with(&wanted), "{import}");
    assert!(
        words(&import, "-A INPUT").contains("here-document"),
        "{import}"
    );
}

#[test]
fn an_unread_removal_says_what_it_keeps() {
    let line = "iptables -D INPUT -s $A -j ACCEPT";
    let import = read(&format!("{HEADER}{line}\n"));
    let words = words(&import, line);
    assert!(
        words.contains("rules that this line removes are kept"),
        "{words}"
    );
}

#[test]
fn a_unit_runs_only_the_commands_of_its_start() {
    let import = read(
        "[Unit]\nDescription=iptables rules\n[Service]\nType=oneshot\n\
         ExecStart=/sbin/iptables -P INPUT ACCEPT\n\
         ExecStart=\n\
         ExecStartPost=-/sbin/iptables -A INPUT -p tcp --dport 80 -j ACCEPT\n\
         ExecStart=+/sbin/iptables -P INPUT DROP\n\
         ExecStart=/sbin/iptables -A INPUT \\\n  -p tcp --dport 443 -j DROP\n\
         ExecStartPre=/sbin/iptables -P FORWARD DROP\n\
         ExecStart=/bin/sh -c 'iptables -A INPUT -j ACCEPT'\n\
         ExecStart=/usr/bin/env -i iptables -A INPUT -j ACCEPT\n\
         ExecStart=/sbin/iptables -A INPUT -s 192.0.2.0/24 -j ACCEPT | true\n\
         ExecStop=/sbin/iptables -P INPUT ACCEPT\n\
         ExecStopPost=/sbin/iptables -F\n\
         ExecReload=/sbin/iptables -P INPUT ACCEPT\n",
    );
    let wanted = [
        "ExecStart=/bin/sh -c 'iptables -A INPUT -j ACCEPT'",
        "ExecStart=/usr/bin/env -i iptables -A INPUT -j ACCEPT",
        "ExecStart=/sbin/iptables -A INPUT -s 192.0.2.0/24 -j ACCEPT | true",
    ];
    assert_eq!(left(&import), wanted, "{import}");
    assert!(import.policy.contains("80/tcp"), "{import}");
    let stop = words(&import, "ExecStop=/sbin/iptables -P INPUT ACCEPT");
    assert_eq!(stop, "runs when the unit stops");
}

#[test]
fn commands_of_a_cloud_config_are_told() {
    let rules = "*filter\n      :INPUT DROP\n      :FORWARD DROP\n      COMMIT\n";
    let import = read(&format!(
        "#cloud-config\nwrite_files:\n  - path: /etc/iptables/rules.v4\n    content: |\n      {rules}\
         runcmd:\n  - iptables-restore </etc/iptables/rules.v4\n\
         \x20 - [iptables, -A, INPUT, -j, ACCEPT]\n  - echo hello\n\
         bootcmd:\n  - iptables -P INPUT ACCEPT\n"
    ));
    let wanted = ["iptables -P INPUT ACCEPT", "iptables -A INPUT -j ACCEPT"];
    assert_eq!(left(&import), wanted, "{import}");
    let import = read(
        "#cloud-config\nruncmd:\n  - iptables -P INPUT DROP\n  - [iptables, -P, FORWARD, DROP]\n\
         \x20 - iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n",
    );
    assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    assert!(import.policy.contains("22/tcp"), "{import}");
}

/// iptables takes its command at any place of a line, and attached to the chain.
#[test]
fn commands_are_read_as_iptables_reads_them() {
    let import = read(
        "iptables -PINPUT DROP\niptables -P FORWARD DROP\niptables -N old\niptables -E old new\n\
         iptables -AINPUT -j new\niptables -i eth13 -p tcp --dport 80 -A INPUT -j ACCEPT\n\
         iptables -vA new -p tcp --dport 22 -j ACCEPT\niptables -tfilter -A new -p tcp --dport 23 -j ACCEPT\n\
         iptables -Dnew 2\niptables -nvL\niptables -LINPUT -n\n\
         iptables -A INPUT -p tcp --dport 25 -m comment --comment -A -j ACCEPT\n",
    );
    assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    for port in ["22", "25", "80"] {
        assert!(
            import.policy.contains(&format!("\"{port}/tcp\"")),
            "{import}"
        );
    }
    assert!(!import.policy.contains("\"23/tcp\""), "{import}");
    // What iptables refuses stays unread.
    for line in [
        "iptables -E none other",
        "iptables -E old INPUT",
        "iptables -A INPUT -F",
    ] {
        let import = read(&format!("{HEADER}iptables -N old\n{line}\n"));
        assert_eq!(left(&import), [line], "{import}");
    }
}

#[test]
fn here_documents_of_iptables_restore_are_read() {
    let import = read(
        "#!/bin/sh\niptables -A INPUT -p tcp --dport 99 -j ACCEPT\niptables -P FORWARD DROP\n\
         iptables-restore -w <<'EOF'\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP\n\
         -A INPUT -p tcp --dport 22 -m comment --comment \"a b\" -j ACCEPT\nCOMMIT\nEOF\n\
         iptables -A INPUT -p tcp --dport 23 -j ACCEPT\n\
         iptables-restore -n <<EOF\n*filter\n:one - [0:0]\n-A one -p tcp --dport 80 -j ACCEPT\n\
         -I INPUT 1 -j one\nCOMMIT\nEOF\n",
    );
    assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    for (port, wanted) in [("22", true), ("23", true), ("80", true), ("99", false)] {
        let found = import.policy.contains(&format!("\"{port}/tcp\""));
        assert_eq!(found, wanted, "{port}: {}", import.policy);
    }
    let told = words(&import, "iptables-restore -w <<'EOF'");
    assert_eq!(told, "loads the lines below");
}

#[test]
fn here_documents_that_the_shell_changes_are_left() {
    const RULES: &str = "*filter\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n";
    for (command, rules) in [
        ("true && iptables-restore -n <<E", RULES),
        ("iptables-restore -n --modprobe=/x <<E", RULES),
        ("iptables-restore -n <<E", &RULES.replace("22", "$PORT")),
        ("iptables-restore -n <<E", &RULES.replace("COMMIT\n", "")),
    ] {
        let import = read(&format!("{HEADER}{command}\n{rules}E\n"));
        assert!(left(&import).contains(&command), "{import}");
        assert!(!import.policy.contains("[[allow]]"), "{}", import.policy);
    }
}

#[test]
fn a_script_that_only_the_shell_can_read_is_an_error() {
    for text in [
        "#!/bin/sh\nIPT=iptables\nstart() {\n$IPT -P INPUT DROP\n}\nstart\n",
        "#!/bin/sh\ncase $1 in\nstart)\niptables -P INPUT DROP\n;;\nesac\n",
    ] {
        let file = File {
            name: "rules".into(),
            text: text.into(),
            family: None,
        };
        let errors = import(&[file], &Facts::default()).unwrap_err();
        assert!(errors[0].line > 1, "{errors:?}");
        assert!(errors[0].why.contains("only the shell can"), "{errors:?}");
        assert!(errors[0].help.contains("--live"), "{errors:?}");
    }
}

#[test]
fn sets_of_ports_are_read_within_their_range() {
    let text = |port: &str| {
        format!(
            "{HEADER}ipset create p bitmap:port range 0-1023\nipset add p 22\nipset add p {port}\n\
             ipset del p 84\niptables -A INPUT -p tcp -m set --match-set p dst -j ACCEPT\n\
             ipset list\nipset -q save p\nipset create list hash:ip\n"
        )
    };
    let import = read(&text("80-85"));
    assert!(
        import
            .policy
            .contains("[\"22/tcp\", \"80-83/tcp\", \"85/tcp\"]"),
        "{import}\n{}",
        import.policy
    );
    assert!(left(&read(&text("1100"))).contains(&"ipset add p 1100"));
}

#[test]
fn a_line_of_which_a_part_is_read_says_so() {
    let line = |ports: [u16; 2], between: &str| {
        let [a, b] = ports.map(|port| format!("iptables -A INPUT -p tcp --dport {port} -j ACCEPT"));
        format!("{a} {between} {b}")
    };
    for (text, is_part) in [
        (line([22, 23], "||"), true),
        (format!("! {}", line([22, 23], ";")), true),
        ("! iptables -A INPUT -j DROP".into(), false),
    ] {
        let import = read(&format!("{HEADER}{text}\n"));
        let words = words(&import, &text);
        assert_eq!(
            words.starts_with("a part of this line cannot be read"),
            is_part,
            "{import}"
        );
        assert_eq!(import.policy.contains("[[allow]]"), is_part, "{import}");
    }
}
