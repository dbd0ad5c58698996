//! Options of `test`.

use std::path::PathBuf;

use clap::ValueEnum;

/// Options of `test`.
#[derive(Debug, Clone, clap::Args)]
pub struct TestArgs {
    /// The policy files [default: the running agent's policy, or /etc/peerwall/policy.toml]
    pub policies: Vec<PathBuf>,

    /// Also test the packets of FILE, for each policy: a verdict and a packet on each line
    #[arg(long, value_name = "FILE")]
    pub packets: Vec<PathBuf>,

    /// Fail if this kernel cannot be asked; otherwise, a note says why the evaluator decided alone
    #[arg(long, conflicts_with = "no_kernel")]
    pub kernel: bool,

    /// Ask only the evaluator
    #[arg(long)]
    pub no_kernel: bool,

    /// Test the policies for another host: FILE says what `discover` finds there
    #[arg(long, value_name = "FILE")]
    pub discovered: Option<PathBuf>,

    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Format of the output
    #[arg(long, value_enum, default_value_t = TestFormat::Text, conflicts_with = "json")]
    pub format: TestFormat,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Form of the output of `test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TestFormat {
    /// A line for each failure
    Text,
    /// Annotations of GitHub Actions, and the text
    Github,
    /// A SARIF log for code scanning; the text goes to standard error
    Sarif,
}
