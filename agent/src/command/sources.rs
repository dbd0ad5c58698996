//! `peerwall sources`

use std::fmt::Write as _;

use super::keep::print;
use super::{DONE, age, count, trouble, unreachable_agent};
use crate::agent::saved_members;
use crate::cli::{SourcesAction, SourcesArgs};
use crate::control::{self, Answer, Reply, Request, SourcesAsked};
use crate::json::{ErrorCode, Failure, HeldStatus, MemberStatus, SourceList, SourceStatus};
use crate::output::Output;
use crate::store::State;

/// Asks the agent for its sources, or to change one.
pub(super) fn run(args: &SourcesArgs) -> u8 {
    let (asked, output) = match args.action.clone() {
        None => (SourcesAsked::List, args.output.json),
        Some(SourcesAction::List { output }) => (SourcesAsked::List, output.json),
        Some(SourcesAction::Show { name, output }) => (SourcesAsked::Show(name), output.json),
        Some(SourcesAction::Accept { name, output }) => (SourcesAsked::Accept(name), output.json),
        Some(SourcesAction::Forget {
            name,
            address,
            output,
        }) => (SourcesAsked::Forget(name, address), output.json),
    };
    let output = Output::new(output);
    match control::ask(Request::Sources(asked.clone())) {
        Some(Ok(answer)) => print(&with_text(answer), &output),
        Some(Err(err)) => trouble("sources", unreachable_agent(&err), &output),
        None => match without_agent(&asked) {
            Ok(list) => {
                match output.is_json() {
                    true => output.json(&list),
                    false => output.text(&text(&list)),
                }
                DONE
            }
            Err(why) => trouble("sources", why, &output),
        },
    }
}

/// Adds the text of a list to an answer.
fn with_text(mut answer: Answer) -> Answer {
    if let Reply::Sources(list) = &answer.reply {
        let head = match answer.text.is_empty() {
            true => String::new(),
            false => format!("{}\n\n", answer.text),
        };
        answer.text = format!("{head}{}", text(list).trim_end());
    }
    answer
}

/// Returns what the last agent saved.
fn without_agent(asked: &SourcesAsked) -> Result<SourceList, Failure> {
    let state = State::open();
    let failed = |err: std::io::Error| Failure::new(ErrorCode::State, err.to_string());
    let mut list = saved_members(&state).map_err(failed)?;
    let SourcesAsked::Show(name) = asked else {
        return match asked {
            SourcesAsked::List | SourcesAsked::Show(_) => Ok(list),
            SourcesAsked::Accept(_) | SourcesAsked::Forget(..) => Err(Failure::new(
                ErrorCode::NoAgent,
                "no agent runs in this network namespace, and only an agent changes members",
            )),
        };
    };
    let Some(saved) = state.members(name).map_err(failed)? else {
        return Err(Failure::new(
            ErrorCode::SourceUnchanged,
            format!("no agent runs, and none saved members of a source `{name}`"),
        ));
    };
    let rows = saved.members.into_iter();
    list.members = rows
        .map(|(address, name)| MemberStatus {
            address,
            name,
            missing_seconds: None,
        })
        .collect();
    Ok(list)
}

fn text(list: &SourceList) -> String {
    let mut text = String::new();
    if !list.agent {
        text.push_str("no agent runs; these are the members that the last one saved\n\n");
    }
    if list.sources.is_empty() {
        text.push_str("the policy in force has no sources of members\n");
    }
    for source in &list.sources {
        text.push_str(&source_text(source));
    }
    if !list.members.is_empty() {
        text.push('\n');
    }
    for member in &list.members {
        let missing = member.missing_seconds.map_or_else(String::new, |seconds| {
            format!("  missing for {}", age::duration(seconds))
        });
        let _ = writeln!(text, "{:<39}  {}{missing}", member.address, member.name);
    }
    text
}

/// Describes a source: a line, and one for each thing that is wrong.
pub(super) fn source_text(source: &SourceStatus) -> String {
    let kind = source.kind.as_deref();
    let kind = kind.map_or_else(String::new, |kind| format!(" ({kind})"));
    let members = count(source.members, "member");
    let fresh = match (source.fresh_seconds, source.is_stale) {
        (Some(seconds), false) => format!(", proven {}", age::ago(seconds)),
        (Some(seconds), true) => format!(", stale: last proven {}", age::ago(seconds)),
        (None, _) => String::new(),
    };
    let mut text = format!("{}{kind}: {members}{fresh}\n", source.name);
    if let Some(error) = &source.error {
        let _ = writeln!(text, "  error: {}", error.message);
    }
    if let Some(held) = &source.held {
        let _ = writeln!(text, "  held: {}", held_text(&source.name, held));
    }
    for (why, entries) in &source.refused {
        let _ = writeln!(text, "  refused: {entries}, {}", why.sentence());
    }
    for example in &source.refused_examples {
        let _ = writeln!(text, "    {example}");
    }
    text
}

fn held_text(name: &str, held: &HeldStatus) -> String {
    let missing = format!("missing addresses: {}", held.addresses);
    let end = match held.seconds_left {
        Some(seconds) => format!("for {}, unless", age::duration(seconds)),
        None => "until".to_owned(),
    };
    format!(
        "{}; {missing}, kept {end} `peerwall sources accept {name}`",
        held.why.sentence()
    )
}
