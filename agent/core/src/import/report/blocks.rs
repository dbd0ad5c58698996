//! Lines without rules: those that open or close a block, parts of sets, and rules that no packet
//! matches.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::import::managed;
use crate::import::nft;
use crate::import::rule::At;

/// A line without rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// What the report says of it.
    Is(&'static str),
    /// A rule of a table that neither peerwall nor another program takes care of.
    Lost,
}

/// What lines without rules are, by their numbers.
pub(super) type Blocks = BTreeMap<At, Block>;

const OPENS_TABLE: Block = Block::Is("starts a table");
const OPENS_CHAIN: Block = Block::Is("starts a chain");
const OPENS_OBJECT: Block = Block::Is("starts a set, map or other object that rules name");
const OPENS_BANS: Block = Block::Is(
    "starts a set, map or other object of a table that another program \
     maintains: its entries, such as bans, stay where they are",
);
const OBJECT: Block = Block::Is("part of the set, map or other object above");
const HOOK: Block = Block::Is("the hook and the policy of the chain above");
const ENDS: Block = Block::Is("ends a block");
const COMMENT: Block = Block::Is("comment");
const NO_PACKET: Block = Block::Is("no packet can match this line");
const REST: Block = Block::Is("part of the rule above");
const SKIPPED: Block = Block::Is("in a table or chain that a policy does not replace");
/// Why a lost line is not converted.
pub(super) const WHY_LOST: &str = "in a table that peerwall does not replace: keep it in a separate \
     file, loaded by nft";
const OTHER: Block = Block::Is("not a rule");

/// Family, table and name of a chain.
type ChainName = [String; 3];

/// The block that a line is in.
#[derive(Clone, Copy)]
enum Inside {
    Table,
    Object,
    /// A chain, and whether its rules are read.
    Chain(bool),
}

/// Finds out what the lines of a listing without rules are. `is_read` reports whether the line of a
/// chain or rule is in the model.
pub(super) fn of_listing(input: usize, text: &str, is_read: impl Fn(At) -> bool) -> Blocks {
    let mut found = Blocks::new();
    let read = read_chains(input, text, &is_read);
    let mut inside = Inside::Table;
    let mut is_of_program = false;
    // A rule may be longer than a line; its handle is in the last one.
    let mut continues = false;
    for (index, whole) in text.lines().enumerate() {
        let line = index + 1;
        let at = At { input, line };
        let text = whole.trim();
        let opens = text.ends_with('{') || text.contains("{ # handle ");
        let is_of_table = whole.starts_with('\t') && !whole.starts_with("\t\t");
        let what = match (inside, text) {
            // A chain without a name, inside of a rule, is indented further.
            (_, "}") if !whole.starts_with("\t\t") => {
                inside = Inside::Table;
                ENDS
            }
            _ if text.starts_with('{') => of_object(text, &read),
            _ if whole.starts_with("table ") => {
                let name = nft::table_name(whole);
                is_of_program = name.is_some_and(|(family, table)| is_managed(&family, &table));
                OPENS_TABLE
            }
            _ if is_of_table && opens && text.starts_with("chain ") => {
                inside = Inside::Chain(is_read(at));
                OPENS_CHAIN
            }
            _ if is_of_table && opens => {
                inside = Inside::Object;
                if is_of_program {
                    OPENS_BANS
                } else {
                    OPENS_OBJECT
                }
            }
            (_, text) if text.starts_with("comment \"") => COMMENT,
            (Inside::Object, _) => OBJECT,
            (Inside::Chain(_), text) if text.starts_with("type ") && text.contains(" hook ") => {
                HOOK
            }
            (Inside::Chain(false), _) if is_of_program => SKIPPED,
            (Inside::Chain(false), _) => Block::Lost,
            (Inside::Chain(true), _) if continues => REST,
            (Inside::Chain(true), _) => NO_PACKET,
            (Inside::Table, _) => OTHER,
        };
        let is_rule = matches!(inside, Inside::Chain(_)) && !(is_of_table && opens) && what != HOOK;
        continues = is_rule && what != COMMENT && !text.contains("# handle ");
        if !is_read(at) {
            found.insert(at, what);
        }
    }
    found
}

/// Reports whether another program maintains a table.
fn is_managed(family: &str, table: &str) -> bool {
    managed::by(&format!("{family} {table} -")).is_some()
}

/// Returns the chains in the model of a listing as JSON, one object a line.
fn read_chains(input: usize, text: &str, is_read: impl Fn(At) -> bool) -> BTreeSet<ChainName> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, text)| text.starts_with("{\"chain\""));
    let lines = lines.filter(|(index, _)| {
        let line = index + 1;
        is_read(At { input, line })
    });
    let name = |(_, text): (usize, &str)| chain_name(&serde_json::from_str(text).ok()?, "name");
    lines.filter_map(name).collect()
}

/// Returns the chain that an object is, or is in. The key is that of the chain's own name.
fn chain_name(object: &Value, key: &str) -> Option<ChainName> {
    let object = object.as_object()?.values().next()?;
    let text = |key: &str| Some(object.get(key)?.as_str()?.to_owned());
    Some([text("family")?, text("table")?, text(key)?])
}

/// Returns what an object of JSON without rules is.
fn of_object(text: &str, read: &BTreeSet<ChainName>) -> Block {
    let starts = |kind: &str| text.starts_with(&format!("{{\"{kind}\""));
    match text {
        _ if starts("table") => OPENS_TABLE,
        _ if starts("chain") => SKIPPED,
        _ if starts("rule") => {
            let object = serde_json::from_str(text).ok();
            match object.and_then(|object| chain_name(&object, "chain")) {
                Some(chain) if read.contains(&chain) => NO_PACKET,
                Some([family, table, _]) if is_managed(&family, &table) => SKIPPED,
                Some(_) | None => Block::Lost,
            }
        }
        _ if starts("metainfo") => OTHER,
        _ => Block::Is("a set, map or other object that rules name"),
    }
}

/// Returns what a line of iptables without rules is.
pub(super) fn of_line(text: &str) -> Block {
    let mut words = text.split_whitespace();
    let is_command = |word: &str| word.starts_with('-') && word.len() > 1;
    let first = words.find(|word| is_command(word)).unwrap_or_default();
    let long = |names: &[&str]| names.contains(&first);
    let is_script = text.contains("tables") || text.starts_with('-');
    match is_script {
        true if long(&["-A", "-I", "-R", "--append", "--insert", "--replace"]) => Block::Is(
            "no rule remains of this line: it is for the other family, or a later line removes it",
        ),
        _ if text.contains("ipset ") => Block::Is("changes sets that rules name"),
        true if long(&["-D", "--delete", "-F", "--flush"]) => {
            Block::Is("removes rules of lines above")
        }
        true if long(&[
            "-N",
            "--new-chain",
            "-X",
            "--delete-chain",
            "-P",
            "--policy",
        ]) =>
        {
            Block::Is("declares or removes chains, or sets a policy")
        }
        _ => OTHER,
    }
}

/// Reports whether a line removes or replaces rules.
pub(super) fn removes(text: &str) -> bool {
    const VERBS: [&str; 8] = [
        "-D",
        "--delete",
        "-F",
        "--flush",
        "-R",
        "--replace",
        "-E",
        "--rename-chain",
    ];
    let mut words = text.split_whitespace();
    words.any(|word| VERBS.contains(&word.trim_matches(['\'', '"', ';', '[', ']', ','])))
}
