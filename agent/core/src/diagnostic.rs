//! Errors and warnings about a policy, with the place they are about.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// Index of a file in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(usize);

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which file.
    pub file: FileId,
    /// Which bytes of it.
    pub span: Range<usize>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy means nothing until this is mended.
    Error,
    /// It means something, but perhaps not what was meant.
    Warning,
}

/// Something to say about a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to write at the underlined text.
    pub label: String,
    /// Another place that matters, and what it is.
    pub also: Option<(Place, String)>,
    /// What would do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place,
            label: String::new(),
            also: None,
            help: None,
        }
    }

    /// A warning at a place.
    pub fn warning(place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }

    /// With what would do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With a word at the underlined text.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With another place.
    #[must_use]
    pub fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also = Some((place, label.into()));
        self
    }
}

/// The files a policy was read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<Source>,
}

#[derive(Debug, Clone)]
struct Source {
    name: String,
    text: String,
}

/// A diagnostic for machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonDiagnostic {
    /// `error` or `warning`.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would do.
    pub help: Option<String>,
}

impl Sources {
    /// Adds a file.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        self.files.push(Source {
            name: name.into(),
            text: text.into(),
        });
        FileId(self.files.len() - 1)
    }

    /// Name and text of every file.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|file| (file.name.as_str(), file.text.as_str()))
    }

    /// The file's name as it was given.
    pub fn name(&self, file: FileId) -> &str {
        &self.files[file.0].name
    }

    /// Its text.
    pub fn text(&self, file: FileId) -> &str {
        &self.files[file.0].text
    }

    /// The first character of the first file, for what is about no line of it; `None` without files.
    pub fn start(&self) -> Option<Place> {
        let first = self.files.first()?;
        Some(Place {
            file: FileId(0),
            span: 0..first.text.len().min(1),
        })
    }

    /// Line and column of a place, both from 1, columns in characters.
    pub fn line_column(&self, place: &Place) -> (usize, usize) {
        let text = self.text(place.file);
        let mut start = place.span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// `policy.toml:14`, for rule comments and reports.
    pub fn line_of(&self, place: &Place) -> String {
        let (line, _) = self.line_column(place);
        format!("{}:{line}", self.name(place.file))
    }

    /// All of them as underlined excerpts, ready to print.
    pub fn render(&self, diagnostics: &[Diagnostic], color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut out = String::new();
        for diagnostic in diagnostics {
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push_str("\n\n");
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
        let main = self
            .snippet(place)
            .annotation(AnnotationKind::Primary.span(self.clip(place)).label(label));
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = match &diagnostic.also {
            None => title.element(main),
            Some((other, label)) => {
                let context = AnnotationKind::Context
                    .span(self.clip(other))
                    .label(label.as_str());
                match other.file == place.file {
                    true => title.element(main.annotation(context)),
                    false => title
                        .element(main)
                        .element(self.snippet(other).annotation(context)),
                }
            }
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }

    fn snippet<'a>(&'a self, place: &Place) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        Snippet::source(self.text(place.file)).path(self.name(place.file))
    }

    /// The span, made to fit the text and character boundaries whatever it says.
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

    /// The same for machines.
    pub fn json(&self, diagnostic: &Diagnostic) -> JsonDiagnostic {
        let (line, column) = self.line_column(&diagnostic.place);
        JsonDiagnostic {
            severity: diagnostic.severity,
            file: self.name(diagnostic.place.file).to_owned(),
            line,
            column,
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_the_place_underlined() {
        let mut sources = Sources::default();
        let file = sources.add("policy.toml", "version = 1\n[peers]\na = \"10.0.0.1/24\"\n");
        let place = Place { file, span: 24..37 };
        let diagnostic =
            Diagnostic::error(place, "`10.0.0.1/24` has host bits set").help("write 10.0.0.0/24");
        let text = sources.render(std::slice::from_ref(&diagnostic), false);
        assert!(
            text.contains("policy.toml:3:5") && text.contains("^^^^^^^^^^^^^"),
            "{text}"
        );
        assert!(text.contains("help: write 10.0.0.0/24"), "{text}");
        assert_eq!(
            (
                sources.json(&diagnostic).line,
                sources.json(&diagnostic).column
            ),
            (3, 5)
        );
    }

    #[test]
    fn a_span_outside_of_the_text_is_clipped() {
        let mut sources = Sources::default();
        let file = sources.add("p", "ä");
        for span in [1..1, 0..99, 50..60] {
            let _ = sources.render(&[Diagnostic::error(Place { file, span }, "x")], false);
        }
    }
}
