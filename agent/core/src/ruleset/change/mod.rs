//! The difference between two rulesets in the terms of the policy.
//!
//! Each piece of a ruleset belongs to an item of the policy, such as a peer, an allow or an option.
//! An item whose pieces differ is a [`Change`]. Rules that several items share, such as tunnel
//! guards, belong to no item; they are listed one by one only if no item explains the difference.
//! Therefore the list of changes is empty exactly if the rulesets are equal.

mod delta;
mod items;
mod raw;
mod rules;
mod sets;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Ruleset;
pub use raw::raw;

/// Default limit of lines in text output.
pub const LINES_SHOWN: usize = 40;

/// Values of a part that are printed; the rest is only counted.
const VALUES_SHOWN: usize = 8;

/// Effect on an item or on a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ChangeKind")]
pub enum ChangeKind {
    /// The item is new.
    Added,
    /// The item is removed.
    Removed,
    /// The item differs.
    Changed,
}

impl ChangeKind {
    /// Returns the sign in front of a line.
    pub fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
        }
    }
}

/// ChangeKind of item.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ItemKind")]
pub enum What {
    /// All rules of peerwall.
    Rules,
    /// An entry of `[options]`, or `[log] denied`.
    Option,
    /// An entry of `[interfaces]`.
    Interfaces,
    /// A peer.
    Peer,
    /// A group that the policy uses.
    Group,
    /// An overlay.
    Overlay,
    /// An allow.
    Allow,
    /// An entry of `[icmp]`.
    Icmp,
    /// A fact of this host.
    Host,
    /// A rule of a chain.
    Rule,
    /// A chain.
    Chain,
    /// A set.
    Set,
    /// A counter.
    Counter,
    /// An object in the table that peerwall never creates.
    Foreign,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Option => "option",
            Self::Interfaces => "interfaces",
            Self::Peer => "peer",
            Self::Group => "group",
            Self::Overlay => "overlay",
            Self::Allow => "allow",
            Self::Icmp => "icmp",
            Self::Host => "host",
            Self::Rule => "rule",
            Self::Chain => "chain",
            Self::Set => "set",
            Self::Counter => "counter",
            Self::Foreign => "foreign",
        }
    }
}

/// A part of an item.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The value of an item with only one part.
    Value,
    /// Ports and protocols.
    Ports,
    /// Addresses of an overlay.
    Subnets,
    /// Sources.
    From,
    /// Source ports.
    FromPorts,
    /// Destinations.
    To,
    /// Interfaces.
    Interfaces,
    /// Rate limit of new connections.
    Limit,
    /// Port or protocol of a tunnel.
    Tunnel,
    /// Sources other than peers that may send to a tunnel.
    TunnelFrom,
    /// Routes on which packets of an overlay arrive.
    Routes,
    /// Ethernet addresses from which packets of an overlay arrive.
    Macs,
}

impl Part {
    /// Returns the label in front of the values.
    fn label(self) -> &'static str {
        match self {
            Self::Value | Self::Ports | Self::Subnets => "",
            Self::From => "from ",
            Self::FromPorts => "from ports ",
            Self::To => "to ",
            Self::Interfaces => "interfaces ",
            Self::Limit => "limit ",
            Self::Tunnel => "tunnel ",
            Self::TunnelFrom => "tunnel from ",
            Self::Routes => "routes ",
            Self::Macs => "Ethernet addresses ",
        }
    }
}

/// A changed item of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Effect on the item.
    pub kind: ChangeKind,
    /// ChangeKind of the item.
    pub what: What,
    /// Name of the item.
    pub name: String,
    /// Differing parts; all parts of an added or removed item.
    pub parts: Vec<PartChange>,
    /// Whether another program caused the difference by changing the loaded rules.
    pub by_others: bool,
}

/// A changed part of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartChange {
    /// The part.
    pub part: Part,
    /// Removed values.
    pub from: Vec<String>,
    /// Added values.
    pub to: Vec<String>,
}

/// A line of text output, without its sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeLine {
    /// Effect that the line describes; selects sign and colour.
    pub kind: ChangeKind,
    /// Text of the line.
    pub text: String,
}

impl fmt::Display for ChangeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.sign(), self.text)
    }
}

impl Change {
    /// Creates a change of one value.
    pub fn of_value(what: What, name: &str, from: Option<String>, to: Option<String>) -> Self {
        let kind = match (&from, &to) {
            (None, _) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
            (Some(_), Some(_)) => ChangeKind::Changed,
        };
        Self {
            kind,
            what,
            name: name.to_owned(),
            parts: vec![PartChange {
                part: Part::Value,
                from: from.into_iter().collect(),
                to: to.into_iter().collect(),
            }],
            by_others: false,
        }
    }

