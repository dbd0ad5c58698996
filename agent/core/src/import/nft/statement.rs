//! Rules: statements in order, as conditions and a target.

use std::collections::BTreeMap;

use serde_json::Value;

use super::key::{Key, Needs, Strange, key, keys};
use super::maps::{check_order, is_always_there, key_of, lookup, pairs};
use super::mark;
use super::objects::{Rule, strange};
use super::relation::{Look, Phase, member, merge_icmp, relation};
use super::text::{expression, single, statement};
use super::translation::to;
use super::values::{bare, is_rest};
use crate::import::rule::{At, Condition, ImportedRule, MarkChange, Test, Verb};
use crate::net::addr::Family;
use crate::net::port::{ICMP, ICMPV6, has_ports};

/// What a rule refers to.
pub(super) struct Context<'o, 'v> {
    pub(super) look: Look<'o, 'v>,
    /// Named limits and quotas.
    pub(super) rates: &'o BTreeMap<String, &'v Value>,
    /// Returns the name of a chain of the same table in the model.
    pub(super) chain: &'o dyn Fn(&str) -> String,
}

/// A rule while its statements are read.
struct Draft {
    at: At,
    comment: Option<String>,
    conditions: Vec<Condition>,
    /// Statements that decide nothing.
    does: Vec<String>,
    /// The first statement that is not known, and may decide.
    strange: Option<String>,
    /// Protocols that earlier conditions leave.
    protocols: Option<Vec<u8>>,
    done: Vec<ImportedRule>,
}

/// Reads a rule: none if it is for the other family, several for a verdict map.
pub(super) fn rules(context: &Context<'_, '_>, rule: &Rule<'_>, at: At) -> Vec<ImportedRule> {
    let mut draft = Draft {
        at,
        comment: rule.comment.map(str::to_owned),
        conditions: Vec::new(),
        does: Vec::new(),
        strange: None,
        protocols: None,
        done: Vec::new(),
    };
    let unknown = rule.strange.clone().map(|words| unknown(Strange(words)));
    draft.conditions.extend(unknown);
    let mut target = None;
    for each in rule.statements {
        if !draft.need(Needs::of(each), context.look.family) {
            return Vec::new();
        }
        match draft.statement(context, each) {
            Step::Next => {}
            Step::OtherFamily => return Vec::new(),
            Step::Done => return draft.finish(context.look.family),
            Step::Target(found) => {
                target = Some(found);
                break;
            }
        }
    }
    let target = target.unwrap_or_else(|| match (draft.strange.take(), draft.does.is_empty()) {
        (Some(strange), _) => Verb::Unknown(strange),
        (None, true) => Verb::Continue("count".to_owned()),
        (None, false) => Verb::Continue(draft.does.join(", ")),
    });
    draft.emit(Vec::new(), target);
    draft.finish(context.look.family)
}

/// Result of a statement.
enum Step {
    Next,
    OtherFamily,
    Target(Verb),
    /// All rules are made.
    Done,
}

fn unknown(words: Strange) -> Condition {
    Condition::plain(Test::Unknown(words.0))
}

impl Draft {
    /// Adds the conditions that nft implies. Returns whether packets of the family can meet them.
    fn need(&mut self, needs: Needs, family: Family) -> bool {
        if let Some(protocol) = needs.protocol
            && self.protocols.as_deref() != Some(&[protocol])
        {
            self.conditions
                .push(Condition::plain(Test::Protocol(vec![protocol])));
            self.protocols = Some(vec![protocol]);
        }
        needs.admits(family)
    }

    fn emit(&mut self, more: Vec<Condition>, target: Verb) {
        let conditions = self.conditions.iter().cloned().chain(more).collect();
        self.done.push(ImportedRule {
            at: self.at,
            conditions: merge_icmp(conditions),
            target,
            comment: self.comment.clone(),
        });
    }

    fn finish(self, family: Family) -> Vec<ImportedRule> {
        let mut done = self.done;
        for rule in &mut done {
            without_other_icmp(rule, family);
        }
        done
    }

    fn push(&mut self, condition: Condition) {
        let is_true = condition.test == Test::Always(!condition.negated);
        if let (Test::Protocol(numbers), false) = (&condition.test, condition.negated) {
            self.protocols = Some(numbers.clone());
        }
        if !is_true {
            self.conditions.push(condition);
        }
    }

