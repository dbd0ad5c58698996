//! Sets in output of `ipset save` and input of `ipset restore`. Semantics: ipset(8) and
//! `net/netfilter/ipset/` in Linux.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use peerwall_proto::ipset::{SetLine, line};
use peerwall_proto::iptables::{Rule, Save};

use super::elements::{Element, elements, sort_out};
use super::uses::{CHANGES, Lives, Uses, set_names};
use crate::import::rule::{At, ImportedSet, ImportedSets, Interval, Problems};
use crate::net::addr::Family;

/// A set while its commands are applied.
#[derive(Debug, Clone)]
pub(super) struct Building {
    /// `hash:ip`, `list:set`, …
    pub kind: String,
    /// `family`
    pub family: Family,
    /// `netmask`
    pub netmask: Option<u8>,
    /// `range`, of a bitmap: it has no other elements.
    pub range: Option<Interval>,
    /// `comment`, `counters` and the like.
    pub extensions: Vec<String>,
    /// `maxelem`
    pub max: u128,
    /// Number of places that added elements take; more than the kernel counts, if some are removed
    /// or there already.
    pub count: u128,
    /// Elements.
    pub elements: Vec<Element>,
    /// Whether one of them is an exception.
    pub has_exceptions: bool,
    /// Members of a `list:set`.
    pub members: Vec<String>,
    /// Reason why the content is unknown.
    pub unknown: Option<String>,
    /// Lines about the set.
    pub lines: Vec<At>,
}

/// Sets of all files, and what is to be said about their lines.
#[derive(Debug, Default)]
pub(super) struct SetReader {
    sets: BTreeMap<String, Building>,
    /// Lines that cannot be read.
    pub problems: Problems,
    /// Why no content is known.
    doubt: Option<&'static str>,
    /// Where the rules of a script name sets.
    uses: Uses,
    /// Where the sets of a script are there.
    pub lives: Lives,
}

const EXPIRES: &str = "its elements expire, so a policy must not contain them";

impl SetReader {
    /// Begins a script with these rules.
    pub(super) fn begin(&mut self, saves: &[&Save]) {
        self.uses = Uses::default();
        saves.iter().for_each(|save| self.uses.add(save));
        self.lives = Lives::default();
        self.sets.keys().for_each(|name| self.lives.begin(name, 0));
    }

