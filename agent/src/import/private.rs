//! Runs a shell script in network namespaces of its own, so that no firewall of this host changes.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::system::namespace::Maps;
use crate::system::{child, passing};

/// Time limit.
const PATIENCE: Duration = Duration::from_secs(120);
/// `PATH` of the script: it may run as root, so the environment does not select programs.
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:\
                    /run/current-system/sw/bin";

/// Runs a script of `sh` with arguments and an input.
///
/// # Errors
/// [`io::Error`] if no namespace can be created, or if the script does not end in time.
pub(super) fn run(script: &str, args: &[String], input: &str) -> io::Result<Output> {
    run_within(PATIENCE, script, args, input)
}

/// Runs a script with a time limit of its own.
///
/// # Errors
/// As for [`run`].
pub(super) fn run_within(
    limit: Duration,
    script: &str,
    args: &[String],
    input: &str,
) -> io::Result<Output> {
    let mut command = child::command("/bin/sh");
    command
        .args(["-c", script, "sh"])
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    separate(&mut command);
    let mut child = passing::repeat(|| command.spawn())?;
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let stdin = child.stdin.take();
    let (send, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program that stops reading explains that when it ends.
            let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
        });
        scope.spawn(move || send.send(child.wait_with_output()));
        match ended.recv_timeout(limit) {
            Ok(output) => output,
            Err(_) => {
                let _ = killpg(group, Signal::SIGKILL);
                let why = format!("it did not end within {} s", limit.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
        }
    })
}

/// Lets the process start in a network namespace of its own, and in a user namespace if it may not
/// create the former.
fn separate(command: &mut Command) {
    let maps = Maps::of_caller();
    // SAFETY: the child of fork(2) has one thread, and `separate` is safe there.
    unsafe { command.pre_exec(move || maps.separate()) };
}
