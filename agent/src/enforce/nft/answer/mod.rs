//! Turns the kernel's answers into errors.

use std::collections::BTreeSet;

use peerwall_core::backend::{BackendError, RefusedStep};
use peerwall_core::nft::kconfig;
use peerwall_core::nft::lower::OpIndex;
use peerwall_core::nft::plan::{Op, Plan};
use peerwall_core::ruleset::render;
use peerwall_proto::netlink::ack::Ack;
use peerwall_proto::nf_tables::batch::EncodedBatch;

use crate::kernel::netlink::{NetlinkError, describe};

/// Result of a batch, from its acknowledgements.
pub(super) fn outcome(
    plan: &Plan,
    sent: &EncodedBatch<OpIndex>,
    acks: &[Ack],
) -> Result<(), BackendError> {
    let errors: Vec<&Ack> = acks.iter().filter(|ack| ack.errno != 0).collect();
    if errors.iter().any(|ack| ack.errno == libc::ERESTART) {
        return Err(BackendError::Stale);
    }
    if errors.is_empty() {
        // A missing acknowledgement is not success.
        return match acks.iter().any(|ack| ack.seq == sent.acked_seq) {
            true => Ok(()),
            false => Err(BackendError::Unknown("the kernel did not answer".into())),
        };
    }
    let changes_table = |op: &usize| is_about_table(&plan.ops[*op]);
    let owned = errors.iter().all(|ack| ack.errno == libc::EPERM)
        && errors
            .iter()
            .any(|ack| sent.tag(ack.seq).is_some_and(changes_table));
    if owned && sent.tag(errors[0].seq).is_some() {
        return Err(BackendError::Owned);
    }
    let accepted = accepted(plan, sent, &errors);
    Err(BackendError::Refused(
        errors
            .into_iter()
            .map(|ack| refusal(plan, sent, ack, &accepted))
            .collect(),
    ))
}

/// Returns the options that the accepted rules need: the kernel has them. It judges every step of a
/// batch, also after an error.
fn accepted(plan: &Plan, sent: &EncodedBatch<OpIndex>, errors: &[&Ack]) -> BTreeSet<&'static str> {
    let refused: BTreeSet<usize> = errors
        .iter()
        .filter_map(|ack| sent.tag(ack.seq).copied())
        .collect();
    let steps = plan.ops.iter().enumerate();
    let rules = steps.filter(|(_, op)| matches!(op, Op::AddRule(..)));
    rules
        .filter(|(at, _)| !refused.contains(at))
        .flat_map(|(_, op)| kconfig::options(op))
        .collect()
}

fn is_about_table(op: &Op) -> bool {
    matches!(op, Op::AddTable | Op::ClaimTable | Op::DeleteTable)
}

fn refusal(
    plan: &Plan,
    sent: &EncodedBatch<OpIndex>,
    ack: &Ack,
    accepted: &BTreeSet<&'static str>,
) -> RefusedStep {
    let op = sent.tag(ack.seq).copied();
    let what = op.map_or_else(
        || "the change as a whole".to_owned(),
        |op| render::op(&plan.ops[op]),
    );
    // A table is refused for its flags or its owner, never for an unknown feature.
    let of_table = op.is_some_and(|op| is_about_table(&plan.ops[op]));
    let is_lack = op.is_some() && !of_table && is_lacking(ack.errno);
    let lacking = op
        .filter(|_| is_lack)
        .map(|op| kconfig::options(&plan.ops[op]))
        .map(|options| lacking_of(options, accepted));
    let lacking = lacking.filter(|options| !options.is_empty());
    RefusedStep {
        op,
        what,
        is_lack,
        errno: ack.errno,
        why: match lacking {
            Some(options) => format!(
                "{}; the kernel may lack {}",
                describe(ack),
                options.join(" or ")
            ),
            None => describe(ack),
        },
    }
}

/// Returns the options that no accepted rule needs; all of them if there is none.
fn lacking_of(options: Vec<&'static str>, accepted: &BTreeSet<&'static str>) -> Vec<&'static str> {
    let unknown: Vec<_> = options
        .iter()
        .copied()
        .filter(|option| !accepted.contains(option))
        .collect();
    match unknown.is_empty() {
        true => options,
        false => unknown,
    }
}

/// Errors for an expression or a kind of set that the kernel does not know.
fn is_lacking(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EOPNOTSUPP)
}

/// Reports whether the error of a first request means that the kernel has no netfilter netlink
/// (EPROTONOSUPPORT), or no nf_tables behind it (EINVAL, by `nfnetlink_rcv_msg()`).
pub(crate) fn is_missing(err: &NetlinkError) -> bool {
    let missing = [
        libc::EPROTONOSUPPORT,
        libc::EAFNOSUPPORT,
        libc::EINVAL,
        libc::EOPNOTSUPP,
    ];
    err.errno().is_some_and(|errno| missing.contains(&errno))
}

/// Error of the first request.
pub(super) fn missing(err: &NetlinkError) -> BackendError {
    match is_missing(err) {
        true => BackendError::Missing(format!("this kernel has no nf_tables: {err}")),
        false => transport(err),
    }
}

pub(super) fn transport(err: &NetlinkError) -> BackendError {
    match err {
        NetlinkError::Decode(err) => protocol(err),
        NetlinkError::Answer(ack) if ack.errno == libc::EPERM => BackendError::Transport(
            "the kernel lets nobody without CAP_NET_ADMIN read or change rules; run it as root"
                .into(),
        ),
        NetlinkError::Answer(_)
        | NetlinkError::Io { .. }
        | NetlinkError::Lost
        | NetlinkError::Disturbed => BackendError::Transport(err.to_string()),
    }
}

pub(super) fn protocol(err: &peerwall_proto::netlink::attr::DecodeError) -> BackendError {
    BackendError::Protocol(err.to_string())
}

#[cfg(test)]
mod tests;
