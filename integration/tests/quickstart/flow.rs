//! Flows: connections and packets that a page's policy accepts or drops.
//!
//! A line of `flows/*.txt` is `row | from | packet | open`, or `closed`. The row is one of the
//! page's table of ports, or `-`. The packet is one of
//!
//! ```text
//! tcp ADDRESS:PORT     udp ADDRESS:PORT     ping ADDRESS     answered or not
//! forged SOURCE to DESTINATION via NUMBER    a datagram with any source address, sent from eth0
//! vxlan SOURCE to DESTINATION via NUMBER     the same in a tunnel packet of the sender
//! ```
//!
//! where the number is the last byte of the LAN address of the host that gets the frame. `PODS` and
//! `SERVICES` are the first two bytes of the cluster's networks.

use std::thread;

use peerwall_integration::probe::{self, IMPATIENCE, PATIENCE};
use peerwall_integration::raw::{Body, Frame};
use peerwall_integration::situation::{arrives, datagram, mac, send};

use crate::page::Page;
use crate::site::{NEIGHBOUR, Site, vtep_mac};

/// Port of the servers that count forged datagrams.
pub(crate) const COUNTED: u16 = 9999;

/// A flow, and whether the page's policy accepts it.
#[derive(Clone)]
pub(crate) struct Flow {
    line: String,
    row: Option<String>,
    /// Name of the sending host.
    from: String,
    how: How,
    pub(crate) is_open: bool,
}

/// How a flow is tried.
#[derive(Clone)]
enum How {
    Tcp(String),
    Udp(String),
    Ping(String),
    /// A datagram that a server counts.
    Counted {
        frame: Frame,
        destination: String,
        via: u8,
    },
}

/// Parses the lines of flows; the networks are the first two bytes of `PODS` and of `SERVICES`.
pub(crate) fn parse(text: &str, [pods, services]: [&str; 2]) -> Vec<Flow> {
    let text = text.replace("PODS", pods).replace("SERVICES", services);
    let is_flow = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().filter(is_flow).map(Flow::parse).collect()
}

impl Flow {
    fn parse(line: &str) -> Self {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [row, from, packet, verdict] = cells[..] else {
            panic!("row | from | packet | verdict: {line}");
        };
        Self {
            line: line.split_whitespace().collect::<Vec<_>>().join(" "),
            row: (row != "-").then(|| row.to_owned()),
            from: from.to_owned(),
            how: How::parse(packet),
            is_open: match verdict {
                "open" => true,
                "closed" => false,
                _ => panic!("open or closed: {line}"),
            },
        }
    }

    /// Returns whether the flow gets through; waits longer if it is expected to.
    fn passes(&self, site: &Site, is_expected: bool) -> bool {
        let wait = match is_expected {
            true => PATIENCE,
            false => IMPATIENCE,
        };
        let from = site.host(&self.from);
        match &self.how {
            How::Tcp(to) => probe::tcp(from, to, wait).is_some(),
            How::Udp(to) => probe::udp(from, to, wait),
            How::Ping(to) => probe::ping(from, to, wait),
            How::Counted {
                frame,
                destination,
                via,
            } => arrives(site.count(destination), is_expected, || {
                send(from, "eth0", mac(*via), frame);
            }),
        }
    }
}

impl How {
    fn parse(packet: &str) -> Self {
        let words: Vec<&str> = packet.split_whitespace().collect();
        match words[..] {
            ["tcp", to] => Self::Tcp(to.into()),
            ["udp", to] => Self::Udp(to.into()),
            ["ping", to] => Self::Ping(to.into()),
            [kind, source, "to", destination, "via", number] => {
                let via = number.parse().expect("a number");
                let frame = match kind {
                    "forged" => datagram(source, destination, COUNTED, b"forged"),
                    "vxlan" => in_vxlan(source, destination, via),
                    _ => panic!("forged or vxlan: {packet}"),
                };
                Self::Counted {
                    frame,
                    destination: destination.into(),
                    via,
                }
            }
            _ => panic!("not a packet: {packet}"),
        }
    }
}

/// Wraps a datagram as the flannel of another node would, with the neighbour's own address.
fn in_vxlan(source: &str, destination: &str, via: u8) -> Frame {
    let inner = Frame {
        destination_mac: vtep_mac(via),
        ..datagram(source, destination, COUNTED, b"forged")
    };
    let node = format!("192.0.2.{via}");
    let mut frame = datagram(NEIGHBOUR, &node, 8472, &[]);
    if let Body::Udp { payload, .. } = &mut frame.body {
        *payload = inner.in_vxlan(1);
    }
    frame
}

/// Returns the flows that need no allow: those of nodes and pods, over IPv4, which is the family of
/// the tunnel; and those that are closed, except ssh.
pub(crate) fn inside(flows: &[Flow]) -> Vec<Flow> {
    let is_inside = |flow: &&Flow| {
        let is_node_or_pod = ["control-", "worker-", "pod-"]
            .iter()
            .any(|prefix| flow.from.starts_with(prefix));
        let is_v4 = !flow.line.contains('[');
        let is_ssh = flow.row.as_deref() == Some("22/tcp");
        match flow.is_open {
            true => is_node_or_pod && is_v4,
            false => !is_ssh,
        }
    };
    flows.iter().filter(is_inside).cloned().collect()
}

/// Checks that each row of the page's table has a flow that is accepted, and one that is dropped
/// unless anyone may use the port; and that no flow names a row that the page lacks.
pub(crate) fn check_rows(page: &Page, flows: &[Flow]) {
    for (row, is_for_anyone) in &page.ports {
        let has = |is_open| {
            let mut flows = flows.iter();
            flows.any(|flow| flow.row.as_ref() == Some(row) && flow.is_open == is_open)
        };
        assert!(has(true), "no flow shows that `{row}` is open");
        assert!(has(false) != *is_for_anyone, "who may not use `{row}`?");
    }
    for row in flows.iter().filter_map(|flow| flow.row.as_ref()) {
        let is_known = page.ports.iter().any(|(known, _)| known == row);
        assert!(is_known, "the page has no row `{row}`");
    }
}

/// Tries all flows, and returns the lines of those for which `want` is not what happens.
pub(crate) fn wrong(site: &Site, flows: &[Flow], want: fn(&Flow) -> bool) -> Vec<String> {
    // Forged datagrams to one address are counted together, so they are sent one after the other.
    let (counted, others): (Vec<&Flow>, Vec<&Flow>) = flows
        .iter()
        .partition(|flow| matches!(flow.how, How::Counted { .. }));
    let differs = |flow: &Flow| {
        let want = want(flow);
        (flow.passes(site, want) != want).then(|| flow.line.clone())
    };
    thread::scope(|scope| {
        let running: Vec<_> = others
            .into_iter()
            .map(|flow| scope.spawn(move || differs(flow)))
            .collect();
        let mut found: Vec<String> = counted.into_iter().filter_map(differs).collect();
        for each in running {
            found.extend(each.join().expect("no flow panics"));
        }
        found
    })
}
