//! Requests about one interface, route or socket.

use std::net::IpAddr;

use peerwall_proto::rtnetlink::link::{self, Link};
use peerwall_proto::rtnetlink::route_lookup::{self, Ask};
use peerwall_proto::sock_diag;

use super::{NetlinkError, Socket};

impl Socket {
    /// The interface of this name; `None` if there is none.
    ///
    /// # Errors
    /// [`NetlinkError`] if that cannot be told.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let seq = self.take_seq(0);
        let Ok(request) = link::get(name, seq) else {
            return Ok(None);
        };
        self.send(&request)?;
        match self.answer(seq, link::decode) {
            Err(NetlinkError::Answer(ack)) if ack.errno == libc::ENODEV => Ok(None),
            answer => answer,
        }
    }

    /// Ends a socket that was listed; whether it was still there.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel will not.
    pub fn destroy(&mut self, socket: &sock_diag::Socket) -> Result<bool, NetlinkError> {
        let seq = self.take_seq(0);
        self.send(&sock_diag::destroy(socket, seq))?;
        match self.wait_for_ack(seq) {
            Ok(()) => Ok(true),
            // Its addresses may be those of another socket now, which has another cookie.
            Err(err) if matches!(err.errno(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Indices of the interfaces that the route to an address leaves by; none if there is no route.
    ///
    /// # Errors
    /// [`NetlinkError`] if it cannot be read.
    pub fn route(
        &mut self,
        to: IpAddr,
        from: Option<IpAddr>,
        ask: Ask,
    ) -> Result<Vec<u32>, NetlinkError> {
        let seq = self.take_seq(0);
        let Ok(request) = route_lookup::get(to, from, ask, seq) else {
            return Ok(Vec::new());
        };
        self.send(&request)?;
        match self.answer(seq, route_lookup::decode) {
            // Unreachable, prohibited, or an address that is not this host's (any more).
            Err(NetlinkError::Answer(_)) => Ok(Vec::new()),
            answer => answer,
        }
    }
}
