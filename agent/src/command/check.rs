//! `peerwall check`

use std::path::Path;

use serde_json::json;

use super::{DONE, count, refuse, report};
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;

pub(super) fn run(path: &Path, output: &Output) -> u8 {
    let files = FileSystem::default();
    let mut ready = match prepare(path, &files) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, output),
    };
    ready.compare_with_host(&files);
    ready.look_for_route_localnet();
    ready.look_for_permissions();
    if output.is_json() {
        output.json(&json!({"ok": true, "diagnostics": ready.json_warnings()}));
        return DONE;
    }
    report::warnings(&ready);
    let rules: usize = ready
        .ruleset
        .chains
        .iter()
        .map(|chain| chain.rules.len())
        .sum();
    let policy = &ready.policy;
    output.text(&format!(
        "{}: ok. {}, {}, {}; {} met. It makes {} and {}.\n",
        path.display(),
        count(policy.peer_count(), "peer"),
        count(policy.overlays.len(), "overlay"),
        count(policy.allows.len(), "allow"),
        count(policy.expects.len(), "expectation"),
        count(rules, "rule"),
        count(ready.ruleset.element_count(), "set element"),
    ));
    DONE
}
