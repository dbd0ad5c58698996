//! Runs the programs of iptables and ipset.
//!
//! They run as root, so `PATH` does not select them: it may be unset or empty, which means the
//! current directory to execvp(3), or begin with a directory that other users can write.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::IptablesError;
use crate::system::watchdog;
use crate::system::{child, passing};

/// Directories that are searched for programs, in this order.
const FOLDERS: [&str; 6] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];
/// Beginning of the message about a missing program.
const MISSING: &str = "there is no such program in";

/// Maximum run time of a program; longer than the programs of iptables wait for the xtables lock.
const PATIENCE: Duration = Duration::from_secs(120);
/// Interval between reports of progress to the watchdog, in milliseconds.
const STEP_MS: u16 = 200;
/// Size of a read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The directory of `--iptables`.
static ASKED: OnceLock<PathBuf> = OnceLock::new();

/// Searches programs in this directory only. Called once, before any program is run.
///
/// # Errors
/// [`NotADirectory`] if it is not the absolute path of a directory.
pub fn look_in(folder: &Path) -> Result<(), NotADirectory> {
    if !folder.is_absolute() || !folder.is_dir() {
        return Err(NotADirectory(folder.to_owned()));
    }
    let _ = ASKED.set(folder.to_owned());
    Ok(())
}

/// The argument of `--iptables` is not the absolute path of a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--iptables {}: not the absolute path of a directory", .0.display())]
pub struct NotADirectory(PathBuf);

/// Returns the directory of `--iptables`, for child processes.
pub fn asked() -> Option<&'static Path> {
    ASKED.get().map(PathBuf::as_path)
}

/// Whether a message is about a missing program.
pub fn is_missing(said: &str) -> bool {
    said.starts_with(MISSING)
}

fn folders() -> Vec<PathBuf> {
    match asked() {
        Some(folder) => vec![folder.to_owned()],
        None => FOLDERS.iter().map(PathBuf::from).collect(),
    }
}

/// Returns the path of a program; `None` if it is missing.
fn find(tool: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let paths = folders.iter().map(|folder| folder.join(tool));
    paths.into_iter().find(|path| path.is_file())
}

/// Returns `PATH` for the programs, some of which run each other.
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
/// [`IptablesError::Tool`] if the program is missing or fails; [`IptablesError::NotRun`] if its
/// result is unknown.
pub fn run(tool: &str, args: &[&str], input: Option<&str>) -> Result<String, IptablesError> {
    run_in(folders(), tool, args, input)
}

/// Runs a program that is none of iptables, so that `--iptables` does not select it.
///
/// # Errors
/// As for [`run`].
pub fn run_other(tool: &str, args: &[&str]) -> Result<String, IptablesError> {
    run_in(
        FOLDERS.iter().map(PathBuf::from).collect(),
        tool,
        args,
        None,
    )
}

fn run_in(
    folders: Vec<PathBuf>,
    tool: &str,
    args: &[&str],
    input: Option<&str>,
) -> Result<String, IptablesError> {
    let failed = |said: String| IptablesError::Tool {
        tool: tool.to_owned(),
        said,
    };
    let Some(program) = find(tool, &folders) else {
        let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        return Err(failed(format!("{MISSING} {}", names.join(", "))));
    };
    let mut command = child::command(program);
    command
        .args(args)
        .env("PATH", path_of(&folders))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ended = passing::repeat(|| command.spawn())
        .and_then(|child| converse(child, input.unwrap_or_default()));
    let (status, said, complaint) = ended.map_err(|err| IptablesError::NotRun {
        tool: tool.to_owned(),
        why: err.to_string(),
    })?;
    match status.success() {
        true => Ok(String::from_utf8_lossy(&said).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&complaint).into_owned())),
    }
}

/// Writes the input of a program and returns its status and both outputs. Kills a program that
/// takes too long. (`Child::wait_with_output` panics if the outputs cannot be read.)
fn converse(mut child: Child, input: &str) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let mut pipes = Pipes {
        input: input.as_bytes(),
        stdin: child.stdin.take(),
        outputs: Vec::new(),
    };
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        pipes.outputs.push((OwnedFd::from(out).into(), Vec::new()));
        pipes.outputs.push((OwnedFd::from(err).into(), Vec::new()));
    }
    let read = pipes.drain();
    if read.is_err() {
        // The program may be blocked on its output.
        let _ = child.kill();
    }
    // Wait for its end even if its output is lost, so that the caller observes the result.
    let status = passing::repeat(|| child.wait());
    let [said, complaint] = read?;
    Ok((status?, said, complaint))
}

/// Pipes to and from a running program.
struct Pipes<'i> {
    /// Input that is not written yet.
    input: &'i [u8],
    stdin: Option<ChildStdin>,
    /// Standard output and standard error, with the bytes read so far.
    outputs: Vec<(File, Vec<u8>)>,
}

impl Pipes<'_> {
    /// Writes all input and reads both outputs to their ends.
    fn drain(mut self) -> io::Result<[Vec<u8>; 2]> {
        let start = Instant::now();
        if let Some(stdin) = &self.stdin {
            // A program may print before it has read everything.
            fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let mut is_open = vec![true; self.outputs.len()];
        while is_open.contains(&true) {
            if start.elapsed() > PATIENCE {
                let why = format!("it did not end within {} s", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            watchdog::progress();
            self.wait(&is_open)?;
            self.write();
            for ((pipe, text), is_open) in self.outputs.iter_mut().zip(&mut is_open) {
                *is_open = *is_open && read_some(pipe, text)?;
            }
        }
        let mut texts = self.outputs.into_iter().map(|(_, text)| text);
        Ok([(); 2].map(|()| texts.next().unwrap_or_default()))
    }

    /// Waits until a pipe is ready, for at most [`STEP_MS`].
    fn wait(&self, is_open: &[bool]) -> io::Result<()> {
        let outputs = self.outputs.iter().zip(is_open).filter(|(_, open)| **open);
        let mut fds: Vec<PollFd<'_>> = outputs
            .map(|((pipe, _), _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        let stdin = self.stdin.iter();
        fds.extend(stdin.map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)));
        passing::repeat(|| Ok(poll(&mut fds, STEP_MS)?)).map(drop)
    }

    /// Writes what fits, and closes standard input after the last byte.
    fn write(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.input) {
            Ok(len) => self.input = &self.input[len..],
            Err(err) if passing::is_passing_io(&err) => {}
            // A program that stops reading explains that when it ends.
            Err(_) => self.input = &[],
        }
        if self.input.is_empty() {
            self.stdin = None;
        }
    }
}

/// Reads what is available. Returns whether there may be more.
fn read_some(pipe: &mut File, text: &mut Vec<u8>) -> io::Result<bool> {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    passing::repeat(|| Ok(poll(&mut fds, PollTimeout::ZERO)?))?;
    if fds[0].any() == Some(false) {
        return Ok(true);
    }
    let mut buffer = vec![0; READ_BYTES];
    let len = passing::repeat(|| pipe.read(&mut buffer))?;
    text.extend_from_slice(&buffer[..len]);
    Ok(len > 0)
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
        // Every host has `sh`.
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
