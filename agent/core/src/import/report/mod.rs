//! What became of every line, and what was wrong with the rules from the start.

mod accepting;
mod denying;
mod lines;
mod lints;
mod other_tables;

use std::fmt;

use serde::Serialize;

use super::Import;
use super::rule::At;
pub(super) use lines::lines;
pub(super) use lints::lints;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is in the policy.
    Taken,
    /// The safe core, or the way a policy works, has it.
    Core,
    /// Some program keeps it by itself and goes on doing so.
    Beside,
    /// It decides nothing.
    Nothing,
    /// Only a part of it is in the policy.
    Partly,
    /// The policy cannot say it.
    Left,
}

impl Fate {
    /// Whether nothing of the line is lost.
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Partly | Self::Left)
    }

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Core => "core",
            Self::Beside => "beside",
            Self::Nothing => "-",
            Self::Partly => "partly",
            Self::Left => "LEFT",
        }
    }
}

/// A line and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The file.
    pub file: String,
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What became of it.
    pub fate: Fate,
    /// Into which entry, or why not and what to do.
    pub words: String,
}

/// A classic hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// A name that stays the same.
    pub name: &'static str,
    /// What is wrong with the rules.
    pub sentence: String,
    /// What the policy does about it, or what is left to do.
    pub answer: String,
}

impl fmt::Display for Import {
    /// The account for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut file = "";
        for line in &self.lines {
            if line.file != file {
                file = &line.file;
                writeln!(f, "{file}:")?;
            }
            writeln!(f, "{:>5}  {}", line.line, line.text)?;
            writeln!(f, "       {:<6} {}", line.fate.word(), line.words)?;
        }
        if !self.lints.is_empty() {
            writeln!(f, "\nholes in these rules:")?;
        }
        for lint in &self.lints {
            writeln!(f, "  {}\n    {}", lint.sentence, lint.answer)?;
        }
        let packets = self.compared;
        let thinned = if self.thinned {
            ", of more than could all be tried,"
        } else {
            ""
        };
        if self.differences.is_empty() {
            return writeln!(
                f,
                "\nno difference between rules and policy in {packets} packets{thinned}"
            );
        }
        writeln!(
            f,
            "\nwhere the policy differs from these rules ({packets} packets{thinned} compared):"
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

/// ` (line 12)`, for what is not said by too many.
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
