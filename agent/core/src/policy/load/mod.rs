//! From files to a [`Policy`]: parse, don't check. All errors at once, each with its place.

mod allow;
mod discover;
mod expect;
mod fields;
mod file;
mod files;
mod groups;
mod icmp;
mod interfaces;
mod log;
mod nets;
mod on_host;
mod options;
mod overlay;
mod peers;
mod resolve;
mod tunnel;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Address, Policy, Source, Target};
use crate::diagnostic::{Diagnostic, FileId, Place, Severity, Sources};
use crate::net::addr;
use fields::Fields;
pub use files::{Files, NoFiles, ReadError, Text};
use nets::Nets;

/// The newest version of the language.
pub const VERSION: u32 = 1;
/// Longest name of a peer, group, overlay or allow, in bytes.
const NAME_MAX_BYTES: usize = 63;
/// At most so many warnings of one kind; a list of thousands can be wrong in thousands of places.
const WARNINGS_MAX: usize = 8;

/// So many names, or ports, are compared for suggestions and warnings, which are worth only so much time.
const COMPARISONS_MAX: usize = 1_000_000;

/// What came of reading a policy.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The policy, if there was no error.
    pub policy: Option<Policy>,
    /// Errors and warnings in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// The files, for showing the diagnostics.
    pub sources: Sources,
    /// Sentences that say why users other than root could have written these files.
    pub doubts: Vec<String>,
    /// Why the policy is not known at the moment, although nothing may be wrong with it.
    pub passing: Option<String>,
}

impl Loaded {
    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        has_errors(&self.diagnostics)
    }
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// Reads a policy from the text of its main file, and the files that one names.
pub fn load(name: &str, text: &str, files: &dyn Files) -> Loaded {
    let mut sources = Sources::default();
    let main = sources.add_policy(name, text);
    let mut loader = Loader {
        files,
        sources,
        start: Place {
            file: main,
            span: 0..text.len().min(1),
        },
        diagnostics: Vec::new(),
        draft: Draft::default(),
        doubts: Vec::new(),
        passing: None,
        names: None,
        pods: None,
        comparisons: COMPARISONS_MAX,
    };
    loader.file(main, true);
    loader.finish()
}

/// What is known so far, from all files.
#[derive(Default)]
struct Draft {
    policy: Policy,
    /// Every name and section that may be there once, by kind and name, with its place.
    defined: BTreeMap<(&'static str, String), Place>,
    /// Sources as written, to be resolved when all names are known.
    froms: Vec<PendingFrom>,
    /// The same for what an allow opens: its number, and a target.
    tos: Vec<(usize, String, Place)>,
    expects: Vec<expect::PendingExpect>,
    /// Where `[interfaces]` is.
    interfaces: Option<Place>,
    log_off: bool,
}

/// Where a resolved list of sources belongs.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Allow(usize),
    Ping,
    Tunnel(usize),
}

struct PendingFrom {
    owner: Owner,
    text: String,
    place: Place,
}

struct Loader<'a> {
    files: &'a dyn Files,
    sources: Sources,
    /// The first character of the main file, for what is about the whole.
    start: Place,
    diagnostics: Vec<Diagnostic>,
    draft: Draft,
    doubts: Vec<String>,
    passing: Option<String>,
    /// What `from` and `to` can name, once all is read.
    names: Option<BTreeMap<String, Source>>,
    /// Subnets of all overlays, once all is read.
    pods: Option<Nets>,
    /// So many names are still compared for something to suggest.
    comparisons: usize,
}

