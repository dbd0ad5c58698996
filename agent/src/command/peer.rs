//! `peerwall peer`

use std::fmt::Write as _;

use super::keep::print;
use super::{age, trouble, unreachable_agent};
use crate::cli::{PeerAction, PeerArgs};
use crate::control::{self, Answer, PeerAsked, PeerWish, Reply, Request};
use crate::json::{ErrorCode, Failure, TemporaryPeerStatus};
use crate::output::Output;

/// Asks the agent for its temporary peers, or to change them.
pub(super) fn run(args: &PeerArgs) -> u8 {
    let (asked, output) = match args.action.clone() {
        None => (PeerAsked::List, args.output.json),
        Some(PeerAction::List { output }) => (PeerAsked::List, output.json),
        Some(PeerAction::Add {
            name,
            address,
            time,
            keep,
            output,
        }) => {
            let wish = PeerWish {
                name,
                address,
                seconds: time,
                keep,
            };
            (PeerAsked::Add(wish), output.json)
        }
        Some(PeerAction::Remove { peer, output }) => (PeerAsked::Remove(peer), output.json),
    };
    let output = Output::new(output);
    let is_list = asked == PeerAsked::List;
    match control::ask(Request::Peer(asked)) {
        Some(Ok(answer)) => print(&with_text(answer, is_list), &output),
        Some(Err(err)) => trouble("peer", unreachable_agent(&err), &output),
        None => trouble("peer", no_agent(), &output),
    }
}

fn no_agent() -> Failure {
    Failure::new(
        ErrorCode::NoAgent,
        "no agent runs in this network namespace, and only an agent has temporary peers",
    )
}

/// Adds the text of a list to an answer that is one.
fn with_text(mut answer: Answer, is_list: bool) -> Answer {
    if let Reply::Peers(list) = &answer.reply
        && is_list
    {
        answer.text = match list.temporary_peers[..] {
            [] => "there are no temporary peers".to_owned(),
            _ => text(&list.temporary_peers).trim_end().to_owned(),
        };
    }
    answer
}

fn text(peers: &[TemporaryPeerStatus]) -> String {
    let mut text = String::new();
    for peer in peers {
        let _ = writeln!(text, "{:<39}  {}", peer.address, describe(peer));
    }
    text
}

/// Describes a temporary peer without its address.
pub(super) fn describe(peer: &TemporaryPeerStatus) -> String {
    let time = match peer.seconds_left {
        Some(seconds) => format!("for another {}", age::duration(seconds)),
        None => "until it is removed".to_owned(),
    };
    let kept = match peer.is_kept {
        true => "",
        false => ", or until the policy is loaded again",
    };
    let force = match peer.in_force {
        true => "",
        false => "; NOT in force",
    };
    format!("{} {time}{kept}{force}", peer.name)
}
