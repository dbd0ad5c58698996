//! `peerwall render`

use std::path::Path;

use peerwall_core::render;

use super::{DONE, prepare, refuse};
use crate::cli::Format;
use crate::output::Output;

pub(super) fn run(path: &Path, format: Format) -> u8 {
    let output = Output::new(format == Format::Json);
    let ready = match prepare(path) {
        Ok(ready) => ready,
        // The error is for people either way: what is wanted on stdout is a ruleset or nothing.
        Err(why) => return refuse(&why, &Output::new(false)),
    };
    ready.warn();
    match format {
        Format::Nft => output.text(&render::script(&ready.ruleset)),
        Format::Json => output.json(&render::json(&ready.ruleset)),
    }
    DONE
}