    /// Applies the lines of a file.
    pub(super) fn file(&mut self, input: usize, text: &str) {
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            self.line(At { input, line }, text);
        }
    }

    /// Applies one line.
    pub(super) fn line(&mut self, at: At, text: &str) {
        if let Err(why) = self.apply(at, text) {
            self.problems.insert(at, why);
        }
    }

    fn apply(&mut self, at: At, text: &str) -> Result<(), String> {
        match line(text) {
            SetLine::Blank => Ok(()),
            SetLine::Other => Err("it is not a command of `ipset restore`".into()),
            SetLine::Create {
                name,
                kind,
                options,
            } => {
                self.lives.begin(name, at.line);
                let set = create(kind, &options, at)?;
                match self.sets.entry(name.to_owned()) {
                    Entry::Vacant(place) => {
                        place.insert(set);
                    }
                    // It keeps the elements.
                    Entry::Occupied(_) if text.contains("-exist") || text.contains("-!") => {}
                    Entry::Occupied(_) => return Err(format!("the set `{name}` is there already")),
                }
                Ok(())
            }
            SetLine::Add {
                name,
                element,
                options,
            } => {
                let is_member = self.sets.contains_key(element);
                let set = self.set(name, at)?;
                let added = add(set, element, &options, is_member);
                added.inspect_err(|_| set.distrust("one of its elements cannot be read"))
            }
            SetLine::Delete { name, element } => {
                let set = self.set(name, at)?;
                delete(set, element)
                    .inspect_err(|_| set.distrust("one of its changes cannot be read"))
            }
            SetLine::Flush(Some(name)) => {
                let set = self.set(name, at)?;
                set.clear();
                Ok(())
            }
            SetLine::Flush(None) => {
                for set in self.sets.values_mut() {
                    set.clear();
                }
                Ok(())
            }
            SetLine::Destroy(Some(name)) => {
                self.release(Some(name), at.line)?;
                self.lives.end(Some(name), at.line);
                let removed = self.sets.remove(name);
                removed.map(drop).ok_or_else(|| missing(name))
            }
            SetLine::Destroy(None) => {
                self.release(None, at.line)?;
                self.lives.end(None, at.line);
                self.sets.clear();
                Ok(())
            }
            SetLine::Rename(from, to) => {
                if self.sets.contains_key(to) {
                    return Err(format!("the set `{to}` is there already"));
                }
                self.release(Some(from), at.line)?;
                self.lives.end(Some(from), at.line);
                self.lives.begin(to, at.line);
                let set = self.sets.remove(from).ok_or_else(|| missing(from))?;
                self.sets.insert(to.to_owned(), set);
                Ok(())
            }
            SetLine::Swap(from, to) => {
                let (Some(a), Some(b)) = (self.sets.get(from), self.sets.get(to)) else {
                    return Err(missing(&format!("{from}` or `{to}")));
                };
                if a.features() != b.features() {
                    return Err("sets of different types cannot be swapped".to_owned());
                }
                let (a, b) = (a.clone(), b.clone());
                self.sets.insert(from.to_owned(), b);
                self.sets.insert(to.to_owned(), a);
                Ok(())
            }
        }
    }

    /// Checks that no rule and no list names a set; no set at all without a name. Otherwise ipset
    /// keeps it, unless iptables refused that rule: its content is unknown from now on.
    fn release(&mut self, name: Option<&str>, line: usize) -> Result<(), String> {
        let contains = |list: &Building| {
            let mut members = list.members.iter();
            members.any(|member| name.is_none_or(|name| name == member))
        };
        let list = self.sets.iter().find(|(_, set)| contains(set));
        let why = match list {
            Some((list, _)) => format!("the set {list} contains it"),
            None => match self.uses.at(name, line) {
                Some(rule) => format!("line {rule} names it"),
                None => return Ok(()),
            },
        };
        let is_asked = |set: &str| name.is_none_or(|name| name == set);
        for (_, set) in self.sets.iter_mut().filter(|(set, _)| is_asked(set)) {
            set.distrust("whether a line removes it is unknown");
        }
        Err(format!("ipset refuses this line: {why}"))
    }

    /// Makes the content of sets unknown that a rule changes.
    pub(super) fn change_by(&mut self, rule: &Rule) {
        for name in set_names(rule, &CHANGES) {
            if let Some(set) = self.sets.get_mut(name) {
                set.distrust("a rule changes its elements");
            }
        }
    }

    /// Makes the content of every set unknown, also of those that later lines create.
    pub(super) fn distrust_all(&mut self, why: &'static str) {
        self.doubt = Some(why);
    }

    fn set(&mut self, name: &str, at: At) -> Result<&mut Building, String> {
        let set = self.sets.get_mut(name).ok_or_else(|| missing(name))?;
        set.lines.push(at);
        Ok(set)
    }

    /// Returns the sets, and the reasons why lines about a set are not converted.
    pub(super) fn finish(&self) -> (ImportedSets, Problems) {
        let mut sets = ImportedSets::new();
        let mut left = Problems::new();
        for (name, building) in &self.sets {
            let set = self.content(building, 0);
            if let ImportedSet::Unknown(why) = &set {
                left.extend(building.lines.iter().map(|at| (*at, why.clone())));
            }
            sets.insert(name.clone(), set);
        }
        (sets, left)
    }

    fn content(&self, building: &Building, depth: usize) -> ImportedSet {
        let doubt = self.doubt.map(str::to_owned);
        if let Some(why) = building.unknown.clone().or(doubt) {
            return ImportedSet::Unknown(why);
        }
        match building.kind.as_str() {
            "list:set" => self.members(building, depth),
            "hash:ip,port" | "hash:net,port" => sort_out::address_ports(building),
            "bitmap:port" => sort_out::ports(building),
            _ => sort_out::addresses(building),
        }
    }

    /// Returns the union of the members. The kernel allows no list in a list.
    fn members(&self, building: &Building, depth: usize) -> ImportedSet {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for name in &building.members {
            let member = self.sets.get(name).filter(|_| depth == 0);
            let Some(ImportedSet::Addresses {
                v4: more,
                v6: more_v6,
                ..
            }) = member.map(|member| self.content(member, depth + 1))
            else {
                return ImportedSet::Unknown(format!(
                    "its member {name} is not known as addresses"
                ));
            };
            v4.extend(more);
            v6.extend(more_v6);
        }
        ImportedSet::Addresses {
            family: None,
            v4,
            v6,
        }
    }
}

