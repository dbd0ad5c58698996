//! The fallback: the same policy by `iptables-restore` and `ip6tables-restore`, in chains of our own.
//!
//! What it cannot promise: the two families change one after the other, nobody can own a chain, and an
//! accept of ours ends the whole filter table. If the second family is refused, the first is taken
//! back.

use std::fmt;
use std::path::Path;

use peerwall_core::backend::{Backend, BackendError, Plan};
use peerwall_core::import::File;
use peerwall_core::iptables::diff;
use peerwall_core::iptables::ipset::{self, IpSets};
use peerwall_core::iptables::observed::{self, Saved};
use peerwall_core::iptables::script::{self, Script, Table, Unsupported};
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::Ruleset;

use crate::enforce::tools::{self, run};

/// Seconds to wait for the xtables lock, which every other iptables takes too.
const LOCK_SECONDS: &str = "10";

/// Which of the two iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    /// `-legacy`, `-nft`, or nothing where there is only one.
    suffix: &'static str,
    /// Why this one.
    why: String,
    /// Whether there is ipset, and a kernel that has it.
    has_ipset: bool,
    /// Whether the kernel has IPv6. Asked once, so that reading and changing cannot differ in it.
    has_ipv6: bool,
}

/// Why something did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IptablesError {
    /// There is no iptables.
    Missing,
    /// A tool failed; nothing was changed.
    Tool {
        /// Its name.
        tool: String,
        /// What it said.
        said: String,
    },
    /// It could not be run, or not be told what it did.
    NotRun {
        /// Its name.
        tool: String,
        /// The operating system's error.
        why: String,
    },
    /// The second family was refused and the first could not be taken back.
    Half {
        /// What the second family's tool said.
        refused: Box<IptablesError>,
        /// What taking back the first came to.
        rollback: Box<IptablesError>,
    },
}

impl fmt::Display for IptablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "there is no iptables-save and iptables-restore here; install iptables, or name its directory with --iptables",
            ),
            Self::Tool { tool, said } => write!(f, "{tool}: {}", said.trim()),
            Self::NotRun { tool, why } => write!(f, "cannot run {tool}: {why}"),
            Self::Half { refused, rollback } => write!(
                f,
                "{refused}; some rules had been changed and could not be changed back: {rollback}"
            ),
        }
    }
}

impl std::error::Error for IptablesError {}

/// What there is of ours, by family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// In iptables.
    pub v4: Saved,
    /// In ip6tables; nothing where the kernel has no IPv6.
    pub v6: Saved,
    /// In ipset.
    pub sets: IpSets,
}

/// What is wanted, by family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// In iptables.
    pub v4: Script,
    /// In ip6tables.
    pub v6: Script,
    /// In ipset.
    pub sets: IpSets,
}

impl Wanted {
    /// A ruleset in the words of iptables, with ipsets where there is ipset.
    ///
    /// # Errors
    /// Every rule that iptables cannot say, of either family.
    pub fn new(ruleset: &Ruleset, ipset_from: Option<usize>) -> Result<Self, Vec<Unsupported>> {
        Ok(Self {
            v4: script::script(ruleset, Family::V4, ipset_from)?,
            v6: script::script(ruleset, Family::V6, ipset_from)?,
            sets: ipset_from.map_or_else(IpSets::new, |from| ipset::wanted(ruleset, from)),
        })
    }
}

/// What it takes: input for the restore of each family, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// For iptables-restore.
    pub v4: Option<String>,
    /// For ip6tables-restore.
    pub v6: Option<String>,
    /// For ipset restore, before the rules that use them.
    pub sets: Option<String>,
    /// For ipset restore, when no rule uses them any more.
    pub stale_sets: Option<String>,
}

impl Steps {
    /// Steps from `seen` to `wanted`, or to nothing of ours.
    pub fn new(wanted: Option<&Wanted>, seen: &Seen) -> Self {
        Self {
            v4: diff::restore(wanted.map(|w| &w.v4), &seen.v4),
            v6: diff::restore(wanted.map(|w| &w.v6), &seen.v6),
            sets: wanted.and_then(|w| ipset::restore(&w.sets, &seen.sets)),
            stale_sets: match wanted {
                Some(wanted) => ipset::destroy(&wanted.sets, &seen.sets),
                None => ipset::destroy(&IpSets::new(), &seen.sets),
            },
        }
    }

    /// The inputs that there are, each with the program that it is for, in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("ipset restore", &self.sets),
            ("iptables-restore", &self.v4),
            ("ip6tables-restore", &self.v6),
            ("ipset restore", &self.stale_sets),
        ];
        let input = |(tool, text): (&'static str, _)| Some((tool, Option::as_deref(text)?));
        all.into_iter().filter_map(input)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none() && self.sets.is_none() && self.stale_sets.is_none()
    }
}

