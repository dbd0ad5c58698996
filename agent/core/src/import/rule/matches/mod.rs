//! Matches: their options, and what these mean.
//!
//! Each use of a match collects its options first, because their order does not matter.

mod headers;
mod rates;
mod sets;
mod state;
mod table;

use super::options::Opt;
use super::values::WordError;
use super::{Condition, RuleContext, Test};
use crate::net::addr::Family;

/// A match, as `-m NAME` loads it.
pub(super) struct Module {
    /// Name.
    pub name: &'static str,
    /// The only family that has it.
    pub family: Option<Family>,
    /// Its options.
    pub options: &'static [Opt],
    /// The kernel accepts it only beside `-p` with one of these protocols, unless empty.
    pub needs: &'static [u8],
    /// Conditions of one use.
    pub meaning: fn(&Used<'_>, &RuleContext<'_>) -> Result<Vec<Condition>, WordError>,
}

/// An option of a match or target, as it was given.
#[derive(Debug, Clone)]
pub(super) struct Given<'w> {
    /// Name of the option without aliases.
    pub key: &'static str,
    /// The word that names it.
    pub word: &'w str,
    /// Whether `!` precedes it.
    pub negated: bool,
    /// Its values.
    pub values: Vec<&'w str>,
}

/// One use of a match.
pub(super) struct Used<'w> {
    /// The match.
    pub module: &'static Module,
    /// Options, in order.
    pub given: Vec<Given<'w>>,
    /// Protocol of the rule: the only one, unless negated.
    pub protocol: Option<u8>,
    /// Whether the rule names the same match again later, which then gets the options.
    pub completed: bool,
}

/// Finds a match by its name or an alias (`xtables_load_ko()` and `load_extension()` in
/// `libxtables/xtables.c`).
pub(super) fn find(name: &str, family: Family) -> Option<&'static Module> {
    let name = match name {
        "icmpv6" | "ipv6-icmp" => "icmp6",
        "ipv6-mh" => "mh",
        other => other,
    };
    let fits = |module: &&Module| module.family.is_none_or(|only| only == family);
    table::MODULES
        .iter()
        .filter(fits)
        .find(|module| module.name == name)
}

/// Returns the name of the match that `-p` loads for options of this protocol.
pub(super) fn of_protocol(protocol: u8, family: Family) -> Option<&'static Module> {
    let name = match protocol {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        50 => "esp",
        51 => "ah",
        58 => "icmp6",
        108 => "ipcomp",
        132 => "sctp",
        135 => "mh",
        _ => return None,
    };
    find(name, family)
}

impl Given<'_> {
    /// Returns the first value.
    pub(super) fn value(&self) -> &str {
        self.values.first().copied().unwrap_or_default()
    }

    /// Returns the option by its key, however it was written. Ports and types of ICMP, which may be
    /// names, are left to the conditions.
    pub(super) fn canonical(&self) -> String {
        let not = if self.negated { "!" } else { "" };
        match self.key {
            "sport" | "dport" | "icmp-type" | "icmpv6-type" => format!("{not}{}", self.key),
            key => format!("{not}{key}={}", self.values.join(" ")),
        }
    }

    /// Returns the words of the option.
    pub(super) fn text(&self) -> String {
        let not = if self.negated { "! " } else { "" };
        let values: String = self
            .values
            .iter()
            .map(|value| format!(" {value}"))
            .collect();
        let name = self.word.split('=').next().unwrap_or(self.word);
        format!("{not}{name}{values}")
    }
}

impl<'w> Used<'w> {
    fn option(&self, key: &str) -> Option<&Given<'w>> {
        self.given.iter().find(|given| given.key == key)
    }

    /// Returns the words of the match.
    pub(super) fn text(&self) -> String {
        format!("-m {}{}", self.module.name, self.words(|_| true))
    }

    /// Returns the words of the options with these keys, each after a space.
    fn words(&self, fits: impl Fn(&str) -> bool) -> String {
        let given = self.given.iter().filter(|given| fits(given.key));
        given.map(|given| format!(" {}", given.text())).collect()
    }

    /// Returns the condition of a match that a packet cannot decide.
    fn unknown(&self) -> Condition {
        plain(Test::Unknown(self.text()))
    }

    fn lacks(&self, options: &str) -> WordError {
        let name = self.module.name;
        (
            format!("`-m {name}` needs {options}"),
            "iptables-restore rejects it",
        )
    }
}

fn plain(test: Test) -> Condition {
    let negated = false;
    Condition { negated, test }
}

fn condition(given: &Given<'_>, test: Test) -> Condition {
    let negated = given.negated;
    Condition { negated, test }
}