fn missing(name: &str) -> String {
    format!("no line above creates the set `{name}`")
}

fn create(kind: &str, options: &[&str], at: At) -> Result<Building, String> {
    let value = |name: &str| {
        let at = options.iter().position(|option| *option == name)?;
        options.get(at + 1).copied()
    };
    let family = match value("family") {
        Some("inet6") => Family::V6,
        _ => Family::V4,
    };
    let netmask = value("netmask").map(str::parse);
    let unknown = match kind {
        _ if options.contains(&"timeout") => Some(EXPIRES.to_owned()),
        _ if matches!(netmask, Some(Err(_))) || options.contains(&"bitmask") => {
            Some("its mask is not a prefix length".to_owned())
        }
        "hash:ip" | "hash:net" | "bitmap:ip" | "bitmap:port" | "hash:ip,port" | "hash:net,port"
        | "list:set" => None,
        // Names of ipset before version 6.
        "iphash" | "nethash" | "setlist" | "ipmap" | "portmap" => None,
        kind => Some(format!("a policy has nothing like a set of type {kind}")),
    };
    let kind = match kind {
        "iphash" => "hash:ip",
        "nethash" => "hash:net",
        "setlist" => "list:set",
        "ipmap" => "bitmap:ip",
        "portmap" => "bitmap:port",
        kind => kind,
    };
    let mut set = Building {
        kind: kind.to_owned(),
        family,
        netmask: netmask.and_then(Result::ok),
        elements: Vec::new(),
        has_exceptions: false,
        members: Vec::new(),
        unknown,
        lines: vec![at],
        range: None,
        extensions: options.iter().map(|&option| option.to_owned()).collect(),
        max: value("maxelem")
            .map_or(Ok(HASH_MAX), str::parse)
            .unwrap_or(0),
        count: 0,
    };
    if let Some(text) = value("range") {
        match elements(&set, text).as_deref() {
            Ok([range]) => set.range = Some(range.span),
            Ok(_) | Err(_) => set.distrust("its range cannot be read"),
        }
    }
    if set.kind.starts_with("bitmap:") && set.unknown.is_none() {
        let range = set.range.ok_or("a set of this type needs a `range`")?;
        if set.places(range) > BITMAP_MAX {
            return Err("the range is larger than 65536 addresses".to_owned());
        }
    }
    Ok(set)
}

/// Maximum number of elements of a bitmap (`IPSET_BITMAP_MAX_RANGE`), and of a hash without
/// `maxelem` (`IPSET_DEFAULT_MAXELEM`).
const BITMAP_MAX: u128 = 0x10000;
const HASH_MAX: u128 = 65_536;

impl Building {
    fn clear(&mut self) {
        self.elements.clear();
        self.members.clear();
        self.count = 0;
    }

    /// Returns how many elements of the kernel an element is.
    fn places(&self, (first, last): Interval) -> u128 {
        // Each network is one place.
        if self.kind.contains("net") {
            return 1;
        }
        let size = (last - first).saturating_add(1);
        match self.netmask {
            Some(length) => {
                let host_bits = u32::from(self.family.bits().saturating_sub(length));
                size.checked_shr(host_bits).unwrap_or(0).max(1)
            }
            None => size,
        }
    }

