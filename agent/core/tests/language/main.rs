//! The language: what is written, and what it means.

mod discovery;
mod members;
mod sources;
mod tunnels;
mod verdicts;
mod warnings;

use std::collections::BTreeMap;

use peerwall_core::diagnostic::{Diagnostic, Severity};
use peerwall_core::net::link::Link;
use peerwall_core::net::packet::{CtState, Hook, Packet, Transport};
use peerwall_core::net::port::{PortRange, TCP};
use peerwall_core::policy::load::{Files, Loaded, ReadError, Text, load};
use peerwall_core::policy::{Discovery, Overlay, OverlayBackend, Tunnel};
use peerwall_core::ruleset::compile::compile;

/// Files in a map.
struct Map(BTreeMap<&'static str, &'static str>);

impl Files for Map {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        match self.0.get(path) {
            Some(text) => Ok(found(path, text)),
            None => Err(ReadError::Wrong(format!(
                "cannot read {path}: No such file or directory"
            ))),
        }
    }
    fn glob(&self, pattern: &str, _: &str) -> Result<Vec<String>, ReadError> {
        let start = pattern.trim_end_matches("*.toml");
        let names = self.0.keys().filter(|name| name.starts_with(start));
        Ok(names.map(|name| (*name).to_owned()).collect())
    }
}

fn found(name: &str, text: &str) -> Text {
    Text {
        name: name.to_owned(),
        text: text.to_owned(),
        doubts: Vec::new(),
    }
}

fn read(text: &str, files: &[(&'static str, &'static str)]) -> Loaded {
    load("policy.toml", text, &Map(files.iter().copied().collect()))
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = read(text, &[]);
    assert!(
        loaded.policy.is_some(),
        "{}",
        loaded.sources.render(&loaded.diagnostics, false)
    );
    let warnings = loaded
        .diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Warning);
    warnings.map(|d| d.message.clone()).collect()
}

/// A host on which flannel has been before, or is to come.
struct Node {
    files: Map,
    last_good: Option<&'static str>,
    waits: bool,
    links: Vec<Link>,
}

impl Files for Node {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        self.files.read(path, relative_to)
    }
    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        self.files.glob(pattern, relative_to)
    }
    fn last_good(&self, path: &str, _: &str) -> Result<Option<Text>, ReadError> {
        Ok(self.last_good.map(|text| found(path, text)))
    }
    fn waits(&self) -> bool {
        self.waits
    }
    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        Ok(self.links.iter().find(|link| link.name == name).cloned())
    }
}

/// A host on which flannel has written these files.
fn node(files: &[(&'static str, &'static str)], links: Vec<Link>) -> Node {
    Node {
        files: Map(files.iter().copied().collect()),
        last_good: None,
        waits: false,
        links,
    }
}

fn interfaces(overlay: &Overlay) -> Vec<String> {
    let patterns = overlay.interfaces.iter();
    patterns.map(ToString::to_string).collect()
}

fn vxlan(name: &str, port: u16) -> Link {
    Link {
        name: name.into(),
        kind: "vxlan".into(),
        port: Some(port),
        vni: Some(1),
        local: None,
    }
}

/// What is read, and the warnings.
fn on(node: &Node, text: &str) -> (Overlay, Vec<Diagnostic>) {
    let loaded = load("policy.toml", text, node);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    let policy = loaded.policy.unwrap_or_else(|| panic!("{shown}"));
    (policy.overlays[0].clone(), loaded.diagnostics)
}
