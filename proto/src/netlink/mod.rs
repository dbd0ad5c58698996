//! Netlink itself: attributes, messages, and the kernel's answers.

pub mod ack;
pub mod attr;
pub mod message;
