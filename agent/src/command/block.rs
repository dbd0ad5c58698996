//! `peerwall block` and `peerwall unblock`. An agent that runs does both.

use std::time::Duration;

use peerwall_core::agent::keep::{self, Entry, Fault, Refusal};
use peerwall_core::ruleset::Ruleset;

use super::keep::by_agent;
use super::{DONE, trouble};
use crate::cli::{BlockArgs, UnblockArgs};
use crate::connections::revocation;
use crate::connections::{Connections, Transition, Which};
use crate::control::{BlockWish, Request, Wish};
use crate::host::caller::Caller;
use crate::host::lockout;
use crate::json::{BlockOutcome, Blocked, EndedConnections, Failure, Unblocked};
use crate::output::Output;
use crate::store::audit::Who;
use crate::store::{State, since};
use crate::trial::alone::Alone;
use crate::trial::block::{self, Block};
use crate::trial::{Keeper, before, of_io, words};

/// Asks the agent to block the host, or does it.
pub(super) fn block(args: &BlockArgs, output: &Output) -> u8 {
    let caller = Caller::here();
    let asked = BlockWish {
        keep_peers: args.keep_peers,
        wish: Wish {
            confirm: args.confirm(),
            force: args.force,
            end_refused: true,
            caller,
        },
    };
    if let Some(code) = by_agent(Request::Block(asked.clone()), "block", output) {
        return code;
    }
    match alone(&asked) {
        Ok((done, text)) => {
            match output.is_json() {
                true => output.json(&done),
                false => output.text(&format!("{}\n", words::blocked(&done, &text))),
            }
            DONE
        }
        Err(why) => trouble("block", why, output),
    }
}

/// Blocks the host without an agent. Returns the result, and the text about open connections.
fn alone(asked: &BlockWish) -> Result<(Blocked, String), Failure> {
    let state = State::open();
    let lock = state.lock().map_err(|err| Refusal::State(of_io(err)))?;
    let history = state.history().map_err(|err| Refusal::State(of_io(err)))?;
    let in_force = history.kept.iter().rev().find(|entry| !entry.is_block);
    let caller = &asked.wish.caller;
    let made = block::block(
        &state,
        in_force,
        caller,
        asked.keep_peers,
        since::by_iptables(),
    );
    let block = made.map_err(Refusal::NotLoaded)?;
    if !asked.wish.force {
        lockout::check(&block.kept.ruleset, caller)?;
    }
    let done = load(&state, &block, asked)?;
    drop(lock);
    let (text, ended) = match done.outcome {
        BlockOutcome::Unchanged => (String::new(), None),
        BlockOutcome::Blocked | BlockOutcome::OnTrial => end_others(&block.kept.ruleset, asked),
    };
    let done = Blocked {
        connections: ended,
        ..done
    };
    Ok((done, text))
}

/// Loads a block, permanently or on trial.
fn load(state: &State, block: &Block, asked: &BlockWish) -> Result<Blocked, Refusal> {
    let caller = &asked.wish.caller;
    let mut keeper = Keeper {
        state,
        loader: Alone::ending_none(),
        who: Who::caller("block", caller),
    };
    let is_same = |entry: &Entry| entry.digest == block.kept.entry.digest;
    let is_loaded = keep::blocked_by(&mut keeper)
        .map_err(Refusal::State)?
        .is_some_and(|entry| is_same(&entry));
    let waits = keep::waiting(&mut keeper)
        .map_err(Refusal::State)?
        .is_some();
    if is_loaded && (!waits || asked.wish.confirm.is_some()) {
        // Another program may have changed the rules.
        keep::World::load(&mut keeper, &block.kept).map_err(Refusal::NotLoaded)?;
        return Ok(block.told(BlockOutcome::Unchanged, None));
    }
    let Some(seconds) = asked.wish.confirm else {
        let not_recorded = match keep::apply(&mut keeper, &block.kept) {
            Ok(()) => None,
            // The host is blocked, although the next boot does not know of it.
            Err(Refusal::State(fault)) if keeper.loader.has_loaded() => Some(fault.text),
            Err(refusal) => return Err(refusal),
        };
        return Ok(Blocked {
            not_recorded,
            ..block.told(BlockOutcome::Blocked, None)
        });
    };
    let before = before::before(state).map_err(Refusal::NoWayBack)?;
    let time = Duration::from_secs(seconds);
    keep::try_out(
        &mut keeper,
        block.kept.clone(),
        before,
        time,
        caller.clone(),
    )?;
    Ok(block.told(BlockOutcome::OnTrial, Some(seconds)))
}

/// Ends all connections that the block refuses, except the caller's ssh.
fn end_others(ruleset: &Ruleset, asked: &BlockWish) -> (String, Option<EndedConnections>) {
    let spare = revocation::spared(&asked.wish.caller, asked.wish.force);
    let change = Transition {
        old: None,
        new: ruleset,
        fallback: None,
        which: Which::All,
        spare: &spare,
    };
    match Connections::open().and_then(|mut open| open.end(&change)) {
        Ok(outcome) => (
            revocation::applied_text(&outcome, false),
            Some(revocation::applied_json(&outcome)),
        ),
        Err(err) => {
            let error = err.to_string();
            let text = format!(
                "warning: open connections may go on, since they could not be read or ended: {error}\n"
            );
            let ended = EndedConnections {
                ended: 0,
                left: Vec::new(),
                error: Some(error),
            };
            (text, Some(ended))
        }
    }
}

/// Asks the agent to end the block, or does it.
pub(super) fn unblock(args: &UnblockArgs, output: &Output) -> u8 {
    let wish = Wish {
        force: args.force,
        caller: Caller::here(),
        ..Wish::default()
    };
    if let Some(code) = by_agent(Request::Unblock(wish.clone()), "unblock", output) {
        return code;
    }
    match unblock_alone(&wish) {
        Ok((entry, fault)) => {
            let done = Unblocked::new(entry, fault);
            match output.is_json() {
                true => output.json(&done),
                false => output.text(&format!("{}\n", words::unblocked(&done))),
            }
            DONE
        }
        Err(why) => trouble("unblock", why, output),
    }
}

fn unblock_alone(wish: &Wish) -> Result<(Option<Entry>, Option<Fault>), Failure> {
    let state = State::open();
    let _lock = state.lock().map_err(|err| Refusal::State(of_io(err)))?;
    let mut keeper = Keeper::alone(&state, Who::caller("unblock", &wish.caller));
    if let (Some(ruleset), false) = (keep::unblocked(&mut keeper)?, wish.force) {
        lockout::check(&ruleset, &wish.caller)?;
    }
    Ok(keep::unblock(&mut keeper)?)
}
