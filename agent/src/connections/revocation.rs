//! Open connections that a policy refuses: selects those that end, and reports them.

use std::cmp::Reverse;
use std::fmt::Write as _;

use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::revoke::Refused;
use peerwall_core::words::count;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::connections::{Connections, Ended, Kinds, Which};
use crate::host::caller::{Caller, Ssh};
use crate::json::EndedConnections;

/// Groups listed in text output; `--json` lists all.
const KINDS_SHOWN: usize = 20;
/// Whether packets are forwarded, by family.
const FORWARDING: [&str; 2] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
];
/// Advice for connections that stay.
const HOW_TO_END: &str = "to end them too: peerwall apply --end-refused\n";

/// Selects the connections that end when a policy is applied. At the first load, all that it
/// refuses: no earlier policy admitted any.
pub fn which(is_first: bool, cut: bool, end_refused: bool) -> Which<'static> {
    match (cut || end_refused, is_first || end_refused) {
        (false, _) => Which::None,
        (true, true) => Which::All,
        (true, false) => Which::Revoked,
    }
}

/// Returns the ssh connections that stay in any case, so that the caller can undo the policy: the
/// caller's own; with `--force` and if that is unknown, all that may be the caller's.
pub fn spared(caller: &Caller, force: bool) -> Vec<Ssh> {
    match &caller.ssh {
        Some(ssh) => vec![ssh.clone()],
        None if force => caller.maybe.clone(),
        None => Vec::new(),
    }
}

/// Group of open connections that a policy would not admit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OpenConnections")]
pub struct ConnectionGroup {
    /// Common properties; `None` for the connections beyond the maximum number of groups.
    #[serde(flatten)]
    refused: Option<Refused>,
    /// Number of connections.
    count: usize,
    /// Whether `apply` ends them.
    ends: bool,
    /// Whether the policy refuses them; otherwise that depends on the interface that they use,
    /// which is unknown.
    is_judged: bool,
}

/// Returns the open connections that a policy would not admit, in groups: first those that `apply`
/// ends.
pub fn survey(old: Option<&Ruleset>, new: &Ruleset, which: Which<'_>) -> Vec<ConnectionGroup> {
    let found = Connections::open().and_then(|mut open| open.refused(old, new));
    let (refused, unsure) = found.unwrap_or_else(|err| {
        log::warn!("open connections cannot be read: {err}");
        Default::default()
    });
    let ends = |was_admitted: bool| match which {
        Which::None => false,
        Which::Revoked => was_admitted,
        Which::All | Which::Younger(_) => true,
    };
    sorted([of(refused, true, ends), of(unsure, false, |_| false)].concat())
}

/// Lists groups of connections, with whether they end.
fn of(found: Kinds, is_judged: bool, ends: impl Fn(bool) -> bool) -> Vec<ConnectionGroup> {
    let kind = |refused, was_admitted, count| ConnectionGroup {
        refused,
        count,
        ends: ends(was_admitted),
        is_judged,
    };
    let of_kind = found.of_kind.into_iter().map(|(refused, count)| {
        let was_admitted = refused.was_admitted;
        kind(Some(refused), was_admitted, count)
    });
    let others = found.others.into_iter();
    let others = others.map(|(was_admitted, count)| kind(None, was_admitted, count));
    of_kind.chain(others).collect()
}

fn sorted(mut kinds: Vec<ConnectionGroup>) -> Vec<ConnectionGroup> {
    // `false` sorts before `true`.
    kinds.sort_by_key(|kind| {
        let is_rest = kind.refused.is_none();
        (!kind.ends, !kind.is_judged, is_rest, Reverse(kind.count))
    });
    kinds
}

/// Writes the text for `plan`.
pub fn planned_text(kinds: &[ConnectionGroup], is_first: bool) -> String {
    let mut text = String::new();
    list(&mut text, kinds, true, true, |n| format!("{n} would end:"));
    list(&mut text, kinds, false, true, |n| {
        format!("{n} would stay open, although the policy refuses new connections like this:")
    });
    if kinds.iter().any(|kind| !kind.ends && kind.is_judged) {
        text.push_str(HOW_TO_END);
    }
    list(&mut text, kinds, false, false, not_known);
    text.push_str(&not_seen(is_first));
    text
}

fn not_known(count: String) -> String {
    format!(
        "{count} would stay open, because the policy admits such connections by some interfaces \
         only and the route to the source does not tell which one is used:"
    )
}

/// Writes the text for `apply`; empty if no connection is affected.
pub fn applied_text(outcome: &Ended, is_first: bool) -> String {
    let mut text = String::new();
    if outcome.ended > 0 {
        let ended = count(outcome.ended, "open connection");
        let _ = writeln!(text, "ended {ended}, which the policy refuses");
    }
    let kinds = left(outcome);
    list(&mut text, &kinds, false, true, |n| {
        format!("not ended, although the policy refuses new connections like this: {n}:")
    });
    if !outcome.left.is_empty() {
        text.push_str(HOW_TO_END);
    }
    list(&mut text, &kinds, false, false, |n| {
        format!(
            "not ended, because the policy admits such connections by some interfaces only and the \
             route to the source does not tell which one is used: {n}:"
        )
    });
    if let Some(why) = outcome.trouble.as_ref().filter(|_| outcome.ended > 0) {
        let _ = writeln!(
            text,
            "warning: {why}; a connection that ended may go on as soon as this host sends on it"
        );
    }
    text.push_str(&not_seen(is_first));
    text
}

/// The same for programs.
pub fn applied_json(outcome: &Ended) -> EndedConnections {
    EndedConnections {
        ended: outcome.ended,
        left: left(outcome),
        error: outcome.trouble.clone(),
    }
}

fn left(outcome: &Ended) -> Vec<ConnectionGroup> {
    let left = of(outcome.left.clone(), true, |_| false);
    sorted([left, of(outcome.unsure.clone(), false, |_| false)].concat())
}

fn list(
    text: &mut String,
    kinds: &[ConnectionGroup],
    ends: bool,
    is_judged: bool,
    headline: impl Fn(String) -> String,
) {
    let these = || {
        let these = kinds.iter();
        these.filter(|kind| kind.ends == ends && kind.is_judged == is_judged)
    };
    let all: usize = these().map(|kind| kind.count).sum();
    if all == 0 {
        return;
    }
    let _ = writeln!(text, "{}", headline(count(all, "open connection")));
    for kind in these().take(KINDS_SHOWN) {
        let _ = match &kind.refused {
            Some(refused) => writeln!(text, "  {} of {refused}", kind.count),
            None => writeln!(text, "  {} of other kinds", kind.count),
        };
    }
    let more = these().count().saturating_sub(KINDS_SHOWN);
    if more > 0 {
        let _ = writeln!(
            text,
            "  and {}; --json lists them all",
            count(more, "more kind")
        );
    }
}

/// Note about connections that are invisible at the first load.
fn not_seen(is_first: bool) -> String {
    let forwards = || {
        let read = FORWARDING
            .iter()
            .filter_map(|path| std::fs::read(path).ok());
        read.into_iter().any(|text| !text.starts_with(b"0"))
    };
    match is_first && forwards() {
        true => {
            "note: open connections through this host are not seen if nothing has tracked them \
            yet; the policy judges the next packet of each\n"
                .to_owned()
        }
        false => String::new(),
    }
}
