//! The configuration that the agent writes.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Kind};

/// Maximum size of the configuration in bytes.
pub const CONFIG_MAX_BYTES: u64 = 4 << 20;
/// Supported version of the format.
const VERSION: u64 = 1;
/// Maximum length of a source's name.
const NAME_MAX_BYTES: usize = 64;

/// An entry of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name of the source, and of its file.
    pub name: String,
    /// What to follow.
    pub engine: Engine,
    /// Expected maximum number of addresses, which the agent enforces.
    pub max: usize,
}

/// What to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// Nodes of Kubernetes.
    Kubernetes(Kubernetes),
    /// flannel's leases in etcd.
    FlannelEtcd(FlannelEtcd),
    /// Names of DNS.
    Dns(Dns),
}

impl Engine {
    /// Returns the value of `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::FlannelEtcd(_) => "flannel-etcd",
            Self::Dns(_) => "dns",
        }
    }
}

/// Files with the credentials for a server: paths, or names of credentials of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Certificates of the authorities that signed the server's; the system's if absent.
    pub ca: Option<String>,
    /// Certificate of the client.
    pub certificate: Option<String>,
    /// Key of that certificate.
    pub key: Option<String>,
}

/// Nodes of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Kubernetes {
    /// URLs of API servers.
    pub server: Vec<String>,
    /// A file with servers and credentials.
    pub kubeconfig: Option<String>,
    /// Whether to use the service account of the pod.
    pub in_cluster: bool,
    /// Certificates and key.
    #[serde(flatten)]
    pub tls: Tls,
    /// File with a bearer token.
    pub token: Option<String>,
    /// Label selector.
    pub selector: Option<String>,
    /// Addresses of a node that count: `InternalIP`, `ExternalIP`, `flannel`.
    pub address: Vec<String>,
}

/// flannel's leases in etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FlannelEtcd {
    /// URLs of members.
    pub server: Vec<String>,
    /// Prefix of flannel's keys.
    pub prefix: Option<String>,
    /// Certificates and key.
    #[serde(flatten)]
    pub tls: Tls,
    /// User, if etcd uses passwords.
    pub user: Option<String>,
    /// File with the password.
    pub password: Option<String>,
}

/// Names of DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Names to resolve.
    pub names: Vec<String>,
    /// Addresses of name servers, with or without a port; those of `/etc/resolv.conf` if empty.
    pub server: Vec<String>,
}

/// The sources of a configuration, and complaints about entries that are not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The sources, in the order of the file.
    pub sources: Vec<Source>,
    /// Entries and keys that are not used, with the reason.
    pub ignored: Vec<String>,
}

impl Config {
    /// Parses a configuration.
    ///
    /// # Errors
    /// [`Kind::Protocol`] if it is not a configuration of this version.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let wrong = |why: String| Error::new(Kind::Protocol, why);
        let file: Value = serde_json::from_slice(text).map_err(|err| wrong(err.to_string()))?;
        let version = &file["version"];
        if version.as_u64() != Some(VERSION) {
            return Err(wrong(format!(
                "version {version} is not supported, only {VERSION}"
            )));
        }
        let entries = file["sources"]
            .as_array()
            .ok_or_else(|| wrong("it has no list of sources".to_owned()))?;
        let mut config = Self::default();
        for entry in entries {
            config.add(entry);
        }
        Ok(config)
    }

    fn add(&mut self, entry: &Value) {
        let name = entry["name"].as_str().unwrap_or_default();
        if !is_name(name) || self.sources.iter().any(|source| source.name == name) {
            self.ignored.push(format!(
                "source {name:?}: the name is missing, unusable or not unique"
            ));
            return;
        }
        let engine = match engine(entry) {
            Ok(engine) => engine,
            Err(why) => {
                self.ignored.push(format!("source {name}: {why}"));
                return;
            }
        };
        for key in unknown_keys(entry, &engine) {
            self.ignored
                .push(format!("source {name}: unknown key `{key}`"));
        }
        let max = entry["max"].as_u64().unwrap_or(u64::MAX);
        self.sources.push(Source {
            name: name.to_owned(),
            engine,
            max: usize::try_from(max).unwrap_or(usize::MAX),
        });
    }
}

/// Whether a name is usable as the name of a file.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(is_plain)
}

