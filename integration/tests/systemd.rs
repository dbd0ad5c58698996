//! The units, under a real systemd: what is installed starts, lives, is stopped, and loads rules
//! where it is hard to.

use std::thread;
use std::time::Duration;

use peerwall_integration::machine::{Machine, Seed};
use peerwall_integration::metrics::{Format, parse};

const POLICY: &str = r#"
    version = 1
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
"#;
/// The port that a trial opens.
const TRIED: &str = "tcp dport 80 ";

/// Whether a rule with these words is loaded.
fn has(machine: &Machine, words: &str) -> bool {
    machine.sh("nft list table inet peerwall").contains(words)
}

fn property(machine: &Machine, unit: &str, name: &str) -> String {
    let value = machine.sh(&format!("systemctl show --property {name} --value {unit}"));
    value.trim().to_owned()
}

/// Another policy on trial, from a login session of its own that ends at once.
fn try_out(machine: &Machine, time: &str) {
    machine.sh(&format!(
        "sed s/22/80/ /etc/peerwall/policy.toml >/etc/peerwall/copy.toml && systemd-run --scope --quiet \
         peerwall apply --force --confirm {time} /etc/peerwall/copy.toml"
    ));
    assert!(has(machine, TRIED), "{}", machine.journal());
    // Until the guard has left the group that it was started in.
    machine.sh(
        "for i in $(seq 100); do systemctl --quiet is-active 'peerwall-guard-*.scope' && \
        exit; sleep 0.05; done; exit 1",
    );
}

fn last_event(machine: &Machine) -> String {
    machine.sh("tail -n 1 /var/lib/peerwall/audit.log")
}

/// Waits until a trial's time is over, and the guard has done what it is there for.
fn gone_back_by_the_guard(machine: &mut Machine) {
    machine.until(&format!("! nft list table inet peerwall | grep '{TRIED}'"));
    machine.until("tail -n 1 /var/lib/peerwall/audit.log | grep ran-out | grep guard");
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
        status.contains("in force: /etc/peerwall/policy.toml"),
        "{status}"
    );
    // The sandbox does not keep it from the log of denied packets.
    let denied = machine.sh("peerwall denied --json");
    assert!(denied.contains("\"reader\": \"agent\""), "{denied}");
    // Nothing happens to it, and it says that it lives.
    let pid = property(&machine, "peerwall", "MainPID");
    thread::sleep(Duration::from_secs(5));
    assert_eq!(property(&machine, "peerwall", "MainPID"), pid);
    machine.sh("systemctl reload peerwall");
    // One that does not is killed and started again, and its rules are there all the time.
    machine.sh(&format!("kill -STOP {pid}"));
    machine.until(&format!(
        "new=$(systemctl show --property MainPID --value peerwall) && [ $new != 0 ] && \
         [ $new != {pid} ] && systemctl is-active peerwall"
    ));
    assert!(has(&machine, "tcp dport 22 "));
    machine.sh("systemctl stop peerwall");
    assert!(has(&machine, "tcp dport 22 "));
    assert_eq!(property(&machine, "peerwall", "Result"), "success");
}

#[test]
fn a_trial_is_over_when_the_unit_is_stopped_or_restarted() {
    let machine = Seed::installed(POLICY).boot("");
    for verb in ["restart", "stop"] {
        try_out(&machine, "60s");
        machine.sh(&format!("systemctl {verb} peerwall"));
        assert!(
            !has(&machine, TRIED) && has(&machine, "tcp dport 22 "),
            "{verb}"
        );
        let last = last_event(&machine);
        assert!(last.contains("\"stopped\""), "{verb}: {last}");
        let journal = machine.journal();
        assert!(
            journal.contains("was not confirmed before its agent or guard was stopped"),
            "{journal}"
        );
        machine.sh("sed -i 's/^version/# once more\\n&/' /etc/peerwall/policy.toml");
    }
}

