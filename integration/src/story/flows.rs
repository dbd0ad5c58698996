//! Flows through the cluster, and which of them are wanted.

use std::fmt::Write as _;

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
