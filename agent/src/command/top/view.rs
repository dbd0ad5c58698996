//! What a frame shows, as text and numbers.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use peerwall_core::rates::{Rate, Rates};
use peerwall_core::words::count;

use super::feed::Feed;
use crate::color::Meaning;
use crate::command::age;
use crate::command::denied::rows::Row;
use crate::command::history::happened;
use crate::command::sources::source_text;
use crate::command::status::Status;
use crate::command::status::counters::Line;
use crate::command::status::watch::CounterKey;
use crate::host::names::printable;
use crate::json::{AgentStatus, SourceStatus};
use crate::store::audit::AuditEvent;

/// Number of events that are shown.
const EVENTS_MAX: usize = 20;
/// Number of readings of which trends are drawn.
const TREND_MAX: usize = 60;

/// A frame.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Time of the reading, as RFC 3339.
    pub(super) time: String,
    /// Time of which rates are shown; `None` before the second reading.
    pub(super) elapsed: Option<Duration>,
    /// Why the last reading failed; the rest is of the one before.
    pub(super) error: Option<String>,
    /// The state of this host and of the agent, the most urgent first.
    pub(super) facts: Vec<Fact>,
    /// Counters of denied packets, by reason, the highest rate first.
    pub(super) denied: Vec<Counter>,
    /// Counters of accepted packets, by rule, the highest rate first.
    pub(super) accepted: Vec<Counter>,
    /// Denied and accepted packets per second.
    pub(super) trends: Trends,
    /// Denied packets, the newest first.
    pub(super) packets: Vec<DeniedRow>,
    /// Why none are recorded now.
    pub(super) packets_trouble: Option<String>,
    /// Events, the newest first.
    pub(super) events: Vec<EventRow>,
}

/// A sentence about this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// The sentence.
    pub(super) text: String,
    /// Its colour; `None` for none.
    pub(super) meaning: Option<Meaning>,
}

/// A counter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counter {
    /// What it counts.
    pub(super) what: String,
    /// Packets since it was created.
    pub(super) packets: u64,
    /// Packets and bytes per second.
    pub(super) rate: Rate,
}

/// Denied packets of a flow that came between two readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeniedRow {
    /// Age of the last one.
    pub(super) last: String,
    pub(super) packets: String,
    pub(super) reason: String,
    pub(super) from: String,
    pub(super) to: String,
    /// Owner of the source, and process that listens on the port.
    pub(super) remark: String,
}

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventRow {
    /// Its age.
    pub(super) age: String,
    pub(super) happened: String,
    pub(super) policy: String,
    pub(super) by: String,
}

/// Packets per second at the last readings, the newest last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Trends {
    pub(super) denied: VecDeque<f64>,
    pub(super) accepted: VecDeque<f64>,
}

impl Trends {
    fn add(&mut self, denied: &[Counter], accepted: &[Counter]) {
        let sum = |counters: &[Counter]| counters.iter().map(|each| each.rate.packets).sum();
        for (trend, counters) in [(&mut self.denied, denied), (&mut self.accepted, accepted)] {
            trend.push_back(sum(counters));
            let extra = trend.len().saturating_sub(TREND_MAX);
            trend.drain(..extra);
        }
    }
}

impl View {
    pub(super) fn new(
        status: &Status,
        rates: Option<&Rates<CounterKey>>,
        feed: &Feed,
        events: &[AuditEvent],
        trends: &mut Trends,
    ) -> Self {
        let (accepted, denied) = counters(&status.counters, rates);
        if rates.is_some() {
            trends.add(&denied, &accepted);
        }
        Self {
            time: String::new(),
            elapsed: rates.map(|rates| rates.elapsed),
            error: None,
            facts: facts(status),
            denied,
            accepted,
            trends: trends.clone(),
            packets: feed.rows().map(Into::into).collect(),
            packets_trouble: feed.trouble().map(printable),
            events: events
                .iter()
                .rev()
                .take(EVENTS_MAX)
                .map(Into::into)
                .collect(),
        }
    }
}

