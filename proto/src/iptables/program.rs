//! The program that a command starts, behind words that do not change what it does.

use super::shell::Command;

/// Words before the program.
const PREFIXES: [&str; 7] = ["sudo", "exec", "command", "time", "nohup", "setsid", "env"];

/// Programs that start iptables by the name that follows.
const MULTI: [&str; 2] = ["xtables-nft-multi", "xtables-legacy-multi"];

impl Command {
    fn program_at(&self) -> usize {
        let mut at = 0;
        while let Some(word) = self.words.get(at) {
            let after = self.words.get(at + 1..).unwrap_or_default();
            at += match word.as_str() {
                word if is_assignment(word) || PREFIXES.contains(&name(word)) => 1,
                word if MULTI.contains(&name(word)) => 1,
                "nice" => 1 + options(after, &["-n"]),
                "ionice" => 1 + options(after, &["-c", "-n"]),
                "timeout" if after.first().is_some_and(|word| is_duration(word)) => 2,
                _ => break,
            };
        }
        at
    }

    /// Returns the name of the program, without its folder.
    pub(super) fn program(&self) -> &str {
        name(self.words.get(self.program_at()).map_or("", String::as_str))
    }

    /// Returns the program as the line names it.
    pub(super) fn path(&self) -> &str {
        self.words.get(self.program_at()).map_or("", String::as_str)
    }

    /// Returns the words after the program.
    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(self.program_at() + 1..).unwrap_or_default()
    }

    /// Reports whether a variable or a substitution names the program.
    pub(super) fn is_named_by_variable(&self) -> bool {
        self.is_shell && self.path().contains(['$', '`'])
    }
}

fn name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Reports whether a word is like `NAME=value`.
pub(super) fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else {
        return false;
    };
    let name = name.strip_suffix('+').unwrap_or(name);
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && name.chars().all(is_of_name)
}

/// Counts the words of options with numbers, like `-n 5` or `-n5`.
fn options(words: &[String], names: &[&str]) -> usize {
    let is_number = |word: &str| word.parse::<i32>().is_ok();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let joined = names.iter().find_map(|name| word.strip_prefix(name));
        let next = words.get(at + 1).map_or("", String::as_str);
        at += match joined {
            Some("") if is_number(next) => 2,
            Some(number) if is_number(number) => 1,
            Some(_) | None => break,
        };
    }
    at
}

fn is_duration(word: &str) -> bool {
    let number = word.trim_end_matches(['s', 'm', 'h', 'd']);
    number.parse::<u32>().is_ok_and(|number| number > 0)
}
