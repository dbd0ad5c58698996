//! `peerwall boot`

use std::path::Path;

use peerwall_core::agent::keep::{self, Booted, Fault, World as _};
use peerwall_core::policy::BackendChoice;

use super::{DONE, TROUBLE};
use crate::output::{Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;
use crate::store::audit::Who;
use crate::store::{self, Entry, Kept, State};
use crate::system::journal;
use crate::trial::Keeper;
use crate::trial::alone::Alone;
use crate::trial::closed;

/// Compiles the current policy, for a host without a confirmed ruleset.
fn read(policy: &Path) -> Result<Kept, Fault> {
    // The agent starts next, and waits for discovered facts.
    let ready = prepare(policy, &FileSystem { waits: true }).map_err(|why| Fault {
        is_passing: why.is_passing,
        ..Fault::new(why.text.trim_end())
    })?;
    ready.check_permissions().map_err(Fault::new)?;
    let by_iptables = ready.policy.options.backend == BackendChoice::Iptables;
    State::open().store_text(&ready.digest, &ready.text);
    let cut = ready.policy.options.cut_revoked;
    Ok(Kept {
        entry: store::entry(policy, &ready.digest, by_iptables, cut),
        ruleset: ready.ruleset,
    })
}

/// Names the backend, if it is not the usual one.
fn by(entry: &Entry) -> &'static str {
    match entry.by_iptables {
        true => ", by iptables",
        false => "",
    }
}

pub(super) fn run(policy: &Path) -> u8 {
    let output = Output::new(false);
    let Some(closed) = closed::closed() else {
        return TROUBLE;
    };
    let state = State::open();
    // A lock that cannot be acquired must not leave a host open.
    let _lock = state
        .lock()
        .map_err(|err| complain(&format!("warning: {err}\n")));
    let mut keeper = Keeper {
        state: &state,
        loader: Alone::default(),
        who: Who::process("boot"),
    };
    let boot = keep::boot(&mut keeper, |_| read(policy), &closed);
    let is_good = matches!(boot.booted, Booted::Confirmed(_) | Booted::Policy(_));
    for problem in &boot.problems {
        let severity = if is_good { "warning" } else { "error" };
        complain(&format!("{severity}: {problem}\n"));
    }
    match boot.booted {
        // The event is in the log already, with its fields.
        Booted::Confirmed(_) | Booted::Policy(_) if journal::is_stderr() => DONE,
        Booted::Confirmed(entry) => {
            output.text(&format!(
                "loaded number {} of {}, from {}{}\n",
                entry.number,
                entry.time,
                entry.policy,
                by(&entry)
            ));
            DONE
        }
        Booted::Policy(entry) => {
            output.text(&format!(
                "nothing that was confirmed could be loaded; applied {}{}\n",
                entry.policy,
                by(&entry)
            ));
            DONE
        }
        Booted::Closed => {
            complain(
                "error: nothing that was confirmed and no policy could be loaded: this host is closed now, except for the safe core and ssh; repair the policy, then `peerwall apply`\n",
            );
            TROUBLE
        }
        Booted::Nothing => {
            let clock = keeper.clock();
            complain(&format!(
                "error: not even the closed ruleset could be loaded: this host is as open as its other tables leave it (boot {})\n",
                clock.boot
            ));
            TROUBLE
        }
    }
}
