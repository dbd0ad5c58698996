//! What is known of this host without being told: its addresses, interfaces and pod networks.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use peerwall_core::import::Facts;

/// Where flannel writes which networks are its pods'.
pub const FLANNEL_SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// Whether this host is a node with flannel.
pub fn is_node() -> bool {
    Path::new(FLANNEL_SUBNET_ENV).exists()
}

/// Asks the host. What cannot be had is left out.
pub fn gather() -> Facts {
    let mut facts = Facts::default();
    if let Ok(text) = std::fs::read_to_string(FLANNEL_SUBNET_ENV) {
        facts.pod_networks = pod_networks(&text);
    }
    for (name, address) in interfaces() {
        if !facts.interfaces.contains(&name) {
            facts.interfaces.push(name);
        }
        facts.addresses.extend(address.map(IpNet::from));
    }
    facts
}

/// Networks in flannel's `subnet.env`.
fn pod_networks(text: &str) -> Vec<IpNet> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
    pairs
        .filter(|(key, _)| matches!(*key, "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK"))
        .flat_map(|(_, value)| value.split(','))
        .filter_map(|net| net.trim_matches('"').parse().ok())
        .collect()
}

/// Interfaces of this network namespace, once for each address that they have.
pub fn interfaces() -> Vec<(String, Option<IpAddr>)> {
    let address = |storage: &SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
    };
    match getifaddrs() {
        Ok(list) => list
            .map(|each| (each.interface_name, each.address.as_ref().and_then(address)))
            .collect(),
        Err(err) => {
            log::warn!("cannot list this host's addresses: {err}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_a_subnet_env_are_read() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=\"fd00:244::/56\"\nFLANNEL_MTU=1450\n";
        let nets: Vec<String> = pod_networks(text).iter().map(IpNet::to_string).collect();
        assert_eq!(nets, ["10.244.0.0/16", "fd00:244::/56"]);
    }
}
