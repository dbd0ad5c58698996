//! `peerwall top` on a real terminal, with real packets: shown rates are those of the packets that
//! were sent.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::situation::{Lan, datagram, mac, send};
use peerwall_integration::story::Flavour;
use peerwall_integration::terminal::OnTerminal;

/// Path of the policy of each world.
const POLICY: &str = "/run/policy.toml";
const RULES: &str = "version = 1
[peers]
worker = \"192.0.2.12\"
";
/// What the counter of packets to closed ports is called.
const CLOSED: &str = "to this host, not allowed by the policy";
/// What has to come comes by then.
const PATIENCE: Duration = Duration::from_secs(15);

/// A node, and a stranger who sends to its closed port.
struct Site {
    node: Host,
    stranger: Host,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
        fs::write(POLICY, RULES).unwrap();
        Self { node, stranger }
    }

    /// Sends datagrams to a closed port, which are dropped, all of them within milliseconds.
    fn send(&self, number: u32) {
        self.stranger.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..number {
                socket.send_to(b"x", "192.0.2.11:9").unwrap();
            }
        });
    }

    fn agent(&self) -> Child {
        let mut command = self.node.command(peerwall_bin());
        command.args(["run", POLICY]);
        let agent = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let is_in_sync = || {
            let status = self.node.peerwall(&["status", "--json"]);
            let status: serde_json::Value =
                serde_json::from_slice(&status.stdout).unwrap_or_default();
            !status["agent"]["in_sync_seconds"].is_null()
        };
        wait_for(is_in_sync, "the first apply");
        agent.unwrap()
    }
}

fn wait_for(done: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The numbers of a frame about one counter.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    /// Seconds of which the rate is; 0 without rates.
    seconds: f64,
    per_second: f64,
    packets: f64,
}

impl Shown {
    fn of(frame: &[String]) -> Self {
        let title = frame.first().map_or("", String::as_str);
        let seconds = title.split_once("rates over ");
        let seconds = seconds.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let line = frame.iter().find(|line| line.contains(CLOSED));
        let mut words = line.map_or("", |line| line.as_str()).split_whitespace();
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0)
        };
        let (per_second, _, packets) = (number(), number(), number());
        Self {
            seconds: seconds.unwrap_or(0.0),
            per_second,
            packets,
        }
    }

    /// Whether the rate is that of the packets since an earlier frame, as far as it is rounded.
    fn is_right_after(&self, before: Self) -> bool {
        // A counter that was created again began at zero.
        let began = if self.packets < before.packets {
            0.0
        } else {
            before.packets
        };
        let packets = self.packets - began;
        let rounded = 0.05 * self.seconds + self.per_second * 0.005 + 1e-9;
        (self.per_second * self.seconds - packets).abs() <= rounded
    }
}

/// Reads frames until one says this; checks that each rate is that of its packets.
fn until(terminal: &mut OnTerminal, last: &mut Shown, wanted: &str) -> Vec<String> {
    let start = Instant::now();
    loop {
        let frame = terminal.next_screen();
        let shown = Shown::of(&frame);
        // A frame is drawn again when the size changes.
        if shown.seconds > 0.0 && shown.packets != last.packets {
            assert!(
                shown.is_right_after(*last),
                "{last:?}, {shown:?}: {frame:#?}"
            );
        }
        *last = shown;
        if frame.iter().any(|line| line.contains(wanted)) {
            return frame;
        }
        assert!(start.elapsed() < PATIENCE, "no {wanted}: {frame:#?}");
    }
}

