//! `peerwall completions` and `peerwall man`

use std::fs;
use std::io;
use std::path::Path;

use super::{DONE, trouble};
use crate::cli;
use crate::output::Output;

pub(super) fn completions(shell: clap_complete::Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "peerwall", &mut script);
    Output::new(false).text(&String::from_utf8_lossy(&script));
    DONE
}

pub(super) fn man(folder: &Path) -> u8 {
    let written =
        fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(cli::command(), folder));
    match written {
        Ok(()) => DONE,
        Err(err) => {
            let err: io::Error = err;
            trouble(
                &format!("man: {}", folder.display()),
                &err,
                &Output::new(false),
            )
        }
    }
}
