//! The namespaces of a test: the host, and the far ends of its wires.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, setns, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket,
};
use nix::unistd::Pid;
use peerwall_core::testing::{HOST_MAC, SENDER_MAC};
use peerwall_proto::rtnetlink::change::{self, Edit, End, To};

use super::LabError;
use crate::kernel::netlink::{NetlinkError, Socket, set_option};

/// The namespace of the calling thread.
const THIS: &str = "/proc/thread-self/ns/net";
/// Index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// `PACKET_QDISC_BYPASS`
const PACKET_QDISC_BYPASS: libc::c_int = 20;
/// Name of the interface of the default route.
const DEFAULT: &str = "pw-default";
/// Addresses of the host: the dummy address of IPv4 (RFC 7600), and one for documentation.
const ADDRESSES: [&str; 2] = ["192.0.0.8", "2001:db8:ffff:ffff::8"];
/// Settings of the namespace with the far ends: it must not send or answer anything.
const FAR_SETTINGS: &[(&str, &str)] = &[
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv6/conf/all/disable_ipv6", "1"),
];
/// Settings of the host: it forwards, accepts packets from everywhere, answers without a limit, and
/// sends nothing on its own.
const HOST_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // A frame on lo has no route yet; 127.0.0.1 would be dropped before every hook.
    ("ipv4/conf/lo/route_localnet", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/icmp/ratemask", ""),
];

/// A wire: an interface of the host, and where its far end is.
struct Wire {
    index: u32,
    far: LinkAddr,
}

/// The host with its wires. The calling thread is in its namespace.
pub(super) struct Wires {
    /// Namespace of the far ends.
    far: File,
    /// Namespace of the host.
    here: File,
    far_route: Socket,
    /// Sends from the far ends.
    sender: OwnedFd,
    /// Sends on `lo`.
    own_sender: OwnedFd,
    route: Socket,
    wires: BTreeMap<String, Wire>,
    own: LinkAddr,
    /// Whether the kernel has IPv6.
    pub(super) has_v6: bool,
}

