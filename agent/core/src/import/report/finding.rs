//! The report's sentences: the fate and the explanation of a line for each finding about it.

use super::Fate;
use crate::import::rule::Test;
use crate::net::packet::CtState;

/// A finding about a line.
pub(super) enum Finding<'f> {
    /// A comment.
    Comment,
    /// `*TABLE` or `COMMIT`.
    TableEdge,
    /// A line without rules, and what it is.
    NoRules(&'f str),
    /// A line of `ipset save`.
    Set,
    /// A chain of peerwall, or a rule in one.
    Peerwall,
    /// A chain of this program, whose policy accepts.
    ManagedChain(&'f str),
    /// A base chain whose policy leaves the decision to others.
    PassesOn,
    /// A declaration of a user-defined chain.
    UserChain,
    /// A declaration of a chain in this other table.
    OtherChain(&'f str),
    /// A drop in this other table.
    OtherDrop(&'f str),
    /// A rule in this other table, and the allow that opens the port that it publishes.
    OtherTable(&'f str, Option<&'f str>),
    /// A line that accepts this host's own traffic.
    OwnTraffic,
    /// A line that filters this host's own traffic.
    OwnTrafficFiltered,
    /// A line that drops packets without an entry, as the policy does.
    DropsRest,
    /// The same, except for packets that the safe core accepts, listed here.
    DropsRestExcept(String),
    /// A line that drops packets without a connection, as the policy does.
    DropsInvalid,
    /// The same, except from these entries, which accept packets in every state.
    DropsInvalidExcept(String),
    /// A line that drops packets which connection tracking rejects.
    DropsStrange,
    /// A drop of packets that these entries accept.
    DropsAllowed(String),
    /// A drop with a rate.
    DropsByRate(&'f str),
    /// A rule with a rate that decides where packets go on.
    BranchesByRate(&'f str),
    /// A rule in this chain, to which no rule jumps.
    NoJump(&'f str),
    /// A jump to this chain.
    Jump(&'f str),
    /// A return.
    Return,
    /// A NAT target in the filter table.
    NatTarget,
    /// A target that logs.
    Logs,
    /// A rule that only counts.
    Counts,
    /// This target, which marks or changes packets.
    Changes(&'f str),
    /// This statement, which adds elements to a set or removes them.
    FillsSet(&'f str),
    /// An exemption from connection tracking.
    Untracks,
    /// This unknown target.
    UnknownTarget(&'f str),
    /// An accept with these words, which a policy cannot express.
    UnknownAccept(String),
    /// A drop with such words.
    UnknownDrop(String),
    /// A verdict map with such words, of which some elements accept and some drop.
    UnknownVerdicts(String),
    /// A jump, return or NAT target with such words.
    UnknownJump(String),
    /// A line about a set that a policy cannot contain, for this reason.
    LeftSet(&'f str),
    /// A line that cannot be read, for this reason.
    Unreadable(&'f str),
    /// A line of which a part cannot be read, for this reason.
    PartlyUnreadable(&'f str),
    /// A line that removes or replaces rules and that cannot be read, for this reason.
    UnreadRemoval(&'f str),
    /// A line that cannot be read, for this reason, of a script that ends at the first command that
    /// fails.
    MayFail(&'f str),
    /// A line of a script where it may end.
    MayEnd,
    /// A rule with such words and without a verdict.
    UnknownContinue,
    /// A line that this program manages.
    Managed(&'f str),
    /// A line that this program manages and restores.
    Restored(&'f str),
    /// An accept that this program manages and that the policy converts in part or not at all.
    ManagedAccept(&'f str),
    /// A drop that this program manages.
    ManagedDrop(&'f str),
    /// A line whose packets earlier lines decide.
    NeverReached,
    /// A line that matches no packet.
    MatchesNone,
    /// A chain's policy, if its lines decide every packet.
    NoneLeft,
    /// A line that only packets above the rate of an earlier one reach.
    ReachedAboveRate,
    /// A rule that no packet is sure to reach: the jump to its chain is not converted.
    NotSureToBeReached,
    /// An accept of replies and of packets without a connection.
    Replies,
    /// A line that these entries cover.
    Converted(String),
    /// A line that these parts of the safe core cover.
    Covered(String),
    /// An accept of ICMP that these entries cover in part.
    IcmpCovered(String),
    /// An accept that these entries cover in part, and the reason for the other part.
    PartlyConverted(String, String),
    /// An accept that these entries cover without its rates.
    WithoutRates(String, String),
    /// A line that a policy cannot express, for this reason.
    NotConverted(String),
}

impl Finding<'_> {
    /// Returns the fate of the line, and its explanation.
    pub(super) fn verdict(&self) -> (Fate, String) {
        const OWN_TRAFFIC: &str = "peerwall does not filter this host's own traffic";
        const DROPS_REST: &str = "the policy drops packets that no entry accepts";
        const STILL_DROPS: &str = "a drop in another table still drops";
        let text = |fate, text: &str| (fate, text.to_owned());
        match self {
            Self::Comment => text(Fate::Nothing, "comment"),
            Self::TableEdge => text(Fate::Nothing, "table start or end"),
            Self::NoRules(what) => text(Fate::Nothing, what),
            Self::Set => text(
                Fate::Taken,
                "a set in rules; the policy contains its addresses where they are accepted",
            ),
            Self::Peerwall => text(Fate::Nothing, "peerwall's own"),
            Self::ManagedChain(by) => (
                Fate::Beside,
                format!(
                    "{by} manages this chain: its drops and bans stay where they are, beside the \
                     policy"
                ),
            ),
            Self::PassesOn => text(
                Fate::Nothing,
                "packets that no rule of this chain drops go on to the other chains of the hook",
            ),
            Self::UserChain => text(Fate::Nothing, "a user-defined chain"),
            Self::OtherChain(table) => (
                Fate::Nothing,
                format!("a chain of table {table}, which peerwall does not change"),
            ),
            Self::OtherTable(table, allow) => {
                let opened = allow.map(|name| format!("; [[allow]] {name} opens its port"));
                let opened = opened.unwrap_or_default();
                (
                    Fate::Left,
                    format!(
                        "peerwall does not rewrite or mark packets: keep table {table} in a \
                         separate rules file{opened}"
                    ),
                )
            }
            Self::OtherDrop(table) => (
                Fate::Left,
                format!(
                    "peerwall filters at the hooks input and forward, and not in table {table}: \
                     keep the table in a separate rules file"
                ),
            ),
            Self::OwnTraffic => text(Fate::Core, OWN_TRAFFIC),
            Self::OwnTrafficFiltered => (
                Fate::Left,
                format!("{OWN_TRAFFIC}: keep it in a separate rules file"),
            ),
            Self::DropsRest => text(Fate::Core, DROPS_REST),
            Self::DropsRestExcept(core) => (
                Fate::Core,
                format!("{DROPS_REST}; the safe core accepts {core}"),
            ),
            Self::DropsInvalid => {
                text(Fate::Core, "packets without a known connection are dropped")
            }
            Self::DropsInvalidExcept(entries) => (
                Fate::Core,
                format!(
                    "packets without a known connection are dropped, except from {entries}, which \
                     accepts every packet"
                ),
            ),
            Self::DropsStrange => text(
                Fate::Core,
                "such packets belong to no connection, and are dropped as invalid",
            ),
            Self::DropsAllowed(entries) => (
                Fate::Left,
                format!(
                    "a policy has no drop rules, and {entries} accepts some of these packets: \
                     keep the line in a separate rules file; {STILL_DROPS}"
                ),
            ),
            Self::DropsByRate(rate) => (
                Fate::Left,
                format!(
                    "a policy cannot express this rate ({rate}): limit it in the service, \
                     or keep the line in a separate rules file; {STILL_DROPS}"
                ),
            ),
            Self::BranchesByRate(rate) => (
                Fate::Left,
                format!(
                    "a policy cannot express this rate ({rate}), and treats packets as if it were \
                     not exceeded: limit it in the service, or keep the line in a separate rules file"
                ),
            ),
            Self::NoJump(chain) => (Fate::Nothing, format!("no rule jumps to chain {chain}")),
            Self::Jump(chain) => (Fate::Nothing, format!("jumps to chain {chain}; see there")),
            Self::Return => text(
                Fate::Core,
                "the policy's entries account for packets that skip the rest of the chain",
            ),
            Self::NatTarget => text(Fate::Left, "the filter table does not support this target"),
            Self::Logs => text(
                Fate::Core,
                "peerwall logs the packets that it denies, and no others, to NFLOG with the \
                 reason; see [log]",
            ),
            Self::Counts => text(Fate::Nothing, "only counts"),
            Self::Changes(target) => (
                Fate::Left,
                format!(
                    "peerwall does not mark or change packets: keep `{target}` in a separate \
                     rules file"
                ),
            ),
            Self::FillsSet(statement) => (
                Fate::Left,
                format!(
                    "peerwall's rules do not change sets: keep `{statement}` in a separate \
                     rules file; where the set is full, a rule of nft ends there"
                ),
            ),
            Self::Untracks => text(
                Fate::Left,
                "peerwall exempts nothing from connection tracking: keep the line in a separate \
                 rules file. For the comparison, its packets are tracked or not",
            ),
            Self::UnknownTarget(target) => (
                Fate::Left,
                format!(
                    "peerwall does not know {target}; its packets are dropped unless another \
                     line accepts them"
                ),
            ),
            Self::UnknownAccept(words) => (
                Fate::Left,
                format!(
                    "a policy cannot express `{words}`, so this line accepts nothing; \
                     if the rest of the line is enough, write an allow for it"
                ),
            ),
            Self::UnknownDrop(words) => (
                Fate::Left,
                format!(
                    "a policy cannot express `{words}`: keep the line in a separate rules file; \
                     {STILL_DROPS}"
                ),
            ),
            Self::UnknownVerdicts(words) => (
                Fate::Left,
                format!(
                    "a policy cannot express `{words}`, so none of this line's verdicts is \
                     converted: keep the line in a separate rules file; {STILL_DROPS}"
                ),
            ),
            Self::UnknownJump(words) => (
                Fate::Left,
                format!(
                    "a policy cannot express `{words}`: behind this line, accepts are converted \
                     if they hold with and without it, and drops are not"
                ),
            ),
            Self::LeftSet(why) => (
                Fate::Left,
                format!("keep this set, and the rules that use it, beside the policy: {why}"),
            ),
            Self::Unreadable(why) => (
                Fate::Left,
                format!("cannot be read, so this line accepts and drops nothing: {why}"),
            ),
            Self::PartlyUnreadable(why) => (
                Fate::Left,
                format!(
                    "a part of this line cannot be read, so that part accepts and drops nothing; \
                     the rest is converted: {why}"
                ),
            ),
            Self::UnreadRemoval(why) => (
                Fate::Left,
                format!("cannot be read, so the rules that this line removes are kept: {why}"),
            ),
            Self::MayFail(why) => (
                Fate::Left,
                format!(
                    "cannot be read: {why}; if it fails, the script or unit ends here, and the lines \
                     below are not in force"
                ),
            ),
            Self::MayEnd => text(
                Fate::Left,
                "the script may end here; the lines below are converted as if it continued",
            ),
            Self::UnknownContinue => text(Fate::Nothing, "no verdict"),
            Self::Managed(by) => (Fate::Beside, format!("{by} manages this line")),
            Self::Restored(by) => (
                Fate::Beside,
                format!("{by} manages this line and restores it automatically"),
            ),
            Self::ManagedAccept(by) => (
                Fate::Beside,
                format!("{by} manages this line; packets that only this line accepts are closed"),
            ),
            Self::ManagedDrop(by) => (
                Fate::Beside,
                format!("{by} manages this line, which still drops beside peerwall"),
            ),
            Self::NeverReached => text(
                Fate::Nothing,
                "never reached: earlier lines already decide these packets",
            ),
            Self::MatchesNone => text(Fate::Nothing, "no packet that can arrive matches it"),
            Self::NoneLeft => text(
                Fate::Nothing,
                "no packet is left for it: the lines of its chain decide every packet",
            ),
            Self::ReachedAboveRate => text(
                Fate::Nothing,
                "reached, if at all, only by packets above the rate of a line above: earlier lines \
                 decide the others",
            ),
            Self::NotSureToBeReached => text(
                Fate::Nothing,
                "no packet is sure to reach it: the jump to its chain is not converted",
            ),
            Self::Replies => text(
                Fate::Core,
                "replies are accepted with their connection; \
                 packets without a known connection are dropped",
            ),
            Self::Converted(entries) => (Fate::Taken, entries.clone()),
            Self::Covered(entries) => (Fate::Core, entries.clone()),
            Self::IcmpCovered(entries) => (
                Fate::Core,
                format!("{entries}; ICMP types outside the core are closed, see [icmp] for more"),
            ),
            Self::PartlyConverted(entries, why) => (
                Fate::Partly,
                format!("{entries}; the rest is closed: {why}"),
            ),
            Self::WithoutRates(entries, rates) => (
                Fate::Partly,
                format!(
                    "{entries}; a policy cannot express the rate ({rates}): limit it in the \
                     service, or keep a rule that drops packets above the rate"
                ),
            ),
            Self::NotConverted(why) => (Fate::Left, why.clone()),
        }
    }
}

/// Reason for which packets to this host cannot be accepted, if no condition explains it.
pub(super) const NO_ENTRY: &str =
    "no entry of a policy fits some of its packets, which are listed as closed";

/// The same for packets through this host.
pub(super) const ONLY_ENTRIES: &str = "an allow opens this host and its published ports; \
     only peers, overlays and trusted interfaces may send through this host";

/// Reason for which the packets of a chain's policy ACCEPT are not accepted.
pub(super) const ACCEPT_POLICY: &str = "the policy drops packets that no entry accepts";

/// The same for packets through this host.
pub(super) const ACCEPT_POLICY_THROUGH: &str = "the policy drops packets that no entry accepts; \
     only peers, overlays and trusted interfaces may send through this host";

/// Reason for which an accept of redirected connections is not converted.
pub(super) const DNAT_ELSEWHERE: &str =
    "each published port needs an allow for its original destination port";

/// Explains why a policy cannot express a condition, and what to do; `None` if the condition is not
/// the cause.
pub(super) fn obstacle(test: &Test, negated: bool) -> Option<&'static str> {
    Some(match (test, negated) {
        (Test::SourcePorts(_) | Test::EitherPort(_), _) => {
            "a source port proves nothing, because the sender chooses it; \
             replies are accepted with their connection"
        }
        (Test::Destination(_), _) => "the rule is for some destinations; add an allow with `to`",
        (Test::Out(_), _) => {
            "a policy does not match the output interface; \
             make the sender a peer, or its interface trusted"
        }
        (Test::In(_), true) => {
            "a policy cannot exclude an interface; list the allowed ones under `interfaces`"
        }
        (Test::Rate(..), _) => "a policy cannot match by earlier packets",
        (Test::HopLimit(..), _) => "a policy cannot match the TTL or hop limit",
        (Test::TcpFlags(..), _) => "a policy cannot match TCP flags",
        (Test::Always(false), false) => {
            "a policy cannot match fragments, broadcasts and multicasts"
        }
        (Test::State { dnat: true, .. }, _) => DNAT_ELSEWHERE,
        (Test::State { states, .. }, false) if states.contains(&CtState::Untracked) => {
            "a policy accepts no packets that rules exempt from connection tracking"
        }
        _ => return None,
    })
}
