//! Parsing of `[overlay.NAME]`.

use super::context::{Context, Owner};
use super::discover::{Subnets, discover, tunnel_link, warn_of_flannels_backend};
use super::fields::{Fields, Key, Value, place_of};
use super::tunnel::parse_tunnel;
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::policy::{Address, Overlay, OverlayBackend};

pub(super) fn parse_overlays(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    cx.named_entries(file, value, "overlay.NAME", "overlay", |cx, key, value| {
        if let Some(table) = cx.table(file, value, "overlay.NAME") {
            parse_overlay(cx, key, table);
        }
    });
}

fn parse_overlay(cx: &mut Context<'_>, key: &Key<'_>, mut fields: Fields<'_>) {
    let file = fields.file();
    let name = key.get_ref().to_string();
    let place = place_of(file, key);
    let what = format!("overlay `{name}`");
    let backend = parse_backend(cx, &mut fields, &place, &what);
    let subnets = parse_subnets(cx, &mut fields, &place, &what);
    let written = fields.take("interfaces");
    let interfaces = match written {
        Some((_, value)) => {
            let mut written = cx.patterns(file, value, "`interfaces`");
            if subnets.has(Family::V6) {
                add_v6_devices(&mut written, backend);
            }
            written
        }
        None => match backend {
            Some(backend) => backend.default_interfaces(subnets.flannel.vni),
            None => Vec::new(),
        },
    };
    let has_interfaces = written.is_some();
    let direct = parse_direct(cx, &mut fields, backend, &subnets);
    let underlay = match fields.take("underlay") {
        Some((_, value)) => cx.patterns(file, value, "`underlay`"),
        None => Vec::new(),
    };
    let unmasqueraded = match fields.take("unmasqueraded") {
        Some((_, value)) => cx.boolean(file, value, "unmasqueraded"),
        None => None,
    };
    let tunnel_from = fields.take("tunnel_from");
    if let Some((key, value)) = tunnel_from {
        parse_tunnel_from(cx, file, key, value, backend);
    }
    let link = backend.and_then(|backend| {
        warn_of_flannels_backend(cx, backend, &subnets);
        tunnel_link(cx, backend, &interfaces, &place)
    });
    let tunnel = parse_tunnel(cx, &mut fields, backend, &subnets, link.as_ref(), &place);
    let known = [
        "backend",
        "subnets",
        "discover",
        "interfaces",
        "port",
        "direct",
        "underlay",
        "unmasqueraded",
        "tunnel_from",
    ];
    cx.diagnostics.extend(fields.unknown(&known, &what));
    // A missing backend is reported already. The overlay is kept, so that its name resolves.
    let backend = backend.unwrap_or(OverlayBackend::None);
    cx.draft.policy.overlays.push(Overlay {
        name,
        place,
        backend,
        tunnel,
        subnets: subnets.addresses,
        discovery: subnets.discovery,
        direct,
        link,
        interfaces,
        tunnel_side: Vec::new(),
        lan_side: Vec::new(),
        by_route: match backend {
            OverlayBackend::HostGw => true,
            OverlayBackend::None => !has_interfaces || !underlay.is_empty(),
            OverlayBackend::Vxlan
            | OverlayBackend::Wireguard
            | OverlayBackend::Udp
            | OverlayBackend::Ipip => direct,
        },
        underlay,
        routed: Vec::new(),
        unmasqueraded: unmasqueraded.unwrap_or_default(),
        peer_macs: Vec::new(),
        carved: Vec::new(),
        tunnel_from: Vec::new(),
    });
}

fn parse_backend(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    place: &Place,
    what: &str,
) -> Option<OverlayBackend> {
    match fields.take("backend") {
        Some((_, value)) => cx.one_of(fields.file(), value, "backend", &OverlayBackend::NAMES),
        None => {
            cx.error(
                Diagnostic::error(Code::MissingKey, place.clone(), format!("{what} has no backend"))
                    .help("flannel's default is backend = \"vxlan\"; see Backend.Type in its net-conf.json"),
            );
            None
        }
    }
}

