//! Kubernetes clusters with flannel or canal.

use peerwall_integration::net::{bridge, enslave, wire};
use peerwall_integration::ns::Host;
use peerwall_integration::probe;

use crate::site::{Site, vtep_mac};

/// Nodes with the last byte of their LAN address, which is also the number of their pod subnet.
const NODES: [(&str, u8); 4] = [
    ("control-1", 10),
    ("control-2", 11),
    ("worker-1", 21),
    ("worker-2", 22),
];
/// Pods with the numbers of their nodes and the last byte of their address.
const PODS: [(&str, u8, u8); 3] = [("pod-1", 21, 5), ("pod-2", 22, 5), ("pod-3", 21, 6)];

/// How pods are attached to their node.
#[derive(Clone, Copy, PartialEq)]
enum Attached {
    /// By the bridge `cni0`, as the CNI plugin of flannel does.
    Bridge,
    /// By a routed `cali…` interface each, as Calico does.
    Calico,
}

/// How nodes reach each other's pods.
#[derive(Clone, Copy, PartialEq)]
enum Backend {
    Vxlan,
    HostGw,
}

/// A cluster's networks, and its ports.
pub(crate) struct Cluster {
    /// First two bytes of the pods' addresses.
    pub(crate) pods: &'static str,
    /// First two bytes of the services' addresses.
    pub(crate) services: &'static str,
    attached: Attached,
    backend: Backend,
    control_ports: &'static [u16],
    worker_ports: &'static [u16],
    /// Ports that the nodes publish besides the NodePort.
    host_ports: &'static [u16],
}

impl Cluster {
    pub(crate) fn build(&self) -> Site {
        let mut site = Site::new();
        let nodes = NODES.map(|(name, number)| {
            let ports = match name.starts_with("control") {
                true => [self.control_ports, self.worker_ports].concat(),
                false => self.worker_ports.to_vec(),
            };
            (site.protect(name, number, &ports), number)
        });
        for (node, number) in &nodes {
            self.flannel(node, *number);
            self.kube_proxy(node, *number);
        }
        for (name, subnet, number) in PODS {
            let node = &nodes
                .iter()
                .find(|(_, node)| *node == subnet)
                .expect("its node")
                .0;
            site.add(self.pod(name, node, subnet, number));
            probe::tcp_server(site.host(name), "0.0.0.0:8080");
        }
        site.counts("pod-1", &format!("{}.21.5", self.pods));
        // Anyone on the LAN can send packets to pods and services by way of a node.
        for network in [self.pods, self.services] {
            site.host("neighbour")
                .sh(&format!("ip route add {network}.0.0/16 via 192.0.2.21"));
        }
        site
    }

    /// Sets up the routes of a node as flannel does.
    fn flannel(&self, node: &Host, number: u8) {
        let pods = self.pods;
        if self.attached == Attached::Bridge {
            bridge(node, "cni0", &[&format!("{pods}.{number}.1/24")]);
        }
        let others = NODES.iter().map(|(_, other)| *other);
        let others: Vec<u8> = others.filter(|other| *other != number).collect();
        match self.backend {
            Backend::Vxlan => self.tunnel(node, number, &others),
            Backend::HostGw => {
                for other in others {
                    let route = format!("{pods}.{other}.0/24 via 192.0.2.{other}");
                    node.sh(&format!("ip route add {route}"));
                }
            }
        }
    }

    fn tunnel(&self, node: &Host, number: u8, others: &[u8]) {
        let pods = self.pods;
        let mac = |number| vtep_mac(number).map(|byte| format!("{byte:02x}")).join(":");
        node.sh(&format!(
            "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.{number} dstport 8472 \
             nolearning && ip link set flannel.1 address {} && \
             ip address add {pods}.{number}.0/32 dev flannel.1 && ip link set flannel.1 up",
            mac(number)
        ));
        for other in others {
            let (mac, vtep) = (mac(*other), format!("{pods}.{other}.0"));
            node.sh(&format!(
                "ip neighbour add {vtep} lladdr {mac} dev flannel.1 nud permanent && \
                 bridge fdb add {mac} dev flannel.1 dst 192.0.2.{other} self permanent && \
                 ip route add {vtep}/24 via {vtep} dev flannel.1 onlink"
            ));
        }
    }

