//! Packets made by hand and put on a wire, forged ones too.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use etherparse::{
    Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    PacketBuilderStep,
};

/// What an Ethernet frame is made of.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Who it says it is from.
    pub source_mac: [u8; 6],
    /// Who it is for.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What is in it.
    pub body: Body,
}

/// What is behind the IP header.
#[derive(Debug, Clone)]
pub enum Body {
    /// TCP without payload.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Which flags are set.
        flags: TcpFlags,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Payload.
        payload: Vec<u8>,
    },
    /// ICMP or ICMPv6, as the family has it.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
        /// Payload.
        payload: Vec<u8>,
    },
    /// Anything else.
    Other {
        /// Protocol number.
        protocol: u8,
        /// Payload.
        payload: Vec<u8>,
    },
}

/// Flags of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpFlags {
    /// Opens a connection.
    Syn,
    /// In the middle of one.
    Ack,
    /// Makes no sense in any state; conntrack calls it invalid.
    SynRst,
}

impl Frame {
    /// The frame as bytes.
    ///
    /// # Panics
    /// If source and destination are of different families, or the body is over 64 KiB.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let ip = self.ip(ethernet);
        let v6 = self.source.is_ipv6();
        match &self.body {
            Body::Tcp {
                source,
                destination,
                flags,
            } => {
                let tcp = ip.tcp(*source, *destination, 1, 1024);
                let tcp = match flags {
                    TcpFlags::Syn => tcp.syn(),
                    TcpFlags::Ack => tcp.ack(1),
                    TcpFlags::SynRst => tcp.syn().rst(),
                };
                tcp.write(&mut out, &[])
            }
            Body::Udp {
                source,
                destination,
                payload,
            } => ip.udp(*source, *destination).write(&mut out, payload),
            Body::Icmp {
                kind,
                code,
                rest,
                payload,
            } => match v6 {
                true => ip.icmpv6_raw(*kind, *code, *rest).write(&mut out, payload),
                false => ip.icmpv4_raw(*kind, *code, *rest).write(&mut out, payload),
            },
            Body::Other { protocol, payload } => ip.write(&mut out, IpNumber(*protocol), payload),
        }
        .expect("writing to a vector, and all bodies are short");
        out
    }

    fn ip(&self, ethernet: PacketBuilderStep<Ethernet2Header>) -> PacketBuilderStep<IpHeaders> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header::new(
                    0,
                    self.hop_limit,
                    IpNumber(0),
                    source.octets(),
                    destination.octets(),
                )
                .expect("no payload is not too long");
                ethernet.ip(IpHeaders::Ipv4(header, Default::default()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ip(IpHeaders::Ipv6(
                Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber(0),
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                },
                Default::default(),
            )),
            _ => panic!(
                "{} and {} are of different families",
                self.source, self.destination
            ),
        }
    }

    /// Only the IP packet, to be put into something else.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes).
    pub fn ip_bytes(&self) -> Vec<u8> {
        self.bytes().split_off(14)
    }

    /// This frame wrapped into VXLAN (RFC 7348): a UDP payload.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes).
    pub fn in_vxlan(&self, vni: u8) -> Vec<u8> {
        let mut out = vec![0x08, 0, 0, 0, 0, 0, vni, 0];
        out.extend(self.bytes());
        out
    }
}

/// Puts bytes on a wire of the namespace that the calling thread is in.
///
/// # Errors
/// What the operating system says.
pub fn send(interface: &str, frame: &[u8]) -> io::Result<()> {
    Sender::open(interface)?.send(frame)
}

/// A socket that puts frames on a wire.
pub struct Sender {
    socket: OwnedFd,
    to: libc::sockaddr_ll,
}

impl Sender {
    /// Opens one for an interface of the namespace that the calling thread is in.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(interface: &str) -> io::Result<Self> {
        // SAFETY: a plain call; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = CString::new(interface)?;
        // SAFETY: `name` is a NUL-terminated string that lives across the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::other(format!(
                "there is no interface {interface}"
            )));
        }
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET.unsigned_abs() as u16;
        to.sll_ifindex = index.cast_signed();
        Ok(Self { socket, to })
    }

    /// Puts bytes on the wire.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: `frame` and `to` live across the call and their lengths are right.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) if sent == frame.len() => Ok(()),
            Ok(sent) => Err(io::Error::other(format!("only {sent} bytes were sent"))),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}
