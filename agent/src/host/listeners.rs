//! Sockets of this network namespace that wait for other hosts, with their processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use peerwall_core::exposed::{Owner, Socket, owner};
use peerwall_core::net::port::{TCP, UDP};
use peerwall_core::policy::initial::Listener;
use procfs::net::{TcpState, UdpState};
use procfs::process::{FDTarget, Process};

/// Finds the sockets. Without the right to look into other processes, their names are missing.
pub fn find() -> Vec<Listener> {
    let mut found: Vec<Listener> = sockets().into_iter().map(|each| each.listener).collect();
    found.dedup();
    found
}

/// Finds the sockets with their addresses, once for each port and process.
pub fn sockets() -> Vec<Socket> {
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
    let processes = processes();
    let waits = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let found = tcp
        .chain(udp)
        .filter(|(_, address, _)| waits(address) && !is_ephemeral(address));
    let mut sockets: BTreeMap<Listener, (BTreeSet<IpAddr>, Option<Owner>)> = BTreeMap::new();
    for (protocol, address, inode) in found {
        let process = processes.get(&inode);
        let listener = Listener {
            protocol,
            port: address.port(),
            process: process.map(|(_, name)| name.clone()),
        };
        let (addresses, owner) = sockets.entry(listener).or_default();
        addresses.insert(address.ip().to_canonical());
        if owner.is_none() {
            *owner = process.and_then(|(pid, _)| owner_of(*pid));
        }
    }
    let socket = |(listener, (addresses, owner))| Socket {
        listener,
        addresses,
        owner,
    };
    sockets.into_iter().map(socket).collect()
}

/// Returns the unit, container or pod of a process.
fn owner_of(pid: i32) -> Option<Owner> {
    let groups = Process::new(pid).ok()?.cgroups().ok()?;
    groups.into_iter().find_map(|group| owner(&group.pathname))
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

/// Returns ids and names of processes by the inodes of their sockets.
fn processes() -> BTreeMap<u64, (i32, String)> {
    let mut found = BTreeMap::new();
    let all = procfs::process::all_processes().into_iter().flatten();
    for process in all.flatten() {
        let (Ok(stat), Ok(fds)) = (process.stat(), process.fd()) else {
            continue;
        };
        for fd in fds.flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                let known = found.entry(inode);
                known.or_insert_with(|| (process.pid, stat.comm.clone()));
            }
        }
    }
    found
}
