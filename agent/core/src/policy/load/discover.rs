//! Discovery of an overlay's subnets from flannel's files, and of its tunnel from the kernel.

use super::context::Context;
use super::fields::{Value, place_of};
use super::{ReadError, Text};
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::link::Link;
use crate::policy::flannel::{self, Flannel, Wrong};
use crate::policy::{Address, Discovery, Found, OverlayBackend};

/// Subnets of an overlay, and flannel's configuration if they were discovered.
#[derive(Default)]
pub(super) struct Subnets {
    pub(super) addresses: Vec<Address>,
    pub(super) discovery: Discovery,
    /// `Backend.Type` of the file, with its place.
    pub(super) kind: Option<(String, Place)>,
    /// Place where the file switches `Backend.DirectRouting` on, if it does.
    pub(super) direct: Option<Place>,
    /// Ports and names of the tunnel.
    pub(super) flannel: flannel::FlannelBackend,
}

impl Subnets {
    /// Returns whether there is an address of this family.
    pub(super) fn has(&self, family: Family) -> bool {
        let mut families = self.addresses.iter().map(|a| Family::of(a.net.addr()));
        families.any(|each| each == family)
    }
}

/// Reads the first file that exists and is valid, otherwise the last valid content of one.
pub(super) fn discover(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> Subnets {
    let relative_to = cx.sources.name(file).to_owned();
    let paths = cx.strings(file, value, "`discover`");
    let mut wrong = Vec::new();
    let mut is_absent = !paths.is_empty();
    for (path, place) in &paths {
        let Text { name, text, .. } = match cx.read(path, &relative_to) {
            Ok(found) => found,
            Err(why) => {
                is_absent &= matches!(why, ReadError::Absent(_));
                wrong.push(Diagnostic::error(
                    Code::FileUnreadable,
                    place.clone(),
                    why.to_string(),
                ));
                continue;
            }
        };
        is_absent = false;
        let env = cx.sources.add(&name, text.as_str());
        match flannel::read(&text) {
            Ok(flannel) => {
                let found = Found { name, text };
                return discovered(cx, env, flannel, Discovery::Found(found));
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
        let kept = cx.files.last_good(path, &relative_to);
        let Text { name, text, .. } = cx.known(kept)?;
        Some((flannel::read(&text).ok()?, Found { name, text }))
    });
    if let Some((flannel, found)) = kept {
        let list: Vec<String> = flannel
            .networks
            .iter()
            .map(|(net, _)| net.to_string())
            .collect();
        let warning = Diagnostic::warning(Code::DiscoveryKept, place_of(file, value), sentence);
        cx.diagnostics.push(warning.help(format!(
            "the last valid content of {} is still used: {}",
            found.name,
            list.join(", ")
        )));
        let env = cx.sources.add(&found.name, found.text.as_str());
        return discovered(cx, env, flannel, Discovery::Kept(found));
    }
    let is_elsewhere = is_absent && cx.files.is_elsewhere();
    if cx.files.waits() || is_elsewhere {
        let warning = Diagnostic::warning(Code::DiscoveryAwaited, place_of(file, value), sentence);
        cx.diagnostics.push(warning.help(match is_elsewhere {
            true => {
                "this overlay's pods are unknown here; check the policy on its node, or pass \
                 the node's facts with --discovered FILE"
            }
            false => {
                "flannel writes this file when it starts; this overlay's pods are accepted as \
                 soon as the file exists"
            }
        }));
        return Subnets {
            discovery: Discovery::Awaited(paths.into_iter().map(|(path, _)| path).collect()),
            ..Subnets::default()
        };
    }
    for mut each in wrong {
        each.help.get_or_insert_with(|| {
            "flannel writes this file when it starts, and `peerwall run` waits for it; without \
             flannel, write `subnets = [...]` instead of `discover`"
                .into()
        });
        cx.error(each);
    }
    Subnets::default()
}

fn discovered(
    cx: &mut Context<'_>,
    file: FileId,
    flannel: Flannel,
    discovery: Discovery,
) -> Subnets {
    let at = |span| Place { file, span };
    for (node, span) in flannel.node {
        if !flannel.networks.iter().any(|(net, _)| net.contains(&node)) {
            cx.diagnostics.push(
                Diagnostic::warning(
                    Code::NodeOutsideOverlay,
                    at(span),
                    format!("this node's pods, {node}, are outside of the pod network"),
                )
                .help(
                    "their packets are not accepted; flannel's lease differs from its \
                     configuration, see its log",
                ),
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
        // Only these backends of flannel support the key.
        direct: flannel
            .direct
            .filter(|(direct, _)| *direct)
            .filter(
                |_| matches!(&flannel.kind, Some((kind, _)) if kind == "vxlan" || kind == "ipip"),
            )
            .map(|(_, span)| at(span)),
        kind: flannel.kind.map(|(kind, span)| (kind, at(span))),
        flannel: flannel.backend,
    }
}

/// Warns if flannel's configuration has a different backend.
pub(super) fn warn_of_flannels_backend(
    cx: &mut Context<'_>,
    said: OverlayBackend,
    subnets: &Subnets,
) {
    let Some((kind, place)) = &subnets.kind else {
        return;
    };
    let name = said.name();
    let mut known = OverlayBackend::NAMES.iter();
    if known.any(|(known, _)| known == kind) && kind != name {
        let help = match subnets.direct {
            Some(_) => format!(
                "write backend = \"{kind}\", which supports the DirectRouting that this file enables"
            ),
            None => format!("write backend = \"{kind}\""),
        };
        let message = format!("flannel's backend is {kind}, but this overlay's is {name}");
        cx.diagnostics
            .push(Diagnostic::warning(Code::BackendMismatch, place.clone(), message).help(help));
    }
}

/// Finds the overlay's tunnel interface; if flannel has one for each family, that of IPv4.
pub(super) fn tunnel_link(
    cx: &mut Context<'_>,
    backend: OverlayBackend,
    interfaces: &[InterfacePattern],
    place: &Place,
) -> Option<Link> {
    let named = interfaces.iter().filter_map(InterfacePattern::exact);
    let mut links: Vec<Link> = Vec::new();
    for name in named {
        let link = cx.files.link(name);
        links.extend(cx.known(link));
    }
    let kind = backend.driver();
    let tunnels = ["vxlan", "wireguard", "ipip"];
    if let Some(other) = links
        .iter()
        .find(|link| tunnels.contains(&link.kind.as_str()) && Some(link.kind.as_str()) != kind)
    {
        let help = match backend.is_tunnelled() {
            true => format!(
                "write backend = \"{}\", or remove {} from `interfaces`",
                other.kind, other.name
            ),
            false => format!(
                "write backend = \"{}\", and direct = true if nodes on one LAN route without the \
                 tunnel (flannel's DirectRouting); or remove {} from `interfaces`",
                other.kind, other.name
            ),
        };
        let message = format!(
            "{} is a {} tunnel, but this overlay has a different backend",
            other.name, other.kind
        );
        cx.diagnostics
            .push(Diagnostic::warning(Code::BackendMismatch, place.clone(), message).help(help));
    }
    let mut links: Vec<Link> = links
        .into_iter()
        // An existing tunnel accepts packets even if the policy has no tunnel.
        .filter(|link| match kind {
            Some(kind) => link.kind == kind,
            None => link.kind == "vxlan",
        })
        .collect();
    links.sort_by_key(|link| link.name.contains("-v6"));
    // A changed tunnel changes the policy, like a changed file.
    for link in &links {
        cx.sources
            .add(format!("interface {}", link.name), link.to_string());
    }
    warn_of_two_ports(cx, &links, place);
    links.into_iter().next()
}

/// Warns if the tunnels of IPv4 and IPv6 use different ports. An overlay has one port.
fn warn_of_two_ports(cx: &mut Context<'_>, links: &[Link], place: &Place) {
    let [first, others @ ..] = links else { return };
    let differs = |other: &&Link| matches!((first.port, other.port), (Some(a), Some(b)) if a != b);
    if let Some(other) = others.iter().find(differs)
        && let (Some(a), Some(b)) = (first.port, other.port)
    {
        let message = format!(
            "{} uses UDP port {b}, but {} uses {a}; an overlay has one port",
            other.name, first.name
        );
        cx.diagnostics.push(
            Diagnostic::warning(Code::TunnelPorts, place.clone(), message).help(
                "restart flannel to give both the configured port; define a different tunnel \
                 as a separate [overlay.NAME]",
            ),
        );
    }
}

fn because(wrong: Wrong, file: FileId, named_at: &Place, path: &str) -> Diagnostic {
    let mut diagnostic = match wrong.span {
        Some(span) => {
            Diagnostic::error(Code::DiscoveryInvalid, Place { file, span }, wrong.message)
        }
        None => Diagnostic::error(
            Code::DiscoveryInvalid,
            named_at.clone(),
            format!("cannot use {path}: {}", wrong.message),
        ),
    };
    diagnostic.help = wrong.help;
    diagnostic
}
