//! Judges what is in force, and what was said, while the agent runs and when it has ended.

use std::fs;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use super::traced::{Traced, until};
use super::{Came, PATIENCE, Phase, agent_of, agent_status, change_policy, is_in_sync};
use crate::faults::fault::Fault;
use crate::faults::place::Place;
use crate::faults::world::{Force, World};

impl Phase {
    /// Judges what is in force, and what was said, while the agent runs.
    pub(super) fn judge(
        self,
        world: &mut World,
        place: &Place,
        fault: Option<&Fault>,
        traced: &mut Traced,
        came: &Came,
        flags: &mut Vec<String>,
    ) -> &'static str {
        let kills = fault.is_some_and(Fault::kills);
        let code = came.asked.as_ref().and_then(|(code, _)| *code);
        if self == Self::Stop {
            until(PATIENCE, || traced.status().is_some());
        }
        let refused = came.asked.is_some() && code != Some(0);
        let wanted = |force: Force| force == came.wanted;
        // A client that failed may have been obeyed or not.
        let patience = if refused {
            Duration::from_millis(1500)
        } else {
            PATIENCE
        };
        // It is gone for others before strace lets go of it.
        let hung_up = came.asked.as_ref();
        let hung_up = hung_up.is_some_and(|(_, said)| said.contains("disconnected without"));
        if kills && !self.is_client() {
            let patience = if hung_up {
                PATIENCE
            } else {
                Duration::from_millis(500)
            };
            until(patience, || traced.status().is_some());
        }
        let has_come = until(patience, || {
            wanted(world.force()) && (!self.is_start() || is_in_sync(world, place))
                || traced.status().is_some()
        });
        if (self == Self::Trial && code == Some(0) || self == Self::Resume) && !kills {
            until(PATIENCE, || !place.trial_waits());
        }
        let ended = traced.status();
        let force = match ended {
            // The last change and the end may be close together.
            Some(_) => {
                thread::sleep(Duration::from_millis(20));
                world.force()
            }
            None => world.force(),
        };
        flags.extend(world.probe(force));
        let may_be = [self.before(), came.wanted, Force::B].contains(&force);
        // Nobody repairs after it has ended.
        if !may_be && (self != Self::Repair || ended.is_none()) {
            flags.push(format!("{force:?} is in force"));
        }
        if let Some(status) = ended.filter(|_| self != Self::Stop) {
            return self.judge_end(world, place, kills, status, traced, flags);
        }
        if self == Self::Stop {
            let is_well = ended.is_some_and(|status| status.success());
            if !is_well && !kills {
                flags.push(format!("it ended with {ended:?}"));
            }
            return if kills { "killed" } else { "as-ever" };
        }
        if self.is_client()
            && traced
                .client_status
                .is_some_and(|status| status.code().is_none())
            && kills
        {
            return "killed";
        }
        if refused {
            return self.judge_refusal(world, place, force, traced, came, flags);
        }
        if has_come && wanted(force) {
            return "as-ever";
        }
        let status = agent_status(world, place);
        let is_told = status.as_ref().is_some_and(|status| {
            !status["policy_error"].is_null() || !status["last_error"].is_null()
        });
        let may_fail = matches!(self, Self::Start | Self::Follow);
        if !is_told || !may_fail || force != self.before() {
            flags.push(format!(
                "{force:?} is in force instead of {:?}, and status says {status:?}",
                came.wanted
            ));
            return "failed";
        }
        // The next change of a file is the next try.
        change_policy(place);
        if !until(PATIENCE, || wanted(world.force())) {
            flags.push("the policy is written again, and does not come into force".into());
        }
        "failed"
    }

    fn judge_end(
        self,
        world: &mut World,
        place: &Place,
        kills: bool,
        status: ExitStatus,
        traced: &mut Traced,
        flags: &mut Vec<String>,
    ) -> &'static str {
        let said = fs::read_to_string(place.file("said")).unwrap_or_default();
        let word = match status.code() {
            None if kills => "killed",
            None | Some(127) => "died",
            Some(2) => "failed",
            code => {
                flags.push(format!("the agent exited with {code:?}"));
                "died"
            }
        };
        if word == "failed" {
            if said.trim().is_empty() {
                flags.push("it failed without a word".into());
            }
            if !self.is_start() {
                flags.push("the agent ended".into());
            }
        }
        // The next one takes over.
        traced.agent = Traced::start(world, place, Self::Follow, None).agent;
        let is_up = until(PATIENCE, || is_in_sync(world, place));
        traced.pid = agent_of(place);
        let force = world.force();
        let may: &[Force] = match self == Self::Start {
            true => &[Force::B],
            false => &[Force::A, Force::B],
        };
        if !is_up || !may.contains(&force) {
            flags.push(format!(
                "the next agent is in sync: {is_up}, and {force:?} is in force"
            ));
        }
        word
    }

    fn judge_refusal(
        self,
        world: &World,
        place: &Place,
        force: Force,
        traced: &Traced,
        came: &Came,
        flags: &mut Vec<String>,
    ) -> &'static str {
        let (code, said) = came.asked.clone().unwrap_or_default();
        let is_death = self.is_client() && (code.is_none() || code == Some(127));
        if is_death || traced.lost_output {
            return "died";
        }
        if code != Some(2) || said.trim().is_empty() {
            flags.push(format!("the client exits with {code:?}"));
        }
        if force != self.before()
            && (!said.contains("may") && !said.contains("error: ")
                || said.contains("nothing was changed"))
        {
            flags.push(format!("the client failed, and {force:?} is in force"));
        }
        if self == Self::Trial && force != Force::A {
            flags.push(format!("a trial failed, and {force:?} is in force"));
        }
        if self == Self::Trial && place.trial_waits() {
            flags.push("a trial that failed still waits".into());
        }
        if force != self.before() && self.is_client() && !said.contains("may have") {
            flags.push("the client says failed, and it was done".into());
        }
        if self == Self::Reload {
            let (code, said) = world.peerwall(place, &["reload"], &[]);
            if code != Some(0) || world.force() != Force::B {
                flags.push(format!("a second reload exits with {code:?}: {said}"));
            }
        }
        "failed"
    }

    pub(super) fn boots(
        self,
        world: &mut World,
        place: &Place,
        word: &str,
        said: &str,
        came: &Came,
        flags: &mut Vec<String>,
    ) {
        let (force, _, boot) = world.boot(place);
        let is_warned = said.contains("next boot");
        let may: &[Force] = match self {
            _ if word != "as-ever" || is_warned => &[Force::A, Force::B],
            Self::Resume
            | Self::Trial
            | Self::Rollback
            | Self::Repair
            | Self::Stop
            | Self::ClientTrial => &[Force::A],
            Self::Start
            | Self::Reload
            | Self::Follow
            | Self::Confirm
            | Self::ClientReload
            | Self::ClientConfirm => &[Force::B],
        };
        if !may.contains(&force) {
            let asked = came.asked.as_ref().map_or("", |(_, said)| said.as_str());
            flags.push(format!(
                "the next boot loads {force:?} instead of {may:?} ({boot}; asked: {asked})"
            ));
        }
    }
}
