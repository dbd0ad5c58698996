//! Server and credentials of a cluster: from the configuration, a kubeconfig, or the pod's service
//! account.

use std::path::Path;

use peerwall_proto::credential;
use peerwall_proto::kubernetes::{Kubeconfig, Secret};

use crate::config;
use crate::credentials::Vigil;
use crate::error::{Error, Kind};
use crate::http::Request;
use crate::tls::{self, Pem};
use crate::url::Url;

/// Where the kubelet puts the service account of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Server and credentials, read for one connection.
pub(super) struct Login {
    pub(super) url: Url,
    pub(super) tls: Option<tls::Client>,
    pub(super) server_name: Option<String>,
    /// Value of `Authorization`.
    authorization: Option<String>,
    /// The credential, for messages.
    name: String,
    token_end: Option<u64>,
}

/// What is read, before it is used.
#[derive(Default)]
struct Given {
    server: Option<String>,
    server_name: Option<String>,
    credentials: tls::Credentials,
    token: Option<Pem>,
}

impl Login {
    /// Reads server number `server`, in turn, and the credentials.
    ///
    /// # Errors
    /// [`Kind::Credential`] if they cannot be used.
    pub(super) fn read(
        config: &config::Kubernetes,
        server: usize,
        vigil: &mut Vigil,
    ) -> Result<Self, Error> {
        let mut given = Given::default();
        if config.in_cluster {
            given = in_cluster(vigil)?;
        }
        if let Some(path) = &config.kubeconfig {
            given = kubeconfig(path, vigil)?;
        }
        for (name, to) in [
            (&config.tls.ca, &mut given.credentials.ca),
            (&config.tls.certificate, &mut given.credentials.certificate),
            (&config.tls.key, &mut given.credentials.key),
            (&config.token, &mut given.token),
        ] {
            if let Some(name) = name {
                *to = Some(pem(name, vigil)?);
            }
        }
        if !config.server.is_empty() {
            given.server = Some(config.server[server % config.server.len()].clone());
        }
        Self::of(given)
    }

    fn of(given: Given) -> Result<Self, Error> {
        let server = given.server.ok_or_else(|| {
            Error::new(
                Kind::Credential,
                "no server: set `server`, `kubeconfig` or `in_cluster`",
            )
        })?;
        let url = Url::parse(&server)?;
        let token = given.token.as_ref().map(token).transpose()?;
        if token.is_some() && !url.is_tls && !url.is_loopback() {
            let text = format!("{url}: a token would be sent in clear text; use https");
            return Err(Error::new(Kind::Credential, text));
        }
        let tls = match url.is_tls {
            true => Some(tls::Client::new(&given.credentials)?),
            false => None,
        };
        let name = match (&given.token, &given.credentials.certificate) {
            (Some(token), _) => format!("the token in {}", token.place),
            (None, Some(certificate)) => format!("the certificate in {}", certificate.place),
            (None, None) => "a request without a credential".to_owned(),
        };
        Ok(Self {
            url,
            tls,
            server_name: given.server_name,
            authorization: token.as_ref().map(|token| format!("Bearer {token}")),
            name,
            token_end: token.and_then(|token| credential::token_end(&token)),
        })
    }

    /// Returns when the first of the credentials expires, in seconds since 1970.
    pub(super) fn end(&self) -> Option<u64> {
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate_end);
        [certificate, self.token_end].into_iter().flatten().min()
    }

    /// Returns the name of the credential, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns a request.
    pub(super) fn request<'r>(&'r self, path: &'r str, accept: &'r str) -> Request<'r> {
        let mut headers = vec![("Accept", accept)];
        if let Some(value) = &self.authorization {
            headers.push(("Authorization", value));
        }
        Request {
            path,
            body: None,
            headers,
        }
    }
}

/// Returns the token in a file: one word.
fn token(pem: &Pem) -> Result<String, Error> {
    let text = pem.text.trim_ascii();
    match !text.is_empty() && text.iter().all(u8::is_ascii_graphic) {
        true => Ok(String::from_utf8_lossy(text).into_owned()),
        false => Err(Error::new(
            Kind::Credential,
            format!("{}: not a token", pem.place),
        )),
    }
}