    /// Creates the removal of an object that has only a name.
    pub fn removal(what: What, name: &str) -> Self {
        Self {
            kind: ChangeKind::Removed,
            what,
            name: name.to_owned(),
            parts: Vec::new(),
            by_others: false,
        }
    }

    /// Reports whether every ruleset has this item, so that a new ruleset need not list it.
    fn is_usual(&self) -> bool {
        let values = self
            .parts
            .iter()
            .flat_map(|part| part.from.iter().chain(&part.to));
        let is_core = self.what == What::Icmp && self.name == "core";
        self.what == What::Option || is_core && values.eq(["true"])
    }

    /// Marks the change as made by another program.
    #[must_use]
    pub fn by_others(self) -> Self {
        Self {
            by_others: true,
            ..self
        }
    }

    /// Formats the change: one line for an added or removed item, else one line per changed part.
    pub fn lines(&self) -> Vec<ChangeLine> {
        let line = |kind, parts: String| ChangeLine {
            kind,
            text: format!("{}{parts}{}", self.subject(), self.others(kind)),
        };
        match self.kind {
            ChangeKind::Added | ChangeKind::Removed => {
                let values = |part: &PartChange| match self.kind {
                    ChangeKind::Removed => part.side(&part.from),
                    ChangeKind::Added | ChangeKind::Changed => part.side(&part.to),
                };
                let parts: String = self.parts.iter().map(values).collect();
                vec![line(self.kind, parts)]
            }
            ChangeKind::Changed => self
                .parts
                .iter()
                .map(|part| line(part.kind(), part.text()))
                .collect(),
        }
    }

    fn subject(&self) -> String {
        let end = if self.what == What::Rule { ":" } else { "" };
        format!("{} {}{end}", self.what.name(), self.name)
    }

    fn others(&self, kind: ChangeKind) -> &'static str {
        match (self.by_others, kind) {
            (false, _) => "",
            // The signs describe what apply does, which is the inverse of the other program's
            // change.
            (true, ChangeKind::Added) => " (another program removed it)",
            (true, ChangeKind::Removed) => " (another program added it)",
            (true, ChangeKind::Changed) => " (another program changed it)",
        }
    }
}

impl PartChange {
    fn kind(&self) -> ChangeKind {
        match (self.from.is_empty(), self.to.is_empty()) {
            (true, _) => ChangeKind::Added,
            (false, true) => ChangeKind::Removed,
            (false, false) => ChangeKind::Changed,
        }
    }

    fn side(&self, values: &[String]) -> String {
        match values {
            [] => String::new(),
            _ => format!(" {}{}", self.part.label(), joined(values)),
        }
    }

    fn text(&self) -> String {
        match self.kind() {
            ChangeKind::Added => self.side(&self.to),
            ChangeKind::Removed => self.side(&self.from),
            ChangeKind::Changed => format!("{} → {}", self.side(&self.from), joined(&self.to)),
        }
    }
}

fn joined(values: &[String]) -> String {
    let shown = values.len().min(VALUES_SHOWN);
    let text = values[..shown].join(", ");
    match values.len() - shown {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Formats changes, one per line. At most `most` lines are printed; the rest is only counted.
pub fn text(changes: &[Change], most: usize, paint: impl Fn(&ChangeLine) -> String) -> String {
    let lines: Vec<ChangeLine> = changes.iter().flat_map(Change::lines).collect();
    let shown = lines.iter().take(most).map(paint);
    let mut text: String = shown.map(|line| format!("  {line}\n")).collect();
    if let more @ 1.. = lines.len().saturating_sub(most) {
        text.push_str(&format!("  … and {more} more\n"));
    }
    text
}

/// Returns the changes from one ruleset to another; `None` means that no rules are loaded.
pub fn changes(from: Option<&Ruleset>, to: Option<&Ruleset>) -> Vec<Change> {
    let nothing = Ruleset::default();
    let mut found = Vec::new();
    let all = match (from, to) {
        (None, None) => return found,
        (None, Some(_)) => Some(ChangeKind::Added),
        (Some(_), None) => Some(ChangeKind::Removed),
        (Some(_), Some(_)) => None,
    };
    let (from, to) = (from.unwrap_or(&nothing), to.unwrap_or(&nothing));
    if let Some(kind) = all {
        found.push(Change {
            kind,
            what: What::Rules,
            name: "of peerwall".to_owned(),
            parts: Vec::new(),
            by_others: false,
        });
    }
    if from != to {
        let of_items = items::changes(from, to).into_iter();
        // Skip what every ruleset has if all rules are new or removed.
        found.extend(of_items.filter(|change| all.is_none() || !change.is_usual()));
    }
    if found.is_empty() && from != to {
        found = raw(from, to);
    }
    found
}
