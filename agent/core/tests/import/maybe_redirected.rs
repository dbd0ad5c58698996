//! Connections that the table nat may redirect, if something is so that rules alone do not tell.

use super::*;

/// Imports rules of both tables, whose built-in chains of the table filter drop.
fn read(nat: &[&str], filter: &[&str]) -> Import {
    let lines = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let text = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n{}COMMIT\n\
         *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n{}COMMIT\n",
        lines(nat),
        lines(filter)
    );
    let file = File {
        name: "rules-v4".into(),
        text,
        family: None,
    };
    import(&[file], &Facts::default()).unwrap_or_else(|errors| panic!("{errors:?}"))
}

const WEB: &str = "-A INPUT -p tcp --dport 82 -j ACCEPT";
const BEHIND: &str = "-A INPUT -p tcp --dport 8082 -j ACCEPT";
const TO_POD: &str = "-A FORWARD -d 10.5.0.0/24 -p tcp --dport 82 -j ACCEPT";
const SOMETIMES: &str = "-m time --timestart 01:00 --timestop 05:00";

#[test]
fn both_ways_must_be_accepted() {
    let redirect =
        format!("-A PREROUTING -p tcp --dport 82 {SOMETIMES} -j REDIRECT --to-ports 8082");
    let jump = format!("-A PREROUTING {SOMETIMES} -j A");
    let goto = format!("-A PREROUTING {SOMETIMES} -g A");
    let inside = "-A A -p tcp --dport 82 -j REDIRECT --to-ports 8082";
    let left = format!("-A PREROUTING {SOMETIMES} -j RETURN");
    let kept = format!("-A PREROUTING {SOMETIMES} -j ACCEPT");
    let always = inside.replace("-A A", "-A PREROUTING");
    let kept_inside = format!("-A B {SOMETIMES} -j ACCEPT");
    let affine = "-A PREROUTING -m recent --rcheck --seconds 10 --name x -j A";
    let slow = "-A PREROUTING -m limit --limit 3/s -j A";
    for nat in [
        vec![redirect.as_str()],
        vec![&jump, inside],
        vec![affine, inside],
        vec![slow, inside],
        vec![&goto, inside],
        vec![&left, &always],
        vec![&kept, &always],
        vec![&left, "-A PREROUTING -j A", inside],
        vec!["-A PREROUTING -j B", &kept_inside, &always],
        vec![
            &jump,
            "-A A -j B",
            "-A B -p tcp --dport 82 -j REDIRECT --to-ports 8082",
        ],
    ] {
        for (filter, is_open) in [
            (vec![WEB], false),
            (vec![BEHIND], false),
            (vec![WEB, BEHIND], true),
        ] {
            let import = read(&nat, &filter);
            assert_eq!(
                import.policy.contains("\"82/tcp\""),
                is_open,
                "{nat:?} {filter:?}\n{import}"
            );
        }
    }
    // What never applies to it changes nothing.
    for nat in [
        vec!["-A PREROUTING -p tcp --dport 83 -j REDIRECT --to-ports 8082"],
        vec![inside],
        vec![
            "-A PREROUTING -p tcp --dport 82 -j ACCEPT",
            redirect.as_str(),
        ],
    ] {
        let import = read(&nat, &[WEB]);
        assert!(import.policy.contains("\"82/tcp\""), "{nat:?}\n{import}");
    }
}

#[test]
fn networks_shares_and_shifted_ports_are_followed() {
    for (nat, filter, is_open) in [
        (
            vec!["-A PREROUTING -d 203.0.113.0/24 -j NETMAP --to 10.5.0.0/24"],
            vec![WEB],
            false,
        ),
        (
            vec![
                "-A PREROUTING -p tcp --dport 82 -m statistic --mode random --probability 0.5 \
                 -j DNAT --to 10.5.0.1",
                "-A PREROUTING -p tcp --dport 82 -j DNAT --to 10.5.0.2",
            ],
            vec![TO_POD],
            true,
        ),
        (
            vec![
                "-A PREROUTING -p tcp --dport 82 -m statistic --mode random --probability 0.5 \
                 -j DNAT --to 10.6.0.1",
                "-A PREROUTING -p tcp --dport 82 -j DNAT --to 10.5.0.2",
            ],
            vec![TO_POD],
            false,
        ),
        (
            vec!["-A PREROUTING -p tcp --dport 80:82 -j DNAT --to 10.5.0.1:180-182/80"],
            vec![WEB],
            false,
        ),
        (
            vec!["-A PREROUTING -p tcp --dport 82 -j REDIRECT --to-ports 8082-8083"],
            vec![BEHIND],
            false,
        ),
        (
            vec!["-A PREROUTING -p tcp --dport 82 -j REDIRECT --to-ports 8082-8083"],
            vec!["-A INPUT -p tcp --dport 8082:8083 -j ACCEPT"],
            true,
        ),
    ] {
        let import = read(&nat, &filter);
        let opens = import.policy.contains("\"82/tcp\"") && !import.policy.contains("to = [");
        assert_eq!(opens, is_open, "{nat:?} {filter:?}\n{import}");
    }
}
