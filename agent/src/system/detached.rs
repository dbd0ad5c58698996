//! Starts processes that outlive the caller and leave no zombies in it.

use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::system::passing;

/// Time limit for the first output of a process, in milliseconds.
const PATIENCE: u16 = 10_000;

/// Starts a process in its own session, reparented to init: it leaves no zombie in this process,
/// which may run for months. Returns when the process has written to its standard output, because a
/// process may run out of memory after a successful execve(2).
///
/// # Errors
/// [`io::Error`] if the process cannot be started, or ends or does not write in time.
pub fn spawn(mut command: Command) -> io::Result<()> {
    // SAFETY: setsid(2), fork(2) and _exit(2) are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => Ok(()),
                // The intermediate process ends here; init adopts the started one.
                _ => libc::_exit(0),
            }
        });
    }
    let (said, end) = io::pipe()?;
    command.stdout(end);
    // The result of exec(2) is known when `spawn` returns.
    let waited = passing::repeat(|| command.spawn())?.wait();
    // Closes the write end of the pipe in this process.
    drop(command);
    waited?;
    hear(said)
}

fn hear(mut said: PipeReader) -> io::Result<()> {
    let ready = passing::repeat(|| {
        let mut fds = [PollFd::new(said.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::from(PATIENCE))?)
    })?;
    if ready == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the process was started, but did not report in time",
        ));
    }
    match passing::repeat(|| said.read(&mut [0; 16]))? {
        0 => Err(io::Error::other(
            "the process was started, but ended at once",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_started_is_no_child_and_a_failure_is_known() {
        let folder = std::env::temp_dir().join(format!("peerwall-detached-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let said = folder.join("said");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $PPID > new; mv new said; echo ready"]);
        command.current_dir(&folder);
        spawn(command).unwrap();
        let start = Instant::now();
        while !said.exists() {
            assert!(start.elapsed() < Duration::from_secs(10), "it did not run");
            std::thread::sleep(Duration::from_millis(5));
        }
        let parent = std::fs::read_to_string(&said).unwrap();
        assert_ne!(parent.trim(), std::process::id().to_string());
        assert!(spawn(Command::new(folder.join("nothing"))).is_err());
        let ends = spawn(Command::new("true")).unwrap_err().to_string();
        assert!(ends.contains("ended at once"), "{ends}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