    fn statement(&mut self, context: &Context<'_, '_>, each: &Value) -> Step {
        let Some((kind, body)) = single(each) else {
            // nft writes what it has no JSON for as it lists it. A jump to a chain without a name is
            // always the last statement, and is such a text.
            let text = statement(each);
            if ["jump", "goto"].iter().any(|verb| text.starts_with(verb)) {
                return Step::Target(Verb::Unknown(text));
            }
            self.strange(text);
            return Step::Next;
        };
        let finds_itself = ["match", "vmap", "dnat", "redirect", "limit"];
        if !finds_itself.contains(&kind)
            && let Some(map) = lookup(body)
        {
            let key = self
                .check_transport(&map["key"])
                .and_then(|()| key_of(&context.look, map));
            self.push(key.unwrap_or_else(|_| unknown(Strange(statement(each)))));
        }
        match kind {
            "match" => return self.condition(context, body),
            "accept" => return Step::Target(Verb::Accept),
            "drop" => return Step::Target(Verb::Drop),
            "reject" => return Step::Target(Verb::Reject),
            "return" => return Step::Target(Verb::Return),
            "jump" | "goto" => return Step::Target(verdict(context, each)),
            "continue" => {}
            "vmap" if strange(body, &["key", "data"]).is_none() => {
                return self.verdict_map(context, body);
            }
            "dnat" | "redirect" => return self.translate(context, kind, body),
            "snat" | "masquerade" => return Step::Target(Verb::Masquerade),
            "limit" | "quota" | "ct count" => self.rate(context, each),
            "meter" => self.nested(context, each, &["key", "stmt", "size", "name"]),
            "set" => self.nested(context, each, &["op", "elem", "set", "stmt"]),
            "mangle" if !is_always_there(&body["value"]) => self.strange(statement(each)),
            "mangle" if mark::change(each).is_some() => {
                let change = mark::change(each).unwrap_or(MarkChange::ANY);
                self.emit(Vec::new(), Verb::Mark(change, statement(each)));
                self.does.push(statement(each));
            }
            "mangle" if !mark::is_harmless(&body["key"]) => {
                return Step::Target(Verb::Unknown(statement(each)));
            }
            "queue" | "tproxy" | "synproxy" | "fwd" => {
                return Step::Target(Verb::Unknown(statement(each)));
            }
            "counter" | "log" | "mangle" | "notrack" | "flow" | "last" | "dup" | "map"
            | "ct helper" | "ct timeout" | "ct expectation" | "secmark" => {
                let name = name_of(kind, each);
                match kind {
                    "counter" | "log" | "last" => {}
                    "notrack" => self.emit(Vec::new(), Verb::Untrack(name.clone())),
                    // What follows may be a verdict.
                    _ => self.emit(Vec::new(), Verb::Continue(name.clone())),
                }
                self.does.push(name);
                // The rule ends for a connection that cannot be offloaded, like a new one
                // (`nft_flow_offload_eval()` in `net/netfilter/nft_flow_offload.c`).
                if kind == "flow" {
                    self.push(unknown(Strange(statement(each))));
                }
            }
            _ => self.strange(statement(each)),
        }
        Step::Next
    }

    /// Adds a statement that may be a condition, or decide.
    fn strange(&mut self, text: String) {
        self.push(unknown(Strange(text.clone())));
        self.strange.get_or_insert(text);
    }

    fn condition(&mut self, context: &Context<'_, '_>, body: &Value) -> Step {
        // The table nat has not set it before DNAT.
        let is_marked = context.look.phase >= Phase::BeforeRouting;
        if let Some(condition) = mark::condition(body).filter(|_| is_marked) {
            self.push(condition);
            return Step::Next;
        }
        let found = relation(&context.look, body).and_then(|condition| {
            self.check_transport(&body["left"])?;
            Ok(condition)
        });
        let condition = found.unwrap_or_else(|_| {
            let whole = serde_json::json!({ "match": body });
            unknown(Strange(statement(&whole)))
        });
        let is_false = condition.test == Test::Always(condition.negated);
        if is_false && key(&body["left"]) == Ok(Key::Family) {
            return Step::OtherFamily;
        }
        self.push(condition);
        Step::Next
    }

