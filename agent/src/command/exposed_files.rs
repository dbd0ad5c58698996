//! Writes the map and the page of `peerwall exposed`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use peerwall_core::exposed::MARK;

use crate::host::names::printable;
use crate::json::{ErrorCode, Failure};

/// Mode of new files, before the umask.
const MODE: u32 = 0o644;
/// The mark is within the first bytes.
const HEAD_BYTES: u64 = 1024;

/// A file that was not written.
#[derive(Debug)]
pub(super) struct Unwritten {
    path: PathBuf,
    /// `None` for a file of another program.
    source: Option<io::Error>,
}

impl From<Unwritten> for Failure {
    fn from(err: Unwritten) -> Self {
        let path = printable(&err.path.display().to_string());
        let why = match err.source {
            Some(source) => format!("cannot write {path}: {source}"),
            None => format!(
                "{path} exists, and `peerwall exposed` did not write it: name another file, or \
                 remove it"
            ),
        };
        Self::new(ErrorCode::Io, why)
    }
}

/// Writes a new file, or replaces one that this command wrote.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Unwritten> {
    let failed = |source: Option<io::Error>| Unwritten {
        path: path.to_owned(),
        source,
    };
    match create(path, text) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(|err| failed(Some(err))),
    }
    match is_ours(path) {
        Ok(true) => replace(path, text).map_err(|err| failed(Some(err))),
        Ok(false) => Err(failed(None)),
        Err(err) => Err(failed(Some(err))),
    }
}

/// Reports whether a file is a regular one with the mark. Links are not followed.
fn is_ours(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    file.open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(String::from_utf8_lossy(&head).contains(MARK))
}

/// Writes a file beside the old one, and renames it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    create(&beside, text)?;
    fs::rename(&beside, path).inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    })
}

/// Creates a file, and removes it again if it cannot be written to the end.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file: File = options.write(true).create_new(true).mode(MODE).open(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}
