//! Judges what a command left, by what it said.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::{Action, Base};
use crate::faults::fault::Fault;
use crate::faults::place::{Ended, Place, is_before_main};
use crate::faults::world::{Force, World};

/// How long a trial that has to run out may take.
const RUNS_OUT: Duration = Duration::from_secs(8);

/// Judges a run.
pub(super) struct Judge<'j> {
    pub(super) action: &'j Action,
    pub(super) world: &'j mut World,
    pub(super) place: &'j Place,
    pub(super) ended: &'j Ended,
    pub(super) flags: Vec<String>,
}

impl Judge<'_> {
    fn flag(&mut self, flag: impl Into<String>) {
        self.flags.push(flag.into());
    }

    pub(super) fn judge(&mut self, fault: Option<&Fault>) -> &'static str {
        World::wait_for_tools();
        let force = self.world.force();
        let word = self.word(fault);
        // The families of iptables change one after the other: a death in between leaves one of
        // them old.
        let is_between =
            self.action.by_iptables && force == Force::Other && matches!(word, "died" | "killed");
        if !is_between {
            let packets = self.world.probe(force);
            self.flags.extend(packets);
        }
        let is_hit = self.ended.injected().is_some() || self.action.is_full;
        if fault.is_some() && word == "as-ever" && !is_hit {
            return "not-hit";
        }
        match word {
            "as-ever" => self.succeeded(force, fault),
            "failed" => self.failed(force),
            "died" | "killed" => self.died(force),
            _ => {}
        }
        self.left_behind(word);
        word
    }

    /// How it ended.
    fn word(&mut self, fault: Option<&Fault>) -> &'static str {
        let said = &self.ended.said;
        if is_before_main(said) {
            return "died";
        }
        if said.contains("panicked") || self.ended.code() == Some(101) {
            self.flag("it panicked");
            return "panicked";
        }
        if self.ended.status.is_none() {
            self.flag("it hung");
            return "hung";
        }
        match self.ended.code() {
            Some(code) if code == self.action.code => "as-ever",
            Some(2) => "failed",
            // The dynamic loader's, before `main`.
            Some(127) => "died",
            None if fault.is_some_and(Fault::kills) => "killed",
            // The allocator's, the C library's or the Rust runtime's own end: memory was refused.
            None if said.contains("memory allocation")
                || said.is_empty()
                || said.contains("fatal runtime error") =>
            {
                "died"
            }
            code => {
                self.flag(format!("it exited with {code:?}"));
                "died"
            }
        }
    }

    fn succeeded(&mut self, force: Force, fault: Option<&Fault>) {
        let action = self.action;
        // boot goes on to the ruleset before, and says so.
        let is_boot = action.name.ends_with("boot");
        let is_earlier =
            is_boot && force == Force::A && self.ended.said.contains("warning: number");
        if force != action.after && !is_earlier {
            self.flag(format!(
                "it says done, and {force:?} is in force instead of {:?}",
                action.after
            ));
        }
        if action.code == 2 && self.ended.said.trim().is_empty() && !self.ended.lost_output() {
            self.flag("it refused without a word");
        }
        if action.is_trial() {
            if !self.place.trial_waits() {
                self.flag("a trial is in force, and none waits");
            } else if !self.place.has_way_back() {
                self.flag("a trial is in force, and has no ruleset to go back to");
            }
            if World::processes(self.place).len() != 1 {
                self.flag(format!(
                    "a trial is in force, and {} guards run",
                    World::processes(self.place).len()
                ));
            }
            return self.end_trial(fault);
        }
        let is_warned = self.ended.said.contains("boot") && self.ended.said.contains("warning");
        match is_warned {
            true => self.boots(&[action.boots, action.boots_before]),
            false => self.boots(&[action.boots]),
        }
    }

    /// One of two trials is confirmed, the other one is ended.
    fn end_trial(&mut self, fault: Option<&Fault>) {
        let (command, wanted, boots) = match fault.is_none_or(|fault| fault.nth % 2 == 0) {
            true => ("confirm", self.action.after, self.action.after),
            false => ("rollback", self.action.before, Force::A),
        };
        let (code, said) = self.world.peerwall(self.place, &[command], &[]);
        let force = self.world.force();
        if code != Some(0) || force != wanted {
            self.flag(format!(
                "after {command} of the trial {force:?} is in force: {said}"
            ));
        }
        self.boots(&[boots]);
    }

    fn failed(&mut self, force: Force) {
        let action = self.action;
        let is_lost = self.ended.lost_output();
        if self.ended.said.trim().is_empty() && !is_lost {
            self.flag("it failed without a word");
        }
        if is_lost {
            // What it did by then is done.
            return self.died(force);
        }
        if action.name.ends_with("boot") {
            if force != Force::Closed {
                self.flag(format!(
                    "boot failed, and {force:?} is in force instead of the closed ruleset"
                ));
            }
            return self.boots(&[action.boots_before]);
        }
        if force != action.before {
            self.flag(format!(
                "it says failed, and {force:?} is in force instead of {:?}",
                action.before
            ));
        }
        if action.is_trial() {
            if self.place.trial_waits() {
                self.flag("a trial that failed still waits");
            }
            let (code, said) = self.world.peerwall(self.place, &["confirm"], &[]);
            if code == Some(0) {
                self.flag(format!("a trial that failed was confirmed: {said}"));
            }
        }
        self.boots(&[action.boots_before]);
        if action.base == Base::Applied && matches!(action.args[0], "apply" | "block") {
            self.again();
        }
    }

    /// The same command without a fault, where what was before is loaded again.
    fn again(&mut self) {
        let args = self.action.args(self.place);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (code, said) = self.world.peerwall(self.place, &args, &[]);
        let force = self.world.force();
        if code != Some(0) || force != self.action.after {
            self.flag(format!(
                "a second try exits with {code:?}, and {force:?} is in force: {said}"
            ));
        }
        self.world.end_processes(self.place);
    }

    fn died(&mut self, force: Force) {
        let action = self.action;
        let is_between = action.by_iptables && force == Force::Other;
        let is_closed = action.name.ends_with("boot") && force == Force::Closed;
        let may_be = [action.before, action.after].contains(&force);
        if !may_be && !is_between && !is_closed {
            self.flag(format!("it died, and {force:?} is in force"));
        }
        if action.is_trial() {
            self.runs_out();
        }
        self.boots(&[action.boots, action.boots_before]);
    }

    /// A trial whose command died is rolled back automatically, and blocks nothing.
    fn runs_out(&mut self) {
        if self.ended.lost_output() {
            let _ = self.world.peerwall(self.place, &["rollback"], &[]);
            return;
        }
        let begun = Instant::now();
        let is_over = |world: &World, place: &Place| {
            world.force() == Force::A && World::processes(place).is_empty()
        };
        while !is_over(self.world, self.place) && begun.elapsed() < RUNS_OUT {
            thread::sleep(Duration::from_millis(20));
        }
        if !is_over(self.world, self.place) {
            let force = self.world.force();
            return self.flag(format!(
                "the command died, its time is over, and {force:?} is in force"
            ));
        }
        // Without a guard nobody looks at the time.
        thread::sleep(Duration::from_millis(1100));
        self.again();
    }

    fn boots(&mut self, wanted: &[Force]) {
        let (force, code, said) = self.world.boot(self.place);
        if !wanted.contains(&force) {
            self.flag(format!(
                "the next boot loads {force:?} instead of {wanted:?} (code {code:?}: {})",
                said.trim()
            ));
        }
    }

    /// Files and processes.
    fn left_behind(&mut self, word: &str) {
        // The text of a policy is found only by its digest, and means nothing without it.
        let is_known = |name: &String| {
            matches!(
                name.as_str(),
                "audit.log" | "confirmed.json" | "lock" | "pending.json" | "discovered.json"
            ) || name.starts_with("ruleset-")
                || name.starts_with("policy-")
        };
        let mut files: Vec<String> = self
            .place
            .files()
            .into_iter()
            .filter(|name| !is_known(name))
            .collect();
        let notes = fs::read_dir("/run/peerwall")
            .into_iter()
            .flatten()
            .flatten();
        files.extend(
            notes
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.starts_with('.')),
        );
        // A process that is killed cannot clean up.
        if !files.is_empty() && !matches!(word, "killed" | "died") {
            self.flag(format!("files are left behind: {files:?}"));
        }
    }
}
