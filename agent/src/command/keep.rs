//! `run`, `confirm` and `rollback`. An agent that runs confirms and rolls back itself.

use std::path::Path;

use peerwall_core::agent::keep;
use peerwall_core::ruleset::Ruleset;

use super::{DONE, TROUBLE, trouble, unreachable_agent};
use crate::agent;
use crate::cli::{RunArgs, WishArgs};
use crate::connections::revocation;
use crate::connections::{Connections, Transition};
use crate::control::{self, Answer, Reply, Request, Wish};
use crate::host::caller::Caller;
use crate::host::lockout;
use crate::json::{Confirmed, Failure, RolledBack};
use crate::kernel::netlink::NetlinkError;
use crate::output::{Output, complain};
use crate::policy_file::LoadedPolicy;
use crate::store::audit::Who;
use crate::store::{self, Kept, State};
use crate::trial::words::rolled_back;
use crate::trial::{Keeper, locked};

pub(super) fn run(args: &RunArgs) -> u8 {
    match agent::run(args) {
        Ok(()) => DONE,
        Err(err) => trouble("run", Failure::io(err), &Output::new(false)),
    }
}

/// Builds the options of a request to the agent.
pub(super) fn wish(args: &WishArgs) -> Wish {
    Wish {
        confirm: args.confirm,
        force: args.force,
        end_refused: args.end_refused,
        caller: Caller::here(),
    }
}

/// Sends a request to the agent, if one runs, and prints its answer.
pub(super) fn by_agent(command: Request, doing: &str, output: &Output) -> Option<u8> {
    Some(match control::ask(command)? {
        Ok(answer) => print(&answer, output),
        Err(err) => trouble(doing, unreachable_agent(&err), output),
    })
}

pub(super) fn print(answer: &Answer, output: &Output) -> u8 {
    if let Reply::Failed(failure) = &answer.reply {
        output.failure(failure, &format!("{}\n", answer.text));
        return TROUBLE;
    }
    if !output.is_json() {
        output.text(&format!("{}\n", answer.text));
        return DONE;
    }
    match &answer.reply {
        Reply::Status(status) => output.json(status),
        Reply::Denied(denials) => output.json(denials),
        Reply::Applied(applied) => output.json(applied),
        Reply::Confirmed(confirmed) => output.json(confirmed),
        Reply::RolledBack(done) => output.json(done),
        Reply::Blocked(done) => output.json(done),
        Reply::Unblocked(done) => output.json(done),
        Reply::Sources(list) => output.json(list),
        Reply::Peers(list) => output.json(list),
        Reply::Failed(failure) => output.json(failure),
    }
    DONE
}

pub(super) const NO_AGENT: &str = "no agent runs here; start it with `peerwall run` or systemctl \
    start peerwall, or use `peerwall apply`";

pub(super) fn confirm(output: &Output) -> u8 {
    let caller = Caller::here();
    if let Some(code) = by_agent(Request::Confirm(caller.clone()), "confirm", output) {
        return code;
    }
    let state = State::open();
    let mut keeper = Keeper::alone(&state, Who::caller("confirm", &caller));
    let trial = match locked(&state, || keep::confirm(&mut keeper, &caller)) {
        Ok(trial) => trial,
        Err(refusal) => return trouble("confirm", refusal, output),
    };
    if let Some(before) = trial
        .before
        .ruleset
        .as_ref()
        .filter(|_| trial.new.entry.cut)
        && let Err(err) = end(before, &trial.new.ruleset, &caller)
    {
        complain(&format!(
            "warning: open connections that the new policy refuses may go on, since they could not \
             be read or ended: {err}\n"
        ));
    }
    let confirmed = Confirmed::new(trial.new.entry.policy, None);
    match output.is_json() {
        true => output.json(&confirmed),
        false => output.text(&format!("{confirmed}\n")),
    }
    DONE
}

pub(super) fn rollback(output: &Output) -> u8 {
    let caller = Caller::here();
    if let Some(code) = by_agent(Request::Rollback(caller.clone()), "rollback", output) {
        return code;
    }
    let state = State::open();
    let mut keeper = Keeper::alone(&state, Who::caller("rollback", &caller));
    match locked(&state, || keep::roll_back(&mut keeper)) {
        Ok(done) => {
            match output.is_json() {
                true => output.json(&RolledBack::from(done)),
                false => output.text(&format!("{}\n", rolled_back(&done))),
            }
            DONE
        }
        Err(refusal) => trouble("rollback", refusal, output),
    }
}

/// Refuses a policy that would lock the caller out, before anything is changed.
pub(super) fn lockout(
    ready: &LoadedPolicy,
    args: &WishArgs,
    caller: &Caller,
) -> Result<(), Failure> {
    match args.force {
        true => Ok(()),
        false => Ok(lockout::check(&ready.ruleset, caller)?),
    }
}

/// Builds the ruleset of a policy, and stores the policy's text.
pub(super) fn kept(path: &Path, ready: &LoadedPolicy, by_iptables: bool) -> Kept {
    State::open().store_text(&ready.digest, &ready.text);
    let cut = ready.policy.options.cut_revoked;
    Kept {
        entry: store::entry(path, &ready.digest, by_iptables, cut),
        ruleset: ready.ruleset.clone(),
    }
}

/// Ends open connections that `old` admitted and `new` refuses.
fn end(old: &Ruleset, new: &Ruleset, caller: &Caller) -> Result<(), NetlinkError> {
    let spare = revocation::spared(caller, false);
    let change = Transition {
        spare: &spare,
        ..Transition::revoke(old, new)
    };
    Connections::open()?.end(&change).map(drop)
}
