//! Reads the files of a policy from the file system.

use std::io;
use std::path::{Path, PathBuf};

use peerwall_core::net::host::Host;
use peerwall_core::net::link::Link;
use peerwall_core::policy::load::{Files, Member, ReadError, Text};
use peerwall_core::policy::{MemberSource, TemporaryPeer};

use crate::kernel::netlink::NetlinkError;
use crate::secure_file::{self, is_passing};
use crate::store::policy_text::absolute;
use crate::store::temporary::Temporary;
use crate::store::{self, State};

/// The file system; relative paths are relative to the file that names them.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem {
    /// Whether missing discovered facts are accepted and may appear later.
    pub waits: bool,
    /// Whether the policy is about to be loaded again, which ends temporary peers that are not
    /// kept.
    pub reloads: bool,
}

/// Resolves a path in the file `relative_to`.
pub(crate) fn beside(path: impl AsRef<Path>, relative_to: &str) -> PathBuf {
    match Path::new(relative_to).parent() {
        Some(folder) => folder.join(path),
        None => path.as_ref().to_owned(),
    }
}

impl FileSystem {
    /// The file system of a host whose discovered facts may appear later.
    pub fn waiting() -> Self {
        Self {
            waits: true,
            ..Self::default()
        }
    }

    /// Returns the saved members of a source.
    ///
    /// # Errors
    /// [`ReadError::Passing`] after a temporary failure.
    pub(super) fn members_of(source: &str) -> Result<Option<Vec<Member>>, ReadError> {
        match State::open().members(source) {
            Ok(saved) => Ok(saved.map(|saved| saved.members)),
            Err(err) if is_passing(&err) => Err(ReadError::Passing(err.to_string())),
            Err(err) => {
                log::warn!("{err}");
                Ok(None)
            }
        }
    }
}

impl Files for FileSystem {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        secure_file::text(&beside(path, relative_to))
    }

    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        let folder = beside("", relative_to);
        let full = match Path::new(pattern).is_absolute() {
            true => pattern.to_owned(),
            // The name of the directory is not a pattern.
            false => format!(
                "{}",
                Path::new(&glob::Pattern::escape(&folder.display().to_string()))
                    .join(pattern)
                    .display()
            ),
        };
        let paths = glob::glob(&full).map_err(|err| {
            ReadError::Wrong(format!("`{pattern}` is not a valid pattern: {err}"))
        })?;
        // A file that includes its own directory does not include itself.
        let itself = std::path::absolute(relative_to).ok();
        let mut names = Vec::new();
        for path in paths {
            let path = path.map_err(|err| unlisted(&err))?;
            // `read` does not resolve an absolute path again.
            let path = std::path::absolute(&path)
                .map_err(|err| ReadError::Wrong(secure_file::plain(&err)))?;
            if Some(&path) != itself.as_ref() {
                names.push(path.display().to_string());
            }
        }
        Ok(names)
    }

    fn last_good(&self, path: &str, relative_to: &str) -> Result<Option<Text>, ReadError> {
        let name = beside(path, relative_to).display().to_string();
        let known = match State::open().discovered() {
            Ok(known) => known,
            Err(err) if is_passing(&err) => return Err(ReadError::Passing(err.to_string())),
            Err(err) => {
                log::warn!("{err}");
                return Ok(None);
            }
        };
        let text = known.get(&absolute(&name));
        Ok(text.map(|text| Text {
            name,
            text: text.clone(),
            doubts: Vec::new(),
        }))
    }

    fn members(&self, source: &MemberSource) -> Result<Option<Vec<Member>>, ReadError> {
        Self::members_of(&source.name)
    }

    fn temporary(&self) -> Result<Option<Vec<TemporaryPeer>>, ReadError> {
        match State::open().temporary() {
            Ok(saved) => {
                let saved = match self.reloads {
                    true => saved.and_then(Temporary::kept),
                    false => saved,
                };
                Ok(saved.map(|saved| saved.at(store::uptime())))
            }
            // An ordinary user who checks a policy.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(err) if is_passing(&err) => Err(ReadError::Passing(err.to_string())),
            Err(err) => {
                log::warn!("{err}");
                Ok(None)
            }
        }
    }

    fn waits(&self) -> bool {
        self.waits
    }

    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        asked(
            &format!("interface {name}"),
            crate::kernel::links::find(name),
        )
    }

    fn host(&self) -> Result<Option<Host>, ReadError> {
        let read = crate::host::read().map(Some);
        asked("this host's interfaces and routes", read)
    }
}

/// Converts an answer of the kernel; `None` after a permanent error.
fn asked<T>(what: &str, answer: Result<Option<T>, NetlinkError>) -> Result<Option<T>, ReadError> {
    match answer {
        Ok(found) => Ok(found),
        Err(err) => {
            let why = format!("cannot read {what}: {err}");
            match err.is_passing() {
                true => Err(ReadError::Passing(why)),
                false => {
                    log::warn!("{why}");
                    Ok(None)
                }
            }
        }
    }
}

fn unlisted(err: &glob::GlobError) -> ReadError {
    let why = format!(
        "cannot list {}: {}",
        err.path().display(),
        secure_file::plain(err.error())
    );
    match is_passing(err.error()) {
        true => ReadError::Passing(why),
        false => ReadError::Wrong(why),
    }
}
