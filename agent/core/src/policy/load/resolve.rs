//! Resolution of names in `from` and `to`, after all files are read.

use super::context::{Context, Owner, PendingFrom};
use super::fields::{self, Value};
use super::nets::Nets;
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::addr;
use crate::policy::{Source, Target};

impl Context<'_> {
    pub(super) fn froms(&mut self, owner: Owner, file: FileId, value: &Value<'_>) {
        let what = match owner {
            Owner::Allow(_) => "`from`",
            Owner::Ping => "`ping`",
            Owner::Tunnel(_) => "`tunnel_from`",
        };
        for (text, place) in self.strings(file, value, what) {
            self.draft.froms.push(PendingFrom { owner, text, place });
        }
    }
}

impl Context<'_> {
    pub(super) fn source(&mut self, text: &str, place: &Place) -> Option<Source> {
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
        // An invalid definition has its own error.
        if self.draft.defined.contains_key(&("name", text.to_owned())) {
            return None;
        }
        // Bounded because a list can have thousands of unknown names.
        let names = match self.comparisons {
            0 => Vec::new(),
            most => self.known_names(most),
        };
        let compared = names.len();
        let help = match fields::closest(text, names.into_iter()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                "define it under [peers], [groups] or [overlay.…], or write an address or \"any\""
                    .into()
            }
        };
        self.comparisons -= compared;
        self.error(
            Diagnostic::error(
                Code::UnknownName,
                place.clone(),
                format!("unknown peer, group or overlay `{text}`"),
            )
            .help(help),
        );
        None
    }

    /// Returns up to `most` names that `from` can contain, in their order.
    fn known_names(&self, most: usize) -> Vec<&str> {
        let names = self.draft.defined.keys();
        let names = names.filter(|(space, _)| *space == "name");
        let mut names: Vec<&str> = names.map(|(_, name)| name.as_str()).collect();
        names.sort_unstable();
        names.push("any");
        names.truncate(most);
        names
    }

    /// Finds a group, peer or overlay by its name.
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
}

pub(super) fn resolve_froms(cx: &mut Context<'_>) {
    for from in std::mem::take(&mut cx.draft.froms) {
        if let Some(source) = cx.source(&from.text, &from.place) {
            warn_if_needless(cx, &source, &from);
            match from.owner {
                Owner::Allow(index) => {
                    let list = &mut cx.draft.policy.allows[index].from;
                    // Most allows of a large policy have one source.
                    if list.is_empty() {
                        list.reserve_exact(1);
                    }
                    list.push(source);
                }
                Owner::Ping => cx.draft.policy.icmp.ping.push(source),
                Owner::Tunnel(index) => {
                    cx.draft.policy.overlays[index].tunnel_from.push(source);
                }
            }
        }
    }
}

pub(super) fn resolve_tos(cx: &mut Context<'_>) {
    for (index, text, place) in std::mem::take(&mut cx.draft.tos) {
        let targets = targets(cx, &text, &place);
        cx.draft.policy.allows[index].to.extend(targets);
    }
    for allow in &mut cx.draft.policy.allows {
        if allow.to.is_empty() {
            allow.to = vec![Target::Host];
        }
    }
}

/// Resolves an entry of `to`.
fn targets(cx: &mut Context<'_>, text: &str, place: &Place) -> Vec<Target> {
    match text {
        "host" => return vec![Target::Host],
        "any" => {
            cx.error(
                Diagnostic::error(Code::ToAny, place.clone(), "`to` cannot be \"any\"").help(
                    "it would open the addresses of every cluster service; the default is \
                     \"host\", and other addresses must be listed",
                ),
            );
            return Vec::new();
        }
        _ => {}
    }
    if looks_like_address(text) {
        return match addr::parse_target(text) {
            Ok(net) => vec![Target::Net(net)],
            Err(err) => {
                let mut diagnostic =
                    Diagnostic::error(Code::InvalidAddress, place.clone(), err.message);
                diagnostic.help = err.help;
                cx.error(diagnostic);
                Vec::new()
            }
        };
    }
    match cx.source(text, place) {
        Some(Source::Group(name)) => vec![Target::Group(name)],
        Some(Source::Overlay(name)) => vec![Target::Overlay(name)],
        Some(Source::Peer(name)) => {
            let peers = cx.draft.policy.peers.iter();
            let named = peers.filter(|peer| peer.name.as_deref() == Some(name.as_str()));
            let addresses = named.flat_map(|peer| &peer.addresses);
            addresses.map(|each| Target::Net(each.net)).collect()
        }
        Some(Source::Net(_) | Source::Any) | None => Vec::new(),
    }
}

fn warn_if_needless(cx: &mut Context<'_>, source: &Source, from: &PendingFrom) {
    let what = match source {
        Source::Peer(name) => format!("peer `{name}` is already accepted on every port"),
        Source::Overlay(name) => format!("pods of `{name}` are already accepted on every port"),
        Source::Net(net) => {
            let overlays = &cx.draft.policy.overlays;
            let pods = cx.pods.get_or_insert_with(|| Nets::of_overlays(overlays));
            match pods.around(*net) {
                Some((index, _)) => format!(
                    "`{net}` is part of overlay `{}`: already accepted on its interfaces, dropped on others",
                    overlays[index].name
                ),
                None => return,
            }
        }
        Source::Any | Source::Group(_) => return,
    };
    cx.diagnostics.push(
        Diagnostic::warning(Code::NeedlessSource, from.place.clone(), what)
            .help("remove it; it has no effect"),
    );
}

fn looks_like_address(text: &str) -> bool {
    text.contains(['/', ':']) || text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}
