//! `peerwall explain`

mod live;

use std::io::{self, Read as _};

use peerwall_core::explain::live::{follow, said};
use peerwall_core::explain::{
    Asked, Explanation, Fix, Outcome, Surroundings, Unknown, complete, described, explain,
    icmp_type, parse, transport,
};
use peerwall_core::net::packet::{CtState, Dialled, Hook, Packet, Verdict};
use peerwall_core::nft::foreign::ForeignDrop;
use peerwall_core::policy::load::Elsewhere;
use peerwall_core::policy::reason::Reason;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, check, policy_path, refuse, trouble};
use crate::cli::{ExplainArgs, StateArg};
use crate::color::{Meaning, paint};
use crate::enforce::foreign;
use crate::host::live::Here;
use crate::host::names::printable;
use crate::host::rules;
use crate::json::{ErrorCode, Failure};
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadedPolicy, prepare};

/// The result of `explain`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Explain")]
pub(super) struct Explained {
    /// Whether the packet is accepted.
    outcome: Outcome,
    /// Reason of the verdict; absent if no rule of peerwall counts the packet.
    reason: Option<Reason>,
    /// Hook.
    hook: Hook,
    /// Description of the packet.
    subject: String,
    /// What was not said, and is assumed, as sentences.
    assumed: Vec<String>,
    /// Matching rules, in order.
    path: Vec<RuleStep>,
    /// Place of the deciding entry of the policy, as `file:line`; absent for the safe core.
    place: Option<String>,
    /// What would let a denied packet in, the likeliest first.
    fixes: Vec<Fix>,
    /// Chains of other firewalls of this host in the packet's hook that drop what they do not
    /// accept; none for a packet of another host.
    foreign_drops: Vec<ForeignDrop>,
    /// The packet's way through all loaded rules, with `--live`: one for each possible verdict.
    ways: Vec<live::LiveWay>,
    /// Why the verdict is not certain, with `--live`, as noun phrases.
    undecided_by: Vec<String>,
}

/// A rule that the packet matched.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleStep {
    /// Chain.
    chain: String,
    /// The rule, in the words of nft.
    rule: String,
    /// Place in the policy, as `file:line`; absent for a rule that every policy has.
    place: Option<String>,
}

/// Reports whether a packet is one for this host, or on its interfaces. Of other packets, this
/// host's routes say nothing.
fn concerns(host: &Here, asked: &Asked) -> bool {
    let names = [&asked.interface, &asked.out].into_iter().flatten();
    let has_names = names.clone().next().is_some();
    let are_there = names.clone().all(|name| host.has_interface(name));
    host.is_own(asked.to) == Some(true) || (has_names && are_there)
}

pub(super) fn run(args: &ExplainArgs, output: &Output) -> u8 {
    let invalid = |why: String| {
        let why = Failure::new(ErrorCode::InputInvalid, why);
        trouble("explain", why, output)
    };
    let asked = match asked(args) {
        Ok(asked) => asked,
        Err(why) => return invalid(why),
    };
    let discovered = match check::facts(args.discovered.as_deref(), "explain", output) {
        Ok(discovered) => discovered,
        Err(code) => return code,
    };
    let is_here = discovered.is_none();
    let files = FileSystem::default();
    let files = Elsewhere::new(&files, discovered);
    let ready = match prepare(&policy_path(&args.policy), &files) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, output),
    };
    let (mut here, mut unknown) = (Here::new(), Unknown);
    let is_here = args.live || (is_here && concerns(&here, &asked));
    let host: &mut dyn Surroundings = match is_here {
        true => &mut here,
        false => &mut unknown,
    };
    let (mut packet, mut assumed) = match complete(&asked, &ready.policy, host) {
        Ok(complete) => complete,
        Err(why) => return invalid(why),
    };
    if is_here
        && !args.live
        && let Some(translated) = translated(&asked, &packet, &mut here)
    {
        (packet, assumed) = match complete(&translated, &ready.policy, &mut here) {
            Ok(complete) => complete,
            Err(why) => return invalid(why),
        };
    }
    let found = explain(&ready.policy, &ready.ruleset, &ready.origins, &packet);
    let mut explained = Explained::new(&ready, &found, packet.hook, described(&packet), assumed);
    if args.live {
        match rules::read() {
            Ok(rules) => {
                let journeys = follow(&rules, &packet, &mut here);
                explained.add_live(&ready, &journeys);
            }
            Err(err) => {
                let why = Failure::new(ErrorCode::BackendUnavailable, err.to_string());
                return trouble("explain", why, output);
            }
        }
    } else if is_here {
        let hook = packet.hook.to_string();
        explained.foreign_drops = foreign::find();
        explained.foreign_drops.retain(|each| each.hook == hook);
    }
    match output.is_json() {
        true => output.json(&explained),
        false => output.text(&explained.text()),
    }
    match explained.outcome {
        Outcome::Accepted => DONE,
        Outcome::Denied | Outcome::Undecided => DIFFERS,
    }
}

