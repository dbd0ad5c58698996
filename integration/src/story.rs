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

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::net::{FlannelNode, bridge, enslave, flannel, wire};
use crate::ns::Host;
use crate::probe::{self, IMPATIENCE};
use crate::raw::{Body, Frame};

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

fn pods(worker: &Host, subnet: u8) -> [Host; 2] {
    bridge(worker, "cni0", &[&format!("10.244.{subnet}.1/24")]);
    worker.sysctl("net.ipv4.ip_forward", "1");
    // Frames between pods of one node pass the forward hook, as on every Kubernetes node.
    worker.sysctl("net.bridge.bridge-nf-call-iptables", "1");
    [2u8, 3].map(|number| {
        let pod = Host::new(&format!("pod-{subnet}-{number}"));
        let port = format!("veth{number}");
        wire(
            &pod,
            "eth0",
            &[&format!("10.244.{subnet}.{number}/24")],
            worker,
            &port,
            &[],
        );
        enslave(worker, &port, "cni0");
        worker.sh(&format!("bridge link set dev {port} hairpin on"));
        pod.sh(&format!("ip route add default via 10.244.{subnet}.1"));
        pod
    })
}

fn overlay(workers: &[Host; 2]) {
    let underlay = NODE_NUMBERS.map(|number| format!("{LAN_V4}.{number}"));
    let nodes = [0, 1].map(|i| FlannelNode {
        host: &workers[i],
        underlay: &underlay[i],
        subnet: if i == 0 { 1 } else { 2 },
    });
    flannel(&nodes, "eth0");
}

/// The rules kube-proxy (iptables mode) and flannel write: two NodePorts, each to a pod on one of
/// the workers, and masquerading.
fn kube_proxy(worker: &Host, flavour: Flavour) {
    let service = |port: u16, pod: &str| {
        format!(
            "-A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web-{port}\" -m tcp \
             --dport {port} -j KUBE-EXT-{port}\n\
             -A KUBE-EXT-{port} -m comment --comment \"masquerade traffic for web-{port} \
             external destinations\" -j KUBE-MARK-MASQ\n\
             -A KUBE-EXT-{port} -p tcp -m tcp -j DNAT --to-destination {pod}:8080\n"
        )
    };
    let rules = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         :KUBE-EXT-30080 - [0:0]\n:KUBE-EXT-30081 - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         {}{}\
         -A KUBE-SERVICES -d 10.96.0.22/32 -p tcp -m comment --comment \"default/admin cluster IP\" \
         -m tcp --dport 22 -j KUBE-EXT-30080\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE\n\
         -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE\n\
         COMMIT\n",
        service(30080, "10.244.1.2"),
        service(30081, "10.244.2.2"),
    );
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let file = folder.path().join("nat");
    std::fs::write(&file, rules).expect("it can be written to");
    worker.sh(&format!(
        "iptables-{}-restore {}",
        flavour.suffix(),
        file.display()
    ));
}

fn servers(master: &Host, workers: &[Host; 2], pods: &[[Host; 2]; 2], internet: &Host) {
    for host in [master, &workers[0], &workers[1]] {
        for port in [22, 2379, 10250] {
            probe::tcp_server(host, &format!("[::]:{port}"));
        }
    }
    for pod in pods.iter().flatten() {
        probe::tcp_server(pod, "0.0.0.0:8080");
    }
    probe::tcp_server(internet, "0.0.0.0:443");
}

/// Who starts a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The control plane.
    Master,
    /// A worker.
    Worker(usize),
    /// The load balancer.
    LoadBalancer,
    /// The outsider.
    Outsider,
    /// A pod: worker and number.
    Pod(usize, usize),
}

/// How a flow is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A TCP connection that is answered.
    Tcp(&'static str),
    /// A ping that is answered.
    Ping(&'static str),
    /// A datagram with a pod's source address, from the LAN.
    ForgedPodSource,
    /// A datagram in a VXLAN packet of somebody who is no peer.
    ForgedVxlan,
    /// A datagram to 127.0.0.1, from the LAN.
    Loopback,
}

/// Something somebody wants to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// What it is, for people.
    pub name: &'static str,
    /// Who starts it.
    pub from: Who,
    /// How it is tried.
    pub how: How,
    /// Whether it should get through.
    pub wanted: Wanted,
}

/// Whether a flow should get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Yes.
    Open,
    /// Once the peers have IPv6 addresses in the policy.
    OpenWithIpv6Peers,
    /// No.
    Closed,
}

const fn flow(name: &'static str, from: Who, how: How, wanted: Wanted) -> Flow {
    Flow {
        name,
        from,
        how,
        wanted,
    }
}

