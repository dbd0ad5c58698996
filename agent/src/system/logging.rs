//! Sets up logging: entries of the journal under systemd, plain text on standard error otherwise.

use std::path::Path;
use std::sync::OnceLock;

use env_logger::WriteStyle;
use log::{Level, LevelFilter};

use super::journal::{self, Journal};
use super::notice;
use crate::color::{self, Stream};

/// The logger, if it writes to the journal.
static JOURNAL: OnceLock<&'static Journal> = OnceLock::new();

/// Destination of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard error; the journal if standard error is connected to it.
    Stderr,
    /// The system log, for a process whose standard error is not read.
    System,
}

/// Installs the logger. `RUST_LOG` overrides `level`.
pub fn init(level: LevelFilter, target: Target) {
    let mut builder = env_logger::Builder::new();
    match std::env::var_os("RUST_LOG") {
        Some(_) => builder.parse_default_env(),
        None => builder.filter_module("peerwall", level),
    };
    let socket = Path::new(journal::SOCKET);
    let is_journal = match target {
        Target::Stderr => journal::is_stderr(),
        Target::System => socket.exists(),
    };
    let style = match color::is_on(Stream::Stderr) {
        true => WriteStyle::Always,
        false => WriteStyle::Never,
    };
    let logger = builder.format_timestamp(None).write_style(style).build();
    let level = logger.filter();
    let opened = is_journal.then(journal::open).and_then(Result::ok);
    let is_installed = match (opened, target) {
        (Some(opened), _) => {
            let journal = Journal::new(opened, socket, journal::unit(), logger);
            let journal: &Journal = JOURNAL.get_or_init(|| Box::leak(Box::new(journal)));
            log::set_logger(journal)
        }
        (None, Target::System) => log::set_logger(&notice::Syslog),
        (None, Target::Stderr) => log::set_boxed_logger(Box::new(logger)),
    };
    if is_installed.is_ok() {
        log::set_max_level(level);
    }
}

/// Logs a command's message for standard error as a journal entry with a priority, if standard
/// error is connected to the journal. Returns whether it was logged.
pub fn report(level: Level, text: &str) -> bool {
    let Some(journal) = JOURNAL.get() else {
        return false;
    };
    journal.report(level, text);
    true
}
