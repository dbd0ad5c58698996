//! Groups of denied packets, with names and suggestions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use peerwall_core::denied::{
    DeniedHook, Entry, Flow, Resemblance, ResemblanceKind, Service, resembling,
};
use peerwall_core::explain::{Fix, fixes};
use peerwall_core::policy::reason::Reason;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Known, is_suggested, time};
use crate::cli::DeniedBy;

/// Denied packets that have something in common. Fields that they do not share are absent.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(in crate::command) struct Row {
    /// Number of packets.
    pub(super) packets: u64,
    /// Whether there may have been more.
    pub(super) is_at_least: bool,
    /// Time of the first packet, as RFC 3339.
    pub(super) first: String,
    /// Time of the last packet, as RFC 3339.
    pub(super) last: String,
    /// Number of sources.
    pub(super) sources: usize,
    /// Reason.
    pub(super) reason: Option<Reason>,
    /// Hook.
    pub(super) hook: Option<DeniedHook>,
    /// Incoming interface.
    pub(super) interface: Option<String>,
    /// Outgoing interface of forwarded packets.
    pub(super) out: Option<String>,
    /// Source address.
    pub(super) source: Option<IpAddr>,
    /// Probable owner of the source.
    pub(super) resembles: Option<Resemblance>,
    /// Port and protocol, or a type of ICMP.
    pub(super) port: Option<String>,
    /// Destination of the last packet, after any DNAT.
    pub(super) destination: Option<IpAddr>,
    /// Destination of the last packet before DNAT.
    pub(super) dialled: Option<SocketAddr>,
    /// Process of this host that listens on the port.
    pub(super) process: Option<String>,
    /// What would let the last packet in, the likeliest first; none for strangers.
    pub(super) fixes: Vec<Fix>,
}

/// Returns the rows for flows, which are in descending order.
pub(in crate::command) fn rows(entries: &[Entry], known: &Known, by: Option<DeniedBy>) -> Vec<Row> {
    let rows = entries.iter().map(|entry| row(entry, known));
    let Some(by) = by else {
        return rows.collect();
    };
    let mut groups: BTreeMap<Shared, Group> = BTreeMap::new();
    for (row, entry) in rows.zip(entries) {
        let group = groups.entry(key(&row, by)).or_default();
        group.sources.insert(entry.flow.source);
        group.row = Some(match group.row.take() {
            None => row,
            Some(earlier) => earlier.joined(row),
        });
    }
    let finish = |group: Group| {
        let sources = group.sources.len();
        group.row.map(|row| Row { sources, ..row })
    };
    let mut rows: Vec<Row> = groups.into_values().filter_map(finish).collect();
    rows.sort_by(|a, b| b.packets.cmp(&a.packets).then(b.last.cmp(&a.last)));
    rows
}

/// What the packets of a group have in common.
type Shared = (Option<IpAddr>, Option<String>, Option<Reason>);

/// Packets that are shown in one row.
#[derive(Default)]
struct Group {
    row: Option<Row>,
    sources: BTreeSet<IpAddr>,
}

fn key(row: &Row, by: DeniedBy) -> Shared {
    match by {
        DeniedBy::Source => (row.source, None, None),
        DeniedBy::Port => (None, row.port.clone(), None),
        DeniedBy::Reason => (None, None, row.reason.clone()),
        DeniedBy::Interface => (None, row.interface.clone(), None),
    }
}

fn row(entry: &Entry, known: &Known) -> Row {
    let Flow {
        hook,
        interface,
        out,
        source,
        service,
    } = &entry.flow;
    let is_own = |address| known.own.contains(&address);
    let mut row = Row {
        packets: entry.packets,
        is_at_least: entry.is_at_least,
        first: time(entry.first),
        last: time(entry.last),
        sources: 1,
        reason: Some(entry.reason.clone()),
        hook: Some(*hook),
        interface: Some(interface.clone()).filter(|name| !name.is_empty()),
        out: out.clone(),
        source: Some(*source),
        resembles: resembling(&known.policy, *source, interface, is_own),
        port: Some(service.text(*source)),
        destination: Some(entry.sample.destination),
        dialled: entry.sample.dialled,
        process: process(entry, known),
        fixes: Vec::new(),
    };
    if is_suggested(&row, entry)
        && let Some(packet) = entry.packet()
    {
        row.fixes = fixes(&known.policy, &packet, &entry.reason);
    }
    row
}

/// Returns the process that listens on the port of packets to this host.
fn process(entry: &Entry, known: &Known) -> Option<String> {
    let Service::Port { protocol, port } = entry.flow.service else {
        return None;
    };
    let mut listeners = known.listeners.iter();
    let found = listeners.find(|each| (each.protocol, each.port) == (protocol, port));
    let found = found.filter(|_| entry.flow.hook == DeniedHook::Input)?;
    found.process.clone()
}

