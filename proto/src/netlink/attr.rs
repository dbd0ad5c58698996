//! Netlink attributes: type, 16-bit length, payload, padding to four bytes.
//!
//! Layout: `struct nlattr` in `include/uapi/linux/netlink.h`. Attribute headers are in host byte
//! order; integers in nf_tables payloads are in network byte order. All byte order conversions of
//! this crate are in this file, which a lint enforces.
#![expect(
    clippy::big_endian_bytes,
    clippy::host_endian_bytes,
    reason = "this is the module that owns byte order"
)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NLA_F_NESTED`: the payload is a list of attributes.
pub const NLA_F_NESTED: u16 = 1 << 15;
/// `NLA_F_NET_BYTEORDER`: the payload is in network byte order.
pub const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
const HEADER_BYTES: usize = 4;

/// Reason why bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The input ends within an item that starts at byte `at`.
    Truncated {
        /// Item being decoded.
        what: &'static str,
        /// Offset in bytes from the start of the input.
        at: usize,
    },
    /// A length field has an impossible value.
    Length {
        /// Item being decoded.
        what: &'static str,
        /// Offset in bytes from the start of the input.
        at: usize,
        /// Value of the length field.
        len: usize,
    },
    /// An attribute has a payload of the wrong size.
    Size {
        /// The attribute's type number within its parent.
        attribute: u16,
        /// Expected size in bytes.
        want: usize,
        /// Actual size in bytes.
        got: usize,
    },
    /// A string attribute is not UTF-8.
    Text {
        /// The attribute's type number within its parent.
        attribute: u16,
    },
    /// Attributes are nested more deeply than any that the kernel writes.
    Depth,
    /// A message lacks a required attribute.
    Missing(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { what, at } => write!(f, "{what} at byte {at} is truncated"),
            Self::Length { what, at, len } => {
                write!(f, "{what} at byte {at} has an impossible length of {len}")
            }
            Self::Size {
                attribute,
                want,
                got,
            } => write!(f, "attribute {attribute} has {got} bytes, not {want}"),
            Self::Text { attribute } => write!(f, "attribute {attribute} is not UTF-8 text"),
            Self::Depth => f.write_str("attributes are nested too deeply"),
            Self::Missing(what) => write!(f, "{what} is missing"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// An attribute, or one that contains it, would exceed 65,535 bytes.
///
/// `nla_len` has 16 bits and would wrap silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Type number of the attribute.
    pub attribute: u16,
    /// Length of the attribute in bytes, including its header.
    pub len: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attribute {} would be {} bytes, over the 65535 that a netlink attribute can have",
            self.attribute, self.len
        )
    }
}

impl std::error::Error for TooLong {}

/// Writes consecutive attributes.
#[derive(Debug, Default, Clone)]
pub struct AttrWriter {
    buf: Vec<u8>,
    too_long: Option<TooLong>,
}

impl AttrWriter {
    /// Creates a writer with an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a writer that appends to `buf`. [`finish`](Self::finish) returns the whole buffer.
    pub fn after(buf: Vec<u8>) -> Self {
        Self {
            buf,
            too_long: None,
        }
    }

    /// Returns the number of bytes written.
    pub fn len_bytes(&self) -> usize {
        self.buf.len()
    }

    /// Appends an attribute with this payload.
    pub fn bytes(&mut self, attribute: u16, payload: &[u8]) {
        let start = self.open(attribute);
        self.buf.extend_from_slice(payload);
        self.close(start, attribute);
    }

    /// Appends a string with a terminating NUL (`NLA_NUL_STRING` in the kernel).
    pub fn string(&mut self, attribute: u16, text: &str) {
        let start = self.open(attribute);
        self.buf.extend_from_slice(text.as_bytes());
        self.buf.push(0);
        self.close(start, attribute);
    }

    /// Appends one byte.
    pub fn u8(&mut self, attribute: u16, value: u8) {
        self.bytes(attribute, &[value]);
    }

    /// Appends 16 bits in network byte order.
    pub fn u16(&mut self, attribute: u16, value: u16) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    /// Appends 32 bits in network byte order.
    pub fn u32(&mut self, attribute: u16, value: u32) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    /// Appends 64 bits in network byte order.
    pub fn u64(&mut self, attribute: u16, value: u64) {
        self.bytes(attribute, &value.to_be_bytes());
    }

    /// Appends an attribute that contains the attributes written by `inner`.
    pub fn nest(&mut self, attribute: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.open(attribute | NLA_F_NESTED);
        inner(self);
        self.close(start, attribute);
    }

    /// Appends encoded attributes.
    pub fn raw(&mut self, attributes: &[u8]) {
        self.buf.extend_from_slice(attributes);
        self.pad();
    }

    /// Returns the buffer.
    ///
    /// # Errors
    /// [`TooLong`] with the first attribute over 65,535 bytes. Such a buffer must not be sent.
    pub fn finish(self) -> Result<Vec<u8>, TooLong> {
        match self.too_long {
            Some(err) => Err(err),
            None => Ok(self.buf),
        }
    }

    fn open(&mut self, attribute: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0, 0]);
        self.buf.extend_from_slice(&attribute.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize, attribute: u16) {
        let len = self.buf.len() - start;
        match u16::try_from(len) {
            Ok(len) => self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => {
                self.too_long.get_or_insert(TooLong { attribute, len });
            }
        }
        self.pad();
    }

    fn pad(&mut self) {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }
}

/// An attribute in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// Type number, without the two flag bits.
    pub attribute: u16,
    /// Bytes between header and padding.
    pub payload: &'a [u8],
}

impl<'a> Attr<'a> {
    fn exact<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        self.payload.try_into().map_err(
            // The conversion can only fail because of the size, which the error contains.
            |_err: std::array::TryFromSliceError| DecodeError::Size {
                attribute: self.attribute,
                want: N,
                got: self.payload.len(),
            },
        )
    }

    /// Returns the payload as one byte.
    pub fn u8(&self) -> Result<u8, DecodeError> {
        Ok(self.exact::<1>()?[0])
    }

    /// Returns the payload as 16 bits in network byte order.
    pub fn u16(&self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.exact()?))
    }

    /// Returns the payload as 32 bits in network byte order.
    pub fn u32(&self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.exact()?))
    }

    /// Returns the payload as 64 bits in network byte order.
    pub fn u64(&self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.exact()?))
    }

    /// Returns the payload as 32 bits in host byte order, which extended acks use.
    pub fn u32_host(&self) -> Result<u32, DecodeError> {
        Ok(u32::from_ne_bytes(self.exact()?))
    }

    /// Returns the payload as text up to the first NUL.
    pub fn string(&self) -> Result<&'a str, DecodeError> {
        let end = self.payload.iter().position(|&b| b == 0);
        let text = &self.payload[..end.unwrap_or(self.payload.len())];
        std::str::from_utf8(text).map_err(|_err: std::str::Utf8Error| DecodeError::Text {
            attribute: self.attribute,
        })
    }

    /// Returns the nested attributes.
    pub fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.payload)
    }
}

/// Iterates over the attributes in a buffer.
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Attrs<'a> {
    /// Creates an iterator over a buffer that consists of attributes.
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    fn read(&mut self) -> Result<Attr<'a>, DecodeError> {
        let at = self.at;
        let rest = &self.buf[at..];
        self.at = self.buf.len(); // an error ends the iteration
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Truncated {
                what: "attribute header",
                at,
            });
        };
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let attribute = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let Some(payload) = rest.get(HEADER_BYTES..len) else {
            return Err(DecodeError::Length {
                what: "attribute",
                at,
                len,
            });
        };
        self.at = (at + len.next_multiple_of(4)).min(self.buf.len());
        Ok(Attr { attribute, payload })
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.buf.len()).then(|| self.read())
    }
}

/// Reads 32 bits in host byte order; `None` if `buf` is too short.
pub(crate) fn read_u32_host(buf: &[u8], at: usize) -> Option<u32> {
    let bytes = buf.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Reads 64 bits in host byte order; `None` if `buf` is too short.
pub(crate) fn read_u64_host(buf: &[u8], at: usize) -> Option<u64> {
    let bytes = buf.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// Returns 64 bits in host byte order.
#[cfg(test)]
pub(crate) fn u64_register(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

/// Reads 16 bits in host byte order; `None` if `buf` is too short.
pub(crate) fn read_u16_host(buf: &[u8], at: usize) -> Option<u16> {
    let bytes = buf.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// Returns 16 bits in network byte order, as in a packet or a big-endian register.
pub fn u16_network(value: u16) -> [u8; 2] {
    value.to_be_bytes()
}

/// Returns 32 bits in network byte order, as in a packet.
pub fn u32_network(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// Reads an IPv4 address in network byte order; `None` if it is not four bytes.
pub fn ipv4(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
}

/// Reads an IPv6 address in network byte order; `None` if it is not sixteen bytes.
pub fn ipv6(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

/// Returns a port in network byte order.
pub fn port_bytes(port: u16) -> [u8; 2] {
    port.to_be_bytes()
}

/// Reads a port in network byte order; `None` if it is not two bytes.
pub fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Returns 16 bits as in a host-endian register (interface type).
pub fn u16_register(value: u16) -> [u8; 2] {
    value.to_ne_bytes()
}

/// Returns 32 bits as in a host-endian register (ct state, mark, interface index).
pub fn u32_register(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// Inverse of [`u32_register`]; `None` if `bytes` is not four bytes.
pub fn u32_from_register(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Inverse of [`u16_network`]; `None` if `bytes` is not two bytes.
pub fn u16_from_network(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads 64 bits in network byte order; `None` if `bytes` is not eight bytes.
pub fn u64_from_network(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_attribute_is_padded_but_its_length_is_not() {
        let mut w = AttrWriter::new();
        w.string(1, "ab");
        w.u8(2, 7);
        let bytes = w.finish().unwrap();
        assert_eq!(bytes.len(), 16);
        let attrs: Vec<_> = Attrs::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(attrs[0].string(), Ok("ab"));
        assert_eq!(attrs[1].u8(), Ok(7));
    }

    #[test]
    fn the_64_kib_edge_is_an_error_and_not_a_wrap() {
        for (payload, fits) in [(65_531, true), (65_532, false), (70_000, false)] {
            let mut w = AttrWriter::new();
            w.nest(3, |w| w.raw(&vec![0; payload - 3]));
            w.bytes(1, &vec![0; payload]);
            assert_eq!(w.finish().is_ok(), fits, "{payload} bytes");
        }
    }

    #[test]
    fn a_wrong_size_is_named() {
        let attr = Attr {
            attribute: 5,
            payload: &[1, 2, 3],
        };
        let want = DecodeError::Size {
            attribute: 5,
            want: 4,
            got: 3,
        };
        assert_eq!(attr.u32(), Err(want));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            for attr in Attrs::new(&bytes).flatten() {
                let _ = (attr.u8(), attr.u16(), attr.u32(), attr.u64(), attr.string());
                for inner in attr.nested() { let _ = inner; }
            }
        }

        #[test]
        fn what_is_written_is_read(
            list in prop::collection::vec(
                (0u16..0x3fff, prop::collection::vec(any::<u8>(), 0..64)),
                0..16,
            ),
        ) {
            let mut w = AttrWriter::new();
            for (ty, payload) in &list { w.bytes(*ty, payload); }
            let bytes = w.finish().unwrap();
            let back: Result<Vec<_>, _> = Attrs::new(&bytes)
                .map(|a| a.map(|a| (a.attribute, a.payload.to_vec())))
                .collect();
            let back = back.unwrap();
            prop_assert_eq!(back, list);
        }
    }
}
