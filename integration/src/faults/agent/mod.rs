//! The agent, phase by phase: strace attaches to it before the phase begins. And its clients.

mod judge;
mod traced;

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::fault::Fault;
use super::place::{Place, is_before_main};
use super::world::{Force, POLICY_B, World};
use super::{Scenario, Verdict};
use crate::ns::try_sh;
use traced::{Traced, signal, until};

/// What an agent does comes within this time, retries included.
const PATIENCE: Duration = Duration::from_secs(15);

/// A part of the agent's life in which a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It starts, and its policy is another than the one that is loaded.
    Start,
    /// It starts while a trial waits that an earlier one began, and that runs out.
    Resume,
    /// The policy changes, and somebody asks for a reload.
    Reload,
    /// The policy changes.
    Follow,
    /// Somebody else deletes the table.
    Repair,
    /// A trial begins and runs out.
    Trial,
    /// A trial is confirmed.
    Confirm,
    /// A trial is ended.
    Rollback,
    /// SIGTERM.
    Stop,
    /// The client of a reload fails, not the agent.
    ClientReload,
    /// The client that begins a trial.
    ClientTrial,
    /// The client that confirms one.
    ClientConfirm,
}

/// What a phase came to, apart from the fault.
struct Came {
    /// What has to be in force at last.
    wanted: Force,
    /// What the client said, and its exit code.
    asked: Option<(Option<i32>, String)>,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::Resume,
        Self::Reload,
        Self::Follow,
        Self::Repair,
        Self::Trial,
        Self::Confirm,
        Self::Rollback,
        Self::Stop,
        Self::ClientReload,
        Self::ClientTrial,
        Self::ClientConfirm,
    ];

    /// Whether strace starts the agent.
    fn is_start(self) -> bool {
        matches!(self, Self::Start | Self::Resume)
    }

    fn is_client(self) -> bool {
        matches!(
            self,
            Self::ClientReload | Self::ClientTrial | Self::ClientConfirm
        )
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Follow | Self::Start => &[],
            Self::Repair => &["--no-owner"],
            Self::Resume
            | Self::Reload
            | Self::Trial
            | Self::Confirm
            | Self::Rollback
            | Self::Stop
            | Self::ClientReload
            | Self::ClientTrial
            | Self::ClientConfirm => &["--no-follow"],
        }
    }

    /// Does it; the agent is there, and traced.
    fn act(self, world: &World, place: &Place, fault: Option<&Fault>, traced: &mut Traced) -> Came {
        let b = place.file("b.toml").display().to_string();
        let mut ask = |args: &[&str]| match self.is_client() {
            true => {
                let ended = world.traced(place, args, fault);
                traced.calls = ended.calls();
                traced.hit = ended.injected().map(str::to_owned);
                traced.lost_output = ended.lost_output();
                traced.client_status = ended.status;
                Some((ended.code(), ended.said))
            }
            false => Some(world.peerwall(place, args, &[])),
        };
        let (wanted, asked) = match self {
            Self::Start => (Force::B, None),
            Self::Resume => (Force::A, None),
            Self::Reload | Self::ClientReload => {
                change_policy(place);
                (Force::B, ask(&["reload"]))
            }
            Self::Follow => {
                change_policy(place);
                (Force::B, None)
            }
            Self::Repair => {
                world.three().host.sh("nft delete table inet peerwall");
                (Force::A, None)
            }
            Self::Trial => (Force::A, ask(&["apply", "--confirm", "1s", &b])),
            Self::ClientTrial => (Force::B, ask(&["apply", "--confirm", "60s", &b])),
            Self::Confirm | Self::ClientConfirm => (Force::B, ask(&["confirm"])),
            Self::Rollback => (Force::A, ask(&["rollback"])),
            Self::Stop => {
                signal(traced.pid, libc::SIGTERM);
                (Force::A, None)
            }
        };
        Came { wanted, asked }
    }

    /// What is in force before.
    fn before(self) -> Force {
        let is_trial = matches!(
            self,
            Self::Resume | Self::Confirm | Self::Rollback | Self::ClientConfirm
        );
        if is_trial { Force::B } else { Force::A }
    }
}

/// The agent's process, not a guard's; 0 if there is none.
fn agent_of(place: &Place) -> i32 {
    let is_agent = |pid: &i32| {
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        args.split(|byte| *byte == 0).nth(1) == Some(b"run".as_slice())
    };
    let found = World::processes(place).into_iter().find(is_agent);
    found.unwrap_or(0)
}

