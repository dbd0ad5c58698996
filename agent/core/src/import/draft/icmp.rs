//! Writes ICMP beyond the safe core, and whether denied packets are rejected.

use super::allows::merge;
use super::{Covered, From, PolicyWriter};
use crate::import::classes::{self, is_reply};
use crate::import::view::AcceptTable;
use crate::net::addr::Family;
use crate::policy::icmp;

impl PolicyWriter<'_> {
    /// Writes ICMP types beyond the safe core.
    pub(super) fn icmp(&mut self, view: &AcceptTable<'_>, covered: &Covered) {
        let everybody = |v: usize| {
            (0..view.interfaces.len()).all(|i| {
                (0..view.sources.len())
                    .all(|s| covered.covers(i, s) || view.accepts(i, s, v).is_some())
            })
        };
        let family = view.family;
        let mine = match family {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let all = view.icmp().all(|(v, _, _)| everybody(v));
        let open = self
            .draft
            .allows
            .iter()
            .any(|a| a.ports.is_none() && a.from == From::Any);
        if open {
            return; // every protocol is, so this is
        }
        // All of ICMPv6 is usually accepted for neighbour discovery, which the core includes.
        if all && family == Family::V4 {
            self.draft.icmp[mine].all = true;
            return;
        }
        if all {
            return;
        }
        for (v, kind, code) in view.icmp() {
            let core = icmp::errors(family).contains(&kind)
                || (family == Family::V6
                    && (icmp::NEIGHBOUR_DISCOVERY.contains(&kind)
                        || icmp::LISTENER_DISCOVERY.contains(&kind)));
            if core || is_reply(family, kind) || code != 0 {
                continue;
            }
            if kind == icmp::echo_request(family) {
                self.ping(view, covered, v);
            } else if everybody(v)
                && let Some(types) = self.draft.icmp.get_mut(mine)
                && !types.some.contains(&kind)
            {
                types.some.push(kind);
            }
        }
    }

    fn ping(&mut self, view: &AcceptTable<'_>, covered: &Covered, v: usize) {
        let pings = |i: usize, s: usize| view.accepts(i, s, v).filter(|_| !covered.covers(i, s));
        let sources: Vec<usize> = (0..view.sources.len())
            .filter(|s| (0..view.interfaces.len()).any(|i| pings(i, *s).is_some()))
            .filter(|s| {
                (0..view.interfaces.len()).all(|i| covered.covers(i, *s) || pings(i, *s).is_some())
            })
            .collect();
        let line = sources
            .first()
            .and_then(|s| (0..view.interfaces.len()).find_map(|i| pings(i, *s)));
        let Some(at) = line else {
            return;
        };
        let all: Vec<usize> = (0..view.interfaces.len()).collect();
        let may = |i: usize, s: usize| covered.covers(i, s) || view.accepts(i, s, v).is_some();
        let Some(from) = self.from(view, &may, at, &all, &sources) else {
            return;
        };
        self.draft.ping = match self.draft.ping.take() {
            None => Some(from),
            Some(old) => merge(&old, &from).or(Some(old)),
        };
    }

    /// Determines whether packets from other sources are rejected rather than dropped.
    pub(super) fn reject(&mut self, view: &AcceptTable<'_>, covered: &Covered) {
        let Some(s) = (0..view.sources.len()).find(|s| {
            let stranger = classes::stranger(view.family);
            view.sources
                .get(*s)
                .is_some_and(|source| source.example == stranger)
        }) else {
            return;
        };
        let i = view.interfaces.len().saturating_sub(1);
        if covered.covers(i, s) {
            return;
        }
        self.draft.reject |= view.refuses(i, s);
    }
}