/// The agent reads the copy itself, in its own mount namespace.
#[test]
fn a_copy_in_the_home_directory_of_root_can_be_tried_out() {
    let machine = Seed::installed(POLICY).boot("mkdir -p -m 700 /root");
    machine.sh("sed s/22/80/ /etc/peerwall/policy.toml >/root/copy.toml");
    machine.sh("systemd-run --scope --quiet peerwall apply --force --confirm 60s /root/copy.toml");
    assert!(has(&machine, TRIED), "{}", machine.journal());
}

#[test]
fn the_guard_outlives_the_unit_and_the_session() {
    let seed = Seed::installed(POLICY);
    // Nobody comes after an agent that dies.
    seed.write(
        "etc/systemd/system/peerwall.service.d/once.conf",
        "[Service]\nRestart=no\n",
    );
    let mut machine = seed.boot("");
    try_out(&machine, "4s");
    machine.sh("systemctl kill --signal KILL peerwall");
    machine.until("! systemctl is-active peerwall");
    assert!(has(&machine, TRIED), "the time is not over");
    gone_back_by_the_guard(&mut machine);
    machine.sh("peerwall apply /etc/peerwall/policy.toml");

    // No agent: a session that ends, and takes with it whatever is left of it
    // (KillUserProcesses=yes).
    machine.sh("sed -i 's/^version/# once more\\n&/' /etc/peerwall/policy.toml");
    machine.sh(
        "sed s/22/80/ /etc/peerwall/policy.toml >/etc/peerwall/copy.toml
         systemd-run --scope --quiet --unit session-1 -p SendSIGHUP=yes sh -c \
             'peerwall apply --force --confirm 4s /etc/peerwall/copy.toml &&
             touch /run/tried && exec sleep 100' >/dev/null 2>&1 &
         for i in $(seq 100); do
             [ -e /run/tried ] && systemctl --quiet is-active 'peerwall-guard-*.scope' && exit
             sleep 0.05
         done
         exit 1",
    );
    machine.sh("systemctl stop session-1.scope");
    assert!(has(&machine, TRIED), "a logout does not end it");
    gone_back_by_the_guard(&mut machine);
}

/// Whatever the root is like, the host is not open.
#[test]
fn a_root_that_is_full_or_read_only_does_not_keep_the_rules_from_being_loaded() {
    const SMALL: &str = "8m,nr_inodes=600";
    // Also without a directory for the state, and with a policy that cannot be read.
    for (name, first) in [
        ("read-only", "mount -o remount,ro /"),
        (
            "read-only, with a state",
            "mkdir -m 0700 /var/lib/peerwall && mount -o remount,ro /",
        ),
        (
            "without inodes",
            "i=0; while : >/var/tmp/$i; do i=$((i+1)); done 2>/dev/null",
        ),
        (
            "without space",
            "head -c 16M /dev/zero >/var/tmp/fill 2>/dev/null || true",
        ),
        (
            "read-only, without a policy",
            "rm /etc/peerwall/policy.toml; mount -o remount,ro /",
        ),
    ] {
        let seed = Seed::installed(POLICY).root_size(SMALL);
        let machine = seed.boot(first);
        let state = property(&machine, "peerwall-boot", "ExecMainStatus");
        let is_loaded = if name.contains("policy") { "2" } else { "0" };
        assert_eq!(state, is_loaded, "{name}\n{}", machine.journal());
        // The agent that is right behind it is no proof of that.
        machine.sh(
            "systemctl stop peerwall && nft delete table inet peerwall && \
            (systemctl restart peerwall-boot || true)",
        );
        assert!(has(&machine, "tcp dport 22 "), "{name}");
        machine.sh("systemctl start peerwall");
        assert!(has(&machine, "tcp dport 22 "), "{name}");
    }
}

