//! What commands of a script are for, other than those of iptables and ipset that are read.

use std::collections::BTreeMap;

use super::program::is_assignment;
use super::script::{is_ours, restored_family};
use super::shell::Command;

/// Programs that run other commands.
const INTERPRETERS: [&str; 13] = [
    "eval", "sh", "bash", "dash", "ash", "zsh", "ksh", ".", "source", "perl", "ruby", "busybox",
    "awk",
];

/// Programs that print, test, or change files only.
const IDLE: [&str; 28] = [
    "echo",
    "printf",
    "logger",
    ":",
    "true",
    "[",
    "[[",
    "test",
    "which",
    "type",
    "hash",
    "mkdir",
    "chmod",
    "chown",
    "rm",
    "touch",
    "cat",
    "ls",
    "cp",
    "mv",
    "grep",
    "sleep",
    "modprobe",
    "lsmod",
    "cd",
    "iptables-save",
    "ip6tables-save",
    "set",
];

/// Commands that only set variables.
const SETTERS: [&str; 5] = ["export", "readonly", "local", "declare", "typeset"];

/// Reports whether words name a program that changes rules, also within other text.
pub(super) fn names_tool<'w>(mut words: impl Iterator<Item = &'w String>) -> bool {
    words.any(|word| {
        let mut parts = word.split(|c: char| !c.is_ascii_alphanumeric());
        let is_tool = |part| matches!(part, "nft" | "ipset" | "ufw");
        let names = ["iptables", "ip6tables", "xtables", "firewall-cmd"];
        names.iter().any(|name| word.contains(name)) || parts.any(is_tool)
    })
}

/// Reports whether only the shell can tell what a command does with rules.
pub(super) fn needs_shell(command: &Command) -> bool {
    let inner = Command {
        words: body(command).to_vec(),
        is_shell: command.is_shell,
        is_piped: command.is_piped,
        ..Command::default()
    };
    if why_idle(&inner).is_some() {
        return false;
    }
    let program = inner.program();
    let is_script = program.ends_with(".sh") || program.starts_with("python");
    let runs_other = is_script || INTERPRETERS.contains(&program);
    runs_other || inner.is_named_by_variable() || names_tool(inner.words.iter())
}

/// Returns why a command does not change rules of this host, if its program tells.
pub(super) fn why_idle(command: &Command) -> Option<&'static str> {
    const NO_RULES: &str = "this command changes no rules";
    if command.is_piped || command.function.is_some() {
        return None;
    }
    let words = without_keywords(&command.words);
    let bare = Command {
        words: words.to_vec(),
        is_shell: command.is_shell,
        ..Command::default()
    };
    if is_setting(words) {
        return Some("sets a variable");
    }
    if bare.words.iter().any(|word| is_substitution(word)) {
        return None;
    }
    let first = bare.arguments().first().map_or("", String::as_str);
    match bare.program() {
        "ssh" => Some("runs on another host"),
        "ip" if names_namespace(bare.arguments()) => Some("runs in another network namespace"),
        "-v" | "-V" if words.first().is_some_and(|word| word == "command") => Some(NO_RULES),
        "dpkg" | "rpm" if first.starts_with('-') => Some(NO_RULES),
        program if IDLE.contains(&program) => Some(NO_RULES),
        _ => None,
    }
}

fn names_namespace(arguments: &[String]) -> bool {
    let mut words = arguments.iter();
    let netns = words.find(|word| !word.starts_with('-'));
    netns.is_some_and(|word| word.starts_with("net")) && words.next().is_some_and(|w| w == "exec")
}

/// Reports whether words only set variables. The value may be the path of a program.
fn is_setting(words: &[String]) -> bool {
    let is_setter = |word: &String| SETTERS.contains(&word.as_str());
    let rest = match words.split_first() {
        Some((first, rest)) if is_setter(first) => rest,
        Some(_) | None => words,
    };
    let Some(first) = rest.first() else {
        return !words.is_empty();
    };
    if !rest.iter().any(|word| is_substitution(word)) {
        let is_plain = |word: &String| is_assignment(word) || words.len() > rest.len();
        return rest.iter().all(is_plain);
    }
    let text = rest.join(" ");
    let inner = text.split_once("$(").or_else(|| text.split_once('`'));
    let asks = |inner: &str| {
        let names = ["which ", "command -v ", "type -p ", "type -P "];
        names
            .iter()
            .any(|name| inner.trim_start().starts_with(name))
    };
    let is_one = text.matches("$(").count() + text.matches('`').count().div_ceil(2) == 1;
    let ends = text.ends_with([')', '`']);
    is_assignment(first) && is_one && ends && inner.is_some_and(|(_, inner)| asks(inner))
}