    fn pod(&self, name: &str, node: &Host, subnet: u8, number: u8) -> Host {
        let pod = Host::new(name);
        let address = format!("{}.{subnet}.{number}", self.pods);
        match self.attached {
            Attached::Bridge => {
                let (port, inner) = (format!("veth{number}"), format!("{address}/24"));
                wire(&pod, "eth0", &[&inner], node, &port, &[]);
                enslave(node, &port, "cni0");
                node.sh(&format!("bridge link set dev {port} hairpin on"));
                pod.sh(&format!(
                    "ip route add default via {}.{subnet}.1",
                    self.pods
                ));
            }
            Attached::Calico => {
                let (port, inner) = (format!("cali{number:011x}"), format!("{address}/32"));
                wire(&pod, "eth0", &[&inner], node, &port, &[]);
                node.sh(&format!("ip route add {address}/32 dev {port} scope link"));
                node.sysctl(&format!("net.ipv4.conf.{port}.proxy_arp"), "1");
                pod.sh("ip route add 169.254.1.1 dev eth0 scope link && \
                        ip route add default via 169.254.1.1 dev eth0");
            }
        }
        pod.sh("ip link set eth0 mtu 1450");
        pod
    }

    /// Writes the rules of kube-proxy in iptables mode, of flannel, and of the CNI plugin portmap.
    ///
    /// The services are the API server, `kubernetes`, and `web`, which is pod-1.
    fn kube_proxy(&self, node: &Host, number: u8) {
        let (pods, services) = (self.pods, self.services);
        let mut rules = format!(
            "*nat
            :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]
            :KUBE-POSTROUTING - [0:0]\n:KUBE-SVC-WEB - [0:0]\n:KUBE-EXT-WEB - [0:0]
            :KUBE-SEP-API - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]
            -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES
            -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
            -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
            -A KUBE-SERVICES -d {services}.0.1/32 -p tcp --dport 443 -j KUBE-SEP-API
            -A KUBE-SEP-API -p tcp -j DNAT --to-destination 192.0.2.10:6443
            -A KUBE-SERVICES -d {services}.0.80/32 -p tcp --dport 80 -j KUBE-SVC-WEB
            -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
            -A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT-WEB
            -A KUBE-EXT-WEB -j KUBE-MARK-MASQ\n-A KUBE-EXT-WEB -j KUBE-SVC-WEB
            -A KUBE-SVC-WEB ! -s {pods}.0.0/16 -p tcp -j KUBE-MARK-MASQ
            -A KUBE-SVC-WEB -p tcp -j DNAT --to-destination {pods}.21.5:8080
            -A POSTROUTING -j KUBE-POSTROUTING
            -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
            -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
            -A KUBE-POSTROUTING -j MASQUERADE
            -A POSTROUTING -j FLANNEL-POSTRTG
            -A FLANNEL-POSTRTG -s {pods}.0.0/16 -d {pods}.0.0/16 -j RETURN
            -A FLANNEL-POSTRTG -s {pods}.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE\n"
        );
        for port in self.host_ports {
            // On one worker as a hostPort, on the other as the address of a LoadBalancer service.
            rules += &match number {
                22 => format!(
                    "-A KUBE-SERVICES -d 192.0.2.22/32 -p tcp --dport {port} -j KUBE-EXT-WEB\n"
                ),
                _ => format!(
                    "-A CNI-HOSTPORT-DNAT -p tcp --dport {port} -j DNAT --to-destination {pods}.21.5:8080\n"
                ),
            };
        }
        let path = format!("/run/{}-nat", node.name);
        let rules: Vec<&str> = rules.lines().map(str::trim).collect();
        std::fs::write(&path, rules.join("\n") + "\nCOMMIT\n").expect("/run is writable");
        node.sh(&format!("iptables-nft-restore --noflush {path}"));
    }
}

pub(crate) const K3S: Cluster = Cluster {
    pods: "10.42",
    services: "10.43",
    attached: Attached::Bridge,
    backend: Backend::Vxlan,
    control_ports: &[6443, 2379, 2380],
    worker_ports: &[22, 10250, 5001],
    host_ports: &[80, 443],
};

pub(crate) const RKE2: Cluster = Cluster {
    pods: "10.42",
    services: "10.43",
    attached: Attached::Calico,
    backend: Backend::Vxlan,
    control_ports: &[6443, 9345, 2379, 2380, 2381],
    worker_ports: &[22, 10250, 9099],
    host_ports: &[80, 443],
};

pub(crate) const KUBEADM: Cluster = Cluster {
    pods: "10.244",
    services: "10.96",
    attached: Attached::Bridge,
    backend: Backend::Vxlan,
    control_ports: &[6443, 2379, 2380, 10257, 10259],
    worker_ports: &[22, 10250, 10256],
    host_ports: &[],
};

/// A cluster of kubeadm whose flannel sets routes only.
pub(crate) const HOST_GW: Cluster = Cluster {
    backend: Backend::HostGw,
    ..KUBEADM
};
