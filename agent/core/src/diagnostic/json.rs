//! Diagnostics for programs.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Code, Severity};

/// A position in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes from the start of the file.
    pub offset: usize,
}

/// A problem of a policy: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Diagnostic")]
pub struct JsonDiagnostic {
    /// Kind of the problem.
    pub code: Code,
    /// Severity.
    pub severity: Severity,
    /// What is wrong, as a sentence.
    pub message: String,
    /// How to fix it, as a sentence.
    pub help: Option<String>,
    /// The file.
    pub file: String,
    /// Start of the text that it is about.
    pub start: Position,
    /// End of that text: the position after its last character.
    pub end: Position,
    /// Other places that matter.
    pub related: Vec<Related>,
}

impl fmt::Display for JsonDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.start.line, self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Another place that matters to a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Related {
    /// What is there, in a few words.
    pub message: String,
    /// The file.
    pub file: String,
    /// Start of the text.
    pub start: Position,
    /// End of the text.
    pub end: Position,
}
