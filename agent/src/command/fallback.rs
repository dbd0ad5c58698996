//! `plan`, `apply` and `remove` with `--backend iptables`.

use peerwall_core::agent::keep::Fault;
use peerwall_core::ruleset::Ruleset;
use serde_json::{Value, json};

use super::applying::{self, Applied};
use super::{DIFFERS, DONE, Given, keep, others, refuse, report, trouble, unsupported};
use crate::cli::WishArgs;
use crate::connections::loading::Loading;
use crate::connections::revocation;
use crate::enforce::foreign;
use crate::enforce::iptables::{Iptables, IptablesError, Seen, Steps, Wanted};
use crate::enforce::switch;
use crate::host::caller::Caller;
use crate::output::{Output, complain};
use crate::policy_file::Ready;
use crate::store::Kept;
use crate::store::since;
use crate::trial::Loader;
use crate::trial::alone::Alone;
use crate::trial::{before, words};

/// So many addresses as rules of their own cost every packet that is looked at.
const ADDRESSES_TO_WARN_OF: usize = 200;

/// A policy, in the words of the iptables that was chosen.
fn wanted(ready: &Ready, iptables: &Iptables, output: &Output) -> Result<Wanted, u8> {
    let wanted = Wanted::new(&ready.ruleset, iptables.ipset_from())
        .map_err(|list| unsupported(ready, &list, output))?;
    let addresses = ready.ruleset.element_count();
    if iptables.ipset_from().is_none() && addresses > ADDRESSES_TO_WARN_OF && !output.is_json() {
        complain(&format!(
            "warning: there is no ipset here, so {addresses} addresses and ports become rules of their own, and a packet that none of them fits is held against each\n"
        ));
    }
    Ok(wanted)
}

/// What `plan` and `apply` start with: the policy, what there is, and what is wanted of it.
fn start<'g>(
    policy: &'g Given,
    doing: &str,
    output: &Output,
) -> Result<(&'g Ready, Iptables, Seen, Wanted), u8> {
    let ready = policy.read.as_ref().map_err(|why| refuse(why, output))?;
    let (iptables, seen) = switch::look().map_err(|err| trouble(doing, &err, output))?;
    let wanted = wanted(ready, &iptables, output)?;
    Ok((ready, iptables, seen, wanted))
}

pub(super) fn plan(policy: &Given, output: &Output) -> u8 {
    let (ready, iptables, seen, wanted) = match start(policy, "plan", output) {
        Ok(start) => start,
        Err(code) => return code,
    };
    let steps = Steps::new(Some(&wanted), &seen);
    if let Err(err) = iptables.check(&steps) {
        return trouble("plan", &err, output);
    }
    let is_first = !switch::is_loaded(&seen);
    let which = revocation::which(is_first, ready.policy.options.cut_revoked, false);
    let refused = revocation::survey(before::in_force().0.as_ref(), &ready.ruleset, which);
    if !output.is_json() {
        report::warnings(ready);
    }
    others::warn(&foreign::find(), output);
    report(
        &iptables,
        &steps,
        "would feed",
        Some(json!(refused)),
        output,
    );
    if !output.is_json() {
        output.text(&revocation::planned_text(&refused, is_first));
    }
    if steps.is_empty() { DONE } else { DIFFERS }
}

pub(super) fn apply(policy: &Given, wish: &WishArgs, output: &Output) -> u8 {
    let (ready, iptables, seen, wanted) = match start(policy, "apply", output) {
        Ok(start) => start,
        Err(code) => return code,
    };
    if !output.is_json() {
        report::warnings(ready);
    }
    let caller = Caller::here();
    if let Err(why) = keep::lockout(ready, wish, &caller) {
        return trouble("apply", &why, output);
    }
    let loading = Loading::new(!switch::is_loaded(&seen), before::in_force().0);
    let steps = Steps::new(Some(&wanted), &seen);
    let mut loader = ByIptables {
        iptables: &iptables,
        wanted: Some((&ready.ruleset, wanted)),
        is_loaded: false,
        change: None,
    };
    let kept = keep::kept(&policy.path, ready, true);
    let was_loaded = |loader: &ByIptables<'_>| loader.is_loaded;
    match applying::apply(&mut loader, was_loaded, &kept, wish, &caller, output) {
        Applied::Done => {}
        Applied::NotLoaded(refusal) | Applied::Refused(refusal) => {
            return trouble("apply", &refusal, output);
        }
    }
    // The new is in force; only now the old may go.
    switch::remove_table();
    since::note(0, &kept.entry.policy, true, &ready.ruleset);
    let told = loading.finish(ready, wish);
    report(&iptables, &steps, "fed", Some(told.json), output);
    if !output.is_json() {
        output.text(&told.text);
        if let Some(seconds) = wish.confirm {
            output.text(&format!("{}\n", words::tried(seconds)));
        }
    }
    others::warn(&foreign::find(), output);
    DONE
}

