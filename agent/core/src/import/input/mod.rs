//! Parses the files to import, in any of their formats.

mod commands;
pub(super) mod contained;
pub(crate) mod decode;
mod elements;
mod family;
mod format;
mod loadable;
pub(super) mod partial;
mod sets;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use peerwall_proto::iptables::{self, Save, TextError, script};

use super::canonical::{Readings, RuleTable, TableReadings};
use super::rule::{self, At, ImportedChains, ImportedRules, ImportedSets, Problems};
use super::{File, ImportError, Lint, nft};
use crate::net::addr::Family;
use family::{family_of, is_of_both};
use format::Format;
use sets::SetReader;

/// Files after parsing.
#[derive(Default)]
pub(crate) struct ParsedFiles {
    /// Files. Those in a configuration are listed individually.
    pub(super) files: Vec<File>,
    /// Indices of files with output of `ipset save`.
    sets: Vec<usize>,
    /// Indices of rulesets of nftables.
    pub(super) rulesets: Vec<usize>,
    /// Name and chains of each table that is not part of `rules`.
    pub(super) other_tables: Vec<(String, ImportedChains)>,
    /// Family and index of each file with rules.
    families: Vec<(Family, usize)>,
    /// Rules of each family that has any.
    pub(super) rules: Vec<ImportedRules>,
    /// Lines that cannot be read.
    pub(super) problems: Problems,
    /// Lines of which nothing is read.
    unread: BTreeSet<At>,
    /// Lines about sets that a policy cannot contain, with the reasons.
    pub(super) left_sets: Problems,
    /// Lines where a script may end.
    pub(super) ends: BTreeSet<At>,
    /// Scripts that end at the first command that fails.
    pub(super) ends_on_error: BTreeSet<usize>,
    /// Commands that load here-documents, and the lines of those.
    loads: Vec<(At, RangeInclusive<usize>)>,
    /// Lines of scripts that change no rules, and what they are.
    pub(super) idle: BTreeMap<At, &'static str>,
    /// Remarks on rulesets of nftables.
    pub(super) notes: Vec<nft::Note>,
    /// Remarks on whole files.
    pub(super) remarks: Vec<Lint>,
}

impl ParsedFiles {
    pub(super) fn is_set_line(&self, input: usize) -> bool {
        self.sets.contains(&input)
    }
}

/// A file that was split into tables, but whose rules are not parsed yet.
struct Split {
    index: usize,
    family: Family,
    save: Save,
}

/// Files that were split into tables.
#[derive(Default)]
struct SplitFiles {
    parsed: ParsedFiles,
    sets: SetReader,
    saves: Vec<Split>,
    rulesets: Vec<nft::NftRuleset>,
    errors: Vec<ImportError>,
}

fn split(files: &[File]) -> SplitFiles {
    let mut all = SplitFiles::default();
    for file in files {
        match expand(file) {
            Ok(inside) => {
                for (file, format) in inside {
                    all.add(file, format);
                }
            }
            Err(err) => all.errors.push(err),
        }
    }
    all
}

impl SplitFiles {
    fn add(&mut self, file: File, format: Format) {
        if format != Format::Ruleset {
            match self.parsed.split(file, format, &mut self.sets) {
                Ok(more) => self.saves.extend(more),
                Err(wrong) => self.errors.extend(wrong),
            }
            return;
        }
        if !self.rulesets.is_empty() {
            let what = "it is the second ruleset of nftables";
            let help = "import one file that includes the others";
            self.errors.push(ImportError::whole(&file.name, what, help));
            return;
        }
        let is_beside = !self.saves.is_empty();
        match self.parsed.ruleset(file, is_beside) {
            Ok(ruleset) => self.rulesets.push(ruleset),
            Err(err) => self.errors.push(err),
        }
    }
}

/// Returns the tables of the files, in the order in which [`parse`] reads them.
pub(super) fn tables(files: &[File]) -> Vec<RuleTable> {
    let all = split(files);
    let saves = all.saves.iter().enumerate();
    let tables = saves.flat_map(|(split, save)| {
        let tables = save.save.tables.iter().enumerate();
        tables.map(move |(at, table)| RuleTable::new((split, at), save.family, table))
    });
    tables.collect()
}

