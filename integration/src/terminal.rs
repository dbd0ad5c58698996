//! Commands on a terminal of their own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Stdio};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::ns::{Host, peerwall_bin};

/// A command on a terminal of its own.
pub struct OnTerminal {
    child: Child,
    master: File,
    /// The terminal itself, so that it outlives the command.
    slave: File,
    before: Termios,
    /// What the command wrote, and no test has read.
    unread: String,
}

impl OnTerminal {
    /// Starts peerwall on a terminal with these rows and columns, of this type.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn start(host: &Host, args: &[&str], term: &str, size: (u16, u16)) -> Self {
        let pty = openpty(&winsize(size), None).expect("there are terminals");
        let slave = File::from(pty.slave);
        let stdio = || Stdio::from(slave.try_clone().expect("it is open"));
        let before = tcgetattr(&slave).expect("it is a terminal");
        let child = host
            .command(peerwall_bin())
            .args(args)
            .env("TERM", term)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("peerwall is built");
        Self {
            child,
            master: File::from(pty.master),
            slave,
            before,
            unread: String::new(),
        }
    }

    /// Reads to where the screen says this next, and returns what was read.
    ///
    /// # Panics
    /// If the terminal cannot be read.
    pub fn read_until(&mut self, wanted: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.unread.find(wanted) {
                let rest = self.unread.split_off(at + wanted.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            let read = self.master.read(&mut bytes).expect("it has a terminal");
            self.unread
                .push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// Reads the next whole screen, and returns its lines without control sequences.
    ///
    /// # Panics
    /// If the terminal cannot be read.
    pub fn next_screen(&mut self) -> Vec<String> {
        let read = self.read_until("\x1b[J");
        let whole = read.trim_end_matches("\x1b[J");
        let screen = whole.rsplit("\x1b[H").next().unwrap_or_default();
        screen.lines().map(plain).collect()
    }

    /// Types keys.
    ///
    /// # Panics
    /// If the terminal is closed.
    pub fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("it has a terminal");
    }

    /// Sends a signal to the command.
    ///
    /// # Panics
    /// If the command has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(
            self.child
                .id()
                .try_into()
                .expect("it is a number of a process"),
        );
        kill(pid, signal).expect("it runs");
    }

    /// Changes the rows and columns of the terminal, of which the command is told.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn resize(&mut self, size: (u16, u16)) {
        let size = winsize(size);
        // SAFETY: the descriptor is open, and the pointer is to a whole `winsize`.
        let result =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0);
        self.signal(Signal::SIGWINCH);
    }

    /// Whether keys come line by line, as before the command.
    ///
    /// # Panics
    /// If the terminal is closed.
    pub fn is_as_before(&self) -> bool {
        tcgetattr(&self.slave).expect("it is a terminal") == self.before
    }

    /// Kills the command.
    ///
    /// # Panics
    /// If it has ended.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    /// Waits for the end, checks that the terminal is as it was, and returns the exit code.
    ///
    /// # Panics
    /// If it is not.
    pub fn ended(mut self) -> Option<i32> {
        let status = self.child.wait().expect("it was started");
        assert!(self.is_as_before(), "the terminal is as before");
        let last = self.read_until("\x1b[?1049l");
        assert!(
            last.contains("\x1b[?25h") && last.contains("\x1b[?7h"),
            "{last:?}"
        );
        status.code()
    }
}

fn winsize((ws_row, ws_col): (u16, u16)) -> Winsize {
    Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Returns a line without control sequences (ECMA-48: CSI).
fn plain(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        plain.push_str(&part[end.map_or(part.len(), |end| end + 1)..]);
    }
    plain.trim_end_matches('\r').to_owned()
}
