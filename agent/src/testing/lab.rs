//! Lets packets arrive at a host with a ruleset, and reads what the kernel does with them.

use std::time::{Duration, Instant};

use peerwall_core::net::packet::{Hook, Packet};
use peerwall_core::net::port::TCP;
use peerwall_core::nft::judge;
use peerwall_core::ruleset::{Rule, Ruleset};
use peerwall_core::testing::setup::{Connection, Setup, real};
use peerwall_core::testing::{Counts, Fate, fate, fence};
use peerwall_proto::conntrack::{self, tcp_state};
use peerwall_proto::rtnetlink::change::Edit;

use super::wires::{HostRoute, Wires};
use super::{LabError, counts};
use crate::enforce::converge::converge;
use crate::enforce::nft::Kernel;
use crate::kernel::netlink::{NetlinkError, Socket};

/// Time limit for the arrival of a frame.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at the counters.
const PAUSE: Duration = Duration::from_micros(200);
/// Lifetime of a connection that a test creates.
const CONNECTION_SECONDS: u32 = 600;
/// Window scale of such a connection.
const SCALE: u8 = 7;

/// A host with rules, in the namespace of the calling thread.
pub(super) struct Lab<'r> {
    ruleset: &'r Ruleset,
    wires: Wires,
    netfilter: Socket,
    kernel: Kernel,
    counts: Counts,
    /// Whether a packet was counted by a rate limit, so that another one may exceed it.
    is_spent: bool,
}

fn at(doing: &'static str) -> impl Fn(NetlinkError) -> LabError {
    move |source| LabError::Netlink { doing, source }
}

/// Reports whether a rule has a rate limit that decides about packets.
fn limits(rule: &Rule) -> bool {
    rule.meter.is_some() || (rule.limit.is_some() && !rule.only_logs())
}

impl<'r> Lab<'r> {
    /// Creates the host, and loads the rules as `apply` does.
    ///
    /// # Errors
    /// [`LabError`] if the system does not permit it, or the kernel refuses the rules.
    pub(super) fn new(ruleset: &'r Ruleset) -> Result<Self, LabError> {
        let wires = Wires::new()?;
        let mut kernel = Kernel::open().map_err(LabError::Load)?;
        // The first question, so that a kernel without nf_tables is told as such.
        kernel.generation().map_err(LabError::Load)?;
        let mut netfilter = Socket::open().map_err(at("open a socket"))?;
        let created = netfilter.commit(judge::create());
        created.map_err(at("create a table"))?;
        converge(&mut kernel, Some(ruleset)).map_err(LabError::Load)?;
        let counts = counts::read(&mut netfilter).map_err(at("read counters"))?;
        Ok(Self {
            is_spent: false,
            ruleset,
            wires,
            netfilter,
            kernel,
            counts,
        })
    }

