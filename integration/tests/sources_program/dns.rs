//! Names of DNS, answered by dnsmasq, and by a server that lies.

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use peerwall_integration::ns::{sh, world};
use peerwall_integration::sources::Sources;
use serde_json::{Value, json};

/// A running dnsmasq; killed when it goes out of scope.
struct Dnsmasq(Child);

impl Dnsmasq {
    /// Serves these records, and nothing else, at an address of the loopback.
    fn start(address: &str, port: u16, records: &[String]) -> Self {
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
            ])
            .args([
                "--bind-interfaces",
                "--local=/example.org/",
                "--pid-file=",
                "--user=root",
            ])
            .args([
                format!("--listen-address={address}"),
                format!("--port={port}"),
            ])
            .args(records)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn source(name: &str, host: &str, server: &str) -> Value {
    json!({"name": name, "kind": "dns", "names": [format!("{host}.example.org")], "server": [server]})
}

#[test]
fn names_are_resolved_along_aliases_and_over_tcp() {
    world(|| {
        let many = (0..60).map(|number| format!("--host-record=many.example.org,192.0.2.{number}"));
        let mut records: Vec<_> = many.collect();
        records.push("--host-record=one.example.org,198.51.100.1,2001:db8::1".to_owned());
        records.push("--host-record=six.example.org,2001:db8::6".to_owned());
        records.push("--cname=alias.example.org,one.example.org".to_owned());
        // Exists, without an address.
        records.push("--txt-record=text.example.org,x".to_owned());
        let _server = Dnsmasq::start("127.0.0.1", 5353, &records);
        let mut given: Vec<_> = ["one", "six", "alias", "many", "text", "none"]
            .map(|host| source(host, host, "127.0.0.1:5353"))
            .into();
        given.push(
            json!({"name": "both", "kind": "dns", "server": ["127.0.0.1:9", "127.0.0.1:5353"],
            "names": ["one.example.org", "six.example.org"]}),
        );
        given.push(
            json!({"name": "half", "kind": "dns", "server": ["127.0.0.1:5353"],
            "names": ["one.example.org", "none.example.org"]}),
        );
        let sources = Sources::start(&given);
        sources.await_addresses("one", &["198.51.100.1", "2001:db8::1"]);
        sources.await_addresses("alias", &["198.51.100.1", "2001:db8::1"]);
        sources.await_addresses("six", &["2001:db8::6"]);
        sources.await_addresses("both", &["198.51.100.1", "2001:db8::1", "2001:db8::6"]);
        sources.await_addresses("text", &[]);
        sources.until("60 addresses", || {
            sources
                .addresses("many")
                .is_some_and(|found| found.len() == 60)
        });
        let text = sources.file("one").unwrap();
        assert!(text.starts_with("peerwall-members 1 source=one kind=dns identity=- revision=-\n"));
        assert!(text.contains("198.51.100.1 one.example.org\n"), "{text}");
        // Lost, not empty; and half of the names is no answer.
        for name in ["none", "half"] {
            sources.await_status(name, "failing", "name");
            assert_eq!(sources.file(name), None);
        }
    });
}

#[test]
fn the_name_servers_of_the_host_are_used_and_read_again() {
    world(|| {
        let record = ["--host-record=one.example.org,198.51.100.1".to_owned()];
        sh(
            "echo nameserver 127.0.0.7 >/run/resolv.conf && mount --bind /run/resolv.conf /etc/resolv.conf",
        );
        let sources =
            Sources::start(&[json!({"name": "one", "kind": "dns", "names": ["one.example.org"]})]);
        sources.await_status("one", "failing", "unreachable");
        let _server = Dnsmasq::start("127.0.0.53", 53, &record);
        sh("echo nameserver 127.0.0.53 >/run/resolv.conf");
        sources.await_addresses("one", &["198.51.100.1"]);
        sources.await_status("one", "fresh", "");
    });
}

/// Answers a query of A with `address`, and others with nothing; from the query's socket.
fn reply(query: &[u8], id: [u8; 2], address: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[..2].copy_from_slice(&id);
    bytes[2..4].copy_from_slice(&[0x81, 0x80]);
    let is_a = query[query.len() - 4..] == [0, 1, 0, 1];
    if is_a {
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, address]);
    }
    bytes
}

/// Forged answers come before the real one, as an attacker would send them.
#[test]
fn answers_that_do_not_match_are_not_believed() {
    world(|| {
        let socket = UdpSocket::bind("127.0.0.1:5353").unwrap();
        let other = UdpSocket::bind("127.0.0.1:5354").unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            let mut ports = std::collections::BTreeSet::new();
            loop {
                let (count, client) = socket.recv_from(&mut buffer).unwrap();
                ports.insert(client.port());
                let query = &buffer[..count];
                let id = [query[0], query[1]];
                let mut wrong = Vec::new();
                // From another port, with another id, for another name, a query, and garbage.
                other.send_to(&reply(query, id, 66), client).unwrap();
                wrong.push(reply(query, [id[0] ^ 1, id[1]], 67));
                let mut renamed = reply(query, id, 68);
                renamed[13] ^= 1;
                wrong.push(renamed);
                wrong.push(query.to_vec());
                wrong.push(vec![7; 5]);
                for each in wrong {
                    socket.send_to(&each, client).unwrap();
                }
                thread::sleep(Duration::from_millis(20));
                socket.send_to(&reply(query, id, 1), client).unwrap();
            }
        });
        let sources = Sources::start(&[source("one", "one", "127.0.0.1:5353")]);
        sources.await_addresses("one", &["192.0.2.1"]);
        sources.await_status("one", "fresh", "");
        assert_eq!(sources.status("one")["errors"], json!({}));
    });
}
