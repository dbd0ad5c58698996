//! Parses the words of a rule into conditions and a target, as iptables does: `do_parse()` in
//! `iptables/xshared.c` and `do_command4()` in `iptables/iptables.c`.
//!
//! Every word is a part of the result, or the rule is unknown: it then accepts nothing.

mod core;

use self::core::CoreOptions;
use super::matches::{self, Given, Used};
use super::options::{self, CORE, Opt, Search};
use super::targets::{self, Target};
use super::values::WordError;
use super::{Condition, ImportedRule, RuleContext, Test, Verb};

/// A rule, and the reason why it is unknown, if it is.
pub(super) type Parsed = (Option<ImportedRule>, Option<String>);

/// Parses the words of one rule; `None` for a rule of the other family (`-4`, `-6`).
pub(super) fn read(words: &[String], rule: &RuleContext<'_>) -> Parsed {
    let mut reader = Reader::new(words, rule);
    let read = match reader.all() {
        // iptables-restore skips a line at `-6`, and ip6tables-restore at `-4`.
        Ok(()) if reader.core.is_of_other_family => return (None, None),
        Ok(()) => reader.finish(),
        Err(err) => Err(err),
    };
    match read {
        Ok(read) => (Some(read), None),
        Err((why, help)) => (Some(unknown(words, rule)), Some(format!("{why}; {help}"))),
    }
}

/// Returns the matches of a rule and its target, with their options, in the order that iptables
/// compares them in; `None` for words that cannot be read.
pub(super) fn signature(words: &[String], rule: &RuleContext<'_>) -> Option<Vec<String>> {
    let mut reader = Reader::new(words, rule);
    reader.all().ok()?;
    let options = |name: &str, given: &[Given<'_>]| {
        let mut texts: Vec<String> = given.iter().map(Given::canonical).collect();
        texts.sort_unstable();
        format!("{name} {}", texts.join(" "))
    };
    let matches = reader.matches.iter();
    let mut all: Vec<String> = matches
        .map(|used| options(used.module.name, &used.given))
        .collect();
    let target = reader.target.as_ref();
    all.extend(target.map(|(target, given)| options(target.name, given)));
    Some(all)
}

/// Returns a rule that accepts nothing, for words that cannot be read. The target is what seems to
/// be meant, so that the report can speak of it.
pub(super) fn unknown(words: &[String], rule: &RuleContext<'_>) -> ImportedRule {
    let is_jump = |word: &&String| matches!(word.as_str(), "-j" | "--jump" | "-g" | "--goto");
    let at = words.iter().position(|word| is_jump(&word));
    let name = at
        .and_then(|at| words.get(at + 1))
        .map_or("", String::as_str);
    let target = match name {
        "ACCEPT" => Verb::Accept,
        "DROP" => Verb::Drop,
        "REJECT" => Verb::Reject,
        "RETURN" => Verb::Return,
        name => Verb::Unknown(name.to_owned()),
    };
    let negated = false;
    let test = Test::Unknown(words.join(" "));
    ImportedRule {
        at: rule.at,
        conditions: vec![Condition { negated, test }],
        target,
        comment: None,
    }
}

/// Where an option was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Core,
    Match(&'static str),
    Target,
}

struct Reader<'w> {
    words: &'w [String],
    next: usize,
    rule: &'w RuleContext<'w>,
    core: CoreOptions,
    /// Options that iptables knows at this point, later ones first after its own.
    scopes: Vec<(Scope, &'static [Opt])>,
    matches: Vec<Used<'w>>,
    target: Option<(&'static Target, Vec<Given<'w>>)>,
    /// Whether the match of the protocol was loaded for its options.
    is_protocol_loaded: bool,
}

const REJECTED: &str = "iptables-restore rejects it";

impl<'w> Reader<'w> {
    fn new(words: &'w [String], rule: &'w RuleContext<'w>) -> Self {
        Self {
            words,
            next: 0,
            rule,
            core: CoreOptions::default(),
            scopes: vec![(Scope::Core, CORE)],
            matches: Vec::new(),
            target: None,
            is_protocol_loaded: false,
        }
    }

    fn all(&mut self) -> Result<(), WordError> {
        let mut negated = false;
        while let Some(word) = self.words.get(self.next).map(String::as_str) {
            self.next += 1;
            if word == "!" {
                if negated {
                    return Err(("two `!` follow each other".into(), REJECTED));
                }
                negated = true;
                continue;
            }
            self.option(word, negated)?;
            negated = false;
            if self.core.is_of_other_family {
                return Ok(());
            }
        }
        match negated {
            true => Err(("nothing follows `!`".into(), REJECTED)),
            false => Ok(()),
        }
    }

