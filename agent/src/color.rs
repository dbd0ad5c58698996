//! Decides whether and how output is coloured.
//!
//! In this order: `--color always` or `never`; `NO_COLOR`, unless empty (no-color.org);
//! `CLICOLOR_FORCE` and `CLICOLOR` (bixense.com/clicolors); `TERM=dumb`; whether the stream is a
//! terminal.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicU8, Ordering};

use peerwall_core::ruleset::change::ChangeKind;

use crate::cli::ColorWhen;

/// An output stream; each is coloured or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Added, or in the desired state.
    Good,
    /// Removed, or wrong.
    Bad,
    /// Changed, or in need of attention.
    Attention,
}

impl Meaning {
    /// Returns the escape sequence (ECMA-48, SGR).
    fn start(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Attention => "\x1b[33m",
        }
    }
}

impl From<ChangeKind> for Meaning {
    fn from(kind: ChangeKind) -> Self {
        match kind {
            ChangeKind::Added => Self::Good,
            ChangeKind::Removed => Self::Bad,
            ChangeKind::Changed => Self::Attention,
        }
    }
}

/// The choice of the command line.
static ASKED: AtomicU8 = AtomicU8::new(0);

/// Records the choice of the command line.
pub fn ask(when: ColorWhen) {
    let number = match when {
        ColorWhen::Auto => 0,
        ColorWhen::Always => 1,
        ColorWhen::Never => 2,
    };
    ASKED.store(number, Ordering::Relaxed);
}

/// Whether a stream is coloured.
pub fn is_on(stream: Stream) -> bool {
    let asked = match ASKED.load(Ordering::Relaxed) {
        1 => ColorWhen::Always,
        2 => ColorWhen::Never,
        _ => ColorWhen::Auto,
    };
    let is_terminal = match stream {
        Stream::Stdout => io::stdout().is_terminal(),
        Stream::Stderr => io::stderr().is_terminal(),
    };
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into());
    decide(asked, variable, is_terminal)
}

fn decide(asked: ColorWhen, variable: impl Fn(&str) -> Option<String>, is_terminal: bool) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let is = |name: &str, wanted: &str| variable(name).as_deref() == Some(wanted);
    match asked {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto if is_set("NO_COLOR") => false,
        ColorWhen::Auto if is_set("CLICOLOR_FORCE") && !is("CLICOLOR_FORCE", "0") => true,
        ColorWhen::Auto => !is("CLICOLOR", "0") && !is("TERM", "dumb") && is_terminal,
    }
}

/// Colours a text, if standard output is coloured.
pub fn paint(meaning: Meaning, text: &str) -> String {
    match is_on(Stream::Stdout) {
        true => format!("{}{text}\x1b[0m", meaning.start()),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_decides_then_the_environment_then_the_terminal() {
        use ColorWhen::{Always, Auto, Never};
        for (asked, environment, is_terminal, want) in [
            (Auto, &[][..], true, true),
            (Auto, &[], false, false),
            (Auto, &[("NO_COLOR", "1")], true, false),
            (Auto, &[("NO_COLOR", "")], true, true),
            (Auto, &[("NO_COLOR", "0")], true, false),
            (
                Auto,
                &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")],
                true,
                false,
            ),
            (Auto, &[("CLICOLOR_FORCE", "1")], false, true),
            (Auto, &[("CLICOLOR_FORCE", "0")], false, false),
            (Auto, &[("CLICOLOR_FORCE", "")], false, false),
            (
                Auto,
                &[("CLICOLOR_FORCE", "1"), ("CLICOLOR", "0")],
                false,
                true,
            ),
            (
                Auto,
                &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")],
                false,
                true,
            ),
            (Auto, &[("CLICOLOR", "0")], true, false),
            (Auto, &[("CLICOLOR", "1")], true, true),
            (Auto, &[("CLICOLOR", "1")], false, false),
            (Auto, &[("TERM", "dumb")], true, false),
            (Auto, &[("TERM", "xterm")], true, true),
            (Always, &[("NO_COLOR", "1"), ("TERM", "dumb")], false, true),
            (Never, &[("CLICOLOR_FORCE", "1")], true, false),
        ] {
            let variable = |name: &str| {
                let mut found = environment.iter().filter(|(known, _)| *known == name);
                found.next().map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(
                decide(asked, variable, is_terminal),
                want,
                "{asked:?} {environment:?} terminal {is_terminal}"
            );
        }
    }
}
