//! A screen of a terminal that is redrawn in place until a key or a signal ends it.
//!
//! A screen is written over the previous one in a single write, and only the rest of the previous
//! one is erased, to avoid flicker. The terminal is restored at the end, whatever the end is.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::{TROUBLE, count};
use crate::output;
use crate::system::signals;

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

/// A command that shows the same again and again.
pub(super) trait Live {
    /// Reads what is shown, and returns the exit code; as an error, what was printed about trouble.
    fn read(&mut self) -> Result<u8, String>;

    /// Returns the lines to show, those of the trouble if the last reading failed.
    fn lines(&self, size: Size) -> String;
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Number of lines.
    pub(super) rows: usize,
    /// Number of columns.
    pub(super) columns: usize,
}

/// Whether standard output can show a screen.
pub(super) fn is_screen() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !is_dumb
}

/// Reads and draws repeatedly, until the user or a signal ends it. Returns the last exit code.
pub(super) fn on_screen(live: &mut dyn Live, every: Duration, events: &mut Wakeups) -> u8 {
    let mut code = match live.read() {
        Ok(code) => code,
        // An error of the first turn, such as missing privileges, is permanent.
        Err(text) => {
            output::complain(&text);
            return TROUBLE;
        }
    };
    let mut screen = Screen::enter();
    loop {
        draw(live);
        let until = Instant::now() + every;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match events.wait_for(left, screen.has_keys()) {
                Wakeup::Quit => return code,
                _ if output::is_over() => return code,
                Wakeup::Time => break,
                Wakeup::Redraw => draw(live),
                Wakeup::Suspend => {
                    drop(screen);
                    // The shell resumes it in the foreground.
                    let _ = raise(Signal::SIGSTOP);
                    screen = Screen::enter();
                    draw(live);
                }
            }
        }
        code = live.read().unwrap_or(TROUBLE);
    }
}

fn draw(live: &dyn Live) {
    let size = size();
    output::print_whole(&frame(&live.lines(size), size));
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
pub(super) struct Wakeups {
    wakes: UnixStream,
    quit: Arc<AtomicBool>,
}

impl Wakeups {
    /// Handles the signals from now on.
    ///
    /// # Errors
    /// The operating system's, if it refuses handlers.
    pub(super) fn new() -> io::Result<Self> {
        let (wakes, waker) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        let quit = signals::ending()?;
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT] {
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Self { wakes, quit })
    }

    /// Waits without a screen. Returns whether a signal ended the command.
    pub(super) fn wait(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.wait_for(left, false) {
                Wakeup::Time => return false,
                Wakeup::Quit => return true,
                Wakeup::Redraw | Wakeup::Suspend => {}
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

/// A terminal that shows a screen; restored when it is dropped, and before a panic prints its
/// message, which would be lost with the screen.
struct Screen {
    saved: Arc<Saved>,
    has_keys: bool,
}

/// The previous state of a terminal, until it is restored.
struct Saved {
    is_entered: AtomicBool,
    /// Modes of the terminal, if keys can be read.
    modes: Option<Mutex<Termios>>,
}

impl Saved {
    /// Restores the terminal once: a second LEAVE would move the cursor over later output.
    fn restore(&self) {
        if !self.is_entered.swap(false, Ordering::Relaxed) {
            return;
        }
        output::print_whole(LEAVE);
        if let Some(modes) = &self.modes {
            let modes = modes.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &modes);
        }
    }
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
        let has_keys = before.is_some();
        let saved = Arc::new(Saved {
            is_entered: AtomicBool::new(true),
            modes: before.map(Mutex::new),
        });
        let of_panic = Arc::clone(&saved);
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            of_panic.restore();
            report(panic);
        }));
        Self { saved, has_keys }
    }

    fn has_keys(&self) -> bool {
        self.has_keys
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.saved.restore();
        // The hook cannot be changed during a panic, and restores nothing twice.
        if !std::thread::panicking() {
            drop(panic::take_hook());
        }
    }
}