/// Loads by the iptables that was chosen.
struct ByIptables<'i> {
    iptables: &'i Iptables,
    /// A ruleset in the words of iptables, so that it is not written twice.
    wanted: Option<(&'i Ruleset, Wanted)>,
    is_loaded: bool,
    change: Option<String>,
}

impl Loader for ByIptables<'_> {
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        let known = self.wanted.as_ref().filter(|(of, _)| **of == kept.ruleset);
        let Some((_, wanted)) = known else {
            // What a trial goes back to, perhaps by nf_tables.
            return Alone::default().load(kept);
        };
        let done = self.iptables.bring_about(Some(wanted));
        self.is_loaded = done.is_ok();
        self.change = done.map_err(of_iptables)?.summary();
        Ok(())
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        self.change = self
            .iptables
            .bring_about(None)
            .map_err(of_iptables)?
            .summary();
        Ok(self.change.is_some())
    }

    fn change(&mut self) -> Option<String> {
        self.change.clone()
    }
}

/// What an error of iptables means for a trial: nothing was changed, unless taking back failed.
fn of_iptables(err: IptablesError) -> Fault {
    let is_unknown = matches!(err, IptablesError::Half { .. });
    Fault {
        is_unknown,
        is_passing: true,
        ..Fault::new(err.to_string())
    }
}

pub(super) fn remove(output: &Output) -> u8 {
    let (iptables, seen) = match switch::look() {
        Ok(found) => found,
        Err(err) => return trouble("remove", &err, output),
    };
    let mut loader = ByIptables {
        iptables: &iptables,
        wanted: None,
        is_loaded: false,
        change: None,
    };
    if let Err(refusal) = applying::remove(&mut loader) {
        return trouble("remove", &refusal, output);
    }
    report(&iptables, &Steps::new(None, &seen), "fed", None, output);
    since::forget();
    DONE
}

fn report(iptables: &Iptables, steps: &Steps, verb: &str, refused: Option<Value>, output: &Output) {
    if output.is_json() {
        let mut value = json!({
            "backend": "iptables",
            "chosen": iptables.describe(),
            "changes": !steps.is_empty(),
            "iptables": steps.v4,
            "ip6tables": steps.v6,
            "ipset": steps.sets,
            "ipset_stale": steps.stale_sets,
        });
        value["foreign_drops"] = json!(foreign::find());
        if let Some(refused) = refused {
            value["connections"] = refused;
        }
        return output.json(&value);
    }
    if steps.is_empty() {
        return output.text(&format!(
            "nothing to do: {} is as it should be\n",
            iptables.describe()
        ));
    }
    let mut text = format!("{}:\n", iptables.describe());
    for (verb_of_sets, input) in [("fill", &steps.sets), ("take away", &steps.stale_sets)] {
        if let Some(input) = input {
            let sets = input
                .lines()
                .filter(|line| line.starts_with("rename") || line.starts_with("swap"));
            let count = sets.count().max(
                input
                    .lines()
                    .filter(|line| line.starts_with("destroy peerwall-") && !line.ends_with("swap"))
                    .count(),
            );
            text.push_str(&format!(
                "{verb} ipset restore: {verb_of_sets} {count} sets, {} addresses\n",
                input
                    .lines()
                    .filter(|line| line.starts_with("add "))
                    .count()
            ));
        }
    }
    for (tool, input) in [
        ("iptables-restore", &steps.v4),
        ("ip6tables-restore", &steps.v6),
    ] {
        if let Some(input) = input {
            let lines = input.lines().filter(|line| line.contains("-A ")).count();
            text.push_str(&format!("{verb} {tool} --noflush {lines} rules\n"));
            if verb != "fed" {
                text.push_str(input);
            }
        }
    }
    output.text(&text);
}
