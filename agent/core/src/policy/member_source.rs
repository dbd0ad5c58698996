//! Sources of members: `[peers_from.NAME]` and `[groups_from.NAME]`.

use serde::{Deserialize, Serialize};

use crate::diagnostic::Place;
use crate::sources::Limits;

/// Source of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSource {
    /// Name. A group of this name has the members.
    pub name: String,
    /// Place.
    pub place: Place,
    /// Whether the members are peers, too.
    pub are_peers: bool,
    /// Limits on the members.
    pub limits: Limits,
    /// Where the members come from.
    pub engine: Engine,
    /// Whether the policy names single members, as in `from = "SOURCE/NODE"`, or tests its members.
    /// It then depends on them in other places than the sets of their addresses.
    pub is_named: bool,
}

/// Kind of an [`Engine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Nodes of the Kubernetes API.
    Kubernetes,
    /// Leases of flannel in etcd.
    FlannelEtcd,
    /// Addresses of names.
    Dns,
    /// Files in the format of [`listing`](crate::sources::Listing), written by any program.
    Files,
}

impl EngineKind {
    /// All kinds with their names.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("kubernetes", Self::Kubernetes),
        ("flannel-etcd", Self::FlannelEtcd),
        ("dns", Self::Dns),
        ("files", Self::Files),
    ];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, kind)| *kind == self);
        found.map_or("", |(name, _)| name)
    }

    /// Returns the keys that apply to this kind, besides those of all kinds.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &[
                "server",
                "kubeconfig",
                "in_cluster",
                "ca",
                "certificate",
                "key",
                "token",
                "selector",
                "address",
            ],
            Self::FlannelEtcd => &[
                "server",
                "prefix",
                "ca",
                "certificate",
                "key",
                "user",
                "password",
            ],
            Self::Dns => &["server", "names"],
            Self::Files => &["files"],
        }
    }
}

/// Where members come from, as in the configuration of `peerwall-sources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Kind.
    pub kind: EngineKind,
    /// URLs of servers; addresses of name servers. Empty for the default.
    pub server: Vec<String>,
    /// File with the server and the credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// Whether to use the service account of the pod.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_cluster: bool,
    /// File with certificates of authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// File with the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// File with the client's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// File with a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// User of etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the password of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Label selector of nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Types of addresses that count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// Prefix of flannel's keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Names to resolve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Files of kind `files`; empty for the one in the directory of sources.
    #[serde(skip)]
    pub files: Vec<String>,
}

impl Engine {
    /// Types of addresses of a Kubernetes node; all count unless the policy says otherwise.
    pub const ADDRESSES: [&'static str; 3] = ["InternalIP", "ExternalIP", "flannel"];
    /// Default prefix of flannel's keys in etcd.
    pub const PREFIX: &'static str = "/coreos.com/network";

    /// Creates an engine of this kind with the defaults.
    pub fn new(kind: EngineKind) -> Self {
        Self {
            kind,
            server: Vec::new(),
            kubeconfig: None,
            in_cluster: false,
            ca: None,
            certificate: None,
            key: None,
            token: None,
            user: None,
            password: None,
            selector: None,
            address: match kind {
                EngineKind::Kubernetes => Self::ADDRESSES.map(str::to_owned).to_vec(),
                EngineKind::FlannelEtcd | EngineKind::Dns | EngineKind::Files => Vec::new(),
            },
            prefix: (kind == EngineKind::FlannelEtcd).then(|| Self::PREFIX.to_owned()),
            names: Vec::new(),
            files: Vec::new(),
        }
    }
}
