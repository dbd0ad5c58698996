//! TLS: the client's configuration, and what its errors mean.

use std::io;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use peerwall_proto::credential;

use crate::error::{Error, Kind};

/// Where distributions keep the authorities that browsers trust: Debian, Fedora, openSUSE.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// A credential in PEM, and where it came from, for messages.
#[derive(Clone)]
pub struct Pem {
    /// File, or place in a kubeconfig.
    pub place: String,
    /// The contents.
    pub text: Vec<u8>,
}

/// The credentials of a connection.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Authorities of the server's certificate.
    pub ca: Option<Pem>,
    /// Certificate of the client.
    pub certificate: Option<Pem>,
    /// Its key.
    pub key: Option<Pem>,
}

/// The client's side of TLS.
pub struct Client {
    /// Configuration for connections.
    pub config: Arc<ClientConfig>,
    /// Digest of the authorities, which identifies a cluster; `None` if they are the system's.
    pub ca_digest: Option<String>,
    /// End of the client's certificate, in seconds since 1970.
    pub certificate_end: Option<u64>,
    /// For messages.
    names: Names,
}

/// Where the credentials came from.
#[derive(Debug, Clone, Default)]
struct Names {
    ca: String,
    certificate: Option<String>,
}

impl Client {
    /// Returns the client's side for these credentials.
    ///
    /// # Errors
    /// [`Kind::Credential`] if they cannot be used.
    pub fn new(credentials: &Credentials) -> Result<Self, Error> {
        let system;
        let ca = match &credentials.ca {
            Some(ca) => ca,
            None => {
                system = system_bundle()?;
                &system
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|err| Error::new(Kind::Tls, err.to_string()))?
            .with_root_certificates(roots(ca)?);
        let mut certificate_end = None;
        let config = match (&credentials.certificate, &credentials.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                certificate_end = chain
                    .first()
                    .and_then(|each| credential::certificate_end(each));
                let parsed = PrivateKeyDer::from_pem_slice(&key.text);
                let parsed = parsed
                    .map_err(|err| wrong(&key.place, &format!("no usable key in PEM: {err}")))?;
                builder
                    .with_client_auth_cert(chain, parsed)
                    .map_err(|err| {
                        wrong(
                            &certificate.place,
                            &format!("{err}; is {} its key?", key.place),
                        )
                    })?
            }
            (Some(given), None) => return Err(wrong(&given.place, "a certificate needs its key")),
            (None, Some(given)) => return Err(wrong(&given.place, "a key needs its certificate")),
        };
        Ok(Self {
            config: Arc::new(config),
            ca_digest: credentials.ca.as_ref().map(|ca| hex(&ca.text)),
            certificate_end,
            names: Names {
                ca: ca.place.clone(),
                certificate: credentials
                    .certificate
                    .as_ref()
                    .map(|each| each.place.clone()),
            },
        })
    }

    /// Explains an error of a connection, if TLS caused it.
    pub fn explain(&self, err: &io::Error) -> Option<Error> {
        let cause = err.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(explain(cause, &self.names))
    }
}

fn explain(cause: &rustls::Error, names: &Names) -> Error {
    use CertificateError::{BadSignature, NotValidForName, NotValidForNameContext, UnknownIssuer};
    use rustls::Error::{AlertReceived, InvalidCertificate};
    let server = "the server's certificate";
    if let InvalidCertificate(UnknownIssuer | BadSignature) = cause {
        let remedy = "copy the cluster's current CA there";
        let text = format!(
            "{server} was not signed by an authority in {}; {remedy}",
            names.ca
        );
        return Error::new(Kind::Tls, text);
    }
    if let InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) = cause {
        let remedy = "use a name or address from its subjectAltName";
        let text = format!("{server} is for another name; {remedy}: {cause}");
        return Error::new(Kind::Tls, text);
    }
    if let AlertReceived(alert) = cause
        && REFUSALS.contains(alert)
    {
        let text = match &names.certificate {
            Some(name) => {
                format!("the server refuses the certificate in {name}; renew it: {cause}")
            }
            None => format!("the server wants a client certificate: {cause}"),
        };
        return Error::new(Kind::Unauthorized, text);
    }
    Error::new(Kind::Tls, cause.to_string())
}

/// Alerts by which a server refuses the client's certificate.
const REFUSALS: [AlertDescription; 7] = [
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
];

fn wrong(place: &str, why: &str) -> Error {
    Error::new(Kind::Credential, format!("{place}: {why}"))
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.text).collect();
    let found = found.map_err(|err| wrong(&pem.place, &format!("not PEM: {err}")))?;
    match found.is_empty() {
        true => Err(wrong(&pem.place, "no certificate in PEM")),
        false => Ok(found),
    }
}

/// Returns the authorities. The system's bundles may have some that are not supported.
fn roots(pem: &Pem) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates(pem)?);
    match usable {
        0 => Err(wrong(&pem.place, "no usable certificate of an authority")),
        _ => Ok(roots),
    }
}

fn system_bundle() -> Result<Pem, Error> {
    let read = |place: &&str| {
        let (text, place) = (std::fs::read(place).ok()?, (*place).to_owned());
        Some(Pem { place, text })
    };
    SYSTEM_BUNDLES.iter().find_map(read).ok_or_else(|| {
        let text = "the system has no bundle of authorities; set `ca`";
        Error::new(Kind::Credential, text)
    })
}

/// Returns the beginning of the SHA-256 digest, in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    let bytes = digest.as_ref().iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_credentials_are_named() {
        let pem = |text: &str| {
            let (place, text) = ("/x.pem".to_owned(), text.as_bytes().to_vec());
            Some(Pem { place, text })
        };
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, ca, certificate, key, wanted) in [
            ("no PEM", pem("x"), None, None, "no certificate"),
            ("broken", pem(broken), None, None, "not PEM"),
            ("not X.509", pem(odd), None, None, "no usable certificate"),
        ] {
            let credentials = Credentials {
                ca,
                certificate,
                key,
            };
            let err = Client::new(&credentials).err().expect(name);
            assert_eq!(err.kind, Kind::Credential, "{name}");
            assert!(
                err.message.contains("/x.pem") && err.message.contains(wanted),
                "{err}"
            );
        }
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let names = Names {
            ca: "/ca.crt".to_owned(),
            certificate: Some("/client.crt".to_owned()),
        };
        for (cause, kind, wanted) in [
            (
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
                Kind::Tls,
                "/ca.crt",
            ),
            (
                rustls::Error::InvalidCertificate(CertificateError::NotValidForName),
                Kind::Tls,
                "subjectAltName",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateExpired),
                Kind::Unauthorized,
                "/client.crt",
            ),
            (rustls::Error::DecryptError, Kind::Tls, "decrypt"),
        ] {
            let err = explain(&cause, &names);
            assert_eq!(err.kind, kind, "{err}");
            assert!(err.message.contains(wanted), "{err}");
        }
    }
}
