//! `peerwall render`

use std::path::Path;

use peerwall_core::iptables::script;
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::render;

use super::{DONE, refuse, report, unsupported};
use crate::cli::Format;
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::{Ready, prepare};

pub(super) fn run(path: &Path, format: Format) -> u8 {
    let output = Output::new(format == Format::Json);
    let ready = match prepare(path, &FileSystem::default()) {
        Ok(ready) => ready,
        // The error is for people either way: what is wanted on stdout is a ruleset or nothing.
        Err(why) => return refuse(&why, &Output::new(false)),
    };
    report::warnings(&ready);
    match format {
        Format::Nft => output.text(&render::script(&ready.ruleset)),
        Format::Json => output.json(&render::json(&ready.ruleset)),
        Format::Iptables => return iptables(&ready, Family::V4, &output),
        Format::Ip6tables => return iptables(&ready, Family::V6, &output),
    }
    DONE
}

fn iptables(ready: &Ready, family: Family, output: &Output) -> u8 {
    match script::script(&ready.ruleset, family, None) {
        Ok(script) => {
            output.text(&script.text());
            DONE
        }
        Err(list) => unsupported(ready, &list, &Output::new(false)),
    }
}
