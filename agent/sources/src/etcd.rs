//! Follows flannel's leases in etcd.
//!
//! The leases are listed in pages of one revision, then watched from there. Once a minute a request
//! on a second connection, on which a majority of the members must agree, shows that no lease is
//! newer than what the watch brought, and that none is missing.

mod login;
mod refusal;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use peerwall_proto::etcd::{
    AUTHENTICATE_PATH, Change, GATEWAYS, Lease, LeaseKeys, Message, Part, RANGE_PATH,
    REQUIRE_LEADER, Range, WATCH_PATH, authenticate_body, message, range, range_body, token,
    watch_body,
};

use crate::config;
use crate::connection::{Endpoint, Times};
use crate::credentials::Vigil;
use crate::error::{Ended, Kind, Never, Step};
use crate::follow::{Follow, WATCH_MIN};
use crate::http::{Client, Line, Lines, Request};
use crate::members::{ADDRESSES_MAX, Answer};
use crate::report::Report;
use login::Login;
use refusal::{Refusal, refusal};

/// Leases a page.
const PAGE: u32 = 500;
/// flannel's default for `--etcd-prefix`.
const PREFIX: &str = "/coreos.com/network";
/// How often a list may begin again because its revision was compacted.
const LISTS_MAX: u32 = 3;

/// The leases of a flannel network.
pub(crate) struct Etcd {
    config: config::FlannelEtcd,
    keys: LeaseKeys,
    times: Times,
    /// `None` if the leases must be listed.
    known: Option<Known>,
}

/// What is known of a network.
struct Known {
    cluster: u64,
    /// Revision up to which all changes are known.
    revision: u64,
    leases: BTreeMap<String, Vec<IpAddr>>,
    /// Number of keys in the range that are not leases.
    unnamed: usize,
}

impl Etcd {
    pub(crate) fn new(config: &config::FlannelEtcd, times: Times) -> Self {
        Self {
            config: config.clone(),
            keys: LeaseKeys::new(config.prefix.as_deref().unwrap_or(PREFIX)),
            times,
            known: None,
        }
    }

    fn follow(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Never> {
        let login = Login::read(&self.config, server, vigil)?;
        let end = login.tls.as_ref().and_then(|tls| tls.certificate_end);
        report.credential_ends(end);
        let endpoint = Endpoint {
            url: &login.url,
            tls: login.tls.as_ref(),
            server_name: None,
            times: self.times,
            vigil,
        };
        let mut talk = Talk {
            client: Client::open(&endpoint)?,
            login: &login,
            keys: &self.keys,
            gateway: 0,
            token: None,
        };
        talk.authenticate()?;
        let mut watcher = Client::open(&endpoint)?;
        // Lists without a watch in between that worked.
        let mut lists = 0;
        loop {
            let is_behind = match &mut self.known {
                Some(known) => talk.is_behind(known)?,
                None => true,
            };
            if is_behind {
                lists += 1;
                if lists > LISTS_MAX {
                    let text = format!("{}: revisions are compacted too early", login.url);
                    return Err(Ended::failed(Kind::Protocol, text));
                }
                self.known = talk.list(report)?;
            }
            let Some(known) = &mut self.known else {
                continue;
            };
            report.answered(known.answer())?;
            let (before, start) = (report.proofs(), Instant::now());
            let ended = watch(known, &mut watcher, &mut talk, self.times, report)?;
            match ended {
                Watched::Gone => self.known = None,
                Watched::Ended => endpoint
                    .vigil
                    .sleep(WATCH_MIN.saturating_sub(start.elapsed()))?,
            }
            if report.proofs() > before {
                lists = 0;
            }
        }
    }
}

impl Follow for Etcd {
    fn servers(&self) -> usize {
        self.config.server.len()
    }

