//! The command line's definitions; completions and man pages are made from the same.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};

/// Where the policy is unless said otherwise.
pub const POLICY: &str = "/etc/peerwall/policy.toml";

/// A firewall for cluster nodes: a TOML peer policy becomes one nftables table.
#[derive(Debug, Parser)]
#[command(
    name = "peerwall",
    version,
    about,
    after_help = "Exit codes: 0 done, or nothing to do; 1 from `plan`: there are changes, from `status`: not as the policy says; 2 trouble, and nothing was changed.",
    max_term_width = 100
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Say more; twice for even more. RUST_LOG does the same in detail
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// Directory with the programs of iptables and ipset, instead of the usual ones; PATH is not used
    #[arg(long, global = true, value_name = "FOLDER")]
    pub iptables: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read the policy and say what is wrong with it, all at once; also runs the tests it has of itself
    Check(PolicyArgs),
    /// Show what apply would change, in words and in nft's text; changes nothing
    ///
    /// The kernel is asked whether it would take it. Exits with 0 if there is nothing to do, 1 if
    /// there are changes, 2 on trouble.
    Plan(BackendArgs),
    /// Make the kernel hold what the policy says, in one transaction
    Apply(ApplyArgs),
    /// Stay, and keep this host as the policy says: when files change, and when somebody changes the rules
    ///
    /// Ends with SIGTERM or SIGINT, and leaves the rules in place. SIGHUP reads the policy again. At most
    /// one agent runs in a network namespace.
    Run(RunArgs),
    /// Have the agent read the policy now and say what came of it
    Reload(WishArgs),
    /// Confirm what was applied with --confirm, from a new connection or terminal
    Confirm,
    /// Go back to what was confirmed before; the policy is not taken again until it changes
    Rollback,
    /// Show what was applied, tried, confirmed and rolled back, and by whom; and the confirmed rulesets, with
    /// what each changed
    History(HistoryArgs),
    /// Load what was confirmed last, without reading the policy; for the start of the machine
    ///
    /// If nothing was confirmed yet, applies the policy. If that is wrong too, closes the host but for
    /// the safe core and ssh, and says so.
    Boot {
        /// The policy file
        #[arg(default_value = POLICY)]
        policy: PathBuf,
    },
    /// Wait until something has to be confirmed by, and go back if nobody else does
    #[command(hide = true)]
    Guard,
    /// Print the whole ruleset, as input for nft or for iptables-restore
    Render(RenderArgs),
    /// Say whether the policy is in force, who owns the table, and what it counted
    ///
    /// Exits with 0 if the table is what the policy says, 1 if not, 2 on trouble.
    Status(StatusArgs),
    /// Make a policy of iptables rules: of rules-save files, a cloud-config, or what is loaded now
    ///
    /// The policy is printed to standard output; to standard error goes what became of each line, where
    /// the policy differs from the rules, packet by packet, and what was wrong with the rules. Nothing is
    /// changed. Exits with 0, with 1 if `--strict` is not met, with 2 if a file cannot be read.
    Import(ImportArgs),
    /// Take our table, or our chains, away, and nothing else
    Remove(RemoveArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder; made if it is not there
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

/// What holds the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// nft, or iptables if the kernel lacks nf_tables or a part of it that the policy needs
    Auto,
    /// nf_tables, by netlink: one transaction for both families
    Nft,
    /// iptables-restore and ip6tables-restore, in chains of our own, where nf_tables is missing
    Iptables,
}

/// Which policy, which backend, and how to print.
#[derive(Debug, Clone, clap::Args)]
pub struct BackendArgs {
    /// Which policy, and how to print.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// What holds the rules; otherwise the policy's `[options] backend`, which is auto if it is not there
    #[arg(long, value_enum)]
    pub backend: Option<BackendName>,
}

/// How to show the status.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Which policy, which backend, and how to print.
    #[command(flatten)]
    pub of: BackendArgs,

    /// Show it again every two seconds, until it is interrupted
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

    /// What holds the rules
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub backend: BackendName,
}

/// How to stay.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The policy file
    #[arg(default_value = POLICY)]
    pub policy: PathBuf,

    /// What holds the rules; otherwise the policy's `[options] backend`, which is auto if it is not there
    #[arg(long, value_enum)]
    pub backend: Option<BackendName>,

    /// Do not own the table, as on kernels before 6.9: others can change it, and are repaired
    #[arg(long)]
    pub no_owner: bool,

    /// Read the policy at the start and when `peerwall reload` or SIGHUP says so, not whenever one of its
    /// files changes: so that `peerwall reload --confirm` comes before anything is in force
    #[arg(long)]
    pub no_follow: bool,

    /// Take policy files that others than root can write
    #[arg(long)]
    pub insecure_permissions: bool,

    /// Write metrics to this file, as OpenMetrics text, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,

    /// Answer who asks for /metrics by HTTP here: `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<Listen>,
}

/// How a policy is to be put in force.
#[derive(Debug, Clone, clap::Args)]
pub struct WishArgs {
    /// Go back by itself after this time (60s, 5m), unless `peerwall confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub confirm: Option<u64>,

    /// Even if it would not let the caller's own ssh connection in again
    #[arg(long)]
    pub force: bool,

    /// End every open connection that the policy refuses, also those that it did not admit before
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

    /// Stay, and with that own the table so that nobody else can change it, until SIGINT or
    /// SIGTERM. The rules stay behind. Only nft can do this
    #[arg(long, conflicts_with_all = ["backend", "confirm"])]
    pub hold: bool,

    /// Take policy files that others than root can write
    #[arg(long)]
    pub insecure_permissions: bool,

    /// How it is to be put in force.
    #[command(flatten)]
    pub wish: WishArgs,
}

/// What to import.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Files as iptables-save, ip6tables-save and `ipset save` write them, or a cloud-config with such
    /// files in it; `-` for standard input
    #[arg(required_unless_present_any = ["v4", "v6", "live"])]
    pub files: Vec<PathBuf>,

    /// A file of IPv4 rules, where nothing in it tells
    #[arg(long, value_name = "FILE")]
    pub v4: Vec<PathBuf>,

    /// A file of IPv6 rules, where nothing in it tells
    #[arg(long, value_name = "FILE")]
    pub v6: Vec<PathBuf>,

    /// What iptables, ip6tables and ipset hold now
    #[arg(long, conflicts_with_all = ["files", "v4", "v6"])]
    pub live: bool,

    /// Print no policy, and fail, unless every line was taken
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

    /// What to print it as
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
    /// Input for `iptables-restore --noflush`: IPv4, in chains of our own
    Iptables,
    /// Input for `ip6tables-restore --noflush`: IPv6, in chains of our own
    Ip6tables,
}

impl Args {
    /// How much to log, unless RUST_LOG says so.
    pub fn log_level(&self) -> log::LevelFilter {
        // Who stays says what he does.
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