fn is_substitution(word: &str) -> bool {
    ["$(", "`", "<(", ">("]
        .iter()
        .any(|mark| word.contains(mark))
        && !word.starts_with("$((")
}

fn without_keywords(words: &[String]) -> &[String] {
    let is_keyword = |word: &&String| matches!(word.as_str(), "if" | "while" | "until" | "!");
    let count = words.iter().take_while(is_keyword).count();
    words.get(count..).unwrap_or_default()
}

/// Returns the words of a command, or those after the `{` or `(` of a function.
fn body(command: &Command) -> &[String] {
    let Some(_) = command.function else {
        return &command.words;
    };
    let opens = command
        .words
        .iter()
        .position(|word| word.ends_with(['{', '(']));
    opens
        .and_then(|at| command.words.get(at + 1..))
        .unwrap_or_default()
}

/// Whether a script ends at a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Never,
    Maybe,
    Surely,
}

/// Reports whether a script ends at a command.
pub(super) fn ending(command: &Command) -> Ending {
    let words = body(command);
    let first = words.first().map_or("", String::as_str);
    match first {
        "exit" if command.is_conditional || command.is_redirected => Ending::Maybe,
        "exit" if is_plain_exit(words) => Ending::Surely,
        // `set -n`: the shell runs nothing below.
        "set" if !command.is_conditional && has_option(words, "n", "noexec") => Ending::Surely,
        "exit" | "return" => Ending::Maybe,
        "exec" if words.len() > 1 => Ending::Maybe,
        "kill" if words.iter().any(|word| word == "$$") => Ending::Maybe,
        _ if is_in_case(words) => Ending::Maybe,
        _ => Ending::Never,
    }
}

/// Reports whether `exit` has at most one argument, a number. With others, bash goes on.
fn is_plain_exit(words: &[String]) -> bool {
    let is_number = |word: &String| word.starts_with('$') || word.parse::<u32>().is_ok();
    match words {
        [_] => true,
        [_, status] => is_number(status),
        _ => false,
    }
}

/// Reports whether a command of another program may fail, and ends a script with `set -e` then.
pub(super) fn may_fail(command: &Command) -> bool {
    const SAFE: [&str; 13] = [
        "true", ":", "echo", "printf", "export", "local", "readonly", "set", "unset", "shift",
        "umask", "sleep", "trap",
    ];
    let words = without_keywords(body(command));
    let first = words.first().map_or("", String::as_str);
    let is_assignment = words.iter().all(|word| is_assignment(word));
    let is_other = !is_ours(command.program()) && restored_family(command.program()).is_none();
    let is_safe = SAFE.contains(&first) || first.is_empty() || is_assignment;
    is_other && !is_safe && !command.may_fail && !command.is_conditional && command.reader.is_none()
}

/// Reports whether the first line of a script is like `#!/bin/sh -e`.
pub(super) fn is_interpreter_that_ends(line: &str) -> bool {
    let words = line.strip_prefix("#!").into_iter();
    let mut words = words.flat_map(str::split_whitespace).skip(1);
    words.any(|word| has_letter(word, "e"))
}

/// Reports whether words are like `set -eu` or `set -o errexit`.
pub(super) fn sets_end(words: &[String]) -> bool {
    let starts = words.first().is_some_and(|word| word == "set");
    starts && has_option(words, "e", "errexit")
}

/// Reports whether `set` sets an option, which has a letter and a name.
fn has_option(words: &[String], letter: &str, name: &str) -> bool {
    let mut words = words.iter();
    words.any(|word| has_letter(word, letter) || word == name)
}

fn has_letter(word: &str, letter: &str) -> bool {
    let letters = word.strip_prefix('-').unwrap_or_default();
    !letters.starts_with('-') && letters.contains(letter)
}

/// Reports whether words end the script after a pattern of `case`.
fn is_in_case(words: &[String]) -> bool {
    let mut pairs = words.iter().zip(words.iter().skip(1));
    pairs
        .any(|(pattern, word)| pattern.ends_with(')') && matches!(word.as_str(), "exit" | "return"))
}