    fn attempt(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Never> {
        self.follow(server, report, vigil)
    }
}

/// How a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// It can be continued from the known revision.
    Ended,
    /// The leases must be listed again.
    Gone,
}

/// Watches until the server ends it, or leases were missed.
fn watch(
    known: &mut Known,
    watcher: &mut Client<'_>,
    talk: &mut Talk<'_>,
    times: Times,
    report: &mut Report,
) -> Step<Watched> {
    let (login, keys) = (talk.login, talk.keys);
    let body = watch_body(keys, known.revision + 1);
    let path = format!("{}{WATCH_PATH}", GATEWAYS[talk.gateway]);
    let response = watcher.exchange(&request(&path, &body, talk.token.as_deref()))?;
    if response.status != 200 {
        return Err(refusal(login, response)?.explain(login).into());
    }
    let mut lines = Lines::new(response.body);
    let mut proven = Instant::now();
    let mut is_heard = false;
    let mut is_changed = false;
    loop {
        let line = match lines.following()? {
            Line::Text(line) => line,
            Line::End if is_heard => return Ok(Watched::Ended),
            Line::End => {
                let text = format!("{}: it ended the watch without a message", login.url);
                return Err(Ended::failed(Kind::Unreachable, text));
            }
            Line::Quiet if proven.elapsed() >= times.watch => {
                if talk.is_behind(known)? {
                    return Ok(Watched::Gone);
                }
                report.answered(known.answer())?;
                proven = Instant::now();
                continue;
            }
            Line::Quiet => continue,
        };
        is_heard = true;
        match message(&line, keys)? {
            Message::Created => {}
            Message::Progress(revision) => {
                known.revision = known.revision.max(revision);
                report.answered(known.answer())?;
                proven = Instant::now();
            }
            Message::Changes { revision, changes } => {
                known.revision = known.revision.max(revision);
                for change in changes {
                    match change {
                        Change::Put(lease) => is_changed |= known.put(lease, report),
                        Change::Deleted(name) => is_changed |= known.leases.remove(&name).is_some(),
                        Change::Unnamed => return Ok(Watched::Gone),
                    }
                }
            }
            Message::Canceled {
                compacted: Some(_), ..
            } => return Ok(Watched::Gone),
            Message::Canceled {
                compacted: None,
                reason,
            } => {
                return Err(Refusal::of(0, reason).explain(login).into());
            }
            Message::Failed(failed) if failed.is_compacted() => return Ok(Watched::Gone),
            Message::Failed(failed) => {
                return Err(Refusal::of(failed.code, failed.message)
                    .explain(login)
                    .into());
            }
        }
        // A burst is written once.
        if is_changed && !lines.has_line() {
            report.answered(known.answer())?;
            is_changed = false;
        }
    }
}

impl Known {
    fn answer(&self) -> Answer {
        let mut answer = Answer {
            // As etcdctl prints it.
            identity: format!("{:x}", self.cluster),
            revision: Some(self.revision),
            members: BTreeMap::new(),
        };
        for (name, addresses) in &self.leases {
            for address in addresses {
                // Names ascend: of several leases with an address, the first one is named.
                answer
                    .members
                    .entry(*address)
                    .or_insert_with(|| name.clone());
            }
        }
        answer
    }

    /// Adds or replaces a lease. Returns whether its addresses changed.
    fn put(&mut self, lease: Lease, report: &Report) -> bool {
        let is_same = self.leases.get(&lease.name) == Some(&lease.addresses);
        if !is_same {
            for reason in &lease.refused {
                log::warn!(
                    "{}: lease {:?} refused: {reason}",
                    report.source(),
                    lease.name
                );
            }
            self.leases.insert(lease.name, lease.addresses);
        }
        !is_same
    }
}

/// A connection for requests with one answer.
struct Talk<'t> {
    client: Client<'t>,
    login: &'t Login,
    keys: &'t LeaseKeys,
    /// Number of the prefix of paths that the server has.
    gateway: usize,
    token: Option<String>,
}

