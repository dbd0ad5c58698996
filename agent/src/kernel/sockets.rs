//! Sockets of this host, by sock_diag: those that have another side, and the end of one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use peerwall_core::net::port::{TCP, UDP};
use peerwall_proto::sock_diag::{self, FAMILIES};

use crate::kernel::netlink::{NetlinkError, Socket};

/// Ports that the kernel gives to sockets that connect (ip_local_port_range).
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The same where it cannot be read.
const PORTS: (u16, u16) = (32_768, 60_999);

/// Which side opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// This host.
    Here,
    /// The other side.
    There,
    /// Not known: it is neither ended nor made known to conntrack.
    Unknown,
}

/// Sockets of this network namespace that have another side.
pub struct Sockets {
    /// To sock_diag; `None` if it cannot be used.
    socket: Option<Socket>,
    /// Why they could not be listed.
    pub trouble: Option<String>,
    /// By protocol, own and other address.
    connected: BTreeMap<(u8, SocketAddr, SocketAddr), sock_diag::Socket>,
    /// Ports that somebody listens on, by protocol.
    listening: BTreeSet<(u8, u16)>,
    ports: (u16, u16),
}

impl Sockets {
    /// Lists them. Where that fails, none is found, and [`trouble`](Self::trouble) says why.
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
                    // A kernel without udp_diag, or without IPv6.
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

    /// Those that the other side can still send to.
    pub fn open(&self) -> impl Iterator<Item = &sock_diag::Socket> {
        self.connected.values().filter(|socket| socket.is_open())
    }

    /// Which side opened the connection of a socket.
    pub fn opened(&self, socket: &sock_diag::Socket) -> Opened {
        let port = socket.local.port();
        let is_listening = self.listening.contains(&(socket.protocol, port));
        let (first, last) = self.ports;
        match (socket.opened_here(), is_listening) {
            (Some(false), _) | (None, true) => Opened::There,
            (Some(true), false) => Opened::Here,
            (None, false) if (first..=last).contains(&port) => Opened::Here,
            (Some(true), true) | (None, false) => Opened::Unknown,
        }
    }

    /// Ends the socket between these two, if there is one; whether there was. Never a listener: only a socket
    /// with exactly these ends has another side, and it is named by its cookie.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel will not.
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
