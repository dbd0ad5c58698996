//! The commands: read, decide, act, print. Only this module makes exit codes.

mod age;
mod apply;
mod applying;
mod block;
pub(crate) mod boot;
mod check;
mod completions;
mod denied;
mod diff;
mod doctor;
mod explain;
mod exposed;
mod exposed_files;
mod given;
mod history;
mod import;
mod init;
pub(crate) mod keep;
mod man;
mod meaning;
mod others;
mod peer;
pub(crate) mod plan;
mod render;
mod repeated;
mod report;
mod schema;
mod sources;
mod status;
mod terminal;
mod test;
#[cfg(feature = "top")]
mod top;
mod trace;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use peerwall_core::backend::BackendError;
use peerwall_core::diagnostic::{Code, Diagnostic};
use peerwall_core::iptables::script::Unsupported;
use peerwall_core::policy::BackendChoice;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::words::count;

use self::apply::Apply;
use self::given::Given;
use crate::cli::{
    self, ApplyArgs, Args, BackendArgs, Command, OutputArgs, PolicyArgs, ReloadArgs, Verifier,
};
use crate::color::{self, Stream};
use crate::control::{self, Answer, Reply};
use crate::enforce::Enforcer;
use crate::enforce::foreign;
use crate::enforce::iptables::tools;
use crate::host::units;
use crate::json::{self, ErrorCode, Failure};
use crate::output::{self, Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadError, LoadedPolicy};
use crate::trial::guard;

/// Exit code: done, or nothing to do.
pub(crate) const DONE: u8 = 0;
/// Exit code: there is a difference. `plan` has changes, or `status` does not match the policy.
const DIFFERS: u8 = 1;
/// Exit code: an error; nothing was changed.
pub(crate) const TROUBLE: u8 = 2;
/// Exit code of `--exit-if-wider`: packets are accepted that were not.
const WIDER: u8 = 3;

/// Runs a command, and returns its exit code.
pub fn run(args: &Args) -> ExitCode {
    let code = run_command(args);
    ExitCode::from(if output::is_lost() { TROUBLE } else { code })
}

fn run_command(args: &Args) -> u8 {
    if let Some(folder) = &args.iptables
        && let Err(err) = tools::look_in(folder)
    {
        complain(&format!("error: {err}\n"));
        return TROUBLE;
    }
    let Some(command) = &args.command else {
        return overview();
    };
    match command {
        Command::Check(args) => check::run(
            &policy_path(&args.of.policy),
            args.discovered.as_deref(),
            &Output::new(args.of.output.json),
        ),
        Command::Plan(asked) => {
            let detail = match asked.nft || args.verbose > 0 {
                true => plan::PlanDetail::Commands,
                false => plan::PlanDetail::Changes,
            };
            let code_if_wider = asked.exit_if_wider.then_some(WIDER);
            let of = &asked.of;
            let output = Output::new(of.policy.output.json);
            let policy = Given::read(&policy_path(&of.policy.policy), &files_to_load());
            with_policy(
                &policy,
                of.backend,
                "plan",
                &output,
                |enforcer, policy, output| {
                    plan::run(enforcer, policy, (detail, code_if_wider), output)
                },
            )
        }
        Command::Test(args) => test::run(args),
        Command::Trace(args) => trace::run(args, &Output::new(args.output.json)),
        Command::Explain(args) => explain::run(args, &Output::new(args.output.json)),
        Command::Denied(args) => denied::run(args, &Output::new(args.output.json)),
        Command::Exposed(args) => exposed::run(args),
        Command::Doctor(args) => doctor::command(args),
        Command::Diff(args) => diff::run(args, &Output::new(args.output.json)),
        Command::Apply(args) => apply(args),
        Command::Run(args) => keep::run(args),
        Command::Reload(args) => reload(args),
        Command::Confirm(output) => keep::confirm(&Output::new(output.json)),
        Command::Rollback(output) => keep::rollback(&Output::new(output.json)),
        Command::Block(args) => block::block(args, &Output::new(args.output.json)),
        Command::Unblock(args) => block::unblock(args, &Output::new(args.output.json)),
        Command::History(args) => history::run(args, &Output::new(args.output.json)),
        Command::Boot { policy, output } => boot::run(policy, &Output::new(output.json)),
        Command::Guard => {
            guard::run();
            DONE
        }
        Command::Peer(args) => peer::run(args),
        Command::Render(args) => render::run(args),
        Command::Sources(args) => sources::run(args),
        Command::Status(args) => status::command(args),
        #[cfg(feature = "top")]
        Command::Top(args) => top::run(args),
        Command::Remove(args) => {
            let output = Output::new(args.output.json);
            let why = match control::pid() {
                Ok(None) => None,
                Ok(Some(pid)) => Some(Failure::new(
                    ErrorCode::AgentRuns,
                    format!(
                        "the agent (pid {pid}) would load the rules again: stop it first \
                         (`systemctl stop peerwall`), then run `peerwall remove`"
                    ),
                )),
                Err(err) => Some(unreachable_agent(&err)),
            };
            if let Some(why) = why {
                return trouble("remove", why, &output);
            }
            let removed = by_backend(args.backend, &output, |enforcer| {
                apply::remove(enforcer, &output)
            });
            removed.unwrap_or_else(|err| trouble("remove", err, &output))
        }
        Command::Init(args) => init::run(args),
        Command::Import(args) => import::run(args, &Output::new(args.output.json)),
        Command::Schema { of } => schema::run(*of),
        Command::Completions { shell } => completions::run(*shell),
        Command::Man { folder } => man::run(folder),
    }
}

