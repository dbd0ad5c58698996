//! Files with credentials. They are read for every new connection, and a change of one ends it.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Ended, Error, Kind, Step};

/// Maximum size of a file in bytes; bundles of authorities have some 200 KiB.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// How often changes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What distinguishes one version of a file from another: device, inode, size, and the time of the
/// last change in seconds and nanoseconds. `None` if there is no file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Whether to stop, and the files that were read.
#[derive(Debug)]
pub struct Vigil {
    stop: Arc<AtomicBool>,
    files: Vec<(PathBuf, Stamp)>,
    looked: Cell<Instant>,
}

impl Vigil {
    /// Returns one that watches no file yet. `stop` ends the source.
    pub fn new(stop: &Arc<AtomicBool>) -> Self {
        Self {
            stop: Arc::clone(stop),
            files: Vec::new(),
            looked: Cell::new(Instant::now()),
        }
    }

    /// Reads a file, and watches it from now on. A name without a slash is that of a credential of
    /// the service (`LoadCredential=` in systemd.exec(5)).
    ///
    /// # Errors
    /// [`Kind::Credential`] if it cannot be read, is empty or too large.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let path = path(name)?;
        // Before it is read: a change meanwhile is a change.
        let stamp = stamp(&path);
        let wrong = |why: &str| Error::new(Kind::Credential, format!("{}: {why}", path.display()));
        let mut bytes = Vec::new();
        let file = File::open(&path)
            .and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
        self.files.push((path.clone(), stamp));
        file.map_err(|err| wrong(&err.to_string()))?;
        match bytes.len() as u64 {
            0 => Err(wrong("the file is empty")),
            len if len > FILE_MAX_BYTES => Err(wrong("the file is too large for a credential")),
            _ => Ok(bytes),
        }
    }

    /// Returns whether to go on.
    ///
    /// # Errors
    /// [`Ended::Stopped`] or [`Ended::Renewed`].
    pub fn check(&self) -> Step<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Ended::Stopped);
        }
        if self.looked.get().elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked.set(Instant::now());
        match self
            .files
            .iter()
            .any(|(path, before)| stamp(path) != *before)
        {
            true => Err(Ended::Renewed),
            false => Ok(()),
        }
    }

    /// Waits.
    ///
    /// # Errors
    /// Those of [`Self::check`], which end it early.
    pub fn sleep(&self, time: Duration) -> Step<()> {
        const STEP: Duration = Duration::from_millis(200);
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    let time = (meta.mtime(), meta.mtime_nsec());
    Some((meta.dev(), meta.ino(), meta.size(), time.0, time.1))
}

fn path(name: &str) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return Ok(name.into());
    }
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) => Ok(Path::new(&directory).join(name)),
        None => Err(Error::new(
            Kind::Credential,
            format!(
                "{name} is the name of a credential, but this service has none; add \
                 LoadCredential={name}:/PATH to its unit, or use a path"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vigil() -> (Arc<AtomicBool>, Vigil) {
        let stop = Arc::new(AtomicBool::new(false));
        let vigil = Vigil::new(&stop);
        (stop, vigil)
    }

    #[test]
    fn a_changed_file_ends_a_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let name = path.display().to_string();
        // As the kubelet replaces a token: by a link to another file.
        fs::write(folder.path().join("1"), "one").unwrap();
        std::os::unix::fs::symlink("1", &path).unwrap();
        let (_, mut vigil) = vigil();
        assert_eq!(vigil.read(&name).unwrap(), b"one");
        let look = |vigil: &Vigil| {
            vigil
                .looked
                .set(Instant::now().checked_sub(LOOK_EVERY).unwrap());
            vigil.check()
        };
        assert_eq!(look(&vigil), Ok(()));
        fs::write(folder.path().join("2"), "two").unwrap();
        std::os::unix::fs::symlink("2", folder.path().join("new")).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(look(&vigil), Err(Ended::Renewed));
    }

    #[test]
    fn an_unreadable_file_is_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (_, mut vigil) = vigil();
        let err = vigil.read(&path.display().to_string()).unwrap_err();
        assert_eq!(err.kind, Kind::Credential);
        assert!(err.message.contains("No such file"), "{err}");
        fs::write(&path, "").unwrap();
        vigil
            .looked
            .set(Instant::now().checked_sub(LOOK_EVERY).unwrap());
        assert_eq!(vigil.check(), Err(Ended::Renewed));
        let err = vigil.read(&path.display().to_string()).unwrap_err();
        assert!(err.message.contains("empty"), "{err}");
    }

    #[test]
    fn a_stop_ends_a_pause() {
        let (stop, vigil) = vigil();
        let start = Instant::now();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(vigil.sleep(Duration::from_secs(60)), Err(Ended::Stopped));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
