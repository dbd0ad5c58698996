//! Files of rules of a few lines, with matches of all kinds that iptables-restore and nft know for
//! single packets.

mod iptables;
mod nft;
mod shell;

use crate::random::Random;

/// A language of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// iptables-restore.
    Iptables,
    /// ip6tables-restore.
    Ip6tables,
    /// nft.
    Nft,
    /// sh.
    Shell,
}

impl Language {
    /// The end of a file's name.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Iptables => "v4",
            Self::Ip6tables => "v6",
            Self::Nft => "nft",
            Self::Shell => "sh",
        }
    }
}

/// Networks that packets can be near to.
const NETS_V4: [&str; 14] = [
    "10.0.0.0/8",
    "192.168.1.0/24",
    "198.51.100.77",
    "198.51.100.64/26",
    "0.0.0.0",
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255",
    "203.0.113.10",
    "203.0.113.255",
    "10.244.0.0/16",
];
/// The same for IPv6.
const NETS_V6: [&str; 12] = [
    "2001:db8::/32",
    "2001:db8:77::1",
    "2001:db8::10",
    "fc00::/7",
    "fe80::/10",
    "fe80::1",
    "ff00::/8",
    "ff02::1",
    "::",
    "::1",
    "::ffff:0:0/96",
    "fd00:244::/32",
];

/// Makes a file.
pub fn file(random: &mut Random, language: Language) -> String {
    match language {
        Language::Iptables => iptables::file(random, false),
        Language::Ip6tables => iptables::file(random, true),
        Language::Nft => nft::file(random),
        Language::Shell => shell::file(random),
    }
}
