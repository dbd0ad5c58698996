//! Differing packets in words.

use super::classes::Reduced;
use super::{AccessChange, Admitted, Effect, Part};
use crate::import::draft::prefixes::{joined, prefixes};
use crate::import::proof::{entry, few, ordinary, special};
use crate::import::rule::Interval;
use crate::import::spans::subtract;
use crate::net::addr::{self, Family};
use crate::net::packet::Hook;
use crate::policy::reason::Reason;
use crate::ruleset::{KeyType, Ruleset};

/// A part in words.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub effect: Effect,
    pub hook: Hook,
    pub families: Vec<Family>,
    pub reason: Reason,
    what: String,
    /// Sources; `None` for any.
    who: Option<String>,
    /// Whether `who` lists exceptions.
    is_exception: bool,
    on: String,
}

impl Part {
    /// Describes the packets.
    pub(super) fn described(
        self,
        family: Family,
        reduced: &Reduced,
        owners: &[Owners<'_>; 2],
    ) -> Described {
        let mut sources = joined(reduced.expand(&self.sources));
        let missing = subtract(&ordinary(family), &sources);
        let usual = subtract(&sources, &special(family));
        if !usual.is_empty() {
            sources = usual;
        }
        let [old, new] = owners;
        let owners = match self.effect {
            Effect::Opens => new,
            Effect::Closes => old,
        };
        let but = joined(missing);
        let is_exception = !but.is_empty() && but.len() < sources.len();
        let who = (!but.is_empty()).then(|| match is_exception {
            true => format!("any source except {}", owners.names(&but)),
            false => owners.names(&sources),
        });
        Described {
            effect: self.effect,
            hook: self.hook,
            families: vec![family],
            reason: self.reason,
            what: self.what,
            who,
            is_exception,
            on: self.on,
        }
    }
}

impl Described {
    /// Reports whether another family has the same line.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let of = |each: &Self| {
            (
                each.effect,
                each.hook,
                each.reason.clone(),
                each.what.clone(),
                each.who.clone(),
                each.on.clone(),
            )
        };
        of(self) == of(other)
    }

    pub(super) fn finish(self) -> AccessChange {
        let way = match self.hook {
            Hook::Input => "to this host",
            Hook::Forward => "through this host",
        };
        let message = format!(
            "{} from {}{} {way} ({})",
            self.what,
            self.sources(),
            self.on,
            self.entry()
        );
        AccessChange {
            effect: self.effect,
            hook: self.hook,
            message,
            families: self.families,
            reason: self.reason,
        }
    }

    /// Makes a line about a service: sources, interfaces and the entry.
    pub(super) fn admitted(self) -> Admitted {
        Admitted {
            message: format!("{}{} ({})", self.sources(), self.on, self.entry()),
            sources: self.sources().to_owned(),
            interfaces: self.on.clone(),
            is_anybody: self.who.is_none() && self.on.is_empty(),
            is_public: self.who.is_none() || self.is_exception,
            reason: self.reason,
        }
    }

    fn sources(&self) -> &str {
        let any = match &self.families[..] {
            [Family::V4] => "any IPv4 source",
            [Family::V6] => "any IPv6 source",
            _ => "any source",
        };
        self.who.as_deref().unwrap_or(any)
    }

    fn entry(&self) -> String {
        match matches!(self.reason, Reason::InputDefault | Reason::ForwardDefault) {
            true => "a rule without a counter".to_owned(),
            false => entry(&self.reason),
        }
    }
}

/// Names of addresses in the sets of a ruleset.
pub(super) struct Owners<'r> {
    family: Family,
    ruleset: &'r Ruleset,
}

impl<'r> Owners<'r> {
    pub(super) fn new(ruleset: &'r Ruleset, family: Family) -> Self {
        Self { family, ruleset }
    }

    /// Names addresses, with the peers and groups that they belong to.
    fn names(&self, spans: &[Interval]) -> String {
        let nets = prefixes(self.family, spans);
        let few_nets = nets.len() <= 6;
        let name = |net: &ipnet::IpNet| {
            let short = addr::short(*net);
            match self.owner(*net).filter(|_| few_nets) {
                Some(owner) => format!("{owner} ({short})"),
                None => short,
            }
        };
        few(nets.iter().map(name).collect())
    }

    fn owner(&self, net: ipnet::IpNet) -> Option<&'r str> {
        let (first, last) = addr::bounds(net);
        let sets = self.ruleset.sets.values();
        let mut sets = sets.filter(|set| set.key == KeyType::address(self.family));
        sets.find_map(|set| {
            let element = set.find(first)?;
            let is_whole = (element.first, element.last) == (first, last);
            element.comment.as_deref().filter(|_| is_whole)
        })
    }
}