impl Loader<'_> {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reads a file that `relative_to` names. A failure that passes makes the whole policy unknown for now;
    /// any other is about this file.
    fn read(&mut self, path: &str, relative_to: &str) -> Result<Text, String> {
        match self.files.read(path, relative_to) {
            Ok(mut read) => {
                self.doubts.append(&mut read.doubts);
                Ok(read)
            }
            Err(err) => Err(self.unread(err)),
        }
    }

    fn unread(&mut self, err: ReadError) -> String {
        match err {
            ReadError::Wrong(why) => why,
            ReadError::Passing(why) => {
                self.passing.get_or_insert(why.clone());
                why
            }
        }
    }

    /// What was asked of the kernel; nothing if it cannot say at the moment.
    fn known<T>(&mut self, asked: Result<Option<T>, ReadError>) -> Option<T> {
        asked.unwrap_or_else(|err| {
            self.unread(err);
            None
        })
    }

    fn file(&mut self, file: FileId, is_main: bool) {
        let text = self.sources.text(file).to_owned();
        let (table, errors) = DeTable::parse_recoverable(&text);
        for err in &errors {
            self.syntax_error(file, &text, err);
        }
        let fields = Fields::new(file, table.get_ref(), 0..text.len().min(1));
        self.top(fields, is_main, errors.is_empty());
    }

    fn syntax_error(&mut self, file: FileId, text: &str, err: &toml::de::Error) {
        let span = err.span().unwrap_or(text.len()..text.len());
        let place = Place { file, span };
        let help = match err.message() {
            "duplicate key" => {
                "a name stands once; several addresses are a list: name = [\"…\", \"…\"]; see docs/policy.md"
            }
            _ => {
                "keys are name = value, texts are in \"quotes\", lists in [brackets]; see docs/policy.md"
            }
        };
        let message = format!("not TOML: {}", err.message());
        self.error(Diagnostic::error(place, message).help(help));
    }

    fn top(&mut self, mut fields: Fields<'_>, is_main: bool, is_whole: bool) {
        let file = fields.file();
        match fields.take("version") {
            Some((_, value)) => self.version(file, value),
            // A file that is not TOML may have one that was not seen.
            None if is_main && is_whole => {
                let place = fields.place();
                self.error(
                    Diagnostic::error(place, "`version` is missing")
                        .help("start the file with `version = 1`"),
                );
            }
            None => {}
        }
        self.sections(&mut fields);
        let include = fields.take("include");
        let known = [
            "version",
            "peers",
            "overlay",
            "allow",
            "groups",
            "include",
            "peers_files",
            "interfaces",
            "icmp",
            "options",
            "log",
            "expect",
        ];
        // Where a line cannot be read, what stands below it ends up in the wrong table.
        if is_whole {
            self.diagnostics
                .extend(fields.unknown(&known, "the policy"));
        }
        if let Some((key, value)) = include {
            match is_main {
                true => self.include(file, value),
                false => self.error(
                    Diagnostic::error(place_of(file, key), "an included file cannot include more")
                        .help("name it in the main file's `include`"),
                ),
            }
        }
    }

    fn version(&mut self, file: FileId, value: &Spanned<DeValue<'_>>) {
        let place = place_of(file, value);
        match fields::integer(value.get_ref()) {
            Some(1) => {}
            Some(n) => self.error(
                Diagnostic::error(
                    place,
                    format!("version {n} of the policy language is not known"),
                )
                .help(format!("this peerwall knows version {VERSION}")),
            ),
            None => self.error(
                Diagnostic::error(place, "`version` is not a number").help("write `version = 1`"),
            ),
        }
    }

    fn include(&mut self, file: FileId, value: &Spanned<DeValue<'_>>) {
        let relative_to = self.sources.name(file).to_owned();
        for (pattern, place) in self.strings(file, value, "include") {
            let names = match self.files.glob(&pattern, &relative_to) {
                Ok(names) => names,
                Err(err) => {
                    let why = self.unread(err);
                    self.error(Diagnostic::error(place, format!("cannot include: {why}")));
                    continue;
                }
            };
            let is_pattern = pattern.contains(['*', '?', '[']);
            if names.is_empty() && !is_pattern {
                self.error(
                    Diagnostic::error(place.clone(), format!("there is no file {pattern}")).help(
                        "paths are relative to this file; a pattern with * may match nothing",
                    ),
                );
            }
            for name in names {
                match self.read(&name, &relative_to) {
                    Ok(Text { name, text, .. }) => {
                        let included = self.sources.add_policy(name, text);
                        self.file(included, false);
                    }
                    Err(why) => {
                        self.error(Diagnostic::error(
                            place.clone(),
                            format!("cannot include: {why}"),
                        ));
                    }
                }
            }
        }
    }

    /// Notes that `name` is defined here; says so if it already was.
    fn define(&mut self, kind: &'static str, name: &str, place: &Place) -> bool {
        // These three are looked up by the same names in `from`.
        let space = match kind {
            "peer" | "group" | "overlay" => "name",
            other => other,
        };
        let key = (space, name.to_owned());
        match self.draft.defined.get(&key).cloned() {
            Some(first) => {
                let what = match space {
                    "name" => format!("the name `{name}` is used twice"),
                    "key" => format!("`{name}` is set twice"),
                    _ => format!("{kind} `{name}` is defined twice"),
                };
                self.error(
                    Diagnostic::error(place.clone(), what)
                        .label("again here")
                        .also(first, "first here")
                        .help("keep one of them, or rename one"),
                );
                false
            }
            None => {
                self.draft.defined.insert(key, place.clone());
                true
            }
        }
    }

    /// Whether `name` can be a name; says so if not.
    fn check_name(&mut self, kind: &str, name: &str, place: &Place) -> bool {
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let rest = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let a = match kind.starts_with(['a', 'o']) {
            true => "an",
            false => "a",
        };
        let err = if name == "host" && kind != "allow" {
            Diagnostic::error(place.clone(), format!("{a} {kind} cannot be named `host`"))
                .help("`host` means this host's own addresses in `to`")
        } else if name == "any" {
            Diagnostic::error(place.clone(), format!("{a} {kind} cannot be named `any`"))
                .help("`any` means everybody in `from`")
        } else if !starts || !rest {
            Diagnostic::error(
                place.clone(),
                format!("`{name}` cannot be the name of {a} {kind}"),
            )
            .help("a name has letters, digits, `-`, `_` and `.`, and starts with a letter or digit")
        } else if name.len() > NAME_MAX_BYTES {
            Diagnostic::error(
                place.clone(),
                format!("the name of this {kind} is longer than {NAME_MAX_BYTES} bytes"),
            )
            .help("counters and sets are named after it; choose a shorter one")
        } else if name.parse::<std::net::IpAddr>().is_ok() {
            Diagnostic::error(
                place.clone(),
                format!("`{name}` is an address, not a name for {a} {kind}"),
            )
            .help(format!("write it as a value: name = \"{name}\""))
        } else {
            return true;
        };
        self.error(err);
        false
    }

    /// A string, or a list of strings that is not empty.
    fn strings(
        &mut self,
        file: FileId,
        value: &Spanned<DeValue<'_>>,
        what: &str,
    ) -> Vec<(String, Place)> {
        match fields::strings(file, value, what) {
            Ok(list) => list,
            Err(errors) => {
                self.diagnostics.extend(errors);
                Vec::new()
            }
        }
    }

    fn address(&mut self, text: &str, place: Place) -> Option<Address> {
        match addr::parse_source(text) {
            Ok(net) => Some(Address { net, place }),
            Err(err) => {
                let mut diagnostic = Diagnostic::error(place, err.message);
                diagnostic.help = err.help;
                self.error(diagnostic);
                None
            }
        }
    }

    fn addresses(
        &mut self,
        file: FileId,
        value: &Spanned<DeValue<'_>>,
        what: &str,
    ) -> Vec<Address> {
        let texts = self.strings(file, value, what);
        texts
            .into_iter()
            .filter_map(|(text, place)| self.address(&text, place))
            .collect()
    }

    /// The addresses in a plain list, one a line.
    fn list_file(&mut self, path: &str, named_at: &Place) -> Vec<Address> {
        let relative_to = self.sources.name(named_at.file).to_owned();
        let Text { name, text, .. } = match self.read(path, &relative_to) {
            Ok(found) => found,
            Err(why) => {
                self.error(
                    Diagnostic::error(named_at.clone(), why)
                        .help("paths are relative to this file"),
                );
                return Vec::new();
            }
        };
        let file = self.sources.add(name, text.clone());
        let mut at = 0;
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            let content = line.split('#').next().unwrap_or_default();
            let trimmed = content.trim();
            if !trimmed.is_empty() {
                let start = at + (content.len() - content.trim_start().len());
                let span = start..start + trimmed.len();
                found.extend(self.address(trimmed, Place { file, span }));
            }
            at += line.len();
        }
        if found.is_empty() && !has_errors(&self.diagnostics) {
            self.error(
                Diagnostic::error(named_at.clone(), format!("{path} lists no address"))
                    .help("one address or CIDR a line; leave the file out if nobody is meant"),
            );
        }
        found
    }

    fn finish(mut self) -> Loaded {
        self.resolve_froms();
        self.resolve_tos();
        self.apply_host();
        self.resolve_expects();
        self.cross_check();
        let order = |d: &Diagnostic| (d.place.file, d.place.span.start);
        self.diagnostics.sort_by_key(order);
        let ok = !has_errors(&self.diagnostics) && self.passing.is_none();
        self.doubts.sort();
        self.doubts.dedup();
        let mut policy = self.draft.policy;
        if policy.log.is_none() && !self.draft.log_off {
            policy.log = Some(super::Log::default());
        }
        Loaded {
            policy: ok.then_some(policy),
            diagnostics: self.diagnostics,
            sources: self.sources,
            doubts: self.doubts,
            passing: self.passing,
        }
    }

    fn resolve_froms(&mut self) {
        for from in std::mem::take(&mut self.draft.froms) {
            if let Some(source) = self.source(&from.text, &from.place) {
                self.warn_if_needless(&source, &from);
                match from.owner {
                    Owner::Allow(index) => self.draft.policy.allows[index].from.push(source),
                    Owner::Ping => self.draft.policy.icmp.ping.push(source),
                    Owner::Tunnel(index) => {
                        self.draft.policy.overlays[index].tunnel_from.push(source);
                    }
                }
            }
        }
    }

    fn resolve_tos(&mut self) {
        for (index, text, place) in std::mem::take(&mut self.draft.tos) {
            let targets = self.targets(&text, &place);
            self.draft.policy.allows[index].to.extend(targets);
        }
        for allow in &mut self.draft.policy.allows {
            if allow.to.is_empty() {
                allow.to.push(Target::Host);
            }
        }
    }

    /// What an entry of `to` names.
    fn targets(&mut self, text: &str, place: &Place) -> Vec<Target> {
        match text {
            "host" => return vec![Target::Host],
            "any" => {
                self.error(
                    Diagnostic::error(place.clone(), "`to` cannot be \"any\"")
                        .help("that would open the addresses of every cluster service; \"host\" is the default, other addresses are named"),
                );
                return Vec::new();
            }
            _ => {}
        }
        if looks_like_address(text) {
            return match addr::parse_target(text) {
                Ok(net) => vec![Target::Net(net)],
                Err(err) => {
                    let mut diagnostic = Diagnostic::error(place.clone(), err.message);
                    diagnostic.help = err.help;
                    self.error(diagnostic);
                    Vec::new()
                }
            };
        }
        match self.source(text, place) {
            Some(Source::Group(name)) => vec![Target::Group(name)],
            Some(Source::Overlay(name)) => vec![Target::Overlay(name)],
            Some(Source::Peer(name)) => {
                let peers = self.draft.policy.peers.iter();
                let named = peers.filter(|peer| peer.name.as_deref() == Some(name.as_str()));
                let addresses = named.flat_map(|peer| &peer.addresses);
                addresses.map(|each| Target::Net(each.net)).collect()
            }
            Some(Source::Net(_) | Source::Any) | None => Vec::new(),
        }
    }

    fn source(&mut self, text: &str, place: &Place) -> Option<Source> {
        if text == "any" {
            return Some(Source::Any);
        }
        if let Some(source) = self.named(text) {
            return Some(source);
        }
        if looks_like_address(text) {
            return self
                .address(text, place.clone())
                .map(|a| Source::Net(a.net));
        }
        // A name that is there, but broken, has its own error.
        if self.draft.defined.contains_key(&("name", text.to_owned())) {
            return None;
        }
        let names = self.draft.defined.range(("name", String::new())..);
        let names = names.take_while(|((space, _), _)| *space == "name");
        let names = names.map(|((_, name), _)| name.as_str()).chain(["any"]);
        // A list of thousands of names, each wrong, is not compared with thousands of others.
        let names = names.take(self.comparisons);
        self.comparisons -= names.clone().count();
        let help = match fields::closest(text, names) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                "name it under [peers], [groups] or [overlay.…], or write an address or \"any\""
                    .into()
            }
        };
        self.error(
            Diagnostic::error(
                place.clone(),
                format!("there is no peer, group or overlay `{text}`"),
            )
            .help(help),
        );
        None
    }

    /// The group, peer or overlay of this name.
    fn named(&mut self, text: &str) -> Option<Source> {
        let policy = &self.draft.policy;
        let names = self.names.get_or_insert_with(|| {
            let overlays = policy.overlays.iter().map(|each| &each.name);
            let overlays = overlays.map(|name| (name.clone(), Source::Overlay(name.clone())));
            let peers = policy.peers.iter().filter_map(|each| each.name.as_ref());
            let peers = peers.map(|name| (name.clone(), Source::Peer(name.clone())));
            let groups = policy.groups.iter().map(|each| &each.name);
            let groups = groups.map(|name| (name.clone(), Source::Group(name.clone())));
            overlays.chain(peers).chain(groups).collect()
        });
        names.get(text).cloned()
    }

    fn warn_if_needless(&mut self, source: &Source, from: &PendingFrom) {
        let what = match source {
            Source::Peer(name) => format!("`{name}` is a peer and may do this anyway"),
            Source::Overlay(name) => format!("pods of `{name}` may do this anyway"),
            Source::Net(net) => {
                let overlays = &self.draft.policy.overlays;
                let pods = self.pods.get_or_insert_with(|| Nets::of_overlays(overlays));
                match pods.around(*net) {
                    Some((index, _)) => format!(
                        "`{net}` is part of overlay `{}`: accepted from its interfaces anyway, dropped from others",
                        overlays[index].name
                    ),
                    None => return,
                }
            }
            Source::Any | Source::Group(_) => return,
        };
        self.diagnostics.push(
            Diagnostic::warning(from.place.clone(), what).help("leave it out; it changes nothing"),
        );
    }

    /// What only shows when everything is known.
    fn cross_check(&mut self) {
        self.overlay_overlaps();
        self.peers_in_overlays();
        self.repeated_addresses();
        self.shadowed_allows();
        self.roles_of_interfaces();
        let policy = &self.draft.policy;
        let nobody =
            policy.peers.is_empty() && policy.allows.is_empty() && policy.trusted.is_empty();
        if nobody && !has_errors(&self.diagnostics) {
            self.diagnostics.push(
                Diagnostic::warning(self.start.clone(), "this policy lets nobody in")
                    .help("name peers under [peers], or open a port with [[allow]]"),
            );
        }
    }

    fn overlay_overlaps(&mut self) {
        let overlays = &self.draft.policy.overlays;
        let nets = Nets::of_overlays(overlays);
        let mut found = Vec::new();
        for (one, other) in nets.overlaps() {
            // What was written later is what is wrong.
            let ((at, first), (again, second)) = match one < other {
                true => (one, other),
                false => (other, one),
            };
            let (name, subnet) = (&overlays[at].name, &overlays[at].subnets[first]);
            let later = &overlays[again].subnets[second];
            let message = match at == again {
                true => format!("{} and {} overlap", subnet.net, later.net),
                false => format!("overlays `{name}` and `{}` overlap", overlays[again].name),
            };
            found.push(
                Diagnostic::error(later.place.clone(), message)
                    .also(subnet.place.clone(), "with this")
                    .help("an address belongs to one overlay and is written once"),
            );
        }
        self.diagnostics.extend(found);
    }

    fn peers_in_overlays(&mut self) {
        let policy = &self.draft.policy;
        let nets = Nets::of_overlays(&policy.overlays);
        let mut found = Vec::new();
        for address in policy.peers.iter().flat_map(|p| &p.addresses) {
            if found.len() >= WARNINGS_MAX {
                break;
            }
            if let Some((at, subnet)) = nets.inside(address.net) {
                let overlay = &policy.overlays[at];
                let subnet = &overlay.subnets[subnet];
                found.push(
                    Diagnostic::error(
                        address.place.clone(),
                        format!(
                            "peer {} contains {} of overlay `{}`",
                            address.net, subnet.net, overlay.name
                        ),
                    )
                    .also(subnet.place.clone(), "which would be believed anywhere")
                    .help("a peer is a machine: write the addresses of the machines alone"),
                );
            }
            let Some((at, subnet)) = nets.around(address.net) else {
                continue;
            };
            let overlay = &policy.overlays[at];
            if !overlay
                .carved
                .iter()
                .any(|hole| hole.contains(&address.net))
            {
                found.push(
                    Diagnostic::error(
                        address.place.clone(),
                        format!("this peer's address is one of overlay `{}`", overlay.name),
                    )
                    .also(overlay.subnets[subnet].place.clone(), "which holds it")
                    .help("a peer is a machine: write the address it has outside of the overlay"),
                );
            }
        }
        self.diagnostics.extend(found);
    }

    fn repeated_addresses(&mut self) {
        let mut found = Vec::new();
        let policy = &self.draft.policy;
        repeated(policy.peers.iter().flat_map(|p| &p.addresses), &mut found);
        for group in &policy.groups {
            repeated(group.addresses.iter(), &mut found);
        }
        self.diagnostics.extend(found);
    }

    /// An interface that is said to be two things.
    fn roles_of_interfaces(&mut self) {
        let policy = &self.draft.policy;
        let overlays = policy.overlays.iter().flat_map(|overlay| {
            overlay
                .interfaces
                .iter()
                .map(|p| (p, overlay.name.as_str()))
        });
        let overlays: BTreeMap<_, _> = overlays.collect();
        let trusted: BTreeSet<_> = policy.trusted.iter().collect();
        let mut found = Vec::new();
        for pattern in &policy.guests {
            if trusted.contains(pattern) {
                found.push(format!("`{pattern}` is both trusted and a guest network"));
            }
            if let Some(name) = overlays.get(pattern) {
                found.push(format!(
                    "`{pattern}` is both of overlay `{name}` and a guest network"
                ));
            }
        }
        let place = self.draft.interfaces.clone();
        let place = place.unwrap_or_else(|| self.start.clone());
        for message in found {
            self.error(Diagnostic::error(place.clone(), message).help("decide for one of them"));
        }
    }

    /// An allow that an earlier one without conditions covers.
    fn shadowed_allows(&mut self) {
        let allows = &self.draft.policy.allows;
        let mut found = Vec::new();
        let mut open: Vec<&super::Allow> = Vec::new();
        let mut comparisons = COMPARISONS_MAX;
        for allow in allows {
            let covers = |earlier: &&&super::Allow| {
                let ports = match (&earlier.ports, &allow.ports) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(all), Some(some)) => some.iter().all(|spec| spec_covered(spec, all)),
                };
                let same = earlier.limit.is_none()
                    && earlier.from_ports.is_none()
                    && allow.to.iter().all(|target| earlier.to.contains(target));
                ports && same
            };
            let count = |allow: &super::Allow| allow.ports.as_ref().map_or(1, Vec::len);
            let affordable = open.iter().take_while(|earlier| {
                let cost = count(allow).saturating_mul(count(earlier)).max(1);
                let is_affordable = cost <= comparisons;
                comparisons = comparisons.saturating_sub(cost);
                is_affordable
            });
            if let Some(earlier) = affordable.into_iter().find(covers) {
                found.push(
                    Diagnostic::warning(
                        allow.place.clone(),
                        format!("allow `{}` can never match", allow.name),
                    )
                    .also(
                        earlier.place.clone(),
                        format!("`{}` is open to all and has the same ports", earlier.name),
                    )
                    .help("leave one of them out"),
                );
            }
            if allow.interfaces.is_empty() && allow.from.contains(&Source::Any) {
                open.push(allow);
            }
        }
        self.diagnostics.extend(found);
    }
}

