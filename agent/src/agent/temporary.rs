//! Temporary peers: `peerwall peer add` and `remove`.
//!
//! They are elements of small sets beside those of the policy, so that adding one takes the same
//! time however many peers the policy has. The kernel removes an element at its end even if no
//! agent runs; the agent is a moment earlier, and ends its connections.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use peerwall_core::agent::keep::Refusal;
use peerwall_core::agent::reconcile::Input;
use peerwall_core::policy::{End, TemporaryPeer};
use peerwall_core::ruleset::temporary;
use sd_notify::NotifyState;

use super::beliefs::ReloadOutcome;
use super::requests::refused;
use super::{Agent, notify};
use crate::control::{Answer, PeerAsked, PeerWish, Reply};
use crate::host::names::printable;
use crate::json::{ErrorCode, Failure, TemporaryPeerStatus, TemporaryPeers};
use crate::store;
use crate::store::temporary::{Added, Temporary};

/// Maximum number of temporary peers: what is permanent belongs in the policy.
const PEERS_MAX: usize = 1024;

impl Agent {
    /// Takes over the temporary peers of an earlier agent.
    pub(super) fn take_up_temporary(&mut self) {
        self.temporary = self.state.temporary().unwrap_or_else(|err| {
            log::warn!("{err}");
            None
        });
    }

    /// Answers a request about temporary peers.
    pub(super) fn peer(&mut self, asked: PeerAsked) -> Answer {
        match asked {
            PeerAsked::List => self.peer_list(String::new()),
            PeerAsked::Add(wish) => self.add_peer(wish),
            PeerAsked::Remove(name) => self.remove_peer(&name),
        }
    }

    fn peer_list(&self, text: String) -> Answer {
        let list = TemporaryPeers {
            temporary_peers: self.temporary_status(),
        };
        Answer::new(text, Reply::Peers(list))
    }

    /// Describes the temporary peers.
    pub(super) fn temporary_status(&self) -> Vec<TemporaryPeerStatus> {
        let now = store::uptime();
        let peers = self.temporary.iter().flat_map(|list| &list.peers);
        let status = |peer: &Added| TemporaryPeerStatus {
            name: peer.name.clone(),
            address: peer.address,
            end: peer.end.as_ref().map(|end| end.time.clone()),
            seconds_left: peer
                .end
                .as_ref()
                .map(|end| end.uptime.saturating_sub(now).as_secs()),
            is_kept: peer.is_kept,
            in_force: self.accepts_temporary(peer.address),
        };
        peers.map(status).collect()
    }

    /// Whether the wanted rules accept a temporary peer.
    fn accepts_temporary(&self, address: IpAddr) -> bool {
        let wanted = self.belief.wanted.as_ref();
        let mut in_force = wanted
            .into_iter()
            .flat_map(|wanted| temporary::addresses(&wanted.kept.ruleset));
        in_force.any(|each| each == address)
    }

    fn add_peer(&mut self, wish: PeerWish) -> Answer {
        let address = wish.address;
        if let Some(answer) = self.refuse_peer(&wish) {
            return answer;
        }
        let before = self.temporary.clone();
        let now = store::uptime();
        let list = self.temporary.get_or_insert_default();
        list.peers.retain(|peer| peer.address != address);
        if list.peers.len() >= PEERS_MAX {
            self.temporary = before;
            return not_done(format!(
                "there are {PEERS_MAX} temporary peers; write those that stay into the policy"
            ));
        }
        let end = wish.seconds.map(|seconds| end_after(seconds, now));
        list.peers.push(Added {
            name: wish.name.clone(),
            address,
            end: end.clone(),
            is_kept: wish.keep,
        });
        if let Err(answer) = self.load_temporary() {
            self.go_back_to(before);
            return *answer;
        }
        if !self.accepts_temporary(address) {
            self.go_back_to(before);
            return not_done(
                "the rules in force come from no policy that can be compiled again; see `peerwall \
                 status`"
                    .to_owned(),
            );
        }
        let name = &wish.name;
        let until = end.map_or_else(
            || "until it is removed".to_owned(),
            |end| format!("until {}", end.time),
        );
        log::info!(
            event = "peer_added", name, address:%, by = "peer add";
            "added the temporary peer {name} ({address}) {until}"
        );
        let rest = match wish.keep {
            true => "",
            false => ", or until the policy is loaded again",
        };
        let text = format!("added peer {name} ({address}) {until}{rest}");
        self.peer_list(text)
    }

    /// Refuses a peer that cannot be added.
    fn refuse_peer(&self, wish: &PeerWish) -> Option<Answer> {
        if self.is_blocked() {
            return Some(refused(Refusal::Blocked));
        }
        let name = printable(&wish.name);
        if !temporary::is_name(&wish.name) {
            return Some(not_done(format!(
                "`{name}` cannot be the name of a peer: names consist of at most 63 letters, \
                 digits, `-`, `_` and `.`, and start with a letter or digit"
            )));
        }
        if wish.seconds.is_some() && self.backend.is_iptables() {
            return Some(not_done(
                "iptables has no rules that end by themselves; add the peer without --for, and \
                 remove it with `peerwall peer remove`"
                    .to_owned(),
            ));
        }
        let Some(wanted) = &self.belief.wanted else {
            return Some(not_done("no policy is in force".to_owned()));
        };
        let checked = temporary::check(&wanted.kept.ruleset, wish.address);
        checked.err().map(|why| {
            let why = why.sentence();
            not_done(format!("{} cannot be a peer: {why}", wish.address))
        })
    }

