//! Lines of scripts that iptables, ipset or the shell refuse, or read in another way.

use super::scripts::{HEADER, left, read};
use super::*;

const SSH: &str = "-p tcp --dport 22 -j ACCEPT";

/// The ones behind them decide.
#[test]
fn lines_that_the_kernel_refuses_are_left() {
    for (text, refused) in [
        (
            format!(
                "iptables -N X\niptables -A INPUT -j X\n\
                 iptables -A X -s 203.0.113.0/24 -j DROP\niptables -N X\niptables -A X {SSH}\n"
            ),
            vec!["iptables -N X".to_owned()],
        ),
        (
            format!("iptables -A INPUT -j A\niptables -N A\niptables -A A {SSH}\n"),
            vec!["iptables -A INPUT -j A".to_owned()],
        ),
        (
            format!(
                "iptables -N A\niptables -F\niptables -X\niptables -A A {SSH}\n\
                 iptables -A INPUT -j A\n"
            ),
            vec![
                format!("iptables -A A {SSH}"),
                "iptables -A INPUT -j A".to_owned(),
            ],
        ),
        (
            format!(
                "iptables -A INPUT -m set --match-set s src {SSH}\nipset create s hash:ip\n\
                 ipset add s 198.51.100.7\n"
            ),
            vec![format!("iptables -A INPUT -m set --match-set s src {SSH}")],
        ),
        (
            format!(
                "ipset create s hash:ip maxelem 1\nipset add s 198.51.100.7\n\
                 ipset add s 198.51.100.8\nipset add s 198.51.100.9 comment \"a\"\n\
                 ipset create s hash:net\niptables -A INPUT -m set --match-set s src {SSH}\n"
            ),
            vec![
                "ipset add s 198.51.100.8".to_owned(),
                "ipset add s 198.51.100.9 comment \"a\"".to_owned(),
                "ipset create s hash:net".to_owned(),
                format!("iptables -A INPUT -m set --match-set s src {SSH}"),
            ],
        ),
    ] {
        let import = read(&format!("{HEADER}{text}"));
        let told = left(&import);
        assert!(
            refused.iter().all(|line| told.contains(&line.as_str())),
            "{import}"
        );
        match text.contains("DROP") {
            true => assert!(!import.policy.contains("\"any\""), "{}", import.policy),
            false => assert!(!import.policy.contains("[[allow]]"), "{}", import.policy),
        }
    }
}

