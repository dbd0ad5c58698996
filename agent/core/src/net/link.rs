//! Tunnel interfaces that a policy can depend on.

use std::fmt;
use std::net::IpAddr;

/// Interface with a known driver (`IFLA_INFO_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Driver: `vxlan`, `wireguard`, `bridge`, …
    pub kind: String,
    /// UDP port of a tunnel.
    pub port: Option<u16>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// Source address of a tunnel.
    pub local: Option<IpAddr>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.kind)?;
        if let Some(port) = self.port {
            write!(f, ", UDP port {port}")?;
        }
        if let Some(vni) = self.vni {
            write!(f, ", VNI {vni}")?;
        }
        match self.local {
            Some(local) => write!(f, ", from {local}"),
            None => Ok(()),
        }
    }
}
