//! The units, under a real systemd: what is installed starts, lives, is stopped, and loads rules where it is hard to.

use std::thread;
use std::time::Duration;

use peerwall_integration::machine::{Machine, Seed};

const POLICY: &str =
    "version = 1\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n";

/// Whether a rule with these words is loaded.
fn has(machine: &Machine, words: &str) -> bool {
    machine.sh("nft list table inet peerwall").contains(words)
}

fn property(machine: &Machine, unit: &str, name: &str) -> String {
    let value = machine.sh(&format!("systemctl show --property {name} --value {unit}"));
    value.trim().to_owned()
}

#[test]
fn what_is_installed_starts_lives_and_leaves_its_rules() {
    let seed = Seed::installed(POLICY);
    seed.write(
        "etc/systemd/system/peerwall.service.d/watchdog.conf",
        "[Service]\nWatchdogSec=2\n",
    );
    let mut machine = seed.boot("");
    for unit in ["peerwall-boot", "peerwall"] {
        assert_eq!(property(&machine, unit, "ActiveState"), "active", "{unit}");
    }
    assert!(has(&machine, "tcp dport 22 "));
    let status = machine.sh("systemctl status --no-pager peerwall");
    assert!(
        status.contains("keeps /etc/peerwall/policy.toml"),
        "{status}"
    );
    // Nothing happens to it, and it says that it lives.
    let pid = property(&machine, "peerwall", "MainPID");
    thread::sleep(Duration::from_secs(5));
    assert_eq!(property(&machine, "peerwall", "MainPID"), pid);
    machine.sh("systemctl reload peerwall");
    // One that does not is killed and started again, and its rules are there all the time.
    machine.sh(&format!("kill -STOP {pid}"));
    machine.until(&format!(
        "new=$(systemctl show --property MainPID --value peerwall) && [ $new != 0 ] && [ $new != {pid} ] && systemctl is-active peerwall"
    ));
    assert!(has(&machine, "tcp dport 22 "));
    machine.sh("systemctl stop peerwall");
    assert!(has(&machine, "tcp dport 22 "));
    assert_eq!(property(&machine, "peerwall", "Result"), "success");
}
