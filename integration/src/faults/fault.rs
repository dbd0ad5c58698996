//! Faults: which errors a call can have, and what strace is told.

use std::fmt;

/// A free page of a disk, in the place of a call: N of them are free.
pub(super) const PAGE: &str = "page";

/// What happens in the place of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It returns this error.
    Error(&'static str),
    /// The process is killed.
    Kill,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the system call.
    pub call: String,
    /// Which one of this name, from 1.
    pub nth: u32,
    /// What happens.
    pub effect: Effect,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::Error(error) => error,
            Effect::Kill => "KILL",
        };
        write!(f, "{}#{}={effect}", self.call, self.nth)
    }
}

impl Fault {
    /// Reads `CALL#N=ERROR`, as a fault is printed.
    pub fn parse(text: &str) -> Option<Self> {
        let (call, rest) = text.split_once('#')?;
        let (nth, effect) = rest.split_once('=')?;
        Some(Self {
            call: call.to_owned(),
            nth: nth.parse().ok()?,
            effect: match effect {
                "KILL" => Effect::Kill,
                error => Effect::Error(String::leak(error.to_owned())),
            },
        })
    }

    /// The argument of strace's `-e inject=`.
    pub fn injection(&self) -> String {
        let effect = match self.effect {
            Effect::Error(error) => format!("error={error}"),
            Effect::Kill => "signal=SIGKILL".to_owned(),
        };
        format!("{}:{effect}:when={}", self.call, self.nth)
    }

    /// Whether the process dies of it.
    pub fn kills(&self) -> bool {
        self.effect == Effect::Kill
    }

    /// Where it stands in the order that a seed gives.
    pub(super) fn rank(&self, seed: u64, scenario: &str) -> u64 {
        let text = format!("{scenario} {self}");
        // FNV-1a, and the finalizer of splitmix64.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed =
            (hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }
}

/// Errors that a call can have on a real host; none for calls that are left out.
///
/// Left out are calls that do not return, and two whose failures strace cannot imitate: `close`
/// frees the descriptor even where it fails, and the kernel's `brk` returns the old end of the heap
/// instead of an error.
pub fn errors(call: &str) -> &'static [&'static str] {
    match call {
        PAGE => &["ENOSPC"],
        "close" | "brk" | "exit_group" | "exit" | "rt_sigreturn" | "restart_syscall" => &[],
        "open" | "openat" | "openat2" => &[
            "EACCES", "EMFILE", "ENOMEM", "EIO", "EINTR", "ENOSPC", "EROFS",
        ],
        "read" | "pread64" | "readv" => &["EIO", "EINTR", "ENOMEM"],
        "write" | "writev" | "pwrite64" => &["EIO", "ENOSPC", "EINTR"],
        "fsync" | "fdatasync" => &["EIO", "ENOSPC", "EINTR"],
        "rename" | "renameat" | "renameat2" => &["EIO", "ENOSPC", "EROFS", "EACCES"],
        "unlink" | "unlinkat" | "rmdir" => &["EIO", "EROFS", "EPERM"],
        "mkdir" | "mkdirat" => &["ENOSPC", "EROFS", "EACCES"],
        "fchmod" | "chmod" | "fchmodat" => &["EPERM", "EROFS", "EIO"],
        "flock" => &["EINTR", "ENOLCK", "EAGAIN"],
        "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => &["EACCES", "EIO", "ENOMEM"],
        "getdents64" | "lseek" => &["EIO", "ENOMEM"],
        "readlink" | "readlinkat" | "getcwd" | "access" | "faccessat2" => &["EACCES", "ENOMEM"],
        "socket" | "socketpair" => &["EMFILE", "ENOBUFS", "EPERM"],
        "bind" | "listen" => &["EADDRINUSE", "ENOMEM", "EPERM"],
        "connect" => &["EINTR", "EAGAIN", "ECONNREFUSED", "EACCES"],
        "setsockopt" | "getsockopt" | "getsockname" => &["ENOMEM", "ENOBUFS", "EPERM"],
        "sendto" | "sendmsg" => &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN", "EPERM"],
        "recvfrom" | "recvmsg" => &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN"],
        "accept" | "accept4" => &["EMFILE", "ECONNABORTED", "EINTR", "ENOMEM"],
        "poll" | "ppoll" => &["EINTR", "ENOMEM", "EAGAIN"],
        "clone" | "clone3" | "fork" | "vfork" => &["EAGAIN", "ENOMEM"],
        "execve" => &["ENOMEM", "EACCES", "EIO"],
        "pipe2" | "pipe" | "dup" | "fcntl" => &["EMFILE", "EINTR"],
        "wait4" | "waitid" => &["EINTR", "ECHILD"],
        "inotify_init1" => &["EMFILE", "ENOMEM"],
        "inotify_add_watch" => &["ENOSPC", "ENOMEM", "EACCES"],
        "mmap" | "mremap" | "munmap" | "mprotect" => &["ENOMEM"],
        "nanosleep" | "clock_nanosleep" => &["EINTR"],
        // Of few bytes, it has no other error.
        "getrandom" => &["ENOSYS"],
        "kill" => &["EPERM", "ESRCH"],
        _ => &["EPERM", "ENOMEM"],
    }
}