/// A ruleset in the words of iptables, and the steps to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `None` for nothing of ours.
    wanted: Option<Wanted>,
    /// The steps.
    pub steps: Steps,
}

impl Change {
    /// The steps from `seen` to `wanted`, or to nothing of ours.
    pub fn new(wanted: Option<Wanted>, seen: &Seen) -> Self {
        Self {
            steps: Steps::new(wanted.as_ref(), seen),
            wanted,
        }
    }
}

impl Plan for Change {
    fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    fn summary(&self) -> String {
        let tools: Vec<&str> = self.steps.inputs().map(|(tool, _)| tool).collect();
        format!("feed {}", tools.join(", "))
    }

    fn steps(&self) -> Vec<String> {
        let inputs = self.steps.inputs();
        inputs
            .map(|(tool, input)| format!("{tool}\n{input}"))
            .collect()
    }
}

impl Backend for Iptables {
    type Observed = Seen;
    type Plan = Change;

    fn observe(&mut self) -> Result<Seen, BackendError> {
        Ok(Self::observe(self)?)
    }

    fn plan(&self, wanted: Option<&Ruleset>, observed: &Seen) -> Result<Change, BackendError> {
        let wanted = wanted.map(|ruleset| Wanted::new(ruleset, self.ipset_from()));
        let wanted = wanted.transpose().map_err(BackendError::Unsupported)?;
        Ok(Change::new(wanted, observed))
    }

    fn check(&mut self, plan: &Change) -> Result<(), BackendError> {
        Ok(Self::check(self, &plan.steps)?)
    }

    /// Reads back what was changed, and restores what was there before if it differs.
    fn commit(&mut self, plan: &Change, observed: &Seen) -> Result<(), BackendError> {
        Ok(self.commit_verified(plan, observed)?)
    }

    /// What was committed has been read back.
    fn verify(&mut self, _: Option<&Ruleset>) -> Result<(), BackendError> {
        Ok(())
    }

    /// Rules of iptables cannot be read back into a ruleset.
    fn ruleset(_: &Seen) -> Option<Ruleset> {
        None
    }

    fn is_loaded(observed: &Seen) -> bool {
        !observed.v4.chains.is_empty() || !observed.v6.chains.is_empty()
    }
}

impl From<IptablesError> for BackendError {
    fn from(err: IptablesError) -> Self {
        let text = err.to_string();
        match err {
            IptablesError::Missing => Self::Missing(text),
            IptablesError::Tool { .. } => Self::Tool(text),
            IptablesError::NotRun { .. } | IptablesError::Half { .. } => Self::Unknown(text),
        }
    }
}

/// Whether the kernel has IPv6 at all.
fn has_ipv6() -> bool {
    // What cannot be asked is no answer.
    Path::new("/proc/net/if_inet6").try_exists().unwrap_or(true)
}

impl Iptables {
    /// Takes the iptables that has our chains, else the one that holds the host's rules, else the
    /// one that `iptables` is.
    ///
    /// # Errors
    /// [`IptablesError::Missing`] if there is none.
    pub fn choose() -> Result<Self, IptablesError> {
        let mut found: Vec<(usize, usize, &'static str)> = Vec::new();
        for suffix in ["-nft", "-legacy", ""] {
            // Where the two have names of their own, the plain name is one of them once more.
            if suffix.is_empty() && !found.is_empty() {
                continue;
            }
            // Of all tables: who has its NAT in one of them has its filter there too.
            let save = tool("iptables", suffix, "save");
            let saved = run(&save, &[], None);
            // The other one would be taken in its place, though this one may have our chains.
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
            (0, n) => format!("it has this host's {n} rules"),
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
        })
    }

    /// Its name, and why it was taken.
    pub fn describe(&self) -> String {
        let sets = if self.has_ipset {
            "with ipset"
        } else {
            "without ipset"
        };
        format!("iptables{} ({}; {sets})", self.suffix, self.why)
    }

    /// From how many addresses on to use ipsets; `None` if there are none to be had.
    pub fn ipset_from(&self) -> Option<usize> {
        self.has_ipset.then_some(script::IPSET_FROM)
    }

