//! Defines the command line; completions and man pages are generated from it.

mod apply;
mod block;
mod peer;
mod questions;
mod sources;
mod testing;
#[cfg(feature = "top")]
mod top;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use peerwall_core::policy::BackendChoice;

use crate::system::journal;
pub use apply::{ApplyArgs, ReloadArgs, Verifier, WishArgs};
pub use block::{BlockArgs, UnblockArgs};
pub use peer::{PeerAction, PeerArgs};
pub use questions::{
    DeniedArgs, DeniedBy, DiffArgs, DoctorArgs, ExplainArgs, ExposedArgs, MapFormat, RenderArgs,
    RenderFormat, StateArg, TraceArgs,
};
pub use sources::{SourcesAction, SourcesArgs};
pub use testing::{TestArgs, TestFormat};
#[cfg(feature = "top")]
pub use top::TopArgs;
pub use values::Listen;
use values::backend;

/// Default path of the policy.
pub const POLICY: &str = "/etc/peerwall/policy.toml";

/// A firewall for cluster nodes: a TOML peer policy becomes one nftables table.
#[derive(Debug, Parser)]
#[command(
    name = "peerwall",
    version,
    about,
    after_help = "Exit codes: 0 success, or no changes; 1 from `plan` and `diff`: there are changes, \
        from `explain` and `trace`: denied, from `test`: failed, from `doctor`: findings, from \
        `status`: not in sync; 2 error; 3 from `--exit-if-wider`.",
    max_term_width = 100
)]
pub struct Args {
    /// Command to run.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Log more; repeat for even more. RUST_LOG overrides it
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// Directory of the iptables and ipset programs, instead of the usual ones; PATH is not used
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub iptables: Option<PathBuf>,

    /// Colour output [env: NO_COLOR, CLICOLOR, CLICOLOR_FORCE]
    #[arg(long, global = true, value_enum, default_value_t = ColorWhen::Auto, value_name = "WHEN")]
    pub color: ColorWhen,
}

