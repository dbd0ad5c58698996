//! Detects changes of policy files.
//!
//! Directories are watched instead of files. A watch of a file is lost if an editor renames a new
//! file over it, or if a Kubernetes ConfigMap swaps a link to a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::system::passing;

/// Maximum number of links that are followed.
const LINKS_MAX: usize = 16;

/// Watched directories.
pub(super) struct Watch {
    inotify: Inotify,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    /// Directories that were added since the last call of `drop_others`.
    wanted: BTreeSet<PathBuf>,
}

impl Watch {
    /// Creates a watch without directories.
    ///
    /// # Errors
    /// [`Errno`] if inotify is not available.
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
            folders: BTreeMap::new(),
            wanted: BTreeSet::new(),
        })
    }

    /// Watches the directories of a file, which may not exist yet. Called before the file is read,
    /// so that no change is missed.
    pub(super) fn add(&mut self, file: &Path) {
        for folder in folders(file).iter().filter_map(|folder| nearest(folder)) {
            if !self.folders.contains_key(&folder) {
                match self.inotify.add_watch(&folder, flags()) {
                    Ok(watch) => drop(self.folders.insert(folder.clone(), watch)),
                    Err(err) => log::warn!(
                        "cannot watch {}, so changes in it are missed: {err}",
                        folder.display()
                    ),
                }
            }
            self.wanted.insert(folder);
        }
    }

    /// Drops the directories that were not added since the last call.
    pub(super) fn drop_others(&mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        let inotify = &self.inotify;
        self.folders.retain(|folder, watch| {
            let keep = wanted.contains(folder);
            if !keep {
                let _ = inotify.rm_watch(*watch);
            }
            keep
        });
    }

    /// Reads the pending events. Returns whether there were any.
    pub(super) fn drain(&mut self) -> bool {
        let mut happened = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    happened |= !events.is_empty();
                    for event in events {
                        // The directory was deleted; it is watched again when the files are read
                        // again.
                        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                            self.folders.retain(|_, watch| *watch != event.wd);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return happened,
                // The events are still pending.
                Err(err) if passing::survive(err as i32) => return happened,
                Err(err) => {
                    log::warn!("cannot read inotify events, so changes of files are missed: {err}");
                    return true;
                }
            }
        }
    }
}

fn flags() -> AddWatchFlags {
    AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_ONLYDIR
}

/// Returns the directories of a file and of all targets of its links.
fn folders(file: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut path = file.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        found.push(folder.clone());
        // Also the directory of a link in the middle of the path, as in a ConfigMap.
        found.extend(link_parents(&folder));
        match std::fs::read_link(&path) {
            Ok(target) => path = folder.join(target),
            Err(_) => break,
        }
    }
    found
}

/// Returns the directories of the links in a path.
fn link_parents(folder: &Path) -> Vec<PathBuf> {
    let links = folder.ancestors().filter(|part| part.is_symlink());
    links
        .filter_map(|link| link.parent().map(Path::to_owned))
        .collect()
}

/// Returns the real path of a directory, or of its nearest existing parent, in which it may be
/// created. Real paths are necessary because a swapped link leads to another directory.
fn nearest(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find_map(|part| {
        let part = match part == Path::new("") {
            true => Path::new("."),
            false => part,
        };
        part.canonicalize().ok()
    })
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_way_of_changing_a_file_is_seen() {
        let base = std::env::temp_dir().join(format!("peerwall-watch-{}", std::process::id()));
        fs::create_dir_all(base.join("..one")).unwrap();
        fs::write(base.join("..one/policy.toml"), "1").unwrap();
        // Like the kubelet.
        symlink("..one", base.join("..data")).unwrap();
        symlink("..data/policy.toml", base.join("policy.toml")).unwrap();
        fs::write(base.join("plain.toml"), "1").unwrap();
        let mut watch = Watch::new().unwrap();
        let late = base.join("run/flannel/subnet.env");
        for file in [&base.join("policy.toml"), &base.join("plain.toml"), &late] {
            watch.add(file);
        }
        watch.drop_others();
        assert!(!watch.drain());
        let write = |name: &str| fs::write(base.join(name), "2").unwrap();
        let ways: [(&str, &dyn Fn()); 5] = [
            ("edited in place", &|| write("plain.toml")),
            ("replaced by rename", &|| {
                write("new");
                fs::rename(base.join("new"), base.join("plain.toml")).unwrap();
            }),
            ("the directory behind the link was swapped", &|| {
                fs::create_dir_all(base.join("..two")).unwrap();
                write("..two/policy.toml");
                symlink("..two", base.join("..tmp")).unwrap();
                fs::rename(base.join("..tmp"), base.join("..data")).unwrap();
            }),
            ("removed", &|| {
                fs::remove_file(base.join("plain.toml")).unwrap()
            }),
            ("created again", &|| write("plain.toml")),
        ];
        for (way, change) in ways {
            change();
            assert!(watch.drain(), "{way}");
            assert!(!watch.drain(), "{way}");
        }
        // The file's directory does not exist yet. After the next read, a nearer directory is
        // watched.
        fs::create_dir_all(late.parent().unwrap()).unwrap();
        assert!(watch.drain());
        watch.add(&late);
        watch.drop_others();
        fs::write(&late, "1").unwrap();
        assert!(watch.drain());
        write("plain.toml");
        assert!(!watch.drain(), "it is no longer watched");
        fs::remove_dir_all(base).unwrap();
    }
}