impl Row {
    /// Joins two rows: sums their packets, and keeps what they share.
    fn joined(self, other: Self) -> Self {
        let mut fixes = self.fixes;
        let new = other.fixes.into_iter();
        let new: Vec<Fix> = new.filter(|fix| !fixes.contains(fix)).collect();
        fixes.extend(new);
        Self {
            packets: self.packets + other.packets,
            is_at_least: self.is_at_least || other.is_at_least,
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            sources: self.sources,
            reason: shared(self.reason, other.reason),
            hook: shared(self.hook, other.hook),
            interface: shared(self.interface, other.interface),
            out: shared(self.out, other.out),
            source: shared(self.source, other.source),
            resembles: shared(self.resembles, other.resembles),
            port: shared(self.port, other.port),
            destination: shared(self.destination, other.destination),
            dialled: shared(self.dialled, other.dialled),
            process: shared(self.process, other.process),
            fixes,
        }
    }

    /// Returns the suggestion that is printed: the likeliest.
    pub(super) fn suggestion(&self) -> Option<&Fix> {
        let is_host = |each: &Resemblance| each.kind == ResemblanceKind::Host;
        let fixes = self.fixes.iter();
        fixes
            .take(1)
            .find(|_| !self.resembles.as_ref().is_some_and(is_host))
    }
}

fn shared<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.filter(|value| other.as_ref() == Some(value))
}

#[cfg(test)]
mod tests {
    use peerwall_core::denied::Sample;
    use peerwall_core::policy::Policy;
    use peerwall_core::policy::initial::Listener;

    use super::*;

    fn entry(source: &str, interface: &str, port: u16, packets: u64) -> Entry {
        Entry {
            reason: Reason::InputDefault,
            flow: Flow {
                hook: DeniedHook::Input,
                interface: interface.to_owned(),
                out: None,
                source: source.parse().unwrap(),
                service: Service::Port { protocol: 6, port },
            },
            sample: Sample {
                destination: "192.0.2.1".parse().unwrap(),
                dialled: None,
                source_port: 4000,
                hop_limit: 64,
                syn: true,
                mac: None,
            },
            packets,
            is_at_least: false,
            first: 1_800_000_000,
            last: 1_800_000_000 + packets,
        }
    }

    fn known() -> Known {
        Known {
            policy: Policy::default(),
            own: BTreeSet::new(),
            listeners: vec![Listener {
                protocol: 6,
                port: 9100,
                process: Some("node_exporter".to_owned()),
            }],
        }
    }

    #[test]
    fn rows_have_names_and_a_suggestion_for_all_but_strangers() {
        let entries = [
            entry("10.244.3.7", "cni0", 9100, 7),
            entry("198.51.100.7", "eth0", 23, 3),
        ];
        let rows = rows(&entries, &known(), None);
        let pod = &rows[0];
        let kind = pod.resembles.as_ref().map(|each| each.kind);
        assert_eq!(kind, Some(ResemblanceKind::UndeclaredPod));
        assert_eq!(pod.process.as_deref(), Some("node_exporter"));
        let toml = &pod.suggestion().unwrap().toml;
        assert!(toml.starts_with("[overlay.flannel]"), "{toml}");
        let stranger = &rows[1];
        assert!(stranger.resembles.is_none() && stranger.fixes.is_empty());
        assert_eq!(stranger.process, None);
    }

    #[test]
    fn groups_keep_what_their_packets_share() {
        let entries = [
            entry("198.51.100.7", "eth0", 23, 5),
            entry("198.51.100.8", "eth0", 22, 4),
            entry("198.51.100.7", "eth1", 22, 3),
        ];
        for (by, want) in [
            (
                DeniedBy::Source,
                vec![
                    (8, 1, Some("198.51.100.7"), None),
                    (4, 1, Some("198.51.100.8"), Some("22/tcp")),
                ],
            ),
            (
                DeniedBy::Port,
                vec![
                    (7, 2, None, Some("22/tcp")),
                    (5, 1, Some("198.51.100.7"), Some("23/tcp")),
                ],
            ),
            (DeniedBy::Reason, vec![(12, 2, None, None)]),
            (
                DeniedBy::Interface,
                vec![
                    (9, 2, None, None),
                    (3, 1, Some("198.51.100.7"), Some("22/tcp")),
                ],
            ),
        ] {
            let rows = rows(&entries, &known(), Some(by));
            let found = rows.iter().map(|row| {
                let source = row.source.map(|source| source.to_string());
                (row.packets, row.sources, source, row.port.clone())
            });
            let want = want.into_iter().map(|(packets, sources, source, port)| {
                let owned = |text: Option<&str>| text.map(str::to_owned);
                (packets, sources, owned(source), owned(port))
            });
            assert_eq!(
                found.collect::<Vec<_>>(),
                want.collect::<Vec<_>>(),
                "{by:?}"
            );
        }
    }
}
