//! Reads nftables rulesets, from listings in JSON: `nft -j list ruleset`.
//!
//! What nft implies is explicit in the result: the family and protocol of every header that a rule
//! reads, one rule for each verdict of a map, and destinations before DNAT. Every key of every
//! statement is accounted for; rules with others have a condition [`Test::Unknown`].
//!
//! [`Test::Unknown`]: super::rule::Test::Unknown

mod base;
mod flags;
mod key;
pub mod live;
mod maps;
mod mark;
mod notes;
mod objects;
mod place;
mod relation;
mod statement;
mod symbols;
mod text;
mod translation;
mod values;

pub(super) use place::table_name;
use serde_json::Value;

use super::rule::{At, ImportedRules};
use super::{File, ImportError, Lint};
use crate::net::addr::Family;
use base::Walk;
use objects::Objects;
use place::Places;

/// A remark on a ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line of the table, chain or rule.
    pub at: Option<At>,
    /// Stable name.
    pub name: &'static str,
    /// What the ruleset contains.
    pub text: String,
    /// What the import does with it, or the remedy.
    pub answer: String,
}

impl From<Note> for Lint {
    fn from(note: Note) -> Self {
        Self {
            name: note.name,
            sentence: note.text,
            answer: note.answer,
        }
    }
}

/// A ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftRuleset {
    /// The text whose lines the rules refer to: nft's listing, or one JSON object on a line.
    pub text: String,
    /// Rules of each family that is filtered.
    pub rules: Vec<ImportedRules>,
    /// Remarks.
    pub notes: Vec<Note>,
}

/// Reports whether a text is a listing in JSON. Its objects may be followed by the output of
/// `nft -a list ruleset`.
pub fn is_listing(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let rest = text.strip_prefix('{').map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with("\"nftables\""))
}

/// Reports whether a text is a file for `nft -f`, which nft itself must load.
pub fn is_script(text: &str) -> bool {
    const STARTS: [&str; 14] = [
        "table", "add", "create", "delete", "destroy", "flush", "define", "redefine", "undefine",
        "include", "insert", "chain", "list", "reset",
    ];
    const OBJECTS: [&str; 12] = [
        "inet", "ip", "ip6", "arp", "bridge", "netdev", "table", "chain", "rule", "set", "map",
        "ruleset",
    ];
    let text = text.trim_start_matches('\u{feff}');
    let shebang = text.lines().next().unwrap_or_default();
    if shebang.starts_with("#!") {
        return shebang.split(['/', ' ']).any(|word| word == "nft");
    }
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let mut words = first.unwrap_or_default().split_whitespace();
    let (verb, object) = (words.next(), words.next().unwrap_or_default());
    let object = object.trim_end_matches([';', '{']);
    match verb.unwrap_or_default() {
        "define" | "redefine" | "include" => true,
        // A table without a family is one of IPv4.
        "table" => !object.is_empty(),
        verb => STARTS.contains(&verb) && OBJECTS.contains(&object),
    }
}

/// Reads a listing in JSON.
///
/// # Errors
/// [`ImportError`] if it is no such listing, or if nothing filters packets to this host.
pub fn read(file: &File, input: usize) -> Result<NftRuleset, ImportError> {
    read_beside(file, input, false)
}

/// Reads a listing in JSON. `is_beside` means that rules of iptables are in force too.
pub(super) fn read_beside(
    file: &File,
    input: usize,
    is_beside: bool,
) -> Result<NftRuleset, ImportError> {
    let (json, listing) = split(file)?;
    let objects = json["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let places = match listing.trim().is_empty() {
        true => Places::of_objects(input),
        false => Places::of_listing(input, listing),
    };
    let text = match listing.trim().is_empty() {
        true => place::lines_of(objects),
        false => listing.to_owned(),
    };
    if objects.iter().any(is_command) {
        return Err(ImportError::whole(
            &file.name,
            "it contains commands, for `nft -j -f`",
            "load it, and import the output of `nft -j list ruleset`",
        ));
    }
    let objects = Objects::new(objects);
    let (skip, mut notes) = notes::of_tables(&objects, &places, listing);
    let walks = Family::BOTH.map(|family| Walk::new(&objects, family, &skip, is_beside));
    if !is_beside && !walks.iter().any(|walk| walk.filters("input")) {
        return Err(ImportError::whole(
            &file.name,
            "no chain of type filter has the hook input, so nothing says what this host accepts",
            "import the whole ruleset, with the firewall loaded",
        ));
    }
    let filters = |walk: &&Walk<'_, '_>| {
        let hooks = ["input", "forward", "prerouting"];
        is_beside || hooks.iter().any(|hook| walk.filters(hook))
    };
    let rules: Vec<ImportedRules> = walks
        .iter()
        .filter(filters)
        .map(|walk| walk.rules(&places))
        .collect();
    notes.extend(notes::of_rules(&rules));
    Ok(NftRuleset { text, rules, notes })
}

/// Reports whether an object of the JSON is a command, not what a listing contains.
fn is_command(object: &Value) -> bool {
    const COMMANDS: [&str; 10] = [
        "add", "replace", "create", "insert", "delete", "destroy", "list", "reset", "flush",
        "rename",
    ];
    text::single(object).is_some_and(|(kind, _)| COMMANDS.contains(&kind))
}

/// Splits a text into its JSON and the listing after it, which starts on a line of its own.
pub(super) fn split(file: &File) -> Result<(Value, &str), ImportError> {
    let text = file.text.trim_start_matches('\u{feff}');
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let found = values.next();
    let rest = text.get(values.byte_offset()..).unwrap_or_default();
    let listing = rest.strip_prefix('\r').unwrap_or(rest);
    let listing = listing.strip_prefix('\n').unwrap_or(listing);
    match found {
        Some(Ok(json)) => Ok((json, listing)),
        Some(Err(err)) => Err(ImportError {
            file: file.name.clone(),
            line: err.line(),
            why: format!("the JSON is invalid: {err}"),
            help: "import the output of `nft -j list ruleset`".to_owned(),
        }),
        None => Err(ImportError::whole(
            &file.name,
            "the file is empty",
            "import the output of `nft -j list ruleset`",
        )),
    }
}
