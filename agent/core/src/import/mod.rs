//! From a host's iptables rules to a policy that means the same, with an account of every line.
//!
//! The rules are not translated one by one. They are asked about one packet of each kind that they tell
//! apart (`view`), the policy is written from the answers (`draft`), and then both are compared over
//! every kind of packet that either of them tells apart (`proof`). What became of each line is read
//! off that comparison (`report`), so it cannot say more than what is true.

mod classes;
mod cloud;
mod draft;
pub mod eval;
mod grid;
pub mod managed;
mod mentions;
mod probes;
mod proof;
mod report;
pub mod rule;
mod view;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use peerwall_proto::iptables::{self, TextError};
use serde::Serialize;

use crate::net::addr::Family;
use crate::policy::Policy;
use crate::policy::load::{NoFiles, load};
pub use probes::probes;
pub use proof::{Change, Difference};
pub use report::{Fate, Line, Lint};
use rule::{At, Chains, IpSets, Rules};
use view::View;

/// A file to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What to call it.
    pub name: String,
    /// What is in it: iptables-save's or ip6tables-save's output, `ipset save`'s, or a cloud-config.
    pub text: String,
    /// IPv4 or IPv6, if that is known.
    pub family: Option<Family>,
}

/// What is known of the host that the rules are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Networks of pods, from flannel.
    pub pod_networks: Vec<IpNet>,
    /// Names of interfaces.
    pub interfaces: Vec<String>,
    /// Addresses of this host, with the lengths of their networks.
    pub addresses: Vec<IpNet>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Import {
    /// The policy, as a file.
    pub policy: String,
    /// Every line, and what became of it.
    pub lines: Vec<Line>,
    /// Where policy and rules differ.
    pub differences: Vec<Difference>,
    /// What was wrong with the rules from the start.
    pub lints: Vec<Lint>,
    /// So many packets were compared.
    pub compared: usize,
    /// Of so many kinds of packets all that matter were; fewer than there are where the files are long.
    pub thinned: bool,
}

impl Import {
    /// Whether no line was lost, in whole or in part.
    pub fn is_whole(&self) -> bool {
        self.lines.iter().all(|line| line.fate.is_whole())
    }
}

/// Why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// Its line, from 1; 0 if it is about the whole file.
    pub line: usize,
    /// What is wrong.
    pub why: String,
    /// What would do.
    pub help: String,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}; {}", self.file, self.why, self.help),
            line => write!(f, "{}: line {line}: {}; {}", self.file, self.why, self.help),
        }
    }
}

impl std::error::Error for ImportError {}

impl ImportError {
    fn whole(file: &str, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            why: why.into(),
            help: help.into(),
        }
    }

    fn text(file: &str, err: TextError) -> Self {
        Self {
            file: file.to_owned(),
            line: err.line,
            why: err.why,
            help: err.help.to_owned(),
        }
    }
}

/// Files that were read.
pub(crate) struct Parsed {
    /// The files, those of a cloud-config by themselves.
    files: Vec<File>,
    /// Which of them are `ipset save`'s.
    sets: Vec<usize>,
    /// File, name and chains of each table.
    tables: Vec<(usize, String, Chains)>,
    /// The rules of each family that there are rules of.
    rules: Vec<Rules>,
}

impl Parsed {
    fn is_set_line(&self, input: usize) -> bool {
        self.sets.contains(&input)
    }
}

/// Imports files.
///
/// # Errors
/// Everything that is wrong with them, all at once.
pub fn import(files: &[File], facts: &Facts) -> Result<Import, Vec<ImportError>> {
    let parsed = parse(files)?;
    let views: Vec<View<'_>> = parsed
        .rules
        .iter()
        .map(|rules| View::new(rules, facts, classes::Spoken::default()).learned())
        .collect();
    let (draft, unsaid) = draft::draft(&views, facts);
    let policy_text = draft.text(&head(&parsed));
    let policy = read_back(&policy_text)?;
    let compared: Vec<View<'_>> = parsed
        .rules
        .iter()
        .map(|rules| View::new(rules, facts, mentions::of_policy(&policy, rules.family)).learned())
        .collect();
    let proof = proof::compare(&compared, &policy);
    Ok(Import {
        lines: report::lines(&parsed, &policy, &proof, &unsaid),
        lints: report::lints(&compared, &policy, facts),
        policy: policy_text,
        compared: proof.compared,
        thinned: proof.thinned,
        differences: proof.differences,
    })
}

/// Reads rules, those of each family together, for asking them about packets.
///
/// # Errors
/// Everything that is wrong with them.
pub fn rules(files: &[File]) -> Result<Vec<Rules>, Vec<ImportError>> {
    parse(files).map(|parsed| parsed.rules)
}

const RULES_HELP: &str = "give it files as iptables-save and ip6tables-save write them";

fn head(parsed: &Parsed) -> String {
    let names: Vec<&str> = parsed.files.iter().map(|file| file.name.as_str()).collect();
    format!("# Made by `peerwall import` from {}.\n", names.join(", "))
}

