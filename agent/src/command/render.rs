//! `peerwall render`

use std::path::Path;

use peerwall_core::addr::Family;
use peerwall_core::{render, restore};

use super::{DONE, Ready, TROUBLE, prepare, refuse};
use crate::cli::Format;
use crate::output::{Output, complain};

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
        Format::Iptables => return iptables(&ready, Family::V4, &output),
        Format::Ip6tables => return iptables(&ready, Family::V6, &output),
    }
    DONE
}

fn iptables(ready: &Ready, family: Family, output: &Output) -> u8 {
    let unsupported = match restore::script(&ready.ruleset, family) {
        Ok(script) => {
            output.text(&script);
            return DONE;
        }
        Err(unsupported) => unsupported,
    };
    for each in &unsupported {
        let origin = ready.origins.of(&each.chain, each.rule);
        let place = origin.and_then(|origin| origin.place.as_ref());
        let place = place.map_or_else(String::new, |place| {
            format!("{}: ", ready.sources.line_of(place))
        });
        complain(&format!("error: {place}{each}\n"));
    }
    TROUBLE
}
