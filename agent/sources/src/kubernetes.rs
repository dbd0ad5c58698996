//! Follows the nodes of a Kubernetes cluster.
//!
//! The nodes are listed in pages, then watched from the revision of the list. A watch ends after a
//! minute. Then a small list that a majority of the cluster's store has agreed on shows that the
//! server is alive, not behind, and has as many nodes as are known here.

mod login;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use peerwall_proto::kubernetes::{
    ACCEPT_METADATA, AddressKind, Event, IDENTITY_PATH, Node, Page, event, failure, list,
    list_path, uid, watch_path,
};

use crate::config;
use crate::connection::{Endpoint, Times};
use crate::credentials::Vigil;
use crate::error::{Ended, Kind, Never, Step};
use crate::follow::{Follow, WATCH_MIN};
use crate::http::{Client, Line, Lines, Response};
use crate::members::{ADDRESSES_MAX, Answer};
use crate::report::Report;
use login::Login;

/// Nodes a page.
const PAGE: u32 = 500;
/// How often a list may begin again because its pages expired, or its revision was too old.
const LISTS_MAX: u32 = 3;

/// The nodes of a cluster.
pub(crate) struct Kubernetes {
    config: config::Kubernetes,
    times: Times,
    /// Origins of the addresses that count.
    kinds: Vec<AddressKind>,
    /// `None` if the nodes must be listed.
    known: Option<Known>,
}

/// What is known of a cluster.
struct Known {
    identity: String,
    /// Revision to watch from.
    revision: String,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Number of nodes without a usable name.
    unnamed: usize,
}

/// How a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// After its time.
    Regularly,
    /// The nodes must be listed again.
    Gone,
}

impl Kubernetes {
    pub(crate) fn new(config: &config::Kubernetes, times: Times) -> Self {
        let kind = |name: &String| match name.as_str() {
            "InternalIP" => Some(AddressKind::InternalIp),
            "ExternalIP" => Some(AddressKind::ExternalIp),
            "flannel" => Some(AddressKind::Flannel),
            _ => None,
        };
        let mut kinds: Vec<_> = config.address.iter().filter_map(kind).collect();
        if config.address.is_empty() {
            kinds = vec![
                AddressKind::InternalIp,
                AddressKind::ExternalIp,
                AddressKind::Flannel,
            ];
        }
        Self {
            config: config.clone(),
            times,
            kinds,
            known: None,
        }
    }

