//! Parts of JSON documents: reads the values that a codec uses, and skips everything else while it
//! reads.
//!
//! An answer of Kubernetes has about 15 KiB a node, of which peerwall uses some 100 bytes. Only
//! these are ever in memory. A value of an unexpected type becomes `false`, so that an unusable
//! entry does not make the entries after it unreadable.

use std::fmt;
use std::io::{self, Read};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::{Map, Value};

/// Maximum length of a text that is kept, in bytes.
const TEXT_MAX_BYTES: usize = 64 * 1024;
/// In place of a value of an unexpected type or size.
const UNEXPECTED: Value = Value::Bool(false);

/// The parts of a value to keep.
#[derive(Debug)]
pub(crate) enum Keep {
    /// A text, number or boolean.
    Leaf,
    /// These fields of an object.
    Fields(&'static [(&'static str, Self)]),
    /// A part of each element of an array.
    Each(&'static Self),
}

/// Reads a document to its end.
///
/// # Errors
/// That of `from`, or [`io::ErrorKind::InvalidData`] or [`io::ErrorKind::UnexpectedEof`] if it is
/// not one JSON document.
pub(crate) fn read(from: impl Read, keep: &Keep) -> io::Result<Value> {
    let mut reader = serde_json::Deserializer::from_reader(from);
    let value = keep.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Returns a text of the value, or an empty one.
pub(crate) fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_default()
}

/// Returns a number; etcd's gateway writes numbers of 64 bits as texts, and omits zeros.
pub(crate) fn number(value: &Value, path: &str) -> Option<u64> {
    match value.pointer(path)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the elements of an array, or none.
pub(crate) fn elements(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl<'de> DeserializeSeed<'de> for &Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Keep {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(self.leaf(|| value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(self.leaf(|| value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(self.leaf(|| value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(self.leaf(|| value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(match value.len() <= TEXT_MAX_BYTES {
            true => self.leaf(|| value.into()),
            false => UNEXPECTED,
        })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let Keep::Each(element) = self else {
            while from.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(UNEXPECTED);
        };
        let mut elements = Vec::new();
        while let Some(element) = from.next_element_seed(*element)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let fields = match self {
            Keep::Fields(fields) => *fields,
            Keep::Leaf | Keep::Each(_) => &[],
        };
        let mut kept = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            match fields.iter().find(|(name, _)| *name == key) {
                Some((_, part)) => {
                    let value = from.next_value_seed(part)?;
                    kept.insert(key, value);
                }
                None => {
                    from.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(match fields.is_empty() {
            true => UNEXPECTED,
            false => Value::Object(kept),
        })
    }
}

impl Keep {
    fn leaf(&self, value: impl FnOnce() -> Value) -> Value {
        match self {
            Self::Leaf => value(),
            Self::Fields(_) | Self::Each(_) => UNEXPECTED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep::Fields(&[
        ("a", Keep::Leaf),
        ("list", Keep::Each(&Keep::Fields(&[("b", Keep::Leaf)]))),
    ]);

    #[test]
    fn only_the_parts_to_keep_are_kept() {
        for (name, given, want) in [
            ("a leaf", r#"{"a":1,"x":{"a":[1,{"a":2}]}}"#, r#"{"a":1}"#),
            (
                "elements",
                r#"{"list":[{"b":"1","c":2},{}]}"#,
                r#"{"list":[{"b":"1"},{}]}"#,
            ),
            (
                "an object in place of a leaf",
                r#"{"a":{"b":1}}"#,
                r#"{"a":false}"#,
            ),
            (
                "elements of other types",
                r#"{"list":[1,"x",[2],{"b":true}]}"#,
                r#"{"list":[false,false,false,{"b":true}]}"#,
            ),
            (
                "a leaf in place of an array",
                r#"{"list":"x"}"#,
                r#"{"list":false}"#,
            ),
            (
                "null",
                r#"{"a":null,"list":null}"#,
                r#"{"a":null,"list":null}"#,
            ),
            ("another type", "[1,2]", "false"),
        ] {
            let value = read(given.as_bytes(), &KEEP).unwrap();
            assert_eq!(value.to_string(), want, "{name}");
        }
    }

    #[test]
    fn half_a_document_is_an_error() {
        let text = r#"{"a":1,"list":[{"b":2}]}"#;
        for len in 0..text.len() {
            assert!(read(&text.as_bytes()[..len], &KEEP).is_err(), "{len}");
        }
        assert!(read(format!("{text}{text}").as_bytes(), &KEEP).is_err());
    }

    #[test]
    fn numbers_are_numbers_or_texts() {
        let value = serde_json::json!({"a": 7, "b": "8", "c": "x", "d": -1});
        let found = ["/a", "/b", "/c", "/d", "/e"].map(|path| number(&value, path));
        assert_eq!(found, [Some(7), Some(8), None, None, None]);
    }
}
