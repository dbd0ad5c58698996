//! The `peerwall` command.

use std::process::ExitCode;

use clap::Parser as _;
use peerwall::cli::{ColorWhen, Command};
use peerwall::color::{self, Stream};
use peerwall::json::{ErrorCode, Failure};
use peerwall::output::{self, Output};
use peerwall::system::logging::{self, Target};
use peerwall::system::memory;

fn main() -> ExitCode {
    memory::give_back();
    // Help and errors are printed in place of arguments that were parsed.
    let given = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    color::ask(ColorWhen::of_args(given));
    let args = match peerwall::cli::Args::try_parse() {
        Ok(args) => args,
        Err(err) => return say(&err),
    };
    let target = match args.command {
        // Nobody reads its standard error.
        Some(Command::Guard) => Target::System,
        Some(_) | None => Target::Stderr,
    };
    logging::init(args.log_level(), target);
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
        true if std::env::args_os().any(|arg| arg == "--json") => {
            let text = text.to_string();
            let message = text.lines().next().unwrap_or_default();
            let message = message.strip_prefix("error: ").unwrap_or(message);
            let failure = Failure::new(ErrorCode::Usage, message).help("see --help");
            Output::new(true).failure(&failure, "");
        }
        true => output::complain(&on(Stream::Stderr)),
        false => output::print(&on(Stream::Stdout)),
    }
    match output::is_lost() {
        true => ExitCode::from(2),
        false => ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2)),
    }
}
