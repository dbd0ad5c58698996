//! Parses the files to import: rules files, cloud-configs and sets.

use std::net::IpAddr;

use peerwall_proto::ipset;
use peerwall_proto::iptables;

use super::rule::{self, At, ImportedChains, ImportedRules, ImportedSet, ImportedSets, Problems};
use super::{File, ImportError, cloud, nft};
use crate::iptables::ipset::net;
use crate::net::addr::Family;

/// Files after parsing.
pub(crate) struct ParsedFiles {
    /// Files. Those in a cloud-config are listed individually.
    pub(super) files: Vec<File>,
    /// Indices of files with output of `ipset save`.
    sets: Vec<usize>,
    /// File, name and chains of each table.
    pub(super) tables: Vec<(usize, String, ImportedChains)>,
    /// Rules of each family that has any.
    pub(super) rules: Vec<ImportedRules>,
    /// Lines that cannot be read.
    pub(super) problems: Problems,
    /// Remarks on rulesets of nftables.
    pub(super) notes: Vec<nft::Note>,
}

impl ParsedFiles {
    pub(super) fn is_set_line(&self, input: usize) -> bool {
        self.sets.contains(&input)
    }
}

pub(super) fn parse(files: &[File]) -> Result<ParsedFiles, Vec<ImportError>> {
    let mut errors = Vec::new();
    let mut all: Vec<File> = Vec::new();
    let mut rulesets = Vec::new();
    for file in files {
        if nft::is_listing(&file.text) {
            match nft::read(file, all.len()) {
                Ok(ruleset) => {
                    let text = ruleset.text.clone();
                    rulesets.push((all.len(), ruleset));
                    all.push(File {
                        text,
                        ..file.clone()
                    });
                }
                Err(err) => errors.push(err),
            }
            continue;
        }
        match is_cloud_config(&file.text) {
            true => match cloud::files(file) {
                Ok(inside) => all.extend(inside),
                Err(err) => errors.push(err),
            },
            false => all.push(file.clone()),
        }
    }
    let mut sets = Vec::new();
    let mut content = ImportedSets::new();
    for (index, file) in all.iter().enumerate() {
        if is_ipset(&file.text) {
            sets.push(index);
            match ipsets(file) {
                Ok(more) => content.extend(more),
                Err(err) => errors.push(err),
            }
        }
    }
    let mut parsed = ParsedFiles {
        sets,
        tables: Vec::new(),
        rules: Vec::new(),
        files: Vec::new(),
        problems: Problems::new(),
        notes: Vec::new(),
    };
    let nft: Vec<usize> = rulesets.iter().map(|(index, _)| *index).collect();
    for (index, file) in all.iter().enumerate() {
        if !parsed.sets.contains(&index)
            && !nft.contains(&index)
            && let Err(wrong) = parsed.take(index, file, &content)
        {
            errors.extend(wrong);
        }
    }
    for (index, ruleset) in rulesets {
        parsed.add_ruleset(index, ruleset);
    }
    parsed.files = all;
    if errors.is_empty() && parsed.rules.is_empty() {
        let name = files.first().map_or("", |file| file.name.as_str());
        errors.push(ImportError::whole(
            name,
            "the file has no rules",
            RULES_HELP,
        ));
    }
    match errors.is_empty() {
        true => Ok(parsed),
        false => Err(errors),
    }
}

fn is_cloud_config(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_end);
    let first = lines
        .clone()
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    first.starts_with("#cloud-config")
        || lines.any(|line| matches!(line, "write_files:" | "write-files:"))
}

fn is_ipset(text: &str) -> bool {
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.next().is_some_and(|line| line.starts_with("create "))
}

/// Parses the addresses in output of `ipset save`. Sets of other types are omitted, so that
/// conditions on them are unknown.
fn ipsets(file: &File) -> Result<ImportedSets, ImportError> {
    let mut sets = std::collections::BTreeMap::<String, Vec<ipnet::IpNet>>::new();
    for (index, text) in file.text.lines().enumerate() {
        match ipset::line(text) {
            ipset::SetLine::Create {
                name,
                kind: "hash:ip" | "hash:net",
                ..
            } => {
                sets.insert(name.to_owned(), Vec::new());
            }
            // `nomatch` elements are exceptions from other elements.
            ipset::SetLine::Add { name, options, .. } if options.first() == Some(&"nomatch") => {
                drop(sets.remove(name));
            }
            ipset::SetLine::Add { name, element, .. } => {
                let Some(set) = sets.get_mut(name) else {
                    continue;
                };
                set.push(net(element).ok_or_else(|| ImportError {
                    file: file.name.clone(),
                    line: index + 1,
                    why: format!("`{element}` is not an address"),
                    help: "write lines in the format of `ipset save`".into(),
                })?);
            }
            ipset::SetLine::Create { .. } | ipset::SetLine::Other => {}
        }
    }
    let of = |nets: &[ipnet::IpNet], family| {
        let nets = nets.iter().filter(|net| Family::of(net.addr()) == family);
        nets.map(|net| crate::net::addr::bounds(*net)).collect()
    };
    let sets = sets.into_iter().map(|(name, nets)| {
        let v4 = of(&nets, Family::V4);
        let v6 = of(&nets, Family::V6);
        (name, ImportedSet::Addresses { v4, v6 })
    });
    Ok(sets.collect())
}

