//! What runs on the cluster's nodes: pods, flannel, kube-proxy's rules, servers.

use super::{Flavour, LAN_V4, NODE_NUMBERS};
use crate::net::{FlannelNode, bridge, enslave, flannel, wire};
use crate::ns::Host;
use crate::probe;

pub(super) fn pods(worker: &Host, subnet: u8) -> [Host; 2] {
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

pub(super) fn overlay(workers: &[Host; 2]) {
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
pub(super) fn kube_proxy(worker: &Host, flavour: Flavour) {
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

pub(super) fn servers(master: &Host, workers: &[Host; 2], pods: &[[Host; 2]; 2], internet: &Host) {
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
