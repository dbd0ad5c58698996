//! Parser for `ipset save`: sets and elements, split into words.
//!
//! Format: `ipset_save()` in ipset's `lib/ipset.c`.

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
    /// Any other line.
    Other,
}

/// Parses one line.
pub fn line(text: &str) -> SetLine<'_> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("create"), Some(name), Some(kind)) => SetLine::Create {
            name,
            kind,
            options: words.collect(),
        },
        (Some("add"), Some(name), Some(element)) => SetLine::Add {
            name,
            element,
            options: words.collect(),
        },
        _ => SetLine::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_set_an_element_or_neither() {
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
            ("add a", SetLine::Other),
            ("", SetLine::Other),
        ] {
            assert_eq!(line(text), wanted, "{text}");
        }
    }
}
