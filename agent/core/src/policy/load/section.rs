//! One function for each part of the file.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::discover::Subnets;
use super::fields::{self, Fields};
use super::{Loader, Owner, PendingFrom, place_of};
use crate::diagnostic::{Diagnostic, FileId, Place};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::link::Link;
use crate::net::packet::{Hook, Verdict};
use crate::net::port::{self, PortRange, PortSpec};
use crate::policy::{
    Address, Allow, Denied, Discovery, Expect, Group, HeldBy, IcmpTypes, Log, Overlay,
    OverlayBackend, Peer, Rate, RateUnit, Tunnel, icmp,
};

pub(super) type Key<'a> = Spanned<DeString<'a>>;
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// What `backend` can be.
pub(super) const BACKENDS: [(&str, OverlayBackend); 6] = [
    ("vxlan", OverlayBackend::Vxlan),
    ("host-gw", OverlayBackend::HostGw),
    ("wireguard", OverlayBackend::Wireguard),
    ("udp", OverlayBackend::Udp),
    ("ipip", OverlayBackend::Ipip),
    ("none", OverlayBackend::None),
];

/// An `[[expect]]` whose `from` is not looked up yet.
pub(super) struct PendingExpect {
    expect: Expect,
    from: Vec<(String, Place)>,
    has_interface: bool,
}