    fn option(&mut self, word: &'w str, negated: bool) -> Result<(), WordError> {
        let (opt, scope, attached) = self.search(word)?;
        let is_match = scope == Scope::Core && opt.key == "m";
        if attached.is_some() && scope == Scope::Core && !is_match {
            // iptables 1.8.9 takes the whole word for the value.
            let why = format!("`{word}` joins an option and its value");
            return Err((why, "write them as two words"));
        }
        let (negated, values) = self.values(word, opt, negated, attached)?;
        if negated && !opt.inverts {
            let why = format!("`!` cannot precede `{word}`");
            return Err((why, REJECTED));
        }
        let given = Given {
            key: opt.key,
            word,
            negated,
            values,
        };
        match scope {
            Scope::Core => self.core_option(opt, &given),
            Scope::Match(name) => {
                let mut all = self.matches.iter_mut();
                let used = all.find(|used| used.module.name == name && !used.completed);
                let Some(used) = used else {
                    return Ok(());
                };
                // It looks at the protocol at this point.
                if name == "multiport" {
                    check_protocol(used.module, self.core.only_protocol())?;
                }
                add(&mut used.given, opt, given)
            }
            Scope::Target => match &mut self.target {
                Some((_, all)) => add(all, opt, given),
                None => Ok(()),
            },
        }
    }

    /// Finds an option, and the value that the word contains.
    fn search(
        &mut self,
        word: &'w str,
    ) -> Result<(&'static Opt, Scope, Option<&'w str>), WordError> {
        let Some(long) = word.strip_prefix("--") else {
            return short(word);
        };
        let (name, attached) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        loop {
            let newest_first = self.scopes[1..].iter().rev();
            let scopes = self.scopes[..1].iter().chain(newest_first).copied();
            match options::search(name, scopes) {
                _ if name.is_empty() => return Err(unknown_word(word)),
                Search::Found(opt, scope) => return Ok((opt, scope, attached)),
                Search::Ambiguous | Search::Unknown if self.load_protocol() => {}
                Search::Ambiguous => {
                    let why = format!("`{word}` is the beginning of several options");
                    return Err((why, "write the whole option"));
                }
                Search::Unknown => return Err(unknown_word(word)),
            }
        }
    }

    /// Loads the match of the protocol, if it is not loaded.
    fn load_protocol(&mut self) -> bool {
        if self.is_protocol_loaded {
            return false;
        }
        let family = self.rule.family;
        let module = self
            .core
            .protocol()
            .and_then(|p| matches::of_protocol(p, family));
        let Some(module) = module else {
            return false;
        };
        self.is_protocol_loaded = true;
        if self
            .matches
            .iter()
            .any(|used| used.module.name == module.name)
        {
            return false;
        }
        self.load(module);
        true
    }

    fn load(&mut self, module: &'static matches::Module) {
        let mut is_known = false;
        for used in &mut self.matches {
            if used.module.name == module.name {
                used.completed = true;
                is_known = true;
            }
        }
        if !is_known {
            self.scopes
                .push((Scope::Match(module.name), module.options));
        }
        self.matches.push(Used {
            module,
            given: Vec::new(),
            protocol: None,
            completed: false,
        });
    }

    /// Takes the values of an option. Older iptables has `!` between an option and its value.
    fn values(
        &mut self,
        word: &str,
        opt: &Opt,
        negated: bool,
        attached: Option<&'w str>,
    ) -> Result<(bool, Vec<&'w str>), WordError> {
        let mut negated = negated;
        let mut values: Vec<&'w str> = attached.into_iter().collect();
        if opt.values == 0 && attached.is_some() {
            return Err((format!("`{word}` has a value, but needs none"), REJECTED));
        }
        let words = self.words;
        let is_old = || words.get(self.next).is_some_and(|word| word == "!");
        if opt.values > 0 && opt.inverts && attached.is_none() && is_old() {
            if negated {
                return Err((format!("two `!` apply to `{word}`"), REJECTED));
            }
            negated = true;
            self.next += 1;
        }
        while values.len() < opt.values {
            let value = words.get(self.next).map(String::as_str);
            // iptables takes any word for the first value, but no option for the second.
            let value = value.filter(|v| values.is_empty() || !v.starts_with(['-', '!']));
            let Some(value) = value else {
                let why = format!("`{word}` needs {} value(s)", opt.values);
                return Err((why, "add it; the line may be truncated"));
            };
            values.push(value);
            self.next += 1;
            if opt.key == "c" && value.contains(',') {
                break;
            }
        }
        Ok((negated, values))
    }

