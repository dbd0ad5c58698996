//! Sources of a policy's files and of discovered facts.

use std::fmt;
use std::net::IpAddr;

use crate::net::host::Host;
use crate::net::link::Link;
use crate::policy::{MemberSource, TemporaryPeer};

/// Address of a member with the name of its node.
pub type Member = (IpAddr, String);

/// Content of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// Name in diagnostics.
    pub name: String,
    /// Content.
    pub text: String,
    /// Reasons why users other than root could have written the file; empty for a trusted file.
    pub doubts: Vec<String>,
}

/// Error of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// Temporary failure, such as a lack of file descriptors or memory. The policy may be valid,
    /// and a later read may succeed.
    Passing(String),
    /// Permanent failure: the file is unreadable or not text.
    Wrong(String),
    /// The file does not exist.
    Absent(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing(why) | Self::Wrong(why) | Self::Absent(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ReadError {}

/// Source of a policy's files and of discovered facts: the file system and the kernel for the
/// agent, a map for tests.
pub trait Files {
    /// Reads `path`, which the policy file `relative_to` names.
    ///
    /// # Errors
    /// [`ReadError`] if the file cannot be read.
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError>;

    /// Returns the names of the files that match `pattern`, sorted.
    ///
    /// # Errors
    /// [`ReadError`] if the pattern is invalid or a directory cannot be read.
    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError>;

    /// Returns the source that the default methods delegate to; `None` if there is none.
    fn beneath(&self) -> Option<&dyn Files> {
        None
    }

    /// Returns the last valid content of a `discover` file, if it was recorded.
    ///
    /// # Errors
    /// [`ReadError`] if the record may exist but cannot be read.
    fn last_good(&self, path: &str, relative_to: &str) -> Result<Option<Text>, ReadError> {
        self.beneath()
            .map_or(Ok(None), |files| files.last_good(path, relative_to))
    }

    /// Returns the members of a source with the names of their nodes; `None` if they are unknown.
    ///
    /// # Errors
    /// [`ReadError::Passing`] after a temporary failure.
    fn members(&self, source: &MemberSource) -> Result<Option<Vec<Member>>, ReadError> {
        self.beneath()
            .map_or(Ok(None), |files| files.members(source))
    }

    /// Returns the peers that were added by hand; `None` if there never was one since the policy
    /// was loaded.
    ///
    /// # Errors
    /// [`ReadError::Passing`] after a temporary failure.
    fn temporary(&self) -> Result<Option<Vec<TemporaryPeer>>, ReadError> {
        self.beneath().map_or(Ok(None), |files| files.temporary())
    }

    /// Returns whether the policy is read again when a `discover` file appears. If not, a missing
    /// file is an error.
    fn waits(&self) -> bool {
        self.beneath().is_some_and(|files| files.waits())
    }

    /// Returns whether the policy may be for another host. If so, a missing `discover` file is not
    /// an error.
    fn is_elsewhere(&self) -> bool {
        self.beneath().is_some_and(|files| files.is_elsewhere())
    }

    /// Returns the interface of this name, if it exists and its driver is known.
    ///
    /// # Errors
    /// [`ReadError::Passing`] after a temporary failure.
    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        self.beneath().map_or(Ok(None), |files| files.link(name))
    }

    /// Returns facts of this host; `None` if the policy is for another host.
    ///
    /// # Errors
    /// [`ReadError::Passing`] after a temporary failure.
    fn host(&self) -> Result<Option<Host>, ReadError> {
        self.beneath().map_or(Ok(None), |files| files.host())
    }
}

/// Source without files.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        Err(ReadError::Wrong(format!("{path} cannot be read here")))
    }

    fn glob(&self, _: &str, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
}
