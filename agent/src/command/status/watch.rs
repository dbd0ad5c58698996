//! `status --watch`: redraws one screen on a terminal; prints blocks of plain text elsewhere.
//!
//! A screen is written over the previous one in a single write, and only the rest of the previous
//! one is erased, to avoid flicker.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::super::TROUBLE;
use super::Line;
use crate::json::Failure;
use crate::output;
use crate::store;
use crate::system::signals;

/// Time between two screens.
const EVERY: Duration = Duration::from_secs(2);

/// Enters the alternate screen, without a cursor and line wrapping (xterm's control sequences:
/// DECSET 1049, 25, 7).
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Moves to the first column of the first line (ECMA-48: CUP).
const HOME: &str = "\x1b[H";
/// Erases to the end of the line (ECMA-48: EL), and to the end of the screen (ED).
const ERASE_LINE: &str = "\x1b[K";
const ERASE_SCREEN: &str = "\x1b[J";

const CTRL_C: u8 = 3;
const CTRL_Z: u8 = 26;

/// Packets by counter at the last screen.
#[derive(Debug, Default)]
pub(super) struct Rates {
    at: Option<Instant>,
    packets: BTreeMap<(Option<String>, String), u64>,
    seconds: f64,
}

impl Rates {
    /// Returns the packets per second of each counter since the last call; `None` at the first
    /// call.
    pub(super) fn update(&mut self, lines: &[Line]) -> Option<Vec<f64>> {
        let now = Instant::now();
        self.seconds = self.at.map_or(0.0, |at| (now - at).as_secs_f64());
        let is_first = self.at.replace(now).is_none();
        let rates = self.since_last(lines);
        (!is_first).then_some(rates)
    }

    fn since_last(&mut self, lines: &[Line]) -> Vec<f64> {
        let key = |line: &Line| (line.chain.clone(), line.reason.clone());
        let rate = |line: &Line| {
            // A new or reset counter starts at zero.
            let before = self.packets.get(&key(line)).copied();
            let before = before.filter(|before| *before <= line.packets);
            per_second(line.packets - before.unwrap_or(0), self.seconds)
        };
        let rates = lines.iter().map(rate).collect();
        self.packets = lines.iter().map(|line| (key(line), line.packets)).collect();
        rates
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people needs no more than the 53 bits of a float"
)]
fn per_second(packets: u64, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => packets as f64 / seconds,
        false => 0.0,
    }
}

/// Runs `show` repeatedly, until the user or a signal ends it.
pub(super) fn run(is_json: bool, mut show: impl FnMut() -> u8) -> u8 {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let is_screen = io::stdout().is_terminal() && !is_dumb && !is_json;
    let mut events = match Wakeups::new() {
        Ok(events) => events,
        Err(err) => {
            return super::super::trouble(
                "status",
                Failure::io(&err),
                &output::Output::new(is_json),
            );
        }
    };
    let mut is_first = true;
    match is_screen {
        true => on_screen(&mut events, show),
        false => loop {
            if !is_json {
                output::print(&format!("{}\n", store::time()));
            }
            let code = show();
            // An error of the first turn, such as missing privileges, is permanent.
            let is_hopeless = std::mem::take(&mut is_first) && code == TROUBLE;
            if is_hopeless || output::is_over() || events.wait() == Wakeup::Quit {
                return code;
            }
            if !is_json {
                output::print("\n");
            }
        },
    }
}

fn on_screen(events: &mut Wakeups, mut show: impl FnMut() -> u8) -> u8 {
    let (mut code, mut text) = output::captured(&mut show);
    if code == TROUBLE {
        output::complain(&text);
        return code;
    }
    let mut screen = Screen::enter();
    loop {
        let mut body = format!(
            "{}   every {} s; q quits\n\n",
            store::time(),
            EVERY.as_secs()
        );
        body.push_str(&text);
        output::print_whole(&frame(&body, rows()));
        let until = Instant::now() + EVERY;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match events.wait_for(left, screen.has_keys()) {
                Wakeup::Quit => return code,
                _ if output::is_over() => return code,
                Wakeup::Time => break,
                Wakeup::Redraw => output::print_whole(&frame(&body, rows())),
                Wakeup::Suspend => {
                    drop(screen);
                    // The shell resumes it in the foreground.
                    let _ = raise(Signal::SIGSTOP);
                    screen = Screen::enter();
                    output::print_whole(&frame(&body, rows()));
                }
            }
        }
        (code, text) = output::captured(&mut show);
    }
}

/// Event that ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wakeup {
    Time,
    Redraw,
    Suspend,
    Quit,
}

/// Keys and signals.
struct Wakeups {
    wakes: UnixStream,
    quit: Arc<AtomicBool>,
}