    /// Reads what there is of ours.
    ///
    /// # Errors
    /// [`IptablesError::Tool`] if it cannot be told.
    pub fn observe(&self) -> Result<Seen, IptablesError> {
        Ok(Seen {
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

    /// Asks the tools whether they would take it. Rules that use ipsets which are not there yet
    /// cannot be asked about.
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

    fn commit_verified(&self, plan: &Change, seen: &Seen) -> Result<(), IptablesError> {
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

    /// Does it, one family after the other; takes the first back if the second is refused.
    ///
    /// # Errors
    /// [`IptablesError::Half`], or another one with nothing changed.
    fn commit(&self, steps: &Steps, seen: &Seen) -> Result<(), IptablesError> {
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

    /// Brings back everything that was there before, after something was refused.
    fn restore_all(&self, before: &Seen, refused: IptablesError) -> IptablesError {
        // Old rules need their sets, and new sets can go when no rule uses them.
        let sets = ipset_from(&before.sets, self.observe_sets());
        let refused = half(refused, sets);
        let refused = match self.has_ipv6 {
            true => self.refused(Family::V6, &before.v6, refused),
            false => refused,
        };
        let refused = self.refused(Family::V4, &before.v4, refused);
        half(refused, self.restore_sets(&before.sets))
    }

    /// The old rules are there; they get their old sets back, and the new ones go.
    fn restore_sets(&self, before: &IpSets) -> Result<(), IptablesError> {
        let now = self.observe_sets()?;
        for text in [ipset::restore(before, &now), ipset::destroy(before, &now)] {
            text.map_or(Ok(()), |text| ipset_restore(&text))?;
        }
        Ok(())
    }

    fn commit_rules(&self, steps: &Steps, seen: &Seen) -> Result<(), IptablesError> {
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

    /// The tables of a family change one after the other, and so do the families: what was changed before
    /// something was refused is taken back.
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

/// What iptables, ip6tables and ipset hold now, for importing it.
///
/// # Errors
/// If there is no iptables, or both kinds hold rules, so that it cannot be told whose are meant.
pub fn live() -> Result<Vec<File>, IptablesError> {
    let mut found: Vec<(&str, Vec<File>)> = Vec::new();
    for suffix in ["-legacy", "-nft", ""] {
        if suffix.is_empty() && !found.is_empty() {
            continue;
        }
        let mut files = Vec::new();
        for family in Family::BOTH {
            let tool = tool(base(family), suffix, "save");
            if let Ok(text) = run(&tool, &[], None) {
                files.push(File {
                    name: tool,
                    text,
                    family: Some(family),
                });
            }
        }
        if !files.is_empty() {
            found.push((suffix, files));
        }
    }
    let has_rules = |files: &[File]| {
        let mut lines = files.iter().flat_map(|file| file.text.lines());
        lines.any(|line| line.starts_with("-A") && !observed::is_ours(line))
    };
    let with_rules = found.iter().filter(|(_, files)| has_rules(files)).count();
    if with_rules > 1 {
        return Err(IptablesError::Tool {
            tool: "iptables-save".into(),
            said: "both iptables-legacy and iptables-nft hold rules; save them to files, and give those".into(),
        });
    }
    let chosen = found
        .iter()
        .position(|(_, files)| has_rules(files))
        .unwrap_or(0);
    if found.is_empty() {
        return Err(IptablesError::Missing);
    }
    let (_, mut files) = found.swap_remove(chosen);
    // An empty table is not even printed; then there is nothing to import of that family.
    files.retain(|file| file.text.contains("\n*"));
    if let Ok(text) = run("ipset", &["save"], None)
        && !text.is_empty()
    {
        files.push(File {
            name: "ipset save".into(),
            text,
            family: None,
        });
    }
    Ok(files)
}

/// What iptables-legacy has in one table, which is there.
///
/// # Errors
/// [`IptablesError::Tool`] if there is no such iptables.
pub fn save_legacy(family: Family, table: &str) -> Result<String, IptablesError> {
    let own = tool(base(family), "-legacy", "save");
    match run(&own, &["-t", table], None) {
        // Where there is only one iptables, it has no suffix.
        Err(IptablesError::Tool { said, .. })
            if tools::is_missing(&said)
                && run(base(family), &["--version"], None)
                    .is_ok_and(|version| !version.contains("nf_tables")) =>
        {
            run(&tool(base(family), "", "save"), &["-t", table], None)
        }
        saved => saved,
    }
}

/// What was refused, and whether what was there before could be restored.
fn half(refused: IptablesError, restored: Result<(), IptablesError>) -> IptablesError {
    match restored {
        Ok(()) => refused,
        Err(rollback) => IptablesError::Half {
            refused: Box::new(refused),
            rollback: Box::new(rollback),
        },
    }
}

/// Fills sets as they were before.
fn ipset_from(before: &IpSets, now: Result<IpSets, IptablesError>) -> Result<(), IptablesError> {
    let text = ipset::restore(before, &now?);
    text.map_or(Ok(()), |text| ipset_restore(&text))
}

fn ipset_restore(text: &str) -> Result<(), IptablesError> {
    run("ipset", &["restore"], Some(text)).map(drop)
}

/// The one with our rules; else with more rules of others; else what `iptables` is.
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
