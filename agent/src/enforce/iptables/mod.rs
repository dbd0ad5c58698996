//! The fallback backend: `iptables-restore` and `ip6tables-restore`, in chains of peerwall's own.
//!
//! Its limits: the two families change one after the other, a chain cannot have an owner, and an
//! accept ends the whole filter table. If the second family is refused, the first is restored.

mod error;
mod live;
mod plan;
pub mod tools;

use std::path::Path;

use peerwall_core::backend::{Backend, BackendError};
use peerwall_core::iptables::diff;
use peerwall_core::iptables::ipset::{self, IpSets};
use peerwall_core::iptables::observed::{self, Saved};
use peerwall_core::iptables::script::{self, Table};
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::words::count;

pub use error::IptablesError;
use error::half;
pub use live::{live, save_legacy, saved};
pub use plan::{IptablesObserved, IptablesPlan, Steps, WantedScripts};

use crate::json;
use tools::run;

/// Seconds to wait for the xtables lock, which every iptables takes.
const LOCK_SECONDS: &str = "10";

/// One of the two iptables, legacy or nft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    /// Suffix of the program names: `-legacy`, `-nft`, or none for a single iptables.
    suffix: &'static str,
    /// Why this one was chosen.
    why: String,
    /// Whether the program and the kernel's part of ipset are available.
    has_ipset: bool,
    /// Whether the kernel has IPv6. Read once, so that observing and changing agree.
    has_ipv6: bool,
    /// Whether rules that log are accepted, as far as it was tried.
    logs: bool,
}

impl Backend for Iptables {
    type Observed = IptablesObserved;
    type Plan = IptablesPlan;

    fn observe(&mut self) -> Result<IptablesObserved, BackendError> {
        Ok(Self::observe(self)?)
    }

    fn plan(
        &self,
        wanted: Option<&Ruleset>,
        observed: &IptablesObserved,
    ) -> Result<IptablesPlan, BackendError> {
        let wanted = wanted.map(|ruleset| WantedScripts::new(ruleset, self.ipset_from()));
        let wanted = wanted.transpose().map_err(BackendError::Unsupported)?;
        let plan = IptablesPlan::new(wanted, observed);
        Ok(match self.logs {
            true => plan,
            false => plan.without_logs(observed),
        })
    }

    fn check(&mut self, plan: &IptablesPlan) -> Result<(), BackendError> {
        match Self::check(self, &plan.steps) {
            // A commit does without the log.
            Err(refused) if plan.is_refused_for_log(&refused) => Ok(()),
            checked => Ok(checked?),
        }
    }

    /// Reads back the changed rules, and restores the earlier ones if they differ from the plan.
    /// Goes on without the rules that only log if one of them is refused: a log is worth less than
    /// a firewall. If the kernel lacks sets or the match for them, plans go on without sets.
    fn commit(
        &mut self,
        plan: &IptablesPlan,
        observed: &IptablesObserved,
    ) -> Result<(), BackendError> {
        let Err(refused) = self.commit_verified(plan, observed) else {
            return Ok(());
        };
        if self.logs && plan.is_refused_for_log(&refused) {
            let plan = plan.without_logs(observed);
            if self.commit_verified(&plan, observed).is_ok() {
                log::warn!(
                    "iptables cannot log packets: nothing will be logged, but all rules filter \
                     ({refused})"
                );
                self.logs = false;
                return Ok(());
            }
        }
        if self.has_ipset && plan.is_refused_for_sets(&refused) {
            log::warn!("ipset cannot be used, so each address has a rule of its own ({refused})");
            self.has_ipset = false;
            // The plan has sets: plan again.
            return Err(BackendError::Stale);
        }
        Err(refused.into())
    }

    /// Does nothing: the commit has read the rules back.
    fn verify(&mut self, _: Option<&Ruleset>) -> Result<(), BackendError> {
        Ok(())
    }

    /// `None`: rules of iptables cannot be read back as a ruleset.
    fn ruleset(_: &IptablesObserved) -> Option<Ruleset> {
        None
    }

    fn is_loaded(observed: &IptablesObserved) -> bool {
        !observed.v4.chains.is_empty() || !observed.v6.chains.is_empty()
    }
}

/// Whether the kernel has IPv6.
fn has_ipv6() -> bool {
    // An error does not mean that the kernel has no IPv6.
    Path::new("/proc/net/if_inet6").try_exists().unwrap_or(true)
}

