//! `peerwall apply` and `peerwall remove`

use peerwall_core::agent::keep::Fault;
use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::nft::plan::Plan;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::applying::{self, Applied};
use super::{DONE, Given, TROUBLE, keep, others, plan, refuse, report, trouble};
use crate::cli::ApplyArgs;
use crate::connections::loading::{Loading, Told};
use crate::enforce::converge::{Converged, Hold, converge};
use crate::enforce::foreign;
use crate::enforce::nft::Kernel;
use crate::enforce::switch;
use crate::host::caller::Caller;
use crate::output::{Output, complain};
use crate::policy_file::Ready;
use crate::store::Kept;
use crate::store::{State, since};
use crate::trial::alone::Alone;
use crate::trial::words;
use crate::trial::{Loader, of_backend};

pub(super) fn run(policy: &Given, args: &ApplyArgs, output: &Output) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    let hold = args.hold;
    // Before the table is ours, so that no signal is missed once it is.
    let signals = match hold
        .then(|| Signals::new([SIGINT, SIGTERM, SIGHUP]))
        .transpose()
    {
        Ok(signals) => signals,
        Err(err) => return Ok(trouble("apply", &err, output)),
    };
    let mut kernel = Kernel::open()?;
    let by_iptables = since::by_iptables();
    let caller = Caller::here();
    if let Err(why) = keep::lockout(ready, &args.wish, &caller) {
        return Ok(trouble("apply", &why, output));
    }
    let is_first = !kernel.is_loaded()? && !by_iptables;
    let mut loading = Loading::new(is_first, State::open().in_force_by_iptables());
    let mut loader = ByNft {
        kernel: &mut kernel,
        hold: if hold { Hold::Yes } else { Hold::No },
        first: None,
    };
    let kept = keep::kept(&policy.path, ready, false);
    let was_loaded = |loader: &ByNft<'_>| matches!(loader.first, Some(Ok(_)));
    let applied = applying::apply(&mut loader, was_loaded, &kept, &args.wish, &caller, output);
    let converged = match (applied, loader.first) {
        (Applied::Done, Some(Ok(converged))) => converged,
        (_, Some(Err(err))) => return Err(err),
        (Applied::NotLoaded(refusal) | Applied::Refused(refusal), _) => {
            return Ok(trouble("apply", &refusal, output));
        }
        (Applied::Done, None) => return Ok(TROUBLE),
    };
    if !output.is_json() {
        report::warnings(ready);
    }
    // The new is in force; only now the old may go.
    if by_iptables
        && let Err(err) = switch::remove_chains()
        && !output.is_json()
    {
        complain(&format!(
            "warning: our chains are still in iptables: {err}\n"
        ));
    }
    if (by_iptables || !converged.plan.is_empty())
        && let Ok(now) = kernel.generation()
    {
        since::note(now, &kept.entry.policy, false, &ready.ruleset);
    }
    let table = converged.before.table.as_ref();
    loading.was(table.and_then(|table| table.ruleset()));
    let told = loading.finish(ready, &args.wish);
    report(&converged.plan, ready, &told, output);
    if let Some(seconds) = args.wish.confirm.filter(|_| !output.is_json()) {
        output.text(&format!("{}\n", words::tried(seconds)));
    }
    if let Some(mut signals) = signals {
        return Ok(wait(&kernel, &mut signals, output));
    }
    Ok(DONE)
}

/// Loads by nf_tables, and remembers what came of the first time.
struct ByNft<'k> {
    kernel: &'k mut Kernel,
    hold: Hold,
    first: Option<Result<Converged, BackendError>>,
}

impl Loader for ByNft<'_> {
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        // A trial goes back to what iptables held.
        if kept.entry.by_iptables {
            return Alone::default().load(kept);
        }
        let result = converge(self.kernel, Some(&kept.ruleset), self.hold);
        let fault = result.as_ref().err().map(of_backend);
        self.first.get_or_insert(result);
        fault.map_or(Ok(()), Err)
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        let result = converge(self.kernel, None, Hold::No);
        let done = result.as_ref().map(|done| !done.plan.is_empty());
        let done = done.map_err(of_backend);
        self.first.get_or_insert(result);
        done
    }

    fn change(&mut self) -> Option<String> {
        let converged = self.first.as_ref()?.as_ref().ok()?;
        (!converged.plan.is_empty()).then(|| converged.plan.summary())
    }
}

fn report(plan: &Plan, ready: &Ready, told: &Told, output: &Output) {
    let others = foreign::find();
    if output.is_json() {
        let mut value = plan::as_json(plan);
        value["warnings"] = json!(ready.json_warnings());
        value["foreign_drops"] = json!(others);
        value["connections"] = told.json.clone();
        return output.json(&value);
    }
    match plan.is_empty() {
        true => output.text("nothing to do: the kernel holds what the policy says\n"),
        false => output.text(&format!("applied: {}\n", plan.summary())),
    }
    output.text(&told.text);
    others::warn(&others, output);
}

/// Stays until a signal; the socket, and with it the ownership, lives as long.
fn wait(kernel: &Kernel, signals: &mut Signals, output: &Output) -> u8 {
    if kernel.can_hold() == Some(false) {
        complain(
            "warning: this kernel cannot hold a table (owner and persist need Linux 6.9); others can change it\n",
        );
    } else if !output.is_json() {
        output.text(
            "holding the table inet peerwall; ends with SIGINT or SIGTERM, and leaves the rules\n",
        );
    }
    match signals.forever().next() {
        Some(_) => DONE,
        None => TROUBLE,
    }
}

pub(super) fn remove(output: &Output) -> Result<u8, BackendError> {
    let mut kernel = Kernel::open()?;
    let mut loader = ByNft {
        kernel: &mut kernel,
        hold: Hold::No,
        first: None,
    };
    let removed = applying::remove(&mut loader);
    let converged = match (removed, loader.first) {
        (_, Some(result)) => result?,
        (Err(refusal), None) => return Ok(trouble("remove", &refusal, output)),
        (Ok(()), None) => return Ok(TROUBLE),
    };
    since::forget();
    match (output.is_json(), converged.plan.is_empty()) {
        (true, _) => output.json(&plan::as_json(&converged.plan)),
        (false, true) => output.text("nothing to do: there is no table inet peerwall\n"),
        (false, false) => output.text("removed the table inet peerwall; this host is now as open as its other tables leave it\n"),
    }
    Ok(DONE)
}
