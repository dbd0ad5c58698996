//! Connected sockets of this host, over sock_diag: lists them and ends one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use peerwall_core::net::port::{TCP, UDP};
use peerwall_proto::sock_diag::{self, FAMILIES};

use crate::kernel::netlink::{NetlinkError, Socket};

/// Ephemeral ports (sysctl `net.ipv4.ip_local_port_range`).
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Default of the kernel, if the sysctl is not readable.
const PORTS: (u16, u16) = (32_768, 60_999);

/// Initiator of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initiator {
    /// This host.
    Here,
    /// The peer.
    There,
    /// Unknown: the connection is neither ended nor added to conntrack.
    Unknown,
}

/// Connected sockets of this network namespace.
pub struct Sockets {
    /// Socket to sock_diag; `None` if it is not available.
    socket: Option<Socket>,
    /// Why the sockets could not be listed.
    pub trouble: Option<String>,
    /// Sockets by protocol, local and remote address.
    connected: BTreeMap<(u8, SocketAddr, SocketAddr), sock_diag::Socket>,
    /// Listening ports, by protocol.
    listening: BTreeSet<(u8, u16)>,
    ports: (u16, u16),
}

impl Sockets {
    /// Lists the sockets. On an error the list is empty, and [`trouble`](Self::trouble) has the
    /// reason.
    pub fn list() -> Self {
        let mut found = Self {
            socket: None,
            trouble: None,
            connected: BTreeMap::new(),
            listening: BTreeSet::new(),
            ports: local_ports(),
        };
        if let Err(err) = found.read() {
            found.trouble = Some(format!("sockets of this host cannot be listed: {err}"));
        }
        found
    }

    fn read(&mut self) -> Result<(), NetlinkError> {
        let mut socket = Socket::open_diag()?;
        for protocol in [TCP, UDP] {
            for family in FAMILIES {
                match socket.sockets(family, protocol) {
                    Ok(list) => list.into_iter().for_each(|each| self.add(each)),
                    // The kernel has no udp_diag, or no IPv6.
                    Err(err) if err.errno() == Some(libc::ENOENT) => {}
                    Err(err) => return Err(err),
                }
            }
        }
        self.socket = Some(socket);
        Ok(())
    }

    fn add(&mut self, socket: sock_diag::Socket) {
        if socket.is_listening() {
            self.listening
                .insert((socket.protocol, socket.local.port()));
        } else if socket.is_connected() && sock_diag::is_somebody(socket.remote) {
            let ends = (socket.protocol, socket.local, socket.remote);
            self.connected.insert(ends, socket);
        }
    }

    /// Returns the sockets to which the peer can still send.
    pub fn open(&self) -> impl Iterator<Item = &sock_diag::Socket> {
        self.connected.values().filter(|socket| socket.is_open())
    }

    /// Returns the initiator of a socket's connection.
    pub fn opened(&self, socket: &sock_diag::Socket) -> Initiator {
        let port = socket.local.port();
        let is_listening = self.listening.contains(&(socket.protocol, port));
        let (first, last) = self.ports;
        match (socket.opened_here(), is_listening) {
            (Some(false), _) | (None, true) => Initiator::There,
            (Some(true), false) => Initiator::Here,
            (None, false) if (first..=last).contains(&port) => Initiator::Here,
            (Some(true), true) | (None, false) => Initiator::Unknown,
        }
    }

    /// Ends the socket between two addresses. Returns whether it existed. Never ends a listener:
    /// only a connected socket has both addresses, and its cookie identifies it.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel refuses it.
    pub fn end(
        &mut self,
        protocol: u8,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<bool, NetlinkError> {
        match (
            self.connected.remove(&(protocol, local, remote)),
            &mut self.socket,
        ) {
            (Some(found), Some(socket)) => socket.destroy(&found),
            (None, _) | (_, None) => Ok(false),
        }
    }
}

fn local_ports() -> (u16, u16) {
    let text = std::fs::read_to_string(PORT_RANGE).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => PORTS,
    }
}
