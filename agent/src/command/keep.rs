//! `run`, `reload`, `confirm`, `rollback`, and the guard of a trial: by the agent if one runs, else by themselves.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use peerwall_core::agent::keep::{self, Ending, Fault, RolledBack};
use peerwall_core::backend::Backend as _;
use peerwall_core::ruleset::Ruleset;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{DONE, fallback, trouble};
use crate::agent;
use crate::cli::{RunArgs, WishArgs};
use crate::connections::revocation;
use crate::connections::{Change, Connections};
use crate::control::{self, Answer, Command, Wish};
use crate::enforce::nft::Kernel;
use crate::host::caller::Caller;
use crate::host::lockout;
use crate::kernel::netlink::NetlinkError;
use crate::output::{Output, complain};
use crate::policy_file::Ready;
use crate::store::audit::Who;
use crate::store::since;
use crate::store::{self, Before, Entry, Kept, Pending, State};
use crate::system::notice;
use crate::system::scope;
use crate::trial::alone::Alone;
use crate::trial::{Keeper, locked, of_backend, of_io};

/// The guard looks this often whether somebody confirmed.
const GUARD_LOOKS_EVERY: Duration = Duration::from_secs(1);
/// And tries this often to go back where that fails.
const GUARD_TRIES_EVERY: Duration = Duration::from_millis(250);
/// How long the guard leaves it to an agent that is there.
const AGENT_GRACE: Duration = Duration::from_secs(2);

pub(super) fn run(args: &RunArgs) -> u8 {
    match agent::run(args) {
        Ok(()) => DONE,
        Err(err) => trouble("run", &err, &Output::new(false)),
    }
}

/// The wish, as it goes to the agent.
pub(super) fn wish(args: &WishArgs) -> Wish {
    Wish {
        confirm: args.confirm,
        force: args.force,
        end_refused: args.end_refused,
        caller: Caller::here(),
    }
}

/// Asks the agent, if there is one, and prints what it answers.
pub(super) fn by_agent(command: Command, doing: &str, output: &Output) -> Option<u8> {
    Some(match control::ask(command)? {
        Ok(answer) => print(&answer, output),
        Err(err) => trouble(doing, &err, output),
    })
}

fn print(answer: &Answer, output: &Output) -> u8 {
    match (output.is_json(), answer.code) {
        (true, DONE) => output.json(&answer.data),
        (true, _) => output.json(&json!({"error": answer.text})),
        (false, DONE) => output.text(&format!("{}\n", answer.text)),
        (false, _) => complain(&format!("{}\n", answer.text)),
    }
    answer.code
}

const NO_AGENT: &str = "no agent runs here; start it with `peerwall run` or systemctl start peerwall, or use `peerwall apply`";

pub(super) fn reload(args: &WishArgs, output: &Output) -> u8 {
    by_agent(Command::Reload(wish(args)), "reload", output)
        .unwrap_or_else(|| trouble("reload", &NO_AGENT, output))
}

pub(super) fn confirm(output: &Output) -> u8 {
    let caller = Caller::here();
    if let Some(code) = by_agent(Command::Confirm(caller.clone()), "confirm", output) {
        return code;
    }
    let state = State::open();
    let mut keeper = keeper(&state, Who::caller("confirm", &caller));
    let trial = match locked(&state, || keep::confirm(&mut keeper, &caller)) {
        Ok(trial) => trial,
        Err(refusal) => return trouble("confirm", &refusal, output),
    };
    if let Some(before) = trial
        .before
        .ruleset
        .as_ref()
        .filter(|_| trial.new.entry.cut)
        && let Err(err) = end(before, &trial.new.ruleset, &caller)
    {
        complain(&format!(
            "warning: open connections that the new policy refuses may go on, since they could not be read or ended: {err}\n"
        ));
    }
    output.text(&format!("confirmed: {} stays\n", trial.new.entry.policy));
    DONE
}

fn keeper(state: &State, who: Who) -> Keeper<'_, Alone> {
    Keeper {
        state,
        loader: Alone::default(),
        who,
    }
}

pub(super) fn rollback(output: &Output) -> u8 {
    let caller = Caller::here();
    if let Some(code) = by_agent(Command::Rollback(caller.clone()), "rollback", output) {
        return code;
    }
    let state = State::open();
    let mut keeper = keeper(&state, Who::caller("rollback", &caller));
    match locked(&state, || keep::roll_back(&mut keeper)) {
        Ok(done) => {
            output.text(&format!("{}\n", rolled_back(&done)));
            DONE
        }
        Err(refusal) => trouble("rollback", &refusal, output),
    }
}

