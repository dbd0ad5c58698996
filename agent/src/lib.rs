//! The system side of peerwall: sockets, files, processes and the command line.
//!
//! `peerwall-core` makes the decisions, and `peerwall-proto` encodes the messages to the kernel;
//! this crate interacts with the system.

pub mod agent;
pub mod cli;
pub mod color;
pub mod command;
pub mod connections;
pub mod control;
pub mod denied;
mod digest;
pub mod enforce;
pub mod host;
pub mod import;
pub mod json;
pub mod kernel;
pub mod output;
pub mod policy_file;
pub mod progress;
pub mod secure_file;
pub mod store;
pub mod system;
pub mod testing;
pub mod trial;
