//! Shell scripts of iptables commands, and the output of `iptables -S`, which has such commands
//! without their program.
//!
//! Nothing is run or expanded. Commands with variables, in loops, conditions or functions, and
//! those that depend on another command are returned as lines that cannot be read.

use std::collections::BTreeMap;

use super::read::OpenTable;
use super::shell::{Command, commands};
use super::{Save, TABLES, TextError};

/// Commands of a script, by program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Tables that `iptables` changes.
    pub v4: Save,
    /// Tables that `ip6tables` changes.
    pub v6: Save,
    /// Commands of `ipset`, with the numbers of their lines.
    pub sets: Vec<(usize, String)>,
    /// Lines that cannot be read.
    pub lines: Vec<TextError>,
    /// Number of lines that only the shell can evaluate.
    pub unevaluated: usize,
}

/// Programs that change rules in other ways.
const OTHER_PROGRAMS: [&str; 9] = [
    "iptables-restore",
    "ip6tables-restore",
    "iptables-apply",
    "nft",
    "ufw",
    "firewall-cmd",
    "netfilter-persistent",
    "source",
    ".",
];

/// Reports whether a text has lines that start iptables, or a program named by a variable like
/// `$IPT` with its options.
pub fn is_script(text: &str) -> bool {
    commands(text).iter().any(|command| {
        family(command.program()).is_some() || (command.is_shell && has_variable_program(command))
    })
}

fn has_variable_program(command: &Command) -> bool {
    const VERBS: [&str; 6] = ["-A", "-I", "-P", "-F", "-N", "-t"];
    let is_variable = command.words.first().is_some_and(|word| word.contains('$'));
    is_variable
        && command
            .words
            .iter()
            .any(|word| VERBS.contains(&word.as_str()))
}

/// Whether a program is iptables (`false`) or ip6tables (`true`).
fn family(program: &str) -> Option<bool> {
    match program {
        "iptables" | "iptables-legacy" | "iptables-nft" => Some(false),
        "ip6tables" | "ip6tables-legacy" | "ip6tables-nft" => Some(true),
        _ => None,
    }
}

/// Reads a script.
pub fn script(text: &str) -> Script {
    let mut reader = Reader::default();
    for command in commands(text) {
        // Nothing after it is run.
        if command.program() == "exit" && !command.is_shell {
            break;
        }
        reader.command(&command);
    }
    let Reader { mut script, tables } = reader;
    for ((is_v6, _), table) in tables {
        let save = if is_v6 {
            &mut script.v6
        } else {
            &mut script.v4
        };
        save.tables.push(table.finish());
    }
    script
}

/// Reads the output of `iptables -S`: commands of one table.
pub fn listing(text: &str) -> (Save, Vec<TextError>) {
    let mut reader = Reader::default();
    for command in commands(text) {
        if let Err((why, help)) = reader.iptables(false, command.words.clone(), command.line) {
            reader.refuse(&command, &why, help);
        }
    }
    let tables = reader.tables.into_values().map(OpenTable::finish).collect();
    (Save { tables }, reader.script.lines)
}

/// Reports whether a text is output of `iptables -S`.
pub fn is_listing(text: &str) -> bool {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let starts = |line: &str| {
        ["-P ", "-N ", "-A ", "-I "]
            .iter()
            .any(|verb| line.starts_with(verb))
    };
    let first = lines.next();
    first.is_some_and(starts) && lines.all(|line| line.starts_with('-'))
}

#[derive(Default)]
struct Reader {
    script: Script,
    tables: BTreeMap<(bool, String), OpenTable>,
}

impl Reader {
    fn refuse(&mut self, command: &Command, why: &str, help: &'static str) {
        self.script.lines.push(TextError {
            line: command.line,
            text: command.words.join(" "),
            why: why.to_owned(),
            help,
        });
    }

    fn command(&mut self, command: &Command) {
        let program = command.program();
        let is_ours =
            family(program).is_some() || program == "ipset" || OTHER_PROGRAMS.contains(&program);
        if command.is_shell {
            let names_ours = || command.words.iter().any(|word| is_about_rules(word));
            if is_ours || has_variable_program(command) || names_ours() {
                self.script.unevaluated += 1;
                self.refuse(
                    command,
                    "only the shell can evaluate this line",
                    "write the rule itself",
                );
            }
            return;
        }
        if OTHER_PROGRAMS.contains(&program) {
            let why = format!("`{program}` changes rules in another way");
            return self.refuse(command, &why, "import what it loads as another file");
        }
        if program == "ipset" {
            let text = command.arguments().join(" ");
            return self.script.sets.push((command.line, text));
        }
        let Some(is_v6) = family(program) else {
            return;
        };
        let words = command.arguments().to_vec();
        if let Err((why, help)) = self.iptables(is_v6, words, command.line) {
            self.refuse(command, &why, help);
        }
    }

    fn iptables(
        &mut self,
        is_v6: bool,
        words: Vec<String>,
        line: usize,
    ) -> Result<(), (String, &'static str)> {
        let (name, words) = table_of(words)?;
        // They change nothing.
        const READING: [&str; 12] = [
            "-L",
            "--list",
            "-S",
            "--list-rules",
            "-C",
            "--check",
            "-V",
            "--version",
            "-h",
            "--help",
            "-Z",
            "--zero",
        ];
        if words.iter().any(|word| READING.contains(&word.as_str())) {
            return Ok(());
        }
        let table = self
            .tables
            .entry((is_v6, name.clone()))
            .or_insert_with(|| OpenTable::new(&name, line));
        table.edit(None, words, line)
    }
}

/// Reports whether a word of a shell line that is not evaluated is about rules.
fn is_about_rules(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    family(name.trim_matches(['(', ')', '`', '"', '$'])).is_some()
}

/// Takes the table and the options of the program from the words.
fn table_of(words: Vec<String>) -> Result<(String, Vec<String>), (String, &'static str)> {
    let mut name = "filter".to_owned();
    let mut rest = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-t" | "--table" => {
                name = words
                    .next()
                    .ok_or(("`-t` needs a table".to_owned(), "write it like `-t nat`"))?;
            }
            _ if word.starts_with("--table=") => name = word["--table=".len()..].to_owned(),
            "-w" | "--wait" | "-W" | "--wait-interval" => {
                let is_number = |next: &String| next.parse::<u32>().is_ok();
                drop(words.next_if(is_number));
            }
            "-v" | "--verbose" | "-n" | "--numeric" => {}
            // The next word is text.
            "--comment" | "--log-prefix" | "--string" => {
                rest.push(word);
                rest.extend(words.next());
            }
            _ => rest.push(word),
        }
    }
    match TABLES.contains(&name.as_str()) {
        true => Ok((name, rest)),
        false => Err((
            format!("`{name}` is not a table"),
            "the tables are filter, nat, mangle, raw and security",
        )),
    }
}
