//! The story's cluster: four machines with public addresses, flannel over VXLAN, pods, NodePorts,
//! a gateway with the Internet behind it, and an outsider on the same LAN.
//!
//! ```text
//!                      internet 198.51.100.9
//!                          │
//!                       gateway .1
//!   ┌────────┬─────────┬───┴─────┬─────────────┬──────────────┐  LAN 129.21.49.0/24
//! master   worker-1  worker-2  load-balancer  outsider
//!  .49       .48       .53        .54            .200
//!           cni0      cni0
//!          10.244.1   10.244.2                     pods .2 and .3 of each
//! ```

mod flows;
mod services;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::net::{bridge, enslave, wire};
use crate::ns::Host;
use crate::probe::{self, IMPATIENCE};
use crate::raw::{Body, Frame};
use services::{kube_proxy, overlay, pods, servers};

pub use flows::{Flow, How, Wanted, Who, flows, matrix, wrong};

/// Which iptables kube-proxy and the story's units use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `iptables-legacy`
    Legacy,
    /// `iptables-nft`
    Nft,
}

impl Flavour {
    /// What the tools' names end in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

/// The whole cluster.
pub struct Cluster {
    /// The machine with the control plane.
    pub master: Host,
    /// The workers, each with `cni0` and two pods.
    pub workers: [Host; 2],
    /// The machine that spreads requests over the workers' NodePorts.
    pub load_balancer: Host,
    /// Somebody else on the LAN.
    pub outsider: Host,
    /// A server beyond the gateway.
    pub internet: Host,
    /// Pods, by worker.
    pub pods: [[Host; 2]; 2],
    /// Datagrams to port 9999 of worker-1.
    node_datagrams: Arc<AtomicU64>,
    /// Datagrams to port 9999 of worker-1's first pod.
    pod_datagrams: Arc<AtomicU64>,
    flavour: Flavour,
}

const LAN_V4: &str = "129.21.49";

const LAN_V6: &str = "2001:db8:49:";

const NODE_NUMBERS: [u8; 2] = [48, 53];

/// MAC address of a machine on the LAN, by the last part of its address.
fn mac(number: u8) -> [u8; 6] {
    [0x02, 0x4c, 0x41, 0x4e, 0, number]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Cluster {
    /// Builds it, without any filter.
    ///
    /// # Panics
    /// If something of it cannot be had.
    pub fn build(flavour: Flavour) -> Self {
        let lan = Host::new("lan");
        bridge(&lan, "br0", &[]);
        let machine = |name: &str, number: u8| {
            let host = Host::new(name);
            let port = format!("p{number}");
            let (v4, v6) = (
                format!("{LAN_V4}.{number}/24"),
                format!("{LAN_V6}:{number}/64"),
            );
            wire(&host, "eth0", &[&v4, &v6], &lan, &port, &[]);
            host.sh(&format!(
                "ip link set eth0 address {}",
                mac_text(mac(number))
            ));
            enslave(&lan, &port, "br0");
            host
        };
        let gateway = machine("gateway", 1);
        let master = machine("master", 49);
        let workers = [machine("worker-1", 48), machine("worker-2", 53)];
        let load_balancer = machine("lb", 54);
        let outsider = machine("outsider", 200);
        let internet = Host::new("internet");
        wire(
            &gateway,
            "up0",
            &["198.51.100.1/24"],
            &internet,
            "eth0",
            &["198.51.100.9/24"],
        );
        gateway.sysctl("net.ipv4.ip_forward", "1");
        internet.sh("ip route add default via 198.51.100.1");
        for host in [&master, &workers[0], &workers[1], &load_balancer, &outsider] {
            host.sh(&format!("ip route add default via {LAN_V4}.1"));
        }
        // The outsider knows how to get at pods, as anybody on the LAN can.
        outsider.sh(&format!("ip route add 10.244.1.0/24 via {LAN_V4}.48"));
        // And at services.
        outsider.sh(&format!("ip route add 10.96.0.0/12 via {LAN_V4}.48"));
        let pods = [pods(&workers[0], 1), pods(&workers[1], 2)];
        overlay(&workers);
        for worker in &workers {
            kube_proxy(worker, flavour);
            // As kube-proxy does for NodePorts at 127.0.0.1: the kernel then delivers that from
            // outside, too.
            worker.sysctl("net.ipv4.conf.all.route_localnet", "1");
        }
        servers(&master, &workers, &pods, &internet);
        let node_datagrams = probe::udp_server(&workers[0], "0.0.0.0:9999");
        let pod_datagrams = probe::udp_server(&pods[0][0], "0.0.0.0:9999");
        Self {
            master,
            workers,
            load_balancer,
            outsider,
            internet,
            pods,
            node_datagrams,
            pod_datagrams,
            flavour,
        }
    }

    /// The machines that run the units.
    pub fn machines(&self) -> [&Host; 4] {
        let [one, two] = &self.workers;
        [&self.master, one, two, &self.load_balancer]
    }

    /// Loads the story's files on every machine, as its units do at boot.
    ///
    /// # Panics
    /// If a restore fails.
    pub fn load_rules_save(&self, v4: &str, v6: &str) {
        let suffix = self.flavour.suffix();
        for host in self.machines() {
            // `--noflush` would keep kube-proxy's chains of the filter table; there are none.
            host.sh(&format!(
                "iptables-{suffix}-restore {v4} && ip6tables-{suffix}-restore {v6}"
            ));
        }
    }

    /// Takes the story's rules away again.
    ///
    /// # Panics
    /// If that fails.
    pub fn unload_rules_save(&self) {
        let suffix = self.flavour.suffix();
        for host in self.machines() {
            for tool in ["iptables", "ip6tables"] {
                let tool = format!("{tool}-{suffix}");
                host.sh(&format!(
                    "{tool} -P INPUT ACCEPT && {tool} -P FORWARD ACCEPT && {tool} -F"
                ));
            }
        }
    }

    /// Forgets connections, so that no earlier one helps a later.
    pub fn forget_connections(&self) {
        for host in self.machines() {
            host.try_sh("conntrack -F 2>/dev/null");
        }
    }

    /// Applies a policy on every machine.
    ///
    /// # Panics
    /// If it is refused.
    pub fn apply(&self, policy: &str) {
        for host in self.machines() {
            host.peerwall_ok(&["apply", policy]);
        }
    }

    /// Applies a policy on every machine by iptables.
    ///
    /// # Panics
    /// If it is refused, or the other iptables is taken than the one that has the machine's rules.
    pub fn apply_by_iptables(&self, policy: &str) {
        for host in self.machines() {
            host.peerwall_ok(&["apply", "--backend", "iptables", policy]);
        }
        let said = self.workers[0].peerwall_ok(&["plan", "--backend", "iptables", policy]);
        assert!(
            said.contains(&format!("iptables-{} ", self.flavour.suffix())),
            "{said}"
        );
    }

    /// Takes the table away on every machine.
    ///
    /// # Panics
    /// If that fails.
    pub fn remove(&self) {
        for host in self.machines() {
            host.peerwall_ok(&["remove"]);
        }
    }

    /// Tries every flow, and says for each whether it got through.
    pub fn reach(&self, flows: &[Flow]) -> Vec<bool> {
        self.forget_connections();
        thread::scope(|scope| {
            // Two at a time for as many cores, but waiting costs nothing: take more.
            let mut results = vec![false; flows.len()];
            for (chunk, out) in flows.chunks(8).zip(results.chunks_mut(8)) {
                let running: Vec<_> = chunk
                    .iter()
                    .map(|flow| scope.spawn(|| self.try_flow(flow)))
                    .collect();
                for (handle, slot) in running.into_iter().zip(out) {
                    *slot = handle.join().unwrap_or(false);
                }
            }
            results
        })
    }

    fn host(&self, who: Who) -> &Host {
        match who {
            Who::Master => &self.master,
            Who::Worker(n) => &self.workers[n],
            Who::LoadBalancer => &self.load_balancer,
            Who::Outsider => &self.outsider,
            Who::Pod(worker, n) => &self.pods[worker][n],
        }
    }

    fn try_flow(&self, flow: &Flow) -> bool {
        // What is open is open at once; what may be closed is given one more chance only.
        let once = |wait| match flow.how {
            How::Tcp(to) => probe::tcp(self.host(flow.from), to, wait).is_some(),
            How::Ping(to) => probe::ping(self.host(flow.from), to, wait),
            How::ForgedPodSource => self.forged_pod_source(),
            How::ForgedVxlan => self.forged_vxlan(),
            How::Loopback => self.loopback(),
        };
        once(IMPATIENCE) || once(IMPATIENCE * 4)
    }

    /// The outsider sends worker-1 a datagram from a pod's address.
    fn forged_pod_source(&self) -> bool {
        self.datagram("10.244.2.77", "129.21.49.48")
    }

    /// The outsider sends worker-1 a datagram to its loopback address.
    fn loopback(&self) -> bool {
        self.datagram("129.21.49.200", "127.0.0.1")
    }

    fn datagram(&self, source: &str, destination: &str) -> bool {
        let frame = Frame {
            source_mac: mac(200),
            destination_mac: mac(NODE_NUMBERS[0]),
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            hop_limit: 64,
            body: Body::Udp {
                source: 4000,
                destination: 9999,
                payload: b"forged".to_vec(),
            },
        };
        self.sneak(&frame, &self.node_datagrams)
    }

    /// The outsider sends worker-1 a pod's datagram to a pod, wrapped as flannel would.
    fn forged_vxlan(&self) -> bool {
        let inner = Frame {
            source_mac: [0x02, 0xf1, 0xa0, 0, 0, 2],
            destination_mac: [0x02, 0xf1, 0xa0, 0, 0, 1],
            source: "10.244.2.77".parse().expect("an address"),
            destination: "10.244.1.2".parse().expect("an address"),
            hop_limit: 64,
            body: Body::Udp {
                source: 4000,
                destination: 9999,
                payload: b"forged".to_vec(),
            },
        };
        let outer = Frame {
            source_mac: mac(200),
            destination_mac: mac(NODE_NUMBERS[0]),
            source: "129.21.49.200".parse().expect("an address"),
            destination: "129.21.49.48".parse().expect("an address"),
            hop_limit: 64,
            body: Body::Udp {
                source: 50_000,
                destination: 8472,
                payload: inner.in_vxlan(1),
            },
        };
        self.sneak(&outer, &self.pod_datagrams)
    }

    fn sneak(&self, frame: &Frame, arrived: &AtomicU64) -> bool {
        let before = arrived.load(Ordering::SeqCst);
        let bytes = frame.bytes();
        let sent = self.outsider.run(|| crate::raw::send("eth0", &bytes));
        sent.expect("the outsider can send");
        thread::sleep(IMPATIENCE);
        arrived.load(Ordering::SeqCst) > before
    }

    /// Waits until the cluster works without any filter: neighbours found, servers up.
    ///
    /// # Panics
    /// If it does not within a generous time.
    pub fn wait_until_up(&self) {
        for _ in 0..10 {
            let flows = flows();
            if self.reach(&flows).iter().all(|through| *through) {
                return;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let reached = self.reach(&flows());
        let closed: Vec<&str> = flows()
            .iter()
            .zip(reached)
            .filter(|(_, through)| !through)
            .map(|(flow, _)| flow.name)
            .collect();
        panic!("without any filter these do not get through: {closed:?}");
    }
}