/// Returns the index, family and tables of each file with rules, and the content of sets.
pub(super) fn saves(files: &[File]) -> (Vec<(usize, Family, Save)>, ImportedSets) {
    let SplitFiles { sets, saves, .. } = split(files);
    let (content, _) = sets.finish();
    let saves = saves
        .into_iter()
        .map(|split| (split.index, split.family, split.save));
    (saves.collect(), content)
}

pub(super) fn parse(files: &[File], readings: &Readings) -> Result<ParsedFiles, Vec<ImportError>> {
    let SplitFiles {
        mut parsed,
        mut sets,
        saves,
        rulesets,
        mut errors,
    } = split(files);
    for split in &saves {
        let rules = split.save.tables.iter().flat_map(|table| &table.rules);
        rules.for_each(|rule| sets.change_by(rule));
    }
    let (content, left) = sets.finish();
    parsed.left_sets = left;
    parsed.problems.append(&mut sets.problems);
    for (at, split) in saves.into_iter().enumerate() {
        let of_table = |table| readings.of_table((at, table));
        if let Err(wrong) = parsed.read(&split, &content, &of_table, readings.is_live) {
            errors.extend(wrong);
        }
    }
    for ruleset in rulesets {
        parsed.add_ruleset(ruleset);
    }
    parsed.doubt_loads();
    parsed.follow_marks();
    if errors.is_empty() && parsed.rules.is_empty() {
        let name = files.first().map_or("", |file| file.name.as_str());
        errors.push(
            parsed
                .unread()
                .unwrap_or_else(|| ImportError::whole(name, "the file has no rules", RULES_HELP)),
        );
    }
    match errors.is_empty() {
        true => Ok(parsed),
        false => Err(errors),
    }
}

const RULES_HELP: &str = "import output of iptables-save, `iptables -S`, `ipset save`, a script of iptables \
     commands, rules of nftables, or a cloud-config, Butane or Ignition config with such files";

/// Returns the rules files in a file: itself, or those that it writes.
fn expand(file: &File) -> Result<Vec<(File, Format)>, ImportError> {
    let mut file = file.clone();
    // Windows editors write a byte order mark.
    if let Some(text) = file.text.strip_prefix('\u{feff}') {
        file.text = text.to_owned();
    }
    let refuse = |name: &str, why: &str| ImportError::whole(name, why, RULES_HELP);
    if contained::is_commands(&file) {
        return Ok(vec![(file, Format::Commands)]);
    }
    let kind = format::format(&file.text).map_err(|why| refuse(&file.name, why))?;
    match kind {
        Format::Save
        | Format::Listing
        | Format::Script
        | Format::Commands
        | Format::Sets
        | Format::Ruleset => Ok(vec![(file, kind)]),
        Format::CloudConfig | Format::Storage | Format::Ignition => {
            let inside = contained::files(&file, kind)?.into_iter();
            let kind = |file: File| {
                if contained::is_commands(&file) {
                    return Ok((file, Format::Commands));
                }
                let kind = format::format(&file.text).map_err(|why| refuse(&file.name, why))?;
                Ok((file, kind))
            };
            inside.map(kind).collect()
        }
    }
}

impl ParsedFiles {
    /// Reads a ruleset of nftables, and adds its text to the list of files.
    fn ruleset(&mut self, file: File, is_beside: bool) -> Result<nft::NftRuleset, ImportError> {
        let index = self.files.len();
        let ruleset = nft::read_beside(&file, index, is_beside)?;
        let text = ruleset.text.clone();
        self.files.push(File { text, ..file });
        self.rulesets.push(index);
        Ok(ruleset)
    }

