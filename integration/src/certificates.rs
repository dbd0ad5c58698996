//! Certificates for tests, made by openssl(1) as administrators make them.

use std::path::{Path, PathBuf};

use crate::ns::sh;

/// A certificate authority, with its files in a directory.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    name: String,
}

/// Format of a private key in PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `BEGIN PRIVATE KEY`, of an elliptic curve.
    Pkcs8,
    /// `BEGIN EC PRIVATE KEY`.
    Sec1,
    /// `BEGIN RSA PRIVATE KEY`.
    Pkcs1,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// File of the certificate.
    pub certificate: PathBuf,
    /// File of the key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn new(folder: &Path, name: &str) -> Self {
        let at = folder.join(name);
        let at = at.display();
        sh(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} \
             -addext basicConstraints=critical,CA:TRUE -keyout {at}.key -out {at}.crt 2>&1"
        ));
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
        }
    }

    /// File of the authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// Issues a certificate for 127.0.0.1 with a subject such as `/CN=x`, valid for some days.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn issue(&self, name: &str, subject: &str, key: Key, days: i32) -> Issued {
        let files = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let (at, by) = (files("x"), self.folder.join(&self.name));
        let (at, by) = (at.with_extension(""), by.display());
        let at = at.display();
        let make = match key {
            Key::Pkcs8 => format!(
                "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {at}.key"
            ),
            Key::Sec1 => format!("openssl ecparam -name prime256v1 -genkey -noout -out {at}.key"),
            Key::Pkcs1 => format!("openssl genrsa -traditional -out {at}.key 2048"),
        };
        sh(&format!(
            "({make} && openssl req -new -key {at}.key -subj {subject} -out {at}.csr && \
             echo subjectAltName=IP:127.0.0.1 >{at}.ext && openssl x509 -req -in {at}.csr -CA {by}.crt \
             -CAkey {by}.key -CAcreateserial -days {days} -extfile {at}.ext -out {at}.crt) 2>&1"
        ));
        Issued {
            certificate: files("crt"),
            key: files("key"),
        }
    }
}
