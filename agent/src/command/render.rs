//! `peerwall render`

use peerwall_core::iptables::script;
use peerwall_core::net::addr::Family;
use peerwall_core::ruleset::render;

use super::{DONE, refuse, report, unsupported};
use crate::cli::{RenderArgs, RenderFormat};
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadedPolicy, prepare};

pub(super) fn run(args: &RenderArgs) -> u8 {
    let output = Output::new(args.json || args.format == RenderFormat::Json);
    let files = FileSystem {
        reloads: true,
        ..FileSystem::default()
    };
    let ready = match prepare(&args.policy, &files) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, &output),
    };
    report::warnings(&ready);
    match if args.json {
        RenderFormat::Json
    } else {
        args.format
    } {
        RenderFormat::Nft => output.text(&render::script(&ready.ruleset)),
        RenderFormat::Json => output.bare_json(&render::json(&ready.ruleset)),
        RenderFormat::Iptables => return iptables(&ready, Family::V4, &output),
        RenderFormat::Ip6tables => return iptables(&ready, Family::V6, &output),
    }
    DONE
}

fn iptables(ready: &LoadedPolicy, family: Family, output: &Output) -> u8 {
    match script::script(&ready.ruleset, family, None) {
        Ok(script) => {
            output.text(&script.text());
            DONE
        }
        Err(list) => unsupported(ready, &list, &Output::new(false)),
    }
}
