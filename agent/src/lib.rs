//! What peerwall does: sockets, files, processes, the command line.
//!
//! What there is to decide is decided in `peerwall-core`, what there is to spell in
//! `peerwall-proto`; here is what touches the world.

pub mod agent;
pub mod cli;
pub mod color;
pub mod command;
pub mod connections;
pub mod control;
pub mod enforce;
pub mod host;
pub mod kernel;
pub mod output;
pub mod policy_file;
pub mod secure_file;
pub mod store;
pub mod system;
pub mod trial;
