//! Warnings about probable mistakes, from the policy alone.

use ipnet::IpNet;

use super::{Address, Allow, Policy, Tunnel};
use crate::diagnostic::{Code, Diagnostic};
use crate::net::addr;
use crate::net::port::{PortSpec, UDP};

/// Limit on warnings of one kind. A long list can have thousands of mistakes.
const WARNINGS_MAX: usize = 8;

/// Returns all warnings, in no particular order.
pub fn warnings(policy: &Policy) -> Vec<Diagnostic> {
    let peers: Vec<&Address> = policy.peers.iter().flat_map(|p| &p.addresses).collect();
    let mut found = Vec::new();
    found.extend(
        peers
            .iter()
            .filter_map(|peer| everybody(peer))
            .take(WARNINGS_MAX),
    );
    found.extend(
        peers
            .iter()
            .filter_map(|peer| link_local(peer))
            .take(WARNINGS_MAX),
    );
    found.extend(nested(&peers));
    found.extend(policy.allows.iter().filter_map(|allow| dead(allow, policy)));
    found
}

/// Warns about a peer that covers the Internet, or half of it.
fn everybody(peer: &Address) -> Option<Diagnostic> {
    let what = match peer.net.prefix_len() {
        0 => "every address",
        1 => "half of all addresses",
        _ => return None,
    };
    let message = format!(
        "{} covers {what} and opens every port to them",
        addr::short(peer.net)
    );
    Some(
        Diagnostic::warning(Code::PeerIsEverybody, peer.place.clone(), message).help(
            "peers may reach every port of this host and send through it; to open single ports, \
         write an [[allow]] with from = \"any\"",
        ),
    )
}

fn link_local(peer: &Address) -> Option<Diagnostic> {
    let is_link_local = match peer.net {
        IpNet::V4(net) => net.prefix_len() >= 16 && net.addr().is_link_local(),
        IpNet::V6(net) => net.prefix_len() >= 10 && net.addr().is_unicast_link_local(),
    };
    is_link_local.then(|| {
        let message = format!("{} is a link-local address", addr::short(peer.net));
        Diagnostic::warning(Code::LinkLocalPeer, peer.place.clone(), message).help(
            "it is accepted on every link of this host, where any machine can use it; write an \
             address of the peer that is not link-local",
        )
    })
}

/// Warns about peers' networks within other peers' networks. Duplicates have their own warning.
fn nested(peers: &[&Address]) -> Vec<Diagnostic> {
    // Only these can contain others. A peer that covers every address has its own warning.
    let mut outermost: Vec<&Address> = Vec::new();
    let is_net = |peer: &&&Address| (2..peer.net.max_prefix_len()).contains(&peer.net.prefix_len());
    let mut nets: Vec<&Address> = peers.iter().filter(is_net).copied().collect();
    nets.sort_by_key(|peer| (peer.net.network(), peer.net.prefix_len()));
    for net in nets {
        if !outermost
            .last()
            .is_some_and(|last| last.net.contains(&net.net))
        {
            outermost.push(net);
        }
    }
    let around = |peer: &Address| {
        let end = outermost.partition_point(|net| net.net.network() <= peer.net.network());
        let outer = *outermost[..end].last()?;
        (outer.net.contains(&peer.net) && outer.net != peer.net).then_some(outer)
    };
    let mut found: Vec<_> = peers
        .iter()
        .filter_map(|peer| Some((around(peer)?, *peer)))
        .collect();
    found.sort_by_key(|(_, peer)| (peer.place.file, peer.place.span.start));
    let first = found.into_iter().take(WARNINGS_MAX);
    first.map(|(outer, peer)| inside(outer, peer)).collect()
}

fn inside(outer: &Address, peer: &Address) -> Diagnostic {
    let message = format!(
        "{} is part of {}, which is already a peer",
        addr::short(peer.net),
        outer.net
    );
    Diagnostic::warning(Code::PeerInPeer, peer.place.clone(), message)
        .also(outer.place.clone(), "contains it")
        .help(
            "remove the smaller network, which has no effect, or the larger one if only the \
             smaller was intended",
        )
}

