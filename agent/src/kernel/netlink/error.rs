//! Errors of a netlink socket.

use std::io;

use peerwall_proto::netlink::ack::Ack;
use peerwall_proto::netlink::attr::DecodeError;

/// Error of a netlink socket.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The operating system refused a call.
    #[error("{doing}: {source}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("{}", describe(.0))]
    Answer(Ack),
    /// The answer is malformed.
    #[error("cannot read the kernel's answer: {0}")]
    Decode(#[from] DecodeError),
    /// Answers were lost (`ENOBUFS`), so the result is unknown.
    #[error("the kernel's answer was lost (no buffer space)")]
    Lost,
    /// Changes interrupted every attempt at a dump.
    #[error("it kept changing while it was read")]
    Disturbed,
}

impl NetlinkError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::secure_file::is_passing(source),
            Self::Answer(_) => {
                let errno = self.errno().map(io::Error::from_raw_os_error);
                errno.is_some_and(|err| crate::secure_file::is_passing(&err))
            }
            Self::Lost | Self::Disturbed => true,
            Self::Decode(_) => false,
        }
    }

    /// Returns the errno, if the error has one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Answer(ack) => Some(ack.errno),
            Self::Decode(_) | Self::Lost | Self::Disturbed => None,
        }
    }
}

/// Describes a refusal: name and meaning of the errno, the kernel's extended error message, and the
/// likely cause.
pub fn describe(ack: &Ack) -> String {
    let (name, hint) = match ack.errno {
        libc::EPERM => (
            "EPERM",
            "; it takes root (CAP_NET_ADMIN), and a table that no other process owns",
        ),
        libc::ENOENT => (
            "ENOENT",
            "; what it names is not there, or this kernel lacks an nf_tables feature, see docs/limits.md",
        ),
        libc::EEXIST => ("EEXIST", ""),
        libc::EBUSY => ("EBUSY", "; something still uses it"),
        libc::EOPNOTSUPP => (
            "EOPNOTSUPP",
            "; this kernel lacks an nf_tables feature, see docs/limits.md",
        ),
        libc::EINVAL => ("EINVAL", ""),
        libc::ENOMEM => ("ENOMEM", ""),
        libc::ERESTART => ("ERESTART", ""),
        _ => ("", ""),
    };
    let meaning = io::Error::from_raw_os_error(ack.errno).to_string();
    let meaning = meaning.split(" (os error").next().unwrap_or_default();
    let words = ack
        .message
        .as_ref()
        .map_or_else(String::new, |m| format!(" ({m})"));
    let at = ack
        .offset
        .map_or_else(String::new, |o| format!(" at byte {o} of the message"));
    format!("{name} {meaning}{words}{at}{hint}")
        .trim_start()
        .to_owned()
}
