//! The text of `iptables-save` and `iptables-restore`: tables, chains and rules as words.
//!
//! What a word means is not known here, and none gets lost: `parse(print(save)) == save`. Read as
//! `iptables/iptables-restore.c` and `add_param_to_argv()` in `iptables/xshared.c` read it, and
//! printed as `xtables_save_string()` in `libxtables/xtables.c` prints it. The files people write by
//! hand have `-I`, `-N` and `-P` too, so these are read as well.

use std::fmt;

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Save {
    /// Its tables in their order.
    pub tables: Vec<Table>,
}

/// From `*NAME` to `COMMIT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, …
    pub name: String,
    /// Line of `*NAME`, from 1.
    pub line: usize,
    /// Chains in the order of their declaration.
    pub chains: Vec<Chain>,
    /// Rules in the order of the file.
    pub rules: Vec<Rule>,
    /// Line of `COMMIT`.
    pub commit: usize,
}

/// `:NAME POLICY [packets:bytes]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// `ACCEPT` or `DROP` for one of the kernel's own chains; `None` (written `-`) for others.
    pub policy: Option<String>,
    /// Packets and bytes it counted.
    pub counters: Option<(u64, u64)>,
    /// Its line, from 1.
    pub line: usize,
}

/// Where in its chain a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// `-A`: behind the last.
    Append,
    /// `-I`: as this one, from 1.
    Insert(usize),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its chain.
    pub chain: String,
    /// Where in it.
    pub position: Position,
    /// Packets and bytes it counted.
    pub counters: Option<(u64, u64)>,
    /// What stands behind `-A CHAIN`, without quotes.
    pub words: Vec<String>,
    /// Its line, from 1.
    pub line: usize,
}

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
    /// What would do.
    pub help: &'static str,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}; {}", self.line, self.why, self.help)?;
        match self.text.is_empty() {
            true => Ok(()),
            false => write!(f, "\n  {}", self.text),
        }
    }
}

impl std::error::Error for TextError {}

/// The names of iptables' tables.
pub const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Chains that are there without a declaration.
pub const BUILTIN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

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

/// Why a line cannot be read, and what would do.
type Wrong = (String, &'static str);

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

/// A word as iptables-save prints it.
fn quoted(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '\\' | '\'');
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((packets, bytes)) = self.counters {
            write!(f, "[{packets}:{bytes}] ")?;
        }
        match self.position {
            Position::Append => write!(f, "-A {}", quoted(&self.chain))?,
            Position::Insert(at) => write!(f, "-I {} {at}", quoted(&self.chain))?,
        }
        for word in &self.words {
            write!(f, " {}", quoted(word))?;
        }
        Ok(())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            ":{} {}",
            self.name,
            self.policy.as_deref().unwrap_or("-")
        )?;
        match self.counters {
            Some((packets, bytes)) => write!(f, " [{packets}:{bytes}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Save {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "*{}", table.name)?;
            for chain in &table.chains {
                writeln!(f, "{chain}")?;
            }
            for rule in &table.rules {
                writeln!(f, "{rule}")?;
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("-s".to_owned()),
            Just("!".to_owned()),
            Just(String::new()),
            "[a-zA-Z0-9./:,-]{1,12}",
            "[ -~\t]{1,12}",
        ]
    }

    prop_compose! {
        fn save()(
            tables in prop::collection::vec((
                prop::sample::select(TABLES.to_vec()),
                prop::collection::btree_map("[A-Za-z][A-Za-z0-9_-]{0,20}", (any::<bool>(), prop::option::of(any::<(u64, u64)>())), 1..4),
                prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(1usize..5), prop::option::of(any::<(u64, u64)>()), prop::collection::vec(word(), 0..8)), 0..6),
            ), 1..3),
        ) -> Save {
            let mut line = 0;
            let mut next = || { line += 1; line };
            let tables = tables.into_iter().map(|(name, chains, rules)| {
                let line = next();
                let chains: Vec<Chain> = chains.into_iter().map(|(name, (own, counters))| Chain {
                    name, policy: (!own).then(|| "DROP".to_owned()), counters, line: next(),
                }).collect();
                let rules = rules.into_iter().map(|(chain, at, counters, mut words)| {
                    let position = at.map_or(Position::Append, Position::Insert);
                    // A number in front would be read as the position.
                    if position == Position::Append { words.insert(0, "-p".into()); }
                    Rule { chain: chain.get(&chains).name.clone(), position, counters, words, line: next() }
                }).collect();
                Table { name: name.to_owned(), line, chains, rules, commit: next() }
            }).collect();
            Save { tables }
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(save in save()) {
            prop_assert_eq!(parse(&save.to_string()), Ok(save));
        }

        #[test]
        fn no_text_panics(text in "[*:#A-Z \\[\\]0-9\"\\\\a-z\n-]{0,200}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn every_bad_line_is_named_at_once() {
        let text = "-A INPUT -j ACCEPT\n*filter\n:INPUT REJECT [0:0]\n:INPUT DROP [0]\n-A NOWHERE -j DROP\n-A INPUT -m comment --comment \"open\n*nat\nfrobnicate\n";
        let errors = parse(text).unwrap_err();
        let found: Vec<(usize, &str)> = errors.iter().map(|e| (e.line, e.why.as_str())).collect();
        let wanted = [
            (1, "stands in no table"),
            (3, "`REJECT` is no policy"),
            (4, "`[0]` are no counters"),
            (5, "NOWHERE is not declared"),
            (6, "never closed"),
            (7, "has no COMMIT"),
            (8, "`frobnicate`"),
            (2, "has no COMMIT"),
        ];
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for ((line, why), (want_line, want)) in found.iter().zip(wanted) {
            assert!(
                *line == want_line && why.contains(want),
                "{line}: {why}, not {want}"
            );
        }
    }

    #[test]
    fn what_people_write_by_hand_is_read() {
        let text = "*filter\r\n-P INPUT DROP\r\n-N own\r\n-F\r\n-I INPUT -j own\r\n-I INPUT 2 -j DROP\r\n[3:180] -A own -m comment --comment \"say \\\"hi\\\"\" -j RETURN\r\nCOMMIT\r\n";
        let save = parse(text).unwrap();
        let table = &save.tables[0];
        assert_eq!(table.chains[0].policy.as_deref(), Some("DROP"));
        assert_eq!(table.rules[0].position, Position::Insert(1));
        assert_eq!(table.rules[1].position, Position::Insert(2));
        assert_eq!(table.rules[2].counters, Some((3, 180)));
        assert_eq!(table.rules[2].words[3], "say \"hi\"");
    }
}