    /// Returns what two sets must have in common to be swapped.
    fn features(&self) -> (&str, Family) {
        let kind = match self.kind.as_str() {
            "bitmap:ip" => "hash:ip",
            kind => kind,
        };
        (kind, self.family)
    }

    fn distrust(&mut self, why: &str) {
        self.unknown.get_or_insert_with(|| why.to_owned());
    }
}

fn add(set: &mut Building, element: &str, options: &[&str], is_member: bool) -> Result<(), String> {
    if set.kind == "list:set" {
        if !is_member {
            return Err(missing(element));
        }
        set.members.push(element.to_owned());
        return Ok(());
    }
    // ipset(8): an element has only what the set was created with.
    const NEEDS: [(&str, &str); 7] = [
        ("comment", "comment"),
        ("timeout", "timeout"),
        ("packets", "counters"),
        ("bytes", "counters"),
        ("skbmark", "skbinfo"),
        ("skbprio", "skbinfo"),
        ("skbqueue", "skbinfo"),
    ];
    let with = without_comment(options);
    for (option, needs) in NEEDS {
        let is_given = match option {
            "comment" => options.contains(&option),
            _ => with.contains(&option),
        };
        if is_given && !set.extensions.iter().any(|has| has == needs) {
            return Err(format!(
                "ipset refuses `{option}`: the set was created without `{needs}`"
            ));
        }
    }
    let options = with;
    if set.unknown.is_some() {
        return Ok(());
    }
    let is_exception = options.contains(&"nomatch");
    set.has_exceptions |= is_exception;
    let mut found = elements(set, element)?;
    for each in &mut found {
        each.is_exception = is_exception;
        // Adding an element again with `nomatch`, or without it, replaces it.
        if set.has_exceptions {
            set.elements.retain(|old| !old.is_same_place(each));
        }
    }
    let bits = u32::from(set.family.bits());
    if set.kind.contains("net") && found.iter().any(|each| each.is_everything(bits)) {
        return Err("ipset refuses a network of prefix length 0".to_owned());
    }
    let places: u128 = found.iter().map(|each| set.places(each.span)).sum();
    set.count = set.count.saturating_add(places);
    if set.kind.starts_with("hash:") && set.count > set.max {
        return Err("the set is full: see its `maxelem`, which is 65536 if not given".to_owned());
    }
    set.elements.extend(found);
    Ok(())
}

/// Returns the options without the words of `comment "…"`.
fn without_comment<'t>(options: &[&'t str]) -> Vec<&'t str> {
    let mut out = Vec::new();
    let mut is_comment = false;
    for (index, option) in options.iter().enumerate() {
        match (is_comment, *option) {
            (true, text) => is_comment = !text.ends_with('"'),
            (false, "comment") => {
                let next = options.get(index + 1);
                is_comment = next.is_some_and(|text| text.starts_with('"'));
            }
            (false, text) => out.push(text),
        }
    }
    out
}

fn delete(set: &mut Building, element: &str) -> Result<(), String> {
    if set.kind == "list:set" {
        set.members.retain(|member| member != element);
        return Ok(());
    }
    if set.unknown.is_some() {
        return Ok(());
    }
    for gone in elements(set, element)? {
        let count = set.elements.len();
        set.elements.retain(|old| !old.is_same_place(&gone));
        if set.elements.len() < count {
            continue;
        }
        if !set.kind.starts_with("hash:ip") && !set.kind.starts_with("bitmap:") {
            return Err(format!("no line above adds `{element}`"));
        }
        // Every address of these sets is an element of its own.
        set.elements = set
            .elements
            .iter()
            .flat_map(|old| old.without(&gone))
            .collect();
    }
    Ok(())
}

/// Returns the family of an address, for sets without rules of their own.
pub(super) fn is_of(family: Family, address: IpAddr) -> bool {
    Family::of(address) == family
}
