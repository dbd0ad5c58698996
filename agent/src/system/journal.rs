//! Logs to systemd-journald by its native protocol: each record is one entry, with its priority and
//! fields.
//!
//! Protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. The existing crates for it block while
//! journald does not read, which would block the firewall. This logger waits for a full queue only
//! once, for milliseconds. It counts the entries that are lost after that, and logs the number when
//! journald reads again.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, Log, Metadata, Record};
use nix::sys::socket::{MsgFlags, send};

/// The socket of journald.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Value of `SYSLOG_IDENTIFIER`.
const IDENTIFIER: &str = "peerwall";
/// Prefix of the names of this program's own fields.
const PREFIX: &str = "PEERWALL_";
/// Maximum length of a message. Longer ones are cut: a datagram is limited by `net.core.wmem_max`.
const MESSAGE_MAX_BYTES: usize = 48 * 1024;
/// Maximum number of attempts to send an entry while journald's queue is full, and the pause before
/// each: 10 ms in total.
const FULL_TRIES: u32 = 10;
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// A logger that writes to journald.
#[derive(Debug)]
pub struct Journal {
    filter: env_logger::Logger,
    socket: UnixDatagram,
    path: PathBuf,
    /// See [`unit()`].
    unit: Option<String>,
    /// Number of entries lost since the last successful one.
    lost: AtomicU64,
}

impl Journal {
    /// Returns a logger for the records that pass the filter. `socket` comes from [`open`], `path`
    /// is that of journald, and `unit` comes from [`unit()`].
    pub fn new(
        socket: UnixDatagram,
        path: &Path,
        unit: Option<String>,
        filter: env_logger::Logger,
    ) -> Self {
        Self {
            filter,
            socket,
            path: path.to_owned(),
            unit,
            lost: AtomicU64::new(0),
        }
    }

    /// Logs a message regardless of the filter.
    pub fn report(&self, level: Level, text: &str) {
        let text = cut(text.to_owned());
        let priority = entry_priority(level);
        self.send(&self.entry(level, &text).0, priority, &text);
    }

    /// Returns an entry with the fields that all have.
    fn entry(&self, level: Level, message: &str) -> Entry {
        let mut entry = Entry(Vec::with_capacity(512));
        entry.field("MESSAGE", message);
        entry.field("PRIORITY", &entry_priority(level).to_string());
        entry.field("SYSLOG_IDENTIFIER", IDENTIFIER);
        if let Some(unit) = &self.unit {
            entry.field("OBJECT_SYSTEMD_UNIT", unit);
        }
        entry
    }

    /// Sends an entry. Writes `text` to standard error if journald does not listen.
    fn send(&self, entry: &[u8], priority: u8, text: &str) {
        match self.try_send(entry) {
            Ok(_) => {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let text = format!("{lost} log entries were lost: journald did not read them");
                    let mut entry = self.entry(Level::Warn, &text);
                    entry.field("PEERWALL_EVENT", "log_entries_lost");
                    entry.field("PEERWALL_COUNT", &lost.to_string());
                    self.send(&entry.0, entry_priority(Level::Warn), &text);
                }
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => self.lose(),
            Err(_) => {
                if send_to_stderr(priority, text).is_err() {
                    self.lose();
                }
            }
        }
    }

    /// Sends an entry. Waits for a full queue for a moment, but only once until journald reads
    /// again.
    fn try_send(&self, entry: &[u8]) -> io::Result<usize> {
        let is_full = |sent: &io::Result<usize>| {
            let kind = sent.as_ref().err().map(io::Error::kind);
            kind == Some(io::ErrorKind::WouldBlock)
        };
        let mut sent = self.socket.send_to(entry, &self.path);
        for _ in 0..FULL_TRIES {
            if !is_full(&sent) || self.lost.load(Ordering::Relaxed) > 0 {
                break;
            }
            thread::sleep(FULL_PAUSE);
            sent = self.socket.send_to(entry, &self.path);
        }
        sent
    }

    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let text = cut(record.args().to_string());
        let mut entry = self.entry(record.level(), &text);
        if let Some(file) = record.file() {
            entry.field("CODE_FILE", file);
        }
        if let Some(line) = record.line() {
            entry.field("CODE_LINE", &line.to_string());
        }
        entry.field("TARGET", record.target());
        // The visitor never fails, so all pairs are visited.
        let _ = record.key_values().visit(&mut entry);
        self.send(&entry.0, entry_priority(record.level()), &text);
    }

    fn flush(&self) {}
}

