//! Sources of peers: follows the engines that know a cluster's nodes, and writes their addresses to
//! one file per source, which the agent of peerwall reads and distrusts.
//!
//! - [`config`]: the configuration that the agent writes.
//! - [`supervisor`]: starts, restarts and stops one thread per source.
//! - [`follow`]: the loop of a source: servers in turn, delays after failures.
//! - [`kubernetes`], [`etcd`], [`dns`]: the engines.
//! - [`report`], [`members`], [`status`]: the files that are written.
//! - [`http`], [`connection`], [`tls`], [`credentials`]: HTTP/1.1 with bounded sizes and times.

pub mod args;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod dns;
pub mod error;
pub mod etcd;
pub mod follow;
pub mod http;
pub mod kubernetes;
pub mod logging;
pub mod members;
pub mod report;
pub mod status;
pub mod supervisor;
pub mod tls;
pub mod url;
