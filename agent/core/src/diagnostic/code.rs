//! Codes of diagnostics: one stable word for each kind of problem, for programs and for
//! looking it up in `docs/json.md`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Declares the codes with their names, so that none can be left out of [`Code::ALL`].
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $name:literal,)+) => {
        /// The kind of a problem. Codes keep their meaning within a version of the JSON.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $code,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$code),+];

            /// The code as it is written.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)+
                }
            }
        }
    };
}

codes! {
    /// An administrator's ssh connection comes from an overlay's network.
    AdministratorInOverlay = "administrator-in-overlay",
    /// An allow can never match, or opens nothing.
    AllowUnreachable = "allow-unreachable",
    /// flannel uses another backend than the overlay names.
    BackendMismatch = "backend-mismatch",
    /// Two keys exclude each other.
    ConflictingKeys = "conflicting-keys",
    /// A name or key is defined twice.
    DefinedTwice = "defined-twice",
    /// Packets that flannel routes without the tunnel are dropped.
    DirectRoutingDropped = "direct-routing-dropped",
    /// flannel's file does not exist yet.
    DiscoveryAwaited = "discovery-awaited",
    /// flannel's file has errors.
    DiscoveryInvalid = "discovery-invalid",
    /// flannel's file cannot be used; its last valid content is.
    DiscoveryKept = "discovery-kept",
    /// A list, or a file with a list, is empty.
    EmptyList = "empty-list",
    /// An expectation is about `any`.
    ExpectFromAny = "expect-from-any",
    /// The policy does not meet one of its expectations.
    ExpectationNotMet = "expectation-not-met",
    /// An expectation depends on pods that are not known here.
    ExpectationNotTested = "expectation-not-tested",
    /// Addresses of an expectation are of different families.
    FamilyMismatch = "family-mismatch",
    /// A file that the policy names does not exist.
    FileMissing = "file-missing",
    /// A file that the policy names cannot be read.
    FileUnreadable = "file-unreadable",
    /// A network of this host is inside an overlay's.
    HostNetworkInOverlay = "host-network-in-overlay",
    /// A source of members has no server, or has several.
    IncompleteSource = "incomplete-source",
    /// This host has no interface of that name.
    InterfaceMissing = "interface-missing",
    /// An interface has two roles.
    InterfaceRoles = "interface-roles",
    /// Not an address or network, or one that cannot be used here.
    InvalidAddress = "invalid-address",
    /// The value is none of the choices.
    InvalidChoice = "invalid-choice",
    /// Not an ICMP type.
    InvalidIcmpType = "invalid-icmp-type",
    /// A file of rules that cannot be imported.
    InvalidInput = "invalid-input",
    /// Not the name of an interface, or not a pattern of such names.
    InvalidInterface = "invalid-interface",
    /// Not a limit on a source of members.
    InvalidLimit = "invalid-limit",
    /// A name that cannot be used.
    InvalidName = "invalid-name",
    /// A line of a packet list that is not a verdict with a packet.
    InvalidPacket = "invalid-packet",
    /// Not a port, range of ports or protocol.
    InvalidPort = "invalid-port",
    /// Not a prefix for log lines.
    InvalidPrefix = "invalid-prefix",
    /// Not a rate.
    InvalidRate = "invalid-rate",
    /// Not a server of a source of members.
    InvalidServer = "invalid-server",
    /// The key does not apply to this backend.
    KeyDoesNotApply = "key-does-not-apply",
    /// A peer has a link-local address.
    LinkLocalPeer = "link-local-peer",
    /// A value is listed twice.
    ListedTwice = "listed-twice",
    /// A required key is missing.
    MissingKey = "missing-key",
    /// A source that is accepted anyway.
    NeedlessSource = "needless-source",
    /// An included file includes another.
    NestedInclude = "nested-include",
    /// The policy accepts nobody.
    NobodyAllowed = "nobody-allowed",
    /// This node's pods are outside of the overlay's networks.
    NodeOutsideOverlay = "node-outside-overlay",
    /// The policy is in audit mode.
    NothingEnforced = "nothing-enforced",
    /// A list where only one value is allowed.
    OneValueOnly = "one-value-only",
    /// An allow opens every port to everybody.
    OpenToEverybody = "open-to-everybody",
    /// A tunnel would accept packets from everybody.
    OpenTunnel = "open-tunnel",
    /// A number is out of range.
    OutOfRange = "out-of-range",
    /// A network overlaps an overlay's.
    OverlapsOverlay = "overlaps-overlay",
    /// An address of this host is inside an overlay's network.
    OwnAddressInOverlay = "own-address-in-overlay",
    /// A peer's network contains another peer.
    PeerInPeer = "peer-in-peer",
    /// A peer is the Internet, or half of it.
    PeerIsEverybody = "peer-is-everybody",
    /// Source and destination ports have different protocols.
    ProtocolMismatch = "protocol-mismatch",
    /// An interface of this host routes loopback addresses.
    RouteLocalnet = "route-localnet",
    /// Routes into an overlay use interfaces that it does not list.
    RoutesOutsideOverlay = "routes-outside-overlay",
    /// iptables cannot express a rule of the policy.
    RuleNotExpressible = "rule-not-expressible",
    /// The safe core of ICMP is off.
    SafeCoreOff = "safe-core-off",
    /// The priority of the hooks is the one that others use.
    SharedPriority = "shared-priority",
    /// Not TOML.
    Syntax = "syntax",
    /// `to` is `any`.
    ToAny = "to-any",
    /// A tunnel's ports are not those of the policy, or of each other.
    TunnelPorts = "tunnel-ports",
    /// A key that does not exist.
    UnknownKey = "unknown-key",
    /// A name that is not defined.
    UnknownName = "unknown-name",
    /// A version of the policy language that this peerwall does not know.
    UnknownVersion = "unknown-version",
    /// A value that this version does not support.
    UnsupportedValue = "unsupported-value",
    /// Users other than root can write a file of the policy.
    WritableByOthers = "writable-by-others",
    /// A value of the wrong type.
    WrongType = "wrong-type",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_kebab_case_word_documented_once_and_in_order() {
        let documented = include_str!("../../../../docs/json.md");
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].name() < pair[1].name(), "{pair:?}");
        }
        for code in Code::ALL {
            let name = code.name();
            let is_kebab = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            assert!(is_kebab, "{name}");
            let row = format!("| `{name}` |");
            assert_eq!(documented.matches(&row).count(), 1, "{row}");
        }
    }
}
