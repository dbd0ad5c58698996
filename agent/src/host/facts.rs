//! Facts of this host for `import` and the lock-out check: addresses, interfaces and pod networks.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;
use peerwall_core::import::Facts;
use peerwall_core::policy::flannel;

use crate::secure_file;

/// File to which flannel writes the networks of its pods.
pub const FLANNEL_SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// Whether this host is a node with flannel.
pub fn is_node() -> bool {
    Path::new(FLANNEL_SUBNET_ENV).exists()
}

/// Reads the facts of this host. Facts that cannot be read are left out.
pub fn gather() -> Facts {
    let mut facts = Facts::default();
    if let Ok(env) = secure_file::text(Path::new(FLANNEL_SUBNET_ENV)) {
        let found = flannel::read(&env.text).map(|found| found.networks);
        facts.pod_networks = found.into_iter().flatten().map(|(net, _)| net).collect();
    }
    for (name, net) in networks() {
        if !facts.interfaces.contains(&name) {
            facts.interfaces.push(name);
        }
        facts.addresses.extend(net);
    }
    facts
}

/// Returns the interfaces of this network namespace, once for each address.
pub fn interfaces() -> Vec<(String, Option<IpAddr>)> {
    let address = |net: IpNet| net.addr();
    let all = networks().into_iter();
    all.map(|(name, net)| (name, net.map(address))).collect()
}

/// Returns the same with the length of each address's prefix, which gives the broadcast address.
fn networks() -> Vec<(String, Option<IpNet>)> {
    let address = |storage: &SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
    };
    let net = |each: &InterfaceAddress| {
        let own = each.address.as_ref().and_then(address)?;
        let mask = each.netmask.as_ref().and_then(address);
        let net = mask.and_then(|mask| IpNet::with_netmask(own, mask).ok());
        Some(net.unwrap_or_else(|| IpNet::from(own)))
    };
    match getifaddrs() {
        Ok(list) => list
            .map(|each| {
                let net = net(&each);
                (each.interface_name, net)
            })
            .collect(),
        Err(err) => {
            log::warn!("cannot list this host's addresses: {err}");
            Vec::new()
        }
    }
}

/// Returns the interfaces with `route_localnet` (`Documentation/networking/ip-sysctl.rst`), for
/// which the kernel routes loopback addresses; `all` stands for every interface.
pub fn route_localnet() -> Vec<String> {
    let Ok(folders) = std::fs::read_dir("/proc/sys/net/ipv4/conf") else {
        return Vec::new();
    };
    let is_on = |path: &Path| {
        let value = std::fs::read_to_string(path.join("route_localnet"));
        value.is_ok_and(|value| value.trim() == "1")
    };
    let mut names: Vec<String> = folders
        .flatten()
        .filter(|folder| is_on(&folder.path()))
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    match names.iter().any(|name| name == "all") {
        true => vec!["all".to_owned()],
        false => names,
    }
}
