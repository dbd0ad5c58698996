//! The configuration of `peerwall-sources`: the sources of the policy in force.

use peerwall_core::policy::{Engine, EngineKind, MemberSource};
use serde::Serialize;

use crate::secure_file;

/// Name of the configuration of `peerwall-sources`, beside the control socket.
const CONFIG: &str = "sources.json";
/// Version of that configuration.
const CONFIG_VERSION: u32 = 1;

/// Configuration of `peerwall-sources`.
#[derive(Serialize)]
struct Config<'c> {
    version: u32,
    sources: Vec<ConfigEntry<'c>>,
}

#[derive(Serialize)]
struct ConfigEntry<'c> {
    name: &'c str,
    max: usize,
    #[serde(flatten)]
    engine: &'c Engine,
}

/// Writes the configuration of `peerwall-sources`, if it changed. It contains no secrets.
pub(super) fn configure(specs: &[MemberSource]) {
    let path = crate::control::path().with_file_name(CONFIG);
    let entries = specs
        .iter()
        .filter(|spec| spec.engine.kind != EngineKind::Files)
        .map(|spec| ConfigEntry {
            name: &spec.name,
            max: spec.limits.max,
            engine: &spec.engine,
        });
    let config = Config {
        version: CONFIG_VERSION,
        sources: entries.collect(),
    };
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    let before = std::fs::read_to_string(&path).ok();
    if before.as_ref() == Some(&text) || (before.is_none() && config.sources.is_empty()) {
        return;
    }
    if let Err(err) = secure_file::publish(&path, &text) {
        log::warn!(
            "cannot write {}, so peerwall-sources does not know the sources: {err}",
            path.display()
        );
    }
}
