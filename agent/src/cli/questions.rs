//! Options of the commands that answer questions about policies, or print them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;

use super::values::time_span;
use super::{BackendArgs, OutputArgs, POLICY, PolicyArgs};

/// Options of `explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// A line that a tool printed about the packet; `-` for standard input
    #[arg(required_unless_present = "from", conflicts_with_all = ["from", "to", "port", "icmp"])]
    pub line: Vec<String>,

    /// Source address
    #[arg(long, value_name = "ADDRESS", requires = "to")]
    pub from: Option<IpAddr>,

    /// Destination address, after any DNAT; with --live, before it, unless --dialled is given
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    pub to: Option<IpAddr>,

    /// Destination port: `80/tcp`, or a protocol without ports
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,

    /// Type of an ICMP message: a name or a number
    #[arg(long, value_name = "TYPE", conflicts_with = "port")]
    pub icmp: Option<String>,

    /// Follow the packet through all rules that this host has loaded, those of other programs too
    #[arg(long, conflicts_with = "discovered")]
    pub live: bool,

    /// Interface on which the packet arrives
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// Interface by which it leaves, if this host forwards it
    #[arg(long, value_name = "NAME")]
    pub out: Option<String>,

    /// Destination before DNAT, if it is translated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub dialled: Option<SocketAddr>,

    /// State of the connection
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<StateArg>,

    /// The policy file [default: the running agent's policy, or /etc/peerwall/policy.toml]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Explain it for another host: FILE says what `discover` finds there; nothing is taken from
    /// this host
    #[arg(long, value_name = "FILE")]
    pub discovered: Option<PathBuf>,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// State of a connection, as connection tracking names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// The first packet
    New,
    /// A packet of an answered connection
    Established,
    /// An error about a known connection, or the first packet of one that it expects
    Related,
    /// A packet without a connection
    Invalid,
    /// A packet that is not tracked
    Untracked,
}

/// Options of `denied`.
#[derive(Debug, Clone, clap::Args)]
pub struct DeniedArgs {
    /// Print packets as they are denied, until Ctrl-C
    #[arg(long)]
    pub follow: bool,

    /// Only packets of this time: 90s, 10m, 1h; at most 1d, which is the default
    #[arg(long, value_name = "TIME", value_parser = time_span, conflicts_with = "follow")]
    pub since: Option<u64>,

    /// Print what would let the packets in, as lines of a policy, with the packets as evidence
    #[arg(long, conflicts_with = "follow")]
    pub suggest: bool,

    /// Sum packets that have this in common
    #[arg(long, value_enum, value_name = "WHAT")]
    pub by: Option<DeniedBy>,

    /// Maximum number of rows; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,

    /// How long to listen if no agent records denied packets
    #[arg(long, value_name = "TIME", value_parser = time_span, default_value = "10s")]
    pub listen: u64,

    /// The policy file, for names and suggestions [default: the running agent's policy, or
    /// /etc/peerwall/policy.toml]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What denied packets are summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeniedBy {
    /// Source address
    Source,
    /// Destination port and protocol
    Port,
    /// Reason
    Reason,
    /// Incoming interface
    Interface,
}

/// Options of `trace`.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// Source address
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,

    /// Destination address, before any DNAT
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<IpAddr>,

    /// Destination port, before any DNAT: `80/tcp`, or a protocol without ports
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,

    /// Type of an ICMP message: a name or a number
    #[arg(long, value_name = "TYPE", conflicts_with = "port")]
    pub icmp: Option<String>,

    /// Interface on which the packets arrive
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// Send the packet from this host; needs --to and --port
    #[arg(long)]
    pub send: bool,

    /// Number of packets after which the trace ends
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub count: usize,

    /// Time after which it ends
    #[arg(long, value_name = "TIME", value_parser = time_span, default_value = "30s")]
    pub r#for: u64,

    /// The policy file, for the lines of rules [default: the running agent's policy, or
    /// /etc/peerwall/policy.toml]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Policy, backend and output format.
    #[command(flatten)]
    pub of: BackendArgs,

    /// Also list every base chain of every program, in the order in which a packet passes them
    #[arg(long)]
    pub hooks: bool,
}

/// Options of `diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct DiffArgs {
    /// A policy file
    pub old: PathBuf,

    /// The policy file that replaces it
    pub new: PathBuf,

    /// Compare the policies for another host: FILE says what `discover` finds there
    #[arg(long, value_name = "FILE")]
    pub discovered: Option<PathBuf>,

    /// Exit with 3 if NEW accepts packets that OLD does not
    #[arg(long)]
    pub exit_if_wider: bool,

    /// Output format.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `render`.
#[derive(Debug, Clone, clap::Args)]
pub struct RenderArgs {
    /// The policy file
    #[arg(default_value = POLICY)]
    pub policy: PathBuf,

    /// Output format
    #[arg(long, value_enum, default_value_t = RenderFormat::Nft)]
    pub format: RenderFormat,

    /// Print nft's JSON, and errors as JSON; the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

/// An output format of `render`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RenderFormat {
    /// Input for `nft -f`
    Nft,
    /// Input for `nft -j -f`, libnftables-json(5)
    Json,
    /// Input for `iptables-restore --noflush`: IPv4, in chains of peerwall's own
    Iptables,
    /// Input for `ip6tables-restore --noflush`: IPv6, in chains of peerwall's own
    Ip6tables,
}

/// Form of the output of `exposed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MapFormat {
    /// Lists
    Text,
    /// JSON
    Json,
    /// A graph for Graphviz
    Dot,
    /// A graph for Mermaid
    Mermaid,
}

/// Options of `exposed`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExposedArgs {
    /// Policy and output format.
    #[command(flatten)]
    pub of: PolicyArgs,

    /// Format of the output
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    pub format: MapFormat,

    /// Also write a map as SVG; replaces only files that this command wrote
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Also write one page of HTML, readable without network; replaces only files that this command
    /// wrote
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