    /// Splits a file into tables, and adds it to the list of files.
    fn split(
        &mut self,
        file: File,
        format: Format,
        sets: &mut SetReader,
    ) -> Result<Vec<Split>, Vec<ImportError>> {
        let index = self.files.len();
        match format {
            Format::Sets => {
                self.sets.push(index);
                sets.file(index, &file.text);
                self.files.push(file);
                Ok(Vec::new())
            }
            Format::Script => Ok(self.split_script(file, sets)),
            Format::Commands if self.files.is_empty() => Ok(self.split_script(file, sets)),
            Format::Commands => {
                self.commands(file);
                Ok(Vec::new())
            }
            Format::Listing => {
                let (save, lines) = script::listing(&file.text);
                self.split_save(file, save, lines)
            }
            Format::Save
            | Format::CloudConfig
            | Format::Storage
            | Format::Ignition
            | Format::Ruleset => {
                let iptables::Reading { save, lines, whole } = iptables::read(&file.text);
                if !whole.is_empty() {
                    let text = |err| ImportError::text(&file.name, err);
                    return Err(whole.into_iter().map(text).collect());
                }
                self.remarks.extend(loadable::remark(&file));
                self.split_save(file, save, lines)
            }
        }
    }

    fn split_save(
        &mut self,
        file: File,
        save: Save,
        lines: Vec<TextError>,
    ) -> Result<Vec<Split>, Vec<ImportError>> {
        let families = match file.family {
            Some(family) => vec![family],
            None if is_of_both(&save) => vec![Family::V4, Family::V6],
            None => family_of(&file, &save).into_iter().collect(),
        };
        if families.is_empty() {
            return Err(vec![ImportError::whole(
                &file.name,
                "its content does not say whether it is for IPv4 or IPv6",
                "name the family: --v4 FILE or --v6 FILE",
            )]);
        }
        let count = families.len();
        let is_of_both = count > 1;
        let mut found = Vec::new();
        for (family, save) in families.into_iter().zip(std::iter::repeat_n(save, count)) {
            let index = self.files.len();
            self.refuse(index, &lines);
            let mut file = file.clone();
            if is_of_both {
                file.name = format!("{} (IPv{})", file.name, family.digit());
            }
            self.files.push(file);
            found.push(Split {
                index,
                family,
                save,
            });
        }
        Ok(found)
    }

    /// Returns an error about the first line that cannot be read.
    fn unread(&self) -> Option<ImportError> {
        let (at, why) = self.problems.first_key_value()?;
        let why = why.split("; ").next().unwrap_or(why);
        let name = self.files.get(at.input).map_or("", |file| &file.name);
        Some(ImportError {
            file: name.to_owned(),
            line: at.line,
            why: format!("{why}, and no other line about rules can be read"),
            help: "load the rules, and import those of the kernel: --live as root, or output of \
                   iptables-save"
                .into(),
        })
    }

    fn refuse(&mut self, input: usize, lines: &[TextError]) {
        for err in lines {
            let line = err.line;
            let why = format!("{}; {}", err.why, err.help);
            self.problems.insert(At { input, line }, why);
            self.unread.insert(At { input, line });
        }
    }

