//! `run`, `reload`, `confirm`, `rollback`, `history`, `boot`, and the guard of an apply that has to be
//! confirmed: by the agent if one runs, else by themselves.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use peerwall_core::backend::Backend as _;
use peerwall_core::compile::compile;
use peerwall_core::policy::HeldBy;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::Ruleset;
use serde_json::json;

use super::loading::Loading;
use super::{DONE, TROUBLE, fallback, refuse, trouble};
use crate::agent::control::{self, Answer, Command, Wish};
use crate::agent::state::{self, Before, Entry, Kept, Pending, State};
use crate::agent::{self, Holder, SAME_CONNECTION};
use crate::caller::Caller;
use crate::cli::{BackendName, RunArgs, WishArgs};
use crate::connections::{Change, Connections};
use crate::files::FileSystem;
use crate::kernel::Kernel;
use crate::lockout;
use crate::netlink::NetlinkError;
use crate::output::{Output, complain};
use crate::ready::{Ready, prepare};
use crate::revocation;
use crate::since;

/// The guard looks again so often, in case the clock was set.
const GUARD_LOOKS_EVERY: Duration = Duration::from_secs(1);
/// How long the guard leaves it to an agent that is there.
const AGENT_GRACE: Duration = Duration::from_secs(2);

/// What is loaded at boot if nothing was ever confirmed and the policy is wrong.
const CLOSED: &str =
    "version = 1\n\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n";

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
    match confirm_alone(&caller) {
        Ok(text) => {
            output.text(&format!("{text}\n"));
            DONE
        }
        Err(err) => trouble("confirm", &err, output),
    }
}

fn confirm_alone(caller: &Caller) -> io::Result<&'static str> {
    let pending = State::open().confirm_pending(|pending| {
        if pending.from.is_same(caller) {
            return Err(io::Error::other(SAME_CONNECTION));
        }
        match pending.is_over() || pending.boot != state::boot() {
            true => Err(io::Error::other("it is too late; it went back")),
            false => Ok(()),
        }
    })?;
    if let Some(before) = pending.before.as_ref().filter(|_| pending.cut) {
        end(before, &pending.new.ruleset, Some(caller)).map_err(io::Error::other)?;
    }
    Ok("confirmed; it stays")
}

pub(super) fn rollback(output: &Output) -> u8 {
    if let Some(code) = by_agent(Command::Rollback, "rollback", output) {
        return code;
    }
    let state = State::open();
    let old = in_force().0;
    let result = match state.go_back(None, put_before) {
        Ok(true) => Ok("gone back to what was before".to_owned()),
        Ok(false) => state.back().and_then(|last| {
            put_kept(&last, old).map_err(io::Error::other)?;
            Ok(format!(
                "gone back to number {} of {}",
                last.entry.number, last.entry.time
            ))
        }),
        Err(err) => Err(err),
    };
    match result {
        Ok(text) => {
            output.text(&format!("{text}\n"));
            DONE
        }
        Err(err) => trouble("rollback", &err, output),
    }
}

/// Loads a ruleset without an agent, or removes what is ours. Ends what the ruleset refuses and `old`, which was
/// loaded until now, admitted.
fn put(to: &Before, policy: &str, old: Option<Ruleset>) -> Result<(), String> {
    let was_by_iptables = since::by_iptables();
    let wanted = to.ruleset.as_ref();
    let asked = match to.by_iptables {
        true => BackendName::Iptables,
        false => BackendName::Auto,
    };
    let mut holder = Holder::choose(asked, true)?;
    let mut loading = Loading::new(wanted.is_some() && !holder.is_loaded(), old, None);
    let done = holder.converge(wanted).map_err(|err| err.to_string())?;
    loading.was(done.before);
    // The one is in force; only now the other may go.
    match (holder.is_deaf(), was_by_iptables) {
        (true, _) => fallback::take_table_away(),
        (false, true) => fallback::take_away(&Output::new(false)),
        (false, false) => {}
    }
    match (wanted, holder.generation()) {
        (None, _) => since::forget(),
        (Some(_), Some(generation)) => since::note(generation, policy, holder.is_deaf()),
        (Some(_), None) => {}
    }
    if let Some(wanted) = wanted {
        loading.go_back(wanted, to.cut);
    }
    Ok(())
}

