//! The file with the addresses of a source.
//!
//! ```text
//! peerwall-members 1 source=cluster kind=kubernetes identity=b2c1 revision=48213
//! 10.0.0.5 worker-1
//! end 1
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Maximum number of addresses of a source.
pub const ADDRESSES_MAX: usize = 65_536;
/// Maximum length of a name in bytes.
const NAME_MAX_BYTES: usize = 253;
const MAGIC: &str = "peerwall-members 1 ";

/// Addresses with the names of their nodes. If several nodes have an address, one is named.
pub type Members = BTreeMap<IpAddr, String>;

/// A complete answer of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Identity of the cluster; `-` if it is unknown.
    pub identity: String,
    /// Revision of the engine; `None` if it has none.
    pub revision: Option<u64>,
    /// The addresses.
    pub members: Members,
}

/// Returns the text of the file.
pub fn encode(source: &str, kind: &str, answer: &Answer) -> String {
    let mut text = String::with_capacity(128 + 64 * answer.members.len());
    let revision = answer.revision.map(|revision| revision.to_string());
    let revision = revision.as_deref().unwrap_or("-");
    let identity = name(&answer.identity);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{MAGIC}source={source} kind={kind} identity={identity} revision={revision}"
    );
    for (address, node) in &answer.members {
        let _ = writeln!(text, "{address} {}", name(node));
    }
    let _ = writeln!(text, "end {}", answer.members.len());
    text
}

/// Reads what [`encode`] wrote for the same source and kind; `None` for anything else.
pub fn decode(text: &str, source: &str, kind: &str) -> Option<Answer> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let fields = lines.next()?.strip_prefix(MAGIC)?;
    let mut fields = fields.split(' ').map(|field| field.split_once('='));
    let mut field = |key: &str| {
        let (found, value) = fields.next()??;
        (found == key).then_some(value)
    };
    if field("source")? != source || field("kind")? != kind {
        return None;
    }
    let identity = field("identity")?.to_owned();
    let revision = match field("revision")? {
        "-" => None,
        number => Some(number.parse().ok()?),
    };
    let mut members = Members::new();
    let mut end = None;
    for line in lines {
        let (first, rest) = line.split_once(' ')?;
        match (end, first) {
            (None, "end") => end = Some(rest),
            (None, address) => drop(members.insert(address.parse().ok()?, rest.to_owned())),
            (Some(_), _) => return None,
        }
    }
    (end?.parse() == Ok(members.len())).then_some(Answer {
        identity,
        revision,
        members,
    })
}

/// Returns a name as one word: printable ASCII, other characters replaced.
pub fn name(text: &str) -> String {
    let plain = |each: char| if each.is_ascii_graphic() { each } else { '?' };
    let name: String = text.chars().take(NAME_MAX_BYTES).map(plain).collect();
    match name.is_empty() {
        true => "-".to_owned(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(members: &[(&str, &str)]) -> Answer {
        let pair = |(address, name): &(&str, &str)| (address.parse().unwrap(), (*name).to_owned());
        Answer {
            identity: "b2c1".to_owned(),
            revision: Some(48213),
            members: members.iter().map(pair).collect(),
        }
    }

    #[test]
    fn the_file_is_as_documented_and_reads_back() {
        let given = answer(&[
            ("2001:db8::5", "worker-1"),
            ("10.0.0.10", "worker-2"),
            ("10.0.0.5", "worker-1"),
        ]);
        let text = encode("cluster", "kubernetes", &given);
        assert_eq!(
            text,
            "peerwall-members 1 source=cluster kind=kubernetes identity=b2c1 revision=48213\n\
             10.0.0.5 worker-1\n10.0.0.10 worker-2\n2001:db8::5 worker-1\nend 3\n"
        );
        assert_eq!(decode(&text, "cluster", "kubernetes"), Some(given));
        assert_eq!(decode(&text, "other", "kubernetes"), None);
        let empty = Answer {
            identity: "-".to_owned(),
            revision: None,
            members: Members::new(),
        };
        let text = encode("lb", "dns", &empty);
        assert!(text.ends_with("identity=- revision=-\nend 0\n"), "{text}");
        assert_eq!(decode(&text, "lb", "dns"), Some(empty));
    }

    #[test]
    fn a_torn_file_is_none() {
        let text = encode("a", "dns", &answer(&[("10.0.0.5", "x"), ("10.0.0.6", "y")]));
        for len in 0..text.len() {
            assert_eq!(decode(&text[..len], "a", "dns"), None, "{len}");
        }
        assert_eq!(decode(&format!("{text}10.0.0.7 z\n"), "a", "dns"), None);
    }

    #[test]
    fn names_are_one_word_of_ascii() {
        for (given, want) in [
            ("worker-1", "worker-1"),
            ("10.5.52.0-24&fd00:5:52::-64", "10.5.52.0-24&fd00:5:52::-64"),
            ("a b\nend 0", "a?b?end?0"),
            ("nöde", "n?de"),
            ("", "-"),
        ] {
            assert_eq!(name(given), want);
        }
        assert_eq!(name(&"x".repeat(1000)).len(), NAME_MAX_BYTES);
    }
}