/// Splits counters into those of accepted and of denied packets, and leaves out those that counted
/// nothing.
fn counters(lines: &[Line], rates: Option<&Rates<CounterKey>>) -> (Vec<Counter>, Vec<Counter>) {
    let used = lines.iter().filter(|line| line.packets > 0);
    let counter = |line: &Line| Counter {
        what: what(line),
        packets: line.packets,
        rate: rates.map(|rates| rates.of(&line.key())).unwrap_or_default(),
    };
    let (accepted, denied): (Vec<&Line>, Vec<&Line>) = used.partition(|line| line.chain.is_some());
    let sorted = |lines: Vec<&Line>| {
        let mut counters: Vec<Counter> = lines.into_iter().map(counter).collect();
        counters.sort_by(|a, b| {
            let by_rate = b.rate.packets.total_cmp(&a.rate.packets);
            by_rate.then(b.packets.cmp(&a.packets))
        });
        counters
    };
    (sorted(accepted), sorted(denied))
}

/// Names what a counter counts, with its line of the policy.
fn what(line: &Line) -> String {
    let chain = line.chain.as_deref();
    let chain = chain.map_or_else(String::new, |chain| format!("{chain}: "));
    let place = line.place.as_ref().map_or_else(String::new, |place| {
        let file = Path::new(&place.file).file_name();
        let file = file.map_or_else(|| place.file.clone(), |name| name.display().to_string());
        format!("  [{}:{}]", printable(&file), place.line)
    });
    format!("{chain}{}{place}", line.subject)
}

/// States this host and the agent.
fn facts(status: &Status) -> Vec<Fact> {
    let plain = |text: String| Fact {
        text,
        meaning: None,
    };
    let with = |meaning, text: String| Fact {
        text,
        meaning: Some(meaning),
    };
    let mut facts = vec![with(status.meaning(), printable(&status.headline))];
    match (&status.agent, &status.agent_error) {
        (Some(agent), _) => {
            facts.push(plain(agent_text(agent)));
            let errors = agent.last_error.iter().map(|error| error.message.clone());
            let errors = errors.chain(agent.unsaved.clone());
            facts.extend(errors.map(|text| with(Meaning::Bad, printable(&text))));
            facts.extend(agent.sources.iter().map(source));
        }
        (None, Some(error)) => facts.push(with(Meaning::Bad, printable(&error.message))),
        (None, None) => facts.push(plain(
            "agent: none; a change of the rules by another program is not repaired".to_owned(),
        )),
    }
    facts
}

/// States a source of peers.
fn source(source: &SourceStatus) -> Fact {
    // Refused entries are in `peerwall sources`.
    let told = SourceStatus {
        refused: BTreeMap::new(),
        refused_examples: Vec::new(),
        ..source.clone()
    };
    let text = source_text(&told);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let refused: usize = source.refused.values().sum();
    let refused = match refused {
        0 => String::new(),
        entries => format!("; refused entries: {entries}"),
    };
    let needs_attention = source.is_stale || source.error.is_some() || source.held.is_some();
    Fact {
        text: printable(&format!("source {}{refused}", lines.join("; "))),
        meaning: needs_attention.then_some(Meaning::Attention),
    }
}

fn agent_text(agent: &AgentStatus) -> String {
    let in_sync = match agent.in_sync_seconds {
        Some(seconds) => format!("in sync for {}", age::duration(seconds)),
        None => "not in sync".to_owned(),
    };
    let repairs = agent
        .last_repair
        .as_ref()
        .map_or_else(String::new, |repair| {
            let by: Vec<String> = repair
                .by
                .iter()
                .map(|by| printable(&by.to_string()))
                .collect();
            let by = match by.is_empty() {
                true => "another process".to_owned(),
                false => by.join(", "),
            };
            format!(
                "; {}, the last {} after a change by {by}",
                count(agent.repairs, "repair"),
                age::ago(repair.seconds_ago)
            )
        });
    let storm = match agent.is_storm {
        true => "; others change the rules faster than they may be repaired",
        false => "",
    };
    format!("agent: pid {}, {in_sync}{repairs}{storm}", agent.pid)
}

impl From<&Row> for DeniedRow {
    fn from(row: &Row) -> Self {
        let [packets, last, reason, from, to, remark] = row.cells();
        Self {
            last,
            packets,
            reason,
            from,
            to,
            remark,
        }
    }
}

impl From<&AuditEvent> for EventRow {
    fn from(event: &AuditEvent) -> Self {
        let age = age::seconds_since(&event.time).map_or_else(|| event.time.clone(), age::ago);
        Self {
            age,
            happened: happened(event),
            policy: event.policy.as_deref().map(printable).unwrap_or_default(),
            by: printable(&event.by.to_string()),
        }
    }
}
