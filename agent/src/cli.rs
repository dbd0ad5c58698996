//! The command line's definitions; completions and man pages are made from the same.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};

/// Default path of the policy.
pub const POLICY: &str = "/etc/peerwall/policy.toml";

/// A firewall for cluster nodes: a TOML peer policy becomes one nftables table.
#[derive(Debug, Parser)]
#[command(
    name = "peerwall",
    version,
    about,
    after_help = "Exit codes: 0 success, or no changes; 1 from `plan`: there are changes, from `status`: not in sync; 2 error, nothing was changed.",
    max_term_width = 100
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Log more; twice for even more. RUST_LOG sets it in detail
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// Directory of the iptables and ipset programs, instead of the usual ones; PATH is not used
    #[arg(long, global = true, value_name = "FOLDER")]
    pub iptables: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the policy: all errors and warnings at once, and its own expectations
    Check(PolicyArgs),
    /// Show what apply would change, in words and as nft or iptables text; changes nothing
    ///
    /// Asks the kernel whether it would accept the change. Exits with 0 if there are no changes, 1 if there are,
    /// 2 on error.
    Plan(BackendArgs),
    /// Apply the policy in one transaction
    Apply(ApplyArgs),
    /// Run as a daemon: re-apply when the policy files change, repair when another program changes the rules
    ///
    /// SIGTERM or SIGINT end it and leave the rules in place; SIGHUP reads the policy again. At most one agent runs in
    /// a network namespace.
    Run(RunArgs),
    /// Tell the agent to read the policy now, and print the result
    Reload(WishArgs),
    /// Confirm a policy that was applied with --confirm; from a new connection or terminal
    Confirm,
    /// Go back to the previous confirmed ruleset; the policy is not applied again until it changes
    Rollback,
    /// Show what was applied, tried, confirmed and rolled back, and by whom; and the confirmed rulesets, with
    /// what each changed
    History(HistoryArgs),
    /// Load the last confirmed ruleset without reading the policy (used at boot)
    ///
    /// If nothing was confirmed yet, applies the policy. If that has errors too, closes the host except for ssh and
    /// the safe core.
    Boot {
        /// The policy file
        #[arg(default_value = POLICY)]
        policy: PathBuf,
    },
    /// Roll back a trial when its time is over (started by apply --confirm)
    #[command(hide = true)]
    Guard,
    /// Print the whole ruleset as input for nft or iptables-restore
    Render(RenderArgs),
    /// Show whether the policy is in force, who owns the table, and packet counters
    ///
    /// Exits with 0 if the loaded rules match the policy, 1 if not, 2 on error.
    Status(StatusArgs),
    /// Convert iptables rules into a policy: from rules-save files, a cloud-config, or the live rules
    ///
    /// Prints the policy to standard output, and a report to standard error: the result for each line, each difference
    /// between policy and rules, packet by packet, and problems in the rules. Changes nothing. Exits with 0, with 1 if
    /// `--strict` is not met, with 2 if a file cannot be read.
    Import(ImportArgs),
    /// Remove peerwall's table (or iptables chains); touches nothing else
    Remove(RemoveArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    Man {
        /// The directory; created if missing
        folder: PathBuf,
    },
}

/// How to print.
#[derive(Debug, Clone, clap::Args)]
pub struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to show of the history.
#[derive(Debug, Clone, clap::Args)]
pub struct HistoryArgs {
    /// Only this ruleset, with everything that it changed
    pub number: Option<u64>,

    /// Show all events that are kept, not only the last 20
    #[arg(long)]
    pub all: bool,

    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which policy, and how to print.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyArgs {
    /// The policy file [default: the running agent's policy, or /etc/peerwall/policy.toml]
    pub policy: Option<PathBuf>,

    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// nft; iptables if the kernel lacks nf_tables or a feature that the policy needs
    Auto,
    /// nf_tables over netlink: one transaction for both families
    Nft,
    /// iptables-restore and ip6tables-restore, in chains of peerwall's own
    Iptables,
}

/// Which policy, which backend, and how to print.
#[derive(Debug, Clone, clap::Args)]
pub struct BackendArgs {
    /// Which policy, and how to print.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// Backend to use [default: `[options] backend` of the policy, else auto]
    #[arg(long, value_enum)]
    pub backend: Option<BackendName>,
}

/// How to show the status.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Which policy, which backend, and how to print.
    #[command(flatten)]
    pub of: BackendArgs,

    /// Refresh every two seconds until interrupted
    #[arg(long)]
    pub watch: bool,

    /// Show counters that counted nothing, too
    #[arg(short, long)]
    pub all: bool,
}

