//! The program `peerwall-sources`, and the files that it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long to wait for something that has to happen, on a busy computer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running program; killed when it goes out of scope.
pub struct Sources {
    folder: TempDir,
    child: Child,
}

impl Sources {
    /// Starts the program with these sources. A watch lasts two seconds, and so does the wait for
    /// an answer.
    ///
    /// # Panics
    /// If the program is not built: `cargo build` makes it.
    pub fn start(sources: &[Value]) -> Self {
        Self::start_with(sources, |_| {})
    }

    /// The same, with more for the process: its environment, for example.
    ///
    /// # Panics
    /// If the program is not built.
    pub fn start_with(sources: &[Value], more: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        configure(folder.path(), sources);
        let mut command = Command::new(sources_bin());
        command
            .arg("--config")
            .arg(folder.path().join("sources.json"));
        command
            .arg("--directory")
            .arg(folder.path().join("sources"));
        command.args(["--watch", "2", "--timeout", "2"]);
        let log = fs::File::create(folder.path().join("log")).expect("it can be written");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        more(&mut command);
        let child = command.spawn().expect("the program is built");
        Self { folder, child }
    }

    /// Replaces the configuration.
    pub fn configure(&self, sources: &[Value]) {
        configure(self.folder.path(), sources);
    }

    /// A directory for the test's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of the file of a source.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("sources").join(name)
    }

    /// What the file of a source says; `None` if it does not exist.
    pub fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// The addresses in the file of a source.
    ///
    /// # Panics
    /// If the file is not a complete one.
    pub fn addresses(&self, name: &str) -> Option<Vec<String>> {
        let text = self.file(name)?;
        let mut lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.remove(0).starts_with("peerwall-members 1 source="),
            "{text}"
        );
        let end = lines.pop().map(str::to_owned);
        assert_eq!(end, Some(format!("end {}", lines.len())), "{text}");
        let address = |line: &&str| line.split(' ').next().map(str::to_owned);
        Some(lines.iter().filter_map(address).collect())
    }

    /// What the status file of a source says; null if it does not exist.
    pub fn status(&self, name: &str) -> Value {
        let text = self.file(&format!("{name}.status")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until a source has these addresses.
    ///
    /// # Panics
    /// If that does not come.
    pub fn await_addresses(&self, name: &str, wanted: &[&str]) {
        self.until(&format!("{name}: {wanted:?}"), || {
            self.addresses(name).is_some_and(|found| found == wanted)
        });
    }

    /// Waits until a source has this state and kind of error; an empty kind means none.
    ///
    /// # Panics
    /// If that does not come.
    pub fn await_status(&self, name: &str, state: &str, kind: &str) {
        self.until(&format!("{name}: {state} {kind}"), || {
            let status = self.status(name);
            status["state"] == state && status["error"]["kind"].as_str().unwrap_or_default() == kind
        });
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// If it does not come.
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(
                start.elapsed() < PATIENCE,
                "{what} did not come\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the program logged, and all files.
    pub fn log(&self) -> String {
        let mut text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        for entry in fs::read_dir(self.path("")).into_iter().flatten().flatten() {
            let file = fs::read_to_string(entry.path()).unwrap_or_default();
            let shown: String = file.chars().take(1000).collect();
            text += &format!("{:?}:\n{shown}\n", entry.file_name());
        }
        text
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM. Returns how long the program took to end, and whether it succeeded.
    ///
    /// # Panics
    /// If there is no kill(1).
    pub fn terminate(&mut self) -> (Duration, bool) {
        let start = Instant::now();
        crate::ns::sh(&format!("kill -TERM {}", self.pid()));
        let status = self.child.wait().expect("it is our child");
        (start.elapsed(), status.success())
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Replaces the configuration by a rename, as the agent does.
fn configure(folder: &Path, sources: &[Value]) {
    let text = json!({"version": 1, "sources": sources}).to_string();
    fs::write(folder.join("new"), text).expect("it can be written");
    fs::rename(folder.join("new"), folder.join("sources.json")).expect("it can be written");
}

/// The program: `PEERWALL_SOURCES_BIN`, or the one beside `peerwall`.
///
/// # Panics
/// If it is not built: `cargo build` makes it.
pub fn sources_bin() -> PathBuf {
    if let Some(path) = std::env::var_os("PEERWALL_SOURCES_BIN") {
        return path.into();
    }
    let path = crate::ns::peerwall_bin().with_file_name("peerwall-sources");
    assert!(
        path.is_file(),
        "{} is not built; run `cargo build` first",
        path.display()
    );
    path
}