fn put_kept(kept: &Kept, old: Option<Ruleset>) -> Result<(), String> {
    let entry = &kept.entry;
    let to = Before {
        ruleset: Some(kept.ruleset.clone()),
        by_iptables: entry.by_iptables,
        cut: entry.cut,
    };
    put(&to, &entry.policy, old)
}

fn put_before(pending: &Pending) -> io::Result<()> {
    let policy = &pending.new.entry.policy;
    let trial = Some(pending.new.ruleset.clone());
    put(&pending.goes_back_to(), policy, trial).map_err(io::Error::other)
}

/// Before anything is changed: whether the caller could come back, and how to go back. Returns the trial that is
/// under way, if there is one.
pub(super) fn before_apply(
    path: &Path,
    ready: &Ready,
    args: &WishArgs,
    by_iptables: bool,
) -> Result<Option<Pending>, String> {
    let caller = Caller::here();
    if !args.force {
        lockout::check(&ready.ruleset, &caller)?;
    }
    let state = State::open();
    let trial = state.pending().ok().flatten();
    let trial = trial.filter(|pending| pending.boot == state::boot());
    let Some(seconds) = args.confirm else {
        return Ok(trial);
    };
    let before = match &trial {
        // A second one while the first waits goes back to the same.
        Some(pending) => pending.goes_back_to(),
        None => {
            let (ruleset, by_iptables) = in_force();
            let last = state
                .history()
                .ok()
                .and_then(|mut history| history.kept.pop());
            let cut = last.is_none_or(|last| last.cut);
            Before {
                ruleset,
                by_iptables,
                cut,
            }
        }
    };
    let cut = ready.policy.options.cut_revoked;
    let new = Kept {
        entry: Entry::new(path, &ready.digest, by_iptables, cut),
        ruleset: ready.ruleset.clone(),
    };
    let pending = Pending::new(new, before, seconds, caller);
    state.guard(&pending).map_err(|err| {
        format!("nothing was changed, since it could not be made sure to go back: {err}")
    })?;
    Ok(trial)
}

/// What is in force, and whether by iptables.
pub(super) fn in_force() -> (Option<Ruleset>, bool) {
    if since::by_iptables() {
        return (fallback::in_force(), true);
    }
    let seen = || Kernel::open().ok()?.observe().ok()?.table?.ruleset();
    (seen(), false)
}

/// Ends open connections that `old` admitted and `new` refuses.
fn end(old: &Ruleset, new: &Ruleset, caller: Option<&Caller>) -> Result<(), NetlinkError> {
    let spare = caller.map_or_else(Vec::new, |caller| revocation::spared(caller, false));
    let change = Change {
        spare: &spare,
        ..Change::revoke(old, new)
    };
    Connections::open()?.end(&change).map(drop)
}

/// Afterwards: it is confirmed, or waits for that.
pub(super) fn after_apply(
    path: &Path,
    ready: &Ready,
    args: &WishArgs,
    by_iptables: bool,
    output: &Output,
) {
    match args.confirm {
        None => {
            let state = State::open();
            let noted = state.note_discovered(&ready.policy).and_then(|()| state.clear_pending()).and_then(|()| state.confirm(&Entry::new(path, &ready.digest, by_iptables, ready.policy.options.cut_revoked), &ready.ruleset));
            if let Err(err) = noted
                && !output.is_json()
            {
                complain(&format!("warning: it is in force, but `peerwall boot` and `rollback` do not know of it: {err}\n"));
            }
        }
        Some(seconds) if !output.is_json() => output.text(&format!(
            "goes back by itself in {seconds} seconds; confirm it from a new connection or terminal: peerwall confirm\n"
        )),
        Some(_) => {}
    }
}