/// What is said of a rollback that was made.
pub(crate) fn rolled_back(done: &RolledBack) -> String {
    match done {
        RolledBack::Trial(fault) => {
            let warning = fault.as_ref().map_or_else(String::new, |fault| {
                format!("\nwarning: the state directory does not have it, so that the policy may be loaded again: {fault}")
            });
            format!("rolled back: the trial is over, and what was before is back{warning}")
        }
        RolledBack::To(entry, fault) => {
            let warning = fault.as_ref().map_or_else(String::new, |fault| {
                format!("\nwarning: the next boot will not know: {fault}")
            });
            format!(
                "rolled back to number {} of {}{warning}",
                entry.number, entry.time
            )
        }
    }
}

/// Before anything is changed: whether the caller could come back.
pub(super) fn lockout(ready: &Ready, args: &WishArgs, caller: &Caller) -> Result<(), String> {
    match args.force {
        true => Ok(()),
        false => lockout::check(&ready.ruleset, caller),
    }
}

/// What a policy puts in force. Its text is stored.
pub(super) fn kept(path: &Path, ready: &Ready, by_iptables: bool) -> Kept {
    State::open().store_text(&ready.digest, &ready.text);
    let cut = ready.policy.options.cut_revoked;
    Kept {
        entry: store::entry(path, &ready.digest, by_iptables, cut),
        ruleset: ready.ruleset.clone(),
    }
}

/// What a trial would go back to.
///
/// # Errors
/// [`Fault`] if that cannot be told: taken for nothing, it would leave the host open.
pub(super) fn before(state: &State) -> Result<Before, Fault> {
    let by_iptables = since::by_iptables();
    let ruleset = match by_iptables {
        true => {
            let known = fallback::in_force();
            let why = "what iptables has in force is not in the state directory";
            Some(known.ok_or_else(|| Fault::new(why))?)
        }
        false => loaded(state)?,
    };
    let history = state.history().ok();
    let last = history.and_then(|mut history| history.kept.pop());
    let cut = last.as_ref().is_none_or(|last| last.cut);
    // Somebody else may have loaded what is in force.
    let is_in_force = |last: &Entry| {
        let kept = state.load(last.clone());
        kept.is_ok_and(|kept| Some(kept.ruleset) == ruleset)
    };
    Ok(Before {
        entry: last.filter(is_in_force),
        ruleset,
        by_iptables,
        cut,
    })
}

/// The ruleset in the kernel; where others have changed it to what is no ruleset of ours, the last one that was
/// confirmed.
fn loaded(state: &State) -> Result<Option<Ruleset>, Fault> {
    let seen = Kernel::open().and_then(|mut kernel| kernel.observe());
    let Some(table) = seen.map_err(|err| of_backend(&err))?.table else {
        return Ok(None);
    };
    if let Some(ruleset) = table.ruleset() {
        return Ok(Some(ruleset));
    }
    let why = "the table was changed, and nothing was confirmed";
    let last = state.last().map_err(of_io)?;
    last.map(|kept| Some(kept.ruleset))
        .ok_or_else(|| Fault::new(why))
}

/// What is in force, and whether by iptables.
pub(crate) fn in_force() -> (Option<Ruleset>, bool) {
    if since::by_iptables() {
        return (fallback::in_force(), true);
    }
    let seen = || Kernel::open().ok()?.observe().ok()?.table?.ruleset();
    (seen(), false)
}

/// Ends open connections that `old` admitted and `new` refuses.
fn end(old: &Ruleset, new: &Ruleset, caller: &Caller) -> Result<(), NetlinkError> {
    let spare = revocation::spared(caller, false);
    let change = Change {
        spare: &spare,
        ..Change::revoke(old, new)
    };
    Connections::open()?.end(&change).map(drop)
}

/// What is said of a trial that began.
pub(crate) fn tried(seconds: u64) -> String {
    format!(
        "on trial: what was before comes back in {seconds} seconds; to keep this, confirm it from a new connection or terminal: peerwall confirm"
    )
}