/// Guesses the family from addresses and protocols in the rules, the file's name, or
/// iptables-save's comment.
pub(super) fn family_of(file: &File, save: &iptables::Save) -> Option<Family> {
    if file.text.contains("Generated by ip6tables-save") {
        return Some(Family::V6);
    }
    if file.text.contains("Generated by iptables-save") {
        return Some(Family::V4);
    }
    let words = save
        .tables
        .iter()
        .flat_map(|table| &table.rules)
        .flat_map(|rule| &rule.words);
    for word in words {
        let address = word.split(['/', '-', ',']).next().unwrap_or_default();
        if let Ok(address) = address.parse::<IpAddr>() {
            return Some(Family::of(address));
        }
        match word.as_str() {
            "icmpv6" | "ipv6-icmp" | "--icmpv6-type" | "icmp6-adm-prohibited" => {
                return Some(Family::V6);
            }
            "icmp" | "--icmp-type" | "icmp-host-prohibited" | "icmp-port-unreachable" => {
                return Some(Family::V4);
            }
            _ => {}
        }
    }
    let name = file.name.to_ascii_lowercase();
    if ["ip6", "v6", "rules6", "ipv6"]
        .iter()
        .any(|part| name.contains(part))
    {
        return Some(Family::V6);
    }
    ["iptables", "v4", "ipv4"]
        .iter()
        .any(|part| name.contains(part))
        .then_some(Family::V4)
}

const RULES_HELP: &str = "import files in the format of iptables-save or ip6tables-save";

impl ParsedFiles {
    fn take(
        &mut self,
        index: usize,
        file: &File,
        sets: &ImportedSets,
    ) -> Result<(), Vec<ImportError>> {
        let iptables::Reading { save, lines, whole } = iptables::read(&file.text);
        if !whole.is_empty() {
            let text = |err| ImportError::text(&file.name, err);
            return Err(whole.into_iter().map(text).collect());
        }
        for err in lines {
            let line = err.line;
            let at = At { input: index, line };
            self.problems
                .insert(at, format!("{}; {}", err.why, err.help));
        }
        let family = file
            .family
            .or_else(|| family_of(file, &save))
            .ok_or_else(|| {
                vec![ImportError::whole(
                    &file.name,
                    "its content does not say whether it is for IPv4 or IPv6",
                    "name the family: --v4 FILE or --v6 FILE",
                )]
            })?;
        let mut errors = Vec::new();
        for table in &save.tables {
            let chains = rule::chains(table, family, index, sets, &mut self.problems);
            if let Err(err) = self.add(file, family, table, chains.clone()) {
                errors.push(err);
            }
            self.tables.push((index, table.name.clone(), chains));
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    /// Adds a ruleset of nftables. Its chains are called beside those of other files.
    fn add_ruleset(&mut self, index: usize, ruleset: nft::NftRuleset) {
        self.notes.extend(ruleset.notes);
        for rules in ruleset.rules {
            let tables = [("filter", &rules.filter), ("nat", &rules.nat)];
            let named = tables.map(|(name, chains)| (index, name.to_owned(), chains.clone()));
            self.tables.extend(named);
            match self.rules.iter_mut().find(|r| r.family == rules.family) {
                Some(known) => known.extend(rules),
                None => self.rules.push(rules),
            }
        }
        self.rules.sort_by_key(|rules| rules.family);
    }

    fn add(
        &mut self,
        file: &File,
        family: Family,
        table: &iptables::Table,
        chains: ImportedChains,
    ) -> Result<(), ImportError> {
        if !self.rules.iter().any(|rules| rules.family == family) {
            self.rules.push(ImportedRules {
                family,
                filter: ImportedChains::new(),
                nat: ImportedChains::new(),
                paths: rule::Paths::of_iptables(),
            });
            self.rules.sort_by_key(|rules| rules.family);
        }
        let rules = self.rules.iter_mut().find(|rules| rules.family == family);
        let slot = match (rules, table.name.as_str()) {
            (Some(rules), "filter") => &mut rules.filter,
            (Some(rules), "nat") => &mut rules.nat,
            _ => return Ok(()),
        };
        if !slot.is_empty() {
            return Err(ImportError {
                file: file.name.clone(),
                line: table.line,
                why: format!(
                    "this is the second table {} for IPv{}",
                    table.name,
                    family.digit()
                ),
                help: "import one file for each family".into(),
            });
        }
        *slot = chains;
        Ok(())
    }
}
