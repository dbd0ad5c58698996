//! The `peerwall-sources` command.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use peerwall_sources::args::Args;
use peerwall_sources::logging;
use peerwall_sources::supervisor::Supervisor;
use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    let args = Args::parse();
    logging::init(args.log_level());
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // As the first process of a container, it would ignore them otherwise.
        if let Err(err) = signal_hook::flag::register(signal, Arc::clone(&is_over)) {
            log::error!("no handler of signals: {err}");
            return ExitCode::FAILURE;
        }
    }
    match Supervisor::new(&args.config, &args.directory, args.times()) {
        Ok(mut supervisor) => {
            supervisor.run(&is_over);
            ExitCode::SUCCESS
        }
        Err(err) => {
            log::error!("{}: {err}", args.directory.display());
            ExitCode::FAILURE
        }
    }
}
