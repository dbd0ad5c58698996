//! Denied packets that the kernel logged: read, counted in fixed memory, and named.
//!
//! The rules log a part of the denied packets to a group, up to a rate for each reason. [`read`]
//! reads one of them, [`Tally`] counts them, [`Counted`] says how many were not logged, and
//! [`resembling`] says whose packets they are.

pub mod head;
mod history;
mod resemblance;
mod stream;
mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use peerwall_proto::nflog::Logged;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use head::{Head, parse};
pub use history::{LONGEST_SECONDS, Window};
pub use resemblance::{Resemblance, ResemblanceKind, resembling};
pub use stream::Stream;
use table::Table;

use crate::net::packet::{CtState, Dialled, Hook, Packet, Transport};
use crate::net::port::protocol_name;
use crate::policy::icmp;
use crate::policy::reason::Reason;
use crate::ruleset::{LogTo, Ruleset};

/// Maximum number of flows that are kept of each reason, so that a flood of one kind does not
/// displace those of the others.
pub const FLOWS_MAX: usize = 256;
/// Maximum length of an interface name that is kept (`IFNAMSIZ`).
const NAME_MAX: usize = 16;

/// Reasons of denials.
pub const REASONS: [Reason; 11] = [
    Reason::LoopbackSpoof,
    Reason::Redirect,
    Reason::RouterAdvert,
    Reason::PeerSpoof,
    Reason::OverlaySpoof,
    Reason::OverlayInject,
    Reason::GuestBlocked,
    Reason::Invalid,
    Reason::ServiceAddress,
    Reason::InputDefault,
    Reason::ForwardDefault,
];

/// Packets that are counted as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// Hook.
    pub hook: DeniedHook,
    /// Incoming interface.
    pub interface: String,
    /// Outgoing interface of forwarded packets.
    pub out: Option<String>,
    /// Source address.
    pub source: IpAddr,
    /// What the packets are for.
    pub service: Service,
}

/// Hook at which packets are denied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DeniedHook {
    /// Before DNAT and before the routing decision.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
}

/// What packets are for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// A port, after any DNAT.
    Port {
        /// Protocol number.
        protocol: u8,
        /// Destination port.
        port: u16,
    },
    /// A type of ICMP.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// A protocol without ports, by number.
    Protocol(u8),
    /// A packet without the header of its protocol: a later fragment, or a short packet.
    Fragment(u8),
}

impl Service {
    /// Formats the service: `9100/tcp`, `ICMP echo-request`.
    pub fn text(self, source: IpAddr) -> String {
        let family = crate::net::addr::Family::of(source);
        match self {
            Self::Port { protocol, port } => format!("{port}/{}", protocol_name(protocol)),
            Self::Icmp { kind, .. } => match icmp::name(family, kind) {
                Some(name) => format!("ICMP {name}"),
                None => format!("ICMP type {kind}"),
            },
            Self::Protocol(protocol) => format!("protocol {}", protocol_name(protocol)),
            Self::Fragment(protocol) => format!("fragment of {}", protocol_name(protocol)),
        }
    }
}

/// The last packet of a flow, in what is not common to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Destination address, after any DNAT.
    pub destination: IpAddr,
    /// Destination before DNAT.
    pub dialled: Option<SocketAddr>,
    /// Source port; 0 if the protocol has none.
    pub source_port: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Whether it opens a TCP connection.
    pub syn: bool,
    /// Ethernet address of the sender.
    pub mac: Option<[u8; 6]>,
}

/// A logged packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Why it was denied.
    pub reason: Reason,
    /// Its flow.
    pub flow: Flow,
    /// The rest of it.
    pub sample: Sample,
}

/// Why a logged packet is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// A rule of another program logged it to the same group.
    Foreign,
    /// It cannot be read.
    Malformed,
}