impl Loader<'_> {
    pub(super) fn sections(&mut self, top: &mut Fields<'_>) {
        let file = top.file();
        if let Some((_, value)) = top.take("peers") {
            self.peers(file, value);
        }
        if let Some((key, value)) = top.take("peers_files")
            && self.define("key", "peers_files", &place_of(file, key))
        {
            self.peers_files(file, value);
        }
        if let Some((_, value)) = top.take("groups") {
            self.groups(file, value);
        }
        if let Some((_, value)) = top.take("overlay") {
            self.overlays(file, value);
        }
        for (name, item) in [
            (
                "interfaces",
                Self::interfaces as fn(&mut Self, FileId, &Value<'_>),
            ),
            ("icmp", Self::icmp),
            ("options", Self::options),
            ("log", Self::log),
        ] {
            if let Some((key, value)) = top.take(name)
                && self.define("key", name, &place_of(file, key))
            {
                item(self, file, value);
            }
        }
        if let Some((_, value)) = top.take("allow") {
            self.each_table(file, value, "allow", Self::allow);
        }
        if let Some((_, value)) = top.take("expect") {
            self.each_table(file, value, "expect", Self::expect);
        }
    }

    /// The value as a table, or an error.
    fn table<'v>(&mut self, file: FileId, value: &'v Value<'v>, what: &str) -> Option<Fields<'v>> {
        match value.get_ref().as_table() {
            Some(table) => Some(Fields::new(file, table, value.span())),
            None => {
                let got = fields::kind(value.get_ref());
                self.error(
                    Diagnostic::error(
                        place_of(file, value),
                        format!("{what} is a table, not {got}"),
                    )
                    .help(format!("write [{what}] and its keys below it")),
                );
                None
            }
        }
    }

    fn each_table(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: &str,
        each: fn(&mut Self, Fields<'_>),
    ) {
        let wrong = |value: &Value<'_>| {
            Diagnostic::error(
                place_of(file, value),
                format!("`{what}` is a list of tables"),
            )
            .help(format!("write [[{what}]] with two brackets, once for each"))
        };
        let Some(list) = value.get_ref().as_array() else {
            return self.error(wrong(value));
        };
        for item in list {
            match item.get_ref() {
                DeValue::Table(table) => each(self, Fields::new(file, table, item.span())),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => self.error(wrong(item)),
            }
        }
    }

    fn named_entries(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        section: &str,
        kind: &'static str,
        mut each: impl FnMut(&mut Self, &Key<'_>, &Value<'_>),
    ) {
        let Some(table) = self.table(file, value, section) else {
            return;
        };
        for (key, value) in table.entries() {
            let place = place_of(file, key);
            let fits = self.check_name(kind, key.get_ref(), &place);
            if self.define(kind, key.get_ref(), &place) && fits {
                each(self, key, value);
            }
        }
    }

    fn peers(&mut self, file: FileId, value: &Value<'_>) {
        self.named_entries(file, value, "peers", "peer", |this, key, value| {
            let name = key.get_ref().to_string();
            let addresses = this.addresses(file, value, &format!("peer `{name}`"));
            this.draft.policy.peers.push(Peer {
                name: Some(name),
                addresses,
            });
        });
    }

    fn peers_files(&mut self, file: FileId, value: &Value<'_>) {
        for (path, place) in self.strings(file, value, "peers_files") {
            let addresses = self.list_file(&path, &place);
            self.draft.policy.peers.push(Peer {
                name: None,
                addresses,
            });
        }
    }

    fn groups(&mut self, file: FileId, value: &Value<'_>) {
        self.named_entries(file, value, "groups", "group", |this, key, value| {
            let name = key.get_ref().to_string();
            let addresses = match value.get_ref() {
                DeValue::Table(table) => {
                    this.group_table(Fields::new(file, table, value.span()), &name)
                }
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => this.addresses(file, value, &format!("group `{name}`")),
            };
            let place = place_of(file, key);
            this.draft.policy.groups.push(Group {
                name,
                place,
                addresses,
            });
        });
    }

    fn group_table(&mut self, mut fields: Fields<'_>, name: &str) -> Vec<Address> {
        let file = fields.file();
        let mut addresses = Vec::new();
        let listed = fields.take("addresses");
        if let Some((_, value)) = listed {
            addresses = self.addresses(file, value, "addresses");
        }
        let files = fields.take("files");
        if let Some((_, value)) = files {
            for (path, place) in self.strings(file, value, "files") {
                let more = self.list_file(&path, &place);
                addresses.extend(more);
            }
        }
        self.diagnostics
            .extend(fields.unknown(&["addresses", "files"], &format!("group `{name}`")));
        if listed.is_none() && files.is_none() {
            let place = fields.place();
            self.error(
                Diagnostic::error(place, format!("group `{name}` has no addresses"))
                    .help("give `addresses = [...]` or `files = [...]`"),
            );
        }
        addresses
    }

    fn overlays(&mut self, file: FileId, value: &Value<'_>) {
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

    fn tunnel(
        &mut self,
        fields: &mut Fields<'_>,
        backend: Option<OverlayBackend>,
        subnets: &Subnets,
        link: Option<&Link>,
        place: &Place,
    ) -> Option<Tunnel> {
        let file = fields.file();
        let default = match backend? {
            OverlayBackend::Vxlan => Some(PortRange::one(8472)),
            OverlayBackend::Wireguard => Some(wireguard_ports(subnets)),
            OverlayBackend::Udp => Some(PortRange::one(8285)),
            OverlayBackend::Ipip | OverlayBackend::HostGw | OverlayBackend::None => None,
        };
        let given = fields.take("port");
        let Some(default) = default else {
            if let Some((key, _)) = given {
                self.error(
                    Diagnostic::error(place_of(file, key), "this backend has no port")
                        .help("leave `port` out; only vxlan, wireguard and udp have one"),
                );
            }
            let port = link.and_then(|link| link.port);
            return match backend {
                Some(OverlayBackend::Ipip) => Some(Tunnel::Protocol(4)),
                _ => port.map(|port| Tunnel::Udp(PortRange::one(port))),
            };
        };
        let real = link.and_then(|link| link.port);
        let Some((_, value)) = given else {
            if backend == Some(OverlayBackend::Wireguard) {
                self.warn_of_ports_between(place, default);
                return Some(Tunnel::Udp(default));
            }
            let found = real.or(subnets.flannel.port);
            // With `discover`, the discovered port counts. Without it, the policy's does, and is compared.
            return Some(Tunnel::Udp(match (&subnets.discovery, found) {
                (Discovery::Written, _) => {
                    self.warn_of_port(place, default, link);
                    default
                }
                (_, Some(port)) => PortRange::one(port),
                (_, None) => default,
            }));
        };
        match fields::integer(value.get_ref()).map(u16::try_from) {
            Some(Ok(port)) if port > 0 => {
                self.warn_of_port(&place_of(file, value), PortRange::one(port), link);
                Some(Tunnel::Udp(PortRange::one(port)))
            }
            _ => {
                self.error(
                    Diagnostic::error(place_of(file, value), "`port` is not a port number").help(
                        format!("a number from 1 to 65535; the default is {default}"),
                    ),
                );
                None
            }
        }
    }

    /// Warns if WireGuard's two ports are not adjacent, since a tunnel has one range of ports.
    fn warn_of_ports_between(&mut self, place: &Place, ports: PortRange) {
        let PortRange { first, last } = ports;
        if last - first > 1 {
            let message = format!(
                "flannel uses UDP ports {first} and {last}, so all ports from {first} to {last} are reserved for the tunnel"
            );
            self.diagnostics.push(
                Diagnostic::warning(place.clone(), message).help(format!(
                    "make ListenPort and ListenPortV6 of net-conf.json adjacent, or write port = {first} to reserve that port only"
                )),
            );
        }
    }

    /// Warns if the tunnel interface uses a different port.
    fn warn_of_port(&mut self, place: &Place, said: PortRange, link: Option<&Link>) {
        let real = link.and_then(|link| Some((link, link.port?)));
        if let Some((link, port)) =
            real.filter(|(_, port)| !(said.first..=said.last).contains(port))
        {
            self.diagnostics.push(
                Diagnostic::warning(
                    place.clone(),
                    format!("{} uses UDP port {port}, but this overlay's tunnel is at {said}", link.name),
                )
                .help(format!("write port = {port}; otherwise an allow that covers UDP port {port} lets strangers send into the tunnel")),
            );
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

    fn patterns(&mut self, file: FileId, value: &Value<'_>, what: &str) -> Vec<InterfacePattern> {
        let mut patterns: Vec<InterfacePattern> = Vec::new();
        let mut seen = BTreeSet::new();
        for (text, place) in self.strings(file, value, what) {
            match InterfacePattern::parse(&text) {
                Ok(pattern) if !seen.insert(pattern.clone()) => self.error(
                    Diagnostic::error(place, format!("`{text}` is listed twice"))
                        .help("leave one out"),
                ),
                Ok(pattern) => patterns.push(pattern),
                Err(why) => self.error(
                    Diagnostic::error(place, why.0)
                        .help("like \"eth0\", or \"cali*\" for all that start so"),
                ),
            }
        }
        patterns
    }

    /// One of a few words.
    fn one_of<T: Copy>(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = value.get_ref().as_str();
        if let Some((_, choice)) = choices.iter().find(|(name, _)| Some(*name) == text) {
            return Some(*choice);
        }
        let near = text.and_then(|text| fields::closest(text, names.iter().copied()));
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of \"{}\"", names.join("\", \"")),
        };
        let got = text.map_or_else(
            || fields::kind(value.get_ref()).to_owned(),
            |t| format!("`{t}`"),
        );
        self.error(
            Diagnostic::error(place_of(file, value), format!("`{what}` cannot be {got}"))
                .help(help),
        );
        None
    }

    fn boolean(&mut self, file: FileId, value: &Value<'_>, what: &str) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.error(
                Diagnostic::error(place_of(file, value), format!("`{what}` is true or false"))
                    .help("without quotes"),
            );
        }
        found
    }

    fn allow(&mut self, mut fields: Fields<'_>) {
        let file = fields.file();
        let Some((name, place)) = self.allow_name(&mut fields) else {
            return;
        };
        let what = format!("allow `{name}`");
        let ports = fields
            .take("ports")
            .map(|(_, value)| self.ports(file, value));
        let interfaces = match fields.take("interfaces") {
            Some((_, value)) => self.patterns(file, value, "interfaces"),
            None => Vec::new(),
        };
        let from_ports = fields
            .take("from_ports")
            .map(|(_, value)| self.ports(file, value));
        self.check_protocols(&place, ports.as_deref(), from_ports.as_deref());
        let limit = match fields.take("limit") {
            Some((_, value)) => self.limit(file, value),
            None => None,
        };
        let to = fields.take("to");
        let from = fields.take("from");
        let known = [
            "name",
            "ports",
            "from",
            "interfaces",
            "from_ports",
            "limit",
            "to",
        ];
        self.diagnostics.extend(fields.unknown(&known, &what));
        match from {
            Some((_, value)) => {
                let owner = Owner::Allow(self.draft.policy.allows.len());
                self.froms(owner, file, value);
                let everything = ports.is_none()
                    && from_ports.is_none()
                    && interfaces.is_empty()
                    && to.is_none();
                self.warn_if_open(&what, &place, everything, value);
            }
            None => self.error(
                Diagnostic::error(place.clone(), format!("{what} does not say for whom"))
                    .help("add from = \"any\", or the name of a group, or a CIDR"),
            ),
        }
        if let Some((_, value)) = to {
            let index = self.draft.policy.allows.len();
            let list = self.strings(file, value, "to");
            let list = list.into_iter().map(|(text, place)| (index, text, place));
            self.draft.tos.extend(list);
        }
        self.draft.policy.allows.push(Allow {
            name,
            place,
            ports,
            from_ports,
            from: Vec::new(),
            to: Vec::new(),
            limit,
            interfaces,
        });
    }

    /// New connections of each source.
    fn limit(&mut self, file: FileId, value: &Value<'_>) -> Option<Rate> {
        let rate = value.get_ref().as_str().and_then(parse_rate);
        let found = rate.filter(|rate| {
            let per_second = u64::from(rate.count) / rate.unit.describe().1;
            per_second <= LIMIT_MAX_PER_SECOND && (1..=LIMIT_MAX_BURST).contains(&rate.burst)
        });
        if found.is_none() {
            self.error(
                Diagnostic::error(place_of(file, value), "`limit` is not a rate").help(
                    "like \"10/second\" or \"100/minute burst 20\"; units are second, minute, hour and day; at most a million",
                ),
            );
        }
        found
    }

    /// Source and destination ports are of one protocol.
    fn check_protocols(
        &mut self,
        place: &Place,
        to: Option<&[PortSpec]>,
        from: Option<&[PortSpec]>,
    ) {
        let (Some(to), Some(from)) = (to, from) else {
            return;
        };
        let of = |specs: &[PortSpec]| -> Vec<u8> {
            specs
                .iter()
                .flat_map(|spec| spec.protocols.iter().copied())
                .collect::<BTreeSet<u8>>()
                .into_iter()
                .collect()
        };
        let (to, from) = (of(to), of(from));
        let alone = |these: &[u8], others: &[u8]| {
            let mut alone = these.iter().filter(|each| !others.contains(each));
            alone.next().map(|protocol| port::protocol_name(*protocol))
        };
        for (found, has, lacks) in [
            (alone(&to, &from), "ports", "from_ports"),
            (alone(&from, &to), "from_ports", "ports"),
        ] {
            if let Some(protocol) = found {
                self.error(
                    Diagnostic::error(
                        place.clone(),
                        format!("`{has}` of this allow names {protocol} and `{lacks}` does not"),
                    )
                    .help("a packet has both of its ports from one protocol; write one allow for each"),
                );
            }
        }
    }

    fn allow_name(&mut self, fields: &mut Fields<'_>) -> Option<(String, Place)> {
        let file = fields.file();
        let Some((_, value)) = fields.take("name") else {
            let place = fields.place();
            self.error(
                Diagnostic::error(place, "this allow has no name")
                    .help("add name = \"…\"; counters and reasons are known by it"),
            );
            return None;
        };
        let place = place_of(file, value);
        let Some(name) = value.get_ref().as_str() else {
            self.error(Diagnostic::error(place, "`name` is a text").help("write it in \"quotes\""));
            return None;
        };
        let fits = self.check_name("allow", name, &place);
        (self.define("allow", name, &place) && fits).then(|| (name.to_owned(), place))
    }

    fn warn_if_open(&mut self, what: &str, place: &Place, everything: bool, from: &Value<'_>) {
        let any = match from.get_ref() {
            DeValue::String(text) => text == "any",
            DeValue::Array(list) => list.iter().any(|v| v.get_ref().as_str() == Some("any")),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Table(_) => false,
        };
        if any && everything {
            self.diagnostics.push(
                Diagnostic::warning(
                    place.clone(),
                    format!("{what} opens every port to everybody"),
                )
                .help("name `ports`, if that is not meant"),
            );
        }
    }

    fn ports(&mut self, file: FileId, value: &Value<'_>) -> Vec<PortSpec> {
        let mut specs: Vec<PortSpec> = Vec::new();
        let mut seen = BTreeSet::new();
        for (text, place) in self.strings(file, value, "ports") {
            match port::parse(&text) {
                Ok(spec) if !seen.insert(spec.clone()) => self.diagnostics.push(
                    Diagnostic::warning(place, format!("`{text}` is listed twice"))
                        .help("leave one out"),
                ),
                Ok(spec) => specs.push(spec),
                Err(err) => {
                    let mut diagnostic = Diagnostic::error(place, err.message);
                    diagnostic.help = err.help;
                    self.error(diagnostic);
                }
            }
        }
        specs
    }

    fn froms(&mut self, owner: Owner, file: FileId, value: &Value<'_>) {
        let what = match owner {
            Owner::Allow(_) => "from",
            Owner::Ping => "ping",
            Owner::Tunnel(_) => "tunnel_from",
        };
        for (text, place) in self.strings(file, value, what) {
            self.draft.froms.push(PendingFrom { owner, text, place });
        }
    }

    fn interfaces(&mut self, file: FileId, value: &Value<'_>) {
        let Some(mut fields) = self.table(file, value, "interfaces") else {
            return;
        };
        self.draft.interfaces = Some(fields.place());
        if let Some((_, value)) = fields.take("trusted") {
            let patterns = self.patterns(file, value, "trusted");
            self.draft.policy.trusted = patterns;
        }
        if let Some((_, value)) = fields.take("guests") {
            let patterns = self.patterns(file, value, "guests");
            self.draft.policy.guests = patterns;
        }
        if let Some((_, value)) = fields.take("bridged") {
            let patterns = self.patterns(file, value, "bridged");
            if patterns.iter().any(|pattern| pattern.exact().is_none()) {
                self.error(
                    Diagnostic::error(place_of(file, value), "`bridged` names bridges, not patterns")
                        .help("a frame that comes in by one bridge and leaves by another is routed; write the name of each"),
                );
            }
            self.draft.policy.bridged = patterns;
        }
        let known = ["trusted", "guests", "bridged"];
        self.diagnostics
            .extend(fields.unknown(&known, "[interfaces]"));
    }

    fn icmp(&mut self, file: FileId, value: &Value<'_>) {
        let Some(mut fields) = self.table(file, value, "icmp") else {
            return;
        };
        self.draft.policy.icmp.place = Some(fields.place());
        for (key, family) in [("v4", Family::V4), ("v6", Family::V6)] {
            if let Some((_, value)) = fields.take(key) {
                let types = self.icmp_types(file, value, family);
                match family {
                    Family::V4 => self.draft.policy.icmp.v4 = types,
                    Family::V6 => self.draft.policy.icmp.v6 = types,
                }
            }
        }
        if let Some((_, value)) = fields.take("core")
            && let Some(core) = self.boolean(file, value, "core")
        {
            self.draft.policy.icmp.core = core;
            if !core {
                self.diagnostics.push(
                    Diagnostic::warning(place_of(file, value), "the safe core of ICMP is off")
                        .help("path MTU discovery and all of IPv6 stop working unless `v4` and `v6` list what they need"),
                );
            }
        }
        if let Some((_, value)) = fields.take("ping") {
            self.froms(Owner::Ping, file, value);
        }
        self.diagnostics
            .extend(fields.unknown(&["v4", "v6", "ping", "core"], "[icmp]"));
    }

    fn icmp_types(&mut self, file: FileId, value: &Value<'_>, family: Family) -> IcmpTypes {
        if value.get_ref().as_str() == Some("all") {
            return IcmpTypes::All;
        }
        let DeValue::Array(list) = value.get_ref() else {
            let name = format!("v{}", family.digit());
            self.error(
                Diagnostic::error(
                    place_of(file, value),
                    format!("`{name}` is a list of ICMP types, or \"all\""),
                )
                .help("like [\"echo-request\"] or [8]"),
            );
            return IcmpTypes::All;
        };
        let mut types: Vec<u8> = list
            .iter()
            .filter_map(|item| self.icmp_type(file, item, family))
            .collect();
        types.sort_unstable();
        types.dedup();
        IcmpTypes::Some(types)
    }

    fn icmp_type(&mut self, file: FileId, value: &Value<'_>, family: Family) -> Option<u8> {
        let place = place_of(file, value);
        if let Some(number) = fields::integer(value.get_ref()) {
            return match u8::try_from(number) {
                Ok(number) => Some(number),
                Err(std::num::TryFromIntError { .. }) => {
                    self.error(
                        Diagnostic::error(place, format!("ICMP type {number} does not exist"))
                            .help("types are 0 to 255"),
                    );
                    None
                }
            };
        }
        let text = value.get_ref().as_str().unwrap_or_default();
        let found = icmp::by_name(family, text);
        if found.is_none() {
            let help = match fields::closest(text, icmp::names(family)) {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!(
                    "one of {}, or a number",
                    icmp::names(family).collect::<Vec<_>>().join(", ")
                ),
            };
            self.error(
                Diagnostic::error(
                    place,
                    format!("`{text}` is not an ICMP type of IPv{}", family.digit()),
                )
                .help(help),
            );
        }
        found
    }

    fn options(&mut self, file: FileId, value: &Value<'_>) {
        let Some(mut fields) = self.table(file, value, "options") else {
            return;
        };
        if let Some((_, value)) = fields.take("hook_priority") {
            match fields::integer(value.get_ref()).map(i32::try_from) {
                // conntrack works at -200 (NF_IP_PRI_CONNTRACK), DNAT at -100: earlier hooks of
                // ours would see neither state nor what was dialled. SNAT of input is at 100.
                Some(Ok(priority)) if (-99..100).contains(&priority) => {
                    self.draft.policy.options.hook_priority = priority;
                    if priority == 0 {
                        self.diagnostics.push(
                            Diagnostic::warning(place_of(file, value), "priority 0 is everybody's: the order against other tables is not defined")
                                .help("take a number of your own, like -10"),
                        );
                    }
                }
                _ => self.error(
                    Diagnostic::error(place_of(file, value), "`hook_priority` is out of range")
                        .help("a number from -99 (after DNAT) to 99; the default is -10"),
                ),
            }
        }
        if let Some((_, value)) = fields.take("backend") {
            let choices = [
                ("auto", HeldBy::Auto),
                ("nft", HeldBy::Nft),
                ("iptables", HeldBy::Iptables),
            ];
            if let Some(backend) = self.one_of(file, value, "backend", &choices) {
                self.draft.policy.options.backend = backend;
            }
        }
        if let Some((_, value)) = fields.take("denied") {
            let choices = [("drop", Denied::Drop), ("reject", Denied::Reject)];
            if let Some(denied) = self.one_of(file, value, "denied", &choices) {
                self.draft.policy.options.denied = denied;
            }
        }
        if let Some((_, value)) = fields.take("invalid")
            && let Some(drop) =
                self.one_of(file, value, "invalid", &[("drop", true), ("accept", false)])
        {
            self.draft.policy.options.drop_invalid = drop;
        }
        if let Some((_, value)) = fields.take("mode") {
            let known = self.one_of(file, value, "mode", &[("enforce", true), ("audit", false)]);
            if known == Some(false) {
                self.error(
                    Diagnostic::error(
                        place_of(file, value),
                        "mode \"audit\" is not in this version of peerwall yet",
                    )
                    .help("`peerwall plan` shows what would change without changing it"),
                );
            }
        }
        if let Some((_, value)) = fields.take("revoke")
            && let Some(cut) = self.one_of(file, value, "revoke", &[("cut", true), ("keep", false)])
        {
            self.draft.policy.options.cut_revoked = cut;
        }
        let known = [
            "backend",
            "hook_priority",
            "denied",
            "mode",
            "invalid",
            "revoke",
        ];
        self.diagnostics.extend(fields.unknown(&known, "[options]"));
    }

    fn log(&mut self, file: FileId, value: &Value<'_>) {
        let Some(mut fields) = self.table(file, value, "log") else {
            return;
        };
        if let Some((_, value)) = fields.take("denied") {
            match value.get_ref() {
                DeValue::Boolean(true) => {}
                DeValue::Boolean(false) => self.draft.log_off = true,
                DeValue::Table(table) => self.log_denied(Fields::new(file, table, value.span())),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => self.error(
                    Diagnostic::error(place_of(file, value), "`denied` is a table, or false")
                        .help("like { group = 5, rate = \"10/second\", prefix = \"peerwall\" }"),
                ),
            }
        }
        self.diagnostics
            .extend(fields.unknown(&["denied"], "[log]"));
    }

    fn log_denied(&mut self, mut fields: Fields<'_>) {
        let file = fields.file();
        let mut log = Log::default();
        if let Some((_, value)) = fields.take("group") {
            match fields::integer(value.get_ref()).map(u16::try_from) {
                Some(Ok(group)) => log.group = group,
                _ => self.error(
                    Diagnostic::error(place_of(file, value), "`group` is not an NFLOG group")
                        .help("a number from 0 to 65535"),
                ),
            }
        }
        if let Some((_, value)) = fields.take("rate") {
            match value.get_ref().as_str().and_then(parse_rate) {
                Some(rate) => log.rate = rate,
                None => self.error(
                    Diagnostic::error(place_of(file, value), "`rate` is not a rate")
                        .help("like \"10/second\" or \"100/minute burst 20\"; units are second, minute, hour and day"),
                ),
            }
        }
        if let Some((_, value)) = fields.take("prefix") {
            match value.get_ref().as_str() {
                Some(text) if is_log_prefix(text) => log.prefix = text.to_owned(),
                _ => self.error(
                    Diagnostic::error(place_of(file, value), "`prefix` is not a log prefix")
                        .help("a text of 1 to 64 printable ASCII characters, without \" and \\"),
                ),
            }
        }
        self.diagnostics
            .extend(fields.unknown(&["group", "rate", "prefix"], "[log] denied"));
        self.draft.policy.log = Some(log);
    }

    fn expect(&mut self, mut fields: Fields<'_>) {
        let file = fields.file();
        let whole = fields.place();
        let hook = match fields.take("hook") {
            Some((_, value)) => self.one_of(
                file,
                value,
                "hook",
                &[("input", Hook::Input), ("forward", Hook::Forward)],
            ),
            None => Some(Hook::Input),
        };
        let from = match fields.take("from") {
            Some((_, value)) => self.strings(file, value, "from"),
            None => self.missing(
                &whole,
                "from",
                "like from = \"192.0.2.7\", or the name of a peer",
            ),
        };
        let to = fields
            .take("to")
            .and_then(|(_, value)| self.expect_to(file, value));
        let given = fields.take("interface");
        let interface = given.and_then(|(_, value)| self.expect_interface(file, value));
        let port = fields
            .take("port")
            .and_then(|(_, value)| self.expect_port(file, value));
        let verdict = match fields.take("verdict") {
            Some((_, value)) => {
                let choices = [("accept", Verdict::Accept), ("drop", Verdict::Drop)];
                self.one_of(file, value, "verdict", &choices)
                    .map(|v| (v, place_of(file, value)))
            }
            None => {
                let _: Vec<(String, Place)> =
                    self.missing(&whole, "verdict", "add verdict = \"accept\" or \"drop\"");
                None
            }
        };
        let known = ["hook", "from", "to", "interface", "port", "verdict"];
        self.diagnostics.extend(fields.unknown(&known, "expect"));
        let (Some(hook), Some((verdict, place))) = (hook, verdict) else {
            return;
        };
        let expect = Expect {
            place,
            hook,
            from: Vec::new(),
            to,
            interface: interface.unwrap_or_else(|| "eth0".to_owned()),
            port,
            verdict,
        };
        let has_interface = given.is_some();
        self.draft.expects.push(PendingExpect {
            expect,
            from,
            has_interface,
        });
    }

    fn missing<T>(&mut self, place: &Place, key: &str, help: &str) -> Vec<T> {
        self.error(
            Diagnostic::error(place.clone(), format!("this expect has no `{key}`")).help(help),
        );
        Vec::new()
    }

    fn expect_to(&mut self, file: FileId, value: &Value<'_>) -> Option<ipnet::IpNet> {
        let texts = self.strings(file, value, "to");
        let (text, place) = texts.into_iter().next()?;
        self.address(&text, place).map(|a| a.net)
    }

    fn expect_interface(&mut self, file: FileId, value: &Value<'_>) -> Option<String> {
        let patterns = self.patterns(file, value, "interface");
        patterns.first().map(InterfacePattern::example)
    }

    fn expect_port(&mut self, file: FileId, value: &Value<'_>) -> Option<PortSpec> {
        let specs = self.ports(file, value);
        specs.into_iter().next()
    }

    /// Looks up what `from` of each `[[expect]]` names.
    pub(super) fn resolve_expects(&mut self) {
        for mut pending in std::mem::take(&mut self.draft.expects) {
            let mut awaits = false;
            for (text, place) in std::mem::take(&mut pending.from) {
                let policy = &self.draft.policy;
                let nets: Vec<ipnet::IpNet> = if let Some(group) = policy.group(&text) {
                    group.addresses.iter().map(|a| a.net).collect()
                } else if let Some(overlay) = policy.overlays.iter().find(|o| o.name == text) {
                    if !pending.has_interface
                        && let Some(first) = overlay.interfaces.first()
                    {
                        pending.expect.interface = first.example();
                    }
                    awaits |= matches!(overlay.discovery, Discovery::Awaited(_));
                    overlay.pods()
                } else if let Some(peer) = policy
                    .peers
                    .iter()
                    .find(|p| p.name.as_deref() == Some(text.as_str()))
                {
                    peer.addresses.iter().map(|a| a.net).collect()
                } else if text == "any" {
                    self.error(
                        Diagnostic::error(place, "an expect is about somebody, not about any")
                            .help(
                                "give an address that stands for a stranger, like \"198.51.100.1\"",
                            ),
                    );
                    continue;
                } else {
                    let source = self.source(&text, &place);
                    source.into_iter().filter_map(net_of).collect()
                };
                pending.expect.from.extend(nets);
            }
            // Of pods whose addresses are not known yet nothing can be expected yet.
            if !(awaits && pending.expect.from.is_empty()) {
                self.draft.policy.expects.push(pending.expect);
            }
        }
    }
}

