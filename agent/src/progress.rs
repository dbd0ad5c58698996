//! Shows on a terminal that a command is still at work.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Interval of the messages; the first one comes after it.
const INTERVAL: Duration = Duration::from_secs(1);
/// Returns to the first column and erases the line (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// Shows the elapsed seconds in one line of standard error, until it is dropped; nothing if
/// standard error is not a terminal that can erase a line.
#[derive(Debug)]
pub struct Progress {
    /// Dropped to end the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show progress. `what` is the work, such as `importing rules`.
    pub fn start(what: &'static str) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if !io::stderr().is_terminal() || is_dumb {
            return Self {
                end: None,
                thread: None,
            };
        }
        let (end, ended) = mpsc::channel();
        let start = Instant::now();
        let thread = thread::spawn(move || {
            let mut is_shown = false;
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                show(&format!("{ERASE}{what}: {} s", start.elapsed().as_secs()));
                is_shown = true;
            }
            if is_shown {
                show(ERASE);
            }
        });
        Self {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic.
            let _ = thread.join();
        }
    }
}

fn show(text: &str) {
    let mut stderr = io::stderr();
    // Work goes on without the line.
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}
