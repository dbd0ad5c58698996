//! Where lines are: their table, chain and rule.

use std::collections::{BTreeMap, BTreeSet};

use crate::import::ParsedFiles;
use crate::import::rule::{self, At, ImportedRule, ImportedRules, Verb};

/// Position of a line: table, chain and rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundLine<'p> {
    /// Name of the table.
    pub table: &'p str,
    /// Name of the chain.
    pub chain: &'p str,
    /// The rule; `None` for a declaration of the chain.
    pub rule: Option<&'p ImportedRule>,
    /// Whether packets at the end of the chain are accepted; `None` for user-defined chains.
    pub accepts: Option<bool>,
}

/// The places of all lines.
pub(super) struct Places<'p> {
    /// Places by lines.
    pub lines: BTreeMap<At, FoundLine<'p>>,
    /// The first line of each chain with a rate.
    rated: BTreeMap<&'p str, At>,
    /// Rules that packets to this host or through it reach.
    pub judged: BTreeSet<At>,
    /// Rules that packets through this host reach.
    pub through: BTreeSet<At>,
    /// Rules that packets of this host reach.
    pub output: BTreeSet<At>,
    /// What lines with a verdict change besides, like marks.
    pub changes: BTreeMap<At, &'p str>,
    /// Chains that a rule with unknown conditions jumps to.
    pub unsure: BTreeSet<&'p str>,
    /// Lines with unknown conditions that drop some packets.
    pub unknown_drops: BTreeSet<At>,
    /// Rules for redirected connections, in files without rules that redirect, or with some that
    /// are not converted.
    pub dnat_elsewhere: BTreeSet<At>,
    /// Whether a rule that redirects is not converted.
    pub is_nat_unsure: bool,
    /// The first line of each chain whose target is not known.
    unread: BTreeMap<&'p str, At>,
    rules: &'p [ImportedRules],
}

impl<'p> Places<'p> {
    /// Reports whether a line of the same chain above this one has a rate.
    pub(super) fn is_behind_rate(&self, at: At, chain: &str) -> bool {
        self.rated.get(chain).is_some_and(|first| *first < at)
    }

    /// Reports whether a line of the same chain above this one has a target that is not known.
    pub(super) fn is_behind_unread(&self, at: At, chain: &str) -> bool {
        self.unread.get(chain).is_some_and(|first| *first < at)
    }