    /// Adds a limit, a quota or a number of connections.
    fn rate(&mut self, context: &Context<'_, '_>, each: &Value) {
        let Some((kind, body)) = single(each) else {
            return;
        };
        let known: &[&str] = match kind {
            "limit" => &["rate", "burst", "per", "rate_unit", "burst_unit", "inv"],
            "quota" => &["val", "val_unit", "used", "used_unit", "inv"],
            _ => &["val", "inv"],
        };
        let named = body.as_str().and_then(|name| context.rates.get(name));
        let is_known = named.is_some() || strange(body, known).is_none();
        let is_over = named.map_or(body, |named| *named)["inv"] == true;
        self.push(match is_known {
            true => Condition::plain(Test::Rate(!is_over, statement(each))),
            false => unknown(Strange(statement(each))),
        });
    }

    /// Adds what the statements of a set's element decide.
    fn nested(&mut self, context: &Context<'_, '_>, each: &Value, known: &[&str]) {
        let Some((_, body)) = single(each) else {
            return;
        };
        if strange(body, known).is_some() {
            self.push(unknown(Strange(statement(each))));
            return;
        }
        let inner = &body["stmt"];
        let one = [inner.clone()];
        let inner = inner.as_array().map_or(&one[..], Vec::as_slice);
        for condition in inner.iter().filter(|inner| !inner.is_null()) {
            match single(condition) {
                Some(("limit" | "quota" | "ct count", _)) => self.rate(context, condition),
                Some(("counter" | "last", _)) => {}
                _ => self.push(unknown(Strange(statement(condition)))),
            }
        }
        let decides = |inner: &Value| {
            let known = single(inner).map(|(kind, _)| kind);
            !inner.is_null() && !matches!(known, Some("counter" | "last"))
        };
        if !inner.iter().any(decides) {
            self.emit(Vec::new(), Verb::Continue(statement(each)));
        }
        self.does.push(statement(each));
    }

    /// Makes one rule for each verdict of a map.
    fn verdict_map(&mut self, context: &Context<'_, '_>, body: &Value) -> Step {
        match self.verdicts(context, body) {
            Ok(all) => {
                for (condition, target) in all {
                    self.emit(vec![condition], target);
                }
            }
            Err(words) => {
                let text = format!("{} vmap", expression(&body["key"]));
                // Each of its verdicts may apply.
                let mut told = Vec::new();
                for (_, value) in pairs(&context.look, &body["data"]).unwrap_or_default() {
                    if !told.contains(&value) {
                        told.push(value);
                        self.emit(
                            vec![unknown(Strange(text.clone()))],
                            verdict(context, value),
                        );
                    }
                }
                self.emit(vec![unknown(words)], Verb::Unknown(text));
            }
        }
        Step::Done
    }

    /// Rejects ports of any protocol: others have something else where TCP has its ports.
    fn check_transport(&self, left: &Value) -> Result<(), Strange> {
        let is_of_ports = |numbers: &Vec<u8>| numbers.iter().all(|number| has_ports(*number));
        let is_any = |field: &Value| field["payload"]["protocol"] == "th";
        let names_protocol = |field: &Value| field["meta"]["key"] == "l4proto";
        let parts = left["concat"].as_array().map_or(&[][..], Vec::as_slice);
        let is_any = is_any(left) || parts.iter().any(is_any);
        let is_any = is_any && !parts.iter().any(names_protocol);
        match is_any && !self.protocols.as_ref().is_some_and(is_of_ports) {
            true => Err(Strange::of(left)),
            false => Ok(()),
        }
    }

    /// Returns the verdicts of a map with their conditions. Their order does not matter.
    fn verdicts(
        &self,
        context: &Context<'_, '_>,
        body: &Value,
    ) -> Result<Vec<(Condition, Verb)>, Strange> {
        let keys = keys(&body["key"])?;
        let pairs = pairs(&context.look, &body["data"])?;
        check_order(&keys, &pairs)?;
        self.check_transport(&body["key"])?;
        let listed: Vec<&Value> = pairs.iter().map(|(key, _)| *key).collect();
        let listed: Vec<&Value> = listed.into_iter().filter(|key| !is_rest(key)).collect();
        let mut groups: Vec<(&Value, Vec<&Value>)> = Vec::new();
        // Large maps have a verdict for each element.
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let mut rest = None;
        for (element, target) in pairs {
            if is_rest(element) {
                rest = Some(target);
                continue;
            }
            let place = *places.entry(target.to_string()).or_insert(groups.len());
            match groups.get_mut(place) {
                Some((_, group)) => group.push(element),
                None => groups.push((target, vec![element])),
            }
        }
        let mut found = Vec::new();
        for (target, group) in groups {
            let condition = member(&context.look, &keys, &group)?;
            found.push((condition, verdict(context, target)));
        }
        if let Some(target) = rest {
            let condition = member(&context.look, &keys, &listed)?.opposite();
            found.push((condition, verdict(context, target)));
        }
        Ok(found)
    }

