//! Private directories of root: the state directory, and `/run/peerwall`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat};

use crate::system::passing::{self, is_passing};

use super::{
    Folder, OTHERS_WRITE, again, careful, check_is_regular, doubts_of_file, named, read_all,
};

/// Mode of a new directory.
const FOLDER_MODE: Mode = Mode::S_IRWXU;
/// Mode of the files in it.
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// Mode bits of all users except the owner.
const OTHERS: u32 = 0o077;
/// Maximum size of a file; rulesets with very many peers have some hundred megabytes.
const FILE_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Size of the write buffer, in bytes; rulesets with very many peers have megabytes.
const WRITE_BYTES: usize = 256 * 1024;
/// How long to wait for a lock of another process.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY_EVERY: Duration = Duration::from_millis(20);

/// A private directory of root, or of the user of this process.
#[derive(Debug, Clone)]
pub struct Private {
    path: PathBuf,
    /// Mode bits that are cleared on an existing directory.
    forbidden: u32,
}

impl Private {
    /// Describes a directory that other users may not even read.
    pub fn secret(path: PathBuf) -> Self {
        Self {
            path,
            forbidden: OTHERS,
        }
    }

    /// Describes a directory that other users may not write; the administrator decides whether they
    /// may read it.
    pub fn writable_by_root(path: PathBuf) -> Self {
        Self {
            path,
            forbidden: OTHERS_WRITE,
        }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the existing directory.
    fn open(&self) -> io::Result<Folder> {
        trusted(Folder::open(&self.path, None)?)
    }

    /// Opens the directory. Creates it if it is missing, and clears the forbidden mode bits.
    ///
    /// # Errors
    /// [`io::Error`] if that fails, or other users could change its contents.
    pub fn make(&self) -> io::Result<Folder> {
        let make = || -> io::Result<Folder> {
            let mut folder = trusted(Folder::open(&self.path, Some(FOLDER_MODE))?)?;
            if folder.mode & self.forbidden != 0 {
                let mode = folder.mode & !self.forbidden;
                fchmod(&folder.fd, Mode::from_bits_truncate(mode))?;
                folder.mode = mode;
            }
            Ok(folder)
        };
        make().map_err(|err| named(&self.path, err))
    }

    /// Reads a file; `None` if it is missing.
    ///
    /// # Errors
    /// [`io::Error`] with the name of the file, if it cannot be read or other users could have
    /// written it.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let read = || {
            let opened = self.open()?.read(name)?;
            refuse_doubts(&opened.doubts)?;
            read_all(opened.file, FILE_MAX_BYTES)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(named(&self.path.join(name), err)),
        }
    }

    /// Replaces a file atomically: a crash leaves either the old or the new one.
    ///
    /// # Errors
    /// With the name of the file: the error of `fill`, or [`io::Error`] if it cannot be written.
    pub fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let write = || {
            let folder = self.make()?;
            folder.replace(OsStr::new(name), FILE_MODE, |file| {
                // Independent of the umask.
                fchmod(file, FILE_MODE)?;
                let mut writer = BufWriter::with_capacity(WRITE_BYTES, file);
                fill(&mut writer)?;
                writer.flush()?;
                // The content must be on disk before the rename makes it visible.
                file.sync_all()
            })?;
            // Readers already see the new file, so the write counts as done.
            if let Err(err) = passing::insist(|| folder.sync()) {
                let path = self.path.join(name);
                log::warn!(
                    "{} may be lost if the power fails now: {err}",
                    path.display()
                );
            }
            Ok(())
        };
        write().map_err(|err| named(&self.path.join(name), err))
    }

    /// Appends to a file in one write, so that the output of two processes does not mix. A file
    /// larger than `max` bytes is renamed to `old` first.
    ///
    /// # Errors
    /// [`io::Error`] with the name of the file, if it cannot be written or other users could have
    /// written it.
    pub fn append(&self, name: &str, bytes: &[u8], max: u64, old: &str) -> io::Result<()> {
        let append = || {
            let folder = self.make()?;
            let mut file = open_own(&folder, name, OFlag::O_APPEND)?;
            if file.metadata()?.len() > max {
                again(|| renameat(&folder.fd, name, &folder.fd, old))?;
                file = open_own(&folder, name, OFlag::O_APPEND)?;
            }
            file.write_all(bytes)
        };
        append().map_err(|err| named(&self.path.join(name), err))
    }

    /// Returns the names of all files; none if the directory is missing or cannot be read.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Deletes a file, if it exists.
    ///
    /// # Errors
    /// [`io::Error`] with the name of the file, if it cannot be deleted.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.open().and_then(|folder| folder.remove(name));
        match removed {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(named(&self.path.join(name), err))
            }
            _ => Ok(()),
        }
    }

    /// Locks a file until the returned lock is dropped. Only root can open the file, so
    /// unprivileged processes cannot block it.
    ///
    /// # Errors
    /// [`io::Error`] with the name of the file, if it cannot be opened, or another process keeps
    /// the lock for too long.
    pub fn lock(&self, name: &str) -> io::Result<Lock> {
        self.lock_within(name, LOCK_PATIENCE)
    }

    /// Like [`lock`](Self::lock), with a time limit.
    pub(super) fn lock_within(&self, name: &str, patience: Duration) -> io::Result<Lock> {
        let lock = || lock(open_own(&self.make()?, name, OFlag::empty())?, patience);
        lock().map_err(|err| named(&self.path.join(name), err))
    }
}

