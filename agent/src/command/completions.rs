//! `peerwall completions`

use super::DONE;
use crate::cli;
use crate::output::Output;

pub(super) fn run(shell: clap_complete::Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::shown(), "peerwall", &mut script);
    Output::new(false).text(&String::from_utf8_lossy(&script));
    DONE
}
