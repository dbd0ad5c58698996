//! Parsing of `[peers_from.NAME]` and `[groups_from.NAME]`, and their members.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::context::{Context, Draft};
use super::fields::{Fields, Key, Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::policy::{Address, Engine, EngineKind, Group, MemberSource, Peer};
use crate::sources::{Limits, MAX_HIGHEST};

/// Keys of all kinds.
const KEYS: [&str; 8] = [
    "kind",
    "within",
    "max",
    "max_loss",
    "hold",
    "grace",
    "stale_after",
    "stale_drop",
];

pub(super) fn parse_peers_from(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    parse_sources(cx, file, value, "peers_from.NAME", true);
}

pub(super) fn parse_groups_from(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    parse_sources(cx, file, value, "groups_from.NAME", false);
}

fn parse_sources(
    cx: &mut Context<'_>,
    file: FileId,
    value: &Value<'_>,
    section: &str,
    are_peers: bool,
) {
    // The group of this name has the members.
    cx.named_entries(file, value, section, "group", |cx, key, value| {
        if let Some(table) = cx.table(file, value, section) {
            parse_source(cx, key, table, are_peers);
        }
    });
}

fn parse_source(cx: &mut Context<'_>, key: &Key<'_>, mut fields: Fields<'_>, are_peers: bool) {
    let file = fields.file();
    let name = key.get_ref().to_string();
    let place = place_of(file, key);
    let what = format!("source `{name}`");
    let kind = match fields.take("kind") {
        Some((_, value)) => cx.one_of(file, value, "kind", &EngineKind::NAMES),
        None => {
            let names = EngineKind::NAMES.map(|(name, _)| name).join("\", \"");
            let help = format!("one of \"{names}\"");
            missing(cx, Code::MissingKey, &place, (&what, "kind"), &help);
            None
        }
    };
    let limits = parse_limits(cx, &mut fields, &place, &what, kind);
    let engine = parse_engine(cx, &mut fields, kind);
    let all = EngineKind::NAMES.iter().flat_map(|(_, kind)| kind.keys());
    let mut known: Vec<&str> = KEYS.iter().chain(all).copied().collect();
    known.sort_unstable();
    known.dedup();
    cx.diagnostics.extend(fields.unknown(&known, &what));
    if let Some(engine) = engine {
        check_engine(cx, &engine, &place, &what);
        cx.draft.policy.sources.push(MemberSource {
            name,
            place,
            are_peers,
            limits,
            engine,
            is_named: false,
        });
    }
}

fn missing(cx: &mut Context<'_>, code: Code, place: &Place, what: (&str, &str), help: &str) {
    let message = format!("{} has no `{}`", what.0, what.1);
    cx.error(Diagnostic::error(code, place.clone(), message).help(help));
}

fn parse_limits(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    place: &Place,
    what: &str,
    kind: Option<EngineKind>,
) -> Limits {
    let file = fields.file();
    let mut limits = Limits {
        has_nodes: kind != Some(EngineKind::Dns),
        ..Limits::default()
    };
    match fields.take("within") {
        Some((_, value)) => {
            let nets = cx.addresses(file, value, "`within`");
            for net in nets.iter().filter(|each| each.net.prefix_len() == 0) {
                let message = "`within` contains every address";
                cx.error(
                    Diagnostic::error(Code::InvalidLimit, net.place.clone(), message).help(
                        "write the networks of the nodes; otherwise, a source could admit any other \
                         address",
                    ),
                );
            }
            limits.within = nets.into_iter().map(|each| each.net).collect();
        }
        None => missing(
            cx,
            Code::MissingKey,
            place,
            (what, "within"),
            "write the networks of the nodes, like within = [\"10.0.0.0/16\"]",
        ),
    }
    if let Some((_, value)) = fields.take("max") {
        match value
            .get_ref()
            .as_integer()
            .and_then(|max| usize::try_from(max).ok())
        {
            Some(max @ 1..=MAX_HIGHEST) => limits.max = max,
            Some(_) | None => {
                let help = format!("a number from 1 to {MAX_HIGHEST}");
                let error = out_of_range(Code::OutOfRange, file, value, "max");
                cx.error(error.help(help));
            }
        }
    }
    if let Some((_, value)) = fields.take("max_loss") {
        match value.get_ref().as_str().and_then(parse_percent) {
            Some(percent) => limits.max_loss = percent,
            None => {
                let error = out_of_range(Code::InvalidLimit, file, value, "max_loss");
                cx.error(error.help("like \"25%\""));
            }
        }
    }
    let times: [(&str, &mut Duration); 3] = [
        ("hold", &mut limits.hold),
        ("grace", &mut limits.grace),
        ("stale_after", &mut limits.stale_after),
    ];
    for (key, time) in times {
        *time = parse_time(cx, fields, key).unwrap_or(*time);
    }
    limits.stale_drop = parse_time(cx, fields, "stale_drop");
    limits
}

fn out_of_range(code: Code, file: FileId, value: &Value<'_>, key: &str) -> Diagnostic {
    let message = format!("`{key}` is out of range");
    Diagnostic::error(code, place_of(file, value), message)
}

fn parse_percent(text: &str) -> Option<u8> {
    let percent = text.strip_suffix('%')?.parse().ok()?;
    (percent <= 100).then_some(percent)
}

fn parse_time(cx: &mut Context<'_>, fields: &mut Fields<'_>, key: &str) -> Option<Duration> {
    let file = fields.file();
    let (_, value) = fields.take(key)?;
    let time = value.get_ref().as_str().and_then(parse_duration);
    if time.is_none() {
        let error = out_of_range(Code::InvalidLimit, file, value, key);
        let help = "a time from 1s to 365d, like \"90s\", \"15m\", \"2h\" or \"7d\"";
        cx.error(error.help(help));
    }
    time
}

/// Parses `90s`, `15m`, `2h` or `7d`.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return None,
    };
    let count = text.strip_suffix(unit)?;
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let total = count.parse::<u64>().ok()?.checked_mul(seconds)?;
    (1..=365 * 86400)
        .contains(&total)
        .then(|| Duration::from_secs(total))
}

