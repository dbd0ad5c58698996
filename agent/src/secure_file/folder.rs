//! Directories in which files are read and replaced safely, even while other users rename files.

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

/// Maximum number of attempts to find an unused temporary name.
const NAMES_TRIED: usize = 16;
/// Mode of a file that all users may read.
const PUBLIC_MODE: Mode = Mode::from_bits_truncate(0o644);

/// A directory, open for the `*at` system calls.
#[derive(Debug)]
pub struct Folder {
    /// The directory.
    pub fd: OwnedFd,
    /// Its permissions.
    pub mode: u32,
    /// Reasons why users other than root could replace the directory, as sentences.
    pub doubts_above: Vec<String>,
    /// Reasons why users other than root could change its contents, as sentences.
    pub doubts: Vec<String>,
    /// Reason why users other than root could have redirected the path to this directory, by a link
    /// or `..`.
    pub led: Option<String>,
    path: PathBuf,
}

impl Folder {
    /// Opens a directory. Links in the path are followed and judged. With `make`, a missing
    /// directory is created.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be opened, or is not a directory.
    pub fn open(path: &Path, make: Option<Mode>) -> io::Result<Self> {
        let mut walk = Walk::new(path)?;
        if walk.finish(make)?.is_some() {
            return Err(Errno::ENOTDIR.into());
        }
        // The walk opens by path only (`O_PATH`); files are created and synced through a readable
        // descriptor.
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

    /// Whether other users can create files in it.
    pub fn is_shared(&self) -> bool {
        self.mode & OTHERS_WRITE != 0
    }

    /// Opens a regular file of the directory for reading; links are not followed.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be opened, or is not a regular file.
    pub fn read(&self, name: &str) -> io::Result<Opened> {
        let stat = again(|| fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW))?;
        check_is_regular(&stat)?;
        let name = OsStr::new(name);
        open_in(&self.fd, name, &self.path, self.is_shared(), Vec::new())
    }

    /// Replaces or creates a file atomically. The new file is written under an unused random name
    /// and renamed: existing files are neither followed nor opened, and readers see the old or the
    /// new content.
    ///
    /// # Errors
    /// The error of `fill`, or [`io::Error`] if the file cannot be replaced.
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

    /// Creates a file with a random name.
    fn create(&self, name: &OsStr, mode: Mode) -> io::Result<(File, OsString)> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | careful();
        for _ in 0..NAMES_TRIED {
            let mut fresh = OsString::from(".");
            fresh.push(name);
            // O_EXCL makes it safe; a random name cannot be occupied beforehand.
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

    /// Deletes a file, if it exists.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be deleted.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match again(|| unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Syncs the directory, so that renames in it survive a power failure.
    ///
    /// # Errors
    /// [`io::Error`] if that fails.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.fd.as_fd().try_clone_to_owned()?).sync_all()
    }
}

/// Replaces a world-readable file in a directory that another user may control. That user may
/// change the contents of the directory, and may have replaced it by one of theirs or by one beside
/// it, but cannot redirect the write elsewhere (see `walk`). Debian's textfile directory of
/// node_exporter needs this.
///
/// # Errors
/// [`io::Error`] if the file cannot be replaced or is not a regular file, or if other users could
/// redirect the write.
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
        // Independent of the umask.
        fchmod(file, PUBLIC_MODE)?;
        file.write_all(text.as_bytes())
    })
}
