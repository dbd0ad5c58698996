//! Queries of DNS for addresses, and their answers (RFC 1035, RFC 3596).
//!
//! simple-dns reads and writes the messages. This module decides what an answer means: whether it
//! belongs to the query, and which addresses the name has, along its aliases.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, SimpleDnsError, TYPE,
    header_buffer,
};

/// Maximum length of a message over UDP without extensions, in bytes (RFC 1035, section 4.2.1).
pub const UDP_MAX_BYTES: usize = 512;
/// Maximum number of aliases within one answer.
const ALIASES_MAX: usize = 16;
/// Maximum number of records of one section. Memory is allocated for the number in the header.
const RECORDS_MAX: u16 = 1024;

/// Family of the addresses to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl Records {
    fn qtype(self) -> QTYPE {
        match self {
            Self::A => QTYPE::TYPE(TYPE::A),
            Self::Aaaa => QTYPE::TYPE(TYPE::AAAA),
        }
    }
}

/// Reason why a message cannot be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsError {
    /// The name is no DNS name.
    Name(String),
    /// The message does not answer the query: wrong id, question or kind of message.
    Other,
    /// The message cannot be read.
    Malformed(String),
    /// There are more aliases than an answer may have, or they form a loop.
    Aliases,
}

impl std::fmt::Display for DnsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?} is not a DNS name"),
            Self::Other => f.write_str("the message does not answer the query"),
            Self::Malformed(why) => write!(f, "the answer cannot be read: {why}"),
            Self::Aliases => f.write_str("too many aliases (CNAME), or a loop of them"),
        }
    }
}

impl std::error::Error for DnsError {}

impl From<SimpleDnsError> for DnsError {
    fn from(err: SimpleDnsError) -> Self {
        Self::Malformed(err.to_string())
    }
}

/// Returns a recursive query. `id` should be random.
///
/// # Errors
/// [`DnsError::Name`] if `name` is not a DNS name.
pub fn query(id: u16, name: &str, records: Records) -> Result<Vec<u8>, DnsError> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(question(name, records)?);
    Ok(packet.build_bytes_vec()?)
}

fn question(name: &str, records: Records) -> Result<Question<'_>, DnsError> {
    let parsed = Name::new(name.trim_end_matches('.'));
    let parsed = parsed.ok().filter(|_| is_name(name.trim_end_matches('.')));
    let parsed = parsed.ok_or_else(|| DnsError::Name(name.to_owned()))?;
    let (kind, class) = (records.qtype(), QCLASS::CLASS(CLASS::IN));
    Ok(Question::new(parsed, kind, class, false))
}

/// Whether a text is a name without escapes and empty labels.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    text.bytes().all(is_plain) && text.split('.').all(|label| !label.is_empty())
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name exists and has these addresses, or none of the family.
    Addresses {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// The smallest time to live along the way, in seconds; `None` without addresses.
        ttl: Option<u32>,
    },
    /// The name is an alias of a name that the answer does not resolve.
    Alias(String),
    /// The name does not exist (NXDOMAIN).
    NoSuchName,
    /// The server could not answer: name of the response code.
    Failed(String),
    /// The answer is incomplete; ask again over TCP.
    Truncated,
}

/// Reads the answer to the query that [`query`] returned for the same arguments.
///
/// # Errors
/// [`DnsError`]; for [`DnsError::Other`], the answer may still come.
pub fn answer(bytes: &[u8], id: u16, name: &str, records: Records) -> Result<Answer, DnsError> {
    if header_buffer::id(bytes) != Ok(id) {
        return Err(DnsError::Other);
    }
    for count in [
        header_buffer::questions(bytes)?,
        header_buffer::answers(bytes)?,
        header_buffer::name_servers(bytes)?,
        header_buffer::additional_records(bytes)?,
    ] {
        if count > RECORDS_MAX {
            return Err(DnsError::Malformed(format!("{count} records")));
        }
    }
    let asked = question(name, records)?;
    // A truncated message may end within a record.
    let is_truncated = header_buffer::has_flags(bytes, PacketFlag::TRUNCATION)?;
    let packet = match Packet::parse(bytes) {
        Ok(packet) => packet,
        Err(_) if is_truncated => return Ok(Answer::Truncated),
        Err(err) => return Err(err.into()),
    };
    let is_same = |each: &Question<'_>| {
        each.qname == asked.qname && each.qtype == asked.qtype && each.qclass == asked.qclass
    };
    let is_response =
        packet.has_flags(PacketFlag::RESPONSE) && packet.opcode() == OPCODE::StandardQuery;
    if !is_response || packet.questions.len() != 1 || !packet.questions.iter().all(is_same) {
        return Err(DnsError::Other);
    }
    if is_truncated {
        return Ok(Answer::Truncated);
    }
    let code = packet.rcode();
    if code == RCODE::NameError {
        return Ok(Answer::NoSuchName);
    }
    if code != RCODE::NoError {
        return Ok(Answer::Failed(format!("{code:?}")));
    }
    follow(&packet, &asked)
}

