//! I/O errors: whether they are transient, and with the name of the file.

use std::io;
use std::path::{Path, PathBuf};

use crate::system::passing;

/// Whether the operation may succeed later without a change of files: a transient error by
/// [`passing`], or a failure of the file system.
pub fn is_passing(err: &io::Error) -> bool {
    let of_files = [libc::EIO, libc::ETIMEDOUT, libc::ESTALE];
    match err.raw_os_error() {
        Some(errno) => passing::is_passing(errno) || of_files.contains(&errno),
        // The error may be wrapped with the name of the file.
        None => cause(err).is_some_and(is_passing),
    }
}

fn cause(err: &io::Error) -> Option<&io::Error> {
    let named = err.get_ref()?.downcast_ref::<Named>()?;
    Some(&named.source)
}

/// An error with the name of its file.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    source: io::Error,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), plain(&self.source))
    }
}

impl std::error::Error for Named {}

/// Adds the name of the file to an error.
pub fn named(path: &Path, source: io::Error) -> io::Error {
    let path = path.to_owned();
    io::Error::new(source.kind(), Named { path, source })
}

/// Returns the text of an error without its number.
pub fn plain(err: &io::Error) -> String {
    let text = err.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
