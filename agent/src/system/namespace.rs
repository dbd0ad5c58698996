//! Network namespaces of a process of its own, where it can change rules without being root.

use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Position of `CAP_SYS_ADMIN` in a set of capabilities (`include/uapi/linux/capability.h`).
const CAP_SYS_ADMIN: u32 = 21;

/// The files that make the caller root in a user namespace (`user_namespaces(7)`), with their text.
/// Prepared before fork(2), because text needs an allocation.
pub struct Maps([(&'static str, String); 3]);

impl Maps {
    /// Prepares the maps for the user of this process.
    pub fn of_caller() -> Self {
        Self([
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("0 {} 1", geteuid())),
            ("/proc/self/gid_map", format!("0 {} 1", getegid())),
        ])
    }

    /// Moves the caller into a network namespace of its own, and into a user namespace if it may
    /// not create the former. Safe between fork(2) and exec: unshare(2), open(2) and write(2) are
    /// (signal-safety(7)), and the short paths need no allocation.
    ///
    /// # Errors
    /// [`io::Error`] if the system permits neither.
    pub fn separate(&self) -> io::Result<()> {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Err(Errno::EPERM) => {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
                self.write()
            }
            result => Ok(result?),
        }
    }

    fn write(&self) -> io::Result<()> {
        for (path, text) in &self.0 {
            std::fs::write(path, text)?;
        }
        Ok(())
    }
}

/// Reports whether this process may create network namespaces, which needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// [`io::Error`] if the process cannot read its own status.
pub fn is_permitted() -> io::Result<bool> {
    let status = procfs::process::Process::myself().and_then(|own| own.status());
    let status = status.map_err(io::Error::other)?;
    Ok(status.capeff >> CAP_SYS_ADMIN & 1 == 1)
}

/// Makes this process one that may create network namespaces: unless it may already, it enters a
/// user namespace, and has no more rights on the host than before. For processes without threads.
///
/// # Errors
/// [`io::Error`] if the system does not permit user namespaces.
pub fn permit() -> io::Result<()> {
    if is_permitted()? {
        return Ok(());
    }
    let maps = Maps::of_caller();
    unshare(CloneFlags::CLONE_NEWUSER)?;
    maps.write()
}
