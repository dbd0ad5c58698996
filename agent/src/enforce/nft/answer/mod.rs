//! Turns the kernel's answers into errors.

use std::collections::BTreeSet;

use peerwall_core::backend::{BackendError, RefusedStep};
use peerwall_core::nft::kconfig;
use peerwall_core::nft::lower::OpIndex;
use peerwall_core::nft::plan::{Op, Plan};
use peerwall_core::ruleset::{Match, render};
use peerwall_proto::netlink::ack::Ack;
use peerwall_proto::nf_tables::batch::EncodedBatch;

use crate::kernel::netlink::{NetlinkError, describe};

/// Follows the error of a rule that asks for the route to the source.
const ROUTE_NEEDS: &str = "`fib saddr . iif oif` in the input and forward hooks needs Linux 5.19; use a \
                           newer kernel, or a backend with a tunnel for this overlay";

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
    let refusals = errors.into_iter();
    let refusals = refusals.map(|ack| refusal(plan, sent, ack, &accepted));
    Err(BackendError::Refused(without_followers(
        plan,
        refusals.collect(),
    )))
}

/// Removes the refusals that only follow from that of a route to the source: after each further
/// rule, the kernel validates all chains again, and refuses that rule with the same error
/// (`nft_table_validate()`).
fn without_followers(plan: &Plan, mut refusals: Vec<RefusedStep>) -> Vec<RefusedStep> {
    let is_route = |refusal: &RefusedStep| {
        let op = refusal.op.map(|op| &plan.ops[op]);
        op.is_some_and(|op| is_of_route(op, refusal.errno))
    };
    if refusals.iter().any(is_route) {
        refusals.retain(|refusal| refusal.errno != libc::EOPNOTSUPP || is_route(refusal));
    }
    refusals
}

/// Whether the kernel refused a rule for the route to the source: before Linux 5.19,
/// `nft_fib_validate()` allowed it only in prerouting. A kernel without `fib` answers ENOENT.
fn is_of_route(op: &Op, errno: i32) -> bool {
    let asks = |condition: &Match| matches!(condition, Match::ReversePath { .. });
    errno == libc::EOPNOTSUPP
        && matches!(op, Op::AddRule(_, _, rule) if rule.matches.iter().any(asks))
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
    let of_route = op.is_some_and(|op| is_of_route(&plan.ops[op], ack.errno));
    let lacking = op
        .filter(|_| is_lack && !of_route)
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
            None if of_route => format!("{}; {ROUTE_NEEDS}", describe(ack)),
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
