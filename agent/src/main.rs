//! The `peerwall` command.

use std::process::ExitCode;

use clap::Parser as _;
use peerwall::output;

fn main() -> ExitCode {
    let args = match peerwall::cli::Args::try_parse() {
        Ok(args) => args,
        Err(err) => return say(&err),
    };
    let mut logger = env_logger::Builder::new();
    match std::env::var_os("RUST_LOG") {
        Some(_) => logger.parse_default_env(),
        None => logger.filter_module("peerwall", args.log_level()),
    };
    logger.format_timestamp(None).init();
    peerwall::command::run(&args)
}

/// Prints the help, the version, or what is wrong with the command line.
fn say(err: &clap::Error) -> ExitCode {
    match err.use_stderr() {
        // There is no place left to say that this cannot be said.
        true => drop(err.print()),
        false => output::print_by(|| err.print()),
    }
    match output::is_lost() {
        true => ExitCode::from(2),
        false => ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2)),
    }
}
