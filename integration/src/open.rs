//! Open connections: real ones, and conntrack entries of which nobody has sent a packet.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use peerwall::kernel::netlink::Socket;
use peerwall_core::net::port::TCP;
use peerwall_proto::conntrack::{self, Connection};
use peerwall_proto::netlink::attr::Attrs;
use peerwall_proto::nf_tables::Attributes as _;

use crate::ns::{Host, peerwall_bin};

/// How long to wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long an answer takes at most.
const ANSWER: Duration = Duration::from_millis(500);
/// Longer than a test.
const TIMEOUT_SECONDS: u32 = 100_000;

/// A conntrack entry: protocol, and who opened it to whom. Of an echo, the source port is its
/// identifier.
pub type Entry = (u8, SocketAddr, SocketAddr);

/// Listens and sends back what comes.
///
/// # Panics
/// If the address cannot be listened on.
pub fn echo(host: &Host, address: &str) {
    let listener =
        host.run(|| TcpListener::bind(address).unwrap_or_else(|err| panic!("{address}: {err}")));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok(len) = stream.read(&mut buffer) {
                    if len == 0 || stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Connects.
///
/// # Panics
/// If that fails.
pub fn open(from: &Host, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().expect("an address");
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.unwrap_or_else(|err| panic!("{} to {to}: {err}", from.name));
    stream
        .set_read_timeout(Some(ANSWER))
        .expect("a timeout that is not zero");
    stream
}

/// Whether what is sent comes back.
pub fn lives(stream: &mut TcpStream) -> bool {
    stream.write_all(b"?").is_ok() && stream.read(&mut [0; 16]).is_ok_and(|len| len > 0)
}

/// Creates conntrack entries, TCP in this state.
///
/// # Panics
/// If the kernel refuses one.
pub fn track(host: &Host, entries: &[(Entry, u8)]) {
    host.run(|| {
        let mut socket = Socket::open().expect("netfilter has netlink");
        for ((protocol, from, to), state) in entries {
            let info = (*protocol == TCP).then(|| conntrack::tcp_in_progress(*state, 7, 7));
            let request = conntrack::create(*protocol, *from, *to, info, TIMEOUT_SECONDS);
            let created = socket.acknowledged(request.expect("addresses are short"));
            created.unwrap_or_else(|err| panic!("{from} to {to}, state {state}: {err}"));
        }
    });
}

/// Every conntrack entry.
///
/// # Panics
/// If they cannot be read.
pub fn tracked(host: &Host) -> BTreeSet<Entry> {
    host.run(|| {
        let mut found = BTreeSet::new();
        let mut socket = Socket::open().expect("netfilter has netlink");
        let each = |found: &mut BTreeSet<Entry>,
                    message: peerwall_proto::netlink::message::Message| {
            let entry = Connection::decode(Attrs::new(&message.attrs))?;
            let tuple = entry.original.map(|tuple| tuple.0);
            let parts = tuple.and_then(|tuple| {
                let (mut from, to) = tuple.ends()?;
                let protocol = &tuple.protocol.as_ref()?.0;
                // The identifier of an echo stands for the source port.
                let id = protocol.icmp_id.or(protocol.icmpv6_id);
                from.set_port(id.unwrap_or(from.port()));
                Some((protocol.number?, from, to))
            });
            found.extend(parts);
            Ok(())
        };
        socket
            .dump(&conntrack::dump(), &mut found, BTreeSet::clear, each)
            .expect("conntrack can be read");
        found
    })
}

/// Addresses and ports that somebody listens on by TCP.
pub fn listeners(host: &Host) -> BTreeSet<String> {
    let text = host.sh("ss -Hltn");
    let address = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    text.lines().filter_map(address).collect()
}

/// An address and port.
///
/// # Panics
/// If it is not an address.
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port)
}

/// A running agent; killed when it goes out of scope.
pub struct Agent(Child);

impl Agent {
    /// Starts it, and waits until the policy is loaded.
    ///
    /// # Panics
    /// If that does not come.
    pub fn start(host: &Host, policy: &Path, more: &[&str]) -> Self {
        let mut command = host.command(peerwall_bin());
        command.arg("run").arg(policy).args(more);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let agent = Self(child.expect("the peerwall program is built"));
        wait_for("the first apply of the agent", || {
            let status = host.peerwall(&["status", "--json", "/nowhere"]);
            let status = serde_json::from_slice::<serde_json::Value>(&status.stdout);
            status.is_ok_and(|status| !status["agent"]["in_sync_seconds"].is_null())
        });
        agent
    }
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// If that cannot be told.
    pub fn lives(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
///
/// # Panics
/// If it does not come.
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}
