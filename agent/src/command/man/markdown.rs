//! Converts Markdown to roff for man pages: headings, paragraphs, lists, code, and tables as lists
//! of terms.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

/// The preceding text on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// A heading: the first paragraph needs no macro.
    Heading,
    /// Text: the first paragraph needs a macro.
    Text,
}

/// Converts a text.
pub(super) fn roff(text: &str, start: Start) -> Roff {
    let mut page = Page {
        roff: Roff::new(),
        line: Vec::new(),
        font: Vec::new(),
        is_after_heading: start == Start::Heading,
        lists: Vec::new(),
        is_item: false,
        table: Table::default(),
    };
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        page.event(event);
    }
    page.roff
}

/// A page in progress.
struct Page {
    roff: Roff,
    /// The current paragraph, heading or cell.
    line: Vec<Inline>,
    font: Vec<Font>,
    /// Whether the next paragraph needs no macro.
    is_after_heading: bool,
    /// Number of the next item of each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    /// Whether the next paragraph is the first of an item.
    is_item: bool,
    table: Table,
}

#[derive(Clone, Copy)]
enum Font {
    Bold,
    Italic,
}

/// The current table.
#[derive(Default)]
struct Table {
    header: Vec<Vec<Inline>>,
    row: Vec<Vec<Inline>>,
}

impl Page {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(code) => self.line.push(bold(code.into_string())),
            Event::SoftBreak => self.line.push(roman(" ")),
            Event::HardBreak => self.line.push(Inline::LineBreak),
            Event::Html(_)
            | Event::InlineHtml(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::Rule
            | Event::TaskListMarker(_) => {}
        }
    }

    fn text(&mut self, text: &str) {
        self.line.push(match self.font.last() {
            None => roman(text),
            Some(Font::Bold) => bold(text),
            Some(Font::Italic) => italic(text),
        });
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of Markdown is its content here"
    )]
    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Strong => self.font.push(Font::Bold),
            Tag::Emphasis => self.font.push(Font::Italic),
            Tag::List(first) => {
                // A tight item has text without a paragraph before a list.
                self.paragraph();
                self.lists.push(*first);
            }
            Tag::Item => self.item(),
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => {
                if !self.is_after_heading {
                    self.roff.control("PP", []);
                }
                self.roff.control("RS", ["4"]);
                self.roff.control("nf", []);
            }
            _ => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of Markdown is its content here"
    )]
    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong | TagEnd::Emphasis => {
                self.font.pop();
            }
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph | TagEnd::Item => self.paragraph(),
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::CodeBlock => self.code(),
            TagEnd::TableCell => self.table.row.push(std::mem::take(&mut self.line)),
            TagEnd::TableHead => self.table.header = std::mem::take(&mut self.table.row),
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = plain(&std::mem::take(&mut self.line));
        match level {
            HeadingLevel::H1 | HeadingLevel::H2 => {
                self.roff.control("SH", [text.to_uppercase().as_str()]);
            }
            HeadingLevel::H3 | HeadingLevel::H4 | HeadingLevel::H5 | HeadingLevel::H6 => {
                self.roff.control("SS", [text.as_str()]);
            }
        }
        self.is_after_heading = true;
    }

    fn item(&mut self) {
        match self.lists.last_mut() {
            Some(Some(number)) => {
                self.roff
                    .control("IP", [format!("{number}.").as_str(), "4"]);
                *number += 1;
            }
            _ => {
                self.roff.control("IP", ["\\(bu", "2"]);
            }
        }
        self.is_item = true;
    }

    fn paragraph(&mut self) {
        if self.line.is_empty() {
            return;
        }
        match (self.is_item, self.lists.is_empty()) {
            (true, _) => {}
            (false, false) => {
                self.roff.control("IP", []);
            }
            (false, true) if self.is_after_heading => {}
            (false, true) => {
                self.roff.control("PP", []);
            }
        }
        self.is_item = false;
        self.is_after_heading = false;
        self.roff.text(std::mem::take(&mut self.line));
    }

    fn code(&mut self) {
        let code = plain(&std::mem::take(&mut self.line));
        for line in code.trim_end().lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("fi", []);
        self.roff.control("RE", []);
        self.is_after_heading = false;
    }

    /// Writes a row of a table: the first cell is the term, the second its meaning; further cells
    /// are labelled with the title of their column.
    fn row(&mut self) {
        let mut cells = std::mem::take(&mut self.table.row).into_iter();
        self.roff.control("TP", []);
        let term = plain(&cells.next().unwrap_or_default());
        self.roff.text([bold(term)]);
        let mut line = Vec::new();
        for (index, cell) in cells.enumerate().filter(|(_, cell)| !cell.is_empty()) {
            if index == 0 {
                line.extend(cell);
                continue;
            }
            let label = self.table.header.get(index + 1).map(|label| plain(label));
            line.push(match label {
                Some(label) if !plain(&cell).starts_with("required") => {
                    roman(format!(" [{label}: "))
                }
                _ => roman(" ["),
            });
            line.extend(cell);
            line.push(roman("]"));
        }
        self.roff.text(line);
        self.is_after_heading = false;
    }
}

/// Returns the text without fonts.
fn plain(line: &[Inline]) -> String {
    line.iter()
        .map(|each| match each {
            Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
            Inline::LineBreak => " ",
        })
        .collect()
}
