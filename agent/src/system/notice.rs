//! Messages to people who do not wait for a response: on their terminal, and in the system log.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use crate::host::caller::Caller;

/// First and last major number of pseudo-terminals (`Documentation/admin-guide/devices.txt`).
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;
/// Major number of virtual consoles.
const CONSOLE_MAJOR: u32 = 4;

/// Writes a line to the caller's terminal, if it still exists and is writable.
pub fn to_terminal(caller: &Caller, text: &str) {
    let Some(number) = caller.terminal else {
        return;
    };
    let written = open(number).and_then(|mut terminal| {
        // The cursor of a waiting shell may be in any column. One write keeps the line in one
        // piece.
        let line = format!("\r\npeerwall: {}\r\n", text.replace('\n', "\r\n"));
        terminal.write_all(line.as_bytes())
    });
    if let Err(err) = written {
        log::debug!("cannot write to the terminal: {err}");
    }
}

/// A logger that writes to the system log by syslog(3), for hosts without journald.
#[derive(Debug)]
pub struct Syslog;

impl log::Log for Syslog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && metadata.target().starts_with("peerwall")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            to_syslog(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn to_syslog(level: log::Level, text: &str) {
    let Ok(text) = CString::new(text) else { return };
    let priority = match level {
        log::Level::Error => libc::LOG_ERR,
        log::Level::Warn => libc::LOG_WARNING,
        log::Level::Info => libc::LOG_INFO,
        log::Level::Debug | log::Level::Trace => libc::LOG_DEBUG,
    };
    // SAFETY: all pointers are constant, or valid until the call returns; openlog(3) keeps the
    // pointer to the name, which is static. syslog(3) may block while the socket's buffer is full.
    unsafe {
        libc::openlog(c"peerwall".as_ptr(), libc::LOG_PID, libc::LOG_DAEMON);
        libc::syslog(priority, c"%s".as_ptr(), text.as_ptr());
    }
}

/// Returns the path of a terminal by its number, the `tty_nr` of proc_pid_stat(5): bits 31 to 20
/// and 7 to 0 are the minor number, bits 15 to 8 the major one.
fn path(number: i32) -> Option<String> {
    let bits = number.cast_unsigned();
    let (major, minor) = (bits >> 8 & 0xff, (bits & 0xff) | (bits >> 12 & 0xf_ff00));
    if PTS_MAJORS.contains(&major) {
        let index = (major - PTS_MAJORS.start()) * 256 + minor;
        return Some(format!("/dev/pts/{index}"));
    }
    (major == CONSOLE_MAJOR).then(|| format!("/dev/tty{minor}"))
}

fn open(number: i32) -> io::Result<File> {
    let path = path(number).ok_or_else(|| io::Error::other("not a pseudo-terminal"))?;
    let file = OpenOptions::new()
        .write(true)
        // A stopped terminal must not block the firewall.
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(&path)?;
    let found = file.metadata()?;
    match found.file_type().is_char_device() && found.rdev() != 0 {
        true => Ok(file),
        false => Err(io::Error::other(format!("{path} is not a terminal"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn terminals_are_found_by_their_number() {
        for (number, want) in [
            (34816, Some("/dev/pts/0")),
            (34823, Some("/dev/pts/7")),
            // Each major number has 256 minor ones.
            (35079, Some("/dev/pts/263")),
            (1025, Some("/dev/tty1")),
            (0, None),
            (1 << 20 | 1024, Some("/dev/tty256")),
            (-1, None),
        ] {
            assert_eq!(path(number).as_deref(), want, "{number}");
        }
    }

    #[test]
    fn a_terminal_gets_the_line() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", pair.slave.as_raw_fd())).unwrap();
        let index: i32 = link.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let caller = Caller {
            terminal: Some(34816 + index),
            ..Caller::default()
        };
        to_terminal(&caller, "new.toml was not confirmed");
        let mut said = [0; 128];
        let len = File::from(pair.master).read(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..len]).into_owned();
        assert!(
            said.contains("\npeerwall: new.toml was not confirmed\r"),
            "{said:?}"
        );
    }
}
