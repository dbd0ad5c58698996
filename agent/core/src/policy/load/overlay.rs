//! `[overlay.NAME]`.

use super::discover::Subnets;
use super::fields::{Fields, Key, Value};
use super::{Loader, Owner, place_of};
use crate::diagnostic::{Diagnostic, FileId, Place};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::policy::{Address, Overlay, OverlayBackend};

impl Loader<'_> {
    pub(super) fn overlays(&mut self, file: FileId, value: &Value<'_>) {
        self.named_entries(
            file,
            value,
            "overlay.NAME",
            "overlay",
            |this, key, value| {
                if let Some(table) = this.table(file, value, "overlay.NAME") {
                    this.overlay(key, table);
                }
            },
        );
    }

    fn overlay(&mut self, key: &Key<'_>, mut fields: Fields<'_>) {
        let file = fields.file();
        let name = key.get_ref().to_string();
        let place = place_of(file, key);
        let what = format!("overlay `{name}`");
        let backend = self.overlay_backend(&mut fields, &place, &what);
        let subnets = self.subnets(&mut fields, &place, &what);
        let written = fields.take("interfaces");
        let interfaces = match written {
            Some((_, value)) => {
                let mut written = self.patterns(file, value, "interfaces");
                if subnets.has(Family::V6) {
                    add_v6_devices(&mut written, backend);
                }
                written
            }
            None => match backend {
                Some(backend) => default_interfaces(backend, subnets.flannel.vni),
                None => Vec::new(),
            },
        };
        let has_interfaces = written.is_some();
        let direct = self.direct(&mut fields, backend, &subnets);
        let underlay = match fields.take("underlay") {
            Some((_, value)) => self.patterns(file, value, "underlay"),
            None => Vec::new(),
        };
        let unmasqueraded = match fields.take("unmasqueraded") {
            Some((_, value)) => self.boolean(file, value, "unmasqueraded"),
            None => None,
        };
        let tunnel_from = fields.take("tunnel_from");
        if let Some((key, value)) = tunnel_from {
            self.tunnel_from(file, key, value, backend);
        }
        let link = backend.and_then(|backend| {
            self.warn_of_flannels_backend(backend, &subnets);
            self.tunnel_link(backend, &interfaces, &place)
        });
        let tunnel = self.tunnel(&mut fields, backend, &subnets, link.as_ref(), &place);
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
        self.diagnostics.extend(fields.unknown(&known, &what));
        let Some(backend) = backend else { return };
        self.draft.policy.overlays.push(Overlay {
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

    fn overlay_backend(
        &mut self,
        fields: &mut Fields<'_>,
        place: &Place,
        what: &str,
    ) -> Option<OverlayBackend> {
        match fields.take("backend") {
            Some((_, value)) => self.one_of(fields.file(), value, "backend", &BACKENDS),
            None => {
                self.error(
                    Diagnostic::error(place.clone(), format!("{what} has no backend"))
                        .help("flannel's default is backend = \"vxlan\"; see Backend.Type in its net-conf.json"),
                );
                None
            }
        }
    }

    fn subnets(&mut self, fields: &mut Fields<'_>, place: &Place, what: &str) -> Subnets {
        let file = fields.file();
        match (fields.take("subnets"), fields.take("discover")) {
            (Some((_, value)), None) => {
                let addresses = self.addresses(file, value, "subnets");
                self.check_pods(&addresses);
                Subnets {
                    addresses,
                    ..Subnets::default()
                }
            }
            (None, Some((_, value))) => self.discover(file, value),
            (Some((key, _)), Some((other, _))) => {
                let first = place_of(file, key);
                self.error(
                    Diagnostic::error(
                        place_of(file, other),
                        format!("{what} has both `subnets` and `discover`"),
                    )
                    .also(first, "and this")
                    .help("keep `subnets` if the networks never change, or `discover` to follow flannel's file"),
                );
                Subnets::default()
            }
            (None, None) => {
                self.error(
                    Diagnostic::error(place.clone(), format!("{what} has no subnets"))
                        .help("add subnets = [\"10.244.0.0/16\"] with the cluster's pod networks, or discover = \"/run/flannel/subnet.env\""),
                );
                Subnets::default()
            }
        }
    }

    fn check_pods(&mut self, subnets: &[Address]) {
        let nets: Vec<ipnet::IpNet> = subnets.iter().map(|subnet| subnet.net).collect();
        for (index, err) in addr::check_pods(&nets).err().into_iter().flatten() {
            let mut diagnostic = Diagnostic::error(subnets[index].place.clone(), err.message);
            diagnostic.help = err.help;
            self.error(diagnostic);
        }
    }

    /// Whether pods arrive outside of the tunnel, too.
    fn direct(
        &mut self,
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
            self.error(
                Diagnostic::error(
                    place_of(file, key),
                    "this backend has no tunnel, so `direct` does not apply",
                )
                .help(
                    "leave `direct` out; without a tunnel, pods are accepted by route in any case",
                ),
            );
            return false;
        }
        let direct = self.boolean(file, value, "direct").unwrap_or_default();
        if let Some(found) = subnets.direct.clone().filter(|_| !direct) {
            self.diagnostics.push(
                Diagnostic::warning(
                    place_of(file, value),
                    "flannel routes between nodes of one LAN without the tunnel, and these packets are dropped",
                )
                .also(found, "switched on here")
                .help("leave `direct` out, or switch DirectRouting off in net-conf.json"),
            );
        }
        direct
    }

    /// Who besides peers may send to the tunnel; only where the tunnel authenticates them itself.
    fn tunnel_from(
        &mut self,
        file: FileId,
        key: &Key<'_>,
        value: &Value<'_>,
        backend: Option<OverlayBackend>,
    ) {
        match backend {
            Some(OverlayBackend::Wireguard) | None => {
                let owner = Owner::Tunnel(self.draft.policy.overlays.len());
                self.froms(owner, file, value);
            }
            Some(_) => self.error(
                Diagnostic::error(
                    place_of(file, key),
                    "this tunnel takes every packet for a peer's, so only peers may send to it",
                )
                .help("leave `tunnel_from` out and list the nodes as peers; only wireguard authenticates senders"),
            ),
        }
    }
}

/// What `backend` can be.
pub(super) const BACKENDS: [(&str, OverlayBackend); 6] = [
    ("vxlan", OverlayBackend::Vxlan),
    ("host-gw", OverlayBackend::HostGw),
    ("wireguard", OverlayBackend::Wireguard),
    ("udp", OverlayBackend::Udp),
    ("ipip", OverlayBackend::Ipip),
    ("none", OverlayBackend::None),
];

/// The names that flannel gives its devices (`pkg/backend/*` in flannel), the bridge of its CNI plugin, and
/// Calico's pod interfaces, which canal combines with flannel's tunnel.
fn default_interfaces(backend: OverlayBackend, vni: Option<u32>) -> Vec<InterfacePattern> {
    let mut names: Vec<String> = match backend {
        OverlayBackend::Vxlan => {
            let vni = vni.unwrap_or(1);
            vec![format!("flannel.{vni}"), format!("flannel-v6.{vni}")]
        }
        OverlayBackend::Wireguard => vec!["flannel-wg".into(), "flannel-wg-v6".into()],
        OverlayBackend::Udp => vec!["flannel0".into()],
        OverlayBackend::Ipip => vec!["flannel.ipip".into()],
        OverlayBackend::HostGw | OverlayBackend::None => Vec::new(),
    };
    names.push("cni0".into());
    // Without a tunnel, Calico's routes to its pods are enough.
    if backend.is_tunnelled() {
        names.push("cali*".into());
    }
    // No interface has a name that is too long, as flannel-v6.10000 is.
    let patterns = names.iter().map(|name| InterfacePattern::parse(name).ok());
    patterns.flatten().collect()
}

/// Adds flannel's devices for IPv6 to written interfaces that name those for IPv4. An overlay with IPv6 subnets
/// that names only `flannel.1` would drop all IPv6 between nodes.
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
