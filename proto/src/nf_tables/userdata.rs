//! User data: bytes that the kernel stores for user space, in nft's format.
//!
//! The format is a list of type, length and value, with one byte each for type and length
//! (`nftnl_udata_put()` in libnftnl; types in `include/libnftnl/udata.h`). Only the types that nft
//! needs are written: newer types crashed older versions of nft and with them kube-proxy.

/// `NFTNL_UDATA_RULE_COMMENT`, and the same number for table, chain, object and element.
const COMMENT: u8 = 0;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`
const SET_KEYBYTEORDER: u8 = 0;
/// `NFTNL_UDATA_SET_COMMENT`
const SET_COMMENT: u8 = 7;
/// Maximum length of a comment that nft accepts (`NFTNL_UDATA_COMMENT_MAXLEN`), without the NUL.
pub const COMMENT_MAX_BYTES: usize = 127;

/// Byte order of a set's keys, which nft needs for printing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyByteOrder {
    /// `BYTEORDER_HOST_ENDIAN`
    Host = 1,
    /// `BYTEORDER_BIG_ENDIAN`
    Network = 2,
}

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&value[..value.len().min(usize::from(u8::MAX))]);
}

fn find(mut bytes: &[u8], kind: u8) -> Option<&[u8]> {
    while let [k, len, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*len))?;
        if *k == kind {
            return Some(value);
        }
        bytes = &rest[value.len()..];
    }
    None
}

fn nul_terminated(text: &str) -> Vec<u8> {
    let mut end = text.len().min(COMMENT_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = text.as_bytes()[..end].to_vec();
    bytes.push(0);
    bytes
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// Encodes user data of a table, chain, rule, element or object that consists of a comment.
pub fn comment(comment: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, COMMENT, &nul_terminated(comment));
    out
}

/// Finds the comment in user data of a table, chain, rule, element or object.
pub fn find_comment(userdata: &[u8]) -> Option<String> {
    text(find(userdata, COMMENT)?)
}

/// Encodes user data of a set.
pub fn set(order: KeyByteOrder, comment: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    put(
        &mut out,
        SET_KEYBYTEORDER,
        &crate::netlink::attr::u32_register(order as u32),
    );
    if let Some(comment) = comment {
        put(&mut out, SET_COMMENT, &nul_terminated(comment));
    }
    out
}

/// Finds the comment in user data of a set.
pub fn find_set_comment(userdata: &[u8]) -> Option<String> {
    text(find(userdata, SET_COMMENT)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_comment_is_what_nft_writes() {
        // nft add rule … comment "core: replies"
        assert_eq!(comment("core: replies"), b"\x00\x0ecore: replies\x00");
        assert_eq!(
            find_comment(b"\x00\x0ecore: replies\x00").as_deref(),
            Some("core: replies")
        );
    }

    #[test]
    fn a_long_comment_is_cut_between_characters() {
        let back = find_comment(&comment(&"ä".repeat(100))).unwrap();
        assert_eq!(back, "ä".repeat(63));
    }

    #[test]
    fn a_set_comment_stands_behind_the_byte_order() {
        let bytes = set(KeyByteOrder::Network, Some("pods"));
        assert_eq!(find_set_comment(&bytes).as_deref(), Some("pods"));
    }

    proptest! {
        #[test]
        fn any_userdata_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (find_comment(&bytes), find_set_comment(&bytes));
        }
    }
}
