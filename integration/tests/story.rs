//! The story, from the file that made half of all requests hang to the policy that does not.

#![expect(clippy::print_stdout, reason = "the matrix is worth reading")]

use peerwall_integration::ns::world;
use peerwall_integration::story::{Cluster, Flavour, flows, matrix, wrong};

const FIRST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/rules-save.first"
);
const FINAL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/rules-save.final"
);
const IPV6: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/story/rules6-save");
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");
const POLICY_IPV6: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/policy-ipv6.toml"
);

/// Names of the flows that did not get through.
fn closed(reached: &[bool]) -> Vec<&'static str> {
    let flows = flows();
    let pairs = flows.iter().zip(reached);
    pairs
        .filter(|(_, through)| !**through)
        .map(|(flow, _)| flow.name)
        .collect()
}

fn tell(flavour: Flavour) {
    let flows = flows();
    let cluster = Cluster::build(flavour);
    cluster.wait_until_up();

    // The first file: half of the requests hang, the half whose pod is behind FORWARD: all of them.
    cluster.load_rules_save(FIRST, IPV6);
    let first = cluster.reach(&flows);
    let hang = closed(&first);
    for name in [
        "load balancer → NodePort, pod on that worker",
        "load balancer → NodePort, pod on the other worker",
        "pod → pod on the same worker",
        "pod → pod on the other worker",
        "pod → its own node's kubelet",
        "pod → outside and back",
    ] {
        assert!(
            hang.contains(&name),
            "with the first file `{name}` got through"
        );
    }

    // The final file: the cluster works, with three holes.
    cluster.load_rules_save(FINAL, IPV6);
    let last = cluster.reach(&flows);
    let hang = closed(&last);
    for name in ["pod → outside and back", "peer → peer over IPv6"] {
        assert!(
            hang.contains(&name),
            "with the final file `{name}` got through"
        );
    }
    for name in [
        "load balancer → NodePort, pod on that worker",
        "load balancer → NodePort, pod on the other worker",
        "pod → pod on the same worker",
        "pod → pod on the other worker",
        "forged pod source from the LAN",
    ] {
        assert!(
            !hang.contains(&name),
            "with the final file `{name}` did not get through"
        );
    }

    // The policy, on the same hosts.
    cluster.unload_rules_save();
    cluster.apply(POLICY);
    let policy = cluster.reach(&flows);
    cluster.apply(POLICY_IPV6);
    let with_ipv6 = cluster.reach(&flows);
    let stages = [
        ("first file", first),
        ("final file", last),
        ("peerwall", policy.clone()),
        ("with IPv6 peers", with_ipv6.clone()),
    ];
    println!("{}", matrix(&flows, &stages));
    assert_eq!(wrong(&flows, &policy, false), [""; 0], "with policy.toml");
    assert_eq!(wrong(&flows, &with_ipv6, true), [""; 0], "with IPv6 peers");
}

#[test]
fn the_story_with_iptables_legacy() {
    world(|| {
        tell(Flavour::Legacy);
    });
}

#[test]
fn the_story_with_iptables_nft() {
    world(|| {
        tell(Flavour::Nft);
    });
}
