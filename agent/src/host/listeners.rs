//! Sockets of this network namespace that wait for other hosts, with their processes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use peerwall_core::net::port::{TCP, UDP};
use peerwall_core::policy::initial::Listener;
use procfs::net::{TcpState, UdpState};
use procfs::process::{FDTarget, Process};

/// Finds the sockets. Without the right to look into other processes, their names are missing.
pub fn find() -> Vec<Listener> {
    let Ok(me) = Process::myself() else {
        return Vec::new();
    };
    // The files for IPv6 are missing in a kernel without it.
    let tcp = me.tcp().into_iter().chain(me.tcp6()).flatten();
    let udp = me.udp().into_iter().chain(me.udp6()).flatten();
    let tcp = tcp.filter(|entry| entry.state == TcpState::Listen);
    let tcp = tcp.map(|entry| (TCP, entry.local_address, entry.inode));
    let udp =
        udp.filter(|entry| entry.state == UdpState::Close && entry.remote_address.port() == 0);
    let udp = udp.map(|entry| (UDP, entry.local_address, entry.inode));
    let names = names();
    let waits = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let mut found: Vec<Listener> = tcp
        .chain(udp)
        .filter(|(_, address, _)| waits(address) && !is_ephemeral(address))
        .map(|(protocol, address, inode)| Listener {
            protocol,
            port: address.port(),
            process: names.get(&inode).cloned(),
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Whether a socket has one of the ports that clients get by chance and is bound to no address:
/// resolvers and NTP clients have such sockets while they wait for an answer.
fn is_ephemeral(address: &SocketAddr) -> bool {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return false;
    };
    let is_any = matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified())
        || matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified());
    is_any && (first..=last).contains(&address.port())
}

/// Returns the names of processes by the inodes of their sockets.
fn names() -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let all = procfs::process::all_processes().into_iter().flatten();
    for process in all.flatten() {
        let (Ok(stat), Ok(fds)) = (process.stat(), process.fd()) else {
            continue;
        };
        for fd in fds.flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                found.entry(inode).or_insert_with(|| stat.comm.clone());
            }
        }
    }
    found
}
