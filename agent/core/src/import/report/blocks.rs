//! Lines without rules: those that open or close a block, parts of sets, and rules that no packet
//! matches.

use std::collections::BTreeMap;

use crate::import::managed;
use crate::import::nft;
use crate::import::rule::At;

/// What lines without rules are, by their numbers.
pub(super) type Blocks = BTreeMap<At, &'static str>;

const OPENS_TABLE: &str = "starts a table";
const OPENS_CHAIN: &str = "starts a chain";
const OPENS_OBJECT: &str = "starts a set, map or other object that rules name";
const OPENS_BANS: &str = "starts a set, map or other object of a table that another program \
     maintains: its entries, such as bans, stay where they are";
const OBJECT: &str = "part of the set, map or other object above";
const HOOK: &str = "the hook and the policy of the chain above";
const ENDS: &str = "ends a block";
const COMMENT: &str = "comment";
const NO_PACKET: &str = "no packet can match this line";
const REST: &str = "part of the rule above";
const SKIPPED: &str = "in a table or chain that a policy does not replace";
/// The same, if no other program manages it.
pub(super) const LOST: &str = "in a table that peerwall does not replace: keep it in a separate \
     file, loaded by nft";
const OTHER: &str = "not a rule";

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
    let mut inside = Inside::Table;
    let mut is_managed = false;
    // A rule may be longer than a line; its handle is in the last one.
    let mut continues = false;
    for (index, whole) in text.lines().enumerate() {
        let line = index + 1;
        let at = At { input, line };
        let text = whole.trim();
        let opens = text.ends_with('{') || text.contains("{ # handle ");
        let is_of_table = whole.starts_with('\t') && !whole.starts_with("\t\t");
        let what = match (inside, text) {
            (_, "}") => {
                inside = Inside::Table;
                ENDS
            }
            _ if text.starts_with('{') => of_object(text),
            _ if whole.starts_with("table ") => {
                let name = nft::table_name(whole);
                let name = name.map(|(family, table)| format!("{family} {table} -"));
                is_managed = name.is_some_and(|name| managed::by(&name).is_some());
                OPENS_TABLE
            }
            _ if is_of_table && opens && text.starts_with("chain ") => {
                inside = Inside::Chain(is_read(at));
                OPENS_CHAIN
            }
            _ if is_of_table && opens => {
                inside = Inside::Object;
                if is_managed { OPENS_BANS } else { OPENS_OBJECT }
            }
            (_, text) if text.starts_with("comment \"") => COMMENT,
            (Inside::Object, _) => OBJECT,
            (Inside::Chain(_), text) if text.starts_with("type ") && text.contains(" hook ") => {
                HOOK
            }
            (Inside::Chain(false), _) if is_managed => SKIPPED,
            (Inside::Chain(false), _) => LOST,
            (Inside::Chain(true), _) if continues => REST,
            (Inside::Chain(true), _) => NO_PACKET,
            (Inside::Table, _) => OTHER,
        };
        let is_rule = matches!(inside, Inside::Chain(_)) && !opens && what != HOOK;
        continues = is_rule && what != COMMENT && !text.contains("# handle ");
        if !is_read(at) {
            found.insert(at, what);
        }
    }
    found
}

/// Returns what an object of JSON without rules is.
fn of_object(text: &str) -> &'static str {
    let starts = |kind: &str| text.starts_with(&format!("{{\"{kind}\""));
    match text {
        _ if starts("table") => OPENS_TABLE,
        _ if starts("chain") => SKIPPED,
        _ if starts("rule") => NO_PACKET,
        _ if starts("metainfo") => OTHER,
        _ => "a set, map or other object that rules name",
    }
}

/// Returns what a line of iptables without rules is.
pub(super) fn of_line(text: &str) -> &'static str {
    let mut words = text.split_whitespace();
    let is_command = |word: &str| word.starts_with('-') && word.len() > 1;
    let first = words.find(|word| is_command(word)).unwrap_or_default();
    let long = |names: &[&str]| names.contains(&first);
    let is_script = text.contains("tables") || text.starts_with('-');
    match is_script {
        true if long(&["-A", "-I", "-R", "--append", "--insert", "--replace"]) => {
            "no rule remains of this line: it is for the other family, or a later line removes it"
        }
        _ if text.contains("ipset ") => "changes sets that rules name",
        true if long(&["-D", "--delete", "-F", "--flush"]) => "removes rules of lines above",
        true if long(&[
            "-N",
            "--new-chain",
            "-X",
            "--delete-chain",
            "-P",
            "--policy",
        ]) =>
        {
            "declares or removes chains, or sets a policy"
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
