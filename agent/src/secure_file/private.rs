//! Directories that are root's alone: the state, and what is under `/run`.

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

/// Mode of such a directory.
const FOLDER_MODE: Mode = Mode::S_IRWXU;
/// Mode of the files in it.
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// Mode bits of everybody but the owner.
const OTHERS: u32 = 0o077;
/// Maximum size of a file; rulesets of very many peers are some hundred megabytes.
const FILE_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Rulesets of very many peers are megabytes.
const WRITE_BYTES: usize = 256 * 1024;
/// How long to wait for another process that holds a lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY_EVERY: Duration = Duration::from_millis(20);

/// A directory that is root's alone, or of the user who runs this.
#[derive(Debug, Clone)]
pub struct Private {
    path: PathBuf,
    /// Mode bits that are removed from a directory that exists.
    forbidden: u32,
}

impl Private {
    /// A directory that nobody else may even read.
    pub fn secret(path: PathBuf) -> Self {
        Self {
            path,
            forbidden: OTHERS,
        }
    }

    /// A directory that nobody else may write; whether others may enter is the administrator's
    /// choice.
    pub fn writable_by_root(path: PathBuf) -> Self {
        Self {
            path,
            forbidden: OTHERS_WRITE,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory as it is.
    fn open(&self) -> io::Result<Folder> {
        trusted(Folder::open(&self.path, None)?)
    }

    /// The directory, made if it is missing, and closed to others.
    ///
    /// # Errors
    /// The operating system's, or that others could change what is in it.
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
    /// With the name of the file: the operating system's, or that others could have written it.
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

    /// Replaces a file as a whole, so that a death leaves the old or the new.
    ///
    /// # Errors
    /// With the name of the file: that of `fill`, or the operating system's.
    pub fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let write = || {
            let folder = self.make()?;
            folder.replace(OsStr::new(name), FILE_MODE, |file| {
                // Whatever the umask.
                fchmod(file, FILE_MODE)?;
                let mut writer = BufWriter::with_capacity(WRITE_BYTES, file);
                fill(&mut writer)?;
                writer.flush()?;
                // It must be there before it is relied upon, whatever dies next.
                file.sync_all()
            })?;
            // Readers find the new one by now, so it counts as written.
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

    /// Adds to the end of a file, in one write, so that two processes do not mix. A file that has
    /// become larger than `max` bytes is first renamed to `old`.
    ///
    /// # Errors
    /// With the name of the file: the operating system's, or that others could have written it.
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

    /// Names of everything in it; none if it is missing or cannot be read.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// With the name of the file: the operating system's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.open().and_then(|folder| folder.remove(name));
        match removed {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(named(&self.path.join(name), err))
            }
            _ => Ok(()),
        }
    }

    /// Locks a file for as long as what is returned lives. Only root can open it, so nobody else
    /// can hold it.
    ///
    /// # Errors
    /// With the name of the file: the operating system's, or who holds it for too long.
    pub fn lock(&self, name: &str) -> io::Result<Lock> {
        self.lock_within(name, LOCK_PATIENCE)
    }

    /// The same with a bound on the time to wait.
    pub(super) fn lock_within(&self, name: &str, patience: Duration) -> io::Result<Lock> {
        let lock = || lock(open_own(&self.make()?, name, OFlag::empty())?, patience);
        lock().map_err(|err| named(&self.path.join(name), err))
    }
}

/// Opens a file to be written in place; makes it if it is missing.
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

/// A locked file. The lock ends when the file is closed, which cannot fail; nix's `Flock` panics
/// where unlocking does.
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

/// Who holds a lock on a file, as far as `/proc/locks` tells (proc_locks(5)).
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
        // Those of other PID namespaces are shown as 0 or not at all.
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
                "{}; it decides who gets in: chown it to root and chmod go-w",
                doubts.join("; ")
            );
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
    }
}
