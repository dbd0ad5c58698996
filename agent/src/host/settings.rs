//! Settings of this host that decide about packets, besides rules.

use std::fs;
use std::net::IpAddr;

use peerwall_core::doctor::Settings;
use peerwall_core::net::host::Host;
use peerwall_core::nft::kconfig;

use super::facts;

/// Tables of iptables-legacy that are loaded (`net/netfilter/x_tables.c`).
const LEGACY_TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Reads the settings. What cannot be read is unknown.
pub fn read(host: &Host) -> Settings {
    let forwarding = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
    let is_bridge = |kind: &Option<String>| kind.as_deref() == Some("bridge");
    let interfaces = host.interfaces.iter();
    let bridges = interfaces.clone().filter(|each| is_bridge(&each.kind));
    let strict = |name: &str| {
        let of = |name: &str| number(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0);
        // The kernel uses the higher value (`Documentation/networking/ip-sysctl.rst`).
        of("all").max(of(name)) == 1
    };
    let count = number("netfilter/nf_conntrack_count");
    let max = number("netfilter/nf_conntrack_max");
    Settings {
        forwarding: forwarding.map(|key| number(key).map(|value| value != 0)),
        bridge_calls: number("bridge/bridge-nf-call-iptables").map(|value| value != 0),
        interfaces: host.interfaces.clone(),
        pod_networks: facts::gather().pod_networks,
        bridges: bridges.map(|each| each.name.clone()).collect(),
        strict_reverse_path: interfaces
            .filter(|each| strict(&each.name))
            .map(|each| each.name.clone())
            .collect(),
        connections: count.zip(max),
        has_legacy: has_legacy(),
        is_loaded: None,
        has_agent: false,
        log_trouble: None,
        silent_neighbours: silent_neighbours(host),
        kernel_config: kernel_config(),
    }
}

fn silent_neighbours(host: &Host) -> Vec<(IpAddr, String)> {
    super::silent_neighbours(host).unwrap_or_else(|err| {
        log::warn!("cannot read this host's neighbours: {err}");
        Vec::new()
    })
}

/// Returns the configuration of the running kernel: its own copy (`CONFIG_IKCONFIG_PROC`), or that
/// of the distribution.
fn kernel_config() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let release = release.trim();
    let own = fs::read("/proc/config.gz").ok();
    let own = own.and_then(|packed| kconfig::unpack(&packed));
    own.or_else(|| fs::read_to_string(format!("/boot/config-{release}")).ok())
        .or_else(|| fs::read_to_string(format!("/lib/modules/{release}/config")).ok())
}

/// Reports whether tables of iptables-legacy are loaded.
pub fn has_legacy() -> bool {
    LEGACY_TABLES.iter().any(|path| {
        let names = fs::read_to_string(path);
        names.is_ok_and(|names| !names.trim().is_empty())
    })
}

fn number(key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/net/{key}")).ok()?;
    text.trim().parse().ok()
}