/// Opens a non-blocking socket.
///
/// # Errors
/// [`io::Error`] if it cannot be opened.
pub fn open() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether standard error is connected to the journal: `JOURNAL_STREAM` (systemd.exec(5)) has its
/// device and inode.
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let stat = stderr.and_then(|fd| std::fs::File::from(fd).metadata());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.dev(), stat.ino()))
}

/// Returns the name of the service that this process belongs to; `None` outside a service.
///
/// journald looks up the sender's unit when it reads an entry. By then a process that ends at once
/// may be gone, and `journalctl -u` would not show what it logged. It does show entries by root
/// with the unit's name in `OBJECT_SYSTEMD_UNIT` (systemd.journal-fields(7)).
pub fn unit() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    unit_of(&groups).map(str::to_owned)
}

/// Returns the service in the text of `/proc/PID/cgroup` (cgroups(7)): the groups that systemd
/// manages are those of version 2, or the tree of version 1 with its name.
fn unit_of(groups: &str) -> Option<&str> {
    let is_service = |name: &&str| name.ends_with(".service");
    groups.lines().find_map(|line| {
        let mut line = line.splitn(3, ':').skip(1);
        match (line.next()?, line.next()?) {
            ("" | "name=systemd", path) => path.split('/').find(is_service),
            _ => None,
        }
    })
}

/// Writes to the stream that systemd connected to standard error, with a priority in front of each
/// line (sd-daemon(3)).
fn send_to_stderr(priority: u8, text: &str) -> nix::Result<()> {
    let lines = text.lines().map(|line| format!("<{priority}>{line}\n"));
    let lines: String = lines.collect();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    send(io::stderr().as_raw_fd(), lines.as_bytes(), flags).map(drop)
}

/// Returns the priority of a level (syslog(3)).
fn entry_priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Truncates a message to the maximum size.
fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_MAX_BYTES {
        let is_boundary = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=MESSAGE_MAX_BYTES).rev().find(is_boundary);
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// An encoded entry.
struct Entry(Vec<u8>);