/// Opens a file for writing in place, and creates it if it is missing.
fn open_own(folder: &Folder, name: &str, flags: OFlag) -> io::Result<File> {
    let flags =
        flags | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | careful();
    let fd = again(|| openat(&folder.fd, name, flags, FILE_MODE))?;
    let stat = fstat(&fd)?;
    check_is_regular(&stat)?;
    refuse_doubts(&doubts_of_file(Path::new(name), &stat, folder.is_shared()))?;
    if stat.st_mode & OTHERS != 0 {
        fchmod(&fd, FILE_MODE)?;
    }
    Ok(File::from(fd))
}

/// A locked file. Closing the file releases the lock, which cannot fail; nix's `Flock` panics if
/// unlocking fails.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn lock(file: File, patience: Duration) -> io::Result<Lock> {
    let until = Instant::now() + patience;
    loop {
        // SAFETY: flock(2) touches no memory, and the descriptor is open.
        let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        match Errno::result(locked) {
            Ok(_) => return Ok(Lock { _file: file }),
            Err(Errno::EINTR) => {}
            Err(errno) if is_passing(errno as i32) && Instant::now() < until => {
                thread::sleep(LOCK_RETRY_EVERY);
            }
            Err(Errno::EWOULDBLOCK) => {
                let why = format!("{} has locked it for too long", holder(&file));
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Describes the process with the lock on a file, by `/proc/locks` (proc_locks(5)).
fn holder(file: &File) -> String {
    let find = || -> Option<i32> {
        let stat = fstat(file).ok()?;
        let (major, minor) = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
        let wanted = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let line = locks
            .lines()
            .find(|line| line.contains("FLOCK") && line.contains(&wanted))?;
        let pid = line.split_whitespace().nth(4)?.parse().ok()?;
        // Processes of other PID namespaces have the number 0 or are missing.
        (pid > 0).then_some(pid)
    };
    let Some(pid) = find() else {
        return "another process".to_owned();
    };
    match fs::read(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (pid {pid})", crate::host::names::process(&name)),
        Err(_) => format!("process {pid}"),
    }
}

fn trusted(folder: Folder) -> io::Result<Folder> {
    refuse_doubts(&folder.doubts_above)?;
    refuse_doubts(&folder.doubts)?;
    Ok(folder)
}

fn refuse_doubts(doubts: &[String]) -> io::Result<()> {
    match doubts {
        [] => Ok(()),
        _ => {
            let why = format!(
                "{}; it controls access to this host: chown it to root and chmod go-w",
                doubts.join("; ")
            );
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
    }
}
