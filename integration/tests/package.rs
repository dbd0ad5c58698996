//! The Debian and RPM packages, installed by dpkg and rpm on a machine with systemd.

use peerwall_integration::machine::{Machine, Seed, USR_IS_WRITABLE};

const TABLE: &str = "nft list table inet peerwall";

/// Commands of a package manager.
struct Manager {
    /// Kind of package, for `scripts/package`.
    kind: &'static str,
    /// Followed by a file.
    install: &'static str,
    remove: &'static str,
    /// Files of the main package of a revision.
    main: fn(u8) -> String,
    /// File of the package with the names of restore units.
    restore_units: &'static str,
    /// Reports files that differ from the package.
    verify: &'static str,
}

const DPKG: Manager = Manager {
    kind: "deb",
    install: "dpkg -i",
    remove: "dpkg -r peerwall",
    main: |revision| format!("/usr/local/packages/{revision}/peerwall_*.deb"),
    restore_units: "/usr/local/packages/1/peerwall-restore-units_*.deb",
    verify: "dpkg --verify peerwall",
};
/// rpm's database is empty: nothing provides the shell. Debian's rpm must be forced to install.
const RPM: Manager = Manager {
    kind: "rpm",
    install: "rpm -U --oldpackage --nodeps --force-debian",
    remove: "rpm -e --force-debian peerwall",
    main: |revision| format!("/usr/local/packages/{revision}/peerwall-0*.x86_64.rpm"),
    restore_units: "/usr/local/packages/1/peerwall-restore-units-*.rpm",
    verify: "rpm -V --nodeps --nomtime peerwall",
};
const MANAGERS: [Manager; 2] = [DPKG, RPM];

impl Manager {
    fn installed(&self, revisions: &[&str]) -> (Machine, String) {
        let machine = Seed::with_packages(&[self.kind], revisions).boot(USR_IS_WRITABLE);
        let said = self.install(&machine, 1);
        (machine, said)
    }

    fn protected(&self, revisions: &[&str]) -> Machine {
        let (machine, _) = self.installed(revisions);
        machine.sh("peerwall init && systemctl enable --now peerwall-boot peerwall 2>&1");
        machine.sh(TABLE);
        machine
    }

    fn install(&self, machine: &Machine, revision: u8) -> String {
        machine.sh(&format!("{} {} 2>&1", self.install, (self.main)(revision)))
    }
}

#[test]
fn installing_changes_no_rules_and_enables_no_unit() {
    for manager in MANAGERS {
        let (machine, said) = manager.installed(&["1"]);
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
        machine.sh("test -s /usr/share/man/man8/peerwall.8.gz");
        assert_eq!(machine.sh(manager.verify), "");
    }
}

#[test]
fn an_upgrade_and_the_way_back_restart_the_agent_and_leave_no_gap() {
    for manager in MANAGERS {
        let machine = manager.protected(&["1", "2"]);
        machine.sh("echo '# mine' >>/etc/default/peerwall");
        let pid = || machine.sh("systemctl show --property MainPID --value peerwall");
        let handle = || machine.sh("nft -a list tables | grep 'inet peerwall'");
        let old_handle = handle();
        // Looks at the rules all the time.
        machine.sh(&format!(
            "systemd-run --quiet --unit=watch sh -c 'while :; do \
             {TABLE} >/dev/null || echo gone >>/run/gaps; echo >>/run/looks; done'"
        ));
        for revision in [2, 1] {
            let old_pid = pid();
            manager.install(&machine, revision);
            assert_ne!(pid(), old_pid, "the other agent runs");
            assert_eq!(handle(), old_handle, "it is the same table");
        }
        machine.sh("systemctl stop watch && test -s /run/looks && ! test -e /run/gaps");
        machine.sh("systemctl is-enabled peerwall peerwall-boot && systemctl is-active peerwall");
        machine.sh("grep -x '# mine' /etc/default/peerwall");
    }
}