/// When output is in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal that has colours
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorWhen {
    /// Finds `--color` in unparsed arguments, for help and errors of the command line itself.
    pub fn of_args(args: impl Iterator<Item = String>) -> Self {
        let mut args = args.peekable();
        let mut found = Self::Auto;
        while let Some(arg) = args.next() {
            let value = match arg.as_str() {
                "--" => break,
                "--color" => args.peek().cloned(),
                _ => arg.strip_prefix("--color=").map(str::to_owned),
            };
            if let Some(when) = value.and_then(|value| Self::from_str(&value, false).ok()) {
                found = when;
            }
        }
        found
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the policy: report all errors and warnings at once, and test its expectations
    Check(CheckArgs),
    /// Show what apply would change, in the words of the policy; changes nothing
    ///
    /// Asks the kernel whether it would accept the change. Exits with 0 if there are no changes, 1
    /// if there are, 2 on error.
    Plan(PlanArgs),
    /// Compare two policies: their entries, and the packets that only one of them accepts
    ///
    /// Exits with 0 if both are the same, 1 if not, 2 on error.
    Diff(DiffArgs),
    /// Explain the policy's verdict on a packet: the deciding rule, its place in the policy, and
    /// what would let the packet in
    ///
    /// The packet is given by --from and --to, or by a line that a tool printed: the kernel's log,
    /// `nft monitor trace`, `tcpdump -n`, `conntrack -L` or `ss -n`. What is not said is taken from
    /// this host, or assumed, and reported. Exits with 0 if the packet is accepted, 1 if not, 2 on
    /// error.
    Explain(ExplainArgs),
    /// Show denied packets: how many, from whom, for which port, and what would let them in
    ///
    /// The agent records the packets that the rules log, up to the rate of `[log] denied`, and the
    /// last day of them is shown. Without an agent, the command listens for a while.
    Denied(DeniedArgs),
    /// Let the kernel trace packets: what each rule of nftables does with them, of any program
    ///
    /// A temporary table marks the packets, at most 20 in a second, and is deleted at the end.
    /// Exits with 0 if nothing dropped a packet, 1 if something did, 2 on error or if no packet
    /// came.
    Trace(TraceArgs),
    /// Show what on this host keeps the policy from doing what you expect
    ///
    /// Examines settings of the kernel, other firewalls and their units, and warnings about the
    /// policy. Exits with 0 if nothing was found, 1 if something was, 2 on error. Changes nothing.
    Doctor(DoctorArgs),
    /// Show which services of this host the policy opens to whom
    ///
    /// Joins the policy with the programs that listen on this host, and with the ports that DNAT
    /// rules of any program publish: who reaches each of them, which are closed, and which ports
    /// are open although nobody listens.
    Exposed(ExposedArgs),
    /// Test policies: their expectations and lists of packets, by the evaluator and by this kernel
    ///
    /// The kernel gets the rules and real packets in namespaces that exist only for the test: the
    /// host and its rules are not touched, and root is not needed. Exits with 0 if every test
    /// passed, 1 if one failed, 2 on error.
    Test(TestArgs),
    /// Apply the policy in one transaction
    Apply(ApplyArgs),
    /// Run as a daemon: re-apply when the policy files change, repair when another program changes
    /// the rules
    ///
    /// SIGTERM or SIGINT end it and leave the rules in place; SIGHUP reads the policy again. At
    /// most one agent runs in a network namespace.
    Run(RunArgs),
    /// Make the agent read the policy now, and print the result
    Reload(ReloadArgs),
    /// Confirm a policy that was applied with --confirm; from a new connection or terminal
    Confirm(OutputArgs),
    /// Go back to the previous confirmed ruleset; the policy is not applied again until it changes
    Rollback(OutputArgs),
    /// Close this host now: only the safe core and your ssh session are still accepted
    ///
    /// Ends every other connection, of this host's clients too. Goes back after 5 minutes unless
    /// `peerwall confirm` is run from a new connection. A confirmed block stays, also over reboots,
    /// whatever happens to the policy, until `peerwall unblock`.
    Block(BlockArgs),
    /// End a block: go back to the policy that was in force before
    Unblock(UnblockArgs),
    /// Show the audit trail, and the confirmed rulesets with what each changed
    History(HistoryArgs),
    /// Load the last confirmed ruleset without reading the policy (used at boot)
    ///
    /// If nothing was confirmed yet, applies the policy. If that has errors too, closes the host
    /// except for ssh and the safe core.
    Boot {
        /// The policy file
        #[arg(default_value = POLICY)]
        policy: PathBuf,

        /// Output format.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Roll back a trial when its time is over (started by apply --confirm)
    #[command(hide = true)]
    Guard,
    /// Add a peer for a time, remove it, or list those that were added
    ///
    /// The agent does it at once, however many peers the policy has, and the kernel removes the
    /// peer at the end of its time.
    Peer(PeerArgs),
    /// Print the whole ruleset as input for nft or iptables-restore
    Render(RenderArgs),
    /// Show where members come from, and what is wrong there; accept an answer, or remove a member
    Sources(SourcesArgs),
    /// Show whether the policy is in force, who owns the table, and packet counters
    ///
    /// Exits with 0 if the loaded rules match the policy, 1 if not, 2 on error.
    Status(StatusArgs),
    /// Watch packets per second, denied packets and events of this host on one screen
    ///
    /// Works with an agent and without. q or Ctrl-C ends it.
    #[cfg(feature = "top")]
    Top(TopArgs),
    /// Write a first policy for this host, from what is found on it
    ///
    /// It accepts ssh, the pods of flannel, and what containers and virtual machines send through
    /// this host. Ports on which programs listen are offered in comments. Never overwrites a file.
    Init(InitArgs),
    /// Convert iptables or nftables rules into a policy: from rules-save files, a cloud-config, a
    /// file for `nft -f`, or the live rules
    ///
    /// Prints the policy to standard output, and a report to standard error: the result for each
    /// line, each difference between policy and rules, packet by packet, and problems in the rules.
    /// Changes nothing. Exits with 0, with 1 if `--strict` is not met, with 2 if a file cannot be
    /// read.
    Import(ImportArgs),
    /// Remove peerwall's table (or iptables chains); touches nothing else
    Remove(RemoveArgs),
    /// Print the JSON schema of a command's --json output, or of the policy
    Schema {
        /// The command, or `policy`
        of: crate::json::SchemaOf,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    Man {
        /// The directory; created if missing
        #[arg(value_name = "DIRECTORY")]
        folder: PathBuf,
    },
}

/// An output format.
#[derive(Debug, Clone, clap::Args)]
pub struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `history`.
#[derive(Debug, Clone, clap::Args)]
pub struct HistoryArgs {
    /// Show everything that this ruleset changed
    pub number: Option<u64>,

    /// Show all events, not only the last 20
    #[arg(long)]
    pub all: bool,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A policy and an output format.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyArgs {
    /// The policy file [default: the running agent's policy, or /etc/peerwall/policy.toml]
    pub policy: Option<PathBuf>,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `init`.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// The new file; `-` prints the policy
    #[arg(default_value = POLICY)]
    pub policy: PathBuf,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A policy, a backend and an output format.
#[derive(Debug, Clone, clap::Args)]
pub struct BackendArgs {
    /// Policy and output format.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// Backend to use [default: `[options] backend` of the policy, else auto]
    #[arg(long, value_parser = backend())]
    pub backend: Option<BackendChoice>,
}

/// Options of `check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Policy and output format.
    #[command(flatten)]
    pub of: PolicyArgs,

    /// Check the policy for another host: FILE says what `discover` finds there, its interfaces,
    /// routes and neighbours
    #[arg(long, value_name = "FILE")]
    pub discovered: Option<PathBuf>,
}

/// Options of `plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    /// Policy, backend and output format.
    #[command(flatten)]
    pub of: BackendArgs,

    /// Show the nft or iptables commands too, as -v does
    #[arg(long)]
    pub nft: bool,

    /// Exit with 3 if the policy accepts packets that the loaded rules do not
    #[arg(long)]
    pub exit_if_wider: bool,
}

/// Options of `status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Policy, backend and output format.
    #[command(flatten)]
    pub of: BackendArgs,

    /// Refresh every two seconds until q or Ctrl-C is pressed
    #[arg(long)]
    pub watch: bool,

    /// Also show counters that are zero
    #[arg(short, long)]
    pub all: bool,

    /// Read large sets from the kernel even if no transaction has changed any table since the load
    #[arg(long)]
    pub deep: bool,
}

/// Options of `remove`.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveArgs {
    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Backend whose rules are removed
    #[arg(long, value_parser = backend(), default_value = "auto")]
    pub backend: BackendChoice,
}

/// Options of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The policy file
    #[arg(default_value = POLICY)]
    pub policy: PathBuf,

    /// Backend to use [default: `[options] backend` of the policy, else auto]
    #[arg(long, value_parser = backend())]
    pub backend: Option<BackendChoice>,

    /// Do not lock the table: other programs can change it, and the agent repairs it (as on kernels
    /// before 6.9)
    #[arg(long)]
    pub no_owner: bool,

    /// Read the policy only at the start and on `peerwall reload` or SIGHUP, not when its files
    /// change: makes `peerwall reload --confirm` possible
    #[arg(long)]
    pub no_follow: bool,

    /// Leave the log of denied packets to another program, such as ulogd: `peerwall denied` then
    /// shows only counters
    #[arg(long)]
    pub no_denied: bool,

    /// Accept policy files writable by users other than root
    #[arg(long)]
    pub insecure_permissions: bool,

    /// Write metrics to FILE as OpenMetrics text, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,

    /// Serve /metrics over HTTP at this address: `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<Listen>,
}

