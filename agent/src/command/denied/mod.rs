//! `peerwall denied`

pub(super) mod rows;
pub(super) mod source;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use peerwall_core::denied::{Entry, LONGEST_SECONDS, Stream};
use peerwall_core::policy::Policy;
use peerwall_core::policy::initial::Listener;
use peerwall_core::policy::reason::Reason;
use schemars::JsonSchema;
use serde::Serialize;

use self::rows::{Row, rows};
use self::source::Source;
use super::{DONE, TROUBLE, policy_path};
use crate::cli::DeniedArgs;
use crate::host::facts;
use crate::host::listeners;
use crate::json::{Denials, DenialsAsked, Failure, LogReader};
use crate::output::{self, Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;

/// The result of `denied`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Denied")]
pub(super) struct DeniedPackets {
    /// The reader of the log group.
    reader: LogReader,
    /// Start of the time of which packets are listed, as RFC 3339.
    since: String,
    /// Reasons with their counts.
    reasons: Vec<ReasonCount>,
    /// Packets in groups, the largest first.
    rows: Vec<Row>,
    /// Number of rows that are left off.
    left_off: usize,
    /// Recorded packets of sources that are no longer kept, and are in no row.
    not_kept: u64,
    /// Packets that were logged, and not read in time.
    lost: u64,
    /// Packets that other programs logged to the group.
    foreign: u64,
}

/// Denied packets of a reason.
#[derive(Debug, Serialize, JsonSchema)]
struct ReasonCount {
    /// The reason.
    reason: Reason,
    /// Recorded packets since `since`.
    recorded: u64,
    /// Recorded packets since the record began.
    recorded_in_all: u64,
    /// Denied packets since the record began, by the counters of the rules; absent if they cannot
    /// be read.
    denied_in_all: Option<u64>,
    /// Denied packets since the record began that were not logged, because of the log's rate limit,
    /// or not read in time; absent if the counters cannot be read.
    not_recorded: Option<u64>,
}

pub(super) fn run(args: &DeniedArgs, output: &Output) -> u8 {
    let mut source = match Source::open(args) {
        Ok(source) => source,
        Err(failure) => return refuse(failure, output),
    };
    match args.follow {
        true => follow(args, &mut source, output),
        false => once(args, &mut source, output),
    }
}

fn refuse(failure: Failure, output: &Output) -> u8 {
    super::trouble("denied", failure, output)
}

fn once(args: &DeniedArgs, source: &mut Source, output: &Output) -> u8 {
    source.listen(args.listen, output);
    let asked = DenialsAsked {
        seconds: args.since.unwrap_or(LONGEST_SECONDS),
        after: 0,
        counters: true,
    };
    let denials = match source.denials(asked) {
        Ok(denials) => denials,
        Err(failure) => return refuse(failure, output),
    };
    note(&denials, output);
    let found = DeniedPackets::new(denials, &Known::find(args), args);
    match output.is_json() {
        true => output.json(&found),
        false if args.suggest => output.text(&found.patch()),
        false => output.text(&found.text()),
    }
    DONE
}

/// Prints packets as they are denied, until a signal ends it.
fn follow(args: &DeniedArgs, source: &mut Source, output: &Output) -> u8 {
    let known = Known::find(args);
    let mut stream = Stream::default();
    let mut is_first = true;
    loop {
        let asked = DenialsAsked {
            seconds: LONGEST_SECONDS,
            after: stream.stamp(),
            counters: false,
        };
        let mut denials = match source.denials(asked) {
            Ok(denials) => denials,
            Err(failure) => return refuse(failure, output),
        };
        if std::mem::take(&mut is_first) {
            note(&denials, output);
            stream.update(&denials.started, denials.stamp, denials.entries);
        } else {
            let entries = std::mem::take(&mut denials.entries);
            let Some(new) = stream.update(&denials.started, denials.stamp, entries) else {
                continue;
            };
            denials.entries = new;
            if !denials.entries.is_empty() {
                let found = DeniedPackets::new(denials, &known, args);
                match output.is_json() {
                    true => output.json(&found),
                    false => output.text(&found.lines()),
                }
            }
        }
        if output::is_over() || source.wait() {
            return if output::is_lost() { TROUBLE } else { DONE };
        }
    }
}

/// Says why nothing more is recorded.
fn note(denials: &Denials, output: &Output) {
    if let (LogReader::Other(why), false) = (&denials.reader, output.is_json()) {
        complain(&format!(
            "warning: denied packets are not recorded now: {why}\n"
        ));
    }
}

/// What is known of the sources and destinations of packets.
pub(super) struct Known {
    /// The policy; the default one if it cannot be read.
    policy: Policy,
    own: BTreeSet<IpAddr>,
    listeners: Vec<Listener>,
}

impl Known {
    fn find(args: &DeniedArgs) -> Self {
        let path = policy_path(&args.policy);
        let policy = match prepare(&path, &FileSystem::default()) {
            Ok(ready) => ready.policy,
            Err(_) => {
                complain(&format!(
                    "warning: {} cannot be loaded, so names and suggestions are missing; see \
                     `peerwall check`\n",
                    path.display()
                ));
                Policy::default()
            }
        };
        Self::new(policy)
    }

    /// Reads the addresses and programs of this host.
    pub(super) fn new(policy: Policy) -> Self {
        let addresses = facts::interfaces().into_iter();
        Self {
            policy,
            own: addresses.filter_map(|(_, address)| address).collect(),
            listeners: listeners::find(),
        }
    }
}

impl DeniedPackets {
    fn new(denials: Denials, known: &Known, args: &DeniedArgs) -> Self {
        let kept: u64 = denials.entries.iter().map(|entry| entry.packets).sum();
        let recorded: u64 = denials.totals.iter().map(|total| total.packets).sum();
        let reasons = reasons(&denials);
        let mut rows = rows(&denials.entries, known, args.by);
        let shown = match args.limit {
            0 => rows.len(),
            limit => rows.len().min(limit),
        };
        let left_off = rows.len() - shown;
        rows.truncate(shown);
        // A record that began later has nothing earlier.
        let since = time(denials.window_start).max(denials.started);
        Self {
            reader: denials.reader,
            since,
            reasons,
            rows,
            left_off,
            not_kept: if args.follow {
                0
            } else {
                recorded.saturating_sub(kept)
            },
            lost: denials.lost,
            foreign: denials.foreign,
        }
    }
}

/// Joins recorded packets with the counters of the rules.
fn reasons(denials: &Denials) -> Vec<ReasonCount> {
    let denied: Option<BTreeMap<&Reason, u64>> = denials.denied.as_ref().map(|denied| {
        let denied = denied.iter().filter(|(_, packets)| *packets > 0);
        denied.map(|(reason, packets)| (reason, *packets)).collect()
    });
    let recorded = denials.totals.iter().map(|total| (&total.reason, total));
    let recorded: BTreeMap<_, _> = recorded.collect();
    let counted = denied.iter().flat_map(|denied| denied.keys().copied());
    let all: BTreeSet<&Reason> = recorded.keys().copied().chain(counted).collect();
    let count = |reason: &Reason| {
        let total = recorded.get(reason);
        let in_all = total.map_or(0, |total| total.since_start);
        // Packets that came while counters were read may be missing in them.
        let denied = denied.as_ref();
        let denied = denied.map(|denied| denied.get(reason).copied().unwrap_or(0).max(in_all));
        ReasonCount {
            reason: reason.clone(),
            recorded: total.map_or(0, |total| total.packets),
            recorded_in_all: in_all,
            denied_in_all: denied,
            not_recorded: denied.map(|denied| denied - in_all),
        }
    };
    all.into_iter().map(count).collect()
}

/// Formats seconds since the Unix epoch as RFC 3339.
fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(String::new, |time| format!("{time:.0}"))
}

/// Whether a suggestion makes sense: the source belongs to somebody, or is at least of a private
/// network. Strangers of the Internet are what the policy is against.
fn is_suggested(row: &Row, entry: &Entry) -> bool {
    row.resembles.is_some() || peerwall_core::net::addr::is_private(entry.flow.source)
}