impl Wakeups {
    fn new() -> io::Result<Self> {
        let (wakes, waker) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        let quit = signals::ending()?;
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT] {
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Self { wakes, quit })
    }

    /// Waits for the next turn, or the end.
    fn wait(&mut self) -> Wakeup {
        let until = Instant::now() + EVERY;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.wait_for(left, false);
            if event != Wakeup::Redraw {
                return event;
            }
        }
    }

    fn wait_for(&mut self, left: Duration, keys: bool) -> Wakeup {
        if self.quit.load(Ordering::Relaxed) {
            return Wakeup::Quit;
        }
        if left.is_zero() {
            return Wakeup::Time;
        }
        let stdin = io::stdin();
        let mut fds = vec![PollFd::new(self.wakes.as_fd(), PollFlags::POLLIN)];
        if keys {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up, because a timeout of zero would poll continuously.
        let millis = left.as_millis().saturating_add(1);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let woken = poll(&mut fds, timeout);
        let has_key = fds.get(1).and_then(PollFd::any).unwrap_or(false);
        let is_woken = fds[0].any().unwrap_or(false);
        drop(fds);
        match woken {
            Ok(0) => return Wakeup::Time,
            Ok(_) if has_key => return key(),
            Ok(_) | Err(_) => {}
        }
        if is_woken {
            let _ = self.wakes.read(&mut [0; 64]);
        }
        match self.quit.load(Ordering::Relaxed) {
            true => Wakeup::Quit,
            false => Wakeup::Redraw,
        }
    }
}

/// Reads a key and returns its meaning.
fn key() -> Wakeup {
    let mut bytes = [0; 64];
    match nix::unistd::read(io::stdin().as_fd(), &mut bytes) {
        // The terminal is closed.
        Ok(0) | Err(nix::errno::Errno::EIO) => Wakeup::Quit,
        Ok(read) => meaning(&bytes[..read]),
        Err(_) => Wakeup::Redraw,
    }
}

fn meaning(keys: &[u8]) -> Wakeup {
    let has = |wanted: &[u8]| keys.iter().any(|key| wanted.contains(key));
    match (has(&[b'q', b'Q', CTRL_C]), has(&[CTRL_Z])) {
        (true, _) => Wakeup::Quit,
        (false, true) => Wakeup::Suspend,
        (false, false) => Wakeup::Redraw,
    }
}

/// A terminal that shows a screen; restored on drop.
struct Screen {
    /// Previous state of the terminal, if keys can be read.
    before: Option<Termios>,
}

impl Screen {
    fn enter() -> Self {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            // Keys are read one by one, without echo. Output is processed as before.
            raw.local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
            raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw);
        }
        output::print_whole(ENTER);
        Self { before }
    }

    fn has_keys(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        output::print_whole(LEAVE);
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, before);
        }
    }
}

/// Returns the number of lines of the terminal.
fn rows() -> usize {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a `winsize` to the pointer, which is valid until the call returns.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match (result, size.ws_row) {
        (0, rows @ 1..) => usize::from(rows),
        _ => 24,
    }
}

/// Builds a screen that overwrites the previous one, line by line.
fn frame(text: &str, rows: usize) -> String {
    let mut screen = HOME.to_owned();
    let lines: Vec<&str> = text.lines().collect();
    let shown = match lines.len() > rows {
        true => rows.saturating_sub(1),
        false => lines.len(),
    };
    for (index, line) in lines[..shown].iter().enumerate() {
        let end = if index > 0 { "\n" } else { "" };
        let _ = write!(screen, "{end}{line}{ERASE_LINE}");
    }
    if lines.len() > shown {
        let end = if shown > 0 { "\n" } else { "" };
        let _ = write!(
            screen,
            "{end}… {} more lines{ERASE_LINE}",
            lines.len() - shown
        );
    }
    screen.push_str(ERASE_SCREEN);
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(reason: &str, packets: u64) -> Line {
        Line {
            chain: Some("input".into()),
            reason: reason.into(),
            subject: reason.into(),
            place: None,
            packets,
            bytes: 0,
        }
    }

    #[test]
    fn a_screen_is_drawn_over_the_last_one_and_never_longer_than_the_terminal() {
        assert_eq!(frame("a\nb\n", 24), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
        assert_eq!(frame("a\nb\n", 2), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
        assert_eq!(
            frame("a\nb\nc\n", 2),
            "\x1b[Ha\x1b[K\n… 2 more lines\x1b[K\x1b[J"
        );
        assert_eq!(frame("a\nb\n", 1), "\x1b[H… 2 more lines\x1b[K\x1b[J");
        for screen in [frame("a\nb\n", 24), frame("", 24)] {
            assert!(!screen.contains("\x1b[2J"), "clearing flickers");
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_screens_and_a_reset_starts_at_zero() {
        let mut rates = Rates {
            seconds: 2.0,
            ..Rates::default()
        };
        rates.since_last(&[line("ssh", 10), line("web", 50)]);
        let now = [line("web", 20), line("ssh", 15), line("new", 4)];
        assert_eq!(rates.since_last(&now), [10.0, 2.5, 2.0]);
        assert_eq!(rates.since_last(&now), [0.0, 0.0, 0.0]);
        assert_eq!(
            Rates::default().update(&now),
            None,
            "nothing to compare with"
        );
    }

    #[test]
    fn q_and_control_c_quit() {
        for (keys, want) in [
            (&b"q"[..], Wakeup::Quit),
            (b"Q", Wakeup::Quit),
            (b"xq", Wakeup::Quit),
            (b"\x03", Wakeup::Quit),
            (b"\x1a", Wakeup::Suspend),
            (b"x", Wakeup::Redraw),
            (b"\x1b[A", Wakeup::Redraw),
        ] {
            assert_eq!(meaning(keys), want, "{keys:?}");
        }
    }
}