/// Applies the DNAT that this host's rules do to a packet; `None` without any, or if its result is
/// not certain.
fn translated(asked: &Asked, packet: &Packet, here: &mut Here) -> Option<Asked> {
    if asked.dialled.is_some() || packet.state != CtState::New {
        return None;
    }
    let read = rules::read().inspect_err(|err| log::info!("DNAT is not looked up: {err}"));
    let found = follow(&read.ok()?.only_nat(), packet, here);
    let [(_, journey)] = &found.ways[..] else {
        return None;
    };
    let dialled = journey.packet.dialled?;
    let mut passages = journey.passages.iter();
    let by = passages.find(|passage| passage.translated.is_some())?;
    let mut after = asked.clone();
    after.to = journey.packet.destination;
    after.transport = Some(journey.packet.transport);
    after.dialled = Some(dialled);
    after.hook = None;
    after.notes.push(format!(
        "its destination is translated by {}",
        printable(&said(by))
    ));
    Some(after)
}

/// Reads the question.
fn asked(args: &ExplainArgs) -> Result<Asked, String> {
    let mut asked = match (args.from, args.to) {
        (Some(from), Some(to)) => Asked::new(from, to),
        _ => parse(&line(&args.line)?)?,
    };
    if let Some(text) = &args.port {
        asked.transport = Some(transport(text)?);
    }
    if let Some(text) = &args.icmp {
        asked.transport = Some(icmp_type(text, Some(asked.from))?);
    }
    asked.interface = args.interface.clone().or(asked.interface);
    if args.out.is_some() {
        asked.out.clone_from(&args.out);
        asked.hook = Some(Hook::Forward);
    }
    if let Some(dialled) = args.dialled {
        asked.dialled = Some(Dialled {
            address: dialled.ip(),
            port: dialled.port(),
        });
    }
    let state = args.state.map(|state| match state {
        StateArg::New => CtState::New,
        StateArg::Established => CtState::Established,
        StateArg::Related => CtState::Related,
        StateArg::Invalid => CtState::Invalid,
        StateArg::Untracked => CtState::Untracked,
    });
    asked.state = state.or(asked.state);
    Ok(asked)
}

/// Returns the line that was given, or the first one of standard input.
fn line(words: &[String]) -> Result<String, String> {
    /// Longest line that is read.
    const LONGEST: u64 = 64 * 1024;
    if words != ["-"] {
        return Ok(words.join(" "));
    }
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(LONGEST).read_to_end(&mut bytes);
    read.map_err(|err| format!("standard input cannot be read: {err}"))?;
    // Names in a line can be in any encoding.
    let text = String::from_utf8_lossy(&bytes);
    let first = text.lines().find(|line| !line.trim().is_empty());
    first
        .map(str::to_owned)
        .ok_or_else(|| "standard input is empty".to_owned())
}

impl Explained {
    fn new(
        ready: &LoadedPolicy,
        found: &Explanation,
        hook: Hook,
        subject: String,
        assumed: Vec<String>,
    ) -> Self {
        let path = found.path.iter().filter(|step| !step.is_aside);
        let path = path.map(|step| RuleStep {
            chain: step.chain.clone(),
            rule: step.rule.clone(),
            place: step
                .place
                .as_ref()
                .map(|place| ready.sources.line_of(place)),
        });
        Self {
            outcome: match found.verdict {
                Verdict::Accept => Outcome::Accepted,
                Verdict::Drop | Verdict::Reject => Outcome::Denied,
            },
            reason: found.reason.clone(),
            hook,
            subject,
            assumed,
            path: path.collect(),
            place: found
                .place
                .as_ref()
                .map(|place| ready.sources.line_of(place)),
            fixes: found.fixes.clone(),
            foreign_drops: Vec::new(),
            ways: Vec::new(),
            undecided_by: Vec::new(),
        }
    }

    fn text(&self) -> String {
        if !self.ways.is_empty() {
            return self.live_text();
        }
        let (kind, word) = match self.outcome {
            Outcome::Accepted => (Meaning::Good, "accepted"),
            Outcome::Denied | Outcome::Undecided => (Meaning::Bad, "denied"),
        };
        let reason = self.reason.as_ref();
        let reason = reason.map_or_else(
            || "no rule of peerwall counts it".to_owned(),
            |reason| match (self.outcome, reason.is_denial()) {
                (Outcome::Accepted, true) => format!(
                    "{} ({reason}), but the policy is in audit mode",
                    reason.sentence()
                ),
                _ => format!("{} ({reason})", reason.sentence()),
            },
        );
        let mut text = format!(
            "{}: {reason}\n  packet  {}\n",
            paint(kind, word),
            self.subject
        );
        for assumed in &self.assumed {
            text.push_str(&format!("  assumed {assumed}\n"));
        }
        if let Some(place) = &self.place {
            text.push_str(&format!("  policy  {place}\n"));
        }
        for step in &self.path {
            text.push_str(&format!("  rule    {}: {}\n", step.chain, step.rule));
        }
        for each in &self.foreign_drops {
            let (name, why) = (printable(&each.name()), printable(&each.why()));
            text.push_str(&format!("  also    {name}: {why}\n"));
        }
        text.push_str(&self.fixes_text());
        text
    }

    /// Describes what would let the packet in.
    fn fixes_text(&self) -> String {
        let mut text = String::new();
        for fix in &self.fixes {
            match fix.toml.is_empty() {
                true => text.push_str(&format!("{}\n", fix.when)),
                false => {
                    let lines = fix.toml.lines().map(|line| format!("    {line}\n"));
                    let lines: String = lines.collect();
                    text.push_str(&format!("If {}, add to the policy:\n{lines}", fix.when));
                }
            }
        }
        text
    }
}
