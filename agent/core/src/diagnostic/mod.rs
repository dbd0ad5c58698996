//! Errors and warnings about a policy, with their places.

mod code;
mod index;
mod json;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::code::Code;
use self::index::Index;
pub use self::json::{JsonDiagnostic, Position, Related};

/// Limit on the diagnostics in text output; the rest are only counted.
pub const SHOWN_MAX: usize = 50;

/// Index of a file in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(usize);

/// Range of bytes in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// File.
    pub file: FileId,
    /// Range of bytes.
    pub span: Range<usize>,
}

/// Severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The policy is invalid.
    Error,
    /// The policy is valid, but probably not as intended.
    Warning,
}

/// Error or warning about a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Kind of problem.
    pub code: Code,
    /// Severity.
    pub severity: Severity,
    /// Message, without a full stop.
    pub message: String,
    /// Place.
    pub place: Place,
    /// Label of the underlined text.
    pub label: String,
    /// Related place, with its label.
    pub also: Option<(Place, String)>,
    /// Suggested fix.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates an error.
    pub fn error(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            place,
            label: String::new(),
            also: None,
            help: None,
        }
    }

    /// Creates a warning.
    pub fn warning(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, place, message)
        }
    }

    /// Sets the suggested fix.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the label of the underlined text.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Sets the related place.
    #[must_use]
    pub fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also = Some((place, label.into()));
        self
    }
}

/// Files that a policy was read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

#[derive(Debug, Clone)]
struct SourceFile {
    name: String,
    text: Arc<str>,
    /// Made when the first place is shown.
    index: OnceLock<Index>,
    /// Whether the file is part of the policy's text, rather than an address list or discovered
    /// facts.
    is_policy: bool,
}

impl SourceFile {
    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(&self.text))
    }
}

impl Sources {
    /// Adds a file of the policy's own text.
    pub fn add_policy(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        let id = self.add(name, text);
        if let Some(file) = self.files.last_mut() {
            file.is_policy = true;
        }
        id
    }

    /// Returns name and text of the policy's own files: the main file, then its includes in order.
    pub fn policy_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.files.iter().filter(|file| file.is_policy);
        own.map(|file| (file.name.as_str(), &*file.text))
    }

    /// Adds a file that is not part of the policy's own text.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        self.files.push(SourceFile {
            name: name.into(),
            text: text.into(),
            index: OnceLock::new(),
            is_policy: false,
        });
        FileId(self.files.len() - 1)
    }

    /// Returns name and text of every file.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|file| (file.name.as_str(), &*file.text))
    }

    /// Returns the name of a file, as it was added.
    pub fn name(&self, file: FileId) -> &str {
        &self.files[file.0].name
    }

    /// Returns the text of a file.
    pub fn text(&self, file: FileId) -> &str {
        &self.files[file.0].text
    }

    /// Returns the text of a file, for a reader that also adds files.
    pub(crate) fn shared_text(&self, file: FileId) -> Arc<str> {
        Arc::clone(&self.files[file.0].text)
    }

    /// Returns the first character of the first file, for diagnostics of the whole policy; `None`
    /// without files.
    pub fn start(&self) -> Option<Place> {
        let first = self.files.first()?;
        Some(Place {
            file: FileId(0),
            span: 0..first.text.len().min(1),
        })
    }

    /// Returns line and column of a place, both from 1, columns in characters.
    pub fn line_column(&self, place: &Place) -> (usize, usize) {
        let start = self.position(place.file, self.clip(place).start);
        (start.line, start.column)
    }

    /// The position of a byte, which has to be the first of a character.
    fn position(&self, file: FileId, offset: usize) -> Position {
        let text = self.text(file);
        let index = self.files[file.0].index();
        let line = index.line(offset);
        let column = index.characters(text, offset) - index.characters(text, index.lines[line]);
        Position {
            line: line + 1,
            column: column + 1,
            offset,
        }
    }

    /// Formats a place as `policy.toml:14`, for rule comments and reports.
    pub fn line_of(&self, place: &Place) -> String {
        let (line, _) = self.line_column(place);
        format!("{}:{line}", self.name(place.file))
    }

    /// Renders the first [`SHOWN_MAX`] diagnostics as underlined excerpts, and the number of the
    /// rest. Warnings are omitted before errors.
    pub fn render(&self, diagnostics: &[Diagnostic], color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut out = String::new();
        let of = |severity| diagnostics.iter().filter(move |d| d.severity == severity);
        let errors = of(Severity::Error).count();
        let (mut errors_left, mut warnings_left) =
            (SHOWN_MAX.min(errors), SHOWN_MAX.saturating_sub(errors));
        let shown = diagnostics.iter().filter(|diagnostic| {
            let left = match diagnostic.severity {
                Severity::Error => &mut errors_left,
                Severity::Warning => &mut warnings_left,
            };
            let is_shown = *left > 0;
            *left -= usize::from(is_shown);
            is_shown
        });
        for diagnostic in shown {
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push_str("\n\n");
        }
        let warnings = diagnostics.len() - errors;
        for (all, most, what) in [
            (errors, SHOWN_MAX, "error"),
            (warnings, SHOWN_MAX.saturating_sub(errors), "warning"),
        ] {
            let more = all.saturating_sub(most);
            let s = if more == 1 { "" } else { "s" };
            if more > 0 {
                out.push_str(&format!("and {} more {what}{s}\n\n", thousands(more)));
            }
        }
        out
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let place = &diagnostic.place;
        let label = (!diagnostic.label.is_empty()).then_some(diagnostic.label.as_str());
        let (near, far) = match &diagnostic.also {
            Some((other, _)) if other.file == place.file => (Some(other), None),
            Some((other, _)) => (None, Some(other)),
            None => (None, None),
        };
        let (excerpt, from) = self.excerpt(place, near);
        let main = AnnotationKind::Primary.span(self.within(place, from));
        let main = excerpt.annotation(main.label(label));
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = match &diagnostic.also {
            None => title.element(main),
            Some((other, label)) => {
                let context = |from| {
                    AnnotationKind::Context
                        .span(self.within(other, from))
                        .label(label.as_str())
                };
                match far {
                    None => title.element(main.annotation(context(from))),
                    Some(_) => {
                        let (excerpt, from) = self.excerpt(other, None);
                        title
                            .element(main)
                            .element(excerpt.annotation(context(from)))
                    }
                }
            }
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }

    /// Returns the lines of a place, and of another in the same file, and the byte at which they
    /// start. The renderer scans only these lines.
    fn excerpt<'a>(
        &'a self,
        place: &Place,
        other: Option<&Place>,
    ) -> (Snippet<'a, annotate_snippets::Annotation<'a>>, usize) {
        let source = &self.files[place.file.0];
        let spans = [Some(place), other].into_iter().flatten();
        let spans: Vec<Range<usize>> = spans.map(|place| self.clip(place)).collect();
        let first = spans.iter().map(|span| span.start).min().unwrap_or(0);
        let last = spans.iter().map(|span| span.end).max().unwrap_or(0);
        let line = source.index().line(first);
        let from = source.index().lines[line];
        let behind = source.index().lines.get(source.index().line(last) + 1);
        let to = behind.copied().unwrap_or(source.text.len());
        let excerpt = Snippet::source(&source.text[from..to]);
        (
            excerpt.line_start(line + 1).path(source.name.as_str()),
            from,
        )
    }

    /// Returns the span relative to an excerpt that starts at byte `from`.
    fn within(&self, place: &Place, from: usize) -> Range<usize> {
        let span = self.clip(place);
        span.start - from..span.end - from
    }

    /// Returns the span, clipped to the text and to character boundaries.
    fn clip(&self, place: &Place) -> Range<usize> {
        let text = self.text(place.file);
        let mut start = place.span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = place.span.end.clamp(start, text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }

    /// Converts a diagnostic to its JSON form.
    pub fn json(&self, diagnostic: &Diagnostic) -> JsonDiagnostic {
        let (file, start, end) = self.positions(&diagnostic.place);
        let related = diagnostic.also.iter().map(|(place, label)| {
            let (file, start, end) = self.positions(place);
            Related {
                message: label.clone(),
                file,
                start,
                end,
            }
        });
        JsonDiagnostic {
            code: diagnostic.code,
            severity: diagnostic.severity,
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            file,
            start,
            end,
            related: related.collect(),
        }
    }

    /// Returns the file of a place, where it starts and where it ends.
    pub fn positions(&self, place: &Place) -> (String, Position, Position) {
        let span = self.clip(place);
        let at = |offset| self.position(place.file, offset);
        (
            self.name(place.file).to_owned(),
            at(span.start),
            at(span.end),
        )
    }
}

