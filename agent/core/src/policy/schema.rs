//! The JSON schema of the policy language, for editors: keys, types and choices. What only the
//! loader can judge, such as names and addresses, is any text here.
//!
//! These types describe what the parsers in `load` read; a test compares both, key by key.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::icmp;
use super::load::VERSION;
use super::{Engine, EngineKind, OverlayBackend, RateUnit};
use crate::net::addr::Family;

/// Generates the schema.
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft07().with_transform(without_null);
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<PolicyFile>();
    schema.insert("title".to_owned(), "peerwall policy".into());
    schema
}

/// TOML has no null: a key that is optional is left out.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|each| each != "null");
        if let [only] = &mut types[..] {
            let only = only.take();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(any)) = schema.get_mut("anyOf") {
        any.retain(|each| each.get("type").is_none_or(|kind| kind != "null"));
    }
    transform_subschemas(&mut without_null, schema);
}

/// A policy of peerwall. docs/policy.md describes each key.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct PolicyFile {
    /// Version of the policy language.
    #[schemars(extend("const" = VERSION))]
    version: u32,
    /// More files of this policy, as paths or patterns.
    include: Option<Texts>,
    /// Hosts and networks that may reach every port, by name.
    peers: Option<BTreeMap<String, Texts>>,
    /// Files that list peers, one address or network a line.
    peers_files: Option<Texts>,
    /// Sources with a name, for `from` and `to`.
    groups: Option<BTreeMap<String, GroupValue>>,
    /// Sources of peers, by name.
    peers_from: Option<BTreeMap<String, SourceTable>>,
    /// Sources of groups, by name.
    groups_from: Option<BTreeMap<String, SourceTable>>,
    /// Networks of pods or guests, by name.
    overlay: Option<BTreeMap<String, OverlayTable>>,
    /// Ports that are open to more than peers.
    allow: Option<Vec<AllowTable>>,
    /// Roles of interfaces.
    interfaces: Option<Interfaces>,
    /// ICMP beyond the safe core.
    icmp: Option<IcmpTable>,
    /// Options.
    options: Option<OptionsTable>,
    /// Logging of denied packets.
    log: Option<LogTable>,
    /// Packets and what has to happen to them.
    expect: Option<Vec<ExpectTable>>,
}

/// A text, or a list of texts.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Texts {
    One(String),
    Many(#[schemars(length(min = 1))] Vec<String>),
}

/// A group: its addresses, or where they are listed.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum GroupValue {
    Addresses(Texts),
    Group(GroupTable),
}

/// A group.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("anyOf" = [{"required": ["addresses"]}, {"required": ["files"]}]))]
#[expect(dead_code, reason = "only its schema is used")]
struct GroupTable {
    /// Addresses and networks.
    addresses: Option<Texts>,
    /// Files with one address or network a line.
    files: Option<Texts>,
}

/// A source of members, such as the nodes of a cluster.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct SourceTable {
    /// Where the members come from.
    #[schemars(schema_with = "engines")]
    kind: String,
    /// Networks in which members must be.
    within: Texts,
    /// Maximum number of addresses.
    #[schemars(range(min = 1, max = 1_000_000))]
    max: Option<u32>,
    /// Share of the nodes that may leave at once, such as "25%".
    #[schemars(regex(pattern = r"^[0-9]+%$"))]
    max_loss: Option<String>,
    /// How long a larger loss must last, such as "15m".
    hold: Option<TimeText>,
    /// How long an address must be missing before it is removed.
    grace: Option<TimeText>,
    /// Time without an answer after which the source counts as stale.
    stale_after: Option<TimeText>,
    /// Time without an answer after which all members are removed; never if absent.
    stale_drop: Option<TimeText>,
    /// URLs of the servers of Kubernetes or etcd; addresses of name servers.
    server: Option<Texts>,
    /// kubeconfig file.
    kubeconfig: Option<String>,
    /// Whether to use the service account of the pod.
    in_cluster: Option<bool>,
    /// File with the certificates of authorities.
    ca: Option<String>,
    /// File with the client's certificate.
    certificate: Option<String>,
    /// File with the client's key.
    key: Option<String>,
    /// File with a bearer token.
    token: Option<String>,
    /// User of etcd.
    user: Option<String>,
    /// File with the password of this user.
    password: Option<String>,
    /// Label selector of nodes.
    selector: Option<String>,
    /// Types of addresses that count.
    #[schemars(schema_with = "address_types")]
    address: Option<Texts>,
    /// Prefix of flannel's keys.
    prefix: Option<String>,
    /// Names to resolve.
    names: Option<Texts>,
    /// Files with listings, for kind "files".
    files: Option<Texts>,
}

/// A network of pods or guests.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("oneOf" = [{"required": ["subnets"]}, {"required": ["discover"]}]))]
#[expect(dead_code, reason = "only its schema is used")]
struct OverlayTable {
    /// How packets travel between nodes.
    #[schemars(schema_with = "backends")]
    backend: String,
    /// Networks of the pods of the whole cluster.
    subnets: Option<Texts>,
    /// flannel's `subnet.env`, to read the networks from.
    discover: Option<Texts>,
    /// Interfaces from which pods are accepted.
    interfaces: Option<Texts>,
    /// UDP port of the tunnel.
    #[schemars(range(min = 1, max = 65535))]
    port: Option<u16>,
    /// Whether packets of pods also arrive outside the tunnel.
    direct: Option<bool>,
    /// Interfaces to the other nodes.
    underlay: Option<Texts>,
    /// Whether pods reach other hosts with their own addresses.
    unmasqueraded: Option<bool>,
    /// Sources besides peers that may send to the tunnel; only for wireguard.
    tunnel_from: Option<Texts>,
}

