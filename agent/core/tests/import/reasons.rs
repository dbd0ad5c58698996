//! The reason at a line is true of that line.

use super::told::filter;
use super::*;

fn words(family: Family, text: &str, line: &str) -> String {
    let found = imported(family, text, &Facts::default());
    let told = found.lines.iter().find(|each| each.text == line);
    let told = told.unwrap_or_else(|| panic!("{line}\n{found}"));
    told.words.clone()
}

#[test]
fn a_line_without_packets_says_why() {
    const NONE: &str = "no packet that can arrive matches it";
    for (lines, line, wanted) in [
        // The kernel drops packets to these addresses on other interfaces.
        ("", "-A INPUT ! -i lo -d 127.0.0.0/8 -j REJECT", NONE),
        (
            "-A INPUT -p tcp --dport 22 -j ACCEPT\n",
            "-A INPUT -p tcp --dport 22 -j DROP",
            "earlier lines already decide",
        ),
        (
            "-A INPUT -j DROP\n",
            "-A INPUT -p tcp --dport 22 -j ACCEPT",
            "earlier lines already decide",
        ),
        (
            "-A INPUT -p udp -j one\n",
            "-A one -p tcp --dport 22 -j ACCEPT",
            "earlier lines already decide",
        ),
    ] {
        let text = filter(&format!("-N one\n{lines}{line}\n"));
        let told = words(Family::V4, &text, line);
        assert!(told.contains(wanted), "{line}: {told}");
    }
    let text = filter("-A INPUT -j DROP\n").replace(":INPUT DROP", ":INPUT ACCEPT");
    let told = words(Family::V4, &text, ":INPUT ACCEPT [0:0]");
    assert!(told.starts_with("no packet is left for it"), "{told}");
}

/// Without rules that redirect, other programs' redirect the connections.
#[test]
fn redirected_connections_of_others_are_told() {
    const NAT: &str = "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
    for (line, alone, beside) in [
        (
            "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
            Fate::Left,
            Fate::Nothing,
        ),
        (
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
            Fate::Partly,
            Fate::Core,
        ),
    ] {
        for (before, wanted) in [("", alone), (NAT, beside)] {
            let text = format!("{before}{}", filter(&format!("{line}\n")));
            let found = imported(Family::V4, &text, &Facts::default());
            let told = found.lines.iter().find(|each| each.text == line).unwrap();
            assert_eq!(told.fate, wanted, "{found}");
        }
    }
}

#[test]
fn the_reason_is_of_the_hook_and_the_state() {
    for (line, wanted) in [
        (
            "-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT",
            "exempt from connection tracking",
        ),
        (
            "-A INPUT -p tcp -s 0.0.0.0/8 --dport 80 -j ACCEPT",
            "no entry of a policy fits",
        ),
        (
            "-A FORWARD -p tcp --dport 80 -j ACCEPT",
            "through this host",
        ),
    ] {
        let told = words(Family::V4, &filter(&format!("{line}\n")), line);
        assert!(told.contains(wanted), "{line}: {told}");
    }
    let line = "-A PREROUTING -s 10.9.9.9 -j DROP";
    let text = format!(
        "*mangle\n:PREROUTING ACCEPT\n{line}\nCOMMIT\n{}",
        filter("")
    );
    let told = words(Family::V4, &text, line);
    assert!(told.contains("not in table mangle"), "{told}");
}

#[test]
fn what_other_lines_may_do_is_no_reason_for_no_effect() {
    const NAT: &str = "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p tcp --dport 30082 -m time \
                       --timestart 08:00 -j DNAT --to-destination 10.42.0.5:6443\nCOMMIT\n";
    for (before, line, wanted) in [
        (
            "",
            "-A INPUT -m conntrack --ctorigdstport 8080 -p tcp --dport 80 -j ACCEPT",
            "needs an allow for its original",
        ),
        (
            NAT,
            "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
            "needs an allow for its original",
        ),
        (
            NAT,
            "-A FORWARD -m mark --mark 0x4000/0x4000 -d 10.42.0.5 -m conntrack --ctstate DNAT -j ACCEPT",
            "not converted",
        ),
    ] {
        let text = format!("{before}{}", filter(&format!("{line}\n")));
        let found = imported(Family::V4, &text, &Facts::default());
        let told = found.lines.iter().find(|each| each.text == line).unwrap();
        assert_eq!(told.fate, Fate::Left, "{found}");
        let is_told = wanted == "not converted" || told.words.contains(wanted);
        assert!(is_told, "{found}");
    }
    // What a target that is not known drops is unknown.
    let line = "-A INPUT -p tcp --dport 22 -j ACCEPT";
    let text = filter(&format!("-A INPUT -j TARPIT\n{line}\n"));
    let told = words(Family::V4, &text, line);
    assert!(
        told.contains("one that is not converted may drop them"),
        "{told}"
    );
}

/// A line with an unknown condition may take packets out of the chain.
#[test]
fn accepts_behind_an_unknown_return_say_so() {
    let accept = "-A INPUT -p tcp --dport 22:23 -j ACCEPT";
    let line = |only: &str| {
        let left = format!("-A INPUT {only} -m string --algo bm --string x -j RETURN\n{accept}\n");
        words(Family::V4, &filter(&left), accept)
    };
    for only in ["", "-p tcp", "-p tcp --dport 22:23", "-p tcp --dport 22"] {
        let told = line(only);
        assert!(
            told.contains("may take packets out of this chain"),
            "{told}"
        );
    }
    let told = line("-p tcp --dport 24");
    assert!(!told.contains("may take"), "{told}");
}
