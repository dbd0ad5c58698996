//! `peerwall trace`

mod packets;
mod send;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use peerwall_core::backend::BackendError;
use peerwall_core::explain::{icmp_type, transport};
use peerwall_core::nft::tracing::Filter;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, TROUBLE, policy_path, trouble};
use crate::cli::TraceArgs;
use crate::enforce::nft::Kernel;
use crate::host::{rules, settings};
use crate::json::{ErrorCode, Failure};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::tracing::Tracing;
use crate::output::{Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;
use crate::system::signals;
use packets::{Names, Packets, TracedPacket};

/// The result of `trace`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Trace")]
pub(super) struct Traced {
    /// What happened to the packets.
    outcome: TraceOutcome,
    /// The packets, in order.
    packets: Vec<TracedPacket>,
    /// Whether tables of iptables-legacy are loaded, which the kernel does not trace.
    has_legacy: bool,
    /// Whether the kernel reported more than could be read.
    is_incomplete: bool,
}

/// What happened to all traced packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TraceOutcome {
    /// No packet came.
    None,
    /// Nothing dropped a packet.
    Accepted,
    /// Packets were dropped.
    Denied,
}

/// Longest wait for an event, after which signals are looked at.
const STEP: Duration = Duration::from_millis(100);

pub(super) fn run(args: &TraceArgs, output: &Output) -> u8 {
    let fail = |code, why: String| trouble("trace", Failure::new(code, why), output);
    let filter = match filter(args) {
        Ok(filter) => filter,
        Err(why) => return fail(ErrorCode::InputInvalid, why),
    };
    let files = FileSystem::default();
    // Without a policy, the packets are shown all the same.
    let ready = prepare(&policy_path(&args.policy), &files).ok();
    let is_over = match signals::ending() {
        Ok(is_over) => is_over,
        Err(err) => return trouble("trace", Failure::io(&err), output),
    };
    let generation = Kernel::open().and_then(|mut kernel| kernel.generation());
    if let Err(BackendError::Missing(why)) = generation {
        return fail(ErrorCode::BackendUnavailable, why);
    }
    let mut tracing = match Tracing::start(&filter) {
        Ok(tracing) => tracing,
        Err(err) => return fail(ErrorCode::BackendRejected, refused(&err)),
    };
    let loaded = match rules::read_with_printed() {
        Ok(loaded) => loaded,
        Err(err) => return fail(ErrorCode::BackendUnavailable, err.to_string()),
    };
    let names = Names::new(loaded, ready.as_ref(), tracing.table());
    if args.send
        && let Err(why) = send::start(&filter)
    {
        return fail(ErrorCode::InputInvalid, why);
    }
    let mut packets = Packets::default();
    let until = Instant::now() + Duration::from_secs(args.r#for);
    let mut shown = 0;
    while !is_over.load(Ordering::Relaxed) {
        match tracing.next(until.min(Instant::now() + STEP)) {
            Ok(events) => packets.add(events, tracing.table()),
            Err(NetlinkError::Lost) => packets.is_incomplete = true,
            Err(err) => return fail(ErrorCode::BackendUnavailable, err.to_string()),
        }
        let is_last = Instant::now() >= until;
        let left = args.count.saturating_sub(packets.done.len());
        for packet in packets.finished(is_last, left, &names) {
            shown += 1;
            if !output.is_json() {
                output.text(&packet.text(shown));
            }
            packets.done.push(packet);
        }
        if is_last || packets.done.len() >= args.count {
            break;
        }
    }
    drop(tracing);
    finish(packets, output)
}

fn finish(packets: Packets, output: &Output) -> u8 {
    let has_legacy = settings::has_legacy();
    let denied = packets.done.iter().any(TracedPacket::is_denied);
    let outcome = match (packets.done.is_empty(), denied) {
        (true, _) => TraceOutcome::None,
        (false, true) => TraceOutcome::Denied,
        (false, false) => TraceOutcome::Accepted,
    };
    if packets.is_incomplete {
        complain("some events were lost: the ways that are shown may have gaps");
    }
    if has_legacy {
        complain(
            "the kernel does not trace tables of iptables-legacy, which are loaded, too; \
             `peerwall explain --live` reads them",
        );
    }
    if outcome == TraceOutcome::None {
        complain(
            "no such packet came: it was lost before this host, or belongs to a tunnel, \
             in which its addresses are others",
        );
    }
    if output.is_json() {
        output.json(&Traced {
            outcome,
            packets: packets.done,
            has_legacy,
            is_incomplete: packets.is_incomplete,
        });
    }
    match outcome {
        TraceOutcome::None => TROUBLE,
        TraceOutcome::Accepted => DONE,
        TraceOutcome::Denied => DIFFERS,
    }
}

fn filter(args: &TraceArgs) -> Result<Filter, String> {
    let transport = match (&args.port, &args.icmp) {
        (Some(text), _) => Some(transport(text)?),
        (None, Some(text)) => {
            let address = args.from.or(args.to);
            Some(icmp_type(text, address)?)
        }
        (None, None) => None,
    };
    let filter = Filter {
        from: args.from,
        to: args.to,
        transport,
        interface: args.interface.clone(),
    };
    if filter.is_empty() {
        return Err("say which packets: --from, --to, --port, --icmp or --interface".to_owned());
    }
    let mixed = args.from.zip(args.to);
    if mixed.is_some_and(|(from, to)| from.is_ipv4() != to.is_ipv4()) {
        return Err("source and destination have different families".to_owned());
    }
    Ok(filter)
}

fn refused(err: &NetlinkError) -> String {
    match err.errno() {
        Some(libc::EPERM) => "tracing needs CAP_NET_ADMIN; run it as root".to_owned(),
        _ => format!("the kernel does not trace packets: {err}"),
    }
}
