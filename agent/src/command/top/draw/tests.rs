use std::time::Duration;

use peerwall_core::rates::Rate;

use super::*;
use crate::command::top::view::{DeniedRow, EventRow, Fact, Trends};

fn counter(what: &str, packets: u64, rate: f64) -> Counter {
    Counter {
        what: what.to_owned(),
        packets,
        rate: Rate {
            packets: rate,
            bytes: rate * 84.0,
        },
    }
}

fn denied(last: &str, packets: &str, from: &str, to: &str, remark: &str) -> DeniedRow {
    DeniedRow {
        last: last.to_owned(),
        packets: packets.to_owned(),
        reason: "input-default".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        remark: remark.to_owned(),
    }
}

fn event(age: &str, happened: &str, policy: &str, by: &str) -> EventRow {
    EventRow {
        age: age.to_owned(),
        happened: happened.to_owned(),
        policy: policy.to_owned(),
        by: by.to_owned(),
    }
}

/// A node on which something goes on.
fn busy() -> View {
    View {
        time: "2026-11-26T19:20:17Z".to_owned(),
        elapsed: Some(Duration::from_millis(2004)),
        error: None,
        facts: vec![
            Fact {
                text: "on trial: /root/new.toml, 42 s left, then back to \
                       /etc/peerwall/policy.toml; to keep it: `peerwall confirm` from a new \
                       connection"
                    .to_owned(),
                meaning: Some(Meaning::Attention),
            },
            Fact {
                text: "agent: pid 815, in sync for 12 min; 1 repair, the last 5 min ago after a \
                       change by nft (pid 4711)"
                    .to_owned(),
                meaning: None,
            },
        ],
        denied: vec![
            counter("to this host, not allowed by the policy", 104_512, 49.9),
            counter("forwarded, not allowed by the policy", 96, 0.5),
            counter("spoofed overlay address", 3, 0.0),
        ],
        accepted: vec![
            counter(
                "input: replies and errors of known connections",
                7_456_789,
                18_250.0,
            ),
            counter(
                "forward: overlay flannel  [policy.toml:9]",
                1_200_300,
                1_234.56,
            ),
            counter("input: peers  [policy.toml:3]", 9_120, 3.0),
            counter("published: allow web  [policy.toml:14]", 77, 0.0),
            counter("input: loopback", 12, 0.0),
        ],
        trends: Trends {
            denied: [0.0, 0.0, 1.0, 12.0, 25.0, 50.4, 49.9, 50.4].into(),
            accepted: VecDeque::new(),
        },
        packets: vec![
            denied("1 s ago", "100", "198.51.100.7 on eth0", "23/tcp", ""),
            denied(
                "1 s ago",
                "1",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:7 on eth0",
                "9100/tcp",
                "peer worker; node_exporter listens",
            ),
            denied(
                "4 min ago",
                "≥7",
                "10.99.0.7 on cbr0",
                "80/tcp of 10.244.1.2 via cni0",
                "",
            ),
        ],
        packets_trouble: None,
        events: vec![
            event(
                "18 s ago",
                "on trial for 60 s",
                "/root/new.toml",
                "apply, uid 0",
            ),
            event("3 h ago", "applied", "/etc/peerwall/policy.toml", "agent"),
            event(
                "2 days ago",
                "loaded at boot",
                "/etc/peerwall/policy.toml",
                "boot",
            ),
        ],
    }
}

/// Compares with a file, or writes it with `PEERWALL_BLESS=1`.
fn golden(name: &str, text: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command/top/golden");
    let path = format!("{folder}/{name}.txt");
    if std::env::var_os("PEERWALL_BLESS").is_some() {
        std::fs::write(&path, text).expect("the source is writable");
    }
    let want = std::fs::read_to_string(&path).expect("the golden exists");
    assert_eq!(text, want, "{name}: PEERWALL_BLESS=1 writes it again");
}

#[test]
fn frames_are_as_in_the_goldens() {
    golden("80x24", &text(&busy(), 80, Some(24)));
    golden("50x12", &text(&busy(), 50, Some(12)));
    golden("text", &text(&busy(), 120, None));
    let quiet = View {
        time: "2026-11-26T19:20:17Z".to_owned(),
        error: Some("error: top: Permission denied".to_owned()),
        packets_trouble: Some("group 5 is read by ulogd (pid 77)".to_owned()),
        ..View::default()
    };
    golden("quiet", &text(&quiet, 80, None));
}

#[test]
fn a_frame_of_every_size_is_as_wide_and_high_as_the_terminal() {
    for (columns, rows) in (0..130).step_by(7).flat_map(|columns| {
        let rows = (0..40).step_by(3);
        rows.map(move |rows| (columns, rows))
    }) {
        let frame = text(&busy(), columns, Some(rows));
        let lines: Vec<&str> = frame.lines().collect();
        assert!(lines.len() <= rows.max(1), "{columns}x{rows}: {frame}");
        let widest = lines.iter().map(|line| Span::raw(*line).width()).max();
        assert!(widest <= Some(columns), "{columns}x{rows}: {frame}");
    }
    assert_eq!(
        text(&busy(), 80, None).lines().count(),
        1 + 4 + 4 + 4 + 6 + 4
    );
}

#[test]
fn lines_are_divided_fairly_and_the_first_sections_come_first() {
    for (rows, wanted, want) in [
        (0, vec![5, 5], vec![0, 0]),
        (3, vec![5, 5], vec![3, 0]),
        (5, vec![5, 5], vec![3, 2]),
        (9, vec![3, 9, 4], vec![3, 3, 3]),
        (12, vec![3, 9, 4], vec![3, 5, 4]),
        (90, vec![3, 9, 4], vec![3, 9, 4]),
        (4, vec![1, 9], vec![1, 3]),
    ] {
        assert_eq!(share(rows, &wanted), want, "{rows} for {wanted:?}");
    }
}

#[test]
fn rates_are_short_and_bars_are_relative_to_the_highest() {
    for (number, want) in [
        (0.0, "0.0"),
        (0.04, "0.0"),
        (24.96, "25.0"),
        (9_999.4, "9999.4"),
        (12_345.6, "12.3k"),
        (4_567_890.0, "4.57M"),
        (1.5e10, "15.00G"),
    ] {
        assert_eq!(short(number), want);
    }
    let trend = |numbers: &[f64]| bars(&numbers.iter().copied().collect());
    assert_eq!(trend(&[0.0, 0.1, 4.0, 8.0]).trim_start(), "▁▄█");
    assert_eq!(trend(&[]).chars().count(), 20);
    assert_eq!(trend(&[1.0; 70]), "█".repeat(20));
    assert_eq!(trend(&[0.0; 3]).trim(), "");
}
