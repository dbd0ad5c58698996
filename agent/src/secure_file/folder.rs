//! Directories in which files are read and replaced, whatever happens to their names meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::walk::Walk;
use super::{OTHERS_WRITE, Opened, again, careful, check_is_regular, open_in};

/// Attempts to find a temporary name that is free.
const NAMES_TRIED: usize = 16;
/// Mode of a file that everybody may read.
const PUBLIC_MODE: Mode = Mode::from_bits_truncate(0o644);

/// A directory, open for use with the `*at` calls.
#[derive(Debug)]
pub struct Folder {
    /// The directory.
    pub fd: OwnedFd,
    /// Its permissions.
    pub mode: u32,
    /// Sentences that say why users other than root could replace it.
    pub doubts_above: Vec<String>,
    /// Sentences that say why users other than root could change what is in it.
    pub doubts: Vec<String>,
    /// Why users other than root could have led here, by a link or `..`.
    pub led: Option<String>,
    path: PathBuf,
}

impl Folder {
    /// Opens a directory; links on the way are followed, and judged. With `make` it is made if it is missing.
    ///
    /// # Errors
    /// The operating system's, or that it is not a directory.
    pub fn open(path: &Path, make: Option<Mode>) -> io::Result<Self> {
        let mut walk = Walk::new(path)?;
        if walk.finish(make)?.is_some() {
            return Err(Errno::ENOTDIR.into());
        }
        // What was found is open by name only; files are made in, and synced by, an open directory.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | careful();
        let fd = again(|| openat(&walk.at, ".", flags, Mode::empty()))?;
        Ok(Self {
            fd,
            mode: walk.mode,
            doubts_above: walk.doubts,
            doubts: walk.doubts_here,
            led: walk.led,
            path: walk.path,
        })
    }

    /// Whether others can create files in it.
    pub fn is_shared(&self) -> bool {
        self.mode & OTHERS_WRITE != 0
    }

    /// Opens a regular file in it for reading; links are not followed.
    ///
    /// # Errors
    /// The operating system's, or a sentence that says what it is instead.
    pub fn read(&self, name: &str) -> io::Result<Opened> {
        let stat = again(|| fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW))?;
        check_is_regular(&stat)?;
        let name = OsStr::new(name);
        open_in(&self.fd, name, &self.path, self.is_shared(), Vec::new())
    }

    /// Replaces a file as a whole, or makes it. It is written under a random name that is not there, and renamed:
    /// nothing in the directory is ever followed or opened, and readers see the old or the new.
    ///
    /// # Errors
    /// That of `fill`, or the operating system's.
    pub fn replace(
        &self,
        name: &OsStr,
        mode: Mode,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        match again(|| fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)) {
            Ok(stat) => check_is_regular(&stat)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        let (file, fresh) = self.create(name, mode)?;
        let done = fill(&file).and_then(|()| {
            again(|| renameat(&self.fd, fresh.as_os_str(), &self.fd, name)) //
        });
        if done.is_err() {
            let _ = unlinkat(&self.fd, fresh.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    /// Makes a file with a random name.
    fn create(&self, name: &OsStr, mode: Mode) -> io::Result<(File, OsString)> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | careful();
        for _ in 0..NAMES_TRIED {
            let mut fresh = OsString::from(".");
            fresh.push(name);
            // O_EXCL makes it safe; random, so that nobody can occupy it beforehand.
            let random = std::hash::RandomState::new().build_hasher().finish();
            fresh.push(format!(".{random:016x}"));
            match again(|| openat(&self.fd, fresh.as_os_str(), flags, mode)) {
                Ok(fd) => return Ok((File::from(fd), fresh)),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(err),
            }
        }
        Err(Errno::EEXIST.into())
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match again(|| unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Makes renames in it survive a crash of the machine.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.fd.as_fd().try_clone_to_owned()?).sync_all()
    }
}

/// Replaces a file that others may read, in a directory that may be another user's, or below one. Such a user decides
/// what is in the directory, but cannot have the file written outside of what is theirs.
///
/// # Errors
/// The operating system's; or that it is not a regular file, or others could have chosen the directory.
pub fn publish(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    let folder = Folder::open(folder, None)?;
    if let Some(doubt) = folder.led {
        let why = format!("{doubt}, so others could choose where this is written");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    folder.replace(name, PUBLIC_MODE, |mut file| {
        // Whatever the umask.
        fchmod(file, PUBLIC_MODE)?;
        file.write_all(text.as_bytes())
    })
}