#[test]
fn an_upgrade_rolls_back_a_trial() {
    let machine = DPKG.protected(&["1", "2"]);
    let trial = || machine.sh("peerwall status --json | grep '\"trial\": null' || true");
    let allow = r#"allow = [{ name = "other", ports = ["7777/tcp"], from = "any" }]"#;
    machine.sh(&format!(
        "printf '%s\\n' 'version = 1' '{allow}' >/etc/peerwall/other.toml"
    ));
    machine.sh("peerwall apply --force --confirm 5m /etc/peerwall/other.toml");
    machine.sh("nft list ruleset | grep 7777");
    assert_eq!(trial(), "");
    DPKG.install(&machine, 2);
    machine.sh("! nft list ruleset | grep 7777");
    assert_ne!(trial(), "");
}

#[test]
fn a_removal_says_that_rules_stay_and_a_purge_takes_the_state() {
    for manager in MANAGERS {
        let machine = manager.protected(&["1"]);
        machine.sh("test -d /var/lib/peerwall");
        let said = machine.sh(&format!("{} 2>&1", manager.remove));
        assert!(said.contains("nft delete table inet peerwall"), "{said}");
        machine.sh(TABLE);
        machine.sh("test ! -e /etc/systemd/system/sysinit.target.wants/peerwall.service");
        machine.sh("test -d /var/lib/peerwall && test -e /etc/peerwall/policy.toml");
        if manager.kind == "deb" {
            machine.sh("test -e /etc/default/peerwall");
            machine.sh("dpkg -P peerwall");
            machine.sh("test ! -e /var/lib/peerwall && test ! -e /etc/default/peerwall");
            machine.sh("test -e /etc/peerwall/policy.toml");
        }
    }
}

#[test]
fn the_names_of_restore_units_are_a_package_of_their_own() {
    for manager in MANAGERS {
        let machine = manager.protected(&["1"]);
        let own = "/etc/systemd/system/ip6tables-restore.service";
        machine.sh(&format!(
            "printf '[Service]\\nExecStart=/bin/true\\n' >{own}"
        ));
        let install = format!("{} {} 2>&1", manager.install, manager.restore_units);
        let said = machine.sh(&install);
        let warning = format!("{own} overrides the unit of this package");
        assert!(said.contains(&warning), "{said}");
        assert!(!said.contains("/iptables-restore.service"), "{said}");
        machine.sh(&format!("mv {own} {own}.old && systemctl daemon-reload"));
        machine.sh("systemctl start iptables-restore.service ip6tables-restore.service");
        machine.sh("systemctl restart iptables-restore.service && systemctl is-active peerwall");
    }
}

#[test]
fn both_formats_contain_the_same_files() {
    let machine = Seed::with_packages(&["deb", "rpm"], &["1"]).boot(USR_IS_WRITABLE);
    // What each kind requires besides.
    let only = "/usr/share/(licenses|lintian)/|/copyright$|/changelog.Debian.gz$";
    for name in ["peerwall", "peerwall-restore-units"] {
        let files =
            |command: String| machine.sh(&format!("{command} | grep -vE '{only}' | LC_ALL=C sort"));
        let deb = files(format!(
            "dpkg-deb --fsys-tarfile /usr/local/packages/1/{name}_*.deb | \
             tar -t | sed -n 's,^\\.\\(.*[^/]\\)$,\\1,p'"
        ));
        let rpm = files(format!(
            "rpm -qp --qf '[%{{FILEMODES:perms}} %{{FILENAMES}}\\n]' /usr/local/packages/1/{name}-0*.rpm | \
             sed -n 's,^-[^ ]* ,,p'"
        ));
        assert!(deb.contains("/usr/lib/systemd/system/"), "{deb}");
        assert_eq!(deb, rpm, "{name}");
    }
}

#[test]
fn the_packaged_script_removes_old_rules() {
    let machine = DPKG.protected(&["1"]);
    machine.sh("peerwall apply --force");
    machine.sh("iptables-nft -A INPUT -s 192.0.2.7 -j DROP && iptables-nft -P FORWARD DROP");
    machine.sh(
        "iptables-nft-save >/run/old && grep -x -- '-A INPUT -s 192.0.2.7/32 -j DROP' /run/old",
    );
    machine.sh("/usr/share/peerwall/remove-old-rules --v4 /run/old");
    let left = machine.sh("iptables-nft-save -t filter");
    assert!(
        !left.contains("192.0.2.7") && left.contains(":FORWARD ACCEPT"),
        "{left}"
    );
}