    fn remove_peer(&mut self, asked: &str) -> Answer {
        let address: Option<IpAddr> = asked.parse().ok();
        let is_it = |peer: &mut Added| peer.name == asked || Some(peer.address) == address;
        let before = self.temporary.clone();
        let list = self.temporary.iter_mut();
        let removed: Vec<Added> = list
            .flat_map(|list| list.peers.extract_if(.., is_it))
            .collect();
        if removed.is_empty() {
            return not_done(format!(
                "there is no temporary peer `{}`; see `peerwall peer list`. Peers of the policy \
                 are removed there",
                printable(asked)
            ));
        }
        let unsaved = match self.load_temporary() {
            Ok(unsaved) => unsaved,
            Err(answer) => {
                self.go_back_to(before);
                return *answer;
            }
        };
        report(&removed, "peer remove");
        let names = removed.iter();
        let names = names.map(|peer| format!("removed peer {} ({})", peer.name, peer.address));
        let mut lines: Vec<String> = names.collect();
        let (connections, _) = std::mem::take(&mut self.outcome.connections);
        lines.extend((!connections.is_empty()).then_some(connections));
        lines.extend(unsaved.map(|why| format!("warning: {why}")));
        self.peer_list(lines.join("\n"))
    }

    /// Loads the current list of temporary peers, and saves it. Returns a warning if it cannot be
    /// saved.
    fn load_temporary(&mut self) -> Result<Option<String>, Box<Answer>> {
        self.outcome = ReloadOutcome {
            is_logged: true,
            ..ReloadOutcome::default()
        };
        if self.put_temporary() || self.recompile_wanted() {
            self.members.saves_later = true;
            self.feed(Input::Wanted);
            self.members.saves_later = false;
        }
        if let Some(Err(why)) = self.outcome.converged.take() {
            return Err(Box::new(Answer::failed(
                format!("error: {why}"),
                why.into(),
            )));
        }
        let unsaved = self.save_temporary();
        notify(&[NotifyState::Status(&self.headline())]);
        Ok(unsaved)
    }

    /// Puts the current temporary peers into the wanted ruleset. Returns `false` if it has no rules
    /// for them and must be compiled again.
    pub(super) fn put_temporary(&mut self) -> bool {
        let (Some(wanted), Some(list)) = (&mut self.belief.wanted, &self.temporary) else {
            return false;
        };
        let ruleset = &mut wanted.kept.ruleset;
        let peers = list.at(store::uptime()).into_iter();
        let possible = peers.filter(|peer| temporary::check(ruleset, peer.address).is_ok());
        let possible: Vec<TemporaryPeer> = possible.collect();
        temporary::replace(ruleset, &possible)
    }

    /// Restores the list after a change that could not be loaded.
    fn go_back_to(&mut self, before: Option<Temporary>) {
        self.temporary = before;
        if let Err(answer) = self.load_temporary() {
            log::warn!("{}", answer.text);
        }
    }

    /// Returns the time of the next end.
    pub(super) fn temporary_deadline(&self) -> Option<Instant> {
        let end = self.temporary.as_ref()?.next_end()?;
        Some(Instant::now() + end.saturating_sub(store::uptime()))
    }

    /// Removes the peers whose time is over.
    pub(super) fn end_temporary(&mut self) {
        let list = self.temporary.iter_mut();
        let ended: Vec<Added> = list
            .flat_map(|list| list.take_ended(store::uptime()))
            .collect();
        if ended.is_empty() {
            return;
        }
        report(&ended, "its time");
        if let Err(answer) = self.load_temporary() {
            // The kernel removes it too.
            log::warn!("{}", answer.text);
        }
    }

    /// Removes the temporary peers that are not kept from the list, because the policy is loaded
    /// again. Returns the list from before.
    pub(super) fn without_temporary(&mut self) -> Option<Temporary> {
        let before = self.temporary.clone();
        self.temporary = self.temporary.take().and_then(Temporary::kept);
        before
    }

    /// Logs and saves what [`Self::without_temporary`] removed.
    pub(super) fn note_dropped(&mut self, before: Option<Temporary>) {
        if before == self.temporary {
            return;
        }
        let peers = before.into_iter().flat_map(|list| list.peers);
        let dropped: Vec<Added> = peers.filter(|peer| !peer.is_kept).collect();
        report(&dropped, "the reload");
        self.save_temporary();
    }

    /// Saves the temporary peers. Returns what is wrong if an agent that starts could find peers
    /// that were removed.
    fn save_temporary(&self) -> Option<String> {
        let err = self.state.set_temporary(self.temporary.as_ref()).err()?;
        log::warn!(
            event = "not_saved";
            "cannot save the temporary peers, so they end when the agent restarts: {err}"
        );
        // An old list would bring back what was removed. Deleting needs no space.
        let err = self.state.set_temporary(None).err()?;
        let why = format!("removed peers are back when the agent restarts: {err}");
        log::error!(event = "not_saved"; "{why}");
        Some(why)
    }
}

fn end_after(seconds: u64, now: Duration) -> End {
    let seconds_signed = i64::try_from(seconds).unwrap_or(i64::MAX);
    let time = Timestamp::now().saturating_add(SignedDuration::from_secs(seconds_signed));
    End {
        uptime: now + Duration::from_secs(seconds),
        time: time.map_or_else(|_| "ever".to_owned(), |time| format!("{time:.0}")),
    }
}

fn report(removed: &[Added], by: &str) {
    for Added { name, address, .. } in removed {
        log::info!(
            event = "peer_removed", name, address:%, by;
            "removed the temporary peer {name} ({address}): {by}"
        );
    }
}

fn not_done(why: String) -> Answer {
    Answer::failed(
        format!("{why}\nnothing was changed"),
        Failure::new(ErrorCode::PeerUnchanged, why),
    )
}
