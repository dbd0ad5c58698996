//! `peerwall check`

use std::path::Path;

use peerwall_core::policy::Discovery;
use peerwall_core::policy::load::{Discovered, Elsewhere};
use serde_json::json;

use super::{DONE, TROUBLE, count, refuse, report, trouble};
use crate::color::{self, Stream};
use crate::output::{Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::{Ready, prepare};
use crate::secure_file;

pub(super) fn run(path: &Path, discovered: Option<&Path>, output: &Output) -> u8 {
    let is_other_host = discovered.is_some();
    let discovered = match discovered.map(read).transpose() {
        Ok(discovered) => discovered,
        Err(Wrong::Unread(why)) => return trouble("check", &why, output),
        Err(Wrong::Content(text)) => {
            complain(&text);
            return TROUBLE;
        }
    };
    let files = FileSystem::default();
    let files = Elsewhere::new(&files, discovered);
    let mut ready = match prepare(path, &files) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, output),
    };
    ready.compare_with_host(&files);
    if !is_other_host {
        ready.look_for_route_localnet();
    }
    ready.look_for_permissions();
    if output.is_json() {
        output.json(
            &json!({"ok": true, "untested": ready.untested, "diagnostics": ready.json_warnings()}),
        );
        return DONE;
    }
    report::warnings(&ready);
    output.text(&text(path, &ready));
    DONE
}

/// Reasons why a file of discovered facts cannot be used.
enum Wrong {
    Unread(String),
    /// Everything that is wrong with it.
    Content(String),
}

fn read(path: &Path) -> Result<Discovered, Wrong> {
    let read = secure_file::text(path).map_err(|err| Wrong::Unread(err.to_string()))?;
    Discovered::parse(&read.name, &read.text).map_err(|(sources, diagnostics)| {
        Wrong::Content(sources.render(&diagnostics, color::is_on(Stream::Stderr)))
    })
}

fn text(path: &Path, ready: &Ready) -> String {
    let chains = ready.ruleset.chains.iter();
    let rules: usize = chains.map(|chain| chain.rules.len()).sum();
    let policy = &ready.policy;
    let expectations = policy.expects.len();
    let met = count(expectations.saturating_sub(ready.untested), "expectation");
    let untested = match ready.untested {
        0 => String::new(),
        untested => format!(", {untested} not tested"),
    };
    let mut text = format!(
        "{}: ok. {}, {}, {}; {met} met{untested}. It makes {} and {}.\n",
        path.display(),
        count(policy.peer_count(), "peer"),
        count(policy.overlays.len(), "overlay"),
        count(policy.allows.len(), "allow"),
        count(rules, "rule"),
        count(ready.ruleset.element_count(), "set element"),
    );
    for overlay in &policy.overlays {
        if let Discovery::Awaited(paths) = &overlay.discovery {
            text.push_str(&format!(
                "not known here: the pods of overlay {} ({})\n",
                overlay.name,
                paths.join(", ")
            ));
        }
    }
    text
}