impl Talk<'_> {
    /// Gets a token, if there is a user.
    fn authenticate(&mut self) -> Step<()> {
        let login = self.login;
        let (Some(user), Some(password)) = (&login.user, &login.password) else {
            return Ok(());
        };
        let text = String::from_utf8_lossy(&password.text);
        let body = authenticate_body(user, text.trim_end_matches(['\r', '\n']));
        self.token = None;
        self.token = Some(self.post(AUTHENTICATE_PATH, &body, false, |body| token(body))?);
        Ok(())
    }

    /// Lists all leases; `None` if the revision was compacted meanwhile.
    fn list(&mut self, report: &mut Report) -> Step<Option<Known>> {
        let mut known: Option<Known> = None;
        let mut last: Option<(Vec<u8>, u64)> = None;
        loop {
            let part = Part {
                after: last
                    .as_ref()
                    .map(|(key, revision)| (key.as_slice(), *revision)),
                limit: PAGE,
                ..Part::default()
            };
            let page = self.range(&part);
            let page = match page {
                // The revision of the pages before was compacted.
                Err(Ended::Failed(err)) if err.kind == Kind::NotFound && last.is_some() => {
                    return Ok(None);
                }
                other => other?,
            };
            let known = known.get_or_insert_with(|| Known {
                cluster: page.cluster,
                revision: page.revision,
                leases: BTreeMap::new(),
                unnamed: 0,
            });
            known.unnamed += page.unnamed;
            for lease in page.leases {
                known.put(lease, report);
            }
            if known.leases.len() > ADDRESSES_MAX {
                let text = format!("more than {ADDRESSES_MAX} leases");
                return Err(Ended::failed(Kind::TooMany, text));
            }
            match page.next {
                Some(key) => last = Some((key, known.revision)),
                None => break,
            }
        }
        Ok(known)
    }

    fn range(&mut self, part: &Part<'_>) -> Step<Range> {
        let keys = self.keys;
        self.post(RANGE_PATH, &range_body(keys, part), true, |body| {
            range(body, keys)
        })
    }

    /// Whether leases changed in a way that the watch did not show. If not, all changes up to the
    /// revision of the answer are known.
    fn is_behind(&mut self, known: &mut Known) -> Step<bool> {
        let changed = self.range(&Part {
            modified_since: Some(known.revision + 1),
            limit: 1,
            ..Part::default()
        })?;
        let is_same = changed.cluster == known.cluster
            && changed.revision >= known.revision
            && changed.leases.is_empty()
            && changed.unnamed == 0
            && changed.count == (known.leases.len() + known.unnamed) as u64;
        if is_same {
            known.revision = changed.revision;
        }
        Ok(!is_same)
    }

    /// Sends a request and reads the answer. Finds the prefix of paths, and renews the token.
    fn post<T>(
        &mut self,
        path: &str,
        body: &str,
        may_renew: bool,
        read: impl Fn(crate::http::Body<'_, '_>) -> std::io::Result<T>,
    ) -> Step<T> {
        let login = self.login;
        let mut is_renewed = !may_renew || login.user.is_none();
        loop {
            let full = format!("{}{path}", GATEWAYS[self.gateway]);
            let response = self
                .client
                .exchange(&request(&full, body, self.token.as_deref()))?;
            let status = response.status;
            if status == 200 {
                return Ok(read(response.body)?);
            }
            let refused = refusal(login, response)?;
            if status == 404 && self.gateway + 1 < GATEWAYS.len() {
                self.gateway += 1;
            } else if refused.is_token_invalid && !is_renewed {
                is_renewed = true;
                self.authenticate()?;
            } else {
                return Err(refused.explain(login).into());
            }
        }
    }
}

fn request<'r>(path: &'r str, body: &'r str, token: Option<&'r str>) -> Request<'r> {
    let mut headers = vec![REQUIRE_LEADER];
    if let Some(token) = token {
        headers.push(("Authorization", token));
    }
    Request {
        path,
        body: Some(body),
        headers,
    }
}
