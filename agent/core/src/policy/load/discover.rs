//! What an overlay leaves to be discovered: its subnets in flannel's files, its tunnel in the kernel.

use super::section::{BACKENDS, Value};
use super::{Loader, place_of};
use crate::diagnostic::{Diagnostic, FileId, Place};
use crate::flannel::{self, Flannel, Wrong};
use crate::interface::InterfacePattern;
use crate::link::Link;
use crate::policy::{Address, Discovery, Found, OverlayBackend};

/// Subnets, and what was found with them.
#[derive(Default)]
pub(super) struct Subnets {
    pub(super) addresses: Vec<Address>,
    pub(super) discovery: Discovery,
    /// The tunnel's port, if the file has it.
    pub(super) port: Option<u16>,
    /// The file's `Backend.Type`, with its place.
    pub(super) backend: Option<(String, Place)>,
}

impl Loader<'_> {
    /// Takes the first of the files that is there and right; else the last that was.
    pub(super) fn discover(&mut self, file: FileId, value: &Value<'_>) -> Subnets {
        let relative_to = self.sources.name(file).to_owned();
        let paths = self.strings(file, value, "discover");
        let mut wrong = Vec::new();
        for (path, place) in &paths {
            let (name, text) = match self.files.read(path, &relative_to) {
                Ok(found) => found,
                Err(why) => {
                    wrong.push(Diagnostic::error(place.clone(), why));
                    continue;
                }
            };
            let env = self.sources.add(&name, &text);
            match flannel::read(&text) {
                Ok(flannel) => {
                    let found = Found { name, text };
                    return self.discovered(env, flannel, Discovery::Found(found));
                }
                Err(list) => {
                    wrong.extend(list.into_iter().map(|each| because(each, env, place, path)));
                }
            }
        }
        let sentence = wrong
            .first()
            .map_or_else(String::new, |d| d.message.clone());
        let kept = paths.iter().find_map(|(path, _)| {
            let (name, text) = self.files.last_good(path, &relative_to)?;
            Some((flannel::read(&text).ok()?, Found { name, text }))
        });
        if let Some((flannel, found)) = kept {
            let list: Vec<String> = flannel
                .networks
                .iter()
                .map(|(net, _)| net.to_string())
                .collect();
            let warning = Diagnostic::warning(place_of(file, value), sentence);
            self.diagnostics.push(warning.help(format!(
                "going on with what {} said last: {}",
                found.name,
                list.join(", ")
            )));
            let env = self.sources.add(&found.name, &found.text);
            return self.discovered(env, flannel, Discovery::Kept(found));
        }
        if self.files.waits() {
            let warning = Diagnostic::warning(place_of(file, value), sentence);
            self.diagnostics.push(warning.help(
                "this overlay's pods are let in as soon as it is there; flannel writes it when it starts",
            ));
            return Subnets {
                discovery: Discovery::Awaited(paths.into_iter().map(|(path, _)| path).collect()),
                ..Subnets::default()
            };
        }
        for mut each in wrong {
            each.help.get_or_insert_with(|| {
                "flannel writes it when it starts; `peerwall run` waits for it; else give `subnets = [...]` instead".into()
            });
            self.error(each);
        }
        Subnets::default()
    }

    fn discovered(&mut self, file: FileId, flannel: Flannel, discovery: Discovery) -> Subnets {
        let at = |span| Place { file, span };
        for (node, span) in flannel.node {
            if !flannel.networks.iter().any(|(net, _)| net.contains(&node)) {
                self.diagnostics.push(
                    Diagnostic::warning(
                        at(span),
                        format!("this node's pods, {node}, are outside of the pod network"),
                    )
                    .help("this file and flannel's configuration do not fit together; see flannel's log"),
                );
            }
        }
        Subnets {
            addresses: flannel
                .networks
                .into_iter()
                .map(|(net, span)| Address {
                    net,
                    place: at(span),
                })
                .collect(),
            discovery,
            port: flannel.port,
            backend: flannel.backend.map(|(kind, span)| (kind, at(span))),
        }
    }

    /// Says if flannel's own configuration has another backend.
    pub(super) fn warn_of_flannels_backend(&mut self, said: OverlayBackend, subnets: &Subnets) {
        let name_of = |backend| BACKENDS.iter().find(|(_, each)| *each == backend);
        let (Some((kind, place)), Some((name, _))) = (&subnets.backend, name_of(said)) else {
            return;
        };
        if BACKENDS.iter().any(|(known, _)| known == kind) && kind != name {
            self.diagnostics.push(
                Diagnostic::warning(
                    place.clone(),
                    format!("flannel's backend is {kind}, and this overlay's is {name}"),
                )
                .help(format!("write backend = \"{kind}\"")),
            );
        }
    }

    /// The interface that is the overlay's tunnel, if it is there.
    pub(super) fn tunnel_link(
        &mut self,
        backend: OverlayBackend,
        interfaces: &[InterfacePattern],
        place: &Place,
    ) -> Option<Link> {
        let named = interfaces.iter().filter_map(InterfacePattern::exact);
        let links: Vec<Link> = named.filter_map(|name| self.files.link(name)).collect();
        let kind = driver(backend);
        let tunnels = ["vxlan", "wireguard", "ipip"];
        if let Some(other) = links
            .iter()
            .find(|link| tunnels.contains(&link.kind.as_str()) && Some(link.kind.as_str()) != kind)
        {
            self.diagnostics.push(
                Diagnostic::warning(
                    place.clone(),
                    format!(
                        "{} is a {} tunnel, and this overlay's backend is another",
                        other.name, other.kind
                    ),
                )
                .help(format!(
                    "write backend = \"{}\", or leave the interface out",
                    other.kind
                )),
            );
        }
        let link = links
            .into_iter()
            .find(|link| Some(link.kind.as_str()) == kind)?;
        // What is read of the host counts as a file: the policy is another when it is.
        self.sources
            .add(format!("interface {}", link.name), link.to_string());
        Some(link)
    }
}

/// The name of the kernel's driver for a backend's tunnel.
fn driver(backend: OverlayBackend) -> Option<&'static str> {
    match backend {
        OverlayBackend::Vxlan => Some("vxlan"),
        OverlayBackend::Wireguard => Some("wireguard"),
        OverlayBackend::Ipip => Some("ipip"),
        OverlayBackend::Udp => Some("tun"),
        OverlayBackend::HostGw | OverlayBackend::None => None,
    }
}

fn because(wrong: Wrong, file: FileId, named_at: &Place, path: &str) -> Diagnostic {
    let mut diagnostic = match wrong.span {
        Some(span) => Diagnostic::error(Place { file, span }, wrong.message),
        None => Diagnostic::error(
            named_at.clone(),
            format!("cannot use {path}: {}", wrong.message),
        ),
    };
    diagnostic.help = wrong.help;
    diagnostic
}
