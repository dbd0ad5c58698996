//! Arguments of `peer`.

use std::net::IpAddr;

use clap::Subcommand;

use super::OutputArgs;
use super::values::peer_time;

/// Options of `peer`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PeerArgs {
    /// What to do; `list` by default
    #[command(subcommand)]
    pub action: Option<PeerAction>,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What to do with temporary peers.
#[derive(Debug, Clone, Subcommand)]
pub enum PeerAction {
    /// List the temporary peers
    List {
        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Add a peer until it is removed, its time is over, or the policy is loaded again
    Add {
        /// Name of the peer
        name: String,

        /// Address of the peer
        address: IpAddr,

        /// Remove it after this time: from 10s to 30d, as 90s, 10m, 1h or 1d
        #[arg(long = "for", value_name = "TIME", value_parser = peer_time)]
        time: Option<u64>,

        /// Keep it when the policy is loaded again
        #[arg(long)]
        keep: bool,

        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove temporary peers, and end their connections
    Remove {
        /// Name or address of the peer
        peer: String,

        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
}