/// Warns about an allow that covers only tunnel packets, which only peers may send.
fn dead(allow: &Allow, policy: &Policy) -> Option<Diagnostic> {
    let ports = allow.ports.as_ref()?;
    let tunnels: Vec<Tunnel> = policy.overlays.iter().filter_map(|o| o.tunnel).collect();
    if ports.is_empty() || !ports.iter().all(|spec| is_tunnelled(spec, &tunnels)) {
        return None;
    }
    let message = format!("allow `{}` accepts no packets to this host", allow.name);
    Some(
        Diagnostic::warning(Code::AllowUnreachable, allow.place.clone(), message).help(
            "its ports are an overlay's tunnel, which accepts packets from peers only \
         (overlay-inject); add the other nodes as peers, or remove this allow",
        ),
    )
}

fn is_tunnelled(spec: &PortSpec, tunnels: &[Tunnel]) -> bool {
    spec.protocols.iter().all(|protocol| {
        tunnels.iter().any(|tunnel| match tunnel {
            Tunnel::Protocol(number) => protocol == number,
            Tunnel::Udp(ports) => {
                let inside = |range: &crate::net::port::PortRange| {
                    ports.first <= range.first && range.last <= ports.last
                };
                *protocol == UDP && spec.range.as_ref().is_some_and(inside)
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load::{NoFiles, load};

    fn messages(text: &str) -> Vec<String> {
        let text = format!("version = 1\n{text}");
        let loaded = load("policy.toml", &text, &NoFiles);
        let policy = loaded
            .policy
            .unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
        let found = warnings(&policy);
        found.into_iter().map(|d| d.message).collect()
    }

    #[test]
    fn peers_that_are_hardly_meant_are_warned_of() {
        for (name, peers, want) in [
            (
                "a host and a network",
                "a = \"192.0.2.1\"\nb = \"198.51.100.0/24\"",
                &[][..],
            ),
            (
                "every address",
                "a = [\"0.0.0.0/0\", \"::/0\"]\nb = \"192.0.2.1\"",
                &[
                    "0.0.0.0/0 covers every address and opens every port to them",
                    "::/0 covers every address and opens every port to them",
                ],
            ),
            (
                "in two halves",
                "a = \"128.0.0.0/1\"",
                &["128.0.0.0/1 covers half of all addresses and opens every port to them"],
            ),
            (
                "one within another",
                "a = \"192.0.2.0/24\"\nb = \"192.0.2.7\"\nc = \"192.0.2.8/30\"",
                &[
                    "192.0.2.7 is part of 192.0.2.0/24, which is already a peer",
                    "192.0.2.8/30 is part of 192.0.2.0/24, which is already a peer",
                ],
            ),
            (
                "the same twice has its own warning",
                "a = \"192.0.2.7\"\nb = \"192.0.2.7\"",
                &[],
            ),
            (
                "a private network",
                "a = \"fd00::/8\"\nb = \"10.0.0.0/8\"",
                &[],
            ),
            (
                "link-local",
                "a = [\"fe80::1\", \"169.254.1.1\"]",
                &[
                    "fe80::1 is a link-local address",
                    "169.254.1.1 is a link-local address",
                ],
            ),
        ] {
            assert_eq!(messages(&format!("[peers]\n{peers}\n")), want, "{name}");
        }
    }

    #[test]
    fn an_allow_for_a_tunnel_alone_is_warned_of() {
        for (ports, is_dead) in [
            ("\"8472/udp\"", true),
            ("\"8472\"", false),
            ("\"8472/udp\", \"80/tcp\"", false),
            ("\"8000-9000/udp\"", false),
            ("\"4789/udp\"", false),
        ] {
            let text = format!(
                "[peers]\na = \"192.0.2.1\"\n[overlay.o]\nbackend = \"vxlan\"\nsubnets = \
                 [\"10.244.0.0/16\"]\n[[allow]]\nname = \"x\"\nfrom = \"any\"\nports = [{ports}]\n"
            );
            assert_eq!(messages(&text).len(), usize::from(is_dead), "{ports}");
        }
    }

    #[test]
    fn many_are_cut_short() {
        let peers: String = (1..=50)
            .map(|n| format!("p{n} = \"192.0.2.{n}\"\n"))
            .collect();
        let text = format!("[peers]\nall = \"192.0.2.0/24\"\n{peers}");
        assert_eq!(messages(&text).len(), WARNINGS_MAX);
    }
}