/// Runs `peerwall` without a command: prints the state of this host and an overview of the
/// commands.
fn overview() -> u8 {
    let of = BackendArgs {
        policy: PolicyArgs {
            policy: None,
            output: OutputArgs { json: false },
        },
        backend: None,
    };
    status::headline(&of);
    let help = cli::command().render_help();
    let help = match color::is_on(Stream::Stdout) {
        true => help.ansi().to_string(),
        false => help.to_string(),
    };
    Output::new(false).text(&format!("\n{help}"));
    DONE
}

fn apply(args: &ApplyArgs) -> u8 {
    let output = Output::new(args.to.policy.output.json);
    let verified = match verified(args) {
        Ok(verified) => verified,
        Err(why) => return trouble("apply", why, &output),
    };
    if let Some(code) = apply_by_agent(args, &output) {
        return code;
    }
    if let Some(code) = repeated::apply(args, &output) {
        return code;
    }
    // Only an nftables table can be owned.
    let asked = match args.hold {
        true => Some(BackendChoice::Nft),
        false => args.to.backend,
    };
    let path = policy_path(&args.to.policy.policy);
    let policy = Given::recorded(&path, &files_to_apply(args));
    with_policy(
        &policy,
        asked,
        "apply",
        &output,
        |enforcer, policy, output| {
            let ready = policy.read.as_ref().ok();
            let checked = ready.filter(|_| !args.insecure_permissions);
            if let Some(Err(why)) = checked.map(LoadedPolicy::check_permissions) {
                return Ok(trouble("apply", why, output));
            }
            if let (Some(verified), Some(ready)) = (&verified, ready)
                && (*verified != ready.ruleset || enforcer.is_iptables())
            {
                let why = match enforcer.is_iptables() {
                    true => test::ONLY_NFT,
                    false => "the policy changed while it was tested; run it again",
                };
                let why = Failure::new(ErrorCode::NotVerified, why);
                return Ok(trouble("apply", why, output));
            }
            apply::run(enforcer, policy, args, output)
        },
    )
}

/// Verifies a policy before it is applied, and returns the rules that were tested; `None` without
/// `--verify`.
fn verified(args: &ApplyArgs) -> Result<Option<Ruleset>, Failure> {
    match (args.verify, args.to.backend) {
        (None, _) => Ok(None),
        (Some(Verifier::Kernel), Some(BackendChoice::Iptables)) => {
            Err(Failure::new(ErrorCode::NotVerified, test::ONLY_NFT))
        }
        (Some(Verifier::Kernel), _) => {
            let path = policy_path(&args.to.policy.policy);
            test::verify(&path, &files_to_apply(args)).map(Some)
        }
    }
}