/// A route of the host to one address.
pub(super) enum HostRoute<'n> {
    /// The address is the host's own, for packets that arrive on an interface.
    Own(IpAddr, &'n str),
    /// The address is behind an interface.
    Through(IpAddr, &'n str),
}

fn at(doing: &'static str) -> impl Fn(NetlinkError) -> LabError {
    move |source| LabError::Netlink { doing, source }
}

fn io(err: impl Into<io::Error>) -> LabError {
    LabError::Send(err.into())
}

fn namespace(err: impl Into<io::Error>) -> LabError {
    LabError::Namespace(err.into())
}

impl Wires {
    /// Creates the namespaces and moves the calling thread into that of the host.
    ///
    /// # Errors
    /// [`LabError`] if the system does not permit it.
    pub(super) fn new() -> Result<Self, LabError> {
        keep_order();
        unshare(CloneFlags::CLONE_NEWNET).map_err(namespace)?;
        set(FAR_SETTINGS)?;
        let sender = packet_socket()?;
        // The queue of an interface is only there some time after its carrier.
        let fd = sender.as_raw_fd();
        set_option(fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1).map_err(io)?;
        let far = File::open(THIS).map_err(namespace)?;
        let far_route = Socket::open_route().map_err(at("open a socket"))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(namespace)?;
        set(HOST_SETTINGS)?;
        let here = File::open(THIS).map_err(namespace)?;
        let mut route = Socket::open_route().map_err(at("open a socket"))?;
        let up = route.change(|seq| Ok(change::up(LOOPBACK, seq)));
        up.map_err(at("bring up lo"))?;
        let mut wires = Self {
            far,
            here,
            far_route,
            sender,
            own_sender: packet_socket()?,
            route,
            wires: BTreeMap::new(),
            own: link_address("lo")?,
            has_v6: Path::new("/proc/sys/net/ipv6").exists(),
        };
        wires.furnish()?;
        Ok(wires)
    }

    /// Gives the host addresses for its answers, and a default route for them.
    fn furnish(&mut self) -> Result<(), LabError> {
        let index = self.add(DEFAULT)?;
        for text in ADDRESSES {
            let address: IpAddr = text.parse().expect("a constant address");
            if address.is_ipv6() && !self.has_v6 {
                continue;
            }
            let added = self
                .route
                .change(|seq| change::address(address, LOOPBACK, seq));
            added.map_err(at("add an address"))?;
            let to = To::Default(address);
            let added = self
                .route
                .change(|seq| change::route(Edit::Add, to, index, seq));
            added.map_err(at("add a route"))?;
        }
        Ok(())
    }

    /// Reports whether an address is one of the host's own in every test.
    pub(super) fn is_own(address: IpAddr) -> bool {
        ADDRESSES.iter().any(|own| own.parse() == Ok(address))
    }

    /// Gives the host an interface of this name, unless it has one, and returns its index.
    ///
    /// # Errors
    /// [`LabError`] if the kernel refuses the name.
    pub(super) fn add(&mut self, name: &str) -> Result<u32, LabError> {
        if name == "lo" {
            return Ok(LOOPBACK);
        }
        if let Some(wire) = self.wires.get(name) {
            return Ok(wire.index);
        }
        let far_name = format!("f{}", self.wires.len());
        let near = End {
            name,
            mac: HOST_MAC,
        };
        let end = End {
            name: &far_name,
            mac: SENDER_MAC,
        };
        let peer = self.far.as_raw_fd().unsigned_abs();
        let created = self.route.change(|seq| change::veth(near, end, peer, seq));
        created.map_err(at("create an interface"))?;
        let index = if_nametoindex(name).map_err(io)?;
        setns(&self.far, CloneFlags::CLONE_NEWNET).map_err(namespace)?;
        let address = link_address(&far_name);
        setns(&self.here, CloneFlags::CLONE_NEWNET).map_err(namespace)?;
        let far = address?;
        let far_index = u32::try_from(far.ifindex()).unwrap_or(u32::MAX);
        // The host's end comes last: it has a carrier at once, and with it the routes of IPv6 for
        // groups, which the kernel would add later when the carrier comes later.
        let up = self.far_route.change(|seq| Ok(change::up(far_index, seq)));
        up.map_err(at("bring up an interface"))?;
        let up = self.route.change(|seq| Ok(change::up(index, seq)));
        up.map_err(at("bring up an interface"))?;
        let wire = Wire { index, far };
        self.wires.insert(name.to_owned(), wire);
        Ok(index)
    }

    /// Adds or deletes a route to one address. Returns false for an address that is the host's own
    /// already.
    ///
    /// # Errors
    /// [`LabError`] if the kernel refuses it.
    pub(super) fn route(&mut self, edit: Edit, route: &HostRoute<'_>) -> Result<bool, LabError> {
        let (to, index) = match route {
            // A link-local address is only found through its interface.
            HostRoute::Own(IpAddr::V6(address), interface) if address.is_unicast_link_local() => {
                (To::Own(IpAddr::V6(*address)), self.add(interface)?)
            }
            HostRoute::Own(address, _) => (To::Own(*address), LOOPBACK),
            HostRoute::Through(address, interface) => (To::Address(*address), self.add(interface)?),
        };
        let done = self.route.change(|seq| change::route(edit, to, index, seq));
        match done {
            Err(err) if err.errno() == Some(libc::EEXIST) => Ok(false),
            done => done.map(|()| true).map_err(at("change a route")),
        }
    }

    /// Lets a frame arrive on an interface.
    ///
    /// # Errors
    /// [`LabError`] if it cannot be sent.
    pub(super) fn send(&self, interface: &str, frame: &[u8]) -> Result<(), LabError> {
        let (socket, to) = match (interface, self.wires.get(interface)) {
            ("lo", _) => (&self.own_sender, &self.own),
            (_, Some(wire)) => (&self.sender, &wire.far),
            (_, None) => return Err(io(io::ErrorKind::NotFound)),
        };
        match sendto(socket.as_raw_fd(), frame, to, MsgFlags::empty()) {
            Ok(sent) if sent == frame.len() => Ok(()),
            Ok(_) => Err(io(io::ErrorKind::WriteZero)),
            Err(err) => Err(io(err)),
        }
    }
}

/// Keeps the calling thread on its processor. Frames are queued at the processor that sends them,
/// so that they arrive in order.
fn keep_order() {
    let kept = sched_getcpu().and_then(|processor| {
        let mut set = CpuSet::new();
        set.set(processor)?;
        sched_setaffinity(Pid::from_raw(0), &set)
    });
    if let Err(err) = kept {
        log::info!("frames may arrive out of order: {err}");
    }
}

/// Writes settings of the calling thread's namespace. A kernel may lack some.
fn set(settings: &[(&str, &str)]) -> Result<(), LabError> {
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        if Path::new(&path).exists() {
            let written = std::fs::write(&path, format!("{value}\n"));
            written.map_err(|source| LabError::Setting { path, source })?;
        }
    }
    Ok(())
}

fn packet_socket() -> Result<OwnedFd, LabError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(io)
}

/// Returns the link-layer address of an interface in the calling thread's namespace.
fn link_address(name: &str) -> Result<LinkAddr, LabError> {
    let mut all = getifaddrs().map_err(io)?.filter_map(|each| {
        let address = each.address.filter(|_| each.interface_name == name)?;
        (address.family() == Some(AddressFamily::Packet))
            .then(|| address.as_link_addr().copied())?
    });
    all.next().ok_or_else(|| io(io::ErrorKind::NotFound))
}
