//! Chains that other programs manage and restore, regardless of rules files.

use crate::net::addr::Family;

/// A program that manages chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manager {
    /// Name.
    pub name: &'static str,
    /// Whether it continues to drop beside peerwall.
    pub keeps_drops: bool,
}

/// Managed chains. A name that ends with `*` stands for all that start with it, because programs
/// add a number or a hash. Other names are whole: an administrator's chain may start like them.
const MANAGERS: [(&[&str], Manager); 12] = [
    (
        &["KUBE-ROUTER-*", "KUBE-NWPLCY-*", "KUBE-POD-FW-*"],
        manager("kube-router", true),
    ),
    (
        &[
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-NODE-PORT",
            "KUBE-FORWARD",
            "KUBE-FIREWALL",
            "KUBE-POSTROUTING",
            "KUBE-MARK-MASQ",
            "KUBE-MARK-DROP",
            "KUBE-LOAD-BALANCER",
            "KUBE-SOURCE-RANGES-FIREWALL",
            "KUBE-PROXY-*",
            "KUBE-IPVS-*",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-SVC-*",
            "KUBE-SVL-*",
            "KUBE-SEP-*",
            "KUBE-FW-*",
            "KUBE-XLB-*",
            "KUBE-EXT-*",
        ],
        manager("kube-proxy", true),
    ),
    (
        &[
            "CNI-FORWARD",
            "CNI-HOSTPORT-*",
            "CNI-DN-*",
            "CNI-SN-*",
            "CNI-ISOLATION-STAGE-*",
        ],
        manager("the CNI plug-ins", true),
    ),
    (
        &["FLANNEL-FWD", "FLANNEL-POSTRTG"],
        manager("flannel", false),
    ),
    (&["cali-*"], manager("Calico", true)),
    (&["CILIUM_*"], manager("Cilium", true)),
    (&["WEAVE-*"], manager("Weave Net", true)),
    // `DOCKER-USER` and `CNI-ADMIN` are written by the administrator, despite the name.
    (
        &[
            "DOCKER",
            "DOCKER-FORWARD",
            "DOCKER-BRIDGE",
            "DOCKER-CT",
            "DOCKER-INTERNAL",
            "DOCKER-INGRESS",
            "DOCKER-ISOLATION",
            "DOCKER-ISOLATION-STAGE-*",
        ],
        manager("Docker", true),
    ),
    (&["NETAVARK*"], manager("Podman", true)),
    (&["LIBVIRT_*"], manager("libvirt", true)),
    (&["f2b-*"], manager("fail2ban", true)),
    // Before fail2ban 0.9.
    (&["fail2ban-*"], manager("fail2ban", true)),
];

const fn manager(name: &'static str, keeps_drops: bool) -> Manager {
    Manager { name, keeps_drops }
}

/// Tables of nftables that programs manage, without the family; names as in [`MANAGERS`].
const TABLES: [(&str, Manager); 18] = [
    ("kube-proxy", manager("kube-proxy", true)),
    ("kindnet-network-policies", manager("kindnet", true)),
    ("docker-bridges", manager("Docker", true)),
    ("netavark", manager("Podman", true)),
    ("libvirt_network", manager("libvirt", true)),
    ("flannel-*", manager("flannel", false)),
    ("calico", manager("Calico", true)),
    ("f2b-table", manager("fail2ban", true)),
    ("crowdsec", manager("CrowdSec", true)),
    ("crowdsec6", manager("CrowdSec", true)),
    ("sshguard", manager("sshguard", true)),
    ("nm-shared-*", manager("NetworkManager", true)),
    ("io.systemd.nat", manager("systemd-networkd", false)),
    ("lxc", manager("LXC", true)),
    ("lxd", manager("LXD", true)),
    ("incus", manager("Incus", true)),
    ("wg-quick-*", manager("wg-quick", true)),
    ("mullvad", manager("Mullvad VPN", true)),
];

/// Finds the program that manages a chain of this name: `DOCKER` of iptables, or
/// `ip kube-proxy services` of nftables.
pub fn by(chain: &str) -> Option<Manager> {
    let mut words = chain.splitn(3, ' ');
    let (_, table, of_nft) = (words.next(), words.next(), words.next());
    let Some((table, chain)) = table.zip(of_nft) else {
        return by_chain(chain);
    };
    let found = TABLES.iter().find(|(name, _)| fits(name, table));
    found
        .map(|(_, manager)| *manager)
        .or_else(|| by_chain(chain))
}

/// Whether a name is this one, or starts like it if it ends with `*`.
fn fits(known: &str, name: &str) -> bool {
    match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == known,
    }
}

fn by_chain(chain: &str) -> Option<Manager> {
    let found = MANAGERS
        .iter()
        .find(|(names, _)| names.iter().any(|name| fits(name, chain)));
    // A chain for each container, by a hash.
    let hash = chain.strip_prefix("CNI-").filter(|rest| rest.len() == 24);
    let is_hash = hash.is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    found
        .map(|(_, manager)| *manager)
        .or(is_hash.then_some(manager("the CNI plug-ins", true)))
}

/// Reports whether addresses are Kubernetes service addresses, in the default ranges of kubeadm,
/// k3s and kubespray. They do not belong to a host.
pub(super) fn is_service(family: Family, spans: &[super::rule::Interval]) -> bool {
    const RANGES: [&str; 4] = ["10.96.0.0/12", "10.43.0.0/16", "10.233.0.0/18", "fd00::/8"];
    let ranges = RANGES
        .iter()
        .filter_map(|text| text.parse::<ipnet::IpNet>().ok());
    let mut ranges = ranges.filter(|range| Family::of(range.addr()) == family);
    ranges.any(|range| {
        let (first, last) = crate::net::addr::bounds(range);
        spans.iter().all(|span| (first..=last).contains(&span.0))
    })
}

/// Default pod networks: flannel and kubeadm, k3s and RKE2, kubespray, Calico.
pub(super) const POD_NETWORKS: [&str; 4] = [
    "10.244.0.0/16",
    "10.42.0.0/16",
    "10.233.64.0/18",
    "192.168.0.0/16",
];

/// Reports whether the name is that of a bridge to containers or virtual machines on this host.
pub(super) fn is_bridge(name: &str) -> bool {
    ["docker", "br-", "podman", "virbr", "lxcbr"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Reports whether the name is that of a container network interface.
pub(super) fn is_container_interface(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
        "flannel", "cni", "cali", "tunl", "vxlan", "weave", "docker", "br-", "podman", "virbr",
        "lxcbr", "kube-",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
