//! Options of `top`.

use std::path::PathBuf;

use peerwall_core::policy::BackendChoice;

use super::values::{backend, time_span};

/// Options of `top`.
#[derive(Debug, Clone, clap::Args)]
pub struct TopArgs {
    /// The policy file [default: the running agent's policy, or /etc/peerwall/policy.toml]
    pub policy: Option<PathBuf>,

    /// Backend to use [default: `[options] backend` of the policy, else auto]
    #[arg(long, value_parser = backend())]
    pub backend: Option<BackendChoice>,

    /// Time between two readings, of which rates are the difference
    #[arg(long, value_name = "TIME", value_parser = time_span, default_value = "2s")]
    pub interval: u64,

    /// Print one frame as text, which is also what happens without a terminal
    #[arg(long)]
    pub once: bool,
}
