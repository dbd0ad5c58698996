//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use log::LevelFilter;

use crate::connection::Times;

/// Follows the sources of peers, and writes their addresses to files for the agent of peerwall.
#[derive(Debug, Clone, Parser)]
#[command(name = "peerwall-sources", version, about, max_term_width = 100)]
pub struct Args {
    /// The configuration, which the agent writes
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/run/peerwall/sources.json"
    )]
    pub config: PathBuf,

    /// Directory for the files with addresses and states
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/run/peerwall/sources"
    )]
    pub directory: PathBuf,

    /// How long one watch lasts, in seconds; a server that is silent for half as long again is left
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=300))]
    pub watch: u64,

    /// How long a server has for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=120))]
    pub timeout: u64,

    /// Log more; repeat for even more. RUST_LOG overrides it
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Args {
    /// Returns the time limits.
    pub fn times(&self) -> Times {
        Times {
            answer: Duration::from_secs(self.timeout),
            watch: Duration::from_secs(self.watch),
        }
    }

    /// Returns the level of messages to log.
    pub fn log_level(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            2.. => LevelFilter::Trace,
        }
    }
}