/// State and policy may be on mounts of their own, which fail.
#[test]
fn a_host_is_closed_though_its_var_cannot_be_mounted() {
    let seed = Seed::installed(POLICY);
    seed.write(
        "etc/fstab",
        "tmpfs /var tmpfs no-such-option,nofail 0 0\ntmpfs /etc/peerwall tmpfs no-such-option,nofail 0 0\n",
    );
    let machine = seed.boot("");
    assert_eq!(property(&machine, "var.mount", "Result"), "exit-code");
    for unit in ["peerwall-boot", "peerwall"] {
        assert_eq!(property(&machine, unit, "ActiveState"), "active", "{unit}");
    }
    assert!(has(&machine, "tcp dport 22 "));
}

/// What peerwall keeps is read after it is mounted, however long that takes.
#[test]
fn boot_waits_for_the_mounts_of_its_files() {
    let seed = Seed::installed("version = 1\n");
    seed.write(
        "etc/systemd/system/slow.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sleep 1\n",
    );
    for (what, target) in [("state", "var/lib/peerwall"), ("policy", "etc/peerwall")] {
        let unit = format!("{}.mount", target.replace('/', "-"));
        seed.write(
            &format!("etc/systemd/system/{unit}"),
            &format!(
                "[Unit]\nDefaultDependencies=no\nRequires=slow.service\n\
                 After=slow.service\nBefore=local-fs.target\n\
                 [Mount]\nWhat=/var/{what}\nWhere=/{target}\nOptions=bind\n"
            ),
        );
        seed.write(
            &format!("etc/systemd/system/local-fs.target.d/{what}.conf"),
            &format!("[Unit]\nWants={unit}\n"),
        );
    }
    seed.write("var/policy/policy.toml", POLICY);
    let machine = seed.boot("mkdir -m 0700 /var/state");
    assert!(has(&machine, "tcp dport 22 "));
    assert!(
        machine
            .sh("cat /var/state/audit.log")
            .contains("\"booted\"")
    );
}

/// Asks for the metrics as Prometheus does.
const SCRAPE: &str = "import urllib.request as r; \
    print(r.urlopen(r.Request('http://127.0.0.1:9469/metrics', headers={'Accept': 'application/openmetrics-text'})).read().decode(), end='')";

/// As docs/metrics.md says: options in /etc/default/peerwall, Debian's directory of node_exporter.
#[test]
fn metrics_are_written_and_served_as_documented() {
    const FILE: &str = "/var/lib/prometheus/node-exporter/peerwall.prom";
    let seed = Seed::installed(POLICY);
    seed.write(
        "etc/default/peerwall",
        &format!("PEERWALL_OPTIONS=\"--metrics-file {FILE} --metrics-listen 127.0.0.1:9469\"\n"),
    );
    seed.write(
        "etc/systemd/system/peerwall.service.d/listen.conf",
        "[Service]\nIPAddressAllow=localhost\n",
    );
    // As Debian's package makes them: only the upper one belongs to the user of the exporter.
    let mut machine = seed.boot(
        "mkdir -p /var/lib/prometheus/node-exporter && chown 65534:65534 /var/lib/prometheus",
    );
    machine.until(&format!("test -e {FILE}"));
    let mode = machine.sh(&format!("stat -c '%a %u' {FILE}"));
    assert_eq!(mode.trim(), "644 0");
    let text = machine.sh(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups cat {FILE}"
    ));
    let served = machine.sh(&format!("/usr/bin/python3 -c \"{SCRAPE}\""));
    for (format, text) in [(Format::Classic, &text), (Format::OpenMetrics, &served)] {
        let families = parse(format, text);
        let family = families
            .iter()
            .find(|family| family.name == "peerwall_in_sync");
        let family = family.unwrap_or_else(|| panic!("{text}"));
        assert_eq!(family.kind, "gauge");
        assert_eq!(family.samples[0].value, "1.0");
    }
    assert_eq!(
        machine.sh("ls -A /var/lib/prometheus/node-exporter").trim(),
        "peerwall.prom"
    );
    // A directory that the unit may not write to: one entry says what to do.
    machine.sh("mkdir /var/metrics && \
         sed -i 's,/var/lib/prometheus/node-exporter,/var/metrics,' /etc/default/peerwall");
    machine.sh("systemctl restart peerwall");
    let entry = entry(&mut machine, "metrics_not_written");
    assert!(entry.1.contains("ReadWritePaths="), "{entry:?}");
}