    fn core_option(&mut self, opt: &Opt, given: &Given<'w>) -> Result<(), WordError> {
        let value = given.value();
        match opt.key {
            "m" => {
                let module = matches::find(value, self.rule.family).ok_or_else(|| {
                    let why = format!("`-m {value}` is an unknown match");
                    (why, "peerwall knows those of iptables-extensions(8)")
                })?;
                self.load(module);
                Ok(())
            }
            "j" | "g" => {
                self.core.target(opt.key == "g", value)?;
                if let Some(target) = targets::find(value).filter(|_| opt.key == "j") {
                    self.scopes.push((Scope::Target, target.options));
                    self.target = Some((target, Vec::new()));
                }
                Ok(())
            }
            _ => self.core.add(given, self.rule),
        }
    }

    /// Rejects a match of a protocol that has an option in two of its uses. iptables-legacy applies
    /// both, iptables-nft one of them.
    fn check_repeated(&self) -> Result<(), WordError> {
        for (index, used) in self.matches.iter().enumerate() {
            let is_header = !used.module.needs.is_empty() && used.module.name != "multiport";
            let later = &self.matches[index + 1..];
            let has_again = |given: &Given<'_>| {
                let mut same = later
                    .iter()
                    .filter(|other| other.module.name == used.module.name);
                same.any(|other| other.given.iter().any(|each| each.key == given.key))
            };
            let again = used.given.iter().find(|given| has_again(given));
            if let Some(given) = again.filter(|_| is_header) {
                return Err((format!("`{}` is there twice", given.word), REJECTED));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ImportedRule, WordError> {
        let protocol = self.core.only_protocol();
        self.check_repeated()?;
        let mut conditions = self.core.conditions(self.rule)?;
        let mut comment = None;
        for used in &mut self.matches {
            used.protocol = protocol;
            check_protocol(used.module, protocol)?;
            conditions.extend((used.module.meaning)(used, self.rule)?);
            if used.module.name == "comment" {
                comment = used.given.first().map(|given| given.value().to_owned());
            }
        }
        let target = match (&self.target, self.core.jump.take()) {
            (Some((target, given)), _) => targets::verb(target, given, protocol, self.rule)?,
            (None, Some((true, chain))) => Verb::Goto(chain),
            (None, Some((false, chain))) => Verb::Jump(chain),
            (None, None) => Verb::Continue("count".into()),
        };
        // Large files have a hundred thousand rules.
        conditions.shrink_to_fit();
        Ok(ImportedRule {
            at: self.rule.at,
            conditions,
            target,
            comment,
        })
    }
}

fn check_protocol(module: &matches::Module, protocol: Option<u8>) -> Result<(), WordError> {
    let needs = module.needs;
    match needs.is_empty() || protocol.is_some_and(|number| needs.contains(&number)) {
        true => Ok(()),
        false => Err((
            format!("`-m {}` needs `-p` with its protocol", module.name),
            "write `-p` before it",
        )),
    }
}

fn unknown_word(word: &str) -> WordError {
    let why = format!("`{word}` is not an option here");
    (why, "it belongs to no match or target of this line")
}

/// Finds an option by its letter: `-s`, `-mtcp`.
fn short(word: &str) -> Result<(&'static Opt, Scope, Option<&str>), WordError> {
    let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
    let letter = letters.and_then(|letters| letters.get(..1));
    let opt = letter
        .and_then(options::by_letter)
        .ok_or_else(|| unknown_word(word))?;
    let attached = letters
        .and_then(|letters| letters.get(1..))
        .filter(|rest| !rest.is_empty());
    Ok((opt, Scope::Core, attached))
}

fn add<'w>(all: &mut Vec<Given<'w>>, opt: &Opt, given: Given<'w>) -> Result<(), WordError> {
    if !opt.repeats && all.iter().any(|earlier| earlier.key == given.key) {
        let why = format!("`{}` is there twice", given.word);
        return Err((why, REJECTED));
    }
    all.push(given);
    Ok(())
}