fn parse_subnets(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    place: &Place,
    what: &str,
) -> Subnets {
    let file = fields.file();
    match (fields.take("subnets"), fields.take("discover")) {
        (Some((_, value)), None) => {
            let addresses = cx.addresses(file, value, "`subnets`");
            check_pods(cx, &addresses);
            Subnets {
                addresses,
                ..Subnets::default()
            }
        }
        (None, Some((_, value))) => discover(cx, file, value),
        (Some((key, value)), Some((other, _))) => {
            let addresses = cx.addresses(file, value, "subnets");
            check_pods(cx, &addresses);
            let first = place_of(file, key);
            cx.error(
                Diagnostic::error(Code::ConflictingKeys,
                    place_of(file, other),
                    format!("{what} has both `subnets` and `discover`"),
                )
                .also(first, "conflicts with this")
                .help("keep `subnets` if the networks never change, or `discover` to follow flannel's file"),
            );
            Subnets::default()
        }
        (None, None) => {
            cx.error(
                Diagnostic::error(
                    Code::MissingKey,
                    place.clone(),
                    format!("{what} has no subnets"),
                )
                .help(
                    "add subnets = [\"10.244.0.0/16\"] with the cluster's pod networks, or \
                     discover = \"/run/flannel/subnet.env\"",
                ),
            );
            Subnets::default()
        }
    }
}

fn check_pods(cx: &mut Context<'_>, subnets: &[Address]) {
    let nets: Vec<ipnet::IpNet> = subnets.iter().map(|subnet| subnet.net).collect();
    for (index, err) in addr::check_pods(&nets).err().into_iter().flatten() {
        let mut diagnostic = Diagnostic::error(
            Code::InvalidAddress,
            subnets[index].place.clone(),
            err.message,
        );
        diagnostic.help = err.help;
        cx.error(diagnostic);
    }
}

/// Parses `direct`: whether pods' packets also arrive outside the tunnel.
fn parse_direct(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    backend: Option<OverlayBackend>,
    subnets: &Subnets,
) -> bool {
    let file = fields.file();
    let given = fields.take("direct");
    let Some(backend) = backend else { return false };
    let Some((key, value)) = given else {
        return backend.is_tunnelled() && subnets.direct.is_some();
    };
    if !backend.is_tunnelled() {
        cx.error(
            Diagnostic::error(
                Code::KeyDoesNotApply,
                place_of(file, key),
                "this backend has no tunnel, so `direct` does not apply",
            )
            .help("omit `direct`; without a tunnel, pods are always accepted by route"),
        );
        return false;
    }
    let direct = cx.boolean(file, value, "direct").unwrap_or_default();
    if let Some(found) = subnets.direct.clone().filter(|_| !direct) {
        cx.diagnostics.push(
            Diagnostic::warning(Code::DirectRoutingDropped,
                place_of(file, value),
                "flannel routes between nodes on one LAN without the tunnel, but these packets are dropped",
            )
            .also(found, "enabled here")
            .help("omit `direct`, or disable DirectRouting in net-conf.json"),
        );
    }
    direct
}

/// Parses `tunnel_from`: sources besides peers that may send to the tunnel. The tunnel must
/// authenticate them.
fn parse_tunnel_from(
    cx: &mut Context<'_>,
    file: FileId,
    key: &Key<'_>,
    value: &Value<'_>,
    backend: Option<OverlayBackend>,
) {
    match backend {
        Some(OverlayBackend::Wireguard) | None => {
            let owner = Owner::Tunnel(cx.draft.policy.overlays.len());
            cx.froms(owner, file, value);
        }
        Some(_) => cx.error(
            Diagnostic::error(Code::OpenTunnel,
                place_of(file, key),
                "this tunnel does not authenticate senders, so only peers may send to it",
            )
            .help("omit `tunnel_from` and list the nodes as peers; only wireguard authenticates senders"),
        ),
    }
}

/// Adds flannel's IPv6 devices if `interfaces` lists the IPv4 ones. An overlay with IPv6 subnets
/// and only `flannel.1` would drop all IPv6 packets between nodes.
fn add_v6_devices(interfaces: &mut Vec<InterfacePattern>, backend: Option<OverlayBackend>) {
    let v6_name = |name: &str| match backend? {
        OverlayBackend::Vxlan => Some(format!("flannel-v6.{}", name.strip_prefix("flannel.")?)),
        OverlayBackend::Wireguard => (name == "flannel-wg").then(|| "flannel-wg-v6".to_owned()),
        OverlayBackend::Udp
        | OverlayBackend::Ipip
        | OverlayBackend::HostGw
        | OverlayBackend::None => None,
    };
    let names = interfaces.iter().map(InterfacePattern::to_string);
    let more: Vec<InterfacePattern> = names
        .filter_map(|name| InterfacePattern::parse(&v6_name(&name)?).ok())
        .filter(|pattern| !interfaces.contains(pattern))
        .collect();
    interfaces.extend(more);
}
