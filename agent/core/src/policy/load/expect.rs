//! Parsing of `[[expect]]`.

use super::context::{Context, PendingExpect};
use super::fields::{Fields, Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::packet::{Hook, Verdict};
use crate::net::port::PortSpec;
use crate::policy::{Discovery, Expect};

pub(super) fn parse_expects(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    cx.each_table(file, value, "expect", parse_expect);
}

fn parse_expect(cx: &mut Context<'_>, mut fields: Fields<'_>) {
    let file = fields.file();
    let whole = fields.place();
    let hook = match fields.take("hook") {
        Some((_, value)) => cx.one_of(
            file,
            value,
            "hook",
            &[("input", Hook::Input), ("forward", Hook::Forward)],
        ),
        None => Some(Hook::Input),
    };
    let from = match fields.take("from") {
        Some((_, value)) => cx.strings(file, value, "`from`"),
        None => missing(
            cx,
            &whole,
            "from",
            "like from = \"192.0.2.7\", or the name of a peer",
        ),
    };
    let to = fields
        .take("to")
        .and_then(|(_, value)| parse_to(cx, file, value));
    let given = fields.take("interface");
    let interface = given.and_then(|(_, value)| parse_interface(cx, file, value));
    let port = fields
        .take("port")
        .and_then(|(_, value)| parse_port(cx, file, value));
    let verdict = match fields.take("verdict") {
        Some((_, value)) => {
            let choices = [("accept", Verdict::Accept), ("drop", Verdict::Drop)];
            cx.one_of(file, value, "verdict", &choices)
                .map(|v| (v, place_of(file, value)))
        }
        None => {
            let _: Vec<(String, Place)> = missing(
                cx,
                &whole,
                "verdict",
                "add verdict = \"accept\" or \"drop\"",
            );
            None
        }
    };
    let known = ["hook", "from", "to", "interface", "port", "verdict"];
    cx.diagnostics.extend(fields.unknown(&known, "expect"));
    // If one of these is missing, an error is reported already. The other keys are still checked.
    let hook = hook.unwrap_or(Hook::Input);
    let (verdict, place) = verdict.unwrap_or((Verdict::Drop, whole));
    let expect = Expect {
        place,
        hook,
        from: Vec::new(),
        to,
        interface: interface.unwrap_or_else(|| "eth0".to_owned()),
        port,
        verdict,
        awaits: Vec::new(),
    };
    let has_interface = given.is_some();
    cx.draft.expects.push(PendingExpect {
        expect,
        from,
        has_interface,
    });
}

fn missing<T>(cx: &mut Context<'_>, place: &Place, key: &str, help: &str) -> Vec<T> {
    cx.error(
        Diagnostic::error(
            Code::MissingKey,
            place.clone(),
            format!("this expectation has no `{key}`"),
        )
        .help(help),
    );
    Vec::new()
}

fn parse_to(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> Option<ipnet::IpNet> {
    let addresses = cx.addresses(file, value, "`to`");
    one(cx, file, value, "to", addresses).map(|address| address.net)
}

fn parse_interface(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> Option<String> {
    let patterns = cx.patterns(file, value, "`interface`");
    one(cx, file, value, "interface", patterns).map(|pattern| pattern.example())
}

fn parse_port(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> Option<PortSpec> {
    let specs = cx.ports(file, value);
    one(cx, file, value, "port", specs)
}

/// Returns the first element of a list, and reports an error if there are more.
fn one<T>(
    cx: &mut Context<'_>,
    file: FileId,
    value: &Value<'_>,
    what: &str,
    list: Vec<T>,
) -> Option<T> {
    if list.len() > 1 {
        let message = format!(
            "`{what}` of an expectation must be one value, not {}",
            list.len()
        );
        cx.error(
            Diagnostic::error(Code::OneValueOnly, place_of(file, value), message)
                .help("write one [[expect]] for each"),
        );
    }
    list.into_iter().next()
}

/// Resolves `from` of each `[[expect]]`.
pub(super) fn resolve_expects(cx: &mut Context<'_>) {
    for mut pending in std::mem::take(&mut cx.draft.expects) {
        for (text, place) in std::mem::take(&mut pending.from) {
            let policy = &cx.draft.policy;
            let nets: Vec<ipnet::IpNet> = if let Some(group) = policy.group(&text) {
                group.addresses.iter().map(|a| a.net).collect()
            } else if let Some(overlay) = policy.overlays.iter().find(|o| o.name == text) {
                if !pending.has_interface
                    && let Some(first) = overlay.interfaces.first()
                {
                    pending.expect.interface = first.example();
                }
                if matches!(overlay.discovery, Discovery::Awaited(_)) {
                    pending.expect.awaits.push(text);
                }
                overlay.pods()
            } else if let Some(peer) = policy
                .peers
                .iter()
                .find(|p| p.name.as_deref() == Some(text.as_str()))
            {
                peer.addresses.iter().map(|a| a.net).collect()
            } else if text == "any" {
                cx.error(
                    Diagnostic::error(
                        Code::ExpectFromAny,
                        place,
                        "`from` of an expectation cannot be \"any\"",
                    )
                    .help("write an address that stands for strangers, like \"198.51.100.1\""),
                );
                continue;
            } else {
                let source = cx.source(&text, &place);
                source.into_iter().filter_map(net_of).collect()
            };
            pending.expect.from.extend(nets);
        }
        cx.draft.policy.expects.push(pending.expect);
    }
}

fn net_of(source: crate::policy::Source) -> Option<ipnet::IpNet> {
    match source {
        crate::policy::Source::Net(net) => Some(net),
        crate::policy::Source::Any
        | crate::policy::Source::Group(_)
        | crate::policy::Source::Peer(_)
        | crate::policy::Source::Overlay(_) => None,
    }
}
