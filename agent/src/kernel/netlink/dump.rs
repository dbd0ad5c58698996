//! Dumps: requests that the kernel answers with a list.

use peerwall_proto::netlink::ack;
use peerwall_proto::netlink::attr::DecodeError;
use peerwall_proto::netlink::message::{
    Datagram, Message, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_OVERRUN, RawMessage,
};
use peerwall_proto::rtnetlink::List;
use peerwall_proto::sock_diag;

use super::{NetlinkError, Socket};

/// Maximum number of attempts at a dump that changes interrupt.
const DUMP_TRIES: u32 = 50;
/// Maximum number of attempts at a dump of rtnetlink: a router's table may be long and change all
/// the time.
const LIST_TRIES: u32 = 10;

/// How to treat a dump that a change interrupted (`NLM_F_DUMP_INTR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Repeat it, up to this number of attempts in all.
    Again(u32),
    /// Accept it: the caller detects changes in another way.
    Ignored,
}

/// Result of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Complete and consistent.
    Whole,
    /// Complete, but something changed meanwhile.
    Disturbed,
    /// Incomplete.
    Broken,
}

impl Socket {
    /// Lists the objects of one kind in rtnetlink that `read` returns.
    ///
    /// # Errors
    /// [`NetlinkError::Disturbed`] if changes interrupted every attempt.
    pub fn list<T>(
        &mut self,
        list: List,
        read: impl Fn(&RawMessage<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..LIST_TRIES {
            let seq = self.take_seq(0);
            self.send(&list.request(seq))?;
            let mut found = Vec::new();
            let mut each = |raw: &RawMessage<'_>| {
                found.extend(read(raw)?);
                Ok(())
            };
            if self.dump_once(seq, &mut each)? == Came::Whole {
                return Ok(found);
            }
        }
        Err(NetlinkError::Disturbed)
    }

    /// Sends a dump request and passes every message to `each`. Calls `restart` before each
    /// attempt, and starts again when a change interrupted the dump.
    ///
    /// # Errors
    /// [`NetlinkError`]; the messages that `each` received by then are incomplete.
    pub fn dump<S>(
        &mut self,
        request: &Message,
        state: &mut S,
        restart: impl Fn(&mut S),
        each: impl FnMut(&mut S, Message) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.dump_with(
            Disturbance::Again(DUMP_TRIES),
            request,
            state,
            restart,
            each,
        )
    }

    /// Like [`Self::dump`], with a choice of what happens when a change interrupted the dump.
    ///
    /// # Errors
    /// [`NetlinkError`]; the messages that `each` received by then are incomplete.
    pub fn dump_with<S>(
        &mut self,
        disturbance: Disturbance,
        request: &Message,
        state: &mut S,
        restart: impl Fn(&mut S),
        mut each: impl FnMut(&mut S, Message) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let (tries, is_ignored) = match disturbance {
            Disturbance::Again(tries) => (tries, false),
            Disturbance::Ignored => (1, true),
        };
        for _ in 0..tries {
            restart(state);
            let seq = self.request(request.clone())?;
            let mut each = |raw: &RawMessage<'_>| each(state, raw.nfnetlink()?);
            match self.dump_once(seq, &mut each)? {
                Came::Whole => return Ok(()),
                Came::Disturbed if is_ignored => return Ok(()),
                Came::Disturbed | Came::Broken => {}
            }
        }
        Err(NetlinkError::Disturbed)
    }

    /// Lists this host's sockets of a family and a protocol. The kernel does not tell whether any
    /// changed meanwhile.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] with ENOENT if the kernel cannot list this protocol.
    pub fn sockets(
        &mut self,
        family: u8,
        protocol: u8,
    ) -> Result<Vec<sock_diag::Socket>, NetlinkError> {
        let seq = self.take_seq(0);
        self.send(&sock_diag::dump(family, protocol, seq))?;
        let mut found = Vec::new();
        self.dump_once(seq, &mut |raw| {
            found.push(sock_diag::decode(raw, protocol)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// How the dump came.
    fn dump_once(
        &mut self,
        seq: u32,
        each: &mut impl FnMut(&RawMessage<'_>) -> Result<(), NetlinkError>,
    ) -> Result<Came, NetlinkError> {
        let mut came = Came::Whole;
        loop {
            let bytes = self.receive(true)?.unwrap_or_default();
            for raw in Datagram::new(bytes) {
                let raw: RawMessage<'_> = raw?;
                if raw.seq != seq {
                    continue;
                }
                if raw.flags & NLM_F_DUMP_INTR != 0 {
                    came = Came::Disturbed;
                }
                match ack::decode(&raw)? {
                    // NLMSG_DONE carries an errno too: an interrupted dump is not a short dump.
                    Some(ack) if ack.errno == libc::EINTR => return Ok(Came::Broken),
                    Some(ack) if ack.errno != 0 => return Err(NetlinkError::Answer(ack)),
                    Some(_) if raw.kind == NLMSG_DONE => return Ok(came),
                    Some(_) => {}
                    None if raw.kind == NLMSG_OVERRUN => return Err(NetlinkError::Lost),
                    None => each(&raw)?,
                }
            }
        }
    }
}