/// Reads a logged packet. `name` returns the name of an interface by its index.
///
/// # Errors
/// [`Unread`] if its prefix is not one of peerwall, or it is not a packet of IP.
pub fn read(
    logged: &Logged,
    prefix: &str,
    mut name: impl FnMut(u32) -> String,
) -> Result<Sighting, Unread> {
    let reason = logged.prefix().and_then(|text| reason_of(text, prefix));
    let reason = reason.ok_or(Unread::Foreign)?;
    let head = parse(logged.payload.as_deref().unwrap_or_default()).ok_or(Unread::Malformed)?;
    let (_, hook) = logged.protocol_and_hook().ok_or(Unread::Malformed)?;
    // `enum nf_inet_hooks`
    let hook = match hook {
        0 => DeniedHook::Prerouting,
        1 => DeniedHook::Input,
        2 => DeniedHook::Forward,
        _ => return Err(Unread::Malformed),
    };
    let mut name = |index: u32| name(index).chars().take(NAME_MAX).collect::<String>();
    let (service, source_port) = match head.transport {
        Some(Transport::Ports {
            protocol,
            source,
            destination: port,
        }) => (Service::Port { protocol, port }, source),
        Some(Transport::Icmp { kind, code }) => (Service::Icmp { kind, code }, 0),
        Some(Transport::Other(protocol)) => (Service::Protocol(protocol), 0),
        None => (Service::Fragment(head.protocol), 0),
    };
    Ok(Sighting {
        reason,
        flow: Flow {
            hook,
            interface: logged.indev.map_or_else(String::new, &mut name),
            out: logged.outdev.map(&mut name),
            source: head.source,
            service,
        },
        sample: Sample {
            destination: head.destination,
            dialled: logged.dialled(),
            source_port,
            hop_limit: head.hop_limit,
            syn: head.syn,
            mac: logged.mac(),
        },
    })
}

/// Returns the reason in a prefix such as `peerwall input-default: `.
fn reason_of(text: &str, prefix: &str) -> Option<Reason> {
    let rest = text.strip_prefix(prefix)?.strip_prefix(' ')?;
    let reason = Reason::parse(rest.trim_end().strip_suffix(':')?)?;
    reason.is_denial().then_some(reason)
}

/// Returns the group and the prefix by which rules log denied packets; `None` if they do not.
pub fn log_of(ruleset: &Ruleset) -> Option<(u16, String)> {
    let rules = ruleset.chains.iter().flat_map(|chain| {
        let rules = chain.rules.iter();
        rules.map(|rule| (chain.name.as_str(), rule.log.as_ref()))
    });
    let mut logs = rules.filter_map(|(chain, log)| {
        let LogTo { group, prefix } = log?;
        let end = format!(" {chain}: ");
        Some((*group, prefix.strip_suffix(&end)?.to_owned()))
    });
    logs.next()
}

/// Counts of logged packets. Its memory is bounded by [`FLOWS_MAX`] for each reason.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    tables: BTreeMap<Reason, Table<Flow, (Sample, u64)>>,
    /// Number of the last change, by which later changes are recognized.
    stamp: u64,
}

/// A flow with its counts within a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Why its packets are denied.
    pub reason: Reason,
    /// The flow.
    pub flow: Flow,
    /// Its last packet.
    pub sample: Sample,
    /// Number of its packets.
    pub packets: u64,
    /// Whether there may have been more, while the flow was not kept.
    pub is_at_least: bool,
    /// Time of the first packet since the flow is kept, in seconds since the Unix epoch.
    pub first: u64,
    /// Time of the last packet.
    pub last: u64,
}

/// Number of logged packets of a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// The reason.
    pub reason: Reason,
    /// Within the window.
    pub packets: u64,
    /// Since the tally began.
    pub since_start: u64,
}

impl Tally {
    /// Counts a packet at a time in seconds since the Unix epoch.
    pub fn add(&mut self, seen: Sighting, now: u64) {
        self.stamp += 1;
        let table = self.tables.entry(seen.reason);
        let table = table.or_insert_with(|| Table::new(FLOWS_MAX));
        table.add(seen.flow, (seen.sample, self.stamp), now);
    }