impl Iptables {
    /// Chooses the iptables with peerwall's chains, else the one with the host's rules, else the
    /// default `iptables`.
    ///
    /// # Errors
    /// [`IptablesError::Missing`] if iptables is not installed.
    pub fn choose() -> Result<Self, IptablesError> {
        let mut found: Vec<(usize, usize, &'static str)> = Vec::new();
        for suffix in ["-nft", "-legacy", ""] {
            // If both have suffixed names, the plain name is one of them.
            if suffix.is_empty() && !found.is_empty() {
                continue;
            }
            // All tables count: a program that has its NAT there has its filter there too.
            let save = tool("iptables", suffix, "save");
            let saved = run(&save, &[], None);
            // Otherwise the other one would be chosen, though this one may have peerwall's chains.
            if let Err(err @ IptablesError::NotRun { .. }) = saved {
                return Err(err);
            }
            if let Err(IptablesError::Tool { said, .. }) = &saved
                && !tools::is_missing(said)
            {
                log::warn!("{save} is not considered: {}", said.trim());
            }
            if let Ok(text) = saved {
                let rules = text.lines().filter(|line| line.starts_with("-A"));
                let (ours, others): (Vec<&str>, Vec<&str>) =
                    rules.partition(|line| observed::is_ours(line));
                found.push((ours.len(), others.len(), suffix));
            }
        }
        let (ours, others, suffix) = match found[..] {
            [] => return Err(IptablesError::Missing),
            [only] => only,
            _ => prefer(&found),
        };
        let why = match (ours, others) {
            (0, 0) => "it is what `iptables` is here".to_owned(),
            (0, n) => format!("it has {} of this host", count(n, "rule")),
            (_, _) => "it has peerwall's rules".to_owned(),
        };
        let has_ipset = match run("ipset", &["list", "-n"], None) {
            Err(err @ IptablesError::NotRun { .. }) => return Err(err),
            sets => sets.is_ok(),
        };
        Ok(Self {
            suffix,
            why,
            has_ipset,
            has_ipv6: has_ipv6(),
            logs: true,
        })
    }

    /// Returns its name and why it was chosen.
    pub fn describe(&self) -> String {
        self.json().to_string()
    }

    /// The same for programs.
    pub fn json(&self) -> json::IptablesInfo {
        json::IptablesInfo {
            program: format!("iptables{}", self.suffix),
            why: self.why.clone(),
            has_ipset: self.has_ipset,
        }
    }

    /// Minimum number of addresses for an ipset; `None` if ipset is not available.
    pub fn ipset_from(&self) -> Option<usize> {
        self.has_ipset.then_some(script::IPSET_FROM)
    }

    /// Reads peerwall's chains and sets.
    ///
    /// # Errors
    /// [`IptablesError::Tool`] if they cannot be read.
    pub fn observe(&self) -> Result<IptablesObserved, IptablesError> {
        Ok(IptablesObserved {
            v4: self.observe_family(Family::V4)?,
            v6: match self.has_ipv6 {
                true => self.observe_family(Family::V6)?,
                false => Saved::default(),
            },
            sets: self.observe_sets()?,
        })
    }

    fn observe_sets(&self) -> Result<IpSets, IptablesError> {
        if !self.has_ipset {
            return Ok(IpSets::new());
        }
        let text = run("ipset", &["save"], None)?;
        ipset::parse(&text).map_err(|err| IptablesError::Tool {
            tool: "ipset".into(),
            said: err.to_string(),
        })
    }

    fn observe_family(&self, family: Family) -> Result<Saved, IptablesError> {
        let tool = tool(base(family), self.suffix, "save");
        let mut text = String::new();
        for table in Table::ALL {
            text.push_str(&run(&tool, &["-c", "-t", table.name()], None)?);
        }
        observed::parse(&text).map_err(|err| IptablesError::Tool {
            tool,
            said: err.to_string(),
        })
    }

    /// Asks the programs whether they would accept the steps. Rules with ipsets that do not exist
    /// yet cannot be checked.
    ///
    /// # Errors
    /// [`IptablesError::Tool`] if not.
    pub fn check(&self, steps: &Steps) -> Result<(), IptablesError> {
        if steps.sets.is_some() {
            return Ok(());
        }
        for (family, text) in [(Family::V4, &steps.v4), (Family::V6, &steps.v6)] {
            if let Some(text) = text
                .as_ref()
                .filter(|_| family == Family::V4 || self.has_ipv6)
            {
                self.restore(family, text, &["--test"])?;
            }
        }
        Ok(())
    }

    fn commit_verified(
        &self,
        plan: &IptablesPlan,
        seen: &IptablesObserved,
    ) -> Result<(), IptablesError> {
        self.commit(&plan.steps, seen)?;
        let refused = match Self::observe(self) {
            Ok(now) if Steps::new(plan.wanted.as_ref(), &now).is_empty() => return Ok(()),
            Ok(_) => IptablesError::Tool {
                tool: self.describe(),
                said: "read back, the rules are not as they were sent".into(),
            },
            Err(err) => err,
        };
        Err(self.restore_all(seen, refused))
    }

    /// Carries out the steps, one family after the other; restores the first if the second is
    /// refused.
    ///
    /// # Errors
    /// [`IptablesError::Half`] if some rules stay changed; with any other error nothing was
    /// changed.
    fn commit(&self, steps: &Steps, seen: &IptablesObserved) -> Result<(), IptablesError> {
        if let Some(text) = &steps.sets {
            ipset_restore(text)?;
        }
        let refused = match (self.commit_rules(steps, seen), &steps.stale_sets) {
            (Ok(()), Some(text)) => match ipset_restore(text) {
                Ok(()) => return Ok(()),
                Err(refused) => return Err(self.restore_all(seen, refused)),
            },
            (Ok(()), None) => return Ok(()),
            (Err(refused), _) => refused,
        };
        Err(half(refused, self.restore_sets(&seen.sets)))
    }

    /// Restores the earlier rules and sets after a refusal.
    fn restore_all(&self, before: &IptablesObserved, refused: IptablesError) -> IptablesError {
        // The old rules need their sets; new sets can be destroyed once no rule uses them.
        let sets = ipset_from(&before.sets, self.observe_sets());
        let refused = half(refused, sets);
        let refused = match self.has_ipv6 {
            true => self.refused(Family::V6, &before.v6, refused),
            false => refused,
        };
        let refused = self.refused(Family::V4, &before.v4, refused);
        half(refused, self.restore_sets(&before.sets))
    }

    /// Restores the old sets for the old rules, and destroys the new ones.
    fn restore_sets(&self, before: &IpSets) -> Result<(), IptablesError> {
        let now = self.observe_sets()?;
        for text in [ipset::restore(before, &now), ipset::destroy(before, &now)] {
            text.map_or(Ok(()), |text| ipset_restore(&text))?;
        }
        Ok(())
    }

    fn commit_rules(&self, steps: &Steps, seen: &IptablesObserved) -> Result<(), IptablesError> {
        if let Some(text) = &steps.v4
            && let Err(refused) = self.restore(Family::V4, text, &[])
        {
            return Err(self.refused(Family::V4, &seen.v4, refused));
        }
        let Some(text) = steps.v6.as_ref().filter(|_| self.has_ipv6) else {
            return Ok(());
        };
        let Err(refused) = self.restore(Family::V6, text, &[]) else {
            return Ok(());
        };
        let refused = self.refused(Family::V6, &seen.v6, refused);
        if steps.v4.is_none() {
            return Err(refused);
        }
        Err(self.refused(Family::V4, &seen.v4, refused))
    }

    /// Changes the tables of each family, and the families, one after the other. Restores the
    /// earlier ones after a refusal.
    fn refused(&self, family: Family, before: &Saved, refused: IptablesError) -> IptablesError {
        half(refused, self.take_back(family, before))
    }

    fn take_back(&self, family: Family, before: &Saved) -> Result<(), IptablesError> {
        let now = self.observe_family(family)?;
        let old = before.as_script();
        match diff::restore(Some(&old), &now) {
            Some(text) => self.restore(family, &text, &[]),
            None => Ok(()),
        }
    }

    fn restore(&self, family: Family, text: &str, more: &[&str]) -> Result<(), IptablesError> {
        let tool = tool(base(family), self.suffix, "restore");
        let mut args = vec!["--noflush", "--counters", "--wait", LOCK_SECONDS];
        args.extend(more);
        run(&tool, &args, Some(text)).map(drop)
    }
}

/// Restores the elements of sets.
fn ipset_from(before: &IpSets, now: Result<IpSets, IptablesError>) -> Result<(), IptablesError> {
    let text = ipset::restore(before, &now?);
    text.map_or(Ok(()), |text| ipset_restore(&text))
}

fn ipset_restore(text: &str) -> Result<(), IptablesError> {
    run("ipset", &["restore"], Some(text)).map(drop)
}

/// Selects the one with peerwall's rules, else with more foreign rules, else the default.
fn prefer(found: &[(usize, usize, &'static str)]) -> (usize, usize, &'static str) {
    let default = match run("iptables", &["--version"], None) {
        Ok(version) if version.contains("legacy") => "-legacy",
        _ => "-nft",
    };
    let rank = |each: &&(usize, usize, &'static str)| (each.0, each.1, each.2 == default);
    found
        .iter()
        .max_by_key(rank)
        .copied()
        .unwrap_or((0, 0, default))
}

fn base(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn tool(base: &str, suffix: &str, what: &str) -> String {
    format!("{base}{suffix}-{what}")
}
