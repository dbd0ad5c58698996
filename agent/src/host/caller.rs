//! The caller of a command: its ssh connection and its terminal.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use procfs::ProcResult;
use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};
use serde::{Deserialize, Serialize};

use crate::host::ssh_server;

/// Name prefixes of ssh server processes (`sshd-session` since OpenSSH 9.8).
const SERVERS: [&str; 3] = ["sshd", "dropbear", "tinysshd"];
/// Major numbers of pseudo-terminals (`Documentation/admin-guide/devices.txt`).
const PTS_MAJORS: std::ops::RangeInclusive<i32> = 136..=143;

/// The ssh connection and the terminal of a caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The ssh connection.
    pub ssh: Option<Ssh>,
    /// Number of the controlling terminal (`tty_nr` in `/proc/PID/stat`).
    pub terminal: Option<i32>,
    /// Possible connections of a caller at a pseudo-terminal whose own is unknown.
    #[serde(default)]
    pub maybe: Vec<Ssh>,
}

/// An ssh connection in the format of `SSH_CONNECTION` (ssh(1)): address and port of the client,
/// then of the server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ssh {
    /// Address of the client.
    pub client: IpAddr,
    /// Port of the client.
    pub client_port: u16,
    /// Address of the server.
    pub server: IpAddr,
    /// Port of the server.
    pub server_port: u16,
    /// Interface of link-local addresses, if known.
    pub scope: Option<String>,
}

impl Ssh {
    /// Returns the address and port of the server's socket.
    pub fn server_end(&self) -> SocketAddr {
        SocketAddr::new(self.server, self.server_port)
    }

    /// Returns the address and port of the client.
    pub fn client_end(&self) -> SocketAddr {
        SocketAddr::new(self.client, self.client_port)
    }
}

/// Error of a text that is not an `SSH_CONNECTION`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an SSH_CONNECTION")]
pub struct ParseSshError(String);

impl FromStr for Ssh {
    type Err = ParseSshError;

    fn from_str(text: &str) -> Result<Self, ParseSshError> {
        let read = || {
            let words: Vec<&str> = text.split_whitespace().collect();
            let [client, client_port, server, server_port] = words[..] else {
                return None;
            };
            // Link-local addresses have a zone.
            let address = |text: &str| -> Option<IpAddr> {
                let plain = text.split('%').next().unwrap_or_default();
                Some(plain.parse::<IpAddr>().ok()?.to_canonical())
            };
            let scope = server.split_once('%').map(|(_, scope)| scope.to_owned());
            Some(Self {
                scope,
                client: address(client)?,
                client_port: client_port.parse().ok()?,
                server: address(server)?,
                server_port: server_port.parse().ok()?,
            })
        };
        read().ok_or_else(|| ParseSshError(text.to_owned()))
    }
}

impl TryFrom<String> for Ssh {
    type Error = ParseSshError;

    fn try_from(text: String) -> Result<Self, ParseSshError> {
        text.parse()
    }
}

impl From<Ssh> for String {
    fn from(ssh: Ssh) -> Self {
        ssh.to_string()
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = self.scope.as_ref().map(|scope| format!("%{scope}"));
        let scope = scope.unwrap_or_default();
        write!(
            f,
            "{}{scope} {} {}{scope} {}",
            self.client, self.client_port, self.server, self.server_port
        )
    }
}

impl Caller {
    /// Finds the caller of this process. sudo removes `SSH_CONNECTION`, so the environments of the
    /// parent processes are read, too. If none has the variable, the kernel's connection table is
    /// searched for a connection of the ssh server above this process, or, within screen or tmux,
    /// of any ssh server.
    pub fn here() -> Self {
        let line = ancestors();
        let terminal = line
            .first()
            .and_then(|me| me.stat().ok())
            .map(|stat| stat.tty_nr)
            .filter(|terminal| *terminal != 0);
        let of = |process: &Process| {
            let environment = process.environ().ok()?;
            let text = environment.get(OsStr::new("SSH_CONNECTION"))?;
            text.to_str()?.parse().ok()
        };
        let told = line.iter().find_map(of);
        let ssh = told.or_else(|| {
            line.iter()
                .filter(|p| is_server(p))
                .find_map(|p| connections(p).pop())
        });
        let is_pseudo =
            terminal.is_some_and(|terminal| PTS_MAJORS.contains(&(terminal >> 8 & 0xfff)));
        let maybe = match ssh.is_none() && is_pseudo {
            true => everybodys(),
            false => Vec::new(),
        };
        Self {
            ssh,
            terminal,
            maybe,
        }
    }