/// Returns the policy of a command: the one on the command line, else the agent's, else the default
/// one.
fn policy_path(given: &Option<PathBuf>) -> PathBuf {
    let agents = || Some(PathBuf::from(control::status()?.policy));
    given
        .clone()
        .or_else(agents)
        .unwrap_or_else(|| PathBuf::from(cli::POLICY))
}

/// Requests the agent to apply a policy; `None` if there is no agent.
fn apply_by_agent(args: &ApplyArgs, output: &Output) -> Option<u8> {
    let pid = match control::pid() {
        Ok(pid) => pid?,
        Err(err) => return Some(trouble("apply", unreachable_agent(&err), output)),
    };
    let uses = control::status().map(|status| status.backend);
    let is_other = match (args.to.backend, uses) {
        (Some(BackendChoice::Nft), Some(uses)) => uses != json::Backend::Nft,
        (Some(BackendChoice::Iptables), Some(uses)) => uses != json::Backend::Iptables,
        (Some(BackendChoice::Auto) | None, _) | (Some(_), None) => false,
    };
    let refused = match (args.hold, is_other) {
        (true, _) => Some("owns the table"),
        (false, true) => Some(
            "uses the other backend: set `backend` in `[options]` of its policy, or restart it \
             with --backend",
        ),
        (false, false) => None,
    };
    if let Some(why) = refused {
        let why = format!(
            "an agent runs (pid {pid}) and {why}; or stop it first (`systemctl stop peerwall`)"
        );
        let why = Failure::new(ErrorCode::AgentRuns, why);
        return Some(trouble("apply", why, output));
    }
    let given = policy_path(&args.to.policy.policy);
    let path = match std::path::absolute(&given) {
        Ok(path) => path,
        Err(err) => return Some(trouble("apply", Failure::io(&err), output)),
    };
    let command = control::Request::Apply(path, keep::wish(&args.wish));
    Some(print_applied(
        control::ask(command)?,
        "apply",
        &given,
        output,
    ))
}

/// `peerwall reload`
fn reload(args: &ReloadArgs) -> u8 {
    let output = Output::new(args.output.json);
    let policy = policy_path(&None);
    match control::ask(control::Request::Reload(keep::wish(&args.wish))) {
        Some(answer) => print_applied(answer, "reload", &policy, &output),
        None => trouble(
            "reload",
            Failure::new(ErrorCode::NoAgent, keep::NO_AGENT),
            &output,
        ),
    }
}

/// Prints the agent's answer to an apply, and the policy's mismatches with this host.
fn print_applied(answer: io::Result<Answer>, doing: &str, policy: &Path, output: &Output) -> u8 {
    let answer = match answer {
        Ok(answer) => answer,
        Err(err) => return trouble(doing, unreachable_agent(&err), output),
    };
    let given = Given::read(policy, &FileSystem::waiting());
    let foreign_drops = foreign::find();
    if !output.is_json() {
        let code = keep::print(&answer, output);
        given.warn_of_misfits(output);
        others::warn(&foreign_drops, output);
        return code;
    }
    let Reply::Applied(mut applied) = answer.reply else {
        return keep::print(&answer, output);
    };
    applied.diagnostics.extend(given.misfits());
    output.json(&Apply {
        applied,
        foreign_drops,
        foreign_units: units::loaders(),
    });
    DONE
}

/// Builds the failure for an agent that does not answer.
fn unreachable_agent(err: &io::Error) -> Failure {
    Failure::new(ErrorCode::AgentUnreachable, err)
}

