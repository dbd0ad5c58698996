//! No text makes the loader panic, be it the policy's or that of a file that it names; what loads
//! compiles, expects, and renders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peerwall_core::ruleset::compile::compile;
use peerwall_core::policy::load::{Files, ReadError, Text, load};
use peerwall_core::ruleset::{expect, render};

/// Whatever a policy names has this text.
struct Everywhere<'t>(&'t str);

impl Files for Everywhere<'_> {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        Ok(Text {
            name: path.to_owned(),
            text: self.0.to_owned(),
            doubts: Vec::new(),
        })
    }
    fn glob(&self, _: &str, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
}

fuzz_target!(|texts: (&str, &str)| {
    let loaded = load("policy.toml", texts.0, &Everywhere(texts.1));
    let _ = loaded.sources.render(&loaded.diagnostics, false);
    if let Some(policy) = loaded.policy {
        let (ruleset, _) = compile(&policy);
        let _ = expect::check(&policy, &ruleset);
        let _ = render::script(&ruleset);
    }
    let discovers = "version = 1\n\
        [peers]\n\
        a = \"192.0.2.1\"\n\
        [overlay.o]\n\
        backend = \"vxlan\"\n\
        discover = \"it\"\n";
    let loaded = load("policy.toml", discovers, &Everywhere(texts.1));
    let _ = loaded.sources.render(&loaded.diagnostics, false);
});
