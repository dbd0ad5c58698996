//! The pages of `docs/quickstart`: packets get what each page says.
//!
//! Each test builds the network that a page is about, with the distribution's interfaces, addresses
//! and DNAT. Every flow gets through without peerwall; with the page's policy, only those that the
//! page opens.

mod clusters;
mod flow;
mod hosts;
mod page;
mod site;

use std::thread;
use std::time::Duration;

use peerwall_integration::ns::world;

use clusters::Cluster;
use flow::{Flow, check_rows, wrong};
use page::Page;
use site::Site;

/// Tests a page with both backends.
fn prove(name: &str, site: &Site, flows: &[Flow]) {
    let page = Page::read(name);
    check_rows(&page, flows);
    wait_until_up(site, flows);
    let path = format!("/run/{name}.toml");
    std::fs::write(&path, &page.policy).expect("/run is writable");
    for backend in ["nft", "iptables"] {
        for host in site.protected() {
            host.peerwall_ok(&["check", &path]);
            host.peerwall_ok(&["apply", "--backend", backend, &path]);
        }
        site.forget_connections();
        let found = wrong(site, flows, |flow| flow.is_open);
        assert_eq!(found, [""; 0], "{name}, {backend}");
        for host in site.protected() {
            host.peerwall_ok(&["remove", "--backend", backend]);
        }
    }
}

/// Waits until every flow gets through without peerwall: servers are up, neighbours are known.
fn wait_until_up(site: &Site, flows: &[Flow]) {
    let mut found = Vec::new();
    for _ in 0..5 {
        found = wrong(site, flows, |_| true);
        if found.is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(found, [""; 0], "without peerwall");
}

#[test]
fn every_page_has_a_test() {
    let tested = [
        "docker.md",
        "k3s.md",
        "kubeadm-flannel.md",
        "lxd-libvirt.md",
        "plain.md",
        "podman.md",
        "rke2.md",
        "wireguard.md",
    ];
    let mut pages: Vec<String> = std::fs::read_dir(page::directory())
        .expect("the pages are there")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    pages.sort();
    assert_eq!(pages, tested);
}

fn prove_cluster(name: &str, cluster: &Cluster, flows: &str) {
    let text = [include_str!("flows/cluster.txt"), flows].concat();
    let flows = flow::parse(&text, [cluster.pods, cluster.services]);
    let site = cluster.build();
    prove(name, &site, &flows);
    prove_init(cluster, &site, &flows);
}

/// Tests the policies that `peerwall init` writes on the nodes: the cluster keeps working, and
/// nothing else is open but ssh.
fn prove_init(cluster: &Cluster, site: &Site, flows: &[Flow]) {
    let env = format!("FLANNEL_NETWORK={}.0.0/16\n", cluster.pods);
    std::fs::create_dir_all("/run/flannel").expect("/run is writable");
    std::fs::write("/run/flannel/subnet.env", env).expect("/run is writable");
    for host in site.protected() {
        let path = format!("/run/{}-init.toml", host.name);
        host.peerwall_ok(&["init", &path]);
        host.peerwall_ok(&["apply", &path]);
    }
    site.forget_connections();
    let found = wrong(site, &flow::inside(flows), |flow| flow.is_open);
    assert_eq!(found, [""; 0], "with policies of init");
}

#[test]
fn k3s() {
    world(|| prove_cluster("k3s.md", &clusters::K3S, include_str!("flows/k3s.txt")));
}

#[test]
fn rke2() {
    world(|| prove_cluster("rke2.md", &clusters::RKE2, include_str!("flows/rke2.txt")));
}

#[test]
fn kubeadm_with_flannel() {
    world(|| {
        let flows = include_str!("flows/kubeadm-flannel.txt");
        prove_cluster("kubeadm-flannel.md", &clusters::KUBEADM, flows);
    });
}

#[test]
fn init_keeps_a_cluster_with_host_gw_working() {
    world(|| {
        let cluster = &clusters::HOST_GW;
        // Without a tunnel, a pod's address from the LAN is accepted from every machine there.
        let lines = include_str!("flows/cluster.txt").lines();
        let lines = lines.filter(|line| !line.contains("vxlan") && !line.contains("forged"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let flows = flow::parse(&text, [cluster.pods, cluster.services]);
        let site = cluster.build();
        wait_until_up(&site, &flows);
        prove_init(cluster, &site, &flows);
    });
}

fn prove_host(name: &str, site: &Site, flows: &str) {
    prove(name, site, &flow::parse(flows, ["-", "-"]));
}

#[test]
fn plain_machine() {
    world(|| prove_host("plain.md", &hosts::plain(), include_str!("flows/plain.txt")));
}

#[test]
fn docker() {
    world(|| {
        prove_host(
            "docker.md",
            &hosts::docker(),
            include_str!("flows/docker.txt"),
        )
    });
}

#[test]
fn podman() {
    world(|| {
        prove_host(
            "podman.md",
            &hosts::podman(),
            include_str!("flows/podman.txt"),
        )
    });
}

#[test]
fn lxd_and_libvirt() {
    world(|| {
        let flows = include_str!("flows/lxd-libvirt.txt");
        prove_host("lxd-libvirt.md", &hosts::lxd_libvirt(), flows);
    });
}

#[test]
fn wireguard_mesh() {
    world(|| {
        let flows = include_str!("flows/wireguard.txt");
        prove_host("wireguard.md", &hosts::wireguard(), flows);
    });
}
