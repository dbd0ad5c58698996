//! Observed and wanted rules of iptables, and the steps between them.

use peerwall_core::backend::Plan;
use peerwall_core::iptables::diff;
use peerwall_core::iptables::ipset::{self, IpSets};
use peerwall_core::iptables::observed::Saved;
use peerwall_core::iptables::script::{self, Script, Unsupported};
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::Ruleset;

use super::IptablesError;

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

impl IptablesPlan {
    /// Returns the plan without the rules that only log.
    pub(super) fn without_logs(&self, seen: &IptablesObserved) -> Self {
        let mut wanted = self.wanted.clone();
        for script in wanted
            .iter_mut()
            .flat_map(|wanted| [&mut wanted.v4, &mut wanted.v6])
        {
            for chain in &mut script.chains {
                chain.rules.retain(|rule| !only_logs(rule));
            }
        }
        Self::new(wanted, seen)
    }

    /// Reports whether a program refused a rule that only logs.
    pub(super) fn is_refused_for_log(&self, refused: &IptablesError) -> bool {
        self.is_refused_for(refused, only_logs)
    }

    /// Reports whether ipset refused the sets, or iptables a rule with a set.
    pub(super) fn is_refused_for_sets(&self, refused: &IptablesError) -> bool {
        let is_ipset = matches!(refused, IptablesError::Tool { tool, .. } if tool == "ipset");
        is_ipset && self.steps.sets.is_some()
            || self.is_refused_for(refused, |line| line.contains(" --match-set "))
    }

    /// Reports whether iptables refused such a line, or a table with one: iptables-legacy names the
    /// line of its COMMIT.
    fn is_refused_for(&self, refused: &IptablesError, is_such: fn(&str) -> bool) -> bool {
        let IptablesError::Tool { tool, said } = refused else {
            return false;
        };
        let input = match tool.starts_with("ip6") {
            true => self.steps.v6.as_deref(),
            false => self.steps.v4.as_deref(),
        };
        let lines: Vec<&str> = input.unwrap_or_default().lines().collect();
        let line = |number: usize| lines.get(number.checked_sub(1)?);
        let is_in = |line: &str| match line {
            "COMMIT" => lines.iter().any(|line| is_such(line)),
            line => is_such(line),
        };
        refused_lines(said).any(|number| line(number).is_some_and(|line| is_in(line)))
    }
}

/// Reports whether a rule of peerwall's logs packets and does nothing else.
fn only_logs(rule: &str) -> bool {
    rule.contains(" -j NFLOG --nflog-prefix ")
}

/// Returns the line numbers in a message, such as `line 7 failed` and `Error occurred at line: 7`.
fn refused_lines(said: &str) -> impl Iterator<Item = usize> {
    said.split("line").skip(1).filter_map(|after| {
        let after = after.trim_start_matches([':', ' ']);
        let end = after.find(|c: char| !c.is_ascii_digit());
        after.get(..end.unwrap_or(after.len()))?.parse().ok()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_line_tells_whether_logging_is_missing() {
        let rule =
            "-A PEERWALL-x -m limit --limit 10/second -j NFLOG --nflog-prefix a --nflog-group 5";
        let plan = IptablesPlan {
            wanted: None,
            steps: Steps {
                v4: Some(format!("*filter\n{rule}\n-A PEERWALL-x -j DROP\nCOMMIT\n")),
                v6: Some("*filter\nCOMMIT\n".into()),
                ..Steps::default()
            },
        };
        for (tool, said, want) in [
            (
                "iptables-legacy-restore",
                "iptables-restore: line 2 failed",
                true,
            ),
            (
                "iptables-nft-restore",
                "iptables-restore v1: Couldn't load target `NFLOG':No such file\n\n\
                 Error occurred at line: 2\nTry `iptables-restore -h' for more information.",
                true,
            ),
            (
                "iptables-nft-restore",
                "line 2: RULE_APPEND failed (No such file or directory)",
                true,
            ),
            (
                "iptables-nft-restore",
                "line 3: RULE_APPEND failed (No such file or directory)",
                false,
            ),
            ("ip6tables-nft-restore", "line 2: RULE_APPEND failed", false),
            (
                "iptables-legacy-restore",
                "iptables-restore: line 4 failed",
                true,
            ),
            (
                "ip6tables-legacy-restore",
                "ip6tables-restore: line 2 failed",
                false,
            ),
            ("iptables-legacy-restore", "line 0, line x", false),
            (
                "iptables-legacy-restore",
                "Another app is holding the xtables lock",
                false,
            ),
        ] {
            let (tool, said) = (tool.to_owned(), said.to_owned());
            let refused = IptablesError::Tool { tool, said };
            assert_eq!(plan.is_refused_for_log(&refused), want, "{refused}");
        }
        let refused = IptablesError::Missing;
        assert!(!plan.is_refused_for_log(&refused));
        assert!(!plan.is_refused_for_sets(&refused));
    }
}
