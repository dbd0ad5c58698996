//! Sources of a policy's files and of discovered facts.

use std::fmt;

use crate::net::host::Host;
use crate::net::link::Link;

/// A file that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// Name in diagnostics.
    pub name: String,
    /// Its content.
    pub text: String,
    /// Reasons why users other than root could have written it, as sentences; empty for a trusted
    /// file.
    pub doubts: Vec<String>,
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The system lacks something at the moment, such as file descriptors or memory: this says
    /// nothing about the policy, and the same read may succeed later.
    Passing(String),
    /// The file is unreadable or not text, and stays so until somebody changes it.
    Wrong(String),
    /// There is no such file.
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
    /// [`ReadError`] with a sentence that says why it cannot be read.
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError>;

    /// Returns the names of the files that match `pattern`, sorted.
    ///
    /// # Errors
    /// [`ReadError`] with a sentence that says what is wrong with the pattern.
    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError>;

    /// Where everything else comes from that this source does not decide itself; `None` if nothing
    /// is known of it.
    fn beneath(&self) -> Option<&dyn Files> {
        None
    }

    /// Returns the last valid content of a file of `discover`, if it is known.
    ///
    /// # Errors
    /// [`ReadError`] if there may be one that cannot be read.
    fn last_good(&self, path: &str, relative_to: &str) -> Result<Option<Text>, ReadError> {
        self.beneath()
            .map_or(Ok(None), |files| files.last_good(path, relative_to))
    }

    /// Whether the policy is read again when a file of `discover` appears. If not, a missing one is
    /// an error.
    fn waits(&self) -> bool {
        self.beneath().is_some_and(|files| files.waits())
    }

    /// Whether the policy may be for another host, where the files of `discover` are. If so, a
    /// missing one is not an error.
    fn is_elsewhere(&self) -> bool {
        self.beneath().is_some_and(|files| files.is_elsewhere())
    }

    /// Returns the interface of this name, if it exists and its driver is known.
    ///
    /// # Errors
    /// [`ReadError::Passing`] if the kernel cannot be asked at the moment.
    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        self.beneath().map_or(Ok(None), |files| files.link(name))
    }

    /// Returns facts of this host; `None` if the policy is for another host.
    ///
    /// # Errors
    /// [`ReadError::Passing`] if the kernel cannot be asked at the moment.
    fn host(&self) -> Result<Option<Host>, ReadError> {
        self.beneath().map_or(Ok(None), |files| files.host())
    }
}

/// No files besides the main one.
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
