//! Shell scripts of iptables commands, and the output of `iptables -S`, which has such commands
//! without their program.
//!
//! Nothing is run or expanded. Commands with variables, in loops, conditions or functions, and
//! those that depend on another command are returned as lines that cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::edit::{OpenTable, TEXT_OPTIONS, is_command};
use super::program::{RestoreOptions, restore_options};
use super::purpose::{
    Ending, Functions, ending, is_interpreter_that_ends, may_fail, names_tool, needs_shell,
    sets_end, why_idle,
};
use super::shell::{self, Command};
use super::unit::{Unit, is_unit, unit};
use super::{Reading, Save, TABLES, Table, TextError};

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
    /// Lines where the script may end, after its first command about rules.
    pub ends: Vec<usize>,
    /// Whether the script ends at the first command that fails: `set -e`, sh(1); a unit without
    /// `-` before its commands, systemd.service(5).
    pub ends_on_error: bool,
    /// Lines of commands of iptables-restore, and those of the here-documents that they load.
    pub loads: Vec<(usize, RangeInclusive<usize>)>,
    /// Lines that change no rules, and what they are.
    pub idle: BTreeMap<usize, &'static str>,
}

/// Programs that change rules in other ways.
const OTHER_PROGRAMS: [&str; 7] = [
    "iptables-restore",
    "ip6tables-restore",
    "iptables-apply",
    "nft",
    "ufw",
    "firewall-cmd",
    "netfilter-persistent",
];

/// Reports whether a text has lines that start iptables, or a program named by a variable like
/// `$IPT` with its options.
pub fn is_script(text: &str) -> bool {
    let commands = split(text).commands;
    let is_rule =
        |command: &Command| family(command.program()).is_some() || has_variable_program(command);
    commands.iter().any(is_rule)
}

/// Reports whether a script gives tables to a program in here-documents.
pub fn has_tables_in_documents(text: &str) -> bool {
    let is_table = |command: &Command| {
        let first = command
            .words
            .first()
            .and_then(|word| word.strip_prefix('*'));
        command.reader.is_some() && first.is_some_and(|name| TABLES.contains(&name))
    };
    let commands = || shell::commands(text);
    let restores = |command: &Command| restored_family(command.program()).is_some();
    let is_read = || is_script(text) || commands().iter().any(restores);
    text.contains("<<") && commands().iter().any(is_table) && is_read()
}

/// Reports whether a line names a program that changes rules.
pub fn names_a_tool(line: &str) -> bool {
    names_tool(std::iter::once(&line.to_owned()))
}

/// Splits a script, or a unit of systemd.
fn split(text: &str) -> Unit {
    match is_unit(text) {
        true => unit(text),
        false => Unit {
            commands: shell::commands(text),
            ..Unit::default()
        },
    }
}

fn has_variable_program(command: &Command) -> bool {
    const VERBS: [&str; 6] = ["-A", "-I", "-P", "-F", "-N", "-t"];
    let has_verb = |word: &String| VERBS.contains(&word.as_str());
    command.is_named_by_variable() && command.words.iter().any(has_verb)
}

/// Whether a program is iptables (`false`) or ip6tables (`true`).
fn family(program: &str) -> Option<bool> {
    match program {
        "iptables" | "iptables-legacy" | "iptables-nft" => Some(false),
        "ip6tables" | "ip6tables-legacy" | "ip6tables-nft" => Some(true),
        _ => None,
    }
}

/// Whether a program is iptables-restore (`false`) or ip6tables-restore (`true`).
pub(super) fn restored_family(program: &str) -> Option<bool> {
    family(program.strip_suffix("-restore")?)
}

