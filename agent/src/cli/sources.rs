//! Options of `sources`.

use std::net::IpAddr;

use clap::Subcommand;

use super::OutputArgs;

/// Options of `sources`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SourcesArgs {
    /// What to do; `list` by default
    #[command(subcommand)]
    pub action: Option<SourcesAction>,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What to do with sources.
#[derive(Debug, Clone, Subcommand)]
pub enum SourcesAction {
    /// List the sources of the policy in force, and what is wrong with them
    List {
        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the members of a source
    Show {
        /// Name of the source
        name: String,

        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Believe the last answer of a source: remove all members that it does not list
    Accept {
        /// Name of the source
        name: String,

        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove a member that the source does not list any more, without waiting
    Forget {
        /// Name of the source
        name: String,

        /// Address of the member
        address: IpAddr,

        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
}