fn engine(entry: &Value) -> Result<Engine, String> {
    // Null means absent, which serde only accepts for options.
    let mut given = entry.clone();
    if let Some(keys) = given.as_object_mut() {
        keys.retain(|_, value| !value.is_null());
    }
    let engine = match entry["kind"].as_str() {
        Some("kubernetes") => serde_json::from_value(given).map(Engine::Kubernetes),
        Some("flannel-etcd") => serde_json::from_value(given).map(Engine::FlannelEtcd),
        Some("dns") => serde_json::from_value(given).map(Engine::Dns),
        Some(other) => return Err(format!("this program has no kind {other:?}")),
        None => return Err("`kind` is missing".to_owned()),
    };
    engine.map_err(|err| err.to_string())
}

/// Returns the keys of an entry that its kind does not have.
fn unknown_keys<'e>(entry: &'e Value, engine: &Engine) -> Vec<&'e str> {
    let own: &[&str] = match engine {
        Engine::Kubernetes(_) => &[
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
        Engine::FlannelEtcd(_) => &[
            "server",
            "prefix",
            "ca",
            "certificate",
            "key",
            "user",
            "password",
        ],
        Engine::Dns(_) => &["names", "server"],
    };
    let is_known = |key: &str| ["name", "kind", "max"].contains(&key) || own.contains(&key);
    let pairs = entry.as_object().into_iter().flatten();
    let unknown = pairs.filter(|(key, value)| !value.is_null() && !is_known(key));
    unknown.map(|(key, _)| key.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &str) -> Config {
        Config::parse(format!(r#"{{"version": 1, "sources": [{entries}]}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn every_kind_is_read_and_null_is_absent() {
        let config = parse(
            r#"{"name": "cluster", "kind": "kubernetes", "server": ["https://10.0.0.1:6443"],
                "kubeconfig": null, "in_cluster": false, "ca": "/ca.crt", "token": "kubernetes-token",
                "selector": "role=peer", "address": ["InternalIP"], "max": 1024},
               {"name": "leases", "kind": "flannel-etcd", "server": ["https://10.0.0.1:2379"],
                "prefix": null, "user": "peerwall", "password": "/p", "max": 7},
               {"name": "balancers", "kind": "dns", "names": ["lb.example.org"], "server": null}"#,
        );
        assert_eq!(config.ignored, [""; 0]);
        let kinds: Vec<_> = config
            .sources
            .iter()
            .map(|each| each.engine.kind())
            .collect();
        assert_eq!(kinds, ["kubernetes", "flannel-etcd", "dns"]);
        let Engine::Kubernetes(cluster) = &config.sources[0].engine else {
            panic!("another kind");
        };
        assert_eq!(cluster.tls.ca.as_deref(), Some("/ca.crt"));
        assert_eq!(cluster.token.as_deref(), Some("kubernetes-token"));
        assert_eq!(
            (config.sources[1].max, config.sources[2].max),
            (7, usize::MAX)
        );
    }

    #[test]
    fn unusable_entries_do_not_hide_the_others() {
        let good = r#"{"name": "a", "kind": "dns", "names": ["x"]}"#;
        for (entry, wanted) in [
            (r#"{"name": "../x", "kind": "dns"}"#, "name"),
            (r#"{"name": ".x", "kind": "dns"}"#, "name"),
            (r#"{"kind": "dns"}"#, "name"),
            (good, "unique"),
            (r#"{"name": "b", "kind": "files"}"#, "files"),
            (r#"{"name": "b"}"#, "kind"),
            (r#"{"name": "b", "kind": "dns", "names": "x"}"#, "sequence"),
            ("7", "name"),
        ] {
            let config = parse(&format!("{good}, {entry}"));
            assert_eq!(config.sources.len(), 1, "{entry}");
            assert!(
                config.ignored[0].contains(wanted),
                "{entry}: {:?}",
                config.ignored
            );
        }
        let config =
            parse(r#"{"name": "a", "kind": "dns", "names": ["x"], "new": 1, "old": null}"#);
        assert_eq!(config.sources.len(), 1);
        assert_eq!(config.ignored, ["source a: unknown key `new`"]);
    }

    #[test]
    fn another_format_is_an_error() {
        for text in [
            "",
            "[]",
            r#"{"version": 2, "sources": []}"#,
            r#"{"version": 1}"#,
        ] {
            assert!(Config::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