    /// Lets a packet arrive, and returns what the kernel did with it.
    ///
    /// # Errors
    /// [`LabError`] if the kernel refuses what the packet needs.
    pub(super) fn fate(&mut self, packet: &Packet) -> Result<Fate, LabError> {
        let prepared = real(packet, self.ruleset);
        let prepared = prepared.and_then(|real| Ok((Setup::of(&real)?, real)));
        let (setup, real) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => return Ok(Fate::NotSent(why)),
        };
        if real.source.is_ipv6() && !self.wires.has_v6 {
            return Ok(Fate::NotSent(
                "it is of IPv6, which this kernel lacks".to_owned(),
            ));
        }
        if real.hook == Hook::Forward && Wires::is_own(real.destination) {
            let why = "its destination is an address of the host of tests";
            return Ok(Fate::NotSent(why.to_owned()));
        }
        let spends = self.spends(&real);
        if spends && self.is_spent {
            self.load_again()?;
        }
        self.is_spent |= spends;
        let added = self.prepare(&setup, &real)?;
        let sent = self.send(&setup.interface, &setup.frame);
        let after = sent.and_then(|()| self.arrived());
        self.clean(&setup, &real, &added)?;
        let after = after?;
        let found = fate(&real, &self.counts, &after);
        self.counts = after;
        Ok(found)
    }

    /// Reports whether a rate limit counts a packet.
    fn spends(&self, packet: &Packet) -> bool {
        let path = self.ruleset.eval(packet).path;
        let mut rules = path.iter().filter_map(|(chain, index)| {
            let chain = self.ruleset.chain(chain)?;
            chain.rules.get(*index)
        });
        rules.any(limits)
    }

    /// Loads the rules into a new table, with full rate limits and counters at zero.
    fn load_again(&mut self) -> Result<(), LabError> {
        converge(&mut self.kernel, None).map_err(LabError::Load)?;
        converge(&mut self.kernel, Some(self.ruleset)).map_err(LabError::Load)?;
        self.counts = counts::read(&mut self.netfilter).map_err(at("read counters"))?;
        self.is_spent = false;
        Ok(())
    }

    /// Creates what a packet needs, and returns the routes that were added.
    fn prepare(&mut self, setup: &Setup, packet: &Packet) -> Result<Vec<usize>, LabError> {
        self.wires.add(&setup.interface)?;
        let mut added = Vec::new();
        for (number, route) in needed(setup).enumerate() {
            if self.wires.route(Edit::Add, &route)? {
                added.push(number);
            }
        }
        let created = match (&setup.translation, setup.is_untracked) {
            (Some(translation), _) => self.netfilter.commit(judge::translate(translation)),
            (None, true) => self.netfilter.commit(judge::exempt(packet.family())),
            (None, false) => Ok(()),
        };
        created.map_err(at("create a table"))?;
        if let Some(connection) = &setup.connection {
            self.connect(connection)?;
        }
        Ok(added)
    }

    /// Lets connection tracking know a connection.
    fn connect(&mut self, connection: &Connection) -> Result<(), LabError> {
        let Connection { protocol, from, to } = *connection;
        let info = (protocol == TCP)
            .then(|| conntrack::tcp_in_progress(tcp_state::ESTABLISHED, SCALE, SCALE));
        let request = conntrack::create(protocol, from, to, info, CONNECTION_SECONDS);
        let request = request.expect("addresses are short");
        let created = self.netfilter.acknowledged(request);
        created.map_err(at("create a connection"))
    }

    /// Deletes what [`prepare`](Self::prepare) created, and every connection.
    fn clean(&mut self, setup: &Setup, packet: &Packet, added: &[usize]) -> Result<(), LabError> {
        if setup.translation.is_some() || setup.is_untracked {
            let deleted = self.netfilter.commit(judge::delete(packet.family()));
            deleted.map_err(at("delete a table"))?;
        }
        for (number, route) in needed(setup).enumerate() {
            if added.contains(&number) {
                self.wires.route(Edit::Delete, &route)?;
            }
        }
        let flushed = self.netfilter.acknowledged(conntrack::flush());
        flushed.map_err(at("delete connections"))
    }

    fn send(&self, interface: &str, frame: &[u8]) -> Result<(), LabError> {
        self.wires.send(interface, frame)?;
        self.wires.send(interface, &fence(interface))
    }

    /// Waits for the fence, which arrives after the packet, and returns the counters.
    fn arrived(&mut self) -> Result<Counts, LabError> {
        let start = Instant::now();
        loop {
            let now = counts::read(&mut self.netfilter).map_err(at("read counters"))?;
            if now.fence > self.counts.fence {
                return Ok(now);
            }
            if start.elapsed() > PATIENCE {
                return Err(LabError::Lost);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Returns the routes that a packet needs.
fn needed(setup: &Setup) -> impl Iterator<Item = HostRoute<'_>> {
    let own = setup.own.iter();
    let own = own.map(|address| HostRoute::Own(*address, &setup.interface));
    let routes = setup.routes.iter();
    own.chain(routes.map(|(address, interface)| HostRoute::Through(*address, interface)))
}
