//! Proof: hosts in network namespaces, real packets, the real kernel.
//!
//! - [`ns`]: namespaces, entered by the tests themselves (no root needed).
//! - [`machine`]: a machine with a real systemd, for the units.
//! - [`sources`]: the program `peerwall-sources`; [`api_server`], a double of the Kubernetes API;
//!   [`certificates`], made by openssl.
//! - [`metrics`]: metrics, read with the parsers of Prometheus's client.
//! - [`net`]: veth, bridges, VXLAN as flannel sets them up.
//! - [`open`]: open connections, real ones and conntrack entries alone.
//! - [`probe`]: servers and clients that say whether something gets through.
//! - [`raw`]: packets made by hand, forged ones too.
//! - [`case`]: `cases/NN-name/`: a policy, its table, and packets with their verdicts.
//! - [`target`]: the host those packets are sent to; `setup` prepares it for each, `counts` reads
//!   what counted it.
//! - [`imported`]: imported rules and their policies, with packets for both.
//! - [`situation`]: LANs, nodes and pods, in small parts.
//! - [`story`]: the cluster of the story.
//! - [`wild`]: packets as bytes, through rules and the imported policy in twin hosts.
//! - [`terminal`]: commands on a terminal of their own.

pub mod api_server;
pub mod case;
pub mod certificates;
mod counts;
pub mod faults;
pub mod imported;
pub mod machine;
pub mod metrics;
pub mod net;
pub mod ns;
pub mod open;
pub mod probe;
pub mod random;
pub mod raw;
pub mod setup;
pub mod situation;
pub mod sources;
pub mod story;
pub mod target;
pub mod terminal;
pub mod traffic;
pub mod wild;
