//! The Debian packages, installed by dpkg on a machine with systemd.

use peerwall_integration::machine::{Machine, Seed, USR_IS_WRITABLE};

const INSTALL: &str = "dpkg -i /usr/local/packages/peerwall_*.deb";
const TABLE: &str = "nft list table inet peerwall";

fn installed() -> (Machine, String) {
    let machine = Seed::with_packages().boot(USR_IS_WRITABLE);
    let said = machine.sh(&format!("{INSTALL} 2>&1"));
    (machine, said)
}

fn protected() -> Machine {
    let (machine, _) = installed();
    machine.sh("peerwall init && systemctl enable --now peerwall-boot peerwall 2>&1");
    machine.sh(TABLE);
    machine
}

#[test]
fn installing_changes_no_rules_and_enables_no_unit() {
    let (machine, said) = installed();
    assert!(said.contains("Next: peerwall init"), "{said}");
    assert_eq!(machine.sh("nft list ruleset"), "");
    for unit in ["peerwall", "peerwall-boot"] {
        let state = machine.sh(&format!("systemctl is-enabled {unit} || true"));
        assert_eq!(state.trim(), "disabled", "{unit}");
    }
    machine.sh("systemd-analyze --man=no verify peerwall.service peerwall-boot.service");
    assert_eq!(
        machine.sh("command -v peerwall").trim(),
        "/usr/sbin/peerwall"
    );
    assert_eq!(machine.sh("ls -A /etc/peerwall"), "");
    machine.sh("test -s /usr/share/man/man8/peerwall.8.gz && dpkg --verify peerwall");
}

#[test]
fn an_upgrade_restarts_the_agent_and_leaves_no_gap() {
    let machine = protected();
    let pid = || machine.sh("systemctl show --property MainPID --value peerwall");
    let handle = || machine.sh("nft -a list tables | grep 'inet peerwall'");
    let (old_pid, old_handle) = (pid(), handle());
    // Looks at the rules all the time.
    machine.sh(&format!(
        "systemd-run --quiet --unit=watch sh -c 'while :; do {TABLE} >/dev/null || echo gone >>/run/gaps; \
         echo >>/run/looks; done'"
    ));
    machine.sh(INSTALL);
    assert_ne!(pid(), old_pid, "the new agent runs");
    assert_eq!(handle(), old_handle, "it is the same table");
    machine.sh("systemctl stop watch && test -s /run/looks && ! test -e /run/gaps");
}

#[test]
fn a_removal_says_that_rules_stay_and_a_purge_takes_the_state() {
    let machine = protected();
    machine.sh("test -d /var/lib/peerwall");
    let said = machine.sh("dpkg -r peerwall 2>&1");
    assert!(said.contains("nft delete table inet peerwall"), "{said}");
    machine.sh(TABLE);
    machine.sh("test ! -e /etc/systemd/system/sysinit.target.wants/peerwall.service");
    machine.sh("test -d /var/lib/peerwall && test -e /etc/default/peerwall");
    machine.sh("dpkg -P peerwall");
    machine.sh("test ! -e /var/lib/peerwall && test ! -e /etc/default/peerwall");
    machine.sh("test -e /etc/peerwall/policy.toml");
}

#[test]
fn the_names_of_restore_units_are_a_package_of_their_own() {
    let machine = protected();
    machine.sh("dpkg -i /usr/local/packages/peerwall-restore-units_*.deb");
    machine.sh("systemctl start iptables-restore.service ip6tables-restore.service");
    machine.sh("systemctl restart iptables-restore.service && systemctl is-active peerwall");
}
