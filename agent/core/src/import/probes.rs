//! Packets for comparing a kernel with [`super::eval`].

use ipnet::IpNet;

use super::Facts;
use super::classes::{self, Mentioned};
use super::eval::Probe;
use super::rule::ImportedRules;
use super::view::AcceptTable;
use crate::net::packet::{CtState, Hook};

/// Returns first packets of every kind that the rules distinguish, both to a host with these
/// addresses and forwarded by it.
pub fn probes(rules: &ImportedRules, host: &[IpNet]) -> Vec<Probe> {
    let facts = Facts {
        addresses: host.to_vec(),
        ..Facts::default()
    };
    let view = AcceptTable::new(rules, &facts, Mentioned::default());
    let mut found = Vec::new();
    for source in &view.sources {
        for interface in &view.interfaces {
            for service in &view.services {
                for transport in &service.transports {
                    let states = classes::states(view.family, *transport, false);
                    let Some(state) = states
                        .iter()
                        .find(|s| !matches!(s, CtState::Established | CtState::Related))
                    else {
                        continue;
                    };
                    for (hook, to) in [
                        (Hook::Input, view.host.first()),
                        (Hook::Forward, view.forward_destinations.first()),
                    ] {
                        let Some(to) = to else { continue };
                        let packet =
                            view.packet(hook, source.example, *to, interface, *transport, *state);
                        let out = (hook == Hook::Forward)
                            .then(|| view.out_interfaces.last().cloned())
                            .flatten();
                        found.push(Probe {
                            packet,
                            out,
                            to_this_host: hook == Hook::Input,
                        });
                    }
                }
            }
        }
    }
    found
}
