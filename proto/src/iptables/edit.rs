//! Commands of iptables that change a table: iptables(8), "Commands".

use std::collections::{HashMap, HashSet};

use super::read::Wrong;
use super::{BUILTIN, Chain, Position, Rule, Table};

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

    pub(super) fn set_policy(
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
            self.empty(name, line);
        }
        self.table.chains.push(chain);
        Ok(())
    }

    /// Adds what iptables-restore loads. Unless it keeps them, it removes all rules first.
    pub(super) fn restore(&mut self, from: Table, keeps: bool) {
        if !keeps {
            self.empty("", from.line);
        }
        for chain in from.chains {
            if chain.policy.is_none() && keeps && self.used.contains(&chain.name) {
                self.empty(&chain.name, chain.line);
            }
            self.table.chains.push(chain);
        }
        self.used
            .extend(from.rules.iter().map(|rule| rule.chain.clone()));
        self.table.rules.extend(from.rules);
    }

    /// Removes all rules of a chain; of every chain if the name is empty.
    fn empty(&mut self, chain: &str, line: usize) {
        self.table.rules.push(Rule {
            chain: chain.to_owned(),
            position: Position::Flush,
            counters: None,
            words: Vec::new(),
            line,
        });
    }

    /// Renames a user-defined chain, also where rules jump to it.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), Wrong> {
        let is_known = |name: &str| self.table.chains.iter().any(|chain| chain.name == name);
        if !is_known(from) {
            let why = format!("no line above declares the chain {from}");
            return Err((why, "declare it with a line like `:NAME - [0:0]`"));
        }
        if to.is_empty() || is_known(to) || BUILTIN.contains(&to) {
            let why = format!("`-E {from}` needs a new name, which no chain has");
            return Err((why, "write it like `-E OLD NEW`"));
        }
        for chain in self
            .table
            .chains
            .iter_mut()
            .filter(|chain| chain.name == from)
        {
            to.clone_into(&mut chain.name);
        }
        for rule in &mut self.table.rules {
            if rule.chain == from {
                to.clone_into(&mut rule.chain);
            }
            let mut is_target = false;
            for word in &mut rule.words {
                if is_target && word == from {
                    to.clone_into(word);
                }
                is_target = matches!(word.as_str(), "-j" | "--jump" | "-g" | "--goto");
            }
        }
        if self.used.remove(from) {
            self.used.insert(to.to_owned());
        }
        Ok(())
    }

    /// Adds a command to a table.
    pub(super) fn edit(
        &mut self,
        counters: Option<(u64, u64)>,
        mut words: Vec<String>,
        number: usize,
    ) -> Result<(), Wrong> {
        let mut rest = take_command(&mut words)?.into_iter();
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
            "-E" | "--rename-chain" => {
                let name = need_chain()?;
                return self.rename(&name, &rest.next().unwrap_or_default());
            }
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

/// Takes the command of iptables with its values from the words of a line, which may have it behind
/// conditions, and attached to its value, like `-AINPUT`. Without a command, takes the first word.
///
/// # Errors
/// Two commands.
fn take_command(words: &mut Vec<String>) -> Result<Vec<String>, Wrong> {
    let is_before = |word: &&String| BEFORE_COMMAND.contains(&word.as_str());
    let before = words.iter().take_while(is_before).count();
    let is_first = words
        .get(before)
        .is_some_and(|word| command(word).is_some());
    let is_text = |at: usize| {
        let last = at.checked_sub(1).and_then(|at| words.get(at));
        last.is_some_and(|word| TEXT_OPTIONS.contains(&word.as_str()))
    };
    let numbered = words.iter().enumerate();
    let mut commands = numbered.filter_map(|(at, word)| {
        let command = command(word).filter(|_| !is_text(at));
        command.map(|(verb, attached)| (at, verb, attached))
    });
    let Some((at, verb, attached)) = commands.next() else {
        return Ok(words.split_off(before.min(words.len())));
    };
    if let Some((_, other, _)) = commands.next().filter(|_| !is_first) {
        let why = format!("`{verb}` and `{other}` are two commands");
        return Err((why, "write one command on each line"));
    }
    let mut taken: Vec<String> = std::iter::once(verb).chain(attached).collect();
    let rest = words.split_off(at).split_off(1);
    if at == before {
        taken.extend(rest);
        return Ok(taken);
    }
    // Behind conditions, the values of the command are the words up to the next option.
    let is_value = |word: &&String| !word.starts_with(['-', '!']);
    let values = rest.iter().take_while(is_value).count();
    let mut rest = rest.into_iter();
    taken.extend(rest.by_ref().take(values));
    words.extend(rest);
    Ok(taken)
}

/// Reports whether a command is about a rule by its number, other than the first place.
pub(super) fn names_number(words: &[String]) -> bool {
    let taken = take_command(&mut words.to_vec()).unwrap_or_default();
    let number = taken.get(2).and_then(|word| word.parse::<usize>().ok());
    match taken.first().map(String::as_str) {
        Some("-I" | "--insert") => number.is_some_and(|number| number != 1),
        Some("-D" | "--delete" | "-R" | "--replace") => number.is_some(),
        Some(_) | None => false,
    }
}

/// Options whose values are any text.
const TEXT_OPTIONS: [&str; 6] = [
    "--comment",
    "--log-prefix",
    "--nflog-prefix",
    "--ulog-prefix",
    "--string",
    "--hex-string",
];

/// Splits a word like `-AINPUT` or `--append=INPUT` into a command of iptables and its value.
fn command(word: &str) -> Option<(String, Option<String>)> {
    const LETTERS: &str = "AIRDFPNEXZ";
    const NAMES: [&str; 10] = [
        "append",
        "insert",
        "replace",
        "delete",
        "flush",
        "policy",
        "new-chain",
        "rename-chain",
        "delete-chain",
        "zero",
    ];
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        return NAMES.contains(&name).then(|| (format!("--{name}"), value));
    }
    let letters = word.strip_prefix('-')?.trim_start_matches('v');
    let letter = letters.chars().next().filter(|c| LETTERS.contains(*c))?;
    let value = letters.get(1..).filter(|value| !value.is_empty());
    Some((format!("-{letter}"), value.map(str::to_owned)))
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