#[test]
fn chains_are_there_until_they_can_be_removed() {
    for text in [
        format!("iptables -N A\niptables -A INPUT -j A\niptables -X\niptables -A A {SSH}\n"),
        format!(
            "iptables -N A\niptables -A INPUT -j A\niptables -F\niptables -X A\n\
             iptables -N A\niptables -A A {SSH}\niptables -A INPUT -j A\n"
        ),
        format!(
            "iptables -N A\niptables -A A -j DROP\niptables -A INPUT -j A\niptables -D INPUT 1\n\
             iptables -D A -j DROP\niptables -X A\niptables -N A\niptables -A A {SSH}\n\
             iptables -I INPUT -j A\n"
        ),
    ] {
        let import = read(&format!("{HEADER}{text}"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
        assert!(import.policy.contains("22/tcp"), "{}", import.policy);
    }
}

#[test]
fn text_of_a_rule_is_no_command() {
    let import = read(&format!(
        "{HEADER}iptables -A INPUT -s 203.0.113.0/24 -m comment --comment \"-SPAM-\" -j DROP\n\
         iptables -A INPUT {SSH}\n"
    ));
    assert!(!import.policy.contains("\"any\""), "{}", import.policy);
}

fn document(port: u16) -> String {
    format!("*filter\n-A INPUT -p tcp --dport {port} -j ACCEPT\nCOMMIT\n")
}

fn indented(port: u16, by: &str) -> String {
    let lines = document(port);
    let lines = lines.lines().map(|line| format!("{by}{line}\n"));
    lines.collect()
}

#[test]
fn a_here_document_is_read_by_its_command_and_ends_where_sh_ends_it() {
    for (text, open) in [
        (
            format!(
                "cat >/x <<A; iptables-restore -n <<B\n{}A\n{}B\n",
                document(23),
                document(22)
            ),
            Some("22"),
        ),
        (
            format!(
                "iptables-restore -n <<A <<B\n{}A\n{}B\n",
                document(80),
                document(81)
            ),
            None,
        ),
        (
            format!("iptables-restore -n <<A </x\n{}A\n", document(80)),
            None,
        ),
        (
            format!("iptables-restore -n 3<<A\n{}A\n", document(80)),
            None,
        ),
        (
            format!("iptables-restore -n <<-A\n{}\tA\n", indented(80, "\t")),
            Some("80"),
        ),
        (
            format!(
                "iptables-restore -n <<-A\n{}  A\niptables -A INPUT -p tcp --dport 23 -j ACCEPT\n",
                indented(22, "  ")
            ),
            None,
        ),
        (
            format!("iptables-restore -n <<A\n{}A\n", indented(22, " ")),
            None,
        ),
        // Whether FORWARD still drops depends on which iptables it is.
        (format!("iptables-restore <<A\n{}A\n", document(22)), None),
    ] {
        let import = read(&format!("{HEADER}{text}"));
        for port in ["22", "23", "80", "81"] {
            let is_open = import.policy.contains(&format!("\"{port}/tcp\""));
            assert_eq!(is_open, open == Some(port), "{text}\n{import}");
        }
    }
}

#[test]
fn a_document_with_a_refused_line_may_load_nothing() {
    let lines = document(22).replace("COMMIT", "-A INPUT -j NOWHERE\nCOMMIT");
    let import = read(&format!("{HEADER}iptables-restore -n <<A\n{lines}A\n"));
    let told = left(&import);
    assert!(told.contains(&"iptables-restore -n <<A"), "{import}");
}

#[test]
fn sets_that_an_unread_line_may_change_are_unknown() {
    let drop = "iptables -A INPUT -m set --match-set s src -j DROP";
    let import = read(&format!(
        "{HEADER}ipset create s hash:net\nipset restore </etc/ipset.save\n{drop}\n\
         iptables -A INPUT {SSH}\n"
    ));
    assert!(left(&import).contains(&drop), "{import}");
}

#[test]
fn sets_that_ipset_refuses_are_unknown() {
    for (commands, refused) in [
        ("ipset create s hash:ip\nipset add s 10.0.0.0/8\n", 2),
        (
            "ipset create s hash:ip,port\nipset add s 10.0.0.0/8,22\n",
            2,
        ),
        ("ipset create s hash:net\nipset add s 0.0.0.0/0\n", 2),
        ("ipset create s bitmap:ip\n", 1),
        ("ipset create s bitmap:ip range 10.0.0.0/8\n", 1),
    ] {
        let dimensions = match commands.contains("port") {
            true => "src,dst",
            false => "src",
        };
        let import = read(&format!(
            "{HEADER}{commands}iptables -A INPUT -m set --match-set s {dimensions} {SSH}\n"
        ));
        let refused = commands.lines().nth(refused - 1).unwrap();
        assert!(left(&import).contains(&refused), "{import}");
        assert!(!import.policy.contains("[[allow]]"), "{import}");
    }
    // They stay as they are.
    let import = read(&format!(
        "{HEADER}ipset create s hash:net\nipset add s 10.0.0.1\nipset create t hash:ip\n\
         ipset add t 10.9.9.9\nipset swap s t\niptables -A INPUT -m set --match-set s src {SSH}\n"
    ));
    assert!(left(&import).contains(&"ipset swap s t"), "{import}");
    assert!(!import.policy.contains("10.9.9.9"), "{}", import.policy);
    // As many as there is place for.
    for text in [
        "ipset create s hash:ip\nipset add s 10.0.0.0/16\n",
        "ipset create s hash:ip netmask 24\nipset add s 10.0.0.0/9\n",
        "ipset create s bitmap:ip range 10.0.0.0/16\nipset add s 10.0.0.0/24\n",
    ] {
        let rule = format!("iptables -A INPUT -m set --match-set s src {SSH}");
        let import = read(&format!("{HEADER}{text}{rule}\n"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
    }
}

#[test]
fn built_in_chains_are_neither_made_nor_given_to_others() {
    let drop = "iptables -A INPUT -s 203.0.113.0/24 -j DROP\n";
    for line in ["iptables -N INPUT", "iptables -N X\niptables -P X ACCEPT"] {
        let import = read(&format!("{HEADER}{drop}{line}\niptables -A INPUT {SSH}\n"));
        let refused = line.lines().last().unwrap();
        assert!(left(&import).contains(&refused), "{import}");
        assert!(!import.policy.contains("\"any\""), "{}", import.policy);
    }
}

#[test]
fn numbers_behind_a_line_that_is_not_read_are_not_trusted() {
    let drop = "-A INPUT -s 203.0.113.0/24 -j DROP";
    let dns = "-p udp --dport 53 -j ACCEPT";
    // What may have a place, and the command that then means another rule.
    for (unread, command) in [
        ("-A INPUT -m foo --bar -j DROP", "-D INPUT 2"),
        (
            "-A INPUT -m foo --bar -j DROP",
            "-R INPUT 2 -p udp --dport 53 -j ACCEPT",
        ),
        ("-I INPUT -m foo --bar -j DROP", "-D INPUT 2"),
        ("-A INPUT -s $BAD -j DROP", "-D INPUT 2"),
        ("--frob INPUT -j DROP", "-D INPUT 1"),
        ("-R INPUT 1 -m foo --bar -j ACCEPT", "-D INPUT 2"),
    ] {
        let lines = [unread, drop, &format!("-A INPUT {SSH}"), command];
        let script: String = lines
            .iter()
            .map(|line| format!("iptables {line}\n"))
            .collect();
        let import = read(&format!("{HEADER}iptables -A INPUT {dns}\n{script}"));
        let told = left(&import);
        assert!(
            told.contains(&format!("iptables {command}").as_str()),
            "{import}"
        );
        assert!(!import.policy.contains("22/tcp"), "{import}");
    }
    // A rule whose place is unknown accepts and drops nothing.
    for target in ["ACCEPT", "DROP"] {
        let import = read(&format!(
            "{HEADER}iptables -A INPUT -m foo --bar -j DROP\niptables -A INPUT {SSH}\n\
             iptables -I INPUT 2 -p tcp --dport 22:23 -j {target}\n"
        ));
        assert_eq!(left(&import).len(), 2, "{import}");
        assert!(import.policy.contains("22/tcp"), "{import}");
        assert!(!import.policy.contains("23"), "{}", import.policy);
    }
    // Numbers of rules above it, and of a chain that is empty again, are known.
    for text in [
        format!(
            "-A INPUT -p udp --dport 1 -j ACCEPT\n-A INPUT {SSH}\n-A INPUT -m foo -j DROP\n-D INPUT 1\n"
        ),
        format!("-A INPUT -m foo --bar -j DROP\n-F INPUT\n{drop}\n-A INPUT {SSH}\n-D INPUT 1\n"),
        format!("-N A\n-A A -m foo -j DROP\n{drop}\n-A INPUT {SSH}\n-D INPUT 1\n"),
    ] {
        let script: String = text
            .lines()
            .map(|line| format!("iptables {line}\n"))
            .collect();
        let import = read(&format!("{HEADER}{script}"));
        assert!(!left(&import).contains(&"iptables -D INPUT 1"), "{import}");
        assert!(import.policy.contains("22/tcp"), "{import}");
    }
}

#[test]
fn sets_that_something_names_are_neither_destroyed_nor_renamed() {
    let sets = "ipset create s hash:ip\nipset add s 198.51.100.7\nipset create t hash:ip\n\
                ipset add t 203.0.113.9\n";
    let rule = format!("iptables -A INPUT -m set --match-set s src {SSH}");
    for commands in [
        format!("{rule}\nipset destroy s\nipset rename t s\n"),
        format!("{rule}\nipset rename s old\nipset rename t s\n"),
        format!(
            "ipset create l list:set\nipset add l s\nipset destroy s\nipset rename t s\n{rule}\n"
        ),
        format!("{rule}\nipset destroy\nipset rename t s\n"),
        format!("ipset rename t s\n{rule}\n"),
        // Refused, since the set is not there.
        format!("ipset destroy s\n{rule}\nipset rename t s\n"),
    ] {
        let import = read(&format!("{HEADER}{sets}{commands}"));
        assert!(!left(&import).is_empty(), "{import}");
        assert!(!import.policy.contains("203.0.113.9"), "{import}");
    }
    for commands in [
        format!("{rule}\niptables -F\nipset destroy s\nipset rename t s\n{rule}\n"),
        format!(
            "{rule}\n{}\nipset destroy s\nipset rename t s\n{rule}\n",
            rule.replace("-A", "-D")
        ),
        format!(
            "ipset destroy\n{}{rule}\n",
            sets.replace("198.51.100.7", "203.0.113.9")
        ),
        format!("{rule}\nipset swap s t\nipset destroy t\n"),
    ] {
        let import = read(&format!("{HEADER}{sets}{commands}"));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
        assert!(import.policy.contains("203.0.113.9"), "{import}");
    }
}

/// iptables compares matches and their order, not what they mean.
#[test]
fn only_the_same_words_delete_a_rule() {
    for (words, like) in [
        ("-m conntrack --ctstate NEW", "-m state --state NEW"),
        ("-p icmp --icmp-type any", "-p icmp"),
        ("-p tcp -m multiport --dports 22", "-p tcp --dport 22"),
        (
            "-p tcp -m tcp --dport 22 -m comment --comment a",
            "-p tcp -m comment --comment a -m tcp --dport 22",
        ),
        ("-p tcp", "-p tcp -m tcp"),
        ("-m iprange --src-range 192.0.2.1-192.0.2.1", "-s 192.0.2.1"),
    ] {
        for (words, like) in [(words, like), (like, words)] {
            // The rule may still be there, whatever it does.
            for (target, delete) in [("DROP", true), ("ACCEPT", false)] {
                let import = read(&format!(
                    "{HEADER}iptables -A INPUT {words} -j {target}\n\
                     iptables -D INPUT {like} -j {target}\n{}",
                    match delete {
                        true => format!("iptables -A INPUT {SSH}\n"),
                        false => String::new(),
                    }
                ));
                let told = left(&import);
                assert!(
                    told.iter().any(|line| line.contains("-D INPUT")),
                    "{import}"
                );
                let opens =
                    import.policy.contains("[[allow]]") && import.policy.contains("\"any\"");
                let narrow = words.contains("192.0.2.1") || words.contains("icmp");
                assert!(!opens || (narrow && delete), "{words}\n{import}");
            }
        }
    }
    for (words, like) in [
        ("-p tcp --dport 22", "-p tcp -m tcp --destination-port 22"),
        (
            "-s 192.0.2.1 -p tcp --dport 22",
            "-p tcp --dport 22 -s 192.0.2.1/32",
        ),
        ("-p tcp --syn --dport 22", "--protocol tcp --dport 22 --syn"),
    ] {
        let import = read(&format!(
            "{HEADER}iptables -A INPUT {words} -j DROP\niptables -D INPUT {like} -j DROP\n\
             iptables -A INPUT {SSH}\n"
        ));
        assert_eq!(left(&import), Vec::<&str>::new(), "{import}");
        assert!(import.policy.contains("\"any\""), "{import}");
    }
}

#[test]
fn sets_that_rules_change_are_unknown() {
    for target in ["--add-set s src", "--del-set s src"] {
        let import = read(&format!(
            "{HEADER}ipset create s hash:ip\nipset add s 198.51.100.7\n\
             iptables -A INPUT -m set --match-set s src {SSH}\n\
             iptables -A INPUT -p tcp --dport 445 -j SET {target}\n"
        ));
        assert!(!import.policy.contains("[[allow]]"), "{import}");
    }
}

/// Packets pass the rules of both.
#[test]
fn two_kinds_of_iptables_have_rules_of_their_own() {
    for (first, second) in [
        ("iptables-nft", "iptables-legacy"),
        ("iptables", "iptables-legacy"),
        ("ip6tables-legacy", "iptables-nft"),
        ("iptables-legacy-restore", "iptables-nft"),
    ] {
        let first = match first.ends_with("restore") {
            true => format!(
                "{first} -n <<A\n*filter\n:INPUT DROP\n:FORWARD DROP\n-A INPUT {SSH}\nCOMMIT\nA\n"
            ),
            false => {
                format!("{first} -P INPUT DROP\n{first} -P FORWARD DROP\n{first} -A INPUT {SSH}\n")
            }
        };
        let accept = format!("{second} -A INPUT -p tcp --dport 109 -j ACCEPT");
        let import = read(&format!("{first}{accept}\n"));
        assert!(left(&import).contains(&accept.as_str()), "{import}");
        assert!(!import.policy.contains("109"), "{import}");
    }
}

#[test]
fn programs_may_be_functions_and_commands_may_run_beside_the_script() {
    let accept = format!("iptables -A INPUT {SSH}");
    for text in [
        format!("iptables() {{ echo \"$@\"; }}\n{accept}\n"),
        format!("function iptables {{ ssh other iptables \"$@\"; }}\n{accept}\n"),
        format!("iptables() {{\n  echo \"$@\"\n}}\n{accept}\n"),
        format!("alias iptables=echo\n{accept}\n"),
        format!("set -n\n{accept}\n"),
        format!("{accept}\nexit 0 &\niptables -I INPUT -p tcp --dport 22 -j DROP\n"),
        format!("exit() {{ :; }}\n{accept}\nexit 0\niptables -I INPUT -p tcp --dport 22 -j DROP\n"),
        format!("{accept} &\n"),
    ] {
        let import = read(&format!("{HEADER}{text}"));
        assert!(!import.policy.contains("[[allow]]"), "{text}\n{import}");
    }
}

#[test]
fn units_run_only_their_service_and_end_at_the_first_failure() {
    let start = "[Service]\nType=oneshot\nExecStart=/sbin/iptables -P INPUT DROP\n\
                 ExecStart=/sbin/iptables -P FORWARD DROP\n";
    let accept = format!("ExecStart=/sbin/iptables -A INPUT {SSH}\n");
    for section in ["[Install]", "[X-Old]", "[Unit]"] {
        let import = read(&format!("{start}{section}\n{accept}"));
        assert!(!import.policy.contains("22/tcp"), "{import}");
    }
    for (failing, may_end) in [
        ("ExecStart=/bin/false\n", true),
        ("ExecStartPre=/usr/bin/test -e /x\n", false),
        ("ExecStart=-/bin/false\n", false),
        ("ExecStart=/sbin/iptables -D INPUT -j DROP\n", true),
    ] {
        let import = read(&format!("{start}{failing}{accept}"));
        assert_eq!(!left(&import).is_empty(), may_end, "{import}");
    }
}

#[test]
fn lists_of_a_cloud_config_end_on_their_own() {
    let accept = format!("iptables -A INPUT {SSH}");
    let text = format!(
        "#cloud-config\nbootcmd:\n - iptables -P INPUT DROP\n - iptables -P FORWARD DROP\n - {accept}\n\
         \u{20}- exit 0\nruncmd:\n - {}\n",
        accept
            .replace("-A INPUT", "-I INPUT")
            .replace("ACCEPT", "DROP")
    );
    let import = read(&text);
    assert!(!import.policy.contains("22/tcp"), "{import}");
}

#[test]
fn files_that_iptables_restore_refuses_as_a_whole_say_so() {
    let text = "*filter\n:INPUT DROP [0:0]\n# open\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n";
    for (text, is_refused) in [
        (text.to_owned(), false),
        (text.replace("-A", " -A"), false),
        (text.replace('\n', "\r\n"), true),
        (text.replace('*', " *"), true),
        (text.replace(":INPUT", "\t:INPUT"), true),
        (text.replace('#', "  #"), true),
        (text.replace("COMMIT", "COMMIT "), true),
        (text.replace("COMMIT", "  \nCOMMIT"), true),
    ] {
        let file = File {
            name: "rules-v4".into(),
            text: text.clone(),
            family: None,
        };
        let import = import(&[file], &Facts::default()).unwrap();
        let is_told = import.to_string().contains("loads nothing of the file");
        assert_eq!(is_told, is_refused, "{text:?}\n{import}");
        assert!(import.policy.contains("22/tcp"), "{import}");
    }
}
