//! Errors of a netlink socket.

use std::io;

use peerwall_proto::netlink::ack::Ack;
use peerwall_proto::netlink::attr::DecodeError;

/// What can go wrong with a socket.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The operating system refused a call.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error("{}", describe(.0))]
    Answer(Ack),
    /// The answer is not what it should be.
    #[error("cannot read the kernel's answer: {0}")]
    Decode(#[from] DecodeError),
    /// Answers were lost (`ENOBUFS`); what they said is not known.
    #[error("the kernel's answer was lost (no buffer space)")]
    Lost,
    /// The dump was disturbed by changes again and again.
    #[error("it kept changing while it was read")]
    Disturbed,
}

impl NetlinkError {
    /// Whether the same request may succeed later, since nothing was wrong with it.
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

    /// The errno, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Answer(ack) => Some(ack.errno),
            Self::Decode(_) | Self::Lost | Self::Disturbed => None,
        }
    }
}

/// An errno's name and meaning, with the kernel's own words and the likely cause.
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
