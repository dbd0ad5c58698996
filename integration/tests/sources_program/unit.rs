//! The unit, under a real systemd.

use peerwall_integration::machine::Seed;

const CONFIG: &str = r#"{"version": 1, "sources": [
    {"name": "lost", "kind": "kubernetes", "server": ["https://127.0.0.1:9"], "ca": "/etc/ca.crt"},
    {"name": "key", "kind": "flannel-etcd", "server": ["https://127.0.0.1:9"], "ca": "/etc/key"}]}"#;

#[test]
fn the_unit_follows_the_agents_configuration_as_a_user_of_its_own() {
    let seed = Seed::installed("version = 1\n");
    seed.write("etc/sources.json", CONFIG);
    seed.write("etc/key", "secret\n");
    seed.write("etc/ca.crt", "not PEM\n");
    let mut machine = seed.boot("chmod 0600 /etc/key");
    assert!(
        machine
            .try_sh("systemctl is-enabled peerwall-sources")
            .status
            .code()
            != Some(0)
    );
    machine.until("systemctl is-active peerwall");
    machine.sh("systemctl start peerwall-sources");
    machine.until("journalctl -u peerwall-sources | grep 'waiting for the agent to write it'");
    // As the agent does: world-readable, because it has names of files but no secrets.
    let write = "cp /etc/sources.json /run/peerwall/.new && chmod 0644 /run/peerwall/.new && \
                 mv /run/peerwall/.new /run/peerwall/sources.json";
    machine.sh(write);
    // A file of root's is not readable. (Credentials of units do not work in these namespaces.)
    machine.until("grep 'no certificate in PEM' /run/peerwall/sources/lost.status");
    machine.until("grep 'Permission denied' /run/peerwall/sources/key.status");
    let user = machine.sh("ps -o user= -C peerwall-sources");
    assert!(!user.trim().is_empty() && user.trim() != "root", "{user}");
    // Priorities of the journal.
    machine.sh("journalctl -u peerwall-sources -p warning | grep 'no certificate in PEM'");
    machine.sh("! journalctl -u peerwall-sources -p warning | grep following");
    // A restart of either leaves the files.
    let files = "cat /run/peerwall/sources/lost.status >/dev/null";
    machine.sh(&format!("systemctl restart peerwall && {files}"));
    // The agent, whose policy has no sources, says so sooner or later.
    machine.until("! grep lost /run/peerwall/sources.json");
    machine.sh(write);
    machine.sh(&format!("systemctl stop peerwall-sources && {files}"));
    machine.sh("systemctl start peerwall-sources && systemctl is-active peerwall-sources");
    machine.until("grep failing /run/peerwall/sources/lost.status");
}
