//! The program `peerwall-sources` against a double of the Kubernetes API, a real etcd and a real
//! dnsmasq.
//!
//! `PEERWALL_ROUNDS` sets how often the program is killed.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]
#![expect(clippy::print_stdout, reason = "measurements are for people")]

mod credentials;
mod dns;
mod etcd;
mod kubernetes;
mod process;
mod unit;
