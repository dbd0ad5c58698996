//! The fault campaign: every system call of a command, of the guard and of the agent fails once, or
//! is where the process is killed, and after each run others judge what is left.
//!
//! strace injects one fault a run: the Nth call of a name returns an error instead of being made,
//! or SIGKILL arrives in its place. A counting run without a fault finds out which calls there are.
//! The judges are `nft`, `iptables-save`, packets of a peer and of a stranger, the state directory,
//! the process list, and `peerwall boot` as the next start of the machine.
//!
//! - [`fault`]: which errors a call can have, and what strace is told.
//! - [`world`]: three hosts, and the judges; [`place`]: the directory of a run.
//! - [`commands`]: commands and the guard.
//! - [`agent`]: the agent, phase by phase.

pub mod agent;
pub mod commands;
pub mod fault;
pub mod place;
pub mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use fault::{Effect, Fault};
use world::World;

/// What is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of scenarios; all if it is empty.
    pub scenarios: Vec<String>,
    /// Names of system calls; all if it is empty.
    pub calls: Vec<String>,
    /// These faults and no others, if there are any.
    pub faults: Vec<Fault>,
    /// Whether calls fail.
    pub errors: bool,
    /// Whether the process is killed in the place of a call.
    pub kills: bool,
    /// Whether each call fails only once, with one of its errors, which the seed selects.
    pub once: bool,
    /// How many faults of each scenario are run at most.
    pub limit: Option<usize>,
    /// Selects them.
    pub seed: u64,
    /// Which one of the processes that share the campaign this is, from 0.
    pub part: usize,
    /// How many processes share the campaign.
    pub parts: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenarios: Vec::new(),
            calls: Vec::new(),
            faults: Vec::new(),
            errors: true,
            kills: true,
            once: false,
            limit: None,
            seed: 1,
            part: 0,
            parts: 1,
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How the process ended, in a word; figures are kept by these.
    pub ended: &'static str,
    /// What is wrong.
    pub flags: Vec<String>,
}

/// A scenario: something that peerwall does.
pub trait Scenario {
    /// Its name.
    fn name(&self) -> &str;

    /// Does it with this fault, or with none; the calls that were made, and the verdict.
    fn run(&self, world: &mut World, fault: Option<&Fault>) -> (Vec<String>, Verdict);
}

/// Every scenario, in order.
pub fn scenarios() -> Vec<Box<dyn Scenario>> {
    let commands = commands::all().into_iter();
    let commands = commands.map(|each| Box::new(each) as Box<dyn Scenario>);
    let agent = agent::Phase::ALL.into_iter();
    commands
        .chain(agent.map(|each| Box::new(each) as Box<dyn Scenario>))
        .collect()
}

/// The figures of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// System calls of a run without a fault.
    pub calls: usize,
    /// Runs by how the process ended.
    pub ended: BTreeMap<&'static str, usize>,
    /// Runs that were flagged.
    pub flagged: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: usize = self.ended.values().sum();
        write!(f, "calls {} runs {runs}", self.calls)?;
        for (ended, count) in &self.ended {
            write!(f, " {ended} {count}")?;
        }
        write!(f, " flagged {}", self.flagged)
    }
}

/// Runs the campaign, and reports each flagged run and each scenario.
///
/// # Panics
/// If a scenario fails without a fault.
pub fn campaign(
    world: &mut World,
    options: &Options,
    mut tell: impl FnMut(&str),
) -> BTreeMap<String, Figures> {
    let mut all = BTreeMap::new();
    for scenario in scenarios() {
        let name = scenario.name().to_owned();
        if !options.scenarios.is_empty() && !options.scenarios.contains(&name) {
            continue;
        }
        let (calls, verdict) = scenario.run(world, None);
        assert!(
            verdict.flags.is_empty(),
            "{name} without a fault: {verdict:?}"
        );
        let mut figures = Figures {
            calls: calls.len(),
            ..Figures::default()
        };
        let begun = Instant::now();
        for fault in faults(options, &name, &calls) {
            let (_, verdict) = scenario.run(world, Some(&fault));
            *figures.ended.entry(verdict.ended).or_default() += 1;
            if !verdict.flags.is_empty() {
                figures.flagged += 1;
                tell(&format!(
                    "FLAG {name} {fault}: {}",
                    verdict.flags.join("; ")
                ));
            }
        }
        for flag in world.overdue(true) {
            figures.flagged += 1;
            tell(&format!("FLAG {name}: {flag}"));
        }
        let seconds = begun.elapsed().as_secs();
        tell(&format!(
            "DONE {name} part {}: {figures} in {seconds} s",
            options.part
        ));
        all.insert(name, figures);
    }
    all
}

/// The faults of a scenario, as the options select them.
fn faults(options: &Options, scenario: &str, calls: &[String]) -> Vec<Fault> {
    if !options.faults.is_empty() {
        return options.faults.clone();
    }
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for call in calls {
        *counts.entry(call).or_default() += 1;
    }
    let mut found = Vec::new();
    for (call, count) in counts {
        if !options.calls.is_empty() && !options.calls.iter().any(|each| each == call) {
            continue;
        }
        let errors = fault::errors(call);
        if errors.is_empty() {
            continue;
        }
        for nth in 1..=count {
            // The first execve is strace's own.
            if call == "execve" && nth == 1 {
                continue;
            }
            let mut effects = Vec::new();
            if options.errors {
                effects.extend(errors.iter().map(|error| Effect::Error(error)));
            }
            if options.kills && call != fault::PAGE {
                effects.push(Effect::Kill);
            }
            let mut of_call: Vec<Fault> = effects
                .into_iter()
                .map(|effect| Fault {
                    call: call.to_owned(),
                    nth,
                    effect,
                })
                .collect();
            if options.once {
                of_call.sort_by_key(|fault| fault.rank(options.seed, scenario));
                of_call.truncate(1);
            }
            found.extend(of_call);
        }
    }
    // By its name and not by its place in the list: another process may have counted one call more.
    let parts = options.parts.max(1);
    found.retain(|fault| fault.rank(0, scenario) % parts as u64 == options.part as u64);
    found.sort_by_key(|fault| fault.rank(options.seed, scenario));
    let limit = options
        .limit
        .map_or(usize::MAX, |limit| limit.div_ceil(parts));
    found.truncate(limit);
    found
}