/// Returns the size of the terminal.
fn size() -> Size {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a `winsize` to the pointer, which is valid until the call returns.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    let known = |number: u16, usual: usize| match (result, number) {
        (0, 1..) => usize::from(number),
        _ => usual,
    };
    Size {
        rows: known(size.ws_row, 24),
        columns: known(size.ws_col, 80),
    }
}

/// Builds a screen that overwrites the previous one, line by line.
fn frame(text: &str, size: Size) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let rest = (lines.len() + 1).saturating_sub(size.rows);
    let rest = format!("… {}", count(rest, "more line"));
    if lines.len() > size.rows {
        lines.truncate(size.rows.saturating_sub(1));
        lines.push(&rest);
    }
    let mut screen = HOME.to_owned();
    for (index, line) in lines.iter().enumerate() {
        let end = if index > 0 { "\n" } else { "" };
        // The cursor stays on the last column of a full line, which would be erased.
        let erase = if width(line) < size.columns {
            ERASE_LINE
        } else {
            ""
        };
        let _ = write!(screen, "{end}{line}{erase}");
    }
    screen.push_str(ERASE_SCREEN);
    screen
}

/// Counts the characters of a line, without its control sequences (ECMA-48: CSI).
fn width(line: &str) -> usize {
    let mut in_sequence = false;
    let is_shown = |c: &char| {
        let was_in_sequence = in_sequence;
        in_sequence = *c == '\x1b' || (in_sequence && !c.is_ascii_alphabetic());
        !in_sequence && !was_in_sequence
    };
    line.chars().filter(is_shown).count()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_screen_is_drawn_over_the_last_one_and_never_longer_than_the_terminal() {
        let of = |text: &str, rows| frame(text, Size { rows, columns: 80 });
        assert_eq!(of("a\nb\n", 24), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
        assert_eq!(of("a\nb\n", 2), "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J");
        assert_eq!(
            of("a\nb\nc\n", 2),
            "\x1b[Ha\x1b[K\n… 2 more lines\x1b[K\x1b[J"
        );
        assert_eq!(of("a\nb\n", 1), "\x1b[H… 2 more lines\x1b[K\x1b[J");
        for screen in [of("a\nb\n", 24), of("", 24)] {
            assert!(!screen.contains("\x1b[2J"), "clearing flickers");
        }
    }

    #[test]
    fn the_last_column_is_not_erased() {
        for (line, is_full) in [
            ("abc", false),
            ("abcd", true),
            ("abcde", true),
            ("\x1b[1;31mabc\x1b[0m", false),
            ("\x1b[1;31mabcd\x1b[0m", true),
        ] {
            let screen = frame(
                line,
                Size {
                    rows: 2,
                    columns: 4,
                },
            );
            assert_eq!(!screen.contains(ERASE_LINE), is_full, "{screen:?}");
        }
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

    /// A command that has a fault.
    struct Broken;

    impl Live for Broken {
        fn read(&mut self) -> Result<u8, String> {
            Ok(0)
        }

        fn lines(&self, _: Size) -> String {
            panic!("cannot draw")
        }
    }

    #[test]
    #[ignore = "the next test runs it on a terminal of its own"]
    fn panic_on_a_screen() {
        let mut events = Wakeups::new().unwrap();
        on_screen(&mut Broken, Duration::from_secs(1), &mut events);
    }

    #[test]
    fn a_panic_restores_the_terminal_before_its_message() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let before = termios::tcgetattr(&pty.slave).unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("command::terminal::tests::panic_on_a_screen")
            .env("RUST_BACKTRACE", "0")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let mut seen = String::new();
        let mut bytes = [0; 4096];
        while !seen.contains("test result: FAILED") {
            let read = nix::unistd::read(&pty.master, &mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        assert!(!child.wait().unwrap().success());
        let (_, rest) = seen.split_once(ENTER).unwrap();
        let (screen, after) = rest.split_once(LEAVE).unwrap();
        assert_eq!(screen, "", "nothing was drawn: {seen}");
        assert!(after.contains("cannot draw"), "{seen:?}");
        assert!(!after.contains("\x1b["), "restored once: {seen:?}");
        let now = termios::tcgetattr(&pty.slave).unwrap();
        assert_eq!(now, before, "keys are lines again");
    }
}
