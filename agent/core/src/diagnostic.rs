//! Errors and warnings about a policy, with the place they are about.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// Maximum number of diagnostics in text output; the rest is counted.
pub const SHOWN_MAX: usize = 50;

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
    /// The policy is invalid until this is fixed.
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
    files: Vec<SourceFile>,
}

#[derive(Debug, Clone)]
struct SourceFile {
    name: String,
    text: String,
    index: Index,
    /// Whether it is text of the policy, and not a list, what flannel says, or what the kernel does.
    is_policy: bool,
}

/// Where lines begin, and how many characters there are, so that a place is found without reading the text again.
#[derive(Debug, Clone)]
struct Index {
    /// The byte at which each line begins.
    lines: Vec<usize>,
    /// Characters in front of each block of the text.
    blocks: Vec<usize>,
}

/// Bytes of a block.
const BLOCK: usize = 4096;

impl Index {
    fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let mut blocks = vec![0];
        for block in text.as_bytes().chunks(BLOCK) {
            let before = blocks.last().copied().unwrap_or(0);
            blocks.push(before + characters(block));
        }
        Self {
            lines: std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
            blocks,
        }
    }

    /// The number of the line, from 0, that a byte is in.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).max(1) - 1
    }

    /// Characters in front of a byte.
    fn characters(&self, text: &str, at: usize) -> usize {
        let block = at / BLOCK;
        let rest = &text.as_bytes()[block * BLOCK..at];
        self.blocks.get(block).copied().unwrap_or(0) + characters(rest)
    }
}

/// How many characters of UTF-8 begin in these bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte as i8) >= -0x40).count()
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
    /// Adds a file of the policy's own text.
    pub fn add_policy(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        let id = self.add(name, text);
        if let Some(file) = self.files.last_mut() {
            file.is_policy = true;
        }
        id
    }

    /// Name and text of the policy's own files: the main one and those that it includes, in order.
    pub fn policy_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.files.iter().filter(|file| file.is_policy);
        own.map(|file| (file.name.as_str(), file.text.as_str()))
    }

    /// Adds a file.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> FileId {
        let text = text.into();
        self.files.push(SourceFile {
            name: name.into(),
            index: Index::new(&text),
            text,
            is_policy: false,
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
        let index = &self.files[place.file.0].index;
        let line = index.line(start);
        let column = index.characters(text, start) - index.characters(text, index.lines[line]);
        (line + 1, column + 1)
    }

    /// `policy.toml:14`, for rule comments and reports.
    pub fn line_of(&self, place: &Place) -> String {
        let (line, _) = self.line_column(place);
        format!("{}:{line}", self.name(place.file))
    }

    /// The first of them as underlined excerpts, errors before warnings, ready to print; and how many more there
    /// are.
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

    /// The lines of a place, and of another in the same file; and the byte that they begin at. Only these are
    /// looked through for what is underlined.
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
        let line = source.index.line(first);
        let from = source.index.lines[line];
        let behind = source.index.lines.get(source.index.line(last) + 1);
        let to = behind.copied().unwrap_or(source.text.len());
        let excerpt = Snippet::source(&source.text[from..to]);
        (
            excerpt.line_start(line + 1).path(source.name.as_str()),
            from,
        )
    }

    /// The span as it is in an excerpt that begins at this byte.
    fn within(&self, place: &Place, from: usize) -> Range<usize> {
        let span = self.clip(place);
        span.start - from..span.end - from
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

/// A number with a comma between thousands.
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
            .map(|line| Diagnostic::warning(at(line), "odd"))
            .collect();
        all.extend((9_000..19_030).map(|line| Diagnostic::error(at(line), "wrong")));
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