/// Options of `import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Output of iptables-save, ip6tables-save, `iptables -S` and `ipset save`, scripts of
    /// iptables commands, a cloud-config, Butane or Ignition config with such files, a file for
    /// `nft -f`, or output of `nft -j list ruleset`; `-` for standard input. iptables-restore and
    /// nft read the rules where they are installed, in private network namespaces
    #[arg(required_unless_present_any = ["v4", "v6", "live"])]
    pub files: Vec<PathBuf>,

    /// Read FILE as IPv4 rules when its content does not say which family it is
    #[arg(long, value_name = "FILE")]
    pub v4: Vec<PathBuf>,

    /// Read FILE as IPv6 rules when its content does not say which family it is
    #[arg(long, value_name = "FILE")]
    pub v6: Vec<PathBuf>,

    /// Import the live rules of iptables, ip6tables, ipset and nftables
    #[arg(long, conflicts_with_all = ["files", "v4", "v6"])]
    pub live: bool,

    /// Import files that are only a part of a firewall: built-in chains that no file declares
    /// accept everything
    #[arg(long)]
    pub assume_accept: bool,

    /// Fail and print no policy unless every line was converted, and the policy accepts nothing
    /// else besides the safe core
    #[arg(long)]
    pub strict: bool,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Args {
    /// Returns the log level, unless RUST_LOG is set.
    pub fn log_level(&self) -> log::LevelFilter {
        // A daemon always logs its actions, and so does boot if it prints to the journal.
        let logs = match self.command {
            Some(Command::Run(_)) => true,
            Some(Command::Boot { .. }) => journal::is_stderr(),
            Some(_) | None => false,
        };
        match self.verbose + u8::from(logs) {
            0 => log::LevelFilter::Warn,
            1 => log::LevelFilter::Info,
            _ => log::LevelFilter::Debug,
        }
    }
}

/// Returns clap's definition of the command line.
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// Returns it without hidden commands, which completions would list.
pub fn shown() -> clap::Command {
    let all = command();
    let commands = all.get_subcommands().filter(|each| !each.is_hide_set());
    let mut shown = clap::Command::new("peerwall")
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .after_help(all.get_after_help().cloned().unwrap_or_default())
        .max_term_width(100)
        .args(all.get_arguments())
        .subcommands(commands);
    shown.build();
    shown
}
