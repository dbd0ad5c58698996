//! The report: the fate of every line, and problems in the original rules.

mod accepting;
mod blocks;
mod denying;
mod finding;
mod lines;
mod lints;
mod other_tables;
mod places;
mod widened;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::Import;
use super::rule::At;
use crate::words::{count, printable};
pub(super) use lines::lines;
pub(super) use lints::lints;
pub(super) use widened::widened;

/// Fate of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The policy contains the line.
    #[serde(rename = "converted")]
    Taken,
    /// The safe core, or every policy, covers the line.
    #[serde(rename = "covered")]
    Core,
    /// Another program manages the line and continues to.
    #[serde(rename = "managed_elsewhere")]
    Beside,
    /// The line has no effect.
    #[serde(rename = "no_effect")]
    Nothing,
    /// The policy contains a part of the line.
    #[serde(rename = "partly_converted")]
    Partly,
    /// A policy cannot express the line.
    #[serde(rename = "not_converted")]
    Left,
}

impl Fate {
    /// Reports whether no part of the line is lost.
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Partly | Self::Left)
    }

    /// Returns the fate as printed in the report.
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

/// A line and its fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Line {
    /// File name.
    pub file: String,
    /// Line number, from 1.
    pub line: usize,
    /// Text of the line.
    pub text: String,
    /// Fate of the line.
    pub fate: Fate,
    /// Entry that covers the line, or the reason why none does and the remedy.
    #[serde(rename = "message")]
    pub words: String,
}

/// A problem in the original rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Lint {
    /// Stable name.
    #[serde(rename = "code")]
    pub name: &'static str,
    /// Description of the problem.
    #[serde(rename = "message")]
    pub sentence: String,
    /// Effect of the policy on the problem, or the remedy.
    #[serde(rename = "help")]
    pub answer: String,
}

/// The fates in the order of the report, with their explanations.
const FATES: [(Fate, &str); 6] = [
    (Fate::Taken, "the policy contains the line"),
    (Fate::Core, "every policy does what the line does"),
    (
        Fate::Partly,
        "the policy contains a part of the line, or more than it",
    ),
    (Fate::Left, "a policy cannot say this; see the reason"),
    (
        Fate::Beside,
        "another program manages the line, and goes on to",
    ),
    (Fate::Nothing, "the line decides about no packet"),
];

impl Import {
    /// Explains the words of the report that occur.
    fn legend(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fate, meaning) in FATES {
            if self.lines.iter().any(|line| line.fate == fate) {
                writeln!(f, "  {:<17} {meaning}", fate.word())?;
            }
        }
        writeln!(f)
    }

    /// Counts the lines of each fate.
    fn tally(&self) -> String {
        let counts = FATES.iter().map(|(fate, _)| {
            let count = self.lines.iter().filter(|line| line.fate == *fate).count();
            (count, fate)
        });
        let word = |fate: &Fate| match fate {
            Fate::Nothing => "without effect",
            Fate::Taken | Fate::Core | Fate::Beside | Fate::Partly | Fate::Left => fate.word(),
        };
        let counts = counts.filter(|(count, _)| *count > 0);
        let parts: Vec<String> = counts
            .map(|(count, fate)| format!("{count} {}", word(fate)))
            .collect();
        format!("{}: {}", count(self.lines.len(), "line"), parts.join(", "))
    }
}

impl fmt::Display for Import {
    /// Writes the text report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.legend(f)?;
        let mut file = "";
        for line in &self.lines {
            if line.file != file {
                file = &line.file;
                writeln!(f, "{}:", printable(file))?;
            }
            writeln!(f, "{:>5}  {}", line.line, printable(&line.text))?;
            let words = printable(&line.words);
            writeln!(f, "       {:<17} {words}", line.fate.word())?;
        }
        writeln!(f, "\n{}", self.tally())?;
        if !self.lints.is_empty() {
            writeln!(f, "\nproblems in these rules:")?;
        }
        for lint in &self.lints {
            let sentence = printable(&lint.sentence);
            writeln!(f, "  {sentence}\n    {}", lint.answer)?;
        }
        if self.differences.is_empty() {
            return writeln!(
                f,
                "\nno differences between rules and policy, for any packet"
            );
        }
        writeln!(f, "\ndifferences between rules and policy:")?;
        for difference in &self.differences {
            writeln!(
                f,
                "  {}{}",
                difference.sentence,
                at_lines(&difference.lines, &self.files)
            )?;
        }
        Ok(())
    }
}

/// Returns a file's name without its folders, if no other file has that name.
fn short<'n>(file: &'n str, files: &[String]) -> &'n str {
    fn last(file: &str) -> &str {
        file.rsplit('/').next().unwrap_or(file)
    }
    let same = files.iter().filter(|other| last(other) == last(file));
    match same.count() {
        1 => last(file),
        _ => file,
    }
}

/// Formats lines like ` (line 12)`, or of several files like ` (line 12 of rules.v4)`.
fn at_lines(lines: &[At], files: &[String]) -> String {
    let mut by_file: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for at in lines.iter().filter(|at| at.line > 0) {
        by_file.entry(at.input).or_default().insert(at.line);
    }
    let parts = by_file.into_iter().map(|(input, lines)| {
        let lines: Vec<usize> = lines.into_iter().collect();
        let lines = match lines[..] {
            [] => String::new(),
            [one] => format!("line {one}"),
            [one, two] => format!("lines {one} and {two}"),
            [one, ..] => format!("line {one} and {} more", lines.len() - 1),
        };
        match files.get(input).filter(|_| files.len() > 1) {
            Some(file) => format!("{lines} of {}", printable(short(file, files))),
            None => lines,
        }
    });
    let parts: Vec<String> = parts.collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(" ({})", parts.join(", ")),
    }
}
