//! Makes the kernel hold a ruleset: observe, plan, commit, verify, again if somebody came between.

use std::thread;
use std::time::Duration;

use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::observed::Observed;
use peerwall_core::plan::{self, Plan};
use peerwall_core::ruleset::Ruleset;

use crate::kernel::Kernel;

/// Somebody else may come between so often before this gives up.
const TRIES: u32 = 200;
/// Another apply owns the table as long as it runs, which is not long. Who owns it longer than this
/// means to.
const OWNED_PATIENCE: Duration = Duration::from_secs(1);
const OWNED_PAUSE: Duration = Duration::from_millis(10);

/// What it took.
#[derive(Debug, Clone)]
pub struct Converged {
    /// What was there before.
    pub before: Observed,
    /// What was sent; empty if there was nothing to do.
    pub plan: Plan,
}

/// Whether this process wants to own the table from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The table is owned by the kernel's socket afterwards, where the kernel can do that.
    Yes,
    /// Nothing is sent if the rules are as they should be.
    No,
}

/// Makes the kernel hold `wanted`, or nothing of ours for `None`.
///
/// # Errors
/// What the kernel said, last. Unless it is [`BackendError::Unknown`], nothing was changed.
pub fn converge(
    kernel: &mut Kernel,
    wanted: Option<&Ruleset>,
    hold: Hold,
) -> Result<Converged, BackendError> {
    let mut last = BackendError::Stale;
    let mut patience = OWNED_PATIENCE;
    for _ in 0..TRIES {
        let before = kernel.observe()?;
        let plan = match wanted {
            Some(wanted) => plan_to_hold(kernel, wanted, &before, hold),
            None => Plan::remove(&before),
        };
        if plan.is_empty() {
            return Ok(Converged { before, plan });
        }
        match kernel.commit(&plan, before.generation) {
            Ok(()) => {}
            Err(err @ BackendError::Stale) => {
                last = err;
                continue;
            }
            Err(err @ BackendError::Owned) if !patience.is_zero() => {
                patience = patience.saturating_sub(OWNED_PAUSE);
                last = err;
                thread::sleep(OWNED_PAUSE);
                continue;
            }
            Err(err) => return Err(err),
        }
        match wanted.map_or(Ok(()), |wanted| kernel.verify(wanted)) {
            Ok(()) => return Ok(Converged { before, plan }),
            // Either somebody changed it right away, or the kernel did not do what it acked.
            Err(err) => last = err,
        }
    }
    Err(last)
}

fn plan_to_hold(kernel: &Kernel, wanted: &Ruleset, seen: &Observed, hold: Hold) -> Plan {
    let plan = plan::plan(wanted, seen);
    let Some(table) = seen.table.as_ref().filter(|_| hold == Hold::Yes) else {
        return plan;
    };
    match (table.hold.persist, plan.is_empty()) {
        // An orphan is claimed by adding it again.
        (true, true) => Plan::claim(),
        (true, false) => plan,
        // What was made without `persist`, by nft say, can only be made anew to be owned.
        (false, _) if plan.rebuild.is_none() && kernel.has_ownership() != Some(false) => {
            plan::anew(
                wanted,
                table,
                "the table that is there cannot be owned".into(),
            )
        }
        (false, _) => plan,
    }
}
