//! The `peerwall` command.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = peerwall::cli::Args::parse();
    let mut logger = env_logger::Builder::new();
    match std::env::var_os("RUST_LOG") {
        Some(_) => logger.parse_default_env(),
        None => logger.filter_module("peerwall", args.log_level()),
    };
    logger.format_timestamp(None).init();
    peerwall::command::run(&args)
}
