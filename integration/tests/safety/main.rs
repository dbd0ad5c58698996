//! What peerwall promises while it works: one transaction, nobody else's rules, nothing on a bad
//! policy, whatever process dies or interferes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod mishaps;
mod packets;
mod transactions;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::probe;
use peerwall_integration::target::listing;
use peerwall_integration::traffic::{Answers, Three, Totals, Traffic};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");
const MALFORMED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/core/tests/malformed");

/// Rules of everybody else: iptables of both flavours, nft tables, a set, a chain at our priority.
fn foreign_rules(host: &Host) {
    host.sh(
        "iptables-legacy -A INPUT -p tcp --dport 7 -m comment --comment legacy -j DROP && \
         ip6tables-legacy -A FORWARD -s 2001:db8::/32 -j ACCEPT && \
         iptables-nft -t nat -A PREROUTING -p tcp --dport 30080 -j DNAT --to-destination 10.244.1.2:8080 && \
         iptables-nft -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT && \
         ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT && \
         nft add table ip kube-proxy && nft add chain ip kube-proxy services && \
         nft add table inet firewalld && \
         nft 'add set inet firewalld blocked \
             { type ipv4_addr; flags interval; elements = { 203.0.113.0/24 } }' && \
         nft 'add chain inet firewalld in { type filter hook input priority 10; }' && \
         nft 'add rule inet firewalld in ip saddr @blocked counter drop' && \
         nft 'add table bridge filter { chain f { type filter hook forward priority 0; }; }'",
    );
}

/// Everything that is not ours, as every tool shows it.
fn foreign(host: &Host) -> String {
    let mut all = String::new();
    for (family, table) in [
        ("ip", "kube-proxy"),
        ("inet", "firewalld"),
        ("bridge", "filter"),
        ("ip", "nat"),
        ("ip", "filter"),
        ("ip6", "filter"),
    ] {
        all += &host.sh(&format!("nft --handle list table {family} {table}"));
    }
    for tool in [
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "iptables-nft-save",
        "ip6tables-nft-save",
    ] {
        let text = host.sh(tool);
        // The first and last lines of each table say when it was printed.
        all.extend(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| format!("{line}\n")),
        );
    }
    all
}

fn apply(host: &Host, policy: &Path) {
    host.peerwall_ok(&["apply", &policy.display().to_string()]);
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A policy with one peer that matters and many that do not.
fn policy_with_peers(folder: &Path, name: &str, extra: impl Iterator<Item = String>) -> PathBuf {
    let list = format!("{name}.txt");
    write(folder, &list, &extra.collect::<Vec<_>>().join("\n"));
    write(
        folder,
        &format!("{name}.toml"),
        &format!(
            r#"
                version = 1
                peers_files = ["{list}"]

                [peers]
                friend = ["192.0.2.2", "2001:db8::2"]
            "#
        ),
    )
}

fn status(host: &Host, policy: &str) -> String {
    let output = host.peerwall(&["status", policy]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `peerwall apply --hold`, once it holds.
fn hold(host: &Host, policy: &str) -> Child {
    let mut child = host
        .command(peerwall_bin())
        .args(["apply", "--hold", policy])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    while !said.contains("holding") {
        let read = std::io::BufRead::read_line(&mut out, &mut said).unwrap();
        assert!(read > 0, "apply --hold ended: {said}");
    }
    child
}
