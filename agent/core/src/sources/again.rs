//! Listings of one source, one after the other.
//!
//! Nearly all lines of a listing are those of the one before, so only the others are parsed.

use super::listing::{Listing, ListingError, parse, parse_entries};

/// Number of bytes that are compared at once.
const CHUNK: usize = 64;

/// Parses the listings of one source.
#[derive(Debug, Clone, Default)]
pub struct Parser {
    /// The last listing, and its text if all of its lines are addresses.
    text: String,
    listing: Listing,
}

impl Parser {
    /// Parses the next listing. The result is that of [`parse`].
    ///
    /// # Errors
    /// [`ListingError`] unless it is complete.
    pub fn parse(&mut self, text: String, source: &str) -> Result<Listing, ListingError> {
        if self.parse_difference(&text, source).is_none() {
            self.listing = parse(&text, source)?;
        }
        self.text = match self.listing.garbage {
            0 => text,
            _ => String::new(),
        };
        Ok(self.listing.clone())
    }

    /// Changes the last listing to that of this text; `None`, without a change, if all of it has to
    /// be parsed.
    fn parse_difference(&mut self, text: &str, source: &str) -> Option<()> {
        let (_, before, _) = divide(&self.text)?;
        let (header, lines, end) = divide(text)?;
        let ahead = same_at_start(before, lines);
        let (before, rest) = (before.get(ahead..)?, lines.get(ahead..)?);
        let behind = same_at_end(before, rest);
        let new = parse_entries(rest.get(..rest.len() - behind)?)?;
        let first = count(lines.get(..ahead)?);
        let last = first + count(before.get(..before.len() - behind)?);
        let total = (self.listing.entries.len() + new.len()).checked_sub(last - first)?;
        let header = parse(&format!("{header}end 0\n"), source).ok()?;
        if end != format!("end {total}\n") || last > self.listing.entries.len() {
            return None;
        }
        self.listing.entries.splice(first..last, new);
        self.listing.identity = header.identity;
        self.listing.revision = header.revision;
        Some(())
    }
}

/// Divides a text into its first line, its last one, and those between them.
fn divide(text: &str) -> Option<(&str, &str, &str)> {
    let (first, rest) = text.split_at_checked(text.find('\n')? + 1)?;
    let end = rest.strip_suffix('\n')?.rfind('\n').map_or(0, |at| at + 1);
    let (lines, last) = rest.split_at_checked(end)?;
    Some((first, lines, last))
}

fn count(lines: &str) -> usize {
    lines.bytes().filter(|byte| *byte == b'\n').count()
}

/// Returns the length of the lines with which both texts start.
fn same_at_start(a: &str, b: &str) -> usize {
    let chunks = a.as_bytes().chunks(CHUNK).zip(b.as_bytes().chunks(CHUNK));
    let equal = chunks
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len())
        .sum();
    let (rest, other) = (a.as_bytes().get(equal..), b.as_bytes().get(equal..));
    let bytes = rest.into_iter().flatten().zip(other.into_iter().flatten());
    let equal = equal + bytes.take_while(|(a, b)| a == b).count();
    let equal = a.as_bytes().get(..equal).unwrap_or_default();
    equal
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

/// Returns the length of the lines with which both texts end, without the first of them: in one of
/// the texts, that may be the end of another line.
fn same_at_end(a: &str, b: &str) -> usize {
    let chunks = a.as_bytes().rchunks(CHUNK).zip(b.as_bytes().rchunks(CHUNK));
    let equal: usize = chunks
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len())
        .sum();
    let equal = a.as_bytes().get(a.len() - equal..).unwrap_or_default();
    let line = equal.iter().position(|byte| *byte == b'\n');
    line.map_or(0, |at| equal.len() - at - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_listing_after_another_one_is_read_as_if_it_were_the_first(
            texts in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec![
                    "10.0.0.1 a", "10.0.0.2 b", "10.0.0.2", "10.0.0.3 bb", "fd00::1 a", "x", "",
                    "0.0.0.1 a", "end 1", "10.0.0.1 a\r", "10.0.0.111 node-with-a-long-name-so-that-\
                     chunks-differ-and-many-of-them-are-needed-for-it",
                ]), 0..12),
                1..6,
            ),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, 0u64..3), 6),
        ) {
            let mut parser = Parser::default();
            for (lines, (at, edit, revision)) in texts.iter().zip(edits) {
                let mut lines = lines.clone();
                for _ in 0..3 {
                    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
                    let count = lines.len() + usize::from(edit == 3);
                    let text = format!(
                        "peerwall-members 1 source=a revision={revision}\n{body}end {count}\n"
                    );
                    prop_assert_eq!(parser.parse(text.clone(), "a"), parse(&text, "a"));
                    let place = at.index(lines.len() + 1);
                    match edit {
                        0 | 3 => lines.insert(place, "10.0.0.9 new"),
                        1 if place < lines.len() => drop(lines.remove(place)),
                        _ => {
                            let by = place.min(lines.len());
                            lines.rotate_left(by);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_new_lines_are_parsed() {
        let text = |names: &[&str]| {
            let lines: String = names
                .iter()
                .map(|name| format!("10.0.0.1 {name}\n"))
                .collect();
            format!("peerwall-members 1 source=a\n{lines}end {}\n", names.len())
        };
        let mut parser = Parser::default();
        for (names, is_known) in [
            (&["a", "b", "c"][..], false),
            (&["a", "b", "c"], true),
            (&["a", "b", "c", "d"], true),
            (&["a", "c", "d"], true),
            (&["z", "a", "x", "d"], true),
            (&[], true),
            (&["a"], true),
            (&["a", "a b"], false),
            (&["a"], false),
        ] {
            let found = parser.parse_difference(&text(names), "a");
            assert_eq!(found.is_some(), is_known, "{names:?}");
            let found = parser.parse(text(names), "a");
            assert_eq!(found, parse(&text(names), "a"), "{names:?}");
        }
    }
}
