//! Parser for iptables-save output and rules files.

use super::edit::OpenTable;
use super::{Save, TABLES, TextError};

/// Description of a parse error and the correct form.
pub(super) type Wrong = (String, &'static str);

/// A file, as far as it can be parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Everything that was parsed.
    pub save: Save,
    /// Lines that cannot be parsed.
    pub lines: Vec<TextError>,
    /// Reasons why this is not a complete rules file.
    pub whole: Vec<TextError>,
}

/// Parses a complete file.
///
/// # Errors
/// Every line that cannot be parsed.
pub fn parse(text: &str) -> Result<Save, Vec<TextError>> {
    let reading = read(text);
    let mut errors = reading.lines;
    errors.extend(reading.whole);
    match errors.is_empty() {
        true => Ok(reading.save),
        false => Err(errors),
    }
}

/// Maximum length of a line (the buffer in `iptables/iptables-restore.c`).
const LINE_MAX: usize = 10_239;

/// Parses a file, and continues after lines that cannot be parsed.
pub fn read(text: &str) -> Reading {
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        reader.number = index + 1;
        let read = match line.len() > LINE_MAX {
            true => Err((
                format!(
                    "the line has more than {LINE_MAX} bytes, and iptables-restore makes it two"
                ),
                "write it as several lines",
            )),
            false => reader.line(line.trim_end_matches('\r')),
        };
        if let Err((why, help)) = read {
            reader.errors.push(TextError {
                line: index + 1,
                text: line.to_owned(),
                why,
                help,
            });
        }
    }
    if let Some(table) = reader.open.take() {
        reader.whole.push(TextError {
            line: table.table.line,
            text: format!("*{}", table.table.name),
            why: format!("the table {} has no COMMIT", table.table.name),
            help: "iptables-restore would load none of its rules; check that the file is complete",
        });
    }
    if reader.whole.is_empty() && reader.save.tables.is_empty() {
        reader.whole.push(TextError {
            line: 1,
            text: String::new(),
            why: "the file has no table".into(),
            help: "a rules file has lines from `*filter` to `COMMIT`, as iptables-save prints them",
        });
    }
    Reading {
        save: reader.save,
        lines: reader.errors,
        whole: reader.whole,
    }
}

#[derive(Default)]
struct Reader {
    save: Save,
    /// Table without its COMMIT so far.
    open: Option<OpenTable>,
    errors: Vec<TextError>,
    whole: Vec<TextError>,
    number: usize,
}

impl Reader {
    fn line(&mut self, text: &str) -> Result<(), Wrong> {
        let line = line(text);
        match line {
            Ok(Line::Blank) => return Ok(()),
            Ok(Line::Table(name)) => return self.table(name),
            Ok(Line::Commit | Line::Chain { .. } | Line::Command { .. }) | Err(_) => {}
        }
        let number = self.number;
        let Some(table) = &mut self.open else {
            return Err((
                "this line is outside of a table".into(),
                "rules belong between `*filter` and `COMMIT`",
            ));
        };
        match line? {
            Line::Blank | Line::Table(_) => Ok(()),
            Line::Commit => {
                table.table.commit = number;
                if let Some((table, wrong)) = self.open.take().map(OpenTable::finish) {
                    self.save.tables.push(table);
                    self.errors.extend(wrong);
                }
                Ok(())
            }
            Line::Chain {
                name,
                policy,
                counters,
            } => table.set_policy(name, policy, counters, number),
            Line::Command { counters, text } => {
                let words = words(text).map_err(|why| (why, "close the quotes"))?;
                table.edit(counters, words, number)
            }
        }
    }

    fn table(&mut self, name: &str) -> Result<(), Wrong> {
        if let Some(open) = &self.open {
            self.whole.push(TextError {
                line: self.number,
                text: format!("*{name}"),
                why: format!(
                    "the table {} of line {} has no COMMIT before this line",
                    open.table.name, open.table.line
                ),
                help: "end each table with COMMIT",
            });
            return Ok(());
        }
        if !TABLES.contains(&name) {
            return Err((
                format!("`{name}` is not a table"),
                "the tables are filter, nat, mangle, raw and security",
            ));
        }
        self.open = Some(OpenTable::new(name, self.number));
        Ok(())
    }
}

/// A line, without its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'t> {
    /// An empty line or a comment.
    Blank,
    /// `*NAME`
    Table(&'t str),
    /// `COMMIT`
    Commit,
    /// `:NAME POLICY [packets:bytes]`
    Chain {
        /// Name.
        name: &'t str,
        /// `ACCEPT`, `DROP` or `-` in a valid file.
        policy: &'t str,
        /// Packets and bytes.
        counters: Option<(u64, u64)>,
    },
    /// `[packets:bytes] -A CHAIN …` or another command.
    Command {
        /// Packets and bytes.
        counters: Option<(u64, u64)>,
        /// Command, not split into words.
        text: &'t str,
    },
}

/// Parses one line.
///
/// # Errors
/// Description of the error and the correct form.
pub fn line(text: &str) -> Result<Line<'_>, (String, &'static str)> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(Line::Blank);
    }
    if text == "COMMIT" {
        return Ok(Line::Commit);
    }
    if let Some(name) = text.strip_prefix('*') {
        return Ok(Line::Table(name));
    }
    if let Some(chain) = text.strip_prefix(':') {
        return declaration(chain);
    }
    if !text.starts_with('[') {
        let counters = None;
        return Ok(Line::Command { counters, text });
    }
    let (count, text) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let counters = Some(counters(count).ok_or_else(|| bad_counters(count))?);
    Ok(Line::Command { counters, text })
}

fn declaration(text: &str) -> Result<Line<'_>, Wrong> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, policy, count) = match words[..] {
        [name, policy] => (name, policy, None),
        [name, policy, counters] => (name, policy, Some(counters)),
        _ => {
            return Err((
                "a chain declaration has a name, a policy and counters".into(),
                "write it like `:INPUT DROP [0:0]`",
            ));
        }
    };
    let counters = match count {
        None => None,
        Some(text) => Some(counters(text).ok_or_else(|| bad_counters(text))?),
    };
    Ok(Line::Chain {
        name,
        policy,
        counters,
    })
}

fn bad_counters(text: &str) -> Wrong {
    (
        format!("`{text}` is not a pair of counters"),
        "write counters as [packets:bytes]",
    )
}

/// Parses `[1:60]`.
fn counters(text: &str) -> Option<(u64, u64)> {
    let (packets, bytes) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some((packets.parse().ok()?, bytes.parse().ok()?))
}

/// Splits a line like iptables-restore: at blanks outside of `"`. Within `"`, `\` escapes the next
/// character.
///
/// # Errors
/// A message about an unclosed `"`.
pub fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            ' ' | '\t' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err("unclosed `\"`".into());
    }
    words.extend(word);
    Ok(words)
}
