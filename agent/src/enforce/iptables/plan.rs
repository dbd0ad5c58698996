//! What iptables has, what it is to have, and the steps in between.

use peerwall_core::backend::Plan;
use peerwall_core::iptables::diff;
use peerwall_core::iptables::ipset::{self, IpSets};
use peerwall_core::iptables::observed::Saved;
use peerwall_core::iptables::script::{self, Script, Unsupported};
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::Ruleset;

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
    pub(super) wanted: Option<Wanted>,
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
