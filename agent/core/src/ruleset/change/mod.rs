//! The difference of two rulesets in the words of the policy.
//!
//! The pieces of a ruleset are assigned to items of a policy, such as a peer, an allow or an option. An item whose
//! pieces differ is a [`Change`]. Rules that several items cause together, such as those that guard a tunnel, have no
//! item: they are listed one by one only where no item explains the difference. So there are no changes exactly if
//! the rulesets are equal.

mod items;
mod raw;
mod rules;
mod sets;

use std::fmt;

use serde::Serialize;

use super::Ruleset;
pub use raw::raw;

/// Number of lines that are shown to people unless all are asked for.
pub const LINES_SHOWN: usize = 40;

/// Number of values of a part that are written out; the rest is counted.
const VALUES_SHOWN: usize = 8;

/// What happens to an item, or to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is new.
    Added,
    /// It is removed.
    Removed,
    /// It becomes different.
    Changed,
}

impl Kind {
    /// The sign in front of a line.
    pub fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
        }
    }
}

/// Sort of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// All rules of peerwall.
    Rules,
    /// An entry of `[options]`, or `[log] denied`.
    Option,
    /// An entry of `[interfaces]`.
    Interfaces,
    /// A peer.
    Peer,
    /// A group that something uses.
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
    /// Something in the table that peerwall never makes.
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

/// Part of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The value of an item that has only one part.
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
    /// The rate of new connections.
    Limit,
    /// Port or protocol of a tunnel.
    Tunnel,
    /// Sources besides peers that may send to a tunnel.
    TunnelFrom,
    /// Routes by which packets of an overlay arrive.
    Routes,
    /// Ethernet addresses by which they arrive.
    Macs,
}

impl Part {
    /// The word in front of the values.
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

/// One item of a policy that becomes different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What happens to the item.
    pub kind: Kind,
    /// Sort of item.
    pub what: What,
    /// Its name.
    pub name: String,
    /// The parts that differ; all of them for an item that is added or removed.
    pub parts: Vec<PartChange>,
    /// Whether the difference comes from another program that changed the loaded rules.
    pub by_others: bool,
}

/// One part of an item that becomes different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartChange {
    /// Which part.
    pub part: Part,
    /// Values that go away.
    pub from: Vec<String>,
    /// Values that are new.
    pub to: Vec<String>,
}

/// A line of text for people, without its sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it says, for sign and colour.
    pub kind: Kind,
    /// The text.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.sign(), self.text)
    }
}

impl Change {
    /// A change of one value.
    pub fn of_value(what: What, name: &str, from: Option<String>, to: Option<String>) -> Self {
        let kind = match (&from, &to) {
            (None, _) => Kind::Added,
            (Some(_), None) => Kind::Removed,
            (Some(_), Some(_)) => Kind::Changed,
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

    /// The removal of something that has only a name.
    pub fn removal(what: What, name: &str) -> Self {
        Self {
            kind: Kind::Removed,
            what,
            name: name.to_owned(),
            parts: Vec::new(),
            by_others: false,
        }
    }

    /// Whether every ruleset has the item, so that it is not worth reporting for a new one.
    fn is_usual(&self) -> bool {
        let values = self
            .parts
            .iter()
            .flat_map(|part| part.from.iter().chain(&part.to));
        let is_core = self.what == What::Icmp && self.name == "core";
        self.what == What::Option || is_core && values.eq(["true"])
    }

    /// The same, made by another program.
    #[must_use]
    pub fn by_others(self) -> Self {
        Self {
            by_others: true,
            ..self
        }
    }

    /// Lines for people: one for a new or removed item, one for each part of a changed one.
    pub fn lines(&self) -> Vec<Line> {
        let line = |kind, parts: String| Line {
            kind,
            text: format!("{}{parts}{}", self.subject(), self.others(kind)),
        };
        match self.kind {
            Kind::Added | Kind::Removed => {
                let values = |part: &PartChange| match self.kind {
                    Kind::Removed => part.side(&part.from),
                    Kind::Added | Kind::Changed => part.side(&part.to),
                };
                let parts: String = self.parts.iter().map(values).collect();
                vec![line(self.kind, parts)]
            }
            Kind::Changed => self
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

    fn others(&self, kind: Kind) -> &'static str {
        match (self.by_others, kind) {
            (false, _) => "",
            // The signs say what apply does, and that undoes what the other program did.
            (true, Kind::Added) => " (another program removed it)",
            (true, Kind::Removed) => " (another program added it)",
            (true, Kind::Changed) => " (another program changed it)",
        }
    }
}

impl PartChange {
    fn kind(&self) -> Kind {
        match (self.from.is_empty(), self.to.is_empty()) {
            (true, _) => Kind::Added,
            (false, true) => Kind::Removed,
            (false, false) => Kind::Changed,
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
            Kind::Added => self.side(&self.to),
            Kind::Removed => self.side(&self.from),
            Kind::Changed => format!("{} → {}", self.side(&self.from), joined(&self.to)),
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

/// Formats changes, one a line, at most `most` of them; the rest is counted.
pub fn text(changes: &[Change], most: usize, paint: impl Fn(&Line) -> String) -> String {
    let lines: Vec<Line> = changes.iter().flat_map(Change::lines).collect();
    let shown = lines.iter().take(most).map(paint);
    let mut text: String = shown.map(|line| format!("  {line}\n")).collect();
    if let more @ 1.. = lines.len().saturating_sub(most) {
        text.push_str(&format!("  … and {more} more\n"));
    }
    text
}

/// What becomes different from one ruleset to another; `None` stands for no rules at all.
pub fn changes(from: Option<&Ruleset>, to: Option<&Ruleset>) -> Vec<Change> {
    let nothing = Ruleset::default();
    let mut found = Vec::new();
    let all = match (from, to) {
        (None, None) => return found,
        (None, Some(_)) => Some(Kind::Added),
        (Some(_), None) => Some(Kind::Removed),
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
        // What is always there is no news of rules that are all new.
        found.extend(of_items.filter(|change| all.is_none() || !change.is_usual()));
    }
    if found.is_empty() && from != to {
        found = raw(from, to);
    }
    found
}