impl Entry {
    fn field(&mut self, name: &str, value: &str) {
        self.0.extend(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            #[expect(
                clippy::little_endian_bytes,
                reason = "the protocol's length is a little-endian u64"
            )]
            self.0.extend((value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl<'kvs> VisitSource<'kvs> for Entry {
    /// Adds a key-value of a record as a field; a null value adds none.
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut text = Text(None);
        value.visit(&mut text)?;
        if let Some(text) = text.0 {
            self.field(
                &format!("{PREFIX}{}", key.as_str().to_ascii_uppercase()),
                &text,
            );
        }
        Ok(())
    }
}

/// The text of a value; `None` for null.
struct Text(Option<String>);

impl<'v> VisitValue<'v> for Text {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.0 = Some(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0 = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::LevelFilter;
    use std::collections::BTreeMap;

    const UNIT: &str = "peerwall.service";

    /// A journald on a temporary socket.
    struct Journald {
        socket: Option<UnixDatagram>,
        path: PathBuf,
    }

    impl Journald {
        fn new(name: &str) -> Self {
            let file = format!("peerwall-journal-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(file);
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self {
                socket: Some(socket),
                path,
            }
        }

        fn logger(&self) -> Journal {
            let mut filter = env_logger::Builder::new();
            let filter = filter.filter_module("peerwall", LevelFilter::Info).build();
            Journal::new(open().unwrap(), &self.path, Some(UNIT.to_owned()), filter)
        }

        fn received(&self) -> Vec<BTreeMap<String, String>> {
            let socket = self.socket.as_ref().unwrap();
            let mut entries = Vec::new();
            let mut bytes = vec![0; 1 << 20];
            while let Ok(len) = socket.recv(&mut bytes) {
                entries.push(fields(&bytes[..len]));
            }
            entries
        }
    }

    impl Drop for Journald {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Parses an entry like journald.
    fn fields(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = bytes.iter().position(|byte| b"=\n".contains(byte)) {
            let (name, rest) = (&bytes[..end], &bytes[end + 1..]);
            let (value, rest) = match bytes[end] {
                b'=' => rest.split_at(rest.iter().position(|byte| *byte == b'\n').unwrap()),
                _ => {
                    let (len, rest) = rest.split_first_chunk::<8>().unwrap();
                    #[expect(clippy::little_endian_bytes, reason = "as the protocol says")]
                    rest.split_at(usize::try_from(u64::from_le_bytes(*len)).unwrap())
                }
            };
            assert_eq!(rest[0], b'\n');
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert!(fields.insert(text(name), text(value)).is_none());
            bytes = &rest[1..];
        }
        assert_eq!(bytes, b"");
        fields
    }

    fn log(journal: &Journal, level: Level, text: &str) {
        let values = [
            ("event", Value::from("applied")),
            ("number", Value::from(7)),
            ("generation", Value::null()),
        ];
        let mut record = Record::builder();
        record
            .level(level)
            .target("peerwall::agent")
            .key_values(&values);
        record.file(Some("rules.rs")).line(Some(1));
        journal.log(&record.args(format_args!("{text}")).build());
    }

    #[test]
    fn a_record_is_one_entry_with_priority_and_fields() {
        let journald = Journald::new("fields");
        let journal = journald.logger();
        let text = "applied /p.toml:\nrule=1\n";
        for (level, priority) in [(Level::Error, "3"), (Level::Warn, "4"), (Level::Info, "6")] {
            log(&journal, level, text);
            let want = [
                ("MESSAGE", text),
                ("PRIORITY", priority),
                ("SYSLOG_IDENTIFIER", "peerwall"),
                ("OBJECT_SYSTEMD_UNIT", UNIT),
                ("TARGET", "peerwall::agent"),
                ("CODE_FILE", "rules.rs"),
                ("CODE_LINE", "1"),
                ("PEERWALL_EVENT", "applied"),
                ("PEERWALL_NUMBER", "7"),
            ];
            let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(journald.received(), [BTreeMap::from(want)]);
        }
        log(&journal, Level::Debug, "not logged at this level");
        assert_eq!(journald.received(), []);
    }

    #[test]
    fn the_unit_is_read_from_both_versions_of_control_groups() {
        for (groups, unit) in [
            (
                "0::/system.slice/peerwall-boot.service\n",
                Some("peerwall-boot.service"),
            ),
            (
                "3:cpu:/\n1:name=systemd:/system.slice/peerwall.service\n0::/\n",
                Some("peerwall.service"),
            ),
            (
                "2:name=systemd:/\n0::/system.slice/peerwall.service\n",
                Some("peerwall.service"),
            ),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(groups), unit, "{groups}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_cut() {
        let journald = Journald::new("long");
        log(
            &journald.logger(),
            Level::Warn,
            &"é".repeat(MESSAGE_MAX_BYTES),
        );
        let entries = journald.received();
        let message = &entries[0]["MESSAGE"];
        assert!(message.ends_with("é…") && message.len() <= MESSAGE_MAX_BYTES + 4);
    }

    #[test]
    fn a_journald_that_does_not_read_stops_nobody_and_lost_entries_are_counted() {
        let journald = Journald::new("stuck");
        let journal = journald.logger();
        const SENT: usize = 5_000;
        for _ in 0..SENT {
            log(&journal, Level::Info, "text");
        }
        let received = journald.received().len();
        assert!(
            received < SENT,
            "the queue is longer than this test expects"
        );
        log(&journal, Level::Info, "text");
        let entries = journald.received();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1]["PEERWALL_COUNT"], (SENT - received).to_string());
        assert_eq!(entries[1]["PRIORITY"], "4");
        log(&journal, Level::Info, "text");
        assert_eq!(journald.received().len(), 1, "it is said once");
    }

    #[test]
    fn a_journald_that_is_gone_stops_nobody() {
        let mut journald = Journald::new("gone");
        let journal = journald.logger();
        journald.socket = None;
        log(&journal, Level::Info, "nobody listens");
        std::fs::remove_file(&journald.path).unwrap();
        log(&journal, Level::Info, "there is no socket");
        journald.socket = Some(UnixDatagram::bind(&journald.path).unwrap());
        journald
            .socket
            .as_ref()
            .unwrap()
            .set_nonblocking(true)
            .unwrap();
        log(&journal, Level::Info, "it is back");
        assert_eq!(journald.received()[0]["MESSAGE"], "it is back");
    }
}
