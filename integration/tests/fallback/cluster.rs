//! The story's cluster, filtered by iptables.

use super::*;

fn story(flavour: Flavour) {
    let cluster = Cluster::build(flavour);
    cluster.wait_until_up();
    let flows = flows();
    cluster.apply_by_iptables(EXAMPLE);
    let reached = cluster.reach(&flows);
    assert_eq!(
        wrong(&flows, &reached, false),
        [""; 0],
        "{}",
        matrix(&flows, &[("iptables", reached)])
    );
    cluster.apply_by_iptables(POLICY_IPV6);
    let reached = cluster.reach(&flows);
    assert_eq!(
        wrong(&flows, &reached, true),
        [""; 0],
        "{}",
        matrix(&flows, &[("with IPv6 peers", reached)])
    );
}

#[test]
fn the_story_by_iptables_legacy() {
    world(|| {
        story(Flavour::Legacy);
    });
}

#[test]
fn the_story_by_iptables_nft() {
    world(|| {
        story(Flavour::Nft);
    });
}

#[test]
fn the_story_on_a_kernel_without_nf_tables() {
    world(|| {
        let cluster = Cluster::build(Flavour::Legacy);
        cluster.wait_until_up();
        for host in cluster.machines() {
            // The machine without pods has no rules of others to go by.
            host.sh("iptables-legacy -t nat -A OUTPUT -d 203.0.113.254 -j ACCEPT");
            let output = without_netfilter_netlink(host, &["apply", EXAMPLE]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() && said.contains("going on with iptables"),
                "{said}"
            );
        }
        let flows = flows();
        let reached = cluster.reach(&flows);
        assert_eq!(
            wrong(&flows, &reached, false),
            [""; 0],
            "{}",
            matrix(&flows, &[("iptables", reached)])
        );
    });
}
