//! Expressions, the parts of a rule.
//!
//! An expression is a name and a list of attributes (`enum nft_expr_attributes`). `kinds.rs` has
//! the table of known expressions; unknown ones are kept as a name and bytes.

mod kinds;

pub use kinds::*;

use super::bridge;
use super::schema::{Attributes, Nested, attributes};
use crate::netlink::attr::{AttrWriter, Attrs, DecodeError};

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

attributes! {
    /// `enum nft_data_attributes`: bytes for a register, or a verdict.
    Data {
        /// Bytes of a register.
        value: Vec<u8> = 1,
        /// A verdict.
        verdict: Nested<Verdict> = 2,
    }

    /// `enum nft_verdict_attributes`
    Verdict {
        /// `NF_ACCEPT`, `NF_DROP`, `NFT_JUMP` or similar; two's complement of an `i32`.
        code: u32 = 1,
        /// Target of a jump or goto.
        chain: String = 2,
        /// Number of the target within the batch.
        chain_id: u32 = 3,
    }
}

impl Data {
    /// Creates data from the bytes of a register.
    pub fn value(bytes: impl Into<Vec<u8>>) -> Nested<Self> {
        Nested(Self {
            value: Some(bytes.into()),
            ..Self::default()
        })
    }
}

/// `NFT_CONTINUE`
pub const NFT_CONTINUE: i32 = -1;
/// `NFT_BREAK`
pub const NFT_BREAK: i32 = -2;
/// `NFT_JUMP`
pub const NFT_JUMP: i32 = -3;
/// `NFT_GOTO`
pub const NFT_GOTO: i32 = -4;
/// `NFT_RETURN`
pub const NFT_RETURN: i32 = -5;

macro_rules! expr_enum {
    ($( $variant:ident = $wire:literal, )*) => {
        /// An expression.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Expr {
            $( #[doc = concat!("`", $wire, "`")] $variant($variant), )*
            /// `notrack`, which has no attributes.
            Notrack,
            /// An expression that this version does not know.
            Other {
                /// Name of the expression.
                name: String,
                /// Encoded attributes; absent if there are none.
                data: Option<Vec<u8>>,
            },
        }

        impl Expr {
            /// Returns the kernel's name of the expression.
            pub fn name(&self) -> &str {
                match self {
                    $( Self::$variant(_) => $wire, )*
                    Self::Notrack => "notrack",
                    Self::Other { name, .. } => name,
                }
            }

            /// Names of all expressions that this version knows.
            pub const NAMES: &'static [&'static str] = &[$($wire,)* "notrack"];

            fn decode_named(name: &str, data: Option<&[u8]>, depth: u8) -> Result<Self, DecodeError> {
                Ok(match (name, data) {
                    $( ($wire, Some(data)) => {
                        Self::$variant($variant::decode_at(Attrs::new(data), depth)?)
                    } )*
                    ("notrack", None) => Self::Notrack,
                    (name, data) => Self::Other { name: name.to_owned(), data: data.map(<[u8]>::to_vec) },
                })
            }

            fn encode_data(&self, w: &mut AttrWriter) {
                match self {
                    $( Self::$variant(expr) => w.nest(NFTA_EXPR_DATA, |w| expr.encode(w)), )*
                    Self::Notrack => {}
                    Self::Other { data, .. } => if let Some(data) = data {
                        w.nest(NFTA_EXPR_DATA, |w| w.raw(data));
                    },
                }
            }
        }

        $( impl From<$variant> for Expr {
            fn from(expr: $variant) -> Self { Self::$variant(expr) }
        } )*
    };
}

expr_enum! {
    Payload = "payload",
    Meta = "meta",
    Cmp = "cmp",
    Range = "range",
    Bitwise = "bitwise",
    Byteorder = "byteorder",
    Ct = "ct",
    Immediate = "immediate",
    Lookup = "lookup",
    Dynset = "dynset",
    CounterExpr = "counter",
    Last = "last",
    Limit = "limit",
    Quota = "quota",
    Log = "log",
    Reject = "reject",
    Objref = "objref",
    Fib = "fib",
    Nat = "nat",
    Masq = "masq",
    Redir = "redir",
    Tproxy = "tproxy",
    Queue = "queue",
    Exthdr = "exthdr",
    Hash = "hash",
    Numgen = "numgen",
    Rt = "rt",
    Socket = "socket",
    Osf = "osf",
    Connlimit = "connlimit",
    Dup = "dup",
    Fwd = "fwd",
    Match = "match",
    Target = "target",
    Synproxy = "synproxy",
    FlowOffload = "flow_offload",
    Inner = "inner",
    Xfrm = "xfrm",
    Tunnel = "tunnel",
}

impl Default for Expr {
    fn default() -> Self {
        Self::Other {
            name: String::new(),
            data: None,
        }
    }
}

impl Attributes for Expr {
    fn decode_at(attrs: Attrs<'_>, depth: u8) -> Result<Self, DecodeError> {
        let (mut name, mut data) = (None, None);
        for attr in attrs {
            let attr = attr?;
            match attr.attribute {
                NFTA_EXPR_NAME => name = Some(attr.string()?),
                NFTA_EXPR_DATA => data = Some(attr.payload),
                _ => {}
            }
        }
        let name = name.ok_or(DecodeError::Missing("the name of an expression"))?;
        Self::decode_named(name, data, depth)
    }

    fn encode(&self, w: &mut AttrWriter) {
        if let Some(bytes) = bridge::encode(self) {
            return w.raw(&bytes);
        }
        w.string(NFTA_EXPR_NAME, self.name());
        self.encode_data(w);
    }
}