    /// Returns all ssh sessions of this host as possible callers, for a process without a caller.
    pub fn anybody() -> Self {
        Self {
            maybe: everybodys(),
            ..Self::default()
        }
    }

    /// Whether a call by `self` proves no more than the first call.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_known = self.ssh.is_some() || self.terminal.is_some();
        is_known && self.ssh == other.ssh && self.terminal == other.terminal
    }
}

/// This process and its ancestors, the nearest first.
fn ancestors() -> Vec<Process> {
    let mut line: Vec<Process> = Process::myself().into_iter().collect();
    while let Some(parent) = line
        .last()
        .and_then(|last| last.stat().ok())
        .map(|stat| stat.ppid)
        && parent > 1
        && let Ok(parent) = Process::new(parent)
    {
        line.push(parent);
    }
    line
}

fn is_server(process: &Process) -> bool {
    let stat = process.stat();
    stat.is_ok_and(|stat| SERVERS.iter().any(|name| stat.comm.starts_with(name)))
}

/// Connections to the ssh servers of this host; only those of logged-in users, if they are known.
fn everybodys() -> Vec<Ssh> {
    let all = procfs::process::all_processes()
        .into_iter()
        .flatten()
        .flatten();
    let mut found: BTreeSet<Ssh> = all
        .filter(is_server)
        .flat_map(|server| connections(&server))
        .collect();
    let ports = ssh_server::ports();
    let by_port = established(|entry| ports.contains(&entry.local_address.port()));
    found.extend(by_port.unwrap_or_default());
    if let Some(logged_in) = ssh_server::logged_in() {
        found.retain(|ssh| logged_in.contains(&ssh.client));
    }
    found.into_iter().collect()
}

/// Established connections of a process, in this network namespace.
fn connections(process: &Process) -> Vec<Ssh> {
    let read = || -> ProcResult<Vec<Ssh>> {
        let mut sockets = BTreeSet::new();
        for fd in process.fd()?.flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                sockets.insert(inode);
            }
        }
        established(|entry| sockets.contains(&entry.inode))
    };
    read().unwrap_or_default()
}

/// Established connections of this network namespace that `which` selects.
fn established(which: impl Fn(&TcpNetEntry) -> bool) -> ProcResult<Vec<Ssh>> {
    // The file is missing in a kernel without IPv6.
    let me = Process::myself()?;
    let table = me.tcp()?.into_iter().chain(me.tcp6().unwrap_or_default());
    let own = table.filter(|entry| entry.state == TcpState::Established && which(entry));
    Ok(own
        .map(|entry| Ssh {
            client: entry.remote_address.ip().to_canonical(),
            client_port: entry.remote_address.port(),
            server: entry.local_address.ip().to_canonical(),
            server_port: entry.local_address.port(),
            scope: None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_leaves_in_the_environment_is_read() {
        let read = |text: &str| text.parse::<Ssh>();
        let ssh = read("192.0.2.7 50022 192.0.2.1 22").unwrap();
        assert_eq!((ssh.client_port, ssh.server_port), (50022, 22));
        assert_eq!(read(&ssh.to_string()), Ok(ssh));
        let ssh = read("fe80::1%eth0 50022 fe80::2%eth0 22").unwrap();
        assert!(ssh.client.is_ipv6() && ssh.scope.as_deref() == Some("eth0"));
        assert_eq!(read(&ssh.to_string()), Ok(ssh));
        assert!(
            read("::ffff:192.0.2.7 50022 ::ffff:192.0.2.1 22")
                .is_ok_and(|ssh| ssh.client.is_ipv4())
        );
        for text in ["", "192.0.2.7", "a b c d", "192.0.2.7 1 192.0.2.1 99999"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_same_connection_proves_nothing() {
        let from = |ssh: Option<&str>, terminal| Caller {
            ssh: ssh.map(|text| text.parse().unwrap()),
            terminal,
            maybe: Vec::new(),
        };
        let first = from(Some("192.0.2.1 4000 192.0.2.2 22"), Some(34816));
        assert!(first.is_same(&first));
        assert!(!first.is_same(&from(Some("192.0.2.1 4001 192.0.2.2 22"), Some(34817))));
        assert!(
            !from(None, None).is_same(&from(None, None)),
            "a script has neither"
        );
    }
}