/// Follows the aliases of the answer to the addresses.
fn follow(packet: &Packet<'_>, asked: &Question<'_>) -> Result<Answer, DnsError> {
    let mut name = asked.qname.clone();
    let mut ttl = u32::MAX;
    for hop in 0..=ALIASES_MAX {
        let of_name = packet
            .answers
            .iter()
            .filter(|record| record.name == name && record.class == CLASS::IN);
        let mut addresses = Vec::new();
        let mut alias = None;
        for record in of_name {
            match (&record.rdata, asked.qtype) {
                (RData::A(a), QTYPE::TYPE(TYPE::A)) => {
                    addresses.push(IpAddr::from(Ipv4Addr::from(a.address)));
                }
                (RData::AAAA(a), QTYPE::TYPE(TYPE::AAAA)) => {
                    addresses.push(IpAddr::from(Ipv6Addr::from(a.address)).to_canonical());
                }
                (RData::CNAME(target), _) => alias = Some(target.0.clone()),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        match alias {
            _ if !addresses.is_empty() => {
                let ttl = Some(ttl);
                return Ok(Answer::Addresses { addresses, ttl });
            }
            Some(target) => name = target,
            // The rest of the way is not in the answer, or the target has no such record.
            None if hop > 0 => return Ok(Answer::Alias(name.to_string())),
            None => {
                return Ok(Answer::Addresses {
                    addresses,
                    ttl: None,
                });
            }
        }
    }
    Err(DnsError::Aliases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME};

    const NAME: &str = "lb.example.org";

    fn name(text: &str) -> Name<'_> {
        Name::new(text).unwrap()
    }

    fn reply(id: u16, records: Records) -> Packet<'static> {
        let mut packet = Packet::new_reply(id);
        packet.set_flags(PacketFlag::RESPONSE);
        packet.questions.push(question(NAME, records).unwrap());
        packet
    }

    fn add(packet: &mut Packet<'static>, owner: &'static str, ttl: u32, data: RData<'static>) {
        let record = ResourceRecord::new(name(owner), CLASS::IN, ttl, data);
        packet.answers.push(record);
    }

    fn a(text: &str) -> RData<'static> {
        let address = text.parse::<Ipv4Addr>().unwrap().into();
        RData::A(A { address })
    }

    fn cname(to: &'static str) -> RData<'static> {
        RData::CNAME(CNAME(name(to)))
    }

    fn read(packet: &Packet<'_>, records: Records) -> Result<Answer, DnsError> {
        answer(
            &packet.build_bytes_vec_compressed().unwrap(),
            7,
            NAME,
            records,
        )
    }

    fn found(addresses: &[&str], ttl: u32) -> Answer {
        Answer::Addresses {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ttl: Some(ttl),
        }
    }

    #[test]
    fn a_query_is_the_one_of_the_standard() {
        let bytes = query(0x1234, NAME, Records::Aaaa).unwrap();
        let want = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02lb\x07example\x03org\0\0\x1c\0\x01";
        assert_eq!(bytes, want);
        assert_eq!(
            query(0x1234, "lb.example.org.", Records::Aaaa).unwrap(),
            want
        );
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", "a b", "a\\.b", &long] {
            assert!(query(1, bad, Records::A).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_found_along_the_aliases() {
        let mut packet = reply(7, Records::A);
        add(&mut packet, "LB.Example.ORG", 300, cname("a.example.net"));
        add(&mut packet, "other.example.org", 1, a("192.0.2.66"));
        add(&mut packet, "a.example.net", 60, cname("b.example.net"));
        add(&mut packet, "b.example.net", 600, a("192.0.2.1"));
        add(&mut packet, "b.example.net", 600, a("192.0.2.2"));
        assert_eq!(
            read(&packet, Records::A),
            Ok(found(&["192.0.2.1", "192.0.2.2"], 60))
        );

        let mut packet = reply(7, Records::Aaaa);
        let address = "2001:db8::1".parse::<Ipv6Addr>().unwrap().into();
        add(&mut packet, NAME, 30, RData::AAAA(AAAA { address }));
        // Not asked for.
        add(&mut packet, NAME, 30, a("192.0.2.1"));
        assert_eq!(
            read(&packet, Records::Aaaa),
            Ok(found(&["2001:db8::1"], 30))
        );
    }

    #[test]
    fn every_other_answer_has_its_meaning() {
        let empty = Answer::Addresses {
            addresses: Vec::new(),
            ttl: None,
        };
        assert_eq!(read(&reply(7, Records::A), Records::A), Ok(empty));
        let mut packet = reply(7, Records::A);
        add(&mut packet, NAME, 60, cname("a.example.net"));
        assert_eq!(
            read(&packet, Records::A),
            Ok(Answer::Alias("a.example.net".to_owned()))
        );
        add(&mut packet, "a.example.net", 60, cname(NAME));
        assert_eq!(read(&packet, Records::A), Err(DnsError::Aliases));
        for (code, want) in [
            (RCODE::NameError, Answer::NoSuchName),
            (
                RCODE::ServerFailure,
                Answer::Failed("ServerFailure".to_owned()),
            ),
            (RCODE::Refused, Answer::Failed("Refused".to_owned())),
        ] {
            let mut packet = reply(7, Records::A);
            *packet.rcode_mut() = code;
            assert_eq!(read(&packet, Records::A), Ok(want));
        }
        let mut packet = reply(7, Records::A);
        packet.set_flags(PacketFlag::TRUNCATION);
        add(&mut packet, NAME, 60, a("192.0.2.1"));
        let bytes = packet.build_bytes_vec().unwrap();
        assert_eq!(read(&packet, Records::A), Ok(Answer::Truncated));
        let half = answer(&bytes[..bytes.len() - 3], 7, NAME, Records::A);
        assert_eq!(half, Ok(Answer::Truncated));
    }

    #[test]
    fn answers_to_other_queries_are_not_accepted() {
        let mut good = reply(7, Records::A);
        add(&mut good, NAME, 60, a("192.0.2.1"));
        assert!(read(&good, Records::A).is_ok());
        let bytes = good.build_bytes_vec().unwrap();
        assert_eq!(
            answer(&bytes, 8, NAME, Records::A),
            Err(DnsError::Other),
            "the id"
        );
        assert_eq!(
            answer(&bytes, 7, NAME, Records::Aaaa),
            Err(DnsError::Other),
            "the type"
        );
        assert_eq!(
            answer(&bytes, 7, "x.example.org", Records::A),
            Err(DnsError::Other),
            "the name"
        );
        let echo = query(7, NAME, Records::A).unwrap();
        assert_eq!(
            answer(&echo, 7, NAME, Records::A),
            Err(DnsError::Other),
            "a query"
        );
        good.questions.clear();
        assert_eq!(read(&good, Records::A), Err(DnsError::Other), "no question");
    }

    #[test]
    fn counts_without_records_allocate_nothing() {
        let mut bytes = reply(7, Records::A).build_bytes_vec().unwrap();
        bytes[6..8].fill(0xff);
        let read = answer(&bytes, 7, NAME, Records::A);
        assert!(matches!(read, Err(DnsError::Malformed(_))), "{read:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            let _ = answer(&bytes, 7, NAME, Records::A);
            bytes.splice(0..0, [0, 7, 0x81, 0x80]);
            let _ = answer(&bytes, 7, NAME, Records::A);
        }

        #[test]
        fn mutated_answers_are_read_or_refused(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)
        ) {
            let mut packet = reply(7, Records::A);
            add(&mut packet, NAME, 300, cname("a.example.net"));
            add(&mut packet, "a.example.net", 60, a("192.0.2.1"));
            let mut bytes = packet.build_bytes_vec_compressed().unwrap();
            for (at, byte) in edits {
                let at = 2 + at.index(bytes.len() - 2);
                bytes[at] = byte;
            }
            if let Ok(Answer::Addresses { addresses, .. }) = answer(&bytes, 7, NAME, Records::A) {
                prop_assert!(addresses.len() <= 2);
            }
        }
    }
}
