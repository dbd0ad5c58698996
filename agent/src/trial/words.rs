//! Messages about trials.

use peerwall_core::agent::keep::{Entry, RolledBack};
use peerwall_core::words::count;

use crate::json::{BlockOutcome, Blocked, Unblocked};

/// Message about a trial that started.
pub fn tried(seconds: u64) -> String {
    format!(
        "on trial: rolled back in {} unless confirmed. To keep it, run this from a new connection \
         or terminal: peerwall confirm",
        count(seconds, "second")
    )
}

/// Message about a block, with what happened to open connections.
pub fn blocked(done: &Blocked, connections: &str) -> String {
    let mut accepted = vec!["the safe core".to_owned()];
    if !done.ssh_from.is_empty() {
        let from: Vec<String> = done.ssh_from.iter().map(ToString::to_string).collect();
        accepted.push(format!("ssh from {}", from.join(", ")));
    }
    if done.peers > 0 {
        accepted.push(count(done.peers, "peer"));
    }
    let accepted = accepted.join(", ");
    let warning = done.not_recorded.as_ref().map_or_else(String::new, |why| {
        format!("warning: the block could not be recorded, so a reboot ends it: {why}\n")
    });
    let end = match (done.outcome, done.confirm_seconds) {
        (BlockOutcome::Unchanged, _) => "this host was blocked like this already".to_owned(),
        (_, Some(seconds)) => format!(
            "it ends in {} unless confirmed. To keep it, run this from a new connection or \
             terminal: peerwall confirm",
            count(seconds, "second")
        ),
        (_, None) => "it stays until `peerwall unblock`, also over reboots".to_owned(),
    };
    format!("BLOCKED: only accepted: {accepted}\n{connections}{warning}{end}")
}

/// Message about the end of a block.
pub fn unblocked(done: &Unblocked) -> String {
    let back = match (&done.policy, done.number) {
        (Some(policy), Some(number)) => format!("back to {policy} (number {number})"),
        (Some(policy), None) => format!("back to {policy}"),
        (None, _) => {
            "no policy was in force before, so this host has no rules of peerwall now".to_owned()
        }
    };
    let warning = done.not_recorded.as_ref().map_or_else(String::new, |why| {
        format!("\nwarning: this could not be recorded, so the next boot blocks again: {why}")
    });
    format!("unblocked: {back}{warning}")
}

/// Message about a rollback.
pub fn rolled_back(done: &RolledBack) -> String {
    match done {
        RolledBack::Trial(fault) => {
            let warning = fault.as_ref().map_or_else(String::new, |fault| {
                format!("\nwarning: this could not be recorded, so the policy may be loaded again: {fault}")
            });
            format!(
                "rolled back: the trial is over, and the rules from before are loaded again{warning}"
            )
        }
        RolledBack::To(entry, fault) => {
            let warning = fault.as_ref().map_or_else(String::new, |fault| {
                format!("\nwarning: this could not be recorded for the next boot: {fault}")
            });
            format!(
                "rolled back to number {} of {}{warning}",
                entry.number, entry.time
            )
        }
    }
}

/// Message about a trial that was not confirmed in time.
pub fn ran_out(policy: &str, seconds: u64) -> String {
    format!(
        "{policy} was not confirmed within {seconds} s and was rolled back; the rules from before \
         are loaded again"
    )
}

/// Message about a trial whose agent or guard was stopped.
pub fn stopped(policy: &str) -> String {
    format!(
        "{policy} was not confirmed before its agent or guard was stopped, and was rolled back; \
         the rules from before are loaded again"
    )
}

/// Logs that lists could not be read, so their previous members stay loaded.
pub fn lists_kept(entry: &Entry, why: &impl std::fmt::Display) {
    log::warn!(
        event = "lists_kept", policy = entry.policy, error:% = why;
        "the lists of {} cannot be read, so their members stay as they were: {why}",
        entry.policy
    );
}