/// Reads a script.
pub fn script(text: &str) -> Script {
    let Unit {
        commands,
        idle,
        ends_on_error,
    } = split(text);
    let functions = Functions::new(&commands);
    let mut reader = Reader::default();
    reader.script.idle = idle;
    let first = text.lines().next().unwrap_or_default();
    reader.script.ends_on_error = ends_on_error
        || is_interpreter_that_ends(first)
        || commands.iter().any(|command| sets_end(&command.words));
    for (index, command) in commands.iter().enumerate() {
        reader.next(&commands, &functions, index, command);
        for line in command.line + 1..=command.last_line {
            let rest = "part of the command above";
            reader.script.idle.entry(line).or_insert(rest);
        }
    }
    let Reader {
        mut script, tables, ..
    } = reader;
    for ((is_v6, _), table) in tables {
        let save = if is_v6 {
            &mut script.v6
        } else {
            &mut script.v4
        };
        let (table, wrong) = table.finish();
        save.tables.push(table);
        script.lines.extend(wrong);
    }
    script
}

/// Reads the output of `iptables -S`: commands of one table.
pub fn listing(text: &str) -> (Save, Vec<TextError>) {
    let mut reader = Reader::default();
    for command in shell::commands(text) {
        if let Err((why, help)) = reader.iptables(false, command.words.clone(), command.line) {
            reader.refuse(&command, &why, help);
        }
    }
    let mut lines = reader.script.lines;
    let mut tables = Vec::new();
    for (table, wrong) in reader.tables.into_values().map(OpenTable::finish) {
        tables.push(table);
        lines.extend(wrong);
    }
    (Save { tables }, lines)
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
    /// Whether a command was about rules.
    has_begun: bool,
    /// Whether no later command runs.
    has_ended: bool,
    /// Numbers of the commands whose here-documents are read.
    restored: BTreeSet<usize>,
    /// The kind of iptables that the commands run: `iptables`, or its `-nft` or `-legacy`.
    kind: Option<String>,
    /// Whether the command before was read, and adds to a table or empties it.
    is_expected: bool,
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

    fn next(&mut self, all: &[Command], functions: &Functions, index: usize, command: &Command) {
        if self.has_ended {
            self.note(command, "the script ends above this line");
            return;
        }
        if let Some(reader) = command.reader {
            if !self.restored.contains(&reader) {
                self.document(all.get(reader), functions, command);
            }
            return;
        }
        if !functions.contain(index) && self.restore(all, index, command).is_some() {
            return;
        }
        let is_inside = functions.contain(index);
        let called = functions.called(command);
        let was_expected = std::mem::take(&mut self.is_expected);
        if called.changes_rules {
            self.has_begun |= !is_inside;
            return self.leave(command);
        }
        let ending = match called.ends {
            true => Ending::Maybe,
            false => ending(command),
        };
        self.command(command, is_inside);
        let fails = self.script.ends_on_error && may_fail(command);
        if fails && self.has_begun && !is_inside && ending == Ending::Never {
            self.script.ends.push(command.line);
        }
        let is_read = !command.is_shell && is_ours(command.program());
        match ending {
            Ending::Surely => self.has_ended = true,
            // `exec iptables …` is the last command.
            Ending::Maybe if is_read => self.has_ended = true,
            // The import expects that the commands which it reads succeed.
            Ending::Maybe if command.is_fallback && was_expected => {}
            Ending::Maybe if self.has_begun && !is_inside => self.script.ends.push(command.line),
            Ending::Maybe | Ending::Never => {}
        }
    }

    /// Reads the here-document of a command of iptables-restore; `None` if only the shell can.
    fn restore(&mut self, all: &[Command], index: usize, command: &Command) -> Option<()> {
        let is_v6 = restored_family(command.program()).filter(|_| !command.is_shell)?;
        self.check_kind(command.program()).ok()?;
        let after = all.get(index + 1..).unwrap_or_default();
        // Other commands of this line, and their here-documents, may come before.
        let is_near = |line: &&Command| line.reader.is_some() || line.line <= command.last_line;
        let lines = after.iter().take_while(is_near);
        let lines: Vec<&Command> = lines.filter(|line| line.reader == Some(index)).collect();
        let (first, last) = (lines.first()?.line, lines.last()?.line);
        // Blanks before and after these words are errors of iptables-restore, which loads nothing.
        let is_wrong = |line: &&Command| {
            let first = line.words.first().map_or("", String::as_str);
            let is_place = first.starts_with(['*', ':']) && line.text.starts_with([' ', '\t']);
            is_place || (first == "COMMIT" && line.text != "COMMIT")
        };
        let is_expanded = |line: &&Command| line.text.contains(['$', '`', '\\']);
        if command.inputs != 1 || lines.iter().any(|line| is_wrong(line) || is_expanded(line)) {
            return None;
        }
        let RestoreOptions { keeps, only } = restore_options(command.arguments())?;
        // Lines have the numbers that they have in the script.
        let mut text = "\n".repeat(first.saturating_sub(1));
        for line in &lines {
            text.push_str(&line.text);
            text.push('\n');
        }
        let Reading { save, lines, whole } = super::read(&text);
        if !whole.is_empty() {
            return None;
        }
        let mut save = save;
        let is_asked = |table: &Table| only.as_ref().is_none_or(|only| *only == table.name);
        save.tables.retain(is_asked);
        let forgets = |table: &Table| {
            let before = self.tables.get(&(is_v6, table.name.clone()));
            before.is_some_and(|before| before.forgets(table))
        };
        if !keeps && save.tables.iter().any(forgets) {
            return None;
        }
        for table in save.tables {
            let key = (is_v6, table.name.clone());
            let new = || OpenTable::new(&table.name, table.line);
            self.tables
                .entry(key)
                .or_insert_with(new)
                .restore(table, keeps);
        }
        self.script.lines.extend(lines);
        self.has_begun = true;
        self.restored.insert(index);
        self.note(command, "loads the lines below");
        self.script.loads.push((command.line, first..=last));
        Some(())
    }

    /// Takes a line of a here-document.
    fn document(&mut self, reader: Option<&Command>, functions: &Functions, line: &Command) {
        let is_unused = |reader: &&Command| reader.words.first().is_some_and(|word| word == ":");
        let is_expanded = line.text.contains(['$', '`']);
        if reader.as_ref().is_some_and(is_unused) && !is_expanded {
            return self.note(line, "part of a here-document that nothing reads");
        }
        let is_run = reader
            .is_some_and(|reader| needs_shell(reader) || functions.called(reader).changes_rules);
        match is_run || names_tool(line.words.iter()) {
            true if line.words.is_empty() => {}
            true => self.leave(line),
            false => self.note(line, "part of a here-document"),
        }
    }

    fn note(&mut self, command: &Command, what: &'static str) {
        self.script.idle.entry(command.line).or_insert(what);
    }

    /// Leaves a command to the shell.
    fn leave(&mut self, command: &Command) {
        self.script.unevaluated += 1;
        let why = "only the shell can evaluate this line";
        self.refuse(command, why, "write the rule itself");
    }

    fn command(&mut self, command: &Command, is_inside: bool) {
        let program = command.program();
        if let Some(why) = why_idle(command) {
            if names_tool(command.words.iter()) {
                self.note(command, why);
            }
            return;
        }
        if command.is_shell || !is_ours(program) {
            if needs_shell(command) {
                self.has_begun |= !is_inside && names_tool(command.words.iter());
                self.leave(command);
            }
            return;
        }
        self.has_begun = true;
        if OTHER_PROGRAMS.contains(&program) {
            let why = format!("`{program}` changes rules in another way");
            return self.refuse(command, &why, "import what it loads as another file");
        }
        if program == "ipset" {
            const READING: [&str; 8] =
                ["list", "-L", "save", "-S", "test", "-T", "version", "help"];
            let is_option =
                |word: &&String| ["-q", "-quiet", "-!", "-exist"].contains(&word.as_str());
            let mut words = command.arguments().iter().skip_while(is_option);
            if words
                .next()
                .is_some_and(|word| READING.contains(&word.as_str()))
            {
                return self.note(command, "this command changes no rules");
            }
            if command
                .arguments()
                .iter()
                .any(|word| word == "restore" || word == "-R")
            {
                let why = "`ipset restore` changes sets in another way";
                return self.refuse(command, why, "import what it loads as another file");
            }
            let text = command.arguments().join(" ");
            return self.script.sets.push((command.line, text));
        }
        let Some(is_v6) = family(program) else {
            return;
        };
        if let Err((why, help)) = self.check_kind(program) {
            return self.refuse(command, &why, help);
        }
        let words = command.arguments().to_vec();
        const EXPECTED: [&str; 5] = ["-A", "-I", "-P", "-F", "-N"];
        let is_expected = words.iter().any(|word| EXPECTED.contains(&word.as_str()));
        match self.iptables(is_v6, words, command.line) {
            Ok(()) => self.is_expected = is_expected,
            Err((why, help)) => self.refuse(command, &why, help),
        }
    }

    /// Rejects a second kind of iptables: each has rules of its own, and packets pass both.
    fn check_kind(&mut self, program: &str) -> Result<(), (String, &'static str)> {
        let program = program.strip_suffix("-restore").unwrap_or(program);
        let kind = program.replacen("ip6tables", "iptables", 1);
        let known = self.kind.get_or_insert_with(|| kind.clone());
        match *known == kind {
            true => Ok(()),
            false => Err((
                format!("`{kind}` has other rules than `{known}` above, and packets pass both"),
                "import the rules of both with --live",
            )),
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
        if reads_only(&words) {
            return Ok(());
        }
        let table = self
            .tables
            .entry((is_v6, name.clone()))
            .or_insert_with(|| OpenTable::new(&name, line));
        table.edit(None, words, line)
    }
}

/// Reports whether a program changes rules or sets.
pub(super) fn is_ours(program: &str) -> bool {
    family(program).is_some() || program == "ipset" || OTHER_PROGRAMS.contains(&program)
}

/// Reports whether the command among the words changes no rules.
fn reads_only(words: &[String]) -> bool {
    let before = std::iter::once("").chain(words.iter().map(String::as_str));
    let mut commands = before
        .zip(words)
        .filter(|(before, word)| !TEXT_OPTIONS.contains(before) && word.starts_with('-'));
    let changes = |word: &str| is_command(word) && !is_reading(word);
    commands.clone().any(|(_, word)| is_reading(word)) && !commands.any(|(_, word)| changes(word))
}

/// Reports whether a word is a command that changes no rules, like `-L` or `-nvL`.
fn is_reading(word: &str) -> bool {
    const NAMES: [&str; 6] = ["list", "list-rules", "check", "version", "help", "zero"];
    if let Some(name) = word.strip_prefix("--") {
        return NAMES.contains(&name);
    }
    let letters = word.strip_prefix('-').unwrap_or_default();
    let command = letters.trim_start_matches(['v', 'n', 'x']);
    command.starts_with(['L', 'S', 'C', 'V', 'h', 'Z'])
}

/// Takes the table and the options of the program from the words.
fn table_of(words: Vec<String>) -> Result<(String, Vec<String>), (String, &'static str)> {
    let mut name = "filter".to_owned();
    let mut rest = Vec::new();
    let is_table = |word: &str| {
        word.strip_prefix("-t")
            .is_some_and(|it| TABLES.contains(&it))
    };
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-t" | "--table" => {
                name = words
                    .next()
                    .ok_or(("`-t` needs a table".to_owned(), "write it like `-t nat`"))?;
            }
            _ if word.starts_with("--table=") => name = word["--table=".len()..].to_owned(),
            // `-tnat`
            _ if is_table(&word) => name = word["-t".len()..].to_owned(),
            "-w" | "--wait" | "-W" | "--wait-interval" => {
                let is_number = |next: &String| next.parse::<u32>().is_ok();
                drop(words.next_if(is_number));
            }
            "-v" | "--verbose" | "-n" | "--numeric" => {}
            // The next word is text.
            text if TEXT_OPTIONS.contains(&text) => {
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