fn change_policy(place: &Place) {
    let fresh = place.file("fresh.toml");
    let written =
        fs::write(&fresh, POLICY_B).and_then(|()| fs::rename(&fresh, place.file("policy.toml")));
    written.expect("/run has room");
}

/// What the agent says of itself; nothing if it does not answer.
fn agent_status(world: &World, place: &Place) -> Option<Value> {
    let (_, said) = world.peerwall(place, &["status", "--json", "/nowhere"], &[]);
    let status: Value = serde_json::from_str(&said).ok()?;
    let agent = status["agent"].clone();
    agent["pid"].is_u64().then_some(agent)
}

fn is_in_sync(world: &World, place: &Place) -> bool {
    agent_status(world, place).is_some_and(|status| status["in_sync_seconds"].is_u64())
}

impl Scenario for Phase {
    fn name(&self) -> &str {
        match self {
            Self::Start => "agent-start",
            Self::Resume => "agent-resume",
            Self::Reload => "agent-reload",
            Self::Follow => "agent-follow",
            Self::Repair => "agent-repair",
            Self::Trial => "agent-trial",
            Self::Confirm => "agent-confirm",
            Self::Rollback => "agent-rollback",
            Self::Stop => "agent-stop",
            Self::ClientReload => "client-reload",
            Self::ClientTrial => "client-trial",
            Self::ClientConfirm => "client-confirm",
        }
    }

    fn run(&self, world: &mut World, fault: Option<&Fault>) -> (Vec<String>, Verdict) {
        let place = world.place();
        world.clean();
        world.must(
            &place,
            &["apply", &place.file("a.toml").display().to_string()],
        );
        if *self == Self::Start {
            change_policy(&place);
        }
        if *self == Self::Resume {
            let b = place.file("b.toml").display().to_string();
            world.must(&place, &["apply", "--confirm", "2s", &b]);
            world.end_processes(&place);
        }
        let mut traced = Traced::start(world, &place, *self, fault);
        let is_up = until(PATIENCE, || {
            is_in_sync(world, &place) || traced.status().is_some()
        });
        traced.pid = agent_of(&place);
        let mut flags = Vec::new();
        if !self.is_start() {
            assert!(is_up && traced.pid > 0, "an agent starts");
            if self.before() == Force::B {
                world.must(
                    &place,
                    &[
                        "apply",
                        "--confirm",
                        "3600s",
                        &place.file("b.toml").display().to_string(),
                    ],
                );
            }
            if !self.is_client() {
                traced.attach(world, &place, fault);
            }
        }
        let came = self.act(world, &place, fault, &mut traced);
        let word = self.judge(world, &place, fault, &mut traced, &came, &mut flags);
        if !traced.end(&place) {
            let pid = traced.pid;
            let state = try_sh(&format!(
                "cat /proc/{pid}/cmdline /proc/{pid}/stack /proc/{pid}/status | tr '\\0' ' '; \
                 ps ax -o pid,ppid,stat,args; tail -n 5 {}",
                place.file("log").display()
            ));
            flags.push(format!(
                "it does not end by SIGTERM ({pid}; {:?}): {}",
                World::processes(&place),
                String::from_utf8_lossy(&state.stdout)
            ));
        }
        let said = fs::read_to_string(place.file("said")).unwrap_or_default();
        if said.contains("panicked") && !is_before_main(&said) {
            flags.push("it panicked".into());
        }
        // What it had done by then may be noted or not.
        let until_then = match fault.is_some_and(Fault::kills) {
            true => "killed",
            false => word,
        };
        self.boots(world, &place, until_then, &said, &came, &mut flags);
        let run = fault.map_or_else(
            || self.name().to_owned(),
            |fault| format!("{} {fault}", self.name()),
        );
        if !flags.is_empty() {
            let call: String = traced
                .hit
                .clone()
                .unwrap_or_default()
                .chars()
                .take(160)
                .collect();
            let asked = came.asked.map_or_else(String::new, |(code, said)| {
                format!("asked {code:?}: {said}")
            });
            let said: String = said.lines().take(12).collect::<Vec<_>>().join(" | ");
            flags.push(format!(
                "({word}; {call}; {}; said: {said})",
                asked.trim().replace('\n', " | ")
            ));
        }
        let word = match (fault, &traced.hit, word) {
            (Some(fault), None, "as-ever") if !fault.kills() => "not-hit",
            _ => word,
        };
        if place.trial_waits() {
            world.end_processes(&place);
        }
        world.leave(place, &run);
        flags.extend(world.overdue(false));
        (traced.calls, Verdict { ended: word, flags })
    }
}
