//! kubeconfig files: server and credentials of the current context.
//!
//! Format: `k8s.io/client-go/tools/clientcmd/api/v1`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use yaml_rust2::parser::{Event, MarkedEventReceiver, Parser};
use yaml_rust2::scanner::Marker;
use yaml_rust2::{Yaml, YamlLoader};

/// Contents of a credential, or the file that has them.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Path, absolute or relative to the kubeconfig.
    File(String),
    /// The contents themselves.
    Inline(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Inline(_) => f.write_str("Inline(…)"),
        }
    }
}

/// A cluster's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// URL of the server.
    pub server: String,
    /// Certificates of the authorities that signed the server's, in PEM.
    pub ca: Option<Secret>,
    /// Name in the server's certificate, if it is not that of the URL.
    pub server_name: Option<String>,
}

/// The current context of a kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The cluster.
    pub cluster: Cluster,
    /// Certificate of the client, in PEM.
    pub certificate: Option<Secret>,
    /// Key of that certificate, in PEM.
    pub key: Option<Secret>,
    /// Bearer token.
    pub token: Option<Secret>,
}

/// Reason why a kubeconfig cannot be used, as a sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeconfigError(pub String);

impl std::fmt::Display for KubeconfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KubeconfigError {}

fn error(text: impl Into<String>) -> KubeconfigError {
    KubeconfigError(text.into())
}

/// Settings of a user that need another program, or that servers no longer accept.
const UNSUPPORTED_OF_USER: [&str; 4] = ["exec", "auth-provider", "username", "password"];
/// Settings of a cluster that are not supported; the first would accept any server.
const UNSUPPORTED_OF_CLUSTER: [&str; 2] = ["insecure-skip-tls-verify", "proxy-url"];

impl Kubeconfig {
    /// Reads the current context.
    ///
    /// # Errors
    /// [`KubeconfigError`] if the text is not a kubeconfig, or needs what is not supported.
    pub fn parse(text: &str) -> Result<Self, KubeconfigError> {
        refuse_aliases(text)?;
        let documents = YamlLoader::load_from_str(text)
            .map_err(|err| error(format!("it is not YAML: {err}")))?;
        let file = documents.first().unwrap_or(&Yaml::BadValue);
        let current = file["current-context"]
            .as_str()
            .filter(|name| !name.is_empty());
        let current = current.ok_or_else(|| error("it has no current-context"))?;
        let context = named(file, "contexts", "context", current)?;
        let cluster = named(file, "clusters", "cluster", word(context, "cluster")?)?;
        let user = named(file, "users", "user", word(context, "user")?)?;
        refuse(cluster, &UNSUPPORTED_OF_CLUSTER)?;
        refuse(user, &UNSUPPORTED_OF_USER)?;
        Ok(Self {
            cluster: Cluster {
                server: word(cluster, "server")?.to_owned(),
                ca: secret(cluster, "certificate-authority")?,
                server_name: cluster["tls-server-name"].as_str().map(str::to_owned),
            },
            certificate: secret(user, "client-certificate")?,
            key: secret(user, "client-key")?,
            token: token(user),
        })
    }
}

/// Rejects aliases: a few lines of them stand for gigabytes, and no program writes them here.
fn refuse_aliases(text: &str) -> Result<(), KubeconfigError> {
    #[derive(Default)]
    struct Aliases(bool);
    impl MarkedEventReceiver for Aliases {
        fn on_event(&mut self, event: Event, _: Marker) {
            self.0 |= matches!(event, Event::Alias(_));
        }
    }
    let mut aliases = Aliases::default();
    Parser::new_from_str(text)
        .load(&mut aliases, false)
        .map_err(|err| error(format!("it is not YAML: {err}")))?;
    match aliases.0 {
        true => Err(error("it has YAML aliases, which are not supported")),
        false => Ok(()),
    }
}

/// Returns the value of the entry with a name in one of the three lists.
fn named<'y>(
    file: &'y Yaml,
    list: &str,
    value: &str,
    name: &str,
) -> Result<&'y Yaml, KubeconfigError> {
    let entries = file[list].as_vec().map_or(&[][..], Vec::as_slice);
    let entry = entries
        .iter()
        .find(|entry| entry["name"].as_str() == Some(name));
    entry
        .map(|entry| &entry[value])
        .filter(|value| value.as_hash().is_some())
        .ok_or_else(|| error(format!("`{list}` has no entry {name:?}")))
}

