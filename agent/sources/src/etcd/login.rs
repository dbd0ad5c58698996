//! Server and credentials of a member of etcd.

use super::PREFIX;
use crate::config;
use crate::credentials::Vigil;
use crate::error::{Error, Kind};
use crate::tls::{self, Pem};
use crate::url::Url;

/// Server and credentials, read for one connection.
pub(super) struct Login {
    pub(super) url: Url,
    pub(super) tls: Option<tls::Client>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Pem>,
    pub(super) prefix: String,
    certificate: Option<String>,
}

impl Login {
    pub(super) fn read(
        config: &config::FlannelEtcd,
        server: usize,
        vigil: &mut Vigil,
    ) -> Result<Self, Error> {
        let wrong = |text: &str| Error::new(Kind::Credential, text);
        if config.server.is_empty() {
            return Err(wrong("no server: set `server`"));
        }
        let url = Url::parse(&config.server[server % config.server.len()])?;
        let mut pem = |name: &Option<String>| match name {
            None => Ok(None),
            Some(name) => vigil.read(name).map(|text| {
                let place = name.clone();
                Some(Pem { place, text })
            }),
        };
        let password = pem(&config.password)?;
        let credentials = tls::Credentials {
            ca: pem(&config.tls.ca)?,
            certificate: pem(&config.tls.certificate)?,
            key: pem(&config.tls.key)?,
        };
        if config.user.is_some() != password.is_some() {
            return Err(wrong("`user` and `password` need each other"));
        }
        if password.is_some() && !url.is_tls && !url.is_loopback() {
            let text = format!("{url}: a password would be sent in clear text; use https");
            return Err(wrong(&text));
        }
        let tls = match url.is_tls {
            true => Some(tls::Client::new(&credentials)?),
            false => None,
        };
        Ok(Self {
            url,
            tls,
            user: config.user.clone(),
            password,
            prefix: config.prefix.clone().unwrap_or_else(|| PREFIX.to_owned()),
            certificate: config.tls.certificate.clone(),
        })
    }

    /// Returns the name of the credential, for messages.
    pub(super) fn name(&self) -> String {
        match (&self.user, &self.password, &self.certificate) {
            (Some(user), Some(password), _) => {
                format!("user {user} with the password in {}", password.place)
            }
            (_, _, Some(certificate)) => format!("the certificate in {certificate}"),
            _ => "a request without a credential".to_owned(),
        }
    }
}
