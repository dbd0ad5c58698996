//! `peerwall exposed`

use std::path::Path;

use peerwall_core::import::meaning::{Access, Admitted, access};
use peerwall_core::net::port::{PortSpec, TCP, UDP, protocol_name};
use peerwall_core::policy::initial::Listener;
use peerwall_core::policy::{Allow, Policy, Target};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DONE, refuse, report};
use crate::color::{Meaning, paint};
use crate::host::listeners;
use crate::host::names::printable;
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;

/// The result of `exposed`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Exposed")]
pub(super) struct ExposedServices {
    /// Path of the policy.
    policy: String,
    /// Who may reach every port.
    every_port: Vec<Admitted>,
    /// Programs that listen for other hosts.
    services: Vec<Service>,
    /// Ports of the policy on which nobody listens on this host.
    unused: Vec<UnusedPort>,
}

/// A program that listens.
#[derive(Debug, Serialize, JsonSchema)]
struct Service {
    /// Port and protocol.
    port: String,
    /// Name of the process; absent if it is not known.
    process: Option<String>,
    /// Who reaches it, besides those that reach every port.
    from: Vec<Admitted>,
}

/// A port that an entry of the policy opens, without a program.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct UnusedPort {
    /// Name of the allow.
    allow: String,
    /// Entry of `ports`.
    port: String,
}

pub(super) fn run(path: &Path, output: &Output) -> u8 {
    let ready = match prepare(path, &FileSystem::default()) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, output),
    };
    let listeners = listeners::find();
    let asked: Vec<(u8, u16)> = listeners
        .iter()
        .map(|each| (each.protocol, each.port))
        .collect();
    let Access {
        every_port,
        services,
    } = access(&ready.ruleset, &asked);
    let service = |(each, from): (&Listener, Vec<Admitted>)| Service {
        port: format!("{}/{}", each.port, protocol_name(each.protocol)),
        process: each.process.clone(),
        from,
    };
    let found = ExposedServices {
        policy: path.display().to_string(),
        every_port,
        services: listeners.iter().zip(services).map(service).collect(),
        unused: unused(&ready.policy, &asked),
    };
    if output.is_json() {
        output.json(&found);
    } else {
        report::warnings(&ready);
        output.text(&found.text());
    }
    DONE
}

/// Returns the ports that allows open on this host, and on which nobody listens.
fn unused(policy: &Policy, listening: &[(u8, u16)]) -> Vec<UnusedPort> {
    let is_used = |spec: &PortSpec| {
        listening.iter().any(|(protocol, port)| {
            let fits = spec.range.is_none_or(|range| range.contains(*port));
            fits && spec.protocols.contains(protocol)
        })
    };
    let is_here = |allow: &&Allow| allow.to.contains(&Target::Host);
    let mut found = Vec::new();
    for allow in policy.allows.iter().filter(is_here) {
        let specs = allow.ports.iter().flatten();
        // Only sockets of TCP and UDP are known.
        let known = specs.filter(|spec| spec.protocols.iter().all(|p| [TCP, UDP].contains(p)));
        for spec in known.filter(|spec| !is_used(spec)) {
            let names: Vec<String> = spec.protocols.iter().map(|p| protocol_name(*p)).collect();
            let names = names.join(" and ");
            found.push(UnusedPort {
                allow: allow.name.clone(),
                port: match spec.range {
                    Some(range) => format!("{range}/{names}"),
                    None => names,
                },
            });
        }
    }
    found
}

impl ExposedServices {
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.every_port.is_empty() {
            text.push_str("every port is open to:\n");
            for each in &self.every_port {
                text.push_str(&format!("  {}\n", each.message));
            }
        }
        text.push_str(match self.services.is_empty() {
            true => "no program listens for other hosts\n",
            false => "programs that listen, and who else reaches them:\n",
        });
        let name = |service: &Service| {
            service
                .process
                .as_deref()
                .map_or_else(|| "?".to_owned(), printable)
        };
        let wide = |texts: Vec<usize>| texts.into_iter().max().unwrap_or(0);
        let ports = wide(self.services.iter().map(|each| each.port.len()).collect());
        let names = wide(self.services.iter().map(|each| name(each).len()).collect());
        for service in &self.services {
            let start = format!("  {:ports$}  {:names$}", service.port, name(service));
            let blank = " ".repeat(start.len());
            if service.from.is_empty() {
                text.push_str(&format!("{start}  {}\n", paint(Meaning::Good, "closed")));
            }
            for (index, each) in service.from.iter().enumerate() {
                let start = if index == 0 { &start } else { &blank };
                let message = match each.is_anybody {
                    true => paint(Meaning::Attention, &each.message),
                    false => each.message.clone(),
                };
                text.push_str(&format!("{start}  {message}\n"));
            }
        }
        if !self.unused.is_empty() {
            text.push_str(
                "open in the policy, but no program listens (published ports are not examined):\n",
            );
            for each in &self.unused {
                text.push_str(&format!("  {} ([[allow]] {})\n", each.port, each.allow));
            }
        }
        text
    }
}
