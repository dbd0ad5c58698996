//! Converts a host's iptables rules into an equivalent policy, with a report on every line.
//!
//! Rules are not converted one by one. One packet of each kind that they distinguish is evaluated
//! (`view`), the policy is written from the results (`draft`), and then both are compared over
//! every kind of packet that either distinguishes (`proof`). The report on each line is derived
//! from that comparison (`report`), so that it is always true.

pub mod canonical;
mod draft;
pub mod eval;
mod input;
#[cfg(any(test, feature = "generate"))]
pub mod judge;
mod literals;
pub mod managed;
pub mod meaning;
mod networks;
pub mod nft;
mod probes;
mod proof;
mod report;
pub mod rule;
pub mod saved;
mod space;
mod spans;
mod undecided;
mod view;

use std::fmt;

use ipnet::IpNet;
use peerwall_proto::iptables::TextError;
use schemars::JsonSchema;
use serde::Serialize;

use crate::net::addr::Family;
use crate::policy::Policy;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile_bare;
use crate::words::printable;
use canonical::Readings;
pub use input::contained::with_nft;
pub(crate) use input::decode::gunzip;
use input::{ParsedFiles, parse};
pub use probes::probes;
pub use proof::{Difference, Direction};
pub use report::{Fate, Line, Lint};
use rule::{At, ImportedRules};
use space::{Slicing, Space};

/// A file to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// File name in reports and errors.
    pub name: String,
    /// Content, in one of the formats that `input` detects.
    pub text: String,
    /// Family, if it is known.
    pub family: Option<Family>,
}

/// Facts about the host that the rules come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Pod networks that flannel configured.
    pub pod_networks: Vec<IpNet>,
    /// Interface names.
    pub interfaces: Vec<String>,
    /// Addresses of the host, with prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// Choices of the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether built-in chains that no file declares accept. Without this, files that are only a
    /// part of a firewall are refused.
    pub assume_accept: bool,
}

/// Result of an import.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Import {
    /// The policy, as TOML.
    pub policy: String,
    /// Every line, with its fate.
    pub lines: Vec<Line>,
    /// Differences between rules and policy.
    pub differences: Vec<Difference>,
    /// Problems in the original rules.
    pub lints: Vec<Lint>,
    /// Names of the files.
    #[serde(skip)]
    pub files: Vec<String>,
}

impl Import {
    /// Reports whether every line was converted or needs no conversion.
    pub fn is_whole(&self) -> bool {
        self.lines.iter().all(|line| line.fate.is_whole())
    }

    /// Reports whether the policy accepts packets that the rules do not, besides those that every
    /// policy accepts.
    pub fn opens_more(&self) -> bool {
        let opens =
            |each: &Difference| each.change == Direction::New && !each.reason.is_of_every_policy();
        self.differences.iter().any(opens)
    }
}

/// Reason why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// Line number, from 1; 0 for the whole file.
    pub line: usize,
    /// Description of the error.
    pub why: String,
    /// Remedy.
    pub help: String,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, why) = (printable(&self.file), printable(&self.why));
        match self.line {
            0 => write!(f, "{file}: {why}; {}", self.help),
            line => write!(f, "{file}: line {line}: {why}; {}", self.help),
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

/// Imports files.
///
/// # Errors
/// All errors in the files.
pub fn import(files: &[File], facts: &Facts) -> Result<Import, Vec<ImportError>> {
    import_with(files, facts, Options::default())
}

/// Imports files with options.
///
/// # Errors
/// All errors in the files.
pub fn import_with(
    files: &[File],
    facts: &Facts,
    options: Options,
) -> Result<Import, Vec<ImportError>> {
    import_read(files, facts, options, &Readings::default())
}

/// Imports files with options, and with what iptables read in their lines.
///
/// # Errors
/// All errors in the files.
pub fn import_read(
    files: &[File],
    facts: &Facts,
    options: Options,
    readings: &Readings,
) -> Result<Import, Vec<ImportError>> {
    import_sliced(files, facts, options, readings, Slicing::default())
}

/// Imports files, with the sources divided into slices for the comparison.
fn import_sliced(
    files: &[File],
    facts: &Facts,
    options: Options,
    readings: &Readings,
    slicing: Slicing,
) -> Result<Import, Vec<ImportError>> {
    let mut parsed = parse(files, readings)?;
    undecided::distrust(&mut parsed.rules, facts);
    let missing = input::partial::missing(&parsed);
    if !options.assume_accept && !missing.is_empty() {
        return Err(missing);
    }
    // What every policy tells apart.
    let core = compile_bare(&read_back("version = 1\n")?, true);
    let space = |rules| Space::new(rules, facts, &[&core], slicing);
    let mut spaces: Vec<Space<'_>> = parsed.rules.iter().map(space).collect();
    let (draft, inexpressible) = draft::draft(&mut spaces, facts);
    let mut policy_text = draft.text(&head(&parsed));
    policy_text.shrink_to_fit();
    let entries = draft.entry_lines();
    drop(draft);
    spaces.iter_mut().for_each(Space::forget_lines);
    let policy = read_back(&policy_text)?;
    let has_dnated = spaces.iter_mut().any(Space::has_dnated);
    let ruleset = compile_bare(&policy, has_dnated);
    // Overlays bring interfaces, and tunnels bring ports, that the rules may not name.
    for (space, rules) in spaces.iter_mut().zip(&parsed.rules) {
        if !space.knows(&ruleset) {
            *space = Space::new(rules, facts, &[&ruleset], slicing);
        }
    }
    let mut proof = proof::compare(&mut spaces, &policy, ruleset);
    let mut lints = report::lints(&mut spaces, &policy, facts);
    drop(spaces);
    lints.extend(parsed.notes.iter().cloned().map(Lint::from));
    lints.extend(parsed.remarks.iter().cloned());
    let mut lines = report::lines(&parsed, &policy, &mut proof, &inexpressible);
    report::widened(&mut lines, &parsed, &proof.differences, &policy, &entries);
    let files = parsed.files.iter().map(|file| file.name.clone());
    Ok(Import {
        files: files.collect(),
        lines,
        lints,
        policy: policy_text,
        differences: proof.differences,
    })
}

/// Parses rules for evaluation, one [`ImportedRules`] for each family.
///
/// # Errors
/// All errors in the files.
pub fn rules(files: &[File]) -> Result<Vec<ImportedRules>, Vec<ImportError>> {
    rules_read(files, &Readings::default())
}

/// Parses rules for evaluation, with what iptables read in their lines.
///
/// # Errors
/// All errors in the files.
pub fn rules_read(
    files: &[File],
    readings: &Readings,
) -> Result<Vec<ImportedRules>, Vec<ImportError>> {
    parse(files, readings).map(|parsed| parsed.rules)
}

fn head(parsed: &ParsedFiles) -> String {
    let names: Vec<&str> = parsed.files.iter().map(|file| file.name.as_str()).collect();
    format!(
        "# Generated by `peerwall import` from {}.\n",
        printable(&names.join(", "))
    )
}

/// Loads the generated policy. It is always valid, unless the import has a bug.
fn read_back(text: &str) -> Result<Policy, Vec<ImportError>> {
    let loaded = load("policy.toml", text, &NoFiles);
    loaded.policy.ok_or_else(|| {
        let said = loaded.sources.render(&loaded.diagnostics, false);
        vec![ImportError::whole(
            "policy.toml",
            format!("the generated policy is invalid:\n{said}\n{text}"),
            "this is a bug in peerwall; report it with the files",
        )]
    })
}