    pub(super) fn new(parsed: &'p ParsedFiles) -> Self {
        let mut lines = BTreeMap::<At, FoundLine<'p>>::new();
        let mut changes = BTreeMap::new();
        let mut rated = BTreeMap::<&str, At>::new();
        let others = parsed.other_tables.iter();
        let others = others.map(|(table, chains)| (table.as_str(), chains));
        let rules = parsed.rules.iter();
        let rules = rules.flat_map(|rules| [("filter", &rules.filter), ("nat", &rules.nat)]);
        for (table, chains) in others.chain(rules) {
            for (name, chain) in chains {
                let of = |rule| FoundLine {
                    table,
                    chain: name,
                    rule,
                    accepts: chain.accepts,
                };
                if let Some(at) = chain.at {
                    lines.entry(at).or_insert(of(None));
                }
                for rule in &chain.rules {
                    if rule.rates().next().is_some() {
                        let first = rated.entry(name).or_insert(rule.at);
                        *first = rule.at.min(*first);
                    }
                    if let Verb::Continue(what) | Verb::Mark(_, what) | Verb::Untrack(what) =
                        &rule.target
                    {
                        changes.entry(rule.at).or_insert(what.as_str());
                    }
                    let found = lines.entry(rule.at).or_insert(of(Some(rule)));
                    // A map of verdicts, or a statement before a verdict, makes several rules.
                    if found.rule.is_some_and(|first| weight(rule) > weight(first)) {
                        *found = of(Some(rule));
                    }
                }
            }
        }
        let mut judged = BTreeSet::new();
        let mut through = BTreeSet::new();
        let mut output = BTreeSet::new();
        let mut unsure = BTreeSet::new();
        let mut unknown_drops = BTreeSet::new();
        let mut dnat_elsewhere = BTreeSet::new();
        let mut unread = BTreeMap::new();
        let mut is_nat_unsure = false;
        for rules in &parsed.rules {
            let all = || rules.filter.values().flat_map(|chain| &chain.rules);
            let mut of_nat = rules.nat.values().flat_map(|chain| &chain.rules);
            let is_unsure =
                |rule: &ImportedRule| rule.target.redirects() && rule.unknown().next().is_some();
            let is_unsure = of_nat.any(is_unsure);
            is_nat_unsure |= is_unsure;
            if rules.nat.is_empty() || is_unsure {
                let of_dnat = all().filter(|rule| rule.names_dnat());
                dnat_elsewhere.extend(of_dnat.map(|rule| rule.at));
            }
            for (name, chain) in &rules.filter {
                let drops = |rule: &&ImportedRule| matches!(rule.target, Verb::Unknown(_));
                if let Some(first) = chain.rules.iter().find(drops) {
                    unread.insert(name.as_str(), first.at);
                }
            }
            let unknown = all().filter(|rule| rule.unknown().next().is_some());
            for rule in unknown {
                unsure.extend(rule.target.chain());
                if matches!(rule.target, Verb::Drop | Verb::Reject) {
                    unknown_drops.insert(rule.at);
                }
            }
            let paths = &rules.paths;
            for start in &paths.input {
                judged.extend(reached(rules, start));
            }
            for start in &paths.forward {
                through.extend(reached(rules, start));
            }
            for start in &paths.output {
                output.extend(reached(rules, start));
            }
        }
        judged.extend(&through);
        Self {
            lines,
            rated,
            changes,
            judged,
            through,
            output,
            unsure,
            unknown_drops,
            dnat_elsewhere,
            is_nat_unsure,
            unread,
            rules: &parsed.rules,
        }
    }

    /// Reports whether packets of a hook pass this base chain and others.
    pub(super) fn is_one_of_several(&self, chain: &str) -> bool {
        let paths = self.rules.iter().map(|rules| &rules.paths);
        let mut paths = paths.flat_map(|paths| [&paths.input, &paths.forward]);
        paths.any(|path| path.len() > 1 && path.iter().any(|name| name == chain))
    }

    /// Reports whether this is a base chain for packets through this host.
    pub(super) fn is_forward(&self, chain: &str) -> bool {
        let mut names = self.rules.iter().flat_map(|rules| &rules.paths.forward);
        names.any(|name| name == chain)
    }

    /// Reports whether this is a base chain for packets of this host.
    pub(super) fn is_output(&self, chain: &str) -> bool {
        let mut names = self.rules.iter().flat_map(|rules| &rules.paths.output);
        names.any(|name| name == chain)
    }
}

/// How much a rule says about its line, of several rules of one line. What drops only if something
/// unknown is so must be told, also if its rule for the other family is known.
fn weight(rule: &ImportedRule) -> u8 {
    match rule.target {
        Verb::Accept => 5,
        Verb::Drop | Verb::Reject if rule.unknown().next().is_some() => 4,
        Verb::Drop | Verb::Reject | Verb::Unknown(_) => 3,
        Verb::Jump(_)
        | Verb::Goto(_)
        | Verb::Dnat(..)
        | Verb::DnatSomewhere(_)
        | Verb::Masquerade => 2,
        Verb::Return => 1,
        Verb::Continue(_) | Verb::Mark(..) | Verb::Untrack(_) => 0,
    }
}

fn reached<'r>(rules: &'r ImportedRules, start: &'r str) -> impl Iterator<Item = At> + 'r {
    let chains = rule::reached(&rules.filter, start).into_iter();
    let chains = chains.filter_map(|name| rules.filter.get(name));
    chains.flat_map(|chain| &chain.rules).map(|rule| rule.at)
}