/// The policy as it will be read. That it can be is what the tests of the import are about.
fn read_back(text: &str) -> Result<Policy, Vec<ImportError>> {
    let loaded = load("policy.toml", text, &NoFiles);
    loaded.policy.ok_or_else(|| {
        let said = loaded.sources.render(&loaded.diagnostics, false);
        vec![ImportError::whole(
            "policy.toml",
            format!("the policy that was made of these files is not one:\n{said}\n{text}"),
            "this is a mistake in peerwall; please report it with the files",
        )]
    })
}

fn parse(files: &[File]) -> Result<Parsed, Vec<ImportError>> {
    let mut errors = Vec::new();
    let mut all: Vec<File> = Vec::new();
    for file in files {
        match is_cloud_config(&file.text) {
            true => match cloud::files(file) {
                Ok(inside) => all.extend(inside),
                Err(err) => errors.push(err),
            },
            false => all.push(file.clone()),
        }
    }
    let mut sets = Vec::new();
    let mut content = IpSets::new();
    for (index, file) in all.iter().enumerate() {
        if is_ipset(&file.text) {
            sets.push(index);
            match ipsets(file) {
                Ok(more) => content.extend(more),
                Err(err) => errors.push(err),
            }
        }
    }
    let mut parsed = Parsed {
        sets,
        tables: Vec::new(),
        rules: Vec::new(),
        files: Vec::new(),
    };
    for (index, file) in all.iter().enumerate() {
        if !parsed.sets.contains(&index)
            && let Err(wrong) = parsed.take(index, file, &content)
        {
            errors.extend(wrong);
        }
    }
    parsed.files = all;
    if errors.is_empty() && parsed.rules.is_empty() {
        let name = files.first().map_or("", |file| file.name.as_str());
        errors.push(ImportError::whole(
            name,
            "there are no rules in it",
            RULES_HELP,
        ));
    }
    match errors.is_empty() {
        true => Ok(parsed),
        false => Err(errors),
    }
}

impl Parsed {
    fn take(&mut self, index: usize, file: &File, sets: &IpSets) -> Result<(), Vec<ImportError>> {
        let text = |err| ImportError::text(&file.name, err);
        let save = iptables::parse(&file.text)
            .map_err(|errors| errors.into_iter().map(text).collect::<Vec<_>>())?;
        let family = file
            .family
            .or_else(|| family_of(file, &save))
            .ok_or_else(|| {
                vec![ImportError::whole(
                    &file.name,
                    "nothing in it tells whether it is of IPv4 or of IPv6",
                    "say so: --v4 FILE or --v6 FILE",
                )]
            })?;
        let mut errors = Vec::new();
        for table in &save.tables {
            match rule::chains(table, family, index, sets) {
                Ok(chains) => {
                    if let Err(err) = self.add(file, family, table, chains.clone()) {
                        errors.push(err);
                    }
                    self.tables.push((index, table.name.clone(), chains));
                }
                Err(wrong) => errors.extend(wrong.into_iter().map(|err| ImportError {
                    file: file.name.clone(),
                    line: err.line,
                    why: err.why,
                    help: err.help.to_owned(),
                })),
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    fn add(
        &mut self,
        file: &File,
        family: Family,
        table: &iptables::Table,
        chains: Chains,
    ) -> Result<(), ImportError> {
        if !self.rules.iter().any(|rules| rules.family == family) {
            self.rules.push(Rules {
                family,
                filter: Chains::new(),
                nat: Chains::new(),
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
                    "this is the second table {} of IPv{}",
                    table.name,
                    family.digit()
                ),
                help: "give it one file for each family".into(),
            });
        }
        *slot = chains;
        Ok(())
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

/// The addresses of `ipset save`; sets of other things are left out, so that rules that match them do
/// not count as known.
fn ipsets(file: &File) -> Result<IpSets, ImportError> {
    let mut sets = IpSets::new();
    for (index, line) in file.text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["create", name, "hash:ip" | "hash:net", ..] => {
                sets.insert(name.to_owned(), Vec::new());
            }
            // Some elements are exceptions to others.
            ["add", name, _, "nomatch", ..] => drop(sets.remove(name)),
            ["add", name, element, ..] => {
                let Some(set) = sets.get_mut(name) else {
                    continue;
                };
                let host = || element.parse::<IpAddr>().ok().map(IpNet::from);
                let net = element.parse::<IpNet>().ok().or_else(host);
                set.push(net.ok_or_else(|| ImportError {
                    file: file.name.clone(),
                    line: index + 1,
                    why: format!("`{element}` is no address"),
                    help: "lines are as `ipset save` writes them".into(),
                })?);
            }
            _ => {}
        }
    }
    Ok(sets)
}

/// IPv4 or IPv6, by the addresses and protocols in it, its name, or what iptables-save wrote above it.
fn family_of(file: &File, save: &iptables::Save) -> Option<Family> {
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
