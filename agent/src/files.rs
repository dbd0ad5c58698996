//! The policy's files, from the file system.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use peerwall_core::host::Host;
use peerwall_core::link::Link;
use peerwall_core::policy::load::Files;

use crate::agent::state::{self, State};

/// A policy file larger than this is refused: lists of peers are a few megabytes at most.
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Reads from the file system; relative paths are relative to the file that names them.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem {
    /// Whether what is to be discovered may come later.
    pub waits: bool,
}

impl FileSystem {
    /// Reads a whole file as text.
    ///
    /// # Errors
    /// A sentence that names the file and says why not.
    pub fn text(path: &Path) -> Result<String, String> {
        let say = |err: io::Error| format!("cannot read {}: {}", path.display(), plain(&err));
        let meta = fs::metadata(path).map_err(say)?;
        if meta.is_dir() {
            return Err(format!("cannot read {}: it is a directory", path.display()));
        }
        // A device or a pipe has no length of its own, and perhaps no end.
        let mut bytes =
            Vec::with_capacity(usize::try_from(meta.len().min(FILE_MAX_BYTES)).unwrap_or(0));
        let file = fs::File::open(path).map_err(say)?;
        file.take(FILE_MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(say)?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(format!(
                "cannot read {}: it is larger than {} MiB",
                path.display(),
                FILE_MAX_BYTES >> 20
            ));
        }
        String::from_utf8(bytes).map_err(|err| {
            format!(
                "cannot read {}: byte {} is not UTF-8 text",
                path.display(),
                err.utf8_error().valid_up_to()
            )
        })
    }
}

/// The error without its number.
fn plain(err: &io::Error) -> String {
    let text = err.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Where a path is that stands in the file `relative_to`.
pub(crate) fn beside(path: impl AsRef<Path>, relative_to: &str) -> PathBuf {
    match Path::new(relative_to).parent() {
        Some(folder) => folder.join(path),
        None => path.as_ref().to_owned(),
    }
}

impl Files for FileSystem {
    fn read(&self, path: &str, relative_to: &str) -> Result<(String, String), String> {
        let path = beside(path, relative_to);
        let text = Self::text(&path)?;
        Ok((path.display().to_string(), text))
    }

    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, String> {
        let folder = beside("", relative_to);
        let full = match Path::new(pattern).is_absolute() {
            true => pattern.to_owned(),
            // The folder's own name is no pattern.
            false => format!(
                "{}",
                Path::new(&glob::Pattern::escape(&folder.display().to_string()))
                    .join(pattern)
                    .display()
            ),
        };
        let paths = glob::glob(&full).map_err(|err| format!("`{pattern}` is no pattern: {err}"))?;
        // A file that includes its own folder does not mean itself.
        let itself = std::path::absolute(relative_to).ok();
        let mut names = Vec::new();
        for path in paths {
            let path = path.map_err(|err| err.to_string())?;
            // Absolute now, so that `read` does not put the folder before it once more.
            let path = std::path::absolute(&path).map_err(|err| err.to_string())?;
            if Some(&path) != itself.as_ref() {
                names.push(path.display().to_string());
            }
        }
        Ok(names)
    }

    fn last_good(&self, path: &str, relative_to: &str) -> Option<(String, String)> {
        let name = beside(path, relative_to).display().to_string();
        let text = State::open().discovered().remove(&state::absolute(&name))?;
        Some((name, text))
    }

    fn waits(&self) -> bool {
        self.waits
    }

    fn link(&self, name: &str) -> Option<Link> {
        crate::links::find(name)
    }

    fn host(&self) -> Option<Host> {
        match crate::host::read() {
            Ok(host) => Some(host),
            Err(err) => {
                log::warn!("cannot read this host's interfaces and routes: {err}");
                None
            }
        }
    }
}
