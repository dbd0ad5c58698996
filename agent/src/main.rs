//! The `peerwall` command.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = peerwall::cli::Args::parse();
    env_logger::Builder::new()
        .filter_module("peerwall", args.log_level())
        .parse_default_env()
        .format_timestamp(None)
        .init();
    peerwall::command::run(&args)
}
