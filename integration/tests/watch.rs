//! `status --watch` on a real terminal, and into a pipe.

use std::io::Read as _;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::terminal::OnTerminal;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");
/// Rows and columns of a terminal.
const SIZE: (u16, u16) = (24, 100);

fn with_policy() -> Host {
    let host = Host::new("host");
    host.peerwall_ok(&["apply", EXAMPLE]);
    host
}

#[test]
fn a_screen_is_redrawn_in_place_and_q_and_control_c_and_signals_restore_the_terminal() {
    world(|| {
        let host = with_policy();
        for end in ["q", "\x03", "TERM", "INT", "HUP"] {
            let mut terminal =
                OnTerminal::start(&host, &["status", "--watch", EXAMPLE], "xterm", SIZE);
            let first = terminal.read_until("\x1b[J");
            assert!(
                first.contains("\x1b[?1049h") && first.contains("\x1b[H"),
                "{first:?}"
            );
            assert!(
                first.contains("q quits") && first.contains("in sync"),
                "{first:?}"
            );
            assert!(!terminal.is_as_before(), "keys are read one by one");
            let second = terminal.read_until("\x1b[J");
            assert!(
                !second.contains("\x1b[2J") && !second.contains("\x1b[?1049"),
                "{second:?}"
            );
            match end {
                "TERM" => terminal.signal(Signal::SIGTERM),
                "INT" => terminal.signal(Signal::SIGINT),
                "HUP" => terminal.signal(Signal::SIGHUP),
                key => terminal.press(key.as_bytes()),
            }
            assert_eq!(terminal.ended(), Some(0), "{end:?}");
        }
    });
}

#[test]
fn rates_are_shown_and_a_terminal_that_becomes_smaller_gets_fewer_lines() {
    world(|| {
        let host = with_policy();
        let mut terminal = OnTerminal::start(
            &host,
            &["status", "--watch", "--all", EXAMPLE],
            "xterm",
            SIZE,
        );
        let first = terminal.read_until("\x1b[J");
        assert!(
            !first.contains("packets/s") && first.contains("more lines"),
            "{first:?}"
        );
        // Something to count.
        host.sh("ping -c 3 -i 0.2 127.0.0.1");
        let second = terminal.read_until("\x1b[J");
        assert!(second.contains("packets/s"), "{second:?}");
        assert_eq!(
            second.lines().count(),
            24,
            "a line for each of the terminal"
        );
        terminal.resize((5, 100));
        let third = terminal.read_until("more lines\x1b[K\x1b[J");
        // It may have been drawn twice.
        let last = third.rsplit("\x1b[H").next().unwrap();
        assert_eq!(last.lines().count(), 5, "{third:?}");
        terminal.press(b"q");
        assert_eq!(terminal.ended(), Some(0));
    });
}

#[test]
fn into_a_pipe_and_a_dumb_terminal_go_blocks_of_plain_text_with_the_time() {
    world(|| {
        let host = with_policy();
        let mut piped = host
            .command(peerwall_bin())
            .args(["status", "--watch", EXAMPLE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = piped.stdout.take().unwrap();
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while text.matches("in sync").count() < 2 {
            let read = out.read(&mut bytes).unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        assert!(!text.contains('\x1b'), "{text:?}");
        let blocks: Vec<&str> = text.split("\n\n20").collect();
        assert_eq!(
            blocks.len(),
            2,
            "blocks begin with the time after an empty line: {text}"
        );
        assert!(
            text.starts_with("20") && text.lines().next().unwrap().ends_with('Z'),
            "{text}"
        );
        kill(
            Pid::from_raw(piped.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert_eq!(piped.wait().unwrap().code(), Some(0));
        let mut dumb = OnTerminal::start(&host, &["status", "--watch", EXAMPLE], "dumb", SIZE);
        let first = dumb.read_until("counters without packets");
        assert!(!first.contains('\x1b'), "{first:?}");
        dumb.kill();
    });
}

#[test]
fn an_import_that_takes_long_shows_on_a_terminal_that_it_goes_on() {
    world(|| {
        let host = with_policy();
        let bin = peerwall_bin();
        let rules =
            "*filter\\n:INPUT DROP\\n:FORWARD DROP\\n-A INPUT -s 192.0.2.1 -j ACCEPT\\nCOMMIT\\n";
        let import = format!(
            "(sleep 2.2; printf \"{rules}\") | {} import -",
            bin.display()
        );
        let on_terminal =
            |term: &str| host.sh(&format!("TERM={term} script -qec '{import}' /dev/null"));
        let shown = on_terminal("xterm");
        let line = "\r\x1b[Kimporting rules: 1 s";
        let (before, after) = shown
            .split_once(line)
            .unwrap_or_else(|| panic!("{shown:?}"));
        assert_eq!(before, "");
        let seconds = after
            .rfind("importing rules")
            .map_or(after, |at| &after[at..]);
        assert!(seconds.contains(" s\r\x1b[K"), "erased: {after:?}");
        let plain = on_terminal("dumb");
        let piped = host.sh(&format!("{import} 2>&1"));
        assert!(
            !plain.contains("importing") && !piped.contains("importing"),
            "{plain}{piped}"
        );
    });
}

/// script(1) is the judge of what is a terminal.
#[test]
fn colours_are_for_terminals_unless_something_else_is_said() {
    world(|| {
        let host = with_policy();
        let bin = peerwall_bin();
        let bin = bin.display();
        let on_terminal = |environment: &str, flags: &str| {
            let command = format!("env {environment} {bin} {flags} status {EXAMPLE}");
            host.sh(&format!("script -qec '{command}' /dev/null"))
        };
        let headline = |text: &str| text.contains("\x1b[32min sync");
        for (environment, flags, want) in [
            ("TERM=xterm", "", true),
            ("TERM=xterm NO_COLOR=1", "", false),
            ("TERM=xterm NO_COLOR=", "", true),
            ("TERM=xterm CLICOLOR=0", "", false),
            ("TERM=dumb", "", false),
            ("TERM=xterm", "--color never", false),
            ("TERM=xterm NO_COLOR=1", "--color always", true),
        ] {
            let text = on_terminal(environment, flags);
            assert_eq!(headline(&text), want, "{environment} {flags}: {text:?}");
            assert!(
                want || !text.contains("\x1b["),
                "{environment} {flags}: {text:?}"
            );
        }
        let piped = |environment: &str, flags: &str| {
            host.sh(&format!(
                "{environment} {bin} {flags} status {EXAMPLE} 2>&1"
            ))
        };
        assert!(!piped("TERM=xterm", "").contains('\x1b'));
        assert!(headline(&piped("TERM=xterm CLICOLOR_FORCE=1", "")));
        assert!(headline(&piped("TERM=xterm", "--color=always")));
        for (flags, want) in [
            ("--color=always", true),
            ("--color always", true),
            ("", false),
        ] {
            let help = host.sh(&format!("{bin} {flags} --help"));
            assert_eq!(help.contains("\x1b["), want, "{flags}: {help:?}");
        }
    });
}