fn parse_engine(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    kind: Option<EngineKind>,
) -> Option<Engine> {
    let file = fields.file();
    let mut engine = Engine::new(kind.unwrap_or(EngineKind::Files));
    let all = EngineKind::NAMES.iter().flat_map(|(_, kind)| kind.keys());
    let mut all: Vec<&str> = all.copied().collect();
    all.sort_unstable();
    all.dedup();
    for each in all {
        let Some((key, value)) = fields.take(each) else {
            continue;
        };
        if let Some(kind) = kind.filter(|kind| !kind.keys().contains(&each)) {
            cx.error(
                Diagnostic::error(
                    Code::ConflictingKeys,
                    place_of(file, key),
                    format!("`{each}` does not apply to kind \"{}\"", kind.name()),
                )
                .help(format!("its keys are: {}", kind.keys().join(", "))),
            );
            continue;
        }
        match each {
            "server" => engine.server = servers(cx, file, value, kind),
            "address" => engine.address = address_types(cx, file, value),
            "names" => engine.names = texts(cx, file, value, "`names`"),
            "files" => engine.files = texts(cx, file, value, "`files`"),
            "in_cluster" => {
                engine.in_cluster = cx.boolean(file, value, each).unwrap_or_default();
            }
            "kubeconfig" => engine.kubeconfig = text(cx, file, value, each),
            "ca" => engine.ca = text(cx, file, value, each),
            "certificate" => engine.certificate = text(cx, file, value, each),
            "key" => engine.key = text(cx, file, value, each),
            "token" => engine.token = text(cx, file, value, each),
            "user" => engine.user = text(cx, file, value, each),
            "password" => engine.password = text(cx, file, value, each),
            "selector" => engine.selector = text(cx, file, value, each),
            "prefix" => engine.prefix = text(cx, file, value, each),
            _ => {}
        }
    }
    kind.map(|_| engine)
}

fn text(cx: &mut Context<'_>, file: FileId, value: &Value<'_>, key: &str) -> Option<String> {
    let found = value.get_ref().as_str().filter(|text| !text.is_empty());
    if found.is_none() {
        let message = format!("`{key}` must be a string");
        cx.error(
            Diagnostic::error(Code::WrongType, place_of(file, value), message)
                .help("write it in \"quotes\"; it cannot be empty"),
        );
    }
    found.map(str::to_owned)
}

fn texts(cx: &mut Context<'_>, file: FileId, value: &Value<'_>, what: &str) -> Vec<String> {
    let found = cx.strings(file, value, what);
    found.into_iter().map(|(text, _)| text).collect()
}

fn servers(
    cx: &mut Context<'_>,
    file: FileId,
    value: &Value<'_>,
    kind: Option<EngineKind>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (text, place) in cx.strings(file, value, "`server`") {
        let (is_valid, help) = match kind {
            Some(EngineKind::Dns) => (
                text.parse::<SocketAddr>().is_ok() || text.parse::<std::net::IpAddr>().is_ok(),
                "an address of a name server, like \"10.0.0.53\" or \"10.0.0.53:5353\"",
            ),
            _ => (
                is_url(&text),
                "like \"https://10.0.0.1:6443\", without a path",
            ),
        };
        match is_valid {
            true => found.push(text),
            false => cx.error(
                Diagnostic::error(
                    Code::InvalidServer,
                    place,
                    format!("`{text}` is not a server"),
                )
                .help(help),
            ),
        }
    }
    found
}

/// Reports whether this is a URL of a server: a scheme, a host and perhaps a port.
fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://");
    let Some(rest) = rest.or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !rest.is_empty() && rest.bytes().all(is_name)
}

