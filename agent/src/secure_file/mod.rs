//! Opens files without blocking, and judges the opened files.
//!
//! A path is walked directory by directory with `openat(2)` and `O_NOFOLLOW`. The judged file and
//! directories are the opened ones, so they cannot be swapped in between. The rule is that of
//! sshd's `StrictModes` (`safe_path()` in OpenSSH's `misc.c`): the file and every directory on its
//! real path belong to root or to the user of this process, and no other user can write them. The
//! rule also covers symbolic links: their directories and their owners.
//!
//! Unlike sshd, a sticky directory such as `/tmp` passes if root owns it, because other users
//! cannot rename or delete root's files there. A file or link in it must have a single name:
//! without `fs.protected_hardlinks`, any user can hard-link an old one of root's there.

mod error;
mod folder;
pub mod private;
mod walk;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use peerwall_core::policy::load::{ReadError, Text};
use serde::{Deserialize, Serialize};

pub use error::{is_passing, named, plain};
pub use folder::{Folder, publish};
pub use walk::is_trusted;
use walk::{Walk, hard_link};

/// Maximum size of a policy file; lists of peers are a few megabytes at most.
pub const TEXT_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Mode bits that allow other users to write.
const OTHERS_WRITE: u32 = 0o022;

/// A regular file, open for reading.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    /// Reasons why users other than root could have written the file, as sentences.
    pub doubts: Vec<String>,
}

/// A version of a file. Replacing the file, writing to it and changing its mode make another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    device: u64,
    inode: u64,
    /// In bytes.
    size: u64,
    /// Time of the last write, in seconds and nanoseconds since the Unix epoch.
    modified: (i64, i64),
    /// The same of the last change of the inode, which programs cannot set.
    changed: (i64, i64),
}

/// Returns the version of a file.
///
/// # Errors
/// That of stat(2).
pub fn version(path: &Path) -> io::Result<Version> {
    let stat = std::fs::metadata(path)?;
    Ok(Version {
        device: stat.dev(),
        inode: stat.ino(),
        size: stat.size(),
        modified: (stat.mtime(), stat.mtime_nsec()),
        changed: (stat.ctime(), stat.ctime_nsec()),
    })
}

/// Reads a whole file as text.
///
/// # Errors
/// [`ReadError`] with a sentence that names the file.
pub fn text(path: &Path) -> Result<Text, ReadError> {
    let cannot = |why: &str| format!("cannot read {}: {why}", path.display());
    let failed = |err: io::Error| match is_passing(&err) {
        true => ReadError::Passing(cannot(&plain(&err))),
        false if err.kind() == io::ErrorKind::NotFound => ReadError::Absent(cannot(&plain(&err))),
        false => ReadError::Wrong(cannot(&plain(&err))),
    };
    let opened = open(path).map_err(failed)?;
    let bytes = read_all(opened.file, TEXT_MAX_BYTES).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|err| {
        let at = err.utf8_error().valid_up_to();
        ReadError::Wrong(cannot(&format!("byte {at} is not UTF-8 text")))
    })?;
    Ok(Text {
        name: path.display().to_string(),
        text,
        doubts: opened.doubts,
    })
}

/// Reads a whole file, unless it is larger than `max_bytes`.
///
/// # Errors
/// [`io::Error`] if it cannot be read or is too large.
pub fn read_all(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    // A file that grows meanwhile is read to its end all the same.
    let size = file.metadata().map_or(0, |found| found.len());
    let size = usize::try_from(size.min(max_bytes)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(size.saturating_add(1));
    // Retries on EINTR.
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let why = format!("it is larger than {} MiB", max_bytes >> 20);
        return Err(io::Error::other(why));
    }
    Ok(bytes)
}

/// Opens a regular file for reading. FIFOs, devices and sockets are not opened, because that could
/// block or have side effects.
///
/// # Errors
/// [`io::Error`] if it cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<Opened> {
    let mut walk = Walk::new(path)?;
    let Some((name, found)) = walk.finish(None)? else {
        return Err(io::Error::other("it is a directory"));
    };
    check_is_regular(&found)?;
    open_in(&walk.at, &name, &walk.path, walk.is_shared, walk.doubts)
}

/// Opens a regular file of a directory for reading; links are not followed.
fn open_in(
    folder: &OwnedFd,
    name: &OsStr,
    path: &Path,
    is_shared: bool,
    mut doubts: Vec<String>,
) -> io::Result<Opened> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | careful();
    let fd = again(|| openat(folder, name, flags, Mode::empty()))?;
    let stat = fstat(&fd)?;
    check_is_regular(&stat)?;
    doubts.extend(doubts_of_file(&path.join(name), &stat, is_shared));
    Ok(Opened {
        file: File::from(fd),
        doubts,
    })
}

/// Flags of every `openat(2)`.
fn careful() -> OFlag {
    OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Repeats a system call that a signal interrupted.
fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

fn check_is_regular(stat: &FileStat) -> io::Result<()> {
    let what = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => return Ok(()),
        libc::S_IFDIR => return Err(io::Error::other("it is a directory")),
        libc::S_IFIFO => "FIFO",
        libc::S_IFSOCK => "socket",
        libc::S_IFLNK => "symbolic link",
        libc::S_IFCHR | libc::S_IFBLK => "device",
        _ => "special file",
    };
    Err(io::Error::other(format!(
        "it is a {what}, not a regular file"
    )))
}

fn doubts_of_file(path: &Path, stat: &FileStat, is_shared: bool) -> Vec<String> {
    let mut doubts = Vec::new();
    let path = path.display();
    if !is_trusted(stat.st_uid) {
        doubts.push(format!("{path} belongs to user {}", stat.st_uid));
    }
    if stat.st_mode & OTHERS_WRITE != 0 {
        let mode = stat.st_mode & 0o7777;
        doubts.push(format!("{path} can be written by others (mode {mode:o})"));
    }
    if is_shared && stat.st_nlink > 1 {
        doubts.push(hard_link(&path));
    }
    doubts
}

#[cfg(test)]
mod tests;
