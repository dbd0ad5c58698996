//! Walks along a path, and judges every directory and link of it.
//!
//! Each step opens the next name by the descriptor of the current directory, without following it,
//! and judges what was opened. A rename between two steps only changes what the next step opens and
//! judges; after the walk, the opened directory stays the same one wherever it is moved.
//!
//! Below a directory of another user, that user chooses what a name leads to. A walk that followed
//! no link and no `..` there (`led`) ends in one of these:
//!
//! - a directory that the user can write: a directory can be moved into another one only by users
//!   who can write it, because its `..` changes (`vfs_rename()` in `fs/namei.c`),
//! - a directory that was in the user's directory already, under another name. It may be root's and
//!   closed to the user, if root made one there.
//!
//! With a link or `..`, it could end anywhere. In a sticky directory of root, only the owner can
//! rename or delete a file or a link. A link there must have a single name, because without
//! `fs.protected_hardlinks` other users can hard-link a link of root's.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::geteuid;

use super::{OTHERS_WRITE, again, careful};

/// Maximum number of links, like in the kernel (`MAXSYMLINKS` in `include/linux/namei.h`).
const LINKS_MAX: usize = 40;
const STICKY: u32 = 0o1000;

/// A walk along a path.
pub(super) struct Walk {
    /// Current directory.
    pub(super) at: OwnedFd,
    pub(super) mode: u32,
    /// Real path of the current directory.
    pub(super) path: PathBuf,
    /// Whether other users can create files in it.
    pub(super) is_shared: bool,
    /// Remaining names, the next one last.
    left: Vec<OsString>,
    links: usize,
    pub(super) doubts: Vec<String>,
    /// Doubts about the current directory.
    pub(super) doubts_here: Vec<String>,
    /// Reason why users other than root could have redirected the walk to any directory: it
    /// followed a link or `..` of theirs, or below a directory that they can change.
    pub(super) led: Option<String>,
}

