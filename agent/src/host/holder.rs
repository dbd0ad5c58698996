//! Finds the process that has a netlink socket.

use std::fmt;
use std::fs;

use procfs::process::{FDTarget, Process};

use super::names;

/// Sockets of this network namespace: `netlink_native_seq_show()` in `net/netlink/af_netlink.c`.
const SOCKETS: &str = "/proc/thread-self/net/netlink";
/// `NETLINK_NETFILTER`
const NETLINK_NETFILTER: &str = "12";

/// A process that has a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: i32,
    /// Name; `None` if it cannot be read.
    pub name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (pid {})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// Returns the process with the socket to netfilter of this port; `None` if it is not known.
pub fn of_netfilter_port(port: u32) -> Option<Holder> {
    let inode = inode_of(&fs::read_to_string(SOCKETS).ok()?, port);
    inode.and_then(of_inode).or_else(|| of_pid(port))
}

/// Returns the process whose id is the port, as is that of its first socket.
fn of_pid(port: u32) -> Option<Holder> {
    let pid = i32::try_from(port).ok().filter(|pid| *pid > 0)?;
    let stat = Process::new(pid).ok()?.stat().ok();
    Some(Holder {
        pid,
        name: stat.map(|stat| names::process(stat.comm.as_bytes())),
    })
}

/// Returns the process with a socket. Without the right to look into other processes, none.
fn of_inode(inode: u64) -> Option<Holder> {
    let all = procfs::process::all_processes().into_iter().flatten();
    let mut all = all.flatten();
    let process = all.find(|process| {
        let fds = process.fd().into_iter().flatten().flatten();
        fds.into_iter()
            .any(|fd| matches!(fd.target, FDTarget::Socket(found) if found == inode))
    })?;
    let stat = process.stat().ok();
    Some(Holder {
        pid: process.pid,
        name: stat.map(|stat| names::process(stat.comm.as_bytes())),
    })
}

fn inode_of(sockets: &str, port: u32) -> Option<u64> {
    let port = port.to_string();
    let is_it = |fields: &Vec<&str>| fields.get(1..3) == Some(&[NETLINK_NETFILTER, &port]);
    let mut lines = sockets
        .lines()
        .map(|line| line.split_whitespace().collect());
    lines.find(is_it)?.last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_protocol_and_port() {
        let sockets = "sk               Eth Pid        Groups   Rmem Wmem Dump  Locks    Drops    Inode\n\
            0000000000000000 0   2907       00000111 0    0    0     2        0        11\n\
            0000000000000000 12  2907       00000000 0    0    0     2        0        23\n";
        assert_eq!(inode_of(sockets, 2907), Some(23));
        assert_eq!(inode_of(sockets, 1), None);
        let holder = |name: Option<&str>| Holder {
            pid: 7,
            name: name.map(str::to_owned),
        };
        assert_eq!(holder(Some("ulogd")).to_string(), "ulogd (pid 7)");
        assert_eq!(holder(None).to_string(), "process 7");
    }
}
