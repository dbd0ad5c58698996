//! The file that a source writes.
//!
//! ```text
//! peerwall-members 1 source=cluster kind=kubernetes identity=2d1c revision=48213
//! 10.0.0.5 worker-1
//! 2001:db8::5 worker-1
//! end 2
//! ```
//!
//! The last line has the number of addresses: a file that was not written to its end is no listing.

use std::net::IpAddr;
use std::sync::Arc;

/// First word of the file.
const MAGIC: &str = "peerwall-members";
/// Supported version of the format.
const VERSION: &str = "1";
/// Maximum length of a line, in bytes: an address, and a name of DNS.
pub const LINE_MAX: usize = 512;
/// Maximum length of a name and of an identity, in bytes.
const WORD_MAX: usize = 253;
/// Number of entries that are not addresses whose text is kept.
const GARBAGE_KEPT: usize = 8;

/// Address with the name of its node. Copies share the name.
pub type Entry = (IpAddr, Option<Arc<str>>);

/// Complete answer of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Identity of the cluster; `None` if the source knows none.
    pub identity: Option<String>,
    /// Revision of the answer, which increases; `None` if the source knows none.
    pub revision: Option<u64>,
    /// Addresses with the names of their nodes; `None` for an entry without a name.
    pub entries: Vec<Entry>,
    /// Number of entries that are not addresses.
    pub garbage: usize,
    /// Texts of the first of these.
    pub garbage_texts: Vec<String>,
}

/// Error of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// The first line is not that of a listing.
    #[error("the first line does not start with `{MAGIC} {VERSION}`")]
    Header,
    /// The listing is of another source.
    #[error("it is of source `{0}`")]
    OtherSource(String),
    /// A field of the first line is invalid.
    #[error("`{0}` in the first line is invalid")]
    Field(String),
    /// The file was not written to its end.
    #[error("the last line is not `end {0}`, so the file is incomplete")]
    Torn(usize),
}

/// Parses a listing of `source`.
///
/// # Errors
/// [`ListingError`] unless it is complete.
pub fn parse(text: &str, source: &str) -> Result<Listing, ListingError> {
    let mut lines = text.split_terminator('\n');
    let mut listing = parse_header(lines.next().unwrap_or_default(), source)?;
    let mut count = 0;
    let mut end = None;
    for line in lines {
        if end.is_some() {
            return Err(ListingError::Torn(count));
        }
        if let Some(number) = line.strip_prefix("end ") {
            end = Some(number);
            continue;
        }
        count += 1;
        match entry(line) {
            Some(entry) => listing.entries.push(entry),
            None => {
                listing.garbage += 1;
                if listing.garbage_texts.len() < GARBAGE_KEPT {
                    listing.garbage_texts.push(excerpt(line));
                }
            }
        }
    }
    let is_whole = end == Some(count.to_string().as_str()) && text.ends_with('\n');
    match is_whole {
        true => Ok(listing),
        false => Err(ListingError::Torn(count)),
    }
}

fn parse_header(line: &str, source: &str) -> Result<Listing, ListingError> {
    let mut words = line.split(' ');
    if words.next() != Some(MAGIC) || words.next() != Some(VERSION) {
        return Err(ListingError::Header);
    }
    let mut listing = Listing::default();
    for word in words {
        let invalid = || ListingError::Field(excerpt(word));
        let (key, value) = word.split_once('=').ok_or_else(invalid)?;
        match (key, value) {
            (_, "-") => {}
            ("source", other) if other != source => {
                return Err(ListingError::OtherSource(excerpt(other)));
            }
            ("identity", value) if is_word(value) => listing.identity = Some(value.to_owned()),
            ("identity", _) => return Err(invalid()),
            ("revision", value) => {
                listing.revision = Some(value.parse().ok().ok_or_else(invalid)?);
            }
            // Later versions can add fields.
            _ => {}
        }
    }
    Ok(listing)
}

/// Parses lines without the first and the last one of a listing; `None` if one is no address.
pub(super) fn parse_entries(lines: &str) -> Option<Vec<Entry>> {
    lines.split_terminator('\n').map(entry).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let (address, name) = match line.split_once(' ') {
        Some((address, name)) => (address, Some(name)),
        None => (line, None),
    };
    let name = name.filter(|name| *name != "-");
    let address = address.parse().ok()?;
    match name {
        Some(name) if !is_word(name) => None,
        name => Some((address, name.map(Arc::from))),
    }
}

/// Reports whether this is printable ASCII without a space, and not too long.
fn is_word(text: &str) -> bool {
    (1..=WORD_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the start of a text that may contain anything, for messages.
fn excerpt(text: &str) -> String {
    text.chars()
        .take(64)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "peerwall-members 1 source=a kind=dns identity=x revision=7\n";

    fn parsed(rest: &str) -> Result<Listing, ListingError> {
        parse(&format!("{HEAD}{rest}"), "a")
    }

    #[test]
    fn a_complete_listing_is_read() {
        let listing = parsed("10.0.0.5 worker-1\n2001:db8::5 worker-1\n10.0.0.6\nend 3\n").unwrap();
        assert_eq!(listing.identity.as_deref(), Some("x"));
        assert_eq!(listing.revision, Some(7));
        let names: Vec<_> = listing
            .entries
            .iter()
            .map(|(_, name)| name.as_deref())
            .collect();
        assert_eq!(names, [Some("worker-1"), Some("worker-1"), None]);
        assert_eq!(listing.garbage, 0);
    }

    #[test]
    fn every_prefix_of_a_listing_is_torn() {
        let text = format!("{HEAD}10.0.0.5 a\n10.0.0.61 b\nend 2\n");
        for end in 0..text.len() {
            assert!(parse(&text[..end], "a").is_err(), "{:?}", &text[..end]);
        }
        assert!(parse(&text, "a").is_ok());
        assert!(parse(&format!("{text}10.0.0.7 c\n"), "a").is_err());
    }

    #[test]
    fn what_is_no_address_is_counted_and_the_rest_is_read() {
        let listing =
            parsed("x\n\n10.0.0.0/8 a\n10.0.0.5 a b\n10.0.0.6 c\u{7}\n10.0.0.7 d\nend 6\n");
        let listing = listing.unwrap();
        assert_eq!((listing.entries.len(), listing.garbage), (1, 5));
        assert_eq!(listing.garbage_texts[4], "10.0.0.6 c\\u{7}");
    }

    #[test]
    fn other_files_are_refused() {
        for (text, want) in [
            ("", ListingError::Header),
            ("10.0.0.5\n", ListingError::Header),
            ("peerwall-members 2 source=a\nend 0\n", ListingError::Header),
            (
                "peerwall-members 1 source=b\nend 0\n",
                ListingError::OtherSource("b".into()),
            ),
            (
                "peerwall-members 1 revision=-1\nend 0\n",
                ListingError::Field("revision=-1".into()),
            ),
            (
                "peerwall-members 1 source\nend 0\n",
                ListingError::Field("source".into()),
            ),
            (
                "peerwall-members 1 source=a\nend 00\n",
                ListingError::Torn(0),
            ),
        ] {
            assert_eq!(parse(text, "a"), Err(want), "{text}");
        }
    }
}