/// Formats a number with thousands separators.
fn thousands(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", thousands(number / 1000), number % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_shown_and_the_rest_is_counted() {
        let mut sources = Sources::default();
        let text = "ä = 1\n".repeat(20_000);
        let file = sources.add("p", text.as_str());
        let at = |line: usize| Place {
            file,
            span: line * 7 + 5..line * 7 + 6,
        };
        let mut all: Vec<_> = (0..9_000)
            .map(|line| Diagnostic::warning(Code::ListedTwice, at(line), "odd"))
            .collect();
        all.extend(
            (9_000..19_030).map(|line| Diagnostic::error(Code::ListedTwice, at(line), "wrong")),
        );
        let text = sources.render(&all, false);
        assert_eq!(text.matches("wrong").count(), SHOWN_MAX);
        assert!(text.contains("p:9001:5") && !text.contains("odd"), "{text}");
        assert!(
            text.contains("and 9,980 more errors\n\nand 9,000 more warnings\n"),
            "{text}"
        );
        assert_eq!(sources.line_column(&at(19_999)), (20_000, 5));
    }

    #[test]
    fn a_diagnostic_shows_the_place_underlined() {
        let mut sources = Sources::default();
        let file = sources.add("policy.toml", "version = 1\n[peers]\na = \"10.0.0.1/24\"\n");
        let place = Place { file, span: 24..37 };
        let diagnostic = Diagnostic::error(
            Code::InvalidAddress,
            place,
            "`10.0.0.1/24` has host bits set",
        )
        .help("write 10.0.0.0/24");
        let text = sources.render(std::slice::from_ref(&diagnostic), false);
        assert!(
            text.contains("policy.toml:3:5") && text.contains("^^^^^^^^^^^^^"),
            "{text}"
        );
        assert!(text.contains("help: write 10.0.0.0/24"), "{text}");
        let json = sources.json(&diagnostic);
        assert_eq!(
            (json.start, json.end),
            (
                Position {
                    line: 3,
                    column: 5,
                    offset: 24
                },
                Position {
                    line: 3,
                    column: 18,
                    offset: 37
                }
            )
        );
        assert_eq!(json.code.name(), "invalid-address");
    }

    #[test]
    fn a_span_outside_of_the_text_is_clipped() {
        let mut sources = Sources::default();
        let file = sources.add("p", "ä");
        for span in [1..1, 0..99, 50..60] {
            let _ = sources.render(
                &[Diagnostic::error(Code::Syntax, Place { file, span }, "x")],
                false,
            );
        }
    }
}
