//! Units that load other rules at boot.

use std::fs;
use std::path::Path;

/// Administrator's units, and the links that enable units.
const UNITS: &str = "/etc/systemd/system";
/// Units that load rules files. Those of other firewalls are found by their rules.
const LOADERS: [&str; 6] = [
    "netfilter-persistent.service",
    "nftables.service",
    "iptables.service",
    "ip6tables.service",
    "iptables-restore.service",
    "ip6tables-restore.service",
];

/// Returns the enabled units that load rules at boot, beside or instead of the policy.
pub(crate) fn loaders() -> Vec<&'static str> {
    let is_ours = |unit: &str| {
        let text = fs::read_to_string(Path::new(UNITS).join(unit));
        text.is_ok_and(|text| text.contains("peerwall"))
    };
    let enabled = LOADERS.into_iter().filter(|unit| is_enabled(unit));
    enabled.filter(|unit| !is_ours(unit)).collect()
}

/// Reports whether some unit wants this one.
fn is_enabled(unit: &str) -> bool {
    let folders = fs::read_dir(UNITS).into_iter().flatten().flatten();
    let mut links = folders.filter(|folder| {
        let name = folder.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".wants") || name.ends_with(".requires")
    });
    links.any(|folder| folder.path().join(unit).is_symlink())
}
