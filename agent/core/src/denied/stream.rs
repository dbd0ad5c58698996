//! Denied packets as they come: what is new in each answer of a record.

use std::collections::BTreeMap;

use super::{Entry, FLOWS_MAX, Flow, REASONS};
use crate::policy::reason::Reason;

/// Number of flows from which the counts of those that did not change lately are forgotten: twice
/// as many as a record keeps.
const SEEN_MAX: usize = 2 * FLOWS_MAX * REASONS.len();

/// What was seen of a record, which answers with the counts of the flows that changed since a
/// stamp.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// When the record began.
    started: String,
    stamp: u64,
    /// Packets of each flow, and the turn in which they changed.
    seen: BTreeMap<(Reason, Flow), (u64, u64)>,
    turn: u64,
}

impl Stream {
    /// Returns the stamp after which changes are asked for.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Reduces the counts of an answer to the packets since the one before, all of them in the
    /// first answer. The answer is of a record that began at `started`, and is at `stamp`.
    ///
    /// `None` if another record has begun, because its process restarted: it must be asked again,
    /// for all changes.
    pub fn update(
        &mut self,
        started: &str,
        stamp: u64,
        mut entries: Vec<Entry>,
    ) -> Option<Vec<Entry>> {
        // Times have seconds: a record that began again within one has earlier stamps.
        if self.started != started || stamp < self.stamp {
            let asked_for_all = self.stamp == 0;
            *self = Self {
                started: started.to_owned(),
                ..Self::default()
            };
            if !asked_for_all {
                return None;
            }
        }
        self.stamp = stamp;
        self.turn += 1;
        for entry in &mut entries {
            let key = (entry.reason.clone(), entry.flow.clone());
            let all = entry.packets;
            let before = self.seen.insert(key, (all, self.turn));
            let before = before.map_or(0, |(packets, _)| packets);
            // Fewer than before: the flow was replaced meanwhile, or old packets left the window.
            entry.packets = all.saturating_sub(before).max(1);
        }
        if self.seen.len() > SEEN_MAX {
            self.forget();
        }
        Some(entries)
    }

    /// Forgets the flows that changed least recently, until half of the room is free.
    fn forget(&mut self) {
        let mut turns: Vec<u64> = self.seen.values().map(|(_, turn)| *turn).collect();
        turns.sort_unstable();
        let oldest = turns[turns.len() / 2];
        self.seen.retain(|_, (_, turn)| *turn > oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denied::{DeniedHook, Sample, Service};

    fn entry(source: [u8; 4], packets: u64) -> Entry {
        Entry {
            reason: Reason::InputDefault,
            flow: Flow {
                hook: DeniedHook::Input,
                interface: "eth0".to_owned(),
                out: None,
                source: source.into(),
                service: Service::Protocol(47),
            },
            sample: Sample {
                destination: [192, 0, 2, 1].into(),
                dialled: None,
                source_port: 0,
                hop_limit: 64,
                syn: false,
                mac: None,
            },
            packets,
            is_at_least: false,
            first: 0,
            last: 0,
        }
    }

    const A: [u8; 4] = [192, 0, 2, 7];
    const B: [u8; 4] = [192, 0, 2, 8];

    fn packets(new: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        let packets = |new: Vec<Entry>| new.iter().map(|entry| entry.packets).collect();
        new.map(packets)
    }

    #[test]
    fn each_packet_is_new_once() {
        let mut stream = Stream::default();
        let first = stream.update("noon", 5, vec![entry(A, 4), entry(B, 1)]);
        assert_eq!(packets(first), Some(vec![4, 1]));
        assert_eq!(stream.stamp(), 5);
        assert_eq!(packets(stream.update("noon", 5, Vec::new())), Some(vec![]));
        let next = stream.update("noon", 9, vec![entry(A, 8)]);
        assert_eq!(packets(next), Some(vec![4]));
        // Packets of the day before have left the window, in which there is a new one.
        let next = stream.update("noon", 10, vec![entry(A, 2)]);
        assert_eq!(packets(next), Some(vec![1]));
    }

    #[test]
    fn a_record_that_began_again_is_asked_for_everything() {
        let mut stream = Stream::default();
        stream.update("noon", 5, vec![entry(A, 4)]);
        // Its stamps begin again, so that packets before stamp 5 are missing in this answer.
        assert_eq!(stream.update("one", 6, vec![entry(B, 1)]), None);
        assert_eq!(stream.stamp(), 0);
        let all = stream.update("one", 6, vec![entry(A, 5), entry(B, 1)]);
        assert_eq!(packets(all), Some(vec![5, 1]));
        assert_eq!(
            packets(stream.update("one", 7, vec![entry(A, 6)])),
            Some(vec![1])
        );
        assert_eq!(
            stream.update("one", 2, vec![entry(A, 2)]),
            None,
            "the same second"
        );
        // An empty record has nothing to ask for again.
        let mut empty = Stream::default();
        assert_eq!(packets(empty.update("noon", 0, Vec::new())), Some(vec![]));
        assert_eq!(
            packets(empty.update("one", 3, vec![entry(A, 3)])),
            Some(vec![3])
        );
    }

    #[test]
    fn a_flood_of_sources_fills_no_memory_and_those_that_go_on_are_known() {
        let mut stream = Stream::default();
        for turn in 1u32..=40 {
            let strangers = (0..1000u32).map(|number| {
                let source = std::net::Ipv4Addr::from(turn * 1000 + number);
                entry(source.octets(), 1)
            });
            let all = strangers.chain([entry(A, u64::from(turn) * 3)]).collect();
            let new = packets(stream.update("noon", u64::from(turn), all));
            let own = new.as_ref().and_then(|new| new.last()).copied();
            assert_eq!(own, Some(3), "turn {turn}");
            assert!(stream.seen.len() <= SEEN_MAX, "turn {turn}");
        }
    }
}
