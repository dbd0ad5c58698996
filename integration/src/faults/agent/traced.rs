//! An agent, and the strace that is attached to it.

use std::fs;
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{PATIENCE, Phase};
use crate::faults::fault::Fault;
use crate::faults::place::{Place, names};
use crate::faults::world::{World, strace};
use crate::ns::peerwall_bin;

/// The agent, and the strace that is attached to it.
pub(super) struct Traced {
    pub(super) agent: Option<Child>,
    pub(super) pid: i32,
    strace: Option<Child>,
    pub(super) calls: Vec<String>,
    pub(super) hit: Option<String>,
    pub(super) lost_output: bool,
    pub(super) client_status: Option<ExitStatus>,
}

impl Traced {
    /// Starts an agent; with strace at once if the phase is its start.
    pub(super) fn start(world: &World, place: &Place, phase: Phase, fault: Option<&Fault>) -> Self {
        let log = fs::File::create(place.file("said")).expect("/run has room");
        let policy = place.file("policy.toml");
        let mut traced = Self {
            agent: None,
            pid: 0,
            strace: None,
            calls: Vec::new(),
            hit: None,
            lost_output: false,
            client_status: None,
        };
        let mut command = match phase.is_start() {
            true => {
                let mut command = world.command(place, "strace");
                strace(&mut command, place, fault);
                command.arg(peerwall_bin());
                command
            }
            false => world.command(place, peerwall_bin()),
        };
        command.arg("run").arg(&policy).args(phase.options());
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        traced.agent = Some(child.expect("the peerwall program is built"));
        traced
    }

    /// Whether the agent has ended.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.agent.as_mut()?.try_wait().expect("it is our child")
    }

    pub(super) fn attach(&mut self, world: &World, place: &Place, fault: Option<&Fault>) {
        let mut command = world.command(place, "strace");
        strace(&mut command, place, fault);
        command.args(["-p", &self.pid.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.strace = Some(child.expect("strace is installed"));
        let status = format!("/proc/{}/status", self.pid);
        until(PATIENCE, || {
            let text = fs::read_to_string(&status).unwrap_or_default();
            text.lines()
                .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        });
    }

    /// Ends the agent; whether it did so within the time.
    pub(super) fn end(&mut self, place: &Place) -> bool {
        if self.status().is_none() {
            signal(self.pid, libc::SIGTERM);
        }
        let ended = until(PATIENCE, || self.status().is_some());
        for child in [&mut self.agent, &mut self.strace].into_iter().flatten() {
            if !until(Duration::from_secs(2), || {
                child.try_wait().is_ok_and(|status| status.is_some())
            }) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if self.calls.is_empty() {
            let bytes = fs::read(place.file("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&bytes).into_owned();
            self.calls = names(&log);
            self.hit = log
                .lines()
                .find(|line| line.contains("(INJECTED)"))
                .map(str::to_owned);
        }
        ended
    }
}

/// Sends a signal to an agent.
pub(super) fn signal(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: kill(2) touches no memory; the agent is a process of this world.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Waits until something is so; whether it is.
pub(super) fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() > patience {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
