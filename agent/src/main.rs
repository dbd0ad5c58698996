//! The `peerwall` command.

use std::process::ExitCode;

use clap::Parser as _;
use peerwall::cli::ColorWhen;
use peerwall::color::{self, Stream};
use peerwall::output;

fn main() -> ExitCode {
    // Help and errors are printed in place of arguments that were parsed.
    let given = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    color::ask(ColorWhen::of_args(given));
    let args = match peerwall::cli::Args::try_parse() {
        Ok(args) => args,
        Err(err) => return say(&err),
    };
    let mut logger = env_logger::Builder::new();
    match std::env::var_os("RUST_LOG") {
        Some(_) => logger.parse_default_env(),
        None => logger.filter_module("peerwall", args.log_level()),
    };
    let style = match color::is_on(Stream::Stderr) {
        true => env_logger::WriteStyle::Always,
        false => env_logger::WriteStyle::Never,
    };
    logger.format_timestamp(None).write_style(style).init();
    peerwall::command::run(&args)
}

/// Prints the help, the version, or what is wrong with the command line.
fn say(err: &clap::Error) -> ExitCode {
    let text = err.render();
    let on = |stream| match color::is_on(stream) {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    match err.use_stderr() {
        true => output::complain(&on(Stream::Stderr)),
        false => output::print(&on(Stream::Stdout)),
    }
    match output::is_lost() {
        true => ExitCode::from(2),
        false => ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2)),
    }
}