fn word<'y>(value: &'y Yaml, key: &str) -> Result<&'y str, KubeconfigError> {
    let word = value[key].as_str().filter(|word| !word.is_empty());
    word.ok_or_else(|| error(format!("`{key}` is missing")))
}

fn refuse(value: &Yaml, keys: &[&str]) -> Result<(), KubeconfigError> {
    let is_set = |key: &&&str| !matches!(value[**key], Yaml::BadValue | Yaml::Boolean(false));
    match keys.iter().find(is_set) {
        Some(key) => Err(error(format!(
            "`{key}` is not supported; use a token or a client certificate in files"
        ))),
        None => Ok(()),
    }
}

/// Reads a credential; `KEY-data` takes precedence over the file, as in client-go.
fn secret(value: &Yaml, key: &str) -> Result<Option<Secret>, KubeconfigError> {
    let data = format!("{key}-data");
    if let Some(text) = value[data.as_str()].as_str() {
        let bytes = STANDARD.decode(text.trim());
        let bytes = bytes.map_err(|err| error(format!("`{data}` is not base64: {err}")))?;
        return Ok(Some(Secret::Inline(bytes)));
    }
    Ok(value[key]
        .as_str()
        .map(|path| Secret::File(path.to_owned())))
}

/// Reads the token; the file takes precedence, as in client-go.
fn token(user: &Yaml) -> Option<Secret> {
    let file = user["tokenFile"]
        .as_str()
        .map(|path| Secret::File(path.to_owned()));
    file.or_else(|| {
        let token = user["token"].as_str()?;
        Some(Secret::Inline(token.as_bytes().to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
apiVersion: v1
kind: Config
current-context: a
contexts:
- name: b
  context: {cluster: other, user: other}
- name: a
  context: {cluster: c, user: u}
clusters:
- name: c
  cluster:
    server: https://10.0.0.1:6443
    certificate-authority-data: Y2E=
    tls-server-name: kubernetes
users:
- name: u
  user:
    client-certificate: kubelet.crt
    client-key: /etc/kubelet.key
    tokenFile: token
    token: inline
";

    #[test]
    fn the_current_context_is_read() {
        let config = Kubeconfig::parse(GOOD).unwrap();
        assert_eq!(config.cluster.server, "https://10.0.0.1:6443");
        assert_eq!(config.cluster.ca, Some(Secret::Inline(b"ca".to_vec())));
        assert_eq!(config.cluster.server_name.as_deref(), Some("kubernetes"));
        assert_eq!(config.certificate, Some(Secret::File("kubelet.crt".into())));
        assert_eq!(config.key, Some(Secret::File("/etc/kubelet.key".into())));
        assert_eq!(config.token, Some(Secret::File("token".into())));
        assert!(!format!("{config:?}").contains("Y2E"), "no secret is shown");
    }

    #[test]
    fn unsupported_settings_are_named() {
        let user = "    client-certificate: kubelet.crt\n";
        let server = "    server: https://10.0.0.1:6443\n";
        for (name, from, to, wanted) in [
            ("plugin", user, "    exec: {command: aws}\n", "`exec`"),
            (
                "provider",
                user,
                "    auth-provider: {name: gcp}\n",
                "`auth-provider`",
            ),
            ("basic", user, "    username: admin\n", "`username`"),
            (
                "insecure",
                server,
                "    server: https://x\n    insecure-skip-tls-verify: true\n",
                "`insecure-skip-tls-verify`",
            ),
            (
                "proxy",
                server,
                "    server: https://x\n    proxy-url: http://x\n",
                "`proxy-url`",
            ),
            (
                "no context",
                "current-context: a",
                "x: a",
                "current-context",
            ),
            (
                "unknown context",
                "current-context: a",
                "current-context: z",
                "\"z\"",
            ),
            ("no server", server, "    x: y\n", "`server`"),
            ("base64", "Y2E=", "'***'", "base64"),
            ("YAML", "kind: Config", "kind: [", "YAML"),
            ("alias", "kind: Config", "kind: &a b\nx: *a", "aliases"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{name}");
            let err = Kubeconfig::parse(&text).expect_err(name);
            assert!(err.0.contains(wanted), "{name}: {err}");
        }
        let secure = GOOD.replacen(
            server,
            "    server: https://x\n    insecure-skip-tls-verify: false\n",
            1,
        );
        assert!(Kubeconfig::parse(&secure).is_ok());
    }
}