    /// Removes flows whose last packet is older than a day.
    pub fn expire(&mut self, now: u64) {
        self.tables.values_mut().for_each(|table| table.expire(now));
    }

    /// Returns the number of the last change.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Returns the flows with packets within a window and since a change, the most frequent first.
    pub fn entries(&self, window: Window, since: u64) -> Vec<Entry> {
        let tables = self.tables.iter();
        let slots = tables.flat_map(|(reason, table)| {
            let slots = table.slots().iter();
            slots.map(move |slot| (reason, slot))
        });
        let entry = |(reason, slot): (&Reason, &table::Slot<Flow, (Sample, u64)>)| {
            let (packets, is_at_least) = slot.within(window);
            let (sample, stamp) = slot.value;
            (packets > 0 && stamp > since).then(|| Entry {
                reason: reason.clone(),
                flow: slot.key.clone(),
                sample,
                packets,
                is_at_least,
                first: slot.first,
                last: slot.last,
            })
        };
        let mut found: Vec<Entry> = slots.filter_map(entry).collect();
        found.sort_by(|a, b| b.packets.cmp(&a.packets).then(b.last.cmp(&a.last)));
        found
    }

    /// Returns the number of packets of each reason.
    pub fn totals(&self, window: Window) -> Vec<Total> {
        let totals = self.tables.iter().map(|(reason, table)| Total {
            reason: reason.clone(),
            packets: table.within(window),
            since_start: table.total(),
        });
        totals.collect()
    }
}

impl Entry {
    /// Returns the last packet; `None` without the header of its protocol.
    pub fn packet(&self) -> Option<Packet> {
        let transport = match self.flow.service {
            Service::Port { protocol, port } => Transport::Ports {
                protocol,
                source: self.sample.source_port,
                destination: port,
            },
            Service::Icmp { kind, code } => Transport::Icmp { kind, code },
            Service::Protocol(protocol) => Transport::Other(protocol),
            Service::Fragment(_) => return None,
        };
        let hook = match self.flow.hook {
            DeniedHook::Prerouting | DeniedHook::Input => Hook::Input,
            DeniedHook::Forward => Hook::Forward,
        };
        let mut packet = Packet::new(
            hook,
            &self.flow.interface,
            self.flow.source,
            self.sample.destination,
            transport,
        );
        packet.out.clone_from(&self.flow.out);
        packet.mac = self.sample.mac;
        packet.hop_limit = self.sample.hop_limit;
        packet.syn = self.sample.syn;
        packet.dialled = self.sample.dialled.map(|dialled| Dialled {
            address: dialled.ip(),
            port: dialled.port(),
        });
        packet.to_host = hook == Hook::Input || packet.dialled.is_some();
        if self.reason == Reason::Invalid {
            packet.state = CtState::Invalid;
        }
        Some(packet)
    }
}

/// Denied packets by the counters of the rules, since the first reading.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// The last reading; `None` before the first.
    last: Option<BTreeMap<Reason, u64>>,
    denied: BTreeMap<Reason, u64>,
}

impl Counted {
    /// Adds a reading of the counters. A counter that decreased was created again, and began at
    /// zero.
    pub fn update(&mut self, now: &BTreeMap<Reason, u64>) {
        if let Some(last) = &self.last {
            for (reason, now) in now {
                let before = last.get(reason).copied().unwrap_or(0);
                let new = now.checked_sub(before).unwrap_or(*now);
                *self.denied.entry(reason.clone()).or_default() += new;
            }
        }
        self.last = Some(now.clone());
    }

    /// Returns the number of denied packets of each reason since the first reading; `None` before
    /// it.
    pub fn denied(&self) -> Option<&BTreeMap<Reason, u64>> {
        self.last.as_ref().map(|_| &self.denied)
    }
}

#[cfg(test)]
mod tests;