    /// Reads `dnat` and `redirect`, which may take their target from a map.
    fn translate(&mut self, context: &Context<'_, '_>, kind: &str, body: &Value) -> Step {
        let text = format!("{kind} to {}", expression(body));
        let known = ["addr", "port", "family", "flags", "type_flags"];
        let is_known = body.is_null() || strange(body, &known).is_none();
        let (address, port) = (&body["addr"], &body["port"]);
        let map = [address, port].into_iter().find_map(|part| {
            let (kind, map) = single(part)?;
            (kind == "map").then_some(map)
        });
        let somewhere = match kind {
            "redirect" => Verb::Dnat(None, Some((0, u16::MAX))),
            _ => Verb::DnatSomewhere(text),
        };
        if !is_known {
            return Step::Target(somewhere);
        }
        let Some(map) = map else {
            return Step::Target(to(address, port).unwrap_or(somewhere));
        };
        match self.mapped(context, map, address, port) {
            Ok(all) => {
                for (condition, target) in all {
                    self.emit(vec![condition], target);
                }
                Step::Done
            }
            Err(_) => Step::Target(somewhere),
        }
    }

    fn mapped(
        &self,
        context: &Context<'_, '_>,
        map: &Value,
        address: &Value,
        port: &Value,
    ) -> Result<Vec<(Condition, Verb)>, Strange> {
        if strange(map, &["key", "data"]).is_some() {
            return Err(Strange::of(map));
        }
        let keys = keys(&map["key"])?;
        let mut found = Vec::new();
        let pairs = pairs(&context.look, &map["data"])?;
        check_order(&keys, &pairs)?;
        self.check_transport(&map["key"])?;
        for (element, value) in pairs {
            let condition = member(&context.look, &keys, &[element])?;
            let target = match single(bare(value)) {
                Some(("concat", Value::Array(parts))) => match &parts[..] {
                    [address, port] => to(address, port),
                    _ => None,
                },
                _ if single(address).is_some() => to(value, port),
                _ => to(address, value),
            };
            found.push((condition, target.ok_or_else(|| Strange::of(value))?));
        }
        Ok(found)
    }
}

/// Parses a verdict.
fn verdict(context: &Context<'_, '_>, value: &Value) -> Verb {
    let target = |body: &Value| {
        let name = body["target"].as_str()?;
        let is_known = strange(body, &["target"]).is_none();
        is_known.then(|| (context.chain)(name))
    };
    let found = single(value).and_then(|(kind, body)| {
        Some(match kind {
            "accept" => Verb::Accept,
            "drop" => Verb::Drop,
            "return" => Verb::Return,
            "continue" => Verb::Continue("count".to_owned()),
            "jump" => Verb::Jump(target(body)?),
            "goto" => Verb::Goto(target(body)?),
            _ => return None,
        })
    });
    found.unwrap_or_else(|| Verb::Unknown(statement(value)))
}

fn name_of(kind: &str, each: &Value) -> String {
    match kind {
        "counter" => "count".to_owned(),
        "log" => "log".to_owned(),
        _ => statement(each),
    }
}

/// Removes the ICMP of the other family from rules that let packets through. nft lists
/// `meta nfproto ipv6 meta l4proto ipv6-icmp` without the family.
fn without_other_icmp(rule: &mut ImportedRule, family: Family) {
    if matches!(rule.target, Verb::Drop | Verb::Reject) {
        return;
    }
    let other = match family {
        Family::V4 => ICMPV6,
        Family::V6 => ICMP,
    };
    for condition in &mut rule.conditions {
        if let (Test::Protocol(numbers), false) = (&mut condition.test, condition.negated) {
            numbers.retain(|number| *number != other);
        }
    }
}
