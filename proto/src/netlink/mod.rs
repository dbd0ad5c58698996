//! Netlink: attributes, messages and the kernel's responses.

pub mod ack;
pub mod attr;
pub mod message;
