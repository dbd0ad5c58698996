//! One table per kernel object with field, type and attribute number. It generates decoder and
//! encoder.

use crate::netlink::attr::{Attr, AttrWriter, Attrs, DecodeError};

/// Maximum nesting that is decoded. The kernel's own limit for nf_tables is far lower.
const MAX_DEPTH: u8 = 16;

/// An attribute without a field in this version, kept for writing it back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unknown {
    /// Type number within its parent.
    pub attribute: u16,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A value that consists of attributes.
pub trait Attributes: Sized {
    /// Decodes all attributes.
    ///
    /// # Errors
    /// [`DecodeError`] for malformed attributes. Unknown attributes are accepted.
    fn decode(attrs: Attrs<'_>) -> Result<Self, DecodeError> {
        Self::decode_at(attrs, 0)
    }

    /// Like [`decode`](Self::decode), at a given nesting depth.
    fn decode_at(attrs: Attrs<'_>, depth: u8) -> Result<Self, DecodeError>;

    /// Appends all attributes that are set.
    fn encode(&self, w: &mut AttrWriter);
}

/// A payload type of an attribute.
pub trait Field: Sized {
    /// Decodes the payload.
    ///
    /// # Errors
    /// [`DecodeError`] if the payload does not have this type.
    fn read(attr: Attr<'_>, depth: u8) -> Result<Self, DecodeError>;
    /// Writes attribute header and payload.
    fn write(&self, attribute: u16, w: &mut AttrWriter);
}

macro_rules! integer_field {
    ($($ty:ident)*) => {$(
        impl Field for $ty {
            fn read(attr: Attr<'_>, _: u8) -> Result<Self, DecodeError> { attr.$ty() }
            fn write(&self, attribute: u16, w: &mut AttrWriter) { w.$ty(attribute, *self) }
        }
    )*};
}
integer_field!(u8 u16 u32 u64);

impl Field for String {
    fn read(attr: Attr<'_>, _: u8) -> Result<Self, DecodeError> {
        attr.string().map(str::to_owned)
    }
    fn write(&self, attribute: u16, w: &mut AttrWriter) {
        w.string(attribute, self);
    }
}

/// A payload that is not decoded.
impl Field for Vec<u8> {
    fn read(attr: Attr<'_>, _: u8) -> Result<Self, DecodeError> {
        Ok(attr.payload.to_vec())
    }
    fn write(&self, attribute: u16, w: &mut AttrWriter) {
        w.bytes(attribute, self);
    }
}

/// A nested object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nested<T>(pub T);

impl<T: Attributes> Field for Nested<T> {
    fn read(attr: Attr<'_>, depth: u8) -> Result<Self, DecodeError> {
        if depth >= MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        T::decode_at(attr.nested(), depth + 1).map(Self)
    }
    fn write(&self, attribute: u16, w: &mut AttrWriter) {
        w.nest(attribute, |w| self.0.encode(w));
    }
}

/// A recursive type: an expression within an expression.
impl<T: Field> Field for Box<T> {
    fn read(attr: Attr<'_>, depth: u8) -> Result<Self, DecodeError> {
        T::read(attr, depth).map(Self::new)
    }
    fn write(&self, attribute: u16, w: &mut AttrWriter) {
        (**self).write(attribute, w);
    }
}

/// `NFTA_LIST_ELEM`: attribute type of all members of a nested list.
pub(crate) const NFTA_LIST_ELEM: u16 = 1;

impl<T: Attributes> Field for Vec<T> {
    fn read(attr: Attr<'_>, depth: u8) -> Result<Self, DecodeError> {
        if depth >= MAX_DEPTH {
            return Err(DecodeError::Depth);
        }
        attr.nested()
            .map(|item| T::decode_at(item?.nested(), depth + 1))
            .collect()
    }
    fn write(&self, attribute: u16, w: &mut AttrWriter) {
        w.nest(attribute, |w| {
            for item in self {
                w.nest(NFTA_LIST_ELEM, |w| item.encode(w));
            }
        });
    }
}

/// Defines a struct of optional attributes, its decoder and its encoder from one table.
macro_rules! attributes {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $(#[$fmeta:meta])* $field:ident: $ty:ty = $attr:literal, )* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: Option<$ty>, )*
            /// Attributes without a field, in their original order.
            pub other: Vec<$crate::nf_tables::schema::Unknown>,
        }

        impl $crate::nf_tables::schema::Attributes for $name {
            fn decode_at(
                attrs: $crate::netlink::attr::Attrs<'_>,
                depth: u8,
            ) -> Result<Self, $crate::netlink::attr::DecodeError> {
                let _ = depth;
                let mut new = Self::default();
                for attr in attrs {
                    let attr = attr?;
                    match attr.attribute {
                        $( $attr => {
                            let read = <$ty as $crate::nf_tables::schema::Field>::read;
                            new.$field = Some(read(attr, depth)?);
                        } )*
                        _ => new.other.push($crate::nf_tables::schema::Unknown {
                            attribute: attr.attribute,
                            payload: attr.payload.to_vec(),
                        }),
                    }
                }
                Ok(new)
            }

            fn encode(&self, w: &mut $crate::netlink::attr::AttrWriter) {
                $( if let Some(value) = &self.$field {
                    $crate::nf_tables::schema::Field::write(value, $attr, w);
                } )*
                for unknown in &self.other { w.bytes(unknown.attribute, &unknown.payload); }
            }
        }
    )*};
}
pub(crate) use attributes;
