//! Looks up names in `from` and `to` once all files are read.

use super::fields::Value;
use super::fields::{self};
use super::nets::Nets;
use super::{Loader, Owner, PendingFrom};
use crate::diagnostic::FileId;
use crate::diagnostic::{Diagnostic, Place};
use crate::net::addr;
use crate::policy::{Source, Target};

impl Loader<'_> {
    pub(super) fn froms(&mut self, owner: Owner, file: FileId, value: &Value<'_>) {
        let what = match owner {
            Owner::Allow(_) => "from",
            Owner::Ping => "ping",
            Owner::Tunnel(_) => "tunnel_from",
        };
        for (text, place) in self.strings(file, value, what) {
            self.draft.froms.push(PendingFrom { owner, text, place });
        }
    }
}

impl Loader<'_> {
    pub(super) fn resolve_froms(&mut self) {
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

    pub(super) fn resolve_tos(&mut self) {
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
}

fn looks_like_address(text: &str) -> bool {
    text.contains(['/', ':']) || text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}