    fn follow(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Never> {
        let login = Login::read(&self.config, server, vigil)?;
        report.credential_ends(login.end());
        let endpoint = Endpoint {
            url: &login.url,
            tls: login.tls.as_ref(),
            server_name: login.server_name.as_deref(),
            times: self.times,
            vigil,
        };
        let mut talk = Talk {
            client: Client::open(&endpoint)?,
            login: &login,
            selector: self.config.selector.clone(),
        };
        // Lists without a watch in between that worked.
        let mut lists = 0;
        loop {
            if let Some(known) = &self.known {
                match talk.is_behind(known)? {
                    true => self.known = None,
                    false => report.answered(known.answer())?,
                }
            }
            if self.known.is_none() {
                lists += 1;
                if lists > LISTS_MAX {
                    let text =
                        format!("{}: revisions expire before they can be watched", login.url);
                    return Err(Ended::failed(Kind::Protocol, text));
                }
                self.known = self.list(&mut talk, report)?;
            }
            let (before, start) = (report.proofs(), Instant::now());
            let ended = self.watch(&mut talk, report)?;
            if ended == Watched::Gone {
                self.known = None;
            }
            if ended == Watched::Regularly {
                endpoint
                    .vigil
                    .sleep(WATCH_MIN.saturating_sub(start.elapsed()))?;
            }
            if ended == Watched::Regularly || report.proofs() > before {
                lists = 0;
            }
        }
    }

    /// Lists all nodes; `None` if the pages expired meanwhile.
    fn list(&self, talk: &mut Talk<'_>, report: &mut Report) -> Step<Option<Known>> {
        let identity = talk.identity()?;
        let mut known = Known {
            identity,
            revision: String::new(),
            nodes: BTreeMap::new(),
            unnamed: 0,
        };
        let mut next = None;
        loop {
            let Some(page) = talk.page(next.as_deref())? else {
                return Ok(None);
            };
            // All pages are of one revision; if not, changes since the first one are watched.
            if known.revision.is_empty() {
                known.revision = page.revision;
            }
            known.unnamed += page.unnamed;
            for node in page.nodes {
                self.put(&mut known, node, report);
            }
            if known.nodes.len() > ADDRESSES_MAX {
                let text = format!("more than {ADDRESSES_MAX} nodes; use a selector");
                return Err(Ended::failed(Kind::TooMany, text));
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        if known.unnamed > 0 {
            log::warn!(
                "{}: {} nodes without a usable name",
                report.source(),
                known.unnamed
            );
        }
        report.answered(known.answer())?;
        Ok(Some(known))
    }

    /// Adds or replaces a node. Returns whether its addresses changed.
    fn put(&self, known: &mut Known, node: Node, report: &Report) -> bool {
        let counts = node
            .addresses
            .iter()
            .filter(|each| self.kinds.contains(&each.kind));
        let mut addresses: Vec<IpAddr> = counts.map(|each| each.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let is_same = known.nodes.get(&node.name) == Some(&addresses);
        if !is_same {
            for reason in &node.refused {
                log::warn!(
                    "{}: node {:?} refused: {reason}",
                    report.source(),
                    node.name
                );
            }
            known.nodes.insert(node.name, addresses);
        }
        !is_same
    }

    /// Watches until the server ends it.
    fn watch(&mut self, talk: &mut Talk<'_>, report: &mut Report) -> Step<Watched> {
        let Some(mut known) = self.known.take() else {
            return Ok(Watched::Gone);
        };
        let ended = self.watch_from(&mut known, talk, report);
        // It is kept even after a failure: the next server goes on from there.
        self.known = Some(known);
        ended
    }

    fn watch_from(
        &self,
        known: &mut Known,
        talk: &mut Talk<'_>,
        report: &mut Report,
    ) -> Step<Watched> {
        let url = &talk.login.url;
        let path = watch_path(
            talk.selector.as_deref(),
            &known.revision,
            self.times.watch.as_secs().max(1),
        );
        let response = talk
            .client
            .exchange(&talk.login.request(&path, "application/json"))?;
        if response.status == 410 {
            response.body.beginning()?;
            return Ok(Watched::Gone);
        }
        let response = expect_ok(talk.login, response)?;
        let mut lines = Lines::new(response.body);
        let mut heard = Instant::now();
        let mut is_changed = false;
        loop {
            let line = match lines.following()? {
                Line::Text(line) => line,
                Line::End => return Ok(Watched::Regularly),
                Line::Quiet if heard.elapsed() > self.times.watch * 3 / 2 => {
                    let seconds = heard.elapsed().as_secs();
                    let text = format!("{url}: the watch is silent for {seconds} s");
                    return Err(Ended::failed(Kind::Timeout, text));
                }
                Line::Quiet => continue,
            };
            heard = Instant::now();
            let mut is_proof = false;
            match event(&line)? {
                Event::Put(node) => {
                    known.advance(&node.revision);
                    is_changed |= self.put(known, node, report);
                }
                Event::Deleted(node) => {
                    known.advance(&node.revision);
                    is_changed |= known.nodes.remove(&node.name).is_some();
                }
                Event::Bookmark(revision) => {
                    known.advance(&revision);
                    is_proof = true;
                }
                // The next list counts it.
                Event::Unnamed => log::warn!("{}: a node without a usable name", report.source()),
                Event::Failed(failure) if failure.is_gone() => return Ok(Watched::Gone),
                Event::Failed(failure) => {
                    let text = format!("{url}: the watch failed: {}", failure.message);
                    return Err(Ended::failed(Kind::Unreachable, text));
                }
            }
            // A burst is written once.
            if (is_changed || is_proof) && !lines.has_line() {
                report.answered(known.answer())?;
                is_changed = false;
            }
        }
    }
}

impl Follow for Kubernetes {
    fn servers(&self) -> usize {
        self.config.server.len().max(1)
    }

    fn attempt(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Never> {
        self.follow(server, report, vigil)
    }
}

impl Known {
    fn answer(&self) -> Answer {
        let mut answer = Answer {
            identity: self.identity.clone(),
            revision: self.revision.parse().ok(),
            members: BTreeMap::new(),
        };
        for (name, addresses) in &self.nodes {
            for address in addresses {
                // Names ascend: of several nodes with an address, the first one is named.
                answer
                    .members
                    .entry(*address)
                    .or_insert_with(|| name.clone());
            }
        }
        answer
    }

    /// Records the revision of an event, if it is newer.
    fn advance(&mut self, revision: &str) {
        let number = |text: &str| text.parse::<u64>().ok();
        let is_older = match (number(revision), number(&self.revision)) {
            (Some(new), Some(old)) => new < old,
            _ => revision.is_empty(),
        };
        if !is_older {
            self.revision = revision.to_owned();
        }
    }
}

/// A connection to a server.
struct Talk<'t> {
    client: Client<'t>,
    login: &'t Login,
    selector: Option<String>,
}

impl Talk<'_> {
    /// Returns the identity of the cluster: the UID of a namespace that every cluster has, or a
    /// digest of its authority if that may not be read.
    fn identity(&mut self) -> Step<String> {
        let response = self
            .client
            .exchange(&self.login.request(IDENTITY_PATH, "application/json"))?;
        if matches!(response.status, 403 | 404) {
            response.body.beginning()?;
            let tls = self.login.tls.as_ref();
            let digest = tls.and_then(|tls| tls.ca_digest.clone());
            return Ok(digest.unwrap_or_else(|| "-".to_owned()));
        }
        Ok(uid(expect_ok(self.login, response)?.body)?)
    }

    /// Reads one page of the list; `None` if the list must begin again.
    fn page(&mut self, next: Option<&str>) -> Step<Option<Page>> {
        let path = list_path(self.selector.as_deref(), PAGE, next);
        let response = self
            .client
            .exchange(&self.login.request(&path, "application/json"))?;
        if response.status == 410 {
            response.body.beginning()?;
            return Ok(None);
        }
        Ok(Some(list(expect_ok(self.login, response)?.body)?))
    }

    /// Whether nodes may have changed in a way that the watch did not show. The list without a
    /// revision is one that a majority of the cluster's store has agreed on.
    fn is_behind(&mut self, known: &Known) -> Step<bool> {
        let path = list_path(self.selector.as_deref(), 1, None);
        let response = self
            .client
            .exchange(&self.login.request(&path, ACCEPT_METADATA))?;
        let page = list(expect_ok(self.login, response)?.body)?;
        let number = |text: &str| text.parse::<u64>().ok();
        if let (Some(now), Some(before)) = (number(&page.revision), number(&known.revision))
            && now < before
        {
            return Ok(true);
        }
        let on_page = page.nodes.len() + page.unnamed;
        let count = match (page.remaining, &page.next) {
            (Some(remaining), _) => Some(remaining + on_page as u64),
            (None, None) => Some(on_page as u64),
            // With a selector the number of the others is unknown.
            (None, Some(_)) => None,
        };
        let expected = (known.nodes.len() + known.unnamed) as u64;
        Ok(count.is_some_and(|count| count != expected))
    }
}

/// Returns the response if it is a success.
fn expect_ok<'c, 'e>(login: &Login, response: Response<'c, 'e>) -> Step<Response<'c, 'e>> {
    if response.status == 200 {
        return Ok(response);
    }
    let status = response.status;
    let body = response.body.beginning()?;
    let said = failure(&body)
        .map(|failure| failure.message)
        .unwrap_or_default();
    let url = &login.url;
    let credential = login.name();
    let (kind, text) = match status {
        401 => (
            Kind::Unauthorized,
            format!("401 from {url}: {credential} is not accepted; renew it"),
        ),
        403 => (
            Kind::Forbidden,
            format!("403 from {url}: {credential} needs get, list and watch on nodes: {said}"),
        ),
        404 => (
            Kind::NotFound,
            format!("404 from {url}: is it an API server? {said}"),
        ),
        429 | 500..=599 => (Kind::Unreachable, format!("{status} from {url}: {said}")),
        _ => (Kind::Protocol, format!("{status} from {url}: {said}")),
    };
    Err(Ended::failed(kind, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(nodes: &[(&str, &[&str])]) -> Known {
        let pair = |(name, addresses): &(&str, &[&str])| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap());
            ((*name).to_owned(), addresses.collect())
        };
        Known {
            identity: "a".to_owned(),
            revision: "7".to_owned(),
            nodes: nodes.iter().map(pair).collect(),
            unnamed: 0,
        }
    }

    #[test]
    fn each_address_is_named_once() {
        let answer = known(&[
            ("b", &["10.0.0.1", "10.0.0.2"]),
            ("a", &["10.0.0.1"]),
            ("c", &[]),
        ]);
        let answer = answer.answer();
        let pairs: Vec<_> = answer
            .members
            .iter()
            .map(|(at, name)| format!("{at} {name}"))
            .collect();
        assert_eq!(pairs, ["10.0.0.1 a", "10.0.0.2 b"]);
        assert_eq!(answer.revision, Some(7));
    }

    #[test]
    fn revisions_only_grow() {
        let mut known = known(&[]);
        for (given, want) in [
            ("6", "7"),
            ("", "7"),
            ("10", "10"),
            ("9", "10"),
            ("x1", "x1"),
        ] {
            known.advance(given);
            assert_eq!(known.revision, want, "{given}");
        }
    }
}