fn net_of(source: crate::policy::Source) -> Option<ipnet::IpNet> {
    match source {
        crate::policy::Source::Net(net) => Some(net),
        crate::policy::Source::Any
        | crate::policy::Source::Group(_)
        | crate::policy::Source::Peer(_)
        | crate::policy::Source::Overlay(_) => None,
    }
}

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

/// The ports of flannel's WireGuard: one for each family of the subnets, in the mode `separate`, which is the
/// default; otherwise one for both (`RegisterNetwork()` in flannel's `pkg/backend/wireguard/wireguard.go`).
fn wireguard_ports(subnets: &Subnets) -> PortRange {
    let flannel = subnets.flannel;
    let v4 = flannel.listen.unwrap_or(51820);
    let v6 = flannel.listen_v6.unwrap_or(51821);
    match (subnets.has(Family::V4), subnets.has(Family::V6)) {
        (true, true) if !flannel.one_device => PortRange {
            first: v4.min(v6),
            last: v4.max(v6),
        },
        (false, true) if !flannel.one_device => PortRange::one(v6),
        _ => PortRange::one(v4),
    }
}

/// Fastest and largest that both nftables and iptables can say.
const LIMIT_MAX_PER_SECOND: u64 = 1_000_000;
const LIMIT_MAX_BURST: u32 = 1_000_000;

/// Reads `10/second` or `10/second burst 20`.
fn parse_rate(text: &str) -> Option<Rate> {
    let (rate, burst) = match text.split_once(" burst ") {
        Some((rate, burst)) => (rate, burst.parse().ok()?),
        None => (text, Log::default().rate.burst),
    };
    let (count, unit) = rate.split_once('/')?;
    let count = count.parse().ok().filter(|n| *n > 0)?;
    let (unit, _, _) = RateUnit::ALL.iter().find(|(_, name, _)| *name == unit)?;
    Some(Rate {
        count,
        unit: *unit,
        burst,
    })
}

fn is_log_prefix(text: &str) -> bool {
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
    (1..=64).contains(&text.len()) && text.bytes().all(printable) && text.trim() == text
}
