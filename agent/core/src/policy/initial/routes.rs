//! Finds other machines by the routes of a host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::net::host::{Host, Interface, RT_TABLE_MAIN, Route};

/// Nodes to which routes for pods lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutedNodes {
    /// Their addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether one is reached outside of flannel's tunnels: by host-gw, or `DirectRouting`.
    pub is_direct: bool,
}

/// A WireGuard interface, except flannel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub interface: String,
    /// Networks and hosts that are routed through it.
    pub routes: Vec<IpNet>,
}

/// Finds the other nodes by the gateways of the routes to their pods, which flannel sets to the
/// nodes' addresses (`GetRoute` in `pkg/backend/hostgw/hostgw.go`).
///
/// A gateway of the default route is a router. So is one to which a whole network of pods is
/// routed. A gateway inside the pods' network is the address of a node's tunnel interface.
pub fn nodes(host: &Host, pods: &[IpNet]) -> RoutedNodes {
    let routers: BTreeSet<IpAddr> = main_routes(host)
        .filter(|route| route.destination.prefix_len() == 0)
        .filter_map(|route| route.gateway)
        .collect();
    let mut found = RoutedNodes::default();
    for route in main_routes(host) {
        let is_node = |gateway: &IpAddr| {
            !routers.contains(gateway) && !pods.iter().any(|net| net.contains(gateway))
        };
        let is_part = |net: &IpNet| net.contains(&route.destination) && *net != route.destination;
        if let Some(gateway) = route.gateway.filter(is_node)
            && pods.iter().any(is_part)
        {
            found.addresses.insert(gateway);
            found.is_direct |= !route.interface.starts_with("flannel");
        }
    }
    found
}

/// Finds the WireGuard interfaces, and those with the usual names: implementations in user space
/// have another driver. What is found is only offered.
pub fn tunnels(host: &Host) -> Vec<Tunnel> {
    let is_tunnel = |each: &&Interface| match each.kind.as_deref() {
        Some("wireguard") => !each.name.starts_with("flannel"),
        Some("bridge") => false,
        _ => {
            let number = each.name.strip_prefix("wg");
            number.is_some_and(|digits| digits.parse::<u32>().is_ok())
        }
    };
    let routes = |name: &str| {
        let routes = main_routes(host).filter(|route| route.interface == name);
        let networks: BTreeSet<IpNet> = routes.map(|route| route.destination).collect();
        // Half of all addresses is a default route, too (`0.0.0.0/1`).
        let is_specific = |net: &IpNet| net.prefix_len() > 1 && !super::is_link_local(net.addr());
        networks.into_iter().filter(is_specific).collect()
    };
    host.interfaces
        .iter()
        .filter(is_tunnel)
        .map(|each| Tunnel {
            interface: each.name.clone(),
            routes: routes(&each.name),
        })
        .collect()
}

fn main_routes(host: &Host) -> impl Iterator<Item = &Route> {
    host.routes
        .iter()
        .filter(|route| route.table == RT_TABLE_MAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(interfaces: &[(&str, &str)], routes: &[(&str, &str, &str, u32)]) -> Host {
        Host {
            interfaces: interfaces
                .iter()
                .map(|(name, kind)| Interface {
                    name: (*name).into(),
                    kind: (!kind.is_empty()).then(|| (*kind).into()),
                    ..Interface::default()
                })
                .collect(),
            routes: routes
                .iter()
                .map(|(destination, gateway, interface, table)| Route {
                    destination: destination.parse().unwrap(),
                    interface: (*interface).into(),
                    gateway: gateway.parse().ok(),
                    table: *table,
                })
                .collect(),
            ..Host::default()
        }
    }

    #[test]
    fn a_gateway_to_a_part_of_the_pods_is_a_node() {
        const NONE: &[&str] = &[];
        let pods = ["10.244.0.0/16", "2001:db8:244::/48"].map(|net| net.parse().unwrap());
        for (name, route, want, is_direct) in [
            (
                "host-gw",
                ("10.244.2.0/24", "192.0.2.8", "eth0", 254),
                &["192.0.2.8"][..],
                true,
            ),
            (
                "host-gw, IPv6",
                ("2001:db8:244:2::/64", "2001:db8::8", "eth0", 254),
                &["2001:db8::8"],
                true,
            ),
            (
                "IPIP",
                ("10.244.2.0/24", "192.0.2.8", "flannel.ipip", 254),
                &["192.0.2.8"],
                false,
            ),
            (
                "VXLAN",
                ("10.244.2.0/24", "10.244.2.0", "flannel.1", 254),
                NONE,
                false,
            ),
            ("own pods", ("10.244.1.0/24", "-", "cni0", 254), NONE, false),
            (
                "all pods",
                ("10.244.0.0/16", "192.0.2.8", "eth0", 254),
                NONE,
                false,
            ),
            (
                "more than the pods",
                ("10.0.0.0/8", "192.0.2.8", "eth0", 254),
                NONE,
                false,
            ),
            (
                "not pods",
                ("10.96.0.0/12", "192.0.2.8", "eth0", 254),
                NONE,
                false,
            ),
            (
                "by the router",
                ("10.244.2.0/24", "192.0.2.1", "eth0", 254),
                NONE,
                false,
            ),
            (
                "another table",
                ("10.244.2.0/24", "192.0.2.8", "eth0", 100),
                NONE,
                false,
            ),
        ] {
            let default = ("0.0.0.0/0", "192.0.2.1", "eth0", 254);
            let found = nodes(&host(&[], &[default, route]), &pods);
            let addresses: Vec<String> = found.addresses.iter().map(IpAddr::to_string).collect();
            assert_eq!(addresses, want, "{name}");
            assert_eq!(found.is_direct, is_direct, "{name}");
        }
    }

    #[test]
    fn wireguard_interfaces_have_their_routes() {
        let interfaces = [
            ("eth0", ""),
            ("wg0", "wireguard"),
            ("office", "wireguard"),
            ("wg1", "tun"),
            ("wg2", "bridge"),
            ("wgx", "tun"),
            ("tap0", "tun"),
            ("flannel-wg", "wireguard"),
        ];
        let routes = [
            ("10.8.0.2/32", "-", "wg0", 254),
            ("fd00:8::/64", "-", "wg0", 254),
            ("fe80::/64", "-", "wg0", 254),
            ("0.0.0.0/0", "-", "wg0", 254),
            ("0.0.0.0/1", "-", "wg0", 254),
            ("10.8.1.0/24", "-", "wg0", 51820),
            ("10.8.2.0/24", "-", "eth0", 254),
            ("10.244.0.0/16", "-", "flannel-wg", 254),
            ("10.9.0.0/24", "-", "wg1", 254),
        ];
        let found: Vec<(String, Vec<String>)> = tunnels(&host(&interfaces, &routes))
            .into_iter()
            .map(|each| {
                let routes = each.routes.iter().map(IpNet::to_string);
                (each.interface, routes.collect())
            })
            .collect();
        let want = [
            ("wg0", &["10.8.0.2/32", "fd00:8::/64"][..]),
            ("office", &[]),
            ("wg1", &["10.9.0.0/24"]),
        ]
        .map(|(name, routes)| {
            let routes = routes.iter().map(|each| (*each).to_owned());
            (name.to_owned(), routes.collect())
        });
        assert_eq!(found, want);
    }
}
