//! Words of messages.

use std::fmt::Display;

/// Formats a count: `1 peer`, `2 peers`, `0 addresses`.
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let is_one = number == N::from(1);
    match (is_one, noun.ends_with('s')) {
        (true, _) => format!("{number} {noun}"),
        (false, true) => format!("{number} {noun}es"),
        (false, false) => format!("{number} {noun}s"),
    }
}

/// Returns a text without characters that would control a terminal, or end a comment.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() && c != '\t' {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        for (text, wanted) in [
            ("a\tb \u{e4}", "a\tb \u{e4}"),
            (
                "a\n[peers]\r\u{1b}[2J\u{9b}",
                "a\\n[peers]\\r\\u{1b}[2J\\u{9b}",
            ),
        ] {
            assert_eq!(printable(text), wanted);
        }
    }

    #[test]
    fn nouns_agree_with_their_numbers() {
        for (number, noun, want) in [
            (0, "peer", "0 peers"),
            (1, "peer", "1 peer"),
            (2, "peer", "2 peers"),
            (1, "service address", "1 service address"),
            (3, "service address", "3 service addresses"),
        ] {
            assert_eq!(count::<usize>(number, noun), want);
            assert_eq!(count(number as u64, noun), want);
        }
    }
}