impl Walk {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let root = open_root()?;
        let mut walk = Self {
            at: root,
            mode: 0,
            path: PathBuf::from("/"),
            is_shared: false,
            left: Vec::new(),
            links: 0,
            doubts: Vec::new(),
            doubts_here: Vec::new(),
            led: None,
        };
        walk.begin(open_root()?)?;
        walk.push(&path);
        Ok(walk)
    }

    /// Restarts at the root directory, as for an absolute link.
    fn begin(&mut self, root: OwnedFd) -> io::Result<()> {
        let stat = fstat(&root)?;
        self.enter(root, PathBuf::from("/"), &stat);
        Ok(())
    }

    /// Adds the names of a path to the remaining ones.
    fn push(&mut self, path: &Path) {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        });
        self.left.extend(names);
    }

    /// Walks to the end. Returns the name and status of a file; `None` if the path ends at a
    /// directory. Missing directories are created with the mode `make`.
    pub(super) fn finish(
        &mut self,
        make: Option<Mode>,
    ) -> io::Result<Option<(OsString, FileStat)>> {
        let flags = OFlag::O_PATH | careful();
        while let Some(name) = self.left.pop() {
            let open = || again(|| openat(&self.at, name.as_os_str(), flags, Mode::empty()));
            let found = match (open(), make) {
                (Err(err), Some(mode)) if err.kind() == io::ErrorKind::NotFound => {
                    self.make(&name, mode)?;
                    open()?
                }
                (found, _) => found?,
            };
            let stat = fstat(&found)?;
            match stat.st_mode & libc::S_IFMT {
                libc::S_IFLNK => self.follow(&found, &name, &stat)?,
                libc::S_IFDIR => {
                    let path = match name == ".." {
                        true => {
                            self.note_led();
                            self.path.parent().unwrap_or(Path::new("/")).to_owned()
                        }
                        false => self.path.join(&name),
                    };
                    self.enter(found, path, &stat);
                }
                _ if self.left.is_empty() => {
                    self.settle();
                    return Ok(Some((name, stat)));
                }
                _ => return Err(Errno::ENOTDIR.into()),
            }
        }
        Ok(None)
    }

    /// Creates a directory, unless another user controls the current one.
    fn make(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        let mut doubts = self.doubts.iter().chain(&self.doubts_here);
        if let Some(doubt) = doubts.next() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                doubt.clone(),
            ));
        }
        let mode = match self.left.is_empty() {
            true => mode,
            false => Mode::from_bits_truncate(0o755),
        };
        match again(|| mkdirat(&self.at, name, mode)) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
            _ => Ok(()),
        }
    }

    fn settle(&mut self) {
        let here = std::mem::take(&mut self.doubts_here);
        for doubt in here {
            if !self.doubts.contains(&doubt) {
                self.doubts.push(doubt);
            }
        }
    }

    /// Records that the walk leaves the current directory, which other users may have arranged.
    fn note_led(&mut self) {
        if self.led.is_none() {
            self.led = self.doubts.iter().chain(&self.doubts_here).next().cloned();
        }
    }

    fn enter(&mut self, found: OwnedFd, path: PathBuf, stat: &FileStat) {
        self.settle();
        self.mode = stat.st_mode & 0o7777;
        let writable = self.mode & OTHERS_WRITE != 0;
        if !is_trusted(stat.st_uid) && !is_outside(stat.st_uid) {
            let owner = stat.st_uid;
            self.doubts_here.push(format!(
                "directory {} belongs to user {owner}",
                path.display()
            ));
        }
        if writable && self.mode & STICKY == 0 {
            let mode = self.mode;
            self.doubts_here.push(format!(
                "directory {} can be written by others (mode {mode:o})",
                path.display()
            ));
        }
        self.is_shared = writable;
        self.at = found;
        self.path = path;
    }

    fn follow(&mut self, link: &OwnedFd, name: &OsStr, stat: &FileStat) -> io::Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::ELOOP.into());
        }
        let path = self.path.join(name);
        let path = path.display();
        if !is_trusted(stat.st_uid) && !is_outside(stat.st_uid) {
            let owner = stat.st_uid;
            self.doubts_here
                .push(format!("link {path} belongs to user {owner}"));
        }
        if self.is_shared && stat.st_nlink > 1 {
            self.doubts_here.push(hard_link(&path));
        }
        self.note_led();
        let target = PathBuf::from(readlinkat(link, "")?);
        // Targets of `/proc/PID/fd`, for example by /dev/stdin.
        if self.path.starts_with("/proc") && target.to_string_lossy().contains(":[") {
            return Err(io::Error::other(
                "it is a pipe or socket, not a regular file",
            ));
        }
        if target.is_absolute() {
            self.begin(open_root()?)?;
        }
        self.push(&target);
        Ok(())
    }
}

/// Doubt about a file or link with several names in a directory that others can write.
pub(super) fn hard_link(path: &impl Display) -> String {
    format!("{path} is a hard link in a directory that others can write")
}

fn open_root() -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | careful();
    again(|| nix::fcntl::open("/", flags, Mode::empty()))
}

/// Whether this process trusts the files of a user.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Whether an owner is outside of this user namespace, where all such users share one id. Their
/// directories, such as the root directory, belong to the outer host and are accepted.
fn is_outside(uid: u32) -> bool {
    static OVERFLOW: OnceLock<Option<u32>> = OnceLock::new();
    *OVERFLOW.get_or_init(overflow_uid) == Some(uid)
}

/// Returns the user id of unmapped owners; `None` if all users are mapped (user_namespaces(7)).
fn overflow_uid() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let shown = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    let shown: u32 = shown.trim().parse().ok()?;
    let is_mapped = map.lines().any(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0u64));
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        let (first, count) = (first.unwrap_or(0), count.unwrap_or(0));
        (first..first + count).contains(&u64::from(shown))
    });
    (!is_mapped).then_some(shown)
}
