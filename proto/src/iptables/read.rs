//! Parser for iptables-save output and rules files.

use std::collections::{HashMap, HashSet};

use super::{Chain, Position, Rule, Save, TABLES, Table, TextError};

/// Description of a parse error and the correct form.
type Wrong = (String, &'static str);

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

/// Parses a file, and continues after lines that cannot be parsed.
pub fn read(text: &str) -> Reading {
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        reader.number = index + 1;
        if let Err((why, help)) = reader.line(line.trim_end_matches('\r')) {
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
                let table = self.open.take().map(OpenTable::finish);
                self.save.tables.extend(table);
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

/// Words that may precede a command.
const BEFORE_COMMAND: [&str; 6] = ["-4", "-6", "--ipv4", "--ipv6", "-v", "--verbose"];

/// A table while its lines are read.
pub(super) struct OpenTable {
    pub(super) table: Table,
    /// Chains that rules were added to.
    used: HashSet<String>,
}

impl OpenTable {
    pub(super) fn new(name: &str, line: usize) -> Self {
        let table = Table {
            name: name.to_owned(),
            line,
            chains: Vec::new(),
            rules: Vec::new(),
            commit: 0,
        };
        let used = HashSet::new();
        Self { table, used }
    }

    /// Returns the table.
    pub(super) fn finish(mut self) -> Table {
        keep_last_declarations(&mut self.table);
        self.table
    }

    fn set_policy(
        &mut self,
        name: &str,
        policy: &str,
        counters: Option<(u64, u64)>,
        line: usize,
    ) -> Result<(), Wrong> {
        let policy = match policy {
            "-" => None,
            "ACCEPT" | "DROP" => Some(policy.to_owned()),
            other => {
                return Err((
                    format!("`{other}` is not a policy"),
                    "write ACCEPT or DROP, or `-` for a user-defined chain",
                ));
            }
        };
        let chain = Chain {
            name: name.to_owned(),
            policy,
            counters,
            line,
        };
        // iptables-restore empties a user-defined chain that is declared again.
        if chain.policy.is_none() && self.used.contains(name) {
            self.table.rules.push(Rule {
                chain: name.to_owned(),
                position: Position::Flush,
                counters: None,
                words: Vec::new(),
                line,
            });
        }
        self.table.chains.push(chain);
        Ok(())
    }

    /// Adds a command to a table.
    pub(super) fn edit(
        &mut self,
        counters: Option<(u64, u64)>,
        mut words: Vec<String>,
        number: usize,
    ) -> Result<(), Wrong> {
        let is_before = |word: &&String| BEFORE_COMMAND.contains(&word.as_str());
        let before = words.iter().take_while(is_before).count();
        let rest = words.split_off(before.min(words.len()));
        let mut rest = rest.into_iter();
        let verb = rest.next().unwrap_or_default();
        let mut chain = rest.next();
        let mut need_chain = || {
            chain.take().ok_or_else(|| {
                let why = format!("`{verb}` needs a chain");
                (why, "write it like `-A INPUT -j ACCEPT`")
            })
        };
        let position = match verb.as_str() {
            "-A" | "--append" => Position::Append,
            "-I" | "--insert" => Position::Insert(1),
            "-R" | "--replace" => Position::Replace(0),
            "-D" | "--delete" => Position::Delete,
            "-F" | "--flush" => Position::Flush,
            "-P" | "--policy" => {
                let name = need_chain()?;
                let policy = rest.next().unwrap_or_default();
                return self.set_policy(&name, &policy, None, number);
            }
            "-N" | "--new-chain" => return self.set_policy(&need_chain()?, "-", None, number),
            // Neither changes the rules that remain.
            "-X" | "--delete-chain" | "-Z" | "--zero" => return Ok(()),
            other => {
                return Err((
                    format!("`{other}` cannot start a line of a rules file"),
                    "write a rule like `-A INPUT -j ACCEPT`",
                ));
            }
        };
        let chain = match position {
            Position::Flush => chain.take().unwrap_or_default(),
            Position::Append | Position::Insert(_) | Position::Replace(_) => need_chain()?,
            Position::Delete | Position::DeleteAt(_) => need_chain()?,
        };
        let mut rest: Vec<String> = rest.collect();
        let position = numbered(position, &mut rest)?;
        words.extend(rest);
        self.used.insert(chain.clone());
        self.table.rules.push(Rule {
            chain,
            position,
            counters,
            words,
            line: number,
        });
        Ok(())
    }
}

/// Keeps one declaration of each chain: the last one counts. `-P` in a hand-written file is a
/// further declaration.
fn keep_last_declarations(table: &mut Table) {
    let mut at = HashMap::new();
    let mut kept: Vec<Chain> = Vec::new();
    for chain in std::mem::take(&mut table.chains) {
        let index = *at.entry(chain.name.clone()).or_insert(kept.len());
        match kept.get_mut(index) {
            Some(earlier) => *earlier = chain,
            None => kept.push(chain),
        }
    }
    table.chains = kept;
}

/// Takes the number of a rule from the words after the chain.
fn numbered(position: Position, rest: &mut Vec<String>) -> Result<Position, Wrong> {
    let wants = match position {
        Position::Insert(_) | Position::Delete => false,
        Position::Replace(_) => true,
        Position::Append | Position::DeleteAt(_) | Position::Flush => return Ok(position),
    };
    let first = rest.first().filter(|word| !word.starts_with(['-', '!']));
    let Some(word) = first else {
        return match wants {
            true => Err((
                "`-R` needs a number".into(),
                "write it like `-R INPUT 1 -j ACCEPT`",
            )),
            false => Ok(position),
        };
    };
    let number: Option<usize> = word.parse().ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| {
        let why = format!("`{word}` is not the number of a rule");
        (why, "rules are counted from 1")
    })?;
    rest.remove(0);
    Ok(match position {
        Position::Insert(_) => Position::Insert(number),
        Position::Replace(_) => Position::Replace(number),
        Position::Append | Position::Delete | Position::DeleteAt(_) | Position::Flush => {
            Position::DeleteAt(number)
        }
    })
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
