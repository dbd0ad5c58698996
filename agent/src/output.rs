//! Prints a value as text or as JSON.
//!
//! A command whose output cannot be written has failed.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::Level;
use serde::Serialize;

use crate::json::{Failure, Versioned};
use crate::system::logging;

/// Output format of a command.
pub struct Output {
    json: bool,
}

impl Output {
    /// Creates an output for text, or for JSON.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the output is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints text.
    pub fn text(&self, text: &str) {
        print(text);
    }

    /// Prints the result of a command as JSON.
    pub fn json(&self, result: &impl Serialize) {
        self.bare_json(&Versioned::new(result));
    }

    /// Prints a value as JSON that is not of peerwall's own format.
    pub fn bare_json(&self, value: &impl Serialize) {
        let mut text = serde_json::to_string_pretty(value)
            .expect("our own values have text keys only, which is all that JSON asks for");
        text.push('\n');
        print(&text);
    }

    /// Prints why a command failed: as JSON on standard output, or for people on standard error.
    pub fn failure(&self, failure: &Failure, text: &str) {
        match self.json {
            true => self.json(failure),
            false => complain(text),
        }
    }
}

/// Writes to standard output.
pub fn print(text: &str) {
    if is_captured(text) {
        return;
    }
    note(match WAS_CLOSED.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(libc::EBADF)),
        false => put(&mut io::stdout().lock(), text),
    });
}

/// Writes to standard output in one piece, whatever is captured.
pub fn print_whole(text: &str) {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match nix::unistd::write(io::stdout(), left) {
            Ok(written) => left = &left[written..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return note(Err(err.into())),
        }
    }
}

/// Prints errors and warnings. Under systemd, they become entries of the journal, with their
/// priority.
pub fn complain(text: &str) {
    let level = match text.split_once(": ") {
        Some(("error", _)) => Some(Level::Error),
        Some(("warning", _)) => Some(Level::Warn),
        Some(_) | None => None,
    };
    let is_printed =
        is_captured(text) || level.is_some_and(|level| logging::report(level, text.trim_end()));
    if !is_printed {
        note(put(&mut io::stderr().lock(), text));
    }
}

/// Captured output of a screen, which is written in one piece.
static CAPTURED: Mutex<Option<String>> = Mutex::new(None);

/// Captures everything that `act` prints to either stream, and returns it.
pub fn captured<T>(act: impl FnOnce() -> T) -> (T, String) {
    *captured_now() = Some(String::new());
    let result = act();
    let text = captured_now().take();
    (result, text.unwrap_or_default())
}

fn is_captured(text: &str) -> bool {
    let mut captured = captured_now();
    if let Some(captured) = captured.as_mut() {
        captured.push_str(text);
    }
    captured.is_some()
}

fn captured_now() -> MutexGuard<'static, Option<String>> {
    // The text is valid even after a panic.
    CAPTURED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether output could not be written, although its reader still exists.
static IS_LOST: AtomicBool = AtomicBool::new(false);
/// Whether a reader closed its end.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// Whether output was lost. A reader that closed its end loses nothing.
pub fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// Whether further output is pointless.
pub fn is_over() -> bool {
    is_lost() || IS_UNREAD.load(Ordering::Relaxed)
}

fn put(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

/// Records the result of a write; a closed reader is not an error.
fn note(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {
            IS_UNREAD.store(true, Ordering::Relaxed);
        }
        Err(err) => {
            // Printed once, because all further output fails in the same way.
            if !IS_LOST.swap(true, Ordering::Relaxed) {
                let _ = writeln!(io::stderr(), "error: cannot write output: {err}");
            }
        }
    }
}

/// Whether standard output was closed when this process started. The standard library then opens
/// `/dev/null` before `main`, so that output is lost without an error.
static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look_at_stdout() {
    // SAFETY: F_GETFD reads a flag of a number, whether or not it is a file descriptor.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    // Any other error does not tell whether it is open.
    let is_closed = flags == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF);
    WAS_CLOSED.store(is_closed, Ordering::Relaxed);
}

/// The C library calls what is listed here before it calls `main`.
// SAFETY: `.init_array` is a list of functions without arguments that are used (elf(5)); this one
// needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;