/// Every flow of the story.
pub fn flows() -> Vec<Flow> {
    use How::{ForgedPodSource, ForgedVxlan, Loopback, Ping, Tcp};
    use Wanted::{Closed, Open, OpenWithIpv6Peers};
    vec![
        flow(
            "load balancer → NodePort, pod on that worker",
            Who::LoadBalancer,
            Tcp("129.21.49.48:30080"),
            Open,
        ),
        flow(
            "load balancer → NodePort, pod on the other worker",
            Who::LoadBalancer,
            Tcp("129.21.49.48:30081"),
            Open,
        ),
        flow(
            "load balancer → worker-2's NodePort, pod there",
            Who::LoadBalancer,
            Tcp("129.21.49.53:30081"),
            Open,
        ),
        flow(
            "load balancer → worker-2's NodePort, pod elsewhere",
            Who::LoadBalancer,
            Tcp("129.21.49.53:30080"),
            Open,
        ),
        flow(
            "pod → pod on the same worker",
            Who::Pod(0, 0),
            Tcp("10.244.1.3:8080"),
            Open,
        ),
        flow(
            "pod → pod on the other worker",
            Who::Pod(0, 0),
            Tcp("10.244.2.2:8080"),
            Open,
        ),
        flow(
            "pod → pod on the other worker, ping",
            Who::Pod(1, 1),
            Ping("10.244.1.3"),
            Open,
        ),
        flow(
            "node → pod on the other worker",
            Who::Worker(0),
            Tcp("10.244.2.3:8080"),
            Open,
        ),
        flow(
            "pod → its own node's kubelet",
            Who::Pod(0, 1),
            Tcp("10.244.1.1:10250"),
            Open,
        ),
        flow(
            "pod → the other node's kubelet",
            Who::Pod(0, 1),
            Tcp("129.21.49.53:10250"),
            Open,
        ),
        flow(
            "pod → outside and back",
            Who::Pod(0, 0),
            Tcp("198.51.100.9:443"),
            Open,
        ),
        flow(
            "peer → peer, etcd",
            Who::Worker(0),
            Tcp("129.21.49.49:2379"),
            Open,
        ),
        flow(
            "peer → peer, ping",
            Who::LoadBalancer,
            Ping("129.21.49.49"),
            Open,
        ),
        flow(
            "peer → peer over IPv6",
            Who::Worker(1),
            Tcp("[2001:db8:49::49]:2379"),
            OpenWithIpv6Peers,
        ),
        flow(
            "outsider → ssh",
            Who::Outsider,
            Tcp("129.21.49.48:22"),
            Open,
        ),
        flow(
            "outsider → ssh over IPv6",
            Who::Outsider,
            Tcp("[2001:db8:49::48]:22"),
            Open,
        ),
        flow(
            "outsider → kubelet",
            Who::Outsider,
            Tcp("129.21.49.48:10250"),
            Closed,
        ),
        flow(
            "outsider → kubelet over IPv6",
            Who::Outsider,
            Tcp("[2001:db8:49::48]:10250"),
            Closed,
        ),
        flow(
            "outsider → etcd",
            Who::Outsider,
            Tcp("129.21.49.49:2379"),
            Closed,
        ),
        flow(
            "outsider → NodePort",
            Who::Outsider,
            Tcp("129.21.49.48:30080"),
            Closed,
        ),
        flow(
            "outsider → NodePort, pod elsewhere",
            Who::Outsider,
            Tcp("129.21.49.48:30081"),
            Closed,
        ),
        flow(
            "outsider → pod, routed there by a worker",
            Who::Outsider,
            Tcp("10.244.1.2:8080"),
            Closed,
        ),
        flow(
            "pod → service address",
            Who::Pod(0, 1),
            Tcp("10.96.0.22:22"),
            Open,
        ),
        flow(
            "outsider → service address, port 22",
            Who::Outsider,
            Tcp("10.96.0.22:22"),
            Closed,
        ),
        flow(
            "outsider → 127.0.0.1 of a worker",
            Who::Outsider,
            Loopback,
            Closed,
        ),
        flow(
            "outsider → worker, ping",
            Who::Outsider,
            Ping("129.21.49.48"),
            Closed,
        ),
        flow(
            "forged pod source from the LAN",
            Who::Outsider,
            ForgedPodSource,
            Closed,
        ),
        flow(
            "forged VXLAN from a non-peer",
            Who::Outsider,
            ForgedVxlan,
            Closed,
        ),
    ]
}

/// A matrix for people: one line for each flow, one column for each stage.
pub fn matrix(flows: &[Flow], stages: &[(&str, Vec<bool>)]) -> String {
    let width = flows
        .iter()
        .map(|flow| flow.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = format!("{:width$}  wanted", "");
    for (name, _) in stages {
        let _ = write!(text, "  {name}");
    }
    text.push('\n');
    for (row, flow) in flows.iter().enumerate() {
        let wanted = match flow.wanted {
            Wanted::Open => "open",
            Wanted::OpenWithIpv6Peers => "open*",
            Wanted::Closed => "closed",
        };
        let _ = write!(text, "{:width$}  {wanted:6}", flow.name);
        for (name, reached) in stages {
            let column = name.chars().count();
            let word = if reached[row] { "open" } else { "·" };
            let good = reached[row] == (flow.wanted != Wanted::Closed);
            let mark = if good { ' ' } else { '!' };
            let _ = write!(text, "  {:column$}", format!("{word} {mark}"));
        }
        text.push('\n');
    }
    text
}

/// Names of the flows that are not as they are wanted. `ipv6_peers` is whether the policy has them.
pub fn wrong<'f>(flows: &'f [Flow], reached: &[bool], ipv6_peers: bool) -> Vec<&'f str> {
    let pairs = flows.iter().zip(reached);
    pairs
        .filter(|(flow, through)| {
            let want = match flow.wanted {
                Wanted::Open => true,
                Wanted::OpenWithIpv6Peers => ipv6_peers,
                Wanted::Closed => false,
            };
            **through != want
        })
        .map(|(flow, _)| flow.name)
        .collect()
}
