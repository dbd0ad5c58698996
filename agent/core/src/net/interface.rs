//! Interface names, and patterns of them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name an interface can have (`IFNAMSIZ` without the NUL), in bytes.
pub const NAME_MAX_BYTES: usize = 15;

/// A name, or a prefix of names: `cali*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InterfacePattern {
    /// This one.
    Exact(String),
    /// Every one that starts so. Never empty.
    Prefix(String),
}

/// Why a text is not a pattern, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceError(pub String);

impl InterfacePattern {
    /// Reads `eth0` or `cali*`.
    ///
    /// # Errors
    /// [`InterfaceError`] for what no interface can be named (`dev_valid_name()` in
    /// `net/core/dev.c`), or for a lone `*`.
    pub fn parse(text: &str) -> Result<Self, InterfaceError> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        let wrong = |why: &str| Err(InterfaceError(format!("`{text}` {why}")));
        if name.is_empty() && is_prefix {
            return wrong("matches every interface; leave the key out for that");
        }
        if name.is_empty() || name == "." || name == ".." {
            return wrong("is not an interface name");
        }
        if name.len() > NAME_MAX_BYTES {
            return wrong("is longer than the 15 bytes an interface name can have");
        }
        if name
            .bytes()
            .any(|b| b.is_ascii_whitespace() || b == b'/' || b == b':' || b == 0)
        {
            return wrong("has a character that no interface name can have");
        }
        // nft would read the listing of these in its own way and load something else.
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

    /// Whether an interface of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }

    /// The one interface that is meant, if it is one.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Prefix(_) => None,
        }
    }

    /// A name that it matches, for making up packets.
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
        ] {
            assert!(InterfacePattern::parse(text).is_err(), "{text}");
        }
    }
}