/// Waits until what is pending has to be confirmed by, and goes back if nobody else did anything.
pub(super) fn guard() -> u8 {
    let state = State::open();
    let mut mine: Option<Pending> = None;
    let mut graced_until: Option<Instant> = None;
    loop {
        let Ok(Some(pending)) = state.pending() else {
            return DONE; // confirmed, or gone back
        };
        // Another apply has its own guard.
        if mine.get_or_insert_with(|| pending.clone()) != &pending {
            return DONE;
        }
        // An agent does it itself, if it lives.
        let agent = matches!(control::ask(Command::Status), Some(Ok(_)));
        let grace = if agent { AGENT_GRACE } else { Duration::ZERO };
        // The grace begins when the time is over.
        let left = match (pending.left(), graced_until) {
            (Duration::ZERO, None) => {
                graced_until = Some(Instant::now() + grace);
                grace
            }
            (Duration::ZERO, Some(until)) => until.saturating_duration_since(Instant::now()),
            (left, _) => left,
        };
        if !left.is_zero() {
            thread::sleep(left.min(GUARD_LOOKS_EVERY));
            continue;
        }
        return match state.go_back(mine.as_ref(), put_before) {
            Ok(_) => DONE,
            Err(_) => TROUBLE,
        };
    }
}

pub(super) fn boot(policy: &Path) -> u8 {
    let output = Output::new(false);
    let state = State::open();
    match state.pending() {
        Ok(Some(pending)) => {
            complain(&format!(
                "warning: {} was not confirmed before this machine started anew; it is not taken\n",
                pending.new.entry.policy
            ));
            if let Err(err) = state.give_up(&pending.new.entry.digest) {
                complain(&format!("warning: {err}\n"));
            }
        }
        Ok(None) => {}
        Err(err) => complain(&format!("warning: {err}\n")),
    }
    let last = match state.last() {
        Ok(last) => last,
        Err(err) => {
            complain(&format!("warning: {err}\n"));
            None
        }
    };
    if let Some(last) = last {
        return match put_kept(&last, None) {
            Ok(()) => {
                output.text(&format!(
                    "loaded number {} of {}, from {}\n",
                    last.entry.number, last.entry.time, last.entry.policy
                ));
                DONE
            }
            Err(err) => trouble("boot", &err, &output),
        };
    }
    // The agent comes right behind, and waits.
    let ready = match prepare(policy, &FileSystem { waits: true }) {
        Ok(ready) => ready,
        Err(why) => {
            refuse(&why, &output);
            return close(&output);
        }
    };
    if let Err(why) = ready.check_permissions() {
        trouble("boot", &why, &output);
        return close(&output);
    }
    let to = Before {
        by_iptables: ready.policy.options.backend == HeldBy::Iptables,
        cut: ready.policy.options.cut_revoked,
        ruleset: Some(ready.ruleset),
    };
    let name = policy.display().to_string();
    match put(&to, &name, None) {
        Ok(()) => {
            output.text(&format!(
                "nothing was confirmed yet; applied {}\n",
                policy.display()
            ));
            DONE
        }
        Err(err) => trouble("boot", &err, &output),
    }
}

/// Nothing is known and the policy is wrong: closed, but for the safe core and ssh.
fn close(output: &Output) -> u8 {
    let Some(closed) = load("closed", CLOSED, &NoFiles).policy else {
        return TROUBLE;
    };
    let to = Before {
        ruleset: Some(compile(&closed).0),
        by_iptables: false,
        // What is open may be the way in of whoever repairs this.
        cut: false,
    };
    if let Err(err) = put(&to, "nothing", None) {
        return trouble("boot", &err, output);
    }
    complain(
        "error: the policy is wrong and nothing was ever confirmed: this host is closed now, but for the safe core and ssh; mend the policy, then `peerwall apply`\n",
    );
    TROUBLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_a_host_is_a_policy() {
        assert!(load("closed", CLOSED, &NoFiles).policy.is_some());
    }
}