/// Waits until the trial that waits has to be confirmed by, and goes back if nobody else did anything. It ends only
/// when the trial is confirmed or gone back from: whatever fails is tried again.
///
/// It leaves the control group of the unit or session that it was started from, so that it is not killed with that. If it
/// is stopped all the same, it goes back at once, since it may be killed next.
pub(super) fn guard() -> u8 {
    let mut stop = Stop::listen();
    if let Err(err) = scope::enter("peerwall-guard", "peerwall: guard of a trial") {
        log::debug!("stays in its control group: {err}");
    }
    // Whoever started it waits for this; if it cannot be written, the trial is refused, and there is nothing to do.
    let _ = writeln!(io::stdout(), "ready");
    let state = State::open();
    let mut mine: Option<u64> = None;
    let mut graced_until: Option<Instant> = None;
    loop {
        let pending = match waiting(&state) {
            Ok(Some(pending)) => pending,
            Ok(None) => return DONE, // confirmed, or gone back
            Err(_) => {
                stop.sleep(GUARD_TRIES_EVERY);
                continue;
            }
        };
        // Another trial has its own guard.
        if *mine.get_or_insert(pending.id) != pending.id {
            return DONE;
        }
        let left = left(&pending, &mut graced_until);
        let why = match (left.is_zero(), stop.is_asked) {
            (true, _) => Ending::RanOut,
            // An agent that is stopped along with it goes back, and one that is not keeps the trial's time.
            (false, true) if !control::is_there() => Ending::Stopped,
            (false, true) => {
                stop.sleep(GUARD_TRIES_EVERY);
                continue;
            }
            (false, false) => {
                stop.sleep(left.min(GUARD_LOOKS_EVERY));
                continue;
            }
        };
        if go_back(&state, pending.id, why).is_ok() {
            return DONE;
        }
        stop.sleep(GUARD_TRIES_EVERY);
    }
}

/// Any of SIGTERM, SIGINT and SIGHUP.
struct Stop {
    signals: Option<UnixStream>,
    is_asked: bool,
}

impl Stop {
    fn listen() -> Self {
        let signals = || {
            let (ours, theirs) = UnixStream::pair()?;
            for signal in [SIGTERM, SIGINT, SIGHUP] {
                signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
            }
            Ok(ours)
        };
        Self {
            // A guard that dies of a signal is better than no guard.
            signals: signals()
                .map_err(|err: io::Error| log::debug!("{err}"))
                .ok(),
            is_asked: false,
        }
    }

    /// Sleeps, until it is asked to stop at most.
    fn sleep(&mut self, time: Duration) {
        // No time at all would be no limit.
        let time = time.max(Duration::from_millis(1));
        let signals = self.signals.as_mut().filter(|_| !self.is_asked);
        let Some(signals) = signals.filter(|s| s.set_read_timeout(Some(time)).is_ok()) else {
            return thread::sleep(time);
        };
        self.is_asked = signals.read(&mut [0]).is_ok_and(|len| len > 0);
    }
}

fn waiting(state: &State) -> std::io::Result<Option<Pending>> {
    let Some(trial) = state.trial()? else {
        return Ok(None);
    };
    let settled = state.history()?.settled;
    Ok((settled != Some(trial.id)).then_some(trial))
}

/// How long the guard waits yet. An agent goes back by itself, if it lives.
fn left(pending: &Pending, graced_until: &mut Option<Instant>) -> Duration {
    let left = pending.left(&store::clock());
    if !left.is_zero() {
        return left;
    }
    let until = graced_until.get_or_insert_with(|| {
        let is_agent = matches!(control::ask(Command::Status), Some(Ok(_)));
        Instant::now()
            + if is_agent {
                AGENT_GRACE
            } else {
                Duration::ZERO
            }
    });
    until.saturating_duration_since(Instant::now())
}

fn go_back(state: &State, id: u64, why: Ending) -> Result<(), keep::Refusal> {
    let mut keeper = keeper(state, Who::process("guard"));
    let ended = locked(state, || {
        keep::go_back(&mut keeper, Some(id), why).map_err(keep::Refusal::State)
    })?;
    if let Some(trial) = ended {
        let text = match why {
            Ending::Stopped => stopped(&trial),
            Ending::RanOut | Ending::RolledBack => ran_out(&trial),
        };
        notice::to_terminal(&trial.from, &text);
        notice::to_syslog(&text);
    }
    Ok(())
}

/// The message about a trial that was not confirmed in time.
pub(crate) fn ran_out(trial: &Pending) -> String {
    format!(
        "{} was not confirmed within {} s and was rolled back; the rules from before are loaded again",
        trial.new.entry.policy, trial.seconds
    )
}

/// The message about a trial whose agent or guard was stopped.
pub(crate) fn stopped(trial: &Pending) -> String {
    format!(
        "{} was not confirmed before its agent or guard was stopped, and was rolled back; the rules from before are loaded again",
        trial.new.entry.policy
    )
}
