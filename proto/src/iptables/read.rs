//! Reads the text of iptables-save.

use super::{BUILTIN, Chain, Position, Rule, Save, TABLES, Table, TextError};

/// Why a line cannot be read, and what would do.
type Wrong = (String, &'static str);

/// Reads a whole file.
///
/// # Errors
/// Every line that cannot be read.
pub fn parse(text: &str) -> Result<Save, Vec<TextError>> {
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
        reader.errors.push(TextError {
            line: table.line,
            text: format!("*{}", table.name),
            why: format!("the table {} has no COMMIT", table.name),
            help: "iptables-restore would load nothing of it; is the file whole?",
        });
    }
    if reader.errors.is_empty() && reader.save.tables.is_empty() {
        reader.errors.push(TextError {
            line: 1,
            text: String::new(),
            why: "there is no table in it".into(),
            help: "a rules file has lines from `*filter` to `COMMIT`, as iptables-save prints them",
        });
    }
    match reader.errors.is_empty() {
        true => Ok(reader.save),
        false => Err(reader.errors),
    }
}

#[derive(Default)]
struct Reader {
    save: Save,
    /// The table whose COMMIT has not come yet.
    open: Option<Table>,
    errors: Vec<TextError>,
    number: usize,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), Wrong> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            return self.table(name);
        }
        let number = self.number;
        let Some(table) = &mut self.open else {
            return Err((
                "this stands in no table".into(),
                "rules stand between `*filter` and `COMMIT`; of a script of iptables commands, load it and import with --live",
            ));
        };
        if line == "COMMIT" {
            table.commit = number;
            self.save.tables.extend(self.open.take());
            return Ok(());
        }
        match line.strip_prefix(':') {
            Some(chain) => declare(table, chain, number),
            None => command(table, line, number),
        }
    }

    fn table(&mut self, name: &str) -> Result<(), Wrong> {
        if let Some(open) = &self.open {
            return Err((
                format!(
                    "the table {} of line {} has no COMMIT before this",
                    open.name, open.line
                ),
                "a table ends with COMMIT",
            ));
        }
        if !TABLES.contains(&name) {
            return Err((
                format!("`{name}` is no table"),
                "there are filter, nat, mangle, raw and security",
            ));
        }
        self.open = Some(Table {
            name: name.to_owned(),
            line: self.number,
            chains: Vec::new(),
            rules: Vec::new(),
            commit: 0,
        });
        Ok(())
    }
}

fn declare(table: &mut Table, text: &str, line: usize) -> Result<(), Wrong> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, policy, count) = match words[..] {
        [name, policy] => (name, policy, None),
        [name, policy, counters] => (name, policy, Some(counters)),
        _ => {
            return Err((
                "a chain is declared by its name, its policy and its counters".into(),
                "like `:INPUT DROP [0:0]`",
            ));
        }
    };
    let counters = match count {
        None => None,
        Some(text) => Some(counters(text).ok_or_else(|| bad_counters(text))?),
    };
    set_policy(table, name, policy, counters, line)
}

fn bad_counters(text: &str) -> Wrong {
    (
        format!("`{text}` are no counters"),
        "they are written [packets:bytes]",
    )
}

fn set_policy(
    table: &mut Table,
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
                format!("`{other}` is no policy"),
                "a policy is ACCEPT or DROP; chains of one's own have `-`",
            ));
        }
    };
    let chain = Chain {
        name: name.to_owned(),
        policy,
        counters,
        line,
    };
    // Declared again, as hand-written files do by `-P`: the last one counts.
    match table.chains.iter_mut().find(|old| old.name == name) {
        Some(old) => *old = chain,
        None => table.chains.push(chain),
    }
    Ok(())
}

/// `[1:60]`
fn counters(text: &str) -> Option<(u64, u64)> {
    let (packets, bytes) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some((packets.parse().ok()?, bytes.parse().ok()?))
}

fn command(table: &mut Table, line: &str, number: usize) -> Result<(), Wrong> {
    let mut words = words(line).map_err(|why| (why, "every `\"` needs another"))?;
    let counted = words.first().filter(|word| word.starts_with('[')).cloned();
    let count = match &counted {
        None => None,
        Some(text) => {
            words.remove(0);
            Some(counters(text).ok_or_else(|| bad_counters(text))?)
        }
    };
    let mut words = words.into_iter();
    let verb = words.next().unwrap_or_default();
    let mut chain = || {
        words.next().ok_or_else(|| {
            let why = format!("`{verb}` wants a chain");
            (why, "like `-A INPUT -j ACCEPT`")
        })
    };
    let position = match verb.as_str() {
        "-A" | "--append" => Position::Append,
        "-I" | "--insert" => Position::Insert(1),
        "-P" | "--policy" => {
            let name = chain()?;
            let policy = words.next().unwrap_or_default();
            return set_policy(table, &name, &policy, None, number);
        }
        "-N" | "--new-chain" => return set_policy(table, &chain()?, "-", None, number),
        // Nothing is there yet that could be taken away.
        "-F" | "--flush" | "-X" | "--delete-chain" | "-Z" | "--zero" if table.rules.is_empty() => {
            return Ok(());
        }
        "-F" | "-X" | "-Z" | "-D" | "-R" | "--flush" | "--delete-chain" | "--zero" | "--delete"
        | "--replace" => {
            return Err((
                format!("`{verb}` takes back what stands above it"),
                "write the rules as they are meant to be, or load the file and import with --live",
            ));
        }
        other => {
            return Err((
                format!("`{other}` is not what a line of a rules file starts with"),
                "like `-A INPUT -j ACCEPT`",
            ));
        }
    };
    let chain = chain()?;
    let mut rest: Vec<String> = words.collect();
    let position = match (position, rest.first().and_then(|word| word.parse().ok())) {
        (Position::Insert(_), Some(at)) => {
            rest.remove(0);
            Position::Insert(at)
        }
        (position, _) => position,
    };
    let declared = table.chains.iter().any(|known| known.name == chain);
    if !declared && !BUILTIN.contains(&chain.as_str()) {
        return Err((
            format!("the chain {chain} is not declared"),
            "a line like `:NAME - [0:0]` above declares one",
        ));
    }
    table.rules.push(Rule {
        chain,
        position,
        counters: count,
        words: rest,
        line: number,
    });
    Ok(())
}

/// Splits a line as iptables-restore does: at blanks, but not within `"`; there, `\` takes the next
/// character as it is.
///
/// # Errors
/// A sentence about a `"` that is never closed.
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
        return Err("a `\"` is never closed".into());
    }
    words.extend(word);
    Ok(words)
}
