//! Runs the fault campaign (`peerwall_integration::faults`) in namespaces of its own.
//!
//! ```text
//! faults [--scenario NAME]… [--call NAME]… [--fault CALL#N=ERROR]… [--limit N] [--seed N]
//!        [--jobs N] [--once] [--no-kills | --no-errors]
//! faults --list
//! ```
//!
//! Without options every fault of every scenario is run. With `--once` each call fails once, with
//! one of its errors, which the seed selects. Exits with 1 if a run was flagged.

#![expect(clippy::print_stdout, reason = "it is there to print")]

use std::process::{Child, Command, ExitCode, Stdio};

use peerwall_integration::faults::fault::Fault;
use peerwall_integration::faults::world::World;
use peerwall_integration::faults::{Options, campaign, scenarios};
use peerwall_integration::ns::prepare;

/// Set in the processes that share the campaign.
const INSIDE: &str = "PEERWALL_FAULTS_WORLD";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        for scenario in scenarios() {
            println!("{}", scenario.name());
        }
        return ExitCode::SUCCESS;
    }
    let Some(options) = read(&args) else {
        println!(
            "usage: faults [--scenario NAME]... [--call NAME]... [--fault CALL#N=ERROR]... \
             [--limit N] [--seed N] [--jobs N] [--once] [--no-kills | --no-errors] | --list"
        );
        return ExitCode::from(2);
    };
    if std::env::var_os(INSIDE).is_none() {
        return share(&args, options.parts);
    }
    prepare();
    let figures = campaign(&mut World::new(), &options, |line| println!("{line}"));
    match figures.values().all(|each| each.flagged == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn read(args: &[String]) -> Option<Options> {
    let mut options = Options {
        parts: 2,
        ..Options::default()
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next();
        match arg.as_str() {
            "--scenario" => options.scenarios.push(value()?.clone()),
            "--call" => options.calls.push(value()?.clone()),
            "--fault" => options.faults.push(Fault::parse(value()?)?),
            "--limit" => options.limit = Some(value()?.parse().ok()?),
            "--seed" => options.seed = value()?.parse().ok()?,
            "--jobs" => options.parts = value()?.parse().ok()?,
            "--part" => options.part = value()?.parse().ok()?,
            "--no-kills" => options.kills = false,
            "--no-errors" => options.errors = false,
            "--once" => options.once = true,
            _ => return None,
        }
    }
    Some(options)
}

/// Starts one process for each part, each in namespaces of its own.
fn share(args: &[String], parts: usize) -> ExitCode {
    let Ok(me) = std::env::current_exe() else {
        return ExitCode::from(2);
    };
    let start = |part: usize| -> std::io::Result<Child> {
        Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .arg(&me)
            .args(args)
            .args(["--part", &part.to_string()])
            .env(INSIDE, "1")
            .stdin(Stdio::null())
            .spawn()
    };
    let children: Vec<_> = (0..parts.max(1)).map(start).collect();
    let mut is_good = true;
    for child in children {
        is_good &= child
            .and_then(|mut child| child.wait())
            .is_ok_and(|status| status.success());
    }
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