/// Runs a command with a policy, by the backend of the command line, else by that of the policy.
fn on_host(
    args: &BackendArgs,
    asked: Option<BackendChoice>,
    doing: &str,
    act: impl FnMut(&mut Enforcer, &Given, &Output) -> Result<u8, BackendError>,
) -> u8 {
    let output = Output::new(args.policy.output.json);
    let policy = Given::read(&policy_path(&args.policy.policy), &files_here());
    with_policy(&policy, asked, doing, &output, act)
}

/// Returns the files of this host. An agent reads the policy again when discovered facts appear.
fn files_here() -> FileSystem {
    FileSystem {
        waits: control::is_there(),
        reloads: false,
    }
}

/// The same, for an apply: a trial ends no temporary peers.
fn files_to_apply(args: &ApplyArgs) -> FileSystem {
    match args.wish.confirm {
        None => files_to_load(),
        Some(_) => files_here(),
    }
}

/// The same, for what loads the policy.
fn files_to_load() -> FileSystem {
    FileSystem {
        reloads: true,
        ..files_here()
    }
}

/// The same with a policy that is read already.
fn with_policy(
    policy: &Given,
    asked: Option<BackendChoice>,
    doing: &str,
    output: &Output,
    mut act: impl FnMut(&mut Enforcer, &Given, &Output) -> Result<u8, BackendError>,
) -> u8 {
    let ready = policy.read.as_ref().ok();
    let of_policy = ready.map(|ready| ready.policy.options.backend);
    let asked = asked.or(of_policy).unwrap_or_default();
    let result = by_backend(asked, output, |enforcer| act(enforcer, policy, output));
    match (result, ready) {
        (Ok(code), _) => code,
        (Err(BackendError::Unsupported(rules)), Some(ready)) => unsupported(ready, &rules, output),
        (Err(err), _) => trouble(doing, err, output),
    }
}

/// Runs a command by a backend, and prints a note if that is iptables because nf_tables is missing.
fn by_backend<T>(
    asked: BackendChoice,
    output: &Output,
    act: impl FnMut(&mut Enforcer) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    let note = |err: &BackendError| {
        if !output.is_json() {
            complain(&format!(
                "note: {err}\nnote: going on with iptables; `--backend nft` would not\n"
            ));
        }
    };
    Enforcer::run(asked, note, act)
}

/// Reports a policy that could not be prepared.
fn refuse(why: &LoadError, output: &Output) -> u8 {
    output.failure(&why.into(), &why.text);
    TROUBLE
}

/// Reports what iptables cannot express, with the policy's lines.
fn unsupported(ready: &LoadedPolicy, list: &[Unsupported], output: &Output) -> u8 {
    let place = |each: &Unsupported| {
        let origin = ready.origins.of(&each.chain, each.rule);
        origin.and_then(|origin| origin.place.clone())
    };
    let diagnostic = |each: &Unsupported| {
        let place = place(each).or_else(|| ready.sources.start())?;
        let diagnostic = Diagnostic::error(Code::RuleNotExpressible, place, each.to_string());
        Some(ready.sources.json(&diagnostic))
    };
    let line = |each: &Unsupported| match place(each) {
        Some(place) => format!("error: {}: {each}\n", ready.sources.line_of(&place)),
        None => format!("error: {each}\n"),
    };
    let text: String = list.iter().map(line).collect();
    let message = "iptables cannot express this policy";
    let failure = Failure {
        diagnostics: list.iter().filter_map(diagnostic).collect(),
        ..Failure::new(ErrorCode::NotExpressible, message)
    };
    output.failure(&failure, &text);
    TROUBLE
}

/// Reports a failure that is not about the policy's text.
fn trouble(doing: &str, failure: impl Into<Failure>, output: &Output) -> u8 {
    const AS_ROOT: &str = "run it as root";
    let mut failure = failure.into();
    let text = failure.to_string();
    if !nix::unistd::geteuid().is_root() && failure.error.help.is_none() && !text.contains(AS_ROOT)
    {
        failure = failure.help(AS_ROOT);
    }
    output.failure(&failure, &format!("error: {doing}: {failure}\n"));
    TROUBLE
}
