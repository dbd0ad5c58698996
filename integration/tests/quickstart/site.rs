//! The site of a page: a LAN with its hosts, a router, and the networks beyond it.
//!
//! ```text
//!  admin 198.51.100.7   stranger 203.0.113.7
//!            └──────┬──────┘
//!               router .1
//!   ┌──────────┬────┴─────────┬──────────────────┐  LAN 192.0.2.0/24, 2001:db8:49::/64
//!  hosts of the page   load-balancer .30   neighbour .99, which belongs to nobody
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use peerwall_integration::net::wire;
use peerwall_integration::ns::Host;
use peerwall_integration::probe;
use peerwall_integration::situation::Lan;

use crate::flow::COUNTED;

/// LAN address of the neighbour.
pub(crate) const NEIGHBOUR: &str = "192.0.2.99";

/// Hosts by name.
pub(crate) struct Site {
    lan: Lan,
    hosts: BTreeMap<String, Host>,
    counts: BTreeMap<String, Arc<AtomicU64>>,
    protected: Vec<String>,
}

impl Site {
    /// Creates the router, the hosts beyond it, and those on the LAN that are not protected.
    pub(crate) fn new() -> Self {
        let mut site = Self {
            lan: Lan::new(),
            hosts: BTreeMap::new(),
            counts: BTreeMap::new(),
            protected: Vec::new(),
        };
        let router = site.lan.join("router", 1);
        forward(&router);
        for (name, v4, v6) in [
            ("admin", "198.51.100", "2001:db8:100:"),
            ("stranger", "203.0.113", "2001:db8:203:"),
        ] {
            let host = Host::new(name);
            let (gateway4, gateway6) = (format!("{v4}.1"), format!("{v6}:1"));
            wire(
                &host,
                "eth0",
                &[&format!("{v4}.7/24"), &format!("{v6}:7/64")],
                &router,
                &format!("to-{name}"),
                &[&format!("{gateway4}/24"), &format!("{gateway6}/64")],
            );
            defaults(&host, &gateway4, &gateway6);
            site.hosts.insert(name.into(), host);
        }
        site.hosts.insert("router".into(), router);
        site.join("load-balancer", 30);
        site.join("neighbour", 99);
        // Containers and pods reach the Internet.
        probe::tcp_server(site.host("stranger"), "[::]:443");
        site
    }

    /// Puts a host on the LAN.
    pub(crate) fn join(&mut self, name: &str, number: u8) -> Host {
        let host = self.lan.join(name, number);
        defaults(&host, "192.0.2.1", "2001:db8:49::1");
        self.hosts.insert(name.into(), host.clone());
        host
    }

    /// Puts a host on the LAN that the page's policy protects. It forwards, and answers TCP on
    /// these ports.
    pub(crate) fn protect(&mut self, name: &str, number: u8, ports: &[u16]) -> Host {
        let host = self.join(name, number);
        forward(&host);
        self.protected.push(name.into());
        for port in ports {
            probe::tcp_server(&host, &format!("[::]:{port}"));
        }
        host
    }

    /// Adds a host that the page creates.
    pub(crate) fn add(&mut self, host: Host) {
        self.hosts.insert(host.name.clone(), host);
    }

    /// Counts forged datagrams to an address of this host.
    pub(crate) fn counts(&mut self, host: &str, address: &str) {
        let any = format!("0.0.0.0:{COUNTED}");
        let count = probe::udp_server(self.host(host), &any);
        self.counts.insert(address.into(), count);
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        let host = self.hosts.get(name);
        host.unwrap_or_else(|| panic!("there is no host {name}"))
    }

    pub(crate) fn count(&self, address: &str) -> &Arc<AtomicU64> {
        let count = self.counts.get(address);
        count.unwrap_or_else(|| panic!("nothing counts at {address}"))
    }

    /// Hosts that the page's policy protects.
    pub(crate) fn protected(&self) -> impl Iterator<Item = &Host> {
        self.protected.iter().map(|name| self.host(name))
    }

    /// Deletes all connections, so that no earlier one helps a later.
    pub(crate) fn forget_connections(&self) {
        for host in self.protected() {
            host.try_sh("conntrack -F 2>/dev/null");
        }
    }
}

/// Makes a host route, with the bridges' packets in the hooks of iptables, as container hosts do.
fn forward(host: &Host) {
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.bridge.bridge-nf-call-iptables", "1"),
    ] {
        host.sysctl(key, value);
    }
}

fn defaults(host: &Host, v4: &str, v6: &str) {
    host.sh(&format!(
        "ip route add default via {v4} && ip -6 route add default via {v6}"
    ));
}

/// Ethernet address of a node's `flannel.1`; the number is the last byte of its LAN address.
pub(crate) fn vtep_mac(number: u8) -> [u8; 6] {
    [0x02, 0xf1, 0xa0, 0, 0, number]
}
