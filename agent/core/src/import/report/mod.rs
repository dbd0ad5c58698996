//! The account of every line, and problems that the rules already had.

mod accepting;
mod denying;
mod lines;
mod lints;
mod other_tables;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::Import;
use super::rule::{At, ImportedRule};
pub(super) use lines::lines;
pub(super) use lints::lints;

/// Fate of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is in the policy.
    #[serde(rename = "converted")]
    Taken,
    /// The safe core covers it, or every policy does.
    #[serde(rename = "covered")]
    Core,
    /// Another program manages it, and continues to.
    #[serde(rename = "managed_elsewhere")]
    Beside,
    /// It has no effect.
    #[serde(rename = "no_effect")]
    Nothing,
    /// Only a part of it is in the policy.
    #[serde(rename = "partly_converted")]
    Partly,
    /// A policy cannot express it.
    #[serde(rename = "not_converted")]
    Left,
}

impl Fate {
    /// Whether no part of the line is lost.
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Partly | Self::Left)
    }

    /// The fate as one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken => "converted",
            Self::Core => "covered",
            Self::Beside => "managed elsewhere",
            Self::Nothing => "-",
            Self::Partly => "partly converted",
            Self::Left => "not converted",
        }
    }
}

/// A line and its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Line {
    /// The file.
    pub file: String,
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// Its fate.
    pub fate: Fate,
    /// The entry that covers it, or why none does and what to do.
    #[serde(rename = "message")]
    pub words: String,
}

/// A problem of the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Lint {
    /// Stable name.
    #[serde(rename = "code")]
    pub name: &'static str,
    /// What is wrong with the rules.
    #[serde(rename = "message")]
    pub sentence: String,
    /// What the policy does about it, or what remains to be done.
    #[serde(rename = "help")]
    pub answer: String,
}

impl fmt::Display for Import {
    /// Writes the account for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut file = "";
        for line in &self.lines {
            if line.file != file {
                file = &line.file;
                writeln!(f, "{file}:")?;
            }
            writeln!(f, "{:>5}  {}", line.line, line.text)?;
            writeln!(f, "       {:<17} {}", line.fate.word(), line.words)?;
        }
        if !self.lints.is_empty() {
            writeln!(f, "\nproblems in these rules:")?;
        }
        for lint in &self.lints {
            writeln!(f, "  {}\n    {}", lint.sentence, lint.answer)?;
        }
        let packets = self.compared;
        let thinned = if self.thinned { ", a sample," } else { "" };
        if self.differences.is_empty() {
            return writeln!(
                f,
                "\nno difference between rules and policy in {packets} packets{thinned}"
            );
        }
        writeln!(
            f,
            "\ndifferences between rules and policy ({packets} packets{thinned} compared):"
        )?;
        for difference in &self.differences {
            writeln!(
                f,
                "  {}{}",
                difference.sentence,
                at_lines(&difference.lines)
            )?;
        }
        Ok(())
    }
}

/// Formats lines like ` (line 12)`.
fn at_lines(lines: &[At]) -> String {
    let mut lines: Vec<usize> = lines
        .iter()
        .map(|at| at.line)
        .filter(|line| *line > 0)
        .collect();
    lines.sort_unstable();
    lines.dedup();
    match lines[..] {
        [] => String::new(),
        [one] => format!(" (line {one})"),
        [one, two] => format!(" (lines {one} and {two})"),
        [one, ..] => format!(" (line {one} and {} more)", lines.len() - 1),
    }
}

/// Position of a line: table, chain and rule.
struct FoundLine<'r> {
    table: String,
    chain: &'r str,
    rule: Option<&'r ImportedRule>,
}
