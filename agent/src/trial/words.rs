//! Messages about trials.

use peerwall_core::agent::keep::{Entry, RolledBack};

/// Message about a trial that started.
pub fn tried(seconds: u64) -> String {
    format!(
        "on trial: rolled back in {seconds} seconds unless confirmed. To keep it, run this from a \
         new connection or terminal: peerwall confirm"
    )
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
