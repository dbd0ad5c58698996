//! Writes what the kernel holds after commands of nft and iptables-nft: the goldens of `proto`.
//!
//! Run by `scripts/goldens` in a network namespace of its own. Each command starts with nothing.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool for the desk: it prints, and stops at whatever is wrong"
)]

use std::fmt::Write as _;
use std::process::Command;

use peerwall::kernel::netlink::Socket;
use peerwall_proto::netlink::attr::AttrWriter;
use peerwall_proto::netlink::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::{message_type, msg};

const FAMILY_UNSPEC: u8 = 0;

fn sh(command: &str) {
    let done = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}

fn dump(kind: u16, attrs: Vec<u8>, family: u8) -> Vec<Message> {
    let mut socket = Socket::open().unwrap();
    let request = Message {
        attrs,
        ..Message::request(message_type(kind), NLM_F_DUMP, family)
    };
    let mut found = Vec::new();
    socket
        .dump(&request, &mut found, Vec::clear, |found, message| {
            found.push(message);
            Ok(())
        })
        .unwrap();
    found
}

fn main() {
    for command in include_str!("../../fixtures/golden-commands.txt").lines() {
        if command.is_empty() || command.starts_with('#') {
            println!("{command}");
            continue;
        }
        sh("nft flush ruleset");
        sh("nft '
            add table inet t
            add chain inet t c
            add chain inet t d
            add chain inet t n { type nat hook prerouting priority -100; }
            add chain inet t f { type filter hook input priority 0; }
            add set inet t hosts { type ipv4_addr; }
            add set inet t dyn { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
            add counter inet t named
            add quota inet t much { over 1 mbytes; }
        '");
        sh(command);
        println!("> {command}");
        for (name, kind) in [
            ("table", msg::NFT_MSG_GETTABLE),
            ("chain", msg::NFT_MSG_GETCHAIN),
            ("set", msg::NFT_MSG_GETSET),
            ("object", msg::NFT_MSG_GETOBJ),
            ("rule", msg::NFT_MSG_GETRULE),
        ] {
            for message in dump(kind, Vec::new(), FAMILY_UNSPEC) {
                // What every command starts with is written down once only.
                let rules_only = command.contains("rule ") || command.contains("tables-nft");
                if name == "rule" || !rules_only {
                    println!("{name} {}", hex(&message.attrs));
                }
            }
        }
        if command.contains("element") {
            let mut w = AttrWriter::new();
            w.string(1, "t");
            w.string(2, command.split_whitespace().nth(5).unwrap());
            for message in dump(msg::NFT_MSG_GETSETELEM, w.finish().unwrap(), 1) {
                println!("elements {}", hex(&message.attrs));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
