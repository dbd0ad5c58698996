//! Child processes.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Builds a command whose process starts with no signal blocked: the agent blocks the signals that
/// it receives by a descriptor, and a child would inherit that.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: sigprocmask(2) is safe between fork and exec (signal-safety(7)), and nix allocates
    // nothing for it.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_starts_with_no_signal_blocked() {
        SigSet::all()
            .thread_block()
            .expect("signals can be blocked");
        let output = command("cat").arg("/proc/self/status").output();
        let status = output.expect("there is a cat").stdout;
        let status = String::from_utf8_lossy(&status);
        let blocked = status.lines().find(|line| line.starts_with("SigBlk"));
        assert_eq!(blocked, Some("SigBlk:\t0000000000000000"));
    }
}
