//! Requests about one interface, route or socket, and small transactions.

use std::net::IpAddr;

use peerwall_proto::netlink::attr::TooLong;
use peerwall_proto::nf_tables::batch::Batch;
use peerwall_proto::rtnetlink::link::{self, Link};
use peerwall_proto::rtnetlink::route_lookup::{self, Ask};
use peerwall_proto::sock_diag;

use super::{NetlinkError, Socket};

/// Every text of such a request is short.
fn too_long(why: TooLong) -> NetlinkError {
    NetlinkError::Io {
        doing: "build a request",
        source: std::io::Error::other(why),
    }
}

impl Socket {
    /// Returns the interface of this name; `None` if it does not exist.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel cannot be read.
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

    /// Returns the hardware type of an interface (`ARPHRD_*`); `None` if it does not exist.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel cannot be read.
    pub fn hardware(&mut self, name: &str) -> Result<Option<u16>, NetlinkError> {
        let seq = self.take_seq(0);
        let Ok(request) = link::get(name, seq) else {
            return Ok(None);
        };
        self.send(&request)?;
        match self.answer(seq, |raw| Ok(link::hardware(raw))) {
            Err(NetlinkError::Answer(ack)) if ack.errno == libc::ENODEV => Ok(None),
            answer => answer,
        }
    }

    /// Returns the kind of the route to an address (`RTN_*`); `None` if the kernel has no route, or
    /// refuses packets to it.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel cannot be read.
    pub fn route_kind(&mut self, to: IpAddr) -> Result<Option<u8>, NetlinkError> {
        let seq = self.take_seq(0);
        let Ok(request) = route_lookup::get(to, None, Ask::Way, seq) else {
            return Ok(None);
        };
        self.send(&request)?;
        match self.answer(seq, route_lookup::decode_kind) {
            Err(NetlinkError::Answer(_)) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Ends a listed socket. Returns whether it still existed.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel refuses it.
    pub fn destroy(&mut self, socket: &sock_diag::Socket) -> Result<bool, NetlinkError> {
        let seq = self.take_seq(0);
        self.send(&sock_diag::destroy(socket, seq))?;
        match self.wait_for_ack(seq) {
            Ok(()) => Ok(true),
            // Another socket may have its addresses now, with another cookie.
            Err(err) if matches!(err.errno(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Sends a request that needs no other answer than an ack, by the sequence number that `build`
    /// gets.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel refuses it.
    pub fn change(
        &mut self,
        build: impl FnOnce(u32) -> Result<Vec<u8>, TooLong>,
    ) -> Result<(), NetlinkError> {
        let seq = self.take_seq(0);
        self.send(&build(seq).map_err(too_long)?)?;
        self.wait_for_ack(seq)
    }

    /// Commits a batch that depends on no generation.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] with the first refusal; then nothing was changed.
    pub fn commit(&mut self, batch: Result<Batch<()>, TooLong>) -> Result<(), NetlinkError> {
        let batch = batch.map_err(too_long)?;
        let seq = self.take_seq(batch.len() + 2);
        let encoded = batch.commit(seq, None);
        self.send(&encoded.bytes)?;
        let refused = self.drain_acks()?.into_iter().find(|ack| ack.errno != 0);
        refused.map_or(Ok(()), |ack| Err(NetlinkError::Answer(ack)))
    }

    /// Returns the interface indices of the route to an address; none without a route.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel cannot be read.
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
            // Unreachable, prohibited, or no longer an address of this host.
            Err(NetlinkError::Answer(_)) => Ok(Vec::new()),
            answer => answer,
        }
    }
}
