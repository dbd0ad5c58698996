//! Both units under a real systemd: from a lease in a real etcd to the set in the kernel.

use peerwall_integration::machine::{Machine, Seed};

const POLICY: &str = r#"
    version = 1
    [peers]
    own = "198.51.100.1"
    [peers_from.leases]
    kind = "flannel-etcd"
    server = ["http://127.0.0.1:2379"]
    within = ["10.0.0.0/16"]
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
"#;
/// Writes a lease as flannel does. Arguments: subnet, address of the node.
const PUT: &str = r#"
import base64, json, sys, urllib.request
code = lambda text: base64.b64encode(text.encode()).decode()
value = json.dumps({"PublicIP": sys.argv[2], "BackendType": "vxlan"})
body = {"key": code("/coreos.com/network/subnets/" + sys.argv[1]), "value": code(value)}
urllib.request.urlopen("http://127.0.0.1:2379/v3/kv/put", json.dumps(body).encode()).read()
"#;

fn until_peer(machine: &mut Machine, address: &str) {
    machine.until(&format!(
        "nft list set inet peerwall peers4 | grep -F '{address}'"
    ));
}

#[test]
fn a_lease_in_etcd_becomes_a_peer_and_stays_one_without_etcd() {
    let seed = Seed::installed(POLICY);
    seed.write("etc/put.py", PUT);
    let mut machine = seed.boot("ip link set lo up");
    machine.until("systemctl is-active peerwall");
    let urls = "--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380";
    machine.sh(&format!(
        "systemd-run --quiet --unit leases etcd --data-dir /run/etcd {urls}"
    ));
    machine.sh("systemctl start peerwall-sources");
    machine.until("python3 /etc/put.py 10.5.52.0-24 10.0.0.5");
    until_peer(&mut machine, "10.0.0.5");
    machine.sh(
        "python3 /etc/put.py 10.5.53.0-24 10.0.0.6; python3 /etc/put.py 10.5.54.0-24 192.0.2.1",
    );
    until_peer(&mut machine, "10.0.0.6");
    machine.until("peerwall sources | grep -F '192.0.2.1'");
    machine.sh("systemctl kill --signal KILL leases");
    machine.until("peerwall sources | grep 'error: '");
    machine.sh("systemctl restart peerwall-sources; systemctl kill --signal KILL peerwall");
    machine.until("systemctl is-active peerwall && peerwall sources | grep '2 members'");
    until_peer(&mut machine, "10.0.0.5");
    until_peer(&mut machine, "10.0.0.6");
}