/// The only entry of the journal of this event, and maybe with more fields: its fields, and its
/// message.
fn entry(machine: &mut Machine, event: &str) -> (serde_json::Value, String) {
    let list = format!("journalctl --no-pager -o json PEERWALL_EVENT={event}");
    machine.until(&format!("{list} | grep ."));
    let text = machine.sh(&list);
    assert_eq!(text.lines().count(), 1, "{text}");
    let entry: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let message = entry["MESSAGE"].as_str().unwrap_or_default().to_owned();
    (entry, message)
}

#[test]
fn what_a_unit_logs_is_found_by_its_name_though_it_ends_before_journald_reads() {
    let machine = Seed::installed(POLICY).boot("");
    let found = || {
        machine.sh("journalctl --sync");
        machine.sh("journalctl --no-pager -o cat -u peerwall-boot PEERWALL_EVENT=booted || true")
    };
    assert_eq!(found().lines().count(), 1, "{}", machine.journal());
    machine.sh("systemctl kill -s STOP systemd-journald");
    machine.sh("systemctl restart peerwall-boot");
    machine.sh("systemctl kill -s CONT systemd-journald");
    assert_eq!(found().lines().count(), 2, "{}", machine.journal());
}

#[test]
fn each_event_is_one_entry_of_the_journal_with_its_fields() {
    const PATH: &str = "/etc/peerwall/policy.toml";
    let mut machine = Seed::installed(POLICY).boot("");
    let check = |entry: &serde_json::Value, fields: &[(&str, &str)]| {
        for (name, want) in fields {
            assert_eq!(entry[name], *want, "{name}: {entry}");
        }
    };
    let (booted, _) = entry(&mut machine, "booted");
    check(
        &booted,
        &[
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "peerwall"),
            ("OBJECT_SYSTEMD_UNIT", "peerwall-boot.service"),
            ("PEERWALL_BY", "boot"),
        ],
    );

    machine.sh(&format!(
        "printf '[[allow]]\\nname = \"web\"\\nports = [\"443/tcp\"]\\nfrom = \"any\"\\n' >>{PATH}"
    ));
    let (applied, message) = entry(&mut machine, "applied PEERWALL_NUMBER=2");
    check(
        &applied,
        &[
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "peerwall"),
            ("_SYSTEMD_UNIT", "peerwall.service"),
            ("_TRANSPORT", "journal"),
            ("PEERWALL_POLICY", PATH),
            ("PEERWALL_BY", "agent"),
            ("PEERWALL_NUMBER", "2"),
        ],
    );
    let change = applied["PEERWALL_CHANGE"].as_str().unwrap_or_default();
    assert!(!change.is_empty() && message.ends_with(change), "{applied}");

    // A message of several lines.
    machine.sh(&format!(
        "echo 'ports = 1' >>{PATH}; echo 'portz = 1' >>{PATH}"
    ));
    let (rejected, message) = entry(&mut machine, "policy_rejected");
    check(&rejected, &[("PRIORITY", "3"), ("PEERWALL_POLICY", PATH)]);
    assert!(message.lines().count() > 3, "{message}");
    machine.sh(&format!("sed -i '/^port[sz] = 1/d' {PATH}"));

    // The guard has no standard error that leads to the journal.
    machine.sh("systemctl stop peerwall");
    try_out(&machine, "2s");
    gone_back_by_the_guard(&mut machine);
    let (rolled_back, message) = entry(&mut machine, "rolled_back");
    check(
        &rolled_back,
        &[
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "peerwall"),
            ("PEERWALL_POLICY", "/etc/peerwall/copy.toml"),
            ("PEERWALL_SECONDS", "2"),
            ("PEERWALL_BY", "guard"),
        ],
    );
    assert!(
        message.contains("was not confirmed within 2 s"),
        "{message}"
    );
}
