//! What peerwall does: sockets, files, processes, the command line.
//!
//! What there is to decide is decided in `peerwall-core`, what there is to spell in
//! `peerwall-proto`; here is what touches the world.

pub mod age;
pub mod agent;
pub mod audit;
pub mod caller;
pub mod cli;
pub mod command;
pub mod connections;
pub mod converge;
pub mod detached;
pub mod facts;
pub mod files;
pub mod first;
pub mod foreign;
pub mod host;
pub mod iptables;
pub mod keeper;
pub mod kernel;
pub mod links;
pub mod lockout;
pub mod names;
pub mod netlink;
pub mod notice;
pub mod output;
pub mod passing;
pub mod policy_text;
pub mod ready;
pub mod revocation;
pub mod routes;
pub mod scope;
pub mod secure_file;
pub mod since;
pub mod sockets;
pub mod ssh_server;
pub mod tools;
pub mod watchdog;
