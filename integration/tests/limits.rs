//! `limit` of an allow: new connections of each source address. The policy's model knows no time,
//! so this is not among the cases.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::net::IpAddr;

use peerwall_core::net::packet::{Decision, Dialled, Hook, Packet, Transport, Verdict};
use peerwall_core::net::port::TCP;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::compile::compile;
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::ns::world;
use peerwall_integration::setup::ANY_PORT;
use peerwall_integration::story::Flavour;
use peerwall_integration::target::{Filter, Sets, Target};

const POLICY: &str = r#"
version = 1

[peers]
node-b = "192.0.2.20"

[[allow]]
name  = "ssh"
ports = ["22/tcp"]
from  = "any"
limit = "1/hour burst 2"
"#;

/// A connection to port 22 of the host, DNATed or not.
fn knock(source: &str, dnat: bool) -> Packet {
    let source: IpAddr = source.parse().unwrap();
    let host: IpAddr = if source.is_ipv4() { HOST_V4 } else { HOST_V6 }
        .parse()
        .unwrap();
    let transport = Transport::Ports {
        protocol: TCP,
        source: ANY_PORT,
        destination: if dnat { 2222 } else { 22 },
    };
    let dialled = dnat.then_some(Dialled {
        address: host,
        port: 22,
    });
    Packet {
        dialled,
        reverse_path: false,
        ..Packet::new(Hook::Input, "eth0", source, host, transport)
    }
}

fn check(filter: Filter) {
    let mut target = Target::new();
    if let Filter::Iptables(flavour) = filter {
        target.prefer(flavour);
    }
    let policy = load("policy.toml", POLICY, &NoFiles).policy.unwrap();
    target.hold(&compile(&policy).0, filter, Sets::Rules);
    let accepted = Decision {
        verdict: Verdict::Accept,
        reason: Reason::Allow("ssh".into()),
    };
    let dropped = Decision {
        verdict: Verdict::Drop,
        reason: Reason::InputDefault,
    };
    let mut is = |source: &str, dnat: bool, want: &Decision| {
        let got = target.judge(&knock(source, dnat), want);
        assert_eq!(got, *want, "{filter:?}: {source}, DNATed: {dnat}");
    };
    for source in ["198.51.100.7", "198.51.100.8", "2001:db8:9::9"] {
        is(source, false, &accepted);
        is(source, false, &accepted);
        is(source, false, &dropped);
    }
    // Published ports count with the others, and the next address of an IPv6 network separately.
    is("198.51.100.7", true, &dropped);
    is("198.51.100.9", true, &accepted);
    is("198.51.100.9", false, &accepted);
    is("198.51.100.9", true, &dropped);
    is("2001:db8:9::a", false, &accepted);
}

#[test]
fn nftables_limits_each_source() {
    world(|| {
        check(Filter::Nft);
    });
}

#[test]
fn iptables_legacy_limits_each_source() {
    world(|| {
        check(Filter::Iptables(Flavour::Legacy));
    });
}

#[test]
fn iptables_nft_limits_each_source() {
    world(|| {
        check(Filter::Iptables(Flavour::Nft));
    });
}
