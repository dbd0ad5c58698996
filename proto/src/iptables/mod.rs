//! The text format of `iptables-save` and `iptables-restore`: tables, chains and rules as words.
//!
//! Words are not interpreted, and none is lost: `parse(print(save)) == save`. Parsing follows
//! `iptables/iptables-restore.c` and `add_param_to_argv()` in `iptables/xshared.c`, printing
//! follows `xtables_save_string()` in `libxtables/xtables.c`. `-I`, `-N` and `-P` occur in
//! hand-written files.

mod current;
mod edit;
mod program;
mod purpose;
mod read;
pub mod script;
mod shell;
mod unit;

use std::fmt;

pub use read::{Line, Reading, line, parse, read, words};

/// A complete file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Save {
    /// Tables, in order.
    pub tables: Vec<Table>,
}

/// A table, from `*NAME` to `COMMIT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, …
    pub name: String,
    /// Line number of `*NAME`, from 1.
    pub line: usize,
    /// Chains in the order of their declaration.
    pub chains: Vec<Chain>,
    /// Rules in the order of the file.
    pub rules: Vec<Rule>,
    /// Line number of `COMMIT`.
    pub commit: usize,
}

/// A chain declaration: `:NAME POLICY [packets:bytes]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name of the chain.
    pub name: String,
    /// `ACCEPT` or `DROP` for a built-in chain; `None` (written `-`) for a user-defined chain.
    pub policy: Option<String>,
    /// Packet and byte counters.
    pub counters: Option<(u64, u64)>,
    /// Line number, from 1.
    pub line: usize,
}

/// Position of a rule in its chain, or another change of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// `-A`: at the end.
    Append,
    /// `-I`: at this position, from 1.
    Insert(usize),
    /// `-R`: instead of the rule at this position.
    Replace(usize),
    /// `-D`: deletes the first rule with the same words.
    Delete,
    /// `-D`: deletes the rule at this position.
    DeleteAt(usize),
    /// `-F`: deletes every rule of the chain, or of every chain if the name is empty.
    Flush,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Chain of the rule.
    pub chain: String,
    /// Position in the chain.
    pub position: Position,
    /// Packet and byte counters.
    pub counters: Option<(u64, u64)>,
    /// Words after `-A CHAIN`, without quotes.
    pub words: Vec<String>,
    /// Line number, from 1.
    pub line: usize,
}

/// A line that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// Line number, from 1.
    pub line: usize,
    /// Text of the line.
    pub text: String,
    /// Description of the error.
    pub why: String,
    /// Correct form of the line.
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

/// Names of the iptables tables.
pub const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Built-in chains, which need no declaration.
pub const BUILTIN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Quotes a word like iptables-save.
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
            Position::Replace(at) => write!(f, "-R {} {at}", quoted(&self.chain))?,
            Position::Delete => write!(f, "-D {}", quoted(&self.chain))?,
            Position::DeleteAt(at) => write!(f, "-D {} {at}", quoted(&self.chain))?,
            Position::Flush if self.chain.is_empty() => write!(f, "-F")?,
            Position::Flush => write!(f, "-F {}", quoted(&self.chain))?,
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

    fn position() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::Append),
            Just(Position::Delete),
            Just(Position::Flush),
            (1usize..5).prop_map(Position::Insert),
            (1usize..5).prop_map(Position::Replace),
            (1usize..5).prop_map(Position::DeleteAt),
        ]
    }

    prop_compose! {
        fn save()(
            tables in prop::collection::vec((
                prop::sample::select(TABLES.to_vec()),
                prop::collection::btree_map(
                    "[A-Za-z][A-Za-z0-9_-]{0,20}",
                    (any::<bool>(), prop::option::of(any::<(u64, u64)>())),
                    1..4,
                ),
                prop::collection::vec(
                    (
                        any::<prop::sample::Index>(),
                        position(),
                        prop::option::of(any::<(u64, u64)>()),
                        prop::collection::vec(word(), 0..8),
                    ),
                    0..6,
                ),
            ), 1..3),
        ) -> Save {
            let mut line = 0;
            let mut next = || { line += 1; line };
            let tables = tables.into_iter().map(|(name, chains, rules)| {
                let line = next();
                let chains: Vec<Chain> = chains.into_iter().map(|(name, (own, counters))| Chain {
                    name, policy: (!own).then(|| "DROP".to_owned()), counters, line: next(),
                }).collect();
                let rules = rules.into_iter().map(|(chain, position, counters, mut words)| {
                    // A leading number would be parsed as the position.
                    words.insert(0, "-p".into());
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
        let text = "-A INPUT -j ACCEPT\n\
            *filter\n\
            :INPUT REJECT [0:0]\n\
            :INPUT DROP [0]\n\
            -A INPUT -j DROP\n\
            -A INPUT -m comment --comment \"open\n\
            *nat\n\
            frobnicate\n\
            -R INPUT -j ACCEPT\n\
            -D INPUT 0\n";
        let errors = parse(text).unwrap_err();
        let found: Vec<(usize, &str)> = errors.iter().map(|e| (e.line, e.why.as_str())).collect();
        let wanted = [
            (1, "outside of a table"),
            (3, "`REJECT` is not a policy"),
            (4, "`[0]` is not a pair of counters"),
            (6, "unclosed"),
            (8, "`frobnicate`"),
            (9, "`-R` needs a number"),
            (10, "`0` is not the number"),
            (7, "has no COMMIT"),
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
        let text = "*filter\r\n\
            -P INPUT DROP\r\n\
            -X\r\n\
            -N own\r\n\
            -I INPUT -j own\r\n\
            -I INPUT 2 -j DROP\r\n\
            [3:180] -A own -m comment --comment \"say \\\"hi\\\"\" -j RETURN\r\n\
            COMMIT\r\n";
        let save = parse(text).unwrap();
        let table = &save.tables[0];
        assert_eq!(table.chains[0].policy.as_deref(), Some("DROP"));
        assert_eq!(table.rules[0].position, Position::Insert(1));
        assert_eq!(table.rules[1].position, Position::Insert(2));
        assert_eq!(table.rules[2].counters, Some((3, 180)));
        assert_eq!(table.rules[2].words[3], "say \"hi\"");
    }
}
