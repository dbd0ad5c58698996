//! URLs of servers: scheme, host, port and a path in front of all paths.

use std::fmt;
use std::net::IpAddr;

use crate::error::{Error, Kind};

/// A server's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether the scheme is `https`.
    pub is_tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path in front of all paths, without a slash at the end; usually empty.
    pub path: String,
}

impl Url {
    /// Parses `http` and `https` URLs without user, query and fragment.
    ///
    /// # Errors
    /// [`Kind::Protocol`] for other texts.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let example = "expected one like https://10.0.0.1:6443";
            Error::new(
                Kind::Protocol,
                format!("{text:?} is not a URL of a server; {example}"),
            )
        };
        let (is_tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) | None => return Err(wrong()),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(wrong());
                }
                (
                    host,
                    port.strip_prefix(':').or(port.is_empty().then_some("")),
                )
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
                None => (authority, Some("")),
            },
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let is_path = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) || !path.bytes().all(is_path) {
            return Err(wrong());
        }
        let port = match port {
            Some("") => Ok(if is_tls { 443 } else { 80 }),
            Some(port) => port.parse().ok().ok_or_else(wrong),
            None => Err(wrong()),
        }?;
        let (host, path) = (host.to_owned(), path.trim_end_matches('/').to_owned());
        Ok(Self {
            is_tls,
            host,
            port,
            path,
        })
    }

    /// Whether the server is on this host, so that nobody can listen to a connection without TLS.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Returns the value of the header `Host`.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers_are_parsed() {
        for (text, want) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
            ("https://api.example.org", "https://api.example.org:443"),
            ("http://localhost:2379/", "http://localhost:2379"),
            ("https://[2001:db8::1]:2379", "https://[2001:db8::1]:2379"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
            (
                "https://rancher/k8s/clusters/c-1/",
                "https://rancher:443/k8s/clusters/c-1",
            ),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), want, "{text}");
        }
        for text in [
            "10.0.0.1:6443",
            "ftp://x",
            "https://",
            "https://:443",
            "https://x:",
            "https://x:70000",
            "https://user@x",
            "https://2001:db8::1",
            "https://[x]:1",
            "https://[::1]x",
            "https://x/a?b",
            "https://x/a b",
            "https://x/\r\nX: y",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_loopback_is_recognized() {
        let is = |text: &str| Url::parse(text).unwrap().is_loopback();
        assert!(is("http://127.0.0.1:2379") && is("http://[::1]:1") && is("http://localhost"));
        assert!(!is("http://10.0.0.1:2379") && !is("http://localhost.example.org"));
    }
}