fn looks_like_address(text: &str) -> bool {
    text.contains(['/', ':']) || text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn spec_covered(spec: &crate::net::port::PortSpec, by: &[crate::net::port::PortSpec]) -> bool {
    spec.protocols.iter().all(|protocol| {
        by.iter().any(|wide| {
            wide.protocols.contains(protocol)
                && match (wide.range, spec.range) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(w), Some(s)) => w.first <= s.first && s.last <= w.last,
                }
        })
    })
}

fn repeated<'a>(addresses: impl Iterator<Item = &'a Address>, found: &mut Vec<Diagnostic>) {
    // Sorted, since a list can have a hundred thousand; the same ones in the order in which they stand.
    let mut sorted: Vec<(u128, u8, &Address)> = addresses
        .map(|address| {
            (
                addr::number(address.net.addr()),
                address.net.prefix_len(),
                address,
            )
        })
        .collect();
    let order = |a: &(u128, u8, &Address)| (a.0, a.1, a.2.net.max_prefix_len());
    sorted.sort_by_key(order);
    let same = |pair: &[(u128, u8, &'a Address)]| match pair {
        [(.., first), (.., again)] if first.net == again.net => Some((*first, *again)),
        _ => None,
    };
    let mut pairs: Vec<(&Address, &Address)> = sorted.windows(2).filter_map(same).collect();
    pairs.sort_by_key(|(_, again)| (again.place.file, again.place.span.start));
    for (first, again) in pairs.into_iter().take(WARNINGS_MAX) {
        let text = addr::short(again.net);
        found.push(
            Diagnostic::warning(again.place.clone(), format!("`{text}` is listed twice"))
                .label("again here")
                .also(first.place.clone(), "first here")
                .help("leave one of them out"),
        );
    }
}

fn place_of<T>(file: FileId, value: &Spanned<T>) -> Place {
    Place {
        file,
        span: value.span(),
    }
}
