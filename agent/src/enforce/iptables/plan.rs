//! Observed and wanted rules of iptables, and the steps between them.

use peerwall_core::backend::Plan;
use peerwall_core::iptables::diff;
use peerwall_core::iptables::ipset::{self, IpSets};
use peerwall_core::iptables::observed::Saved;
use peerwall_core::iptables::script::{self, Script, Unsupported};
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::Ruleset;

/// peerwall's chains and sets as observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IptablesObserved {
    /// Chains of iptables.
    pub v4: Saved,
    /// Chains of ip6tables; empty if the kernel has no IPv6.
    pub v6: Saved,
    /// Sets of ipset.
    pub sets: IpSets,
}

/// peerwall's chains and sets as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedScripts {
    /// Chains of iptables.
    pub v4: Script,
    /// Chains of ip6tables.
    pub v6: Script,
    /// Sets of ipset.
    pub sets: IpSets,
}

impl WantedScripts {
    /// Writes a ruleset as rules of iptables, with ipsets if ipset is available.
    ///
    /// # Errors
    /// Every rule that iptables cannot express, of either family.
    pub fn new(ruleset: &Ruleset, ipset_from: Option<usize>) -> Result<Self, Vec<Unsupported>> {
        Ok(Self {
            v4: script::script(ruleset, Family::V4, ipset_from)?,
            v6: script::script(ruleset, Family::V6, ipset_from)?,
            sets: ipset_from.map_or_else(IpSets::new, |from| ipset::wanted(ruleset, from)),
        })
    }
}

/// Steps of a change, as input for the programs; `None` where nothing changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// Input of iptables-restore.
    pub v4: Option<String>,
    /// Input of ip6tables-restore.
    pub v6: Option<String>,
    /// Input of `ipset restore`, before the rules that use the sets.
    pub sets: Option<String>,
    /// Input of `ipset restore`, once no rule uses the sets.
    pub stale_sets: Option<String>,
}

impl Steps {
    /// Plans the steps from `seen` to `wanted`; `None` removes everything of peerwall's.
    pub fn new(wanted: Option<&WantedScripts>, seen: &IptablesObserved) -> Self {
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

    /// Returns the inputs with their programs, in order.
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

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none() && self.sets.is_none() && self.stale_sets.is_none()
    }
}

/// A plan of the iptables backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IptablesPlan {
    /// Rules that are wanted; `None` to remove everything of peerwall's.
    pub(super) wanted: Option<WantedScripts>,
    /// The steps.
    pub steps: Steps,
}

impl IptablesPlan {
    /// Plans the change from `seen` to `wanted`; `None` removes everything of peerwall's.
    pub fn new(wanted: Option<WantedScripts>, seen: &IptablesObserved) -> Self {
        Self {
            steps: Steps::new(wanted.as_ref(), seen),
            wanted,
        }
    }
}

impl Plan for IptablesPlan {
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