#[test]
fn a_shown_rate_is_that_of_the_packets_and_the_rest_follows_the_host() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        let mut agent = site.agent();
        let top = ["top", "--interval", "1s", POLICY];
        let mut terminal = OnTerminal::start(node, &top, "xterm", (24, 80));
        let mut last = Shown::default();
        let first = until(&mut terminal, &mut last, "rates with the next reading");
        assert!(first[1].starts_with("in sync"), "{first:#?}");
        assert!(
            first[2].contains("agent: pid") && first.len() <= 24,
            "{first:#?}"
        );
        let mut sent = 0.0;
        for number in [37, 120] {
            site.send(number);
            sent += f64::from(number);
            let frame = until(&mut terminal, &mut last, &format!(" {sent} "));
            assert_eq!(last.packets, sent, "{frame:#?}");
            assert!(
                frame.iter().all(|line| line.chars().count() <= 80),
                "{frame:#?}"
            );
        }
        // The packets are listed, from the agent's record.
        until(&mut terminal, &mut last, "192.0.2.99 on eth0");
        // The table is loaded again, with counters that begin at zero.
        let _ = agent.kill();
        let _ = agent.wait();
        until(&mut terminal, &mut last, "agent: none");
        node.sh("nft delete table inet peerwall");
        until(&mut terminal, &mut last, "not loaded");
        node.peerwall_ok(&["apply", POLICY]);
        site.send(5);
        until(&mut terminal, &mut last, " 5 ");
        // Without an agent, the command reads the log.
        let readers = || node.sh("cat /proc/net/netfilter/nfnetlink_log");
        wait_for(|| readers().contains("    5 "), "the reader of the log");
        let other = datagram("192.0.2.99", "192.0.2.11", 10, b"x");
        send(&site.stranger, "eth0", mac(11), &other);
        until(&mut terminal, &mut last, "10/udp");
        // A trial shows how long it has.
        fs::write("/run/new.toml", format!("{RULES}b = \"192.0.2.13\"\n")).unwrap();
        node.peerwall_ok(&["apply", "--confirm", "60s", "--force", "/run/new.toml"]);
        let frame = until(&mut terminal, &mut last, "on trial: /run/new.toml, 5");
        assert!(
            frame.iter().any(|line| line.contains("on trial for 60 s")),
            "{frame:#?}"
        );
        terminal.resize((12, 50));
        let start = Instant::now();
        loop {
            let frame = terminal.next_screen();
            let widest = frame.iter().map(|line| line.chars().count()).max();
            if frame.len() <= 12 && widest <= Some(50) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{frame:#?}");
        }
        terminal.press(b"q");
        assert_eq!(terminal.ended(), Some(0));
        node.peerwall_ok(&["rollback"]);
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let mut terminal = OnTerminal::start(node, &top, "xterm", (24, 80));
            terminal.next_screen();
            assert!(!terminal.is_as_before(), "keys are read one by one");
            terminal.signal(signal);
            assert_eq!(terminal.ended(), Some(0), "{signal}");
        }
    });
}

/// Starts a command that prints one frame, sends packets between its two readings, and returns the
/// frame.
fn frame_of(site: &Site, mut command: Command, number: u32) -> Vec<String> {
    let top = command.stdout(Stdio::piped()).spawn().unwrap();
    let readers = || site.node.sh("cat /proc/net/netfilter/nfnetlink_log");
    // It reads the log after the counters.
    wait_for(|| readers().contains("    5 "), "the reader of the log");
    site.send(number);
    let output = top.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "{text:?}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn sources_and_what_is_wrong_with_them_are_shown() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        fs::write(
            POLICY,
            format!("{RULES}[peers_from.leases]\nkind = \"files\"\nwithin = [\"10.0.0.0/16\"]\n"),
        )
        .unwrap();
        let listing = "peerwall-members 1 source=leases revision=1\n10.0.0.1 a\n10.0.0.2 b\n\
                       192.0.2.200 c\nend 3\n";
        let sources = "/run/hosts/node/run/sources";
        fs::create_dir_all(sources).unwrap();
        fs::write(format!("{sources}/leases"), listing).unwrap();
        let mut agent = site.agent();
        let top = ["top", "--interval", "1s", POLICY];
        let mut terminal = OnTerminal::start(node, &top, "xterm", (24, 120));
        let mut last = Shown::default();
        let fresh = "source leases (files): 2 members, proven";
        let frame = until(&mut terminal, &mut last, fresh);
        let line = frame.iter().find(|line| line.contains(fresh)).unwrap();
        assert!(line.contains("refused entries: 1"), "{frame:#?}");
        fs::write(format!("{sources}/leases"), "nonsense\n").unwrap();
        let frame = until(&mut terminal, &mut last, "; error: ");
        assert!(
            frame.iter().any(|line| line.contains("2 members")),
            "{frame:#?}"
        );
        terminal.press(b"q");
        assert_eq!(terminal.ended(), Some(0));
        let _ = agent.kill();
        let _ = agent.wait();
    });
}

#[test]
fn one_frame_is_printed_as_text_with_every_backend() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        for (backend, rules) in [
            ("nft", None),
            ("iptables", Some(Flavour::Nft)),
            ("iptables", Some(Flavour::Legacy)),
        ] {
            if let Some(flavour) = rules {
                // Rules of others in one iptables, so that it is the one that is chosen.
                let suffix = flavour.suffix();
                node.sh(&format!(
                    "iptables-{suffix} -A INPUT -p tcp --dport 7 -j DROP"
                ));
            }
            node.peerwall_ok(&["apply", "--backend", backend, POLICY]);
            let mut command = node.command(peerwall_bin());
            command.args([
                "top",
                "--once",
                "--interval",
                "2s",
                "--backend",
                backend,
                POLICY,
            ]);
            let frame = frame_of(&site, command, 40);
            let shown = Shown::of(&frame);
            assert!(
                shown.is_right_after(Shown::default()),
                "{backend}: {frame:#?}"
            );
            assert_eq!(shown.packets, 40.0, "{backend}: {frame:#?}");
            let listed = frame.iter().any(|line| line.contains("192.0.2.99 on eth0"));
            assert!(listed, "{backend}: {frame:#?}");
            node.peerwall_ok(&["remove"]);
            node.sh("nft flush ruleset");
        }
        let output = node.peerwall(&["top", "/run/none.toml"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("not loaded"), "{text}");
    });
}
