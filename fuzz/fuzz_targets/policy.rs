//! No text makes the loader panic, and what loads compiles, expects, and renders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peerwall_core::compile::compile;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::{expect, render};

fuzz_target!(|text: &str| {
    let loaded = load("policy.toml", text, &NoFiles);
    let _ = loaded.sources.render(&loaded.diagnostics, false);
    if let Some(policy) = loaded.policy {
        let (ruleset, _) = compile(&policy);
        let _ = expect::check(&policy, &ruleset);
        let _ = render::script(&ruleset);
    }
});
