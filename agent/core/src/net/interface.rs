//! Patterns of interface names.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Maximum length of an interface name in bytes (`IFNAMSIZ` without the NUL).
pub const NAME_MAX_BYTES: usize = 15;

/// Name of an interface, or a prefix of names: `cali*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InterfacePattern {
    /// One interface.
    Exact(String),
    /// All interfaces whose name starts with this prefix, which is never empty.
    Prefix(String),
}

/// Error message of an invalid pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceError(pub String);

impl InterfacePattern {
    /// Parses `eth0` or `cali*`.
    ///
    /// # Errors
    /// [`InterfaceError`] for names that the kernel does not allow (`dev_valid_name()` in
    /// `net/core/dev.c`), for characters that nft would read differently, and for a lone `*`.
    pub fn parse(text: &str) -> Result<Self, InterfaceError> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        let wrong = |why: &str| Err(InterfaceError(format!("`{text}` {why}")));
        if name.is_empty() && is_prefix {
            return wrong("matches every interface; omit the key instead");
        }
        if name.is_empty() || name == "." || name == ".." {
            return wrong("is not an interface name");
        }
        if name.len() > NAME_MAX_BYTES {
            return wrong("is longer than 15 bytes, the maximum of an interface name");
        }
        if name
            .bytes()
            .any(|b| b.is_ascii_whitespace() || b == b'/' || b == b':' || b == 0)
        {
            return wrong("has a character that is not allowed in an interface name");
        }
        // iptables would open every interface with the rest of the name.
        if name.ends_with('+') && !is_prefix {
            return wrong("ends in `+`, which is no pattern here; write a `*` for all such names");
        }
        // nft would read such a name in a listing differently and load another rule.
        if name
            .bytes()
            .any(|b| b == b'*' || b == b'"' || b == b'\\' || !b.is_ascii_graphic())
        {
            return wrong("has a character that is not supported in an interface name");
        }
        Ok(match is_prefix {
            true => Self::Prefix(name.to_owned()),
            false => Self::Exact(name.to_owned()),
        })
    }

    /// Returns whether the pattern matches an interface name.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }

    /// Returns the name, unless the pattern is a prefix.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Prefix(_) => None,
        }
    }

    /// Returns a name that the pattern matches, for synthetic packets.
    pub fn example(&self) -> String {
        match self {
            Self::Exact(name) => name.clone(),
            Self::Prefix(prefix) if prefix.len() < NAME_MAX_BYTES => format!("{prefix}0"),
            Self::Prefix(prefix) => prefix.clone(),
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes() {
        for (text, name, want) in [
            ("eth0", "eth0", true),
            ("eth0", "eth00", false),
            ("cali*", "cali0123", true),
            ("cali*", "cal", false),
            ("flannel.1", "flannel.1", true),
            ("fifteen-bytes-x*", "fifteen-bytes-x", true),
        ] {
            assert_eq!(
                InterfacePattern::parse(text).unwrap().matches(name),
                want,
                "{text} {name}"
            );
        }
        for text in [
            "",
            "*",
            "a b",
            "a/b",
            "a:b",
            "sixteen-bytes-xy",
            "a*b",
            "..",
            "a\"b",
            "a\0",
            "eth+",
        ] {
            assert!(InterfacePattern::parse(text).is_err(), "{text}");
        }
    }
}