/// Ports that are open to some sources.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct AllowTable {
    /// Name of this allow in counters and reasons.
    name: String,
    /// Ports and protocols, such as "22/tcp"; all if absent.
    ports: Option<Texts>,
    /// Sources: "any", names of groups, addresses or networks.
    from: Texts,
    /// Interfaces by which packets arrive; all if absent.
    interfaces: Option<Texts>,
    /// Source ports; all if absent.
    from_ports: Option<Texts>,
    /// Limit on new connections of each source, such as "10/second burst 20".
    limit: Option<RateText>,
    /// Destinations: "host", names, addresses or networks; this host if absent.
    to: Option<Texts>,
}

/// Roles of interfaces.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Interfaces {
    /// Interfaces from which everything is accepted.
    trusted: Option<Texts>,
    /// Interfaces of guest networks.
    guests: Option<Texts>,
    /// Bridges whose own traffic is not filtered.
    bridged: Option<Texts>,
}

/// ICMP beyond the safe core.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct IcmpTable {
    /// ICMP types that are accepted from everybody.
    v4: Option<IcmpTypeNames<4>>,
    /// ICMPv6 types that are accepted from everybody.
    v6: Option<IcmpTypeNames<6>>,
    /// Sources that may ping this host.
    ping: Option<Texts>,
    /// Whether the safe core is accepted.
    core: Option<bool>,
}

/// Options.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct OptionsTable {
    /// Backend that enforces the policy.
    #[schemars(extend("enum" = ["auto", "nft", "iptables"]))]
    backend: Option<String>,
    /// Priority of the hooks.
    #[schemars(range(min = -99, max = 99))]
    hook_priority: Option<i32>,
    /// What happens to denied packets.
    #[schemars(extend("enum" = ["drop", "reject"]))]
    denied: Option<String>,
    /// What happens to packets that conntrack calls INVALID.
    #[schemars(extend("enum" = ["drop", "accept"]))]
    invalid: Option<String>,
    /// Mode.
    #[schemars(extend("enum" = ["enforce", "audit"]))]
    mode: Option<String>,
    /// What passes in mode `audit`: denied packets except spoofed and injected ones, or all.
    #[schemars(extend("enum" = ["denied", "all"]))]
    audit: Option<String>,
    /// What happens to open connections that the policy does not allow any more.
    #[schemars(extend("enum" = ["cut", "keep"]))]
    revoke: Option<String>,
}

/// Logging.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct LogTable {
    /// Logging of denied packets: a table, or whether there is any.
    denied: Option<DeniedValue>,
}

/// Logging of denied packets.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum DeniedValue {
    Switch(bool),
    Table(DeniedTable),
}

/// Logging of denied packets.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct DeniedTable {
    /// NFLOG group.
    #[schemars(range(min = 0, max = 65535))]
    group: Option<u16>,
    /// Limit, such as "10/second burst 20".
    rate: Option<RateText>,
    /// Prefix of log lines.
    #[schemars(length(min = 1, max = 64))]
    prefix: Option<String>,
}

/// A packet, and what has to happen to it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct ExpectTable {
    /// Whether the packet is for this host, or passes through it.
    #[schemars(extend("enum" = ["input", "forward"]))]
    hook: Option<String>,
    /// Source addresses, or names.
    from: Texts,
    /// Destination address.
    to: Option<Texts>,
    /// Interface by which it arrives.
    interface: Option<Texts>,
    /// Port and protocol, such as "22/tcp".
    port: Option<Texts>,
    /// What has to happen to it.
    #[schemars(extend("enum" = ["accept", "drop"]))]
    verdict: String,
}

fn address_types(_: &mut SchemaGenerator) -> Schema {
    let one = json!({"type": "string", "enum": Engine::ADDRESSES});
    json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
}

fn engines(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": EngineKind::NAMES.map(|(name, _)| name)})
}

fn backends(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": OverlayBackend::NAMES.map(|(name, _)| name)})
}

/// A rate, as `parse_rate` reads it.
struct RateText;

impl JsonSchema for RateText {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let units = RateUnit::ALL.map(|(_, name, _)| name).join("|");
        let pattern = format!("^\\+?[0-9]+/({units})( burst \\+?[0-9]+)?$");
        json_schema!({"type": "string", "pattern": pattern})
    }
}

/// A time with a unit, as the loader reads it.
struct TimeText;

impl JsonSchema for TimeText {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]+[smhd]$"})
    }
}

/// ICMP types of a version of IP: a list of names and numbers, or all.
struct IcmpTypeNames<const IP: u8>;

impl<const IP: u8> JsonSchema for IcmpTypeNames<IP> {
    fn schema_name() -> Cow<'static, str> {
        format!("IcmpTypes{IP}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let family = match IP {
            4 => Family::V4,
            _ => Family::V6,
        };
        let names: Vec<&str> = icmp::names(family).collect();
        json_schema!({
            "anyOf": [
                {"type": "string", "const": "all"},
                {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            {"type": "string", "enum": names},
                            {"type": "integer", "minimum": 0, "maximum": 255},
                        ],
                    },
                },
            ],
        })
    }
}
