//! The tunnel of an overlay: its UDP port, or its IP protocol.

use super::context::Context;
use super::discover::Subnets;
use super::fields::{Fields, Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::addr::Family;
use crate::net::link::Link;
use crate::net::port::PortRange;
use crate::policy::{Discovery, OverlayBackend, Tunnel};

pub(super) fn parse_tunnel(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    backend: Option<OverlayBackend>,
    subnets: &Subnets,
    link: Option<&Link>,
    place: &Place,
) -> Option<Tunnel> {
    let file = fields.file();
    let given = fields.take("port");
    let Some(known) = backend else {
        if let Some((_, value)) = given {
            port_number(cx, file, value, "that of the backend");
        }
        return None;
    };
    let default = match known {
        OverlayBackend::Vxlan => Some(PortRange::one(8472)),
        OverlayBackend::Wireguard => Some(wireguard_ports(subnets)),
        OverlayBackend::Udp => Some(PortRange::one(8285)),
        OverlayBackend::Ipip | OverlayBackend::HostGw | OverlayBackend::None => None,
    };
    let Some(default) = default else {
        if let Some((key, _)) = given {
            cx.error(
                Diagnostic::error(
                    Code::KeyDoesNotApply,
                    place_of(file, key),
                    "this backend has no port",
                )
                .help("omit `port`; only vxlan, wireguard and udp have one"),
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
            warn_of_ports_between(cx, place, default);
            return Some(Tunnel::Udp(default));
        }
        let found = real.or(subnets.flannel.port);
        // With `discover`, the discovered port is used. Without it, the default, compared with the
        // interface.
        return Some(Tunnel::Udp(match (&subnets.discovery, found) {
            (Discovery::Written, _) => {
                warn_of_port(cx, place, default, link);
                default
            }
            (_, Some(port)) => PortRange::one(port),
            (_, None) => default,
        }));
    };
    let port = PortRange::one(port_number(cx, file, value, default)?);
    warn_of_port(cx, &place_of(file, value), port, link);
    Some(Tunnel::Udp(port))
}

fn port_number(
    cx: &mut Context<'_>,
    file: FileId,
    value: &Value<'_>,
    default: impl std::fmt::Display,
) -> Option<u16> {
    let number = value
        .get_ref()
        .as_integer()
        .and_then(|number| u16::try_from(number).ok());
    let port = number.filter(|port| *port > 0);
    if port.is_none() {
        let error = Diagnostic::error(
            Code::OutOfRange,
            place_of(file, value),
            "`port` is not a port number",
        );
        cx.error(error.help(format!(
            "a number from 1 to 65535; the default is {default}"
        )));
    }
    port
}

/// Warns if WireGuard's two ports are not adjacent. A tunnel has one range of ports.
fn warn_of_ports_between(cx: &mut Context<'_>, place: &Place, ports: PortRange) {
    let PortRange { first, last } = ports;
    if last - first > 1 {
        let message = format!(
            "flannel uses UDP ports {first} and {last}, so all ports from {first} to {last} are \
             reserved for the tunnel"
        );
        cx.diagnostics.push(
            Diagnostic::warning(Code::TunnelPorts, place.clone(), message).help(format!(
                "make ListenPort and ListenPortV6 of net-conf.json adjacent, or write port = \
                 {first} to reserve that port only"
            )),
        );
    }
}

/// Warns if the tunnel interface uses a different port.
fn warn_of_port(cx: &mut Context<'_>, place: &Place, said: PortRange, link: Option<&Link>) {
    let real = link.and_then(|link| Some((link, link.port?)));
    if let Some((link, port)) = real.filter(|(_, port)| !(said.first..=said.last).contains(port)) {
        cx.diagnostics.push(
            Diagnostic::warning(
                Code::TunnelPorts,
                place.clone(),
                format!(
                    "{} uses UDP port {port}, but this overlay uses {said}",
                    link.name
                ),
            )
            .help(format!(
                "write port = {port}; otherwise an allow for UDP port {port} lets \
                 strangers send into the tunnel"
            )),
        );
    }
}

/// Returns the ports of flannel's WireGuard. In mode `separate`, the default, each family has a
/// port; otherwise both share one (`RegisterNetwork()` in flannel's
/// `pkg/backend/wireguard/wireguard.go`).
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
