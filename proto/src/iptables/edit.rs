//! Commands of iptables that change a table: iptables(8), "Commands".

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::current::{CurrentRules, target};
use super::read::Wrong;
use super::{BUILTIN, Chain, Position, Rule, Table, TextError};

/// Words that may precede a command.
const BEFORE_COMMAND: [&str; 6] = ["-4", "-6", "--ipv4", "--ipv6", "-v", "--verbose"];

/// A table while its lines are read.
pub(super) struct OpenTable {
    pub(super) table: Table,
    /// Chains that rules were added to.
    used: HashSet<String>,
    /// User-defined chains, with the numbers of rules between which each one is there.
    lives: HashMap<String, Vec<Range<usize>>>,
    /// The rules that chains have, for `-X`.
    current: CurrentRules,
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
        Self {
            table,
            used: HashSet::new(),
            lives: HashMap::new(),
            current: CurrentRules::default(),
        }
    }

    /// Returns the table, and the lines about chains that are not there at that line.
    pub(super) fn finish(mut self) -> (Table, Vec<TextError>) {
        keep_last_declarations(&mut self.table);
        let mut wrong = Vec::new();
        let lives = &self.lives;
        let is_there = |name: &str, number: usize| {
            let lives = lives.get(name);
            lives.is_none_or(|lives| lives.iter().any(|life| life.contains(&number)))
        };
        let mut number = 0;
        self.table.rules.retain(|rule| {
            let chains = std::iter::once(rule.chain.as_str()).chain(target(&rule.words));
            let missing = chains.into_iter().find(|name| !is_there(name, number));
            number += 1;
            let Some(missing) = missing.filter(|_| rule.position != Position::Flush) else {
                return true;
            };
            wrong.push(TextError {
                line: rule.line,
                text: rule.to_string(),
                why: format!("the chain {missing} is not there at this line"),
                help: "declare it above",
            });
            false
        });
        (self.table, wrong)
    }

    /// Notes that a user-defined chain is there from now on.
    fn begin(&mut self, name: &str) {
        let begun = self.table.rules.len();
        let lives = self.lives.entry(name.to_owned()).or_default();
        if lives.last().is_none_or(|life| life.end != usize::MAX) {
            lives.push(begun..usize::MAX);
        }
    }

    /// Reports whether a user-defined chain is there.
    fn is_there(&self, name: &str) -> bool {
        let last = self.lives.get(name).and_then(|lives| lives.last());
        last.is_some_and(|life| life.end == usize::MAX)
    }

    /// Removes a user-defined chain that is empty and that no rule jumps to; all such chains
    /// without a name.
    fn remove(&mut self, name: Option<&str>) {
        let rules = &self.table.rules;
        self.current.apply(rules);
        let end = rules.len();
        for (chain, lives) in &mut self.lives {
            let is_asked = name.is_none_or(|name| name == chain);
            if let Some(life) = lives.last_mut().filter(|_| is_asked)
                && life.end == usize::MAX
                && self.current.is_free(chain)
            {
                life.end = end;
            }
        }
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
        // A declaration of a built-in chain without a policy changes nothing.
        if chain.policy.is_none() && BUILTIN.contains(&name) {
            return Ok(());
        }
        self.declare(chain, true);
        Ok(())
    }

    /// Adds a declaration. iptables-restore empties a user-defined chain that is declared again.
    fn declare(&mut self, chain: Chain, empties: bool) {
        if chain.policy.is_none() {
            if empties && self.used.contains(&chain.name) {
                self.empty(&chain.name, chain.line);
            }
            self.begin(&chain.name);
        }
        self.table.chains.push(chain);
    }

    /// Reports whether a built-in chain drops here, and what iptables-restore loads instead does
    /// not name it: iptables-legacy then keeps its policy, and iptables-nft does not.
    pub(super) fn forgets(&self, from: &Table) -> bool {
        let drops = |chain: &&Chain| chain.policy.as_deref() == Some("DROP");
        let is_named = |chain: &Chain| from.chains.iter().any(|other| other.name == chain.name);
        let mut before = self.table.chains.iter().filter(drops);
        before.any(|chain| !is_named(chain))
    }

    /// Adds what iptables-restore loads. Unless it keeps them, it removes all rules first.
    pub(super) fn restore(&mut self, from: Table, keeps: bool) {
        if !keeps {
            self.empty("", from.line);
            self.remove(None);
        }
        for chain in from.chains {
            self.declare(chain, keeps);
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
        if !self.is_there(from) {
            let why = format!("no line above declares the chain {from}");
            return Err((why, "declare it with a line like `:NAME - [0:0]`"));
        }
        if to.is_empty() || self.is_there(to) || BUILTIN.contains(&to) {
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
        if let Some(lives) = self.lives.remove(from) {
            self.lives.entry(to.to_owned()).or_default().extend(lives);
        }
        self.current = CurrentRules::default();
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
                if !BUILTIN.contains(&name.as_str()) {
                    let why = format!("{name} is not a built-in chain, so it has no policy");
                    return Err((why, "end it with a rule like `-j DROP`"));
                }
                let policy = rest.next().unwrap_or_default();
                return self.set_policy(&name, &policy, None, number);
            }
            "-N" | "--new-chain" => {
                let name = need_chain()?;
                if self.is_there(&name) || BUILTIN.contains(&name.as_str()) {
                    let why = format!("the chain {name} is there already");
                    return Err((why, "iptables refuses this line; remove it"));
                }
                return self.set_policy(&name, "-", None, number);
            }
            "-E" | "--rename-chain" => {
                let name = need_chain()?;
                return self.rename(&name, &rest.next().unwrap_or_default());
            }
            "-X" | "--delete-chain" => {
                self.remove(chain.as_deref());
                return Ok(());
            }
            // This changes no rules.
            "-Z" | "--zero" => return Ok(()),
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
        // There may be very many rules.
        words.shrink_to_fit();
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

/// Options whose values are any text.
pub(super) const TEXT_OPTIONS: [&str; 6] = [
    "--comment",
    "--log-prefix",
    "--nflog-prefix",
    "--ulog-prefix",
    "--string",
    "--hex-string",
];

/// Reports whether a word is a command of iptables that may change rules, or `-Z`.
pub(super) fn is_command(word: &str) -> bool {
    command(word).is_some()
}

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
