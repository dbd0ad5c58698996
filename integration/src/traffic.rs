//! A host with a peer and a stranger, and both of them at it all the time.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::net::wire;
use crate::ns::Host;
use crate::probe;

/// A host, a peer of it (192.0.2.2, 2001:db8::2) and a stranger (198.51.100.2, 2001:db8:1::2), each
/// on a wire of their own.
pub struct Three {
    /// The host, .1 on both wires.
    pub host: Host,
    /// The peer.
    pub friend: Host,
    /// The stranger.
    pub stranger: Host,
}

impl Three {
    /// Makes them.
    ///
    /// # Panics
    /// If they cannot be had.
    pub fn new() -> Self {
        Self::of(
            Host::new("host"),
            Host::new("friend"),
            Host::new("stranger"),
        )
    }

    /// Makes three of these names, where there are several.
    ///
    /// # Panics
    /// If they cannot be had.
    pub fn named(name: &str) -> Self {
        let host = |role: &str| Host::new(&format!("{name}-{role}"));
        Self::of(host("host"), host("friend"), host("stranger"))
    }

    fn of(host: Host, friend: Host, stranger: Host) -> Self {
        let three = Self {
            host,
            friend,
            stranger,
        };
        wire(
            &three.host,
            "eth0",
            &["192.0.2.1/24", "2001:db8::1/64"],
            &three.friend,
            "eth0",
            &["192.0.2.2/24", "2001:db8::2/64"],
        );
        wire(
            &three.host,
            "eth1",
            &["198.51.100.1/24", "2001:db8:1::1/64"],
            &three.stranger,
            "eth0",
            &["198.51.100.2/24", "2001:db8:1::2/64"],
        );
        three
    }
}

impl Default for Three {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether every request of the peer must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Each; one that is not ends the test.
    All,
    /// Some are not, while rules are destroyed.
    Some,
}

/// Requests of the peer and knocks of the stranger, each from a new socket, so that no earlier one
/// helps.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    knocked: Arc<AtomicU64>,
    got_in: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Requests of the peer that were answered.
    pub answered: u64,
    /// Packets that the stranger sent.
    pub knocked: u64,
    /// Those of them that got in.
    pub got_in: u64,
}

impl Traffic {
    /// Begins; servers for both listen on port 9000.
    ///
    /// # Panics
    /// Where a socket cannot be had, or with [`Answers::All`] if a request is not answered.
    pub fn start(three: &Three, answers: Answers) -> Self {
        let served = probe::udp_server(&three.host, "192.0.2.1:9000");
        let mut traffic = Self {
            got_in: probe::udp_server(&three.host, "198.51.100.1:9000"),
            stop: Arc::default(),
            asked: Arc::default(),
            knocked: Arc::default(),
            threads: Vec::new(),
        };
        let wait = match answers {
            Answers::All => Duration::from_secs(10),
            Answers::Some => Duration::from_millis(100),
        };
        let (stop, asked) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.asked));
        traffic.threads.push(three.friend.spawn(move || {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("there is a port");
                let asking = socket
                    .set_read_timeout(Some(wait))
                    .and_then(|()| socket.send_to(b"?", "192.0.2.1:9000"));
                asking.expect("the wire is there");
                sent += 1;
                match socket.recv_from(&mut [0; 8]) {
                    Ok(_) => drop(asked.fetch_add(1, Ordering::Relaxed)),
                    // Once in millions an answer is lost in the peer's own kernel, between two
                    // sockets that follow each other on one port. A request that was served was not
                    // refused.
                    Err(err) => assert!(
                        answers == Answers::Some || served.load(Ordering::SeqCst) == sent,
                        "a peer's request was refused: {err}"
                    ),
                }
            }
        }));
        let (stop, knocked) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.knocked));
        traffic.threads.push(three.stranger.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("there is a port");
                socket
                    .send_to(b"!", "198.51.100.1:9000")
                    .expect("the wire is there");
                knocked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        }));
        traffic
    }

    /// Ends, and says what came of it.
    ///
    /// # Panics
    /// If a request was not answered that had to be.
    pub fn end(self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread
                .join()
                .expect("every request that had to be was answered");
        }
        Totals {
            answered: self.asked.load(Ordering::SeqCst),
            knocked: self.knocked.load(Ordering::SeqCst),
            got_in: self.got_in.load(Ordering::SeqCst),
        }
    }
}
