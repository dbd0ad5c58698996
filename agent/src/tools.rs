//! Programs that peerwall runs: those of iptables and ipset.
//!
//! They run as root, so the environment does not decide which they are: `PATH` may be unset or empty, which means the
//! current directory to execvp(3), or begin with a directory of somebody else's.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::iptables::IptablesError;
use crate::watchdog;

/// Where programs are looked for, in this order.
const FOLDERS: [&str; 6] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];
/// The answer to a program that is not there.
const MISSING: &str = "there is no such program in";

/// How long a program may take; longer than those of iptables wait for each other's lock.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often progress is reported meanwhile.
const STEP: Duration = Duration::from_millis(200);

/// The directory of `--iptables`.
static ASKED: OnceLock<PathBuf> = OnceLock::new();

/// Looks for programs in this directory alone. The command line says so once, before anything is run.
///
/// # Errors
/// A sentence, if it is not the absolute path of a directory.
pub fn look_in(folder: &Path) -> Result<(), String> {
    if !folder.is_absolute() || !folder.is_dir() {
        return Err(format!(
            "--iptables {}: not the absolute path of a directory",
            folder.display()
        ));
    }
    let _ = ASKED.set(folder.to_owned());
    Ok(())
}

/// The directory of `--iptables`, for processes that are started by this one.
pub fn asked() -> Option<&'static Path> {
    ASKED.get().map(PathBuf::as_path)
}

/// Whether this is said of a program that is not there.
pub fn is_missing(said: &str) -> bool {
    said.starts_with(MISSING)
}

fn folders() -> Vec<PathBuf> {
    match asked() {
        Some(folder) => vec![folder.to_owned()],
        None => FOLDERS.iter().map(PathBuf::from).collect(),
    }
}

/// The path of a program; `None` if there is none.
fn find(tool: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let paths = folders.iter().map(|folder| folder.join(tool));
    paths.into_iter().find(|path| path.is_file())
}

/// `PATH` of the programs, some of which run others of them.
fn path_of(folders: &[PathBuf]) -> String {
    let asked = folders.iter().map(|folder| folder.display().to_string());
    let mut all: Vec<String> = asked.collect();
    let more = FOLDERS.iter().map(|folder| (*folder).to_owned());
    all.extend(more.filter(|folder| !folders.contains(&PathBuf::from(folder))));
    all.join(":")
}

/// Runs a program and returns what it printed.
///
/// # Errors
/// [`IptablesError::Tool`] if there is none, or it fails.
pub fn run(tool: &str, args: &[&str], input: Option<&str>) -> Result<String, IptablesError> {
    let failed = |said: String| IptablesError::Tool {
        tool: tool.to_owned(),
        said,
    };
    let folders = folders();
    let Some(program) = find(tool, &folders) else {
        let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        return Err(failed(format!("{MISSING} {}", names.join(", "))));
    };
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", path_of(&folders))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|err| failed(err.to_string()))?;
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
        let text = text.to_owned();
        // A tool that stops reading says why when it ends.
        thread::spawn(move || stdin.write_all(text.as_bytes()));
    }
    let output = wait(child).map_err(|err| failed(err.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// Waits for a program, and reads what it prints. One that takes too long is killed.
fn wait(child: Child) -> io::Result<Output> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let start = Instant::now();
    loop {
        match receiver.recv_timeout(STEP) {
            Ok(output) => return output,
            Err(RecvTimeoutError::Timeout) if start.elapsed() < PATIENCE => watchdog::progress(),
            Err(_) => {
                // The thread has not reaped it, so the number is still its own.
                let _ = kill(pid, Signal::SIGKILL);
                let why = format!(
                    "killed, since it did not end within {} s",
                    PATIENCE.as_secs()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_input_and_much_output_at_once_block_nothing() {
        let text = "line\n".repeat(200_000);
        let said = run("cat", &[], Some(&text)).unwrap();
        assert_eq!(said.len(), text.len());
    }

    #[test]
    fn no_environment_decides_what_runs() {
        // `sh` is everywhere, and `.` is nowhere.
        let folders = folders();
        let found = find("sh", &folders).unwrap();
        assert!(found.is_absolute(), "{}", found.display());
        assert_eq!(find("no-such-program", &folders), None);
        let path = path_of(&folders);
        assert!(
            path.split(':').all(|folder| folder.starts_with('/')),
            "{path}"
        );
        let said = run("no-such-program", &[], None).unwrap_err().to_string();
        assert!(
            said.contains("/usr/sbin") && said.contains("no-such-program"),
            "{said}"
        );
    }

    #[test]
    fn programs_see_the_same_folders() {
        let said = run("sh", &["-c", "echo $PATH"], None).unwrap();
        assert_eq!(said.trim_end(), FOLDERS.join(":"));
    }
}
