//! Options of `block` and `unblock`.

use super::OutputArgs;
use super::values::seconds;

/// Options of `block`.
#[derive(Debug, Clone, clap::Args)]
pub struct BlockArgs {
    /// Also accept the peers of the policy in force, and the pods of its overlays
    #[arg(long)]
    pub keep_peers: bool,

    /// Go back automatically after this time (60s, 5m) unless confirmed with `peerwall confirm`
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "5m")]
    pub confirm: u64,

    /// Block without a time limit; for consoles
    #[arg(long, conflicts_with = "confirm")]
    pub no_confirm: bool,

    /// Block even if that would lock out your current SSH session
    #[arg(long)]
    pub force: bool,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl BlockArgs {
    /// Returns the time limit for the confirmation, in seconds.
    pub fn confirm(&self) -> Option<u64> {
        (!self.no_confirm).then_some(self.confirm)
    }
}

/// Options of `unblock`.
#[derive(Debug, Clone, clap::Args)]
pub struct UnblockArgs {
    /// Unblock even if that would lock out your current SSH session
    #[arg(long)]
    pub force: bool,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}
