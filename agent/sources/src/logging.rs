//! Sets up logging: plain lines on standard error, with a priority in front under systemd.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use env_logger::WriteStyle;
use log::{Level, LevelFilter};

/// Installs the logger. `RUST_LOG` overrides `level`.
pub fn init(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    match std::env::var_os("RUST_LOG") {
        Some(_) => builder.parse_default_env(),
        None => builder.filter_module("peerwall", level),
    };
    builder.format_timestamp(None).format_target(false);
    if is_journal() {
        builder.write_style(WriteStyle::Never);
        builder.format(|to, record| {
            let priority = priority(record.level());
            writeln!(to, "<{priority}>{}", record.args())
        });
    }
    builder.init();
}

/// Returns the priority of a level (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether standard error is connected to the journal: `JOURNAL_STREAM` (systemd.exec(5)) has its
/// device and inode.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let stat = stderr.and_then(|fd| std::fs::File::from(fd).metadata());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.dev(), stat.ino()))
}