fn pem(name: &str, vigil: &mut Vigil) -> Result<Pem, Error> {
    let text = vigil.read(name)?;
    let place = name.to_owned();
    Ok(Pem { place, text })
}

fn in_cluster(vigil: &mut Vigil) -> Result<Given, Error> {
    let variable = |name: &str| {
        std::env::var(name).ok().ok_or_else(|| {
            let text = format!("{name} is not set: this is no pod of Kubernetes");
            Error::new(Kind::Credential, text)
        })
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let mut given = Given {
        server: Some(format!("https://{host}:{port}")),
        ..Given::default()
    };
    given.credentials.ca = Some(pem(&format!("{SERVICE_ACCOUNT}/ca.crt"), vigil)?);
    given.token = Some(pem(&format!("{SERVICE_ACCOUNT}/token"), vigil)?);
    Ok(given)
}

fn kubeconfig(path: &str, vigil: &mut Vigil) -> Result<Given, Error> {
    let text = vigil.read(path)?;
    let config = Kubeconfig::parse(&String::from_utf8_lossy(&text));
    let config = config.map_err(|err| Error::new(Kind::Credential, format!("{path}: {err}")))?;
    let mut secret = |secret: &Option<Secret>, key: &str| match secret {
        None => Ok(None),
        Some(Secret::Inline(text)) => Ok(Some(Pem {
            place: format!("{path} ({key})"),
            text: text.clone(),
        })),
        // Relative to the kubeconfig, as in client-go.
        Some(Secret::File(file)) => {
            let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
            pem(&folder.join(file).display().to_string(), vigil).map(Some)
        }
    };
    Ok(Given {
        credentials: tls::Credentials {
            ca: secret(&config.cluster.ca, "certificate-authority-data")?,
            certificate: secret(&config.certificate, "client-certificate-data")?,
            key: secret(&config.key, "client-key-data")?,
        },
        token: secret(&config.token, "token")?,
        server: Some(config.cluster.server),
        server_name: config.cluster.server_name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn read(config: &config::Kubernetes) -> Result<Login, Error> {
        Login::read(
            config,
            0,
            &mut Vigil::new(&Arc::new(AtomicBool::new(false))),
        )
    }

    #[test]
    fn a_token_is_never_sent_in_clear_text_to_another_host() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "abc\n").unwrap();
        let config = |server: &str| config::Kubernetes {
            server: vec![server.to_owned()],
            token: Some(token.display().to_string()),
            ..config::Kubernetes::default()
        };
        let login = read(&config("http://127.0.0.1:8080")).unwrap();
        assert_eq!(login.authorization.as_deref(), Some("Bearer abc"));
        assert!(login.name().ends_with("/token"));
        let err = read(&config("http://10.0.0.1:8080")).err().unwrap();
        assert!(err.message.contains("clear text"), "{err}");
        for bad in ["a b", "a\r\nX: y", " "] {
            std::fs::write(&token, bad).unwrap();
            let err = read(&config("http://127.0.0.1:8080")).err().unwrap();
            assert!(err.message.contains("not a token"), "{bad:?}: {err}");
        }
    }

    #[test]
    fn files_of_a_kubeconfig_are_relative_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
                    clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                    users: [{name: u, user: {tokenFile: token}}]\n";
        std::fs::write(&path, text).unwrap();
        let config = config::Kubernetes {
            kubeconfig: Some(path.display().to_string()),
            ..config::Kubernetes::default()
        };
        let err = read(&config).err().unwrap();
        assert!(err.message.contains("/token: No such file"), "{err}");
        std::fs::write(folder.path().join("token"), "abc").unwrap();
        let login = read(&config).unwrap();
        assert_eq!(login.url.to_string(), "http://127.0.0.1:1");
        std::fs::write(
            &path,
            text.replace("tokenFile: token", "exec: {command: x}"),
        )
        .unwrap();
        let err = read(&config).err().unwrap();
        assert!(err.message.contains("`exec` is not supported"), "{err}");
    }
}
