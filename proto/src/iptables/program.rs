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

/// Options of iptables-restore.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RestoreOptions {
    /// Whether the rules that are there stay: `--noflush`.
    pub keeps: bool,
    /// The only table that is loaded: `--table`.
    pub only: Option<String>,
}

/// Reads the options of iptables-restore(8); `None` if it loads nothing, or another file.
pub(super) fn restore_options(arguments: &[String]) -> Option<RestoreOptions> {
    let mut found = RestoreOptions::default();
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--noflush" => found.keeps = true,
            "--counters" | "--verbose" => {}
            "-w" | "--wait" | "-W" | "--wait-interval" => {
                let is_number = |next: &&String| next.parse::<u32>().is_ok();
                let _seconds = arguments.next_if(is_number);
            }
            "-T" | "--table" => found.only = Some(arguments.next()?.clone()),
            _ => match (
                argument.strip_prefix("--table="),
                argument.strip_prefix('-'),
            ) {
                (Some(table), _) => found.only = Some(table.to_owned()),
                (None, Some(letters)) if !letters.is_empty() => {
                    if !letters.chars().all(|letter| "ncv".contains(letter)) {
                        return None;
                    }
                    found.keeps |= letters.contains('n');
                }
                (None, _) => return None,
            },
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_restore_are_read_or_the_file_is_not() {
        let read = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            restore_options(&words).map(|found| (found.keeps, found.only.unwrap_or_default()))
        };
        let all = |keeps: bool| Some((keeps, String::new()));
        for (text, wanted) in [
            ("", all(false)),
            ("-nc", all(true)),
            ("-c -v --noflush -w 5", all(true)),
            ("--wait 5 -W 100", all(false)),
            ("-n --table filter", Some((true, "filter".to_owned()))),
            ("--table=nat", Some((false, "nat".to_owned()))),
            ("-T nat -n", Some((true, "nat".to_owned()))),
            ("-t", None),
            ("--test", None),
            ("-nt", None),
            ("/etc/rules", None),
            ("-T", None),
            ("--modprobe=x", None),
        ] {
            assert_eq!(read(text), wanted, "{text}");
        }
    }
}
