//! Options of `apply` and `reload`.

use clap::ValueEnum;

use super::values::seconds;
use super::{BackendArgs, OutputArgs};

/// Confirmation and force: options of `apply` and `reload`.
#[derive(Debug, Clone, clap::Args)]
pub struct WishArgs {
    /// Roll back automatically after this time (60s, 5m) unless confirmed with `peerwall confirm`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub confirm: Option<u64>,

    /// Apply even if it would lock out your current SSH session
    #[arg(long)]
    pub force: bool,

    /// End every open connection that the policy refuses, also those that the previous policy
    /// refused
    #[arg(long, conflicts_with = "confirm")]
    pub end_refused: bool,
}

/// Options of `reload`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReloadArgs {
    /// How the policy is put in force.
    #[command(flatten)]
    pub wish: WishArgs,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `apply`.
#[derive(Debug, Clone, clap::Args)]
pub struct ApplyArgs {
    /// Policy, backend and output format.
    #[command(flatten)]
    pub to: BackendArgs,

    /// Keep running and lock the table, so that nobody else can change it, until SIGINT or SIGTERM;
    /// the rules stay afterwards. nft only
    #[arg(long, conflicts_with_all = ["backend", "confirm"])]
    pub hold: bool,

    /// Accept policy files writable by users other than root
    #[arg(long)]
    pub insecure_permissions: bool,

    /// Test the policy's expectations by this kernel first, in namespaces of their own, and apply
    /// nothing if one fails. nft only
    #[arg(long, value_enum, value_name = "BY")]
    pub verify: Option<Verifier>,

    /// Confirmation and force.
    #[command(flatten)]
    pub wish: WishArgs,
}

/// What verifies a policy before it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verifier {
    /// This host's kernel
    Kernel,
}
