//! Why a source could not be read.

use std::fmt;
use std::io;

use serde::Serialize;

/// Kinds of errors; their names are part of the status file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No connection, or the server is not able to answer.
    Unreachable,
    /// The server did not answer in time.
    Timeout,
    /// The server's certificate was not accepted, or TLS failed.
    Tls,
    /// The server does not accept the credential.
    Unauthorized,
    /// The server denies access to the nodes.
    Forbidden,
    /// The server does not have what was asked for.
    NotFound,
    /// The answer cannot be understood, or is older than the last one.
    Protocol,
    /// There are more addresses than a source may have.
    TooMany,
    /// A credential cannot be read.
    Credential,
    /// A name of DNS cannot be resolved.
    Name,
}

/// An error of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its kind.
    pub kind: Kind,
    /// Where, what, and what to do: one line without a full stop.
    pub message: String,
}

impl Error {
    /// Returns an error; control characters in the message are replaced.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let printable = |each: char| if each.is_control() { ' ' } else { each };
        let message = message.chars().take(MESSAGE_MAX).map(printable).collect();
        Self { kind, message }
    }

    /// Returns it with the place in front of the message.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self::new(self.kind, format!("{place}: {}", self.message))
    }
}

/// Maximum length of a message in characters: servers write parts of it.
const MESSAGE_MAX: usize = 1000;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why a source is no longer followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The source was removed from the configuration, or its entry changed.
    Stopped,
    /// A credential changed: connect again with the new one.
    Renewed,
    /// It failed.
    Failed(Error),
}

impl Ended {
    /// Returns a failure.
    pub fn failed(kind: Kind, message: impl Into<String>) -> Self {
        Self::Failed(Error::new(kind, message))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Renewed => f.write_str("a credential changed"),
            Self::Failed(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for Ended {}

impl From<Error> for Ended {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

/// So that an `Ended` can pass through [`io::Read`]; see [`Ended::from`].
impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        Self::other(ended)
    }
}

impl From<io::Error> for Ended {
    /// Returns the `Ended` within, or the error as one of the protocol: only decoders return
    /// others.
    fn from(err: io::Error) -> Self {
        match err.downcast::<Self>() {
            Ok(ended) => ended,
            Err(err) => Self::failed(Kind::Protocol, err.to_string()),
        }
    }
}

/// What following a source returns unless it ends: nothing, because it has no other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {}

/// Result of a step in following a source.
pub type Step<T> = Result<T, Ended>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_survives_the_way_through_a_reader() {
        for ended in [
            Ended::Stopped,
            Ended::Renewed,
            Ended::failed(Kind::Timeout, "no answer"),
        ] {
            assert_eq!(Ended::from(io::Error::from(ended.clone())), ended);
        }
        let garbage = io::Error::new(io::ErrorKind::InvalidData, "not JSON");
        assert_eq!(
            Ended::from(garbage),
            Ended::failed(Kind::Protocol, "not JSON")
        );
    }

    #[test]
    fn a_message_is_one_short_line() {
        let err = Error::new(Kind::Protocol, format!("a\nb\u{1b}{}", "x".repeat(2000)));
        assert!(err.message.starts_with("a b x") && err.message.len() == MESSAGE_MAX);
    }
}
