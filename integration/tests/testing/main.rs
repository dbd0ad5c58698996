//! `peerwall test`: by real kernels, without root, in every format, and what it leaves.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]
#![expect(clippy::print_stdout, reason = "figures of a campaign")]

mod cases;
mod command;
mod random;
mod rights;
