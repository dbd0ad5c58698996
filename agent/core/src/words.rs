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

#[cfg(test)]
mod tests {
    use super::*;

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