/// What a function does when it is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub changes_rules: bool,
    pub ends: bool,
}

/// The functions and aliases of a script.
#[derive(Debug, Default)]
pub(super) struct Functions {
    effects: BTreeMap<String, Effect>,
    /// Indices of the commands in their bodies.
    inside: Vec<bool>,
    /// Programs and words that are read, and the lines from which functions or aliases replace
    /// them: nobody knows what these do.
    shadows: BTreeMap<String, usize>,
}

/// Reports whether a script's reader knows what a command of this name does.
fn is_read(name: &str) -> bool {
    const WORDS: [&str; 6] = ["exit", "return", "exec", "set", "sudo", "command"];
    is_ours(name) || restored_family(name).is_some() || WORDS.contains(&name)
}

impl Functions {
    pub(super) fn new(commands: &[Command]) -> Self {
        let mut found = Self {
            effects: BTreeMap::new(),
            inside: vec![false; commands.len()],
            shadows: BTreeMap::new(),
        };
        // Functions call others: repeat until nothing changes.
        while found.pass(commands) {}
        found
    }

    fn pass(&mut self, commands: &[Command]) -> bool {
        let mut is_changed = false;
        for (index, command) in commands.iter().enumerate() {
            for (name, effect) in self.definitions(commands, index, command) {
                let known = self.effects.entry(name).or_default();
                let both = Effect {
                    changes_rules: known.changes_rules || effect.changes_rules,
                    ends: known.ends || effect.ends,
                };
                is_changed |= both != *known;
                *known = both;
            }
        }
        is_changed
    }

    fn definitions(
        &mut self,
        commands: &[Command],
        index: usize,
        command: &Command,
    ) -> Vec<(String, Effect)> {
        if command.words.first().is_some_and(|word| word == "alias") {
            let names = command.words.iter().filter_map(|word| word.split_once('='));
            let read = names.clone().filter(|(name, _)| is_read(name));
            self.shadows
                .extend(read.map(|(name, _)| (name.to_owned(), command.line)));
            let names = names.filter(|(name, _)| !is_read(name));
            let effect = Effect {
                changes_rules: true,
                ends: false,
            };
            return names.map(|(name, _)| (name.to_owned(), effect)).collect();
        }
        let Some(name) = command.function.clone() else {
            return Vec::new();
        };
        let end = end_of_body(commands, index);
        if is_read(&name) {
            self.shadows.entry(name.clone()).or_insert(command.line);
        }
        let mut effect = Effect {
            // A body that is not in braces is not followed.
            changes_rules: end == index + 1 && command.nesting.0 == command.nesting.1,
            ends: false,
        };
        for at in index..end {
            if let (Some(command), Some(inside)) = (commands.get(at), self.inside.get_mut(at)) {
                *inside = true;
                let called = self.called(command);
                let is_return = command.words.first().is_some_and(|word| word == "return");
                let ends = ending(command) != Ending::Never && !is_return;
                effect.changes_rules |= called.changes_rules || needs_shell(command);
                effect.ends |= called.ends || ends;
            }
        }
        vec![(name, effect)]
    }

    /// Returns what a call does; nothing if the command calls no function.
    pub(super) fn called(&self, command: &Command) -> Effect {
        let words = without_keywords(body(command));
        let first = words.first().map_or("", String::as_str);
        let is_shadowed = |name: &str| {
            let line = self.shadows.get(name);
            line.is_some_and(|line| *line < command.line)
        };
        if [first, command.path(), command.program()]
            .into_iter()
            .any(is_shadowed)
        {
            return Effect {
                changes_rules: true,
                ends: false,
            };
        }
        let names = [first, command.path()];
        let mut known = names.iter().filter_map(|name| self.effects.get(*name));
        known.next().copied().unwrap_or_default()
    }

    /// Reports whether a command is in the body of a function.
    pub(super) fn contain(&self, index: usize) -> bool {
        self.inside.get(index).copied().unwrap_or(false)
    }
}

/// Returns the index after the body of the function that a command begins.
fn end_of_body(commands: &[Command], index: usize) -> usize {
    let (outer, inner) = commands
        .get(index)
        .map_or((0, 0), |command| command.nesting);
    let mut end = index + 1;
    while let Some(next) = commands.get(end) {
        let opens = end == index + 1 && inner == outer && next.nesting.1 > outer;
        if next.nesting.0 <= outer && !opens {
            break;
        }
        end += 1;
    }
    end
}