    /// Parses the rules of a file.
    fn read<'r>(
        &mut self,
        split: &Split,
        sets: &ImportedSets,
        readings: &dyn Fn(usize) -> TableReadings<'r>,
        is_live: bool,
    ) -> Result<(), Vec<ImportError>> {
        let mut errors = Vec::new();
        self.families.push((split.family, split.index));
        let input = split.index;
        let of_file = |line| At { input, line };
        let unread = self.unread.range(of_file(0)..=of_file(usize::MAX));
        let unread: Vec<usize> = unread.map(|at| at.line).collect();
        for (at, table) in split.save.tables.iter().enumerate() {
            let origin = rule::TableOrigin {
                family: split.family,
                input,
                sets,
                unread: &unread,
                readings: readings(at),
            };
            let chains = rule::chains(table, &origin, &mut self.problems);
            if is_live && self.has_table(split.family, &table.name) {
                self.add_beside(split, table, chains);
            } else if let Err(err) = self.add(split, table, chains) {
                errors.push(err);
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    /// Adds a ruleset of nftables. Its chains are called beside those of other files.
    fn add_ruleset(&mut self, ruleset: nft::NftRuleset) {
        self.notes.extend(ruleset.notes);
        // A ban list of both families does not make a family without a firewall an open policy.
        let is_beside = !self.rules.is_empty();
        for rules in ruleset.rules {
            match self.rules.iter_mut().find(|r| r.family == rules.family) {
                Some(known) => known.extend(rules),
                None if !is_beside || rules.deny() => self.rules.push(rules),
                None => {
                    let tables = [("filter", rules.filter), ("nat", rules.nat)];
                    let named = tables.map(|(name, chains)| (name.to_owned(), chains));
                    self.other_tables.extend(named);
                }
            }
        }
        self.rules.sort_by_key(|rules| rules.family);
    }

    /// Keeps the tests of marks that the rules of the table nat decide.
    fn follow_marks(&mut self) {
        let is_other = |name: &str| !["filter", "nat"].contains(&name);
        let others = self.other_tables.iter().filter(|(name, _)| is_other(name));
        let others: Vec<&ImportedChains> = others.map(|(_, chains)| chains).collect();
        let mut followed = BTreeSet::new();
        for rules in &mut self.rules {
            followed.extend(rule::keep_followed(rules, &others));
        }
        for (_, chains) in &mut self.other_tables {
            rule::keep_marks(chains, |at, _| followed.contains(&at));
        }
    }

    fn has_table(&self, family: Family, name: &str) -> bool {
        let mut of_family = self.rules.iter().filter(|rules| rules.family == family);
        of_family.any(|rules| match name {
            "filter" => !rules.filter.is_empty(),
            "nat" => !rules.nat.is_empty(),
            _ => false,
        })
    }

    /// Adds a table beside one with the same name. Its chains get new names.
    fn add_beside(&mut self, split: &Split, table: &iptables::Table, chains: ImportedChains) {
        let file = self.files.get(split.index);
        let file = file.map_or("", |file| file.name.as_str());
        let renamed = |name: &str| format!("{name} (of {file})");
        let chains = rule::renamed(chains, &renamed);
        let paths = |of: &str| vec![renamed(of)];
        let mut of_family = self.rules.iter_mut();
        if let Some(rules) = of_family.find(|rules| rules.family == split.family) {
            let mut more = ImportedRules {
                family: split.family,
                filter: ImportedChains::new(),
                nat: ImportedChains::new(),
                untracked: Vec::new(),
                paths: rule::Paths::default(),
            };
            if table.name == "filter" {
                more.paths.input = paths("INPUT");
                more.paths.forward = paths("FORWARD");
                more.paths.output = paths("OUTPUT");
                more.filter = chains;
            } else {
                more.paths.prerouting = vec![paths("PREROUTING")];
                more.nat = chains;
            }
            rules.extend(more);
        }
    }

    fn add(
        &mut self,
        split: &Split,
        table: &iptables::Table,
        chains: ImportedChains,
    ) -> Result<(), ImportError> {
        let family = split.family;
        if !self.rules.iter().any(|rules| rules.family == family) {
            self.rules.push(ImportedRules {
                family,
                filter: ImportedChains::new(),
                nat: ImportedChains::new(),
                untracked: Vec::new(),
                paths: rule::Paths::of_iptables(),
            });
            self.rules.sort_by_key(|rules| rules.family);
        }
        let rules = self.rules.iter_mut().find(|rules| rules.family == family);
        let slot = match (rules, table.name.as_str()) {
            (Some(rules), "filter") => &mut rules.filter,
            (Some(rules), "nat") => &mut rules.nat,
            (rules, name) => {
                if let (Some(rules), "raw") = (rules, name) {
                    let untracked = rule::untracked(&chains, "PREROUTING");
                    rules.untracked.extend(untracked);
                }
                self.other_tables.push((table.name.clone(), chains));
                return Ok(());
            }
        };
        if !slot.is_empty() {
            let name = |index: usize| self.files.get(index).map_or("", |file| &file.name);
            let first = slot.values().find_map(|chain| {
                let rules = chain.rules.first().map(|rule| rule.at);
                chain.at.or(rules)
            });
            let help = match first.is_some_and(|at| at.input == split.index) {
                true => {
                    "iptables-restore would load the last one only: remove the others, or write \
                     those of the other family into a file of their own"
                }
                false => "import one file for each family: the one that is loaded last",
            };
            let first = first.map_or("", |at| name(at.input));
            return Err(ImportError {
                file: name(split.index).to_owned(),
                line: table.line,
                why: format!(
                    "this is the second table {} for IPv{}, after that of {first}",
                    table.name,
                    family.digit()
                ),
                help: help.into(),
            });
        }
        *slot = chains;
        Ok(())
    }
}
