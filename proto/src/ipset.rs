//! Parser for `ipset save` and input of `ipset restore`: commands, split into words.
//!
//! Format: `ipset_save()` and `ipset_parse_stream()` in ipset's `lib/ipset.c`.

/// A line of `ipset save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetLine<'t> {
    /// `create NAME KIND …`
    Create {
        /// Name of the set.
        name: &'t str,
        /// `hash:ip`, `hash:net`, …
        kind: &'t str,
        /// Options, such as `family` and `inet6`.
        options: Vec<&'t str>,
    },
    /// `add NAME ELEMENT …`
    Add {
        /// Name of the set.
        name: &'t str,
        /// Element, in the syntax of its set type.
        element: &'t str,
        /// Options, such as `nomatch`.
        options: Vec<&'t str>,
    },
    /// `del NAME ELEMENT`
    Delete {
        /// Name of the set.
        name: &'t str,
        /// Element, in the syntax of its set type.
        element: &'t str,
    },
    /// `flush [NAME]`: every set without a name.
    Flush(Option<&'t str>),
    /// `destroy [NAME]`: every set without a name.
    Destroy(Option<&'t str>),
    /// `rename FROM TO`
    Rename(&'t str, &'t str),
    /// `swap FROM TO`
    Swap(&'t str, &'t str),
    /// An empty line or a comment.
    Blank,
    /// Any other line.
    Other,
}

/// Words that may be anywhere and do not change the result.
const ANYWHERE: [&str; 4] = ["-exist", "-!", "-quiet", "-q"];

/// Parses one line.
pub fn line(text: &str) -> SetLine<'_> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return SetLine::Blank;
    }
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| !ANYWHERE.contains(word))
        .collect();
    match words[..] {
        ["create" | "-N" | "--create", name, kind, ref options @ ..] => SetLine::Create {
            name,
            kind,
            options: options.to_vec(),
        },
        ["add" | "-A" | "--add", name, element, ref options @ ..] => SetLine::Add {
            name,
            element,
            options: options.to_vec(),
        },
        ["del" | "-D" | "--del", name, element, ..] => SetLine::Delete { name, element },
        ["flush" | "-F" | "--flush"] => SetLine::Flush(None),
        ["flush" | "-F" | "--flush", name] => SetLine::Flush(Some(name)),
        ["destroy" | "-X" | "--destroy"] => SetLine::Destroy(None),
        ["destroy" | "-X" | "--destroy", name] => SetLine::Destroy(Some(name)),
        ["rename" | "-E" | "--rename", from, to] => SetLine::Rename(from, to),
        ["swap" | "-W" | "--swap", from, to] => SetLine::Swap(from, to),
        ["COMMIT"] => SetLine::Blank,
        _ => SetLine::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_with_its_words() {
        for (text, wanted) in [
            (
                "create a hash:net family inet6 maxelem 65536",
                SetLine::Create {
                    name: "a",
                    kind: "hash:net",
                    options: vec!["family", "inet6", "maxelem", "65536"],
                },
            ),
            (
                "add a 2001:db8::/32 nomatch",
                SetLine::Add {
                    name: "a",
                    element: "2001:db8::/32",
                    options: vec!["nomatch"],
                },
            ),
            (
                "add -exist a 192.0.2.1",
                SetLine::Add {
                    name: "a",
                    element: "192.0.2.1",
                    options: Vec::new(),
                },
            ),
            (
                "del a 192.0.2.1 -exist",
                SetLine::Delete {
                    name: "a",
                    element: "192.0.2.1",
                },
            ),
            ("flush a", SetLine::Flush(Some("a"))),
            ("flush", SetLine::Flush(None)),
            ("destroy a", SetLine::Destroy(Some("a"))),
            ("-X", SetLine::Destroy(None)),
            ("swap a b", SetLine::Swap("a", "b")),
            ("rename a b", SetLine::Rename("a", "b")),
            ("add a", SetLine::Other),
            ("list a", SetLine::Other),
            ("# add a 192.0.2.1", SetLine::Blank),
            ("", SetLine::Blank),
        ] {
            assert_eq!(line(text), wanted, "{text}");
        }
    }
}