fn address_types(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for (text, place) in cx.strings(file, value, "`address`") {
        match Engine::ADDRESSES.contains(&text.as_str()) {
            true => found.push(text),
            false => cx.error(
                Diagnostic::error(
                    Code::InvalidChoice,
                    place,
                    format!("`{text}` is not a type of addresses"),
                )
                .help(format!("one of \"{}\"", Engine::ADDRESSES.join("\", \""))),
            ),
        }
    }
    found
}

/// Checks that an engine has what its kind needs.
fn check_engine(cx: &mut Context<'_>, engine: &Engine, place: &Place, what: &str) {
    match engine.kind {
        EngineKind::Kubernetes => {
            let ways = [
                !engine.server.is_empty(),
                engine.kubeconfig.is_some(),
                engine.in_cluster,
            ];
            let count = ways.into_iter().filter(|way| *way).count();
            let help = "write server = [\"https://…:6443\"], or kubeconfig = \"…\", or in_cluster = \
                true";
            match count {
                0 => missing(cx, Code::IncompleteSource, place, (what, "server"), help),
                1 => {}
                _ => cx.error(
                    Diagnostic::error(
                        Code::IncompleteSource,
                        place.clone(),
                        format!("{what} has more than one server"),
                    )
                    .help(help),
                ),
            }
        }
        EngineKind::FlannelEtcd if engine.server.is_empty() => {
            let help = "write server = [\"https://…:2379\"], with every member of etcd";
            missing(cx, Code::IncompleteSource, place, (what, "server"), help);
        }
        EngineKind::Dns if engine.names.is_empty() => {
            missing(
                cx,
                Code::IncompleteSource,
                place,
                (what, "names"),
                "write names = [\"nodes.example.org\"]",
            );
        }
        EngineKind::FlannelEtcd | EngineKind::Dns | EngineKind::Files => {}
    }
}

/// Adds the members of all sources to the policy, after all files are read.
pub(super) fn add_members(cx: &mut Context<'_>) {
    let pods = cx.draft.policy.overlays.iter();
    let pods: Vec<_> = pods
        .flat_map(|overlay| &overlay.subnets)
        .map(|subnet| subnet.net)
        .collect();
    let mut sources = std::mem::take(&mut cx.draft.policy.sources);
    for source in &mut sources {
        source.limits.never.clone_from(&pods);
        source.is_named = is_named(&cx.draft, &source.name);
        let found = cx.files.members(source);
        let found = cx.known(found).unwrap_or_default();
        let mut possible: Vec<(&str, IpAddr)> = found
            .iter()
            .filter(|(address, _)| source.limits.check(*address).is_ok())
            .take(source.limits.max)
            .map(|(address, name)| (name.as_str(), *address))
            .collect();
        possible.sort_by_key(|(name, _)| *name);
        let address = |(_, address): &(&str, IpAddr)| Address {
            net: (*address).into(),
            place: source.place.clone(),
        };
        let policy = &mut cx.draft.policy;
        policy.groups.push(Group {
            name: source.name.clone(),
            place: source.place.clone(),
            addresses: possible.iter().map(address).collect(),
        });
        if source.are_peers {
            let nodes = possible.chunk_by(|(one, _), (other, _)| one == other);
            policy.peers.extend(nodes.map(|node| Peer {
                name: Some(format!("{}/{}", source.name, node[0].0)),
                addresses: node.iter().map(address).collect(),
                is_member: true,
            }));
        }
    }
    cx.draft.policy.sources = sources;
}

/// Whether the policy names members of a source, or tests all of them.
fn is_named(draft: &Draft, source: &str) -> bool {
    let froms = draft.froms.iter().map(|from| &from.text);
    let tos = draft.tos.iter().map(|(_, text, _)| text);
    let tested = || draft.expects.iter().flat_map(|expect| &expect.from);
    let tested = || tested().map(|(text, _)| text);
    let mut texts = froms.chain(tos).chain(tested());
    let is_member = |text: &String| {
        let rest = text.strip_prefix(source);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    texts.any(is_member) || tested().any(|text| text == source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, want) in [
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("2h", Some(7200)),
            ("7d", Some(7 * 86400)),
            ("366d", None),
            ("0s", None),
            ("+1s", None),
            ("1", None),
            ("s", None),
            ("1.5m", None),
            ("99999999999999999999d", None),
            ("1µ", None),
            ("", None),
        ] {
            assert_eq!(
                parse_duration(text),
                want.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn a_server_is_a_scheme_and_a_host() {
        for url in [
            "https://10.0.0.1:6443",
            "http://[::1]:2379/",
            "https://api.example.org",
        ] {
            assert!(is_url(url), "{url}");
        }
        for url in [
            "10.0.0.1:6443",
            "https://",
            "https://a/b",
            "https://u@h",
            "ftp://a",
            "https://a b",
        ] {
            assert!(!is_url(url), "{url}");
        }
    }
}