/// What to remove, and how to print.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveArgs {
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Backend to remove the rules of
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub backend: BackendName,
}

/// How to stay.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The policy file
    #[arg(default_value = POLICY)]
    pub policy: PathBuf,

    /// Backend to use [default: `[options] backend` of the policy, else auto]
    #[arg(long, value_enum)]
    pub backend: Option<BackendName>,

    /// Do not lock the table, as on kernels before 6.9: others can change it, and their changes are repaired
    #[arg(long)]
    pub no_owner: bool,

    /// Read the policy only at the start and on `peerwall reload` or SIGHUP, not whenever its files change, so that
    /// `peerwall reload --confirm` can try a change before it is in force
    #[arg(long)]
    pub no_follow: bool,

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

/// How a policy is to be put in force.
#[derive(Debug, Clone, clap::Args)]
pub struct WishArgs {
    /// Roll back automatically after this time (60s, 5m) unless confirmed with `peerwall confirm`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub confirm: Option<u64>,

    /// Apply even if it would lock out your current SSH session
    #[arg(long)]
    pub force: bool,

    /// End every open connection that the policy refuses, also those that the previous policy refused
    #[arg(long, conflicts_with = "confirm")]
    pub end_refused: bool,
}

/// Reads `60`, `60s` or `5m`, at most a day.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number
        .parse::<u64>()
        .map_err(|err| format!("a time is like 60s or 5m ({err})"))?;
    match number.saturating_mul(unit) {
        seconds @ 1..=86_400 => Ok(seconds),
        _ => Err("between a second and a day".into()),
    }
}

/// How to apply.
#[derive(Debug, Clone, clap::Args)]
pub struct ApplyArgs {
    /// Which policy, which backend, and how to print.
    #[command(flatten)]
    pub to: BackendArgs,

    /// Keep running and lock the table, so that nobody else can change it, until SIGINT or SIGTERM; the rules stay
    /// afterwards. nft only
    #[arg(long, conflicts_with_all = ["backend", "confirm"])]
    pub hold: bool,

    /// Accept policy files writable by users other than root
    #[arg(long)]
    pub insecure_permissions: bool,

    /// How it is to be put in force.
    #[command(flatten)]
    pub wish: WishArgs,
}

/// What to import.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Output of iptables-save, ip6tables-save and `ipset save`, or a cloud-config that contains such files; `-` for
    /// standard input
    #[arg(required_unless_present_any = ["v4", "v6", "live"])]
    pub files: Vec<PathBuf>,

    /// Read FILE as IPv4 rules when its content does not say which family it is
    #[arg(long, value_name = "FILE")]
    pub v4: Vec<PathBuf>,

    /// Read FILE as IPv6 rules when its content does not say which family it is
    #[arg(long, value_name = "FILE")]
    pub v6: Vec<PathBuf>,

    /// Import the live rules of iptables, ip6tables and ipset
    #[arg(long, conflicts_with_all = ["files", "v4", "v6"])]
    pub live: bool,

    /// Fail and print no policy unless every line was converted
    #[arg(long)]
    pub strict: bool,

    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How to render.
#[derive(Debug, Clone, clap::Args)]
pub struct RenderArgs {
    /// The policy file
    #[arg(default_value = POLICY)]
    pub policy: PathBuf,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Nft)]
    pub format: Format,
}

/// What to render as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Input for `nft -f`
    Nft,
    /// Input for `nft -j -f`, libnftables-json(5)
    Json,
    /// Input for `iptables-restore --noflush`: IPv4, in chains of peerwall's own
    Iptables,
    /// Input for `ip6tables-restore --noflush`: IPv6, in chains of peerwall's own
    Ip6tables,
}

impl Args {
    /// How much to log, unless RUST_LOG says so.
    pub fn log_level(&self) -> log::LevelFilter {
        // A daemon logs what it does.
        let stays = matches!(self.command, Some(Command::Run(_)));
        match self.verbose + u8::from(stays) {
            0 => log::LevelFilter::Warn,
            1 => log::LevelFilter::Info,
            _ => log::LevelFilter::Debug,
        }
    }
}

/// The definitions as clap has them, for completions and man pages.
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port of the loopback.
    Loopback(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(
                    "a socket has an absolute path, like unix:/run/peerwall/metrics.sock".into(),
                ),
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(address) => Err(format!(
                "{} is not of the loopback; counters of a firewall are nobody else's business, so let something that authenticates ask for them here",
                address.ip()
            )),
            Err(_) => {
                Err("like 127.0.0.1:9469, [::1]:9469 or unix:/run/peerwall/metrics.sock".into())
            }
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => address.fmt(f),
        }
    }
}
