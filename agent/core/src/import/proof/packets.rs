//! The kinds of packets over which rules and policy are compared.

use std::net::IpAddr;

use super::{Case, Comparison, PACKETS_MAX, is_foreign};
use crate::import::classes;
use crate::import::eval::{Probe, RulesForSource};
use crate::net::packet::{CtState, Hook, Transport};

impl Comparison<'_, '_> {
    pub(super) fn input(&mut self, narrow: &RulesForSource<'_>, s: usize, source: IpAddr) {
        let view = self.view;
        let usual = view.host.first().copied();
        let to: Vec<IpAddr> = view
            .host
            .iter()
            .chain(&view.other_destinations)
            .copied()
            .collect();
        let total = view.sources.len() * (view.interfaces.len() + 1) * self.transports() * to.len();
        let thin = total > PACKETS_MAX && Self::is_thin(s, view.sources.len());
        let interfaces = view.interfaces.iter().map(String::as_str).chain(["lo"]);
        for interface in interfaces {
            for destination in &to {
                let is_usual = Some(*destination) == usual
                    && view.interfaces.last().is_some_and(|last| last == interface);
                for v in 0..view.services.len() {
                    if thin && !is_usual && Self::is_thin(v, view.services.len()) {
                        self.proof.thinned = true;
                        continue;
                    }
                    let at = (s, source, interface, *destination, v);
                    self.input_service(narrow, at);
                }
            }
        }
    }

    fn transports(&self) -> usize {
        self.view
            .services
            .iter()
            .map(|service| service.transports.len() * 3)
            .sum()
    }

    fn input_service(
        &mut self,
        narrow: &RulesForSource<'_>,
        (s, source, interface, destination, v): (usize, IpAddr, &str, IpAddr, usize),
    ) {
        let view = self.view;
        let Some(service) = view.services.get(v) else {
            return;
        };
        for transport in &service.transports {
            let is_tcp = matches!(
                transport,
                Transport::Ports {
                    protocol: crate::net::port::TCP,
                    ..
                }
            );
            if is_tcp && destination.is_multicast() {
                continue; // there is no such thing
            }
            // Packets that NAT redirects do not arrive with their original port.
            if self.is_diverted(*transport) && interface != "lo" {
                continue;
            }
            for state in classes::states(view.family, *transport, view.mentioned.untracked) {
                let packet = view.packet(
                    Hook::Input,
                    source,
                    destination,
                    interface,
                    *transport,
                    *state,
                );
                let to_this_host = !destination.is_multicast();
                let probe = Probe {
                    packet,
                    out: None,
                    to_this_host,
                };
                self.case(
                    narrow,
                    &Case {
                        probe,
                        source: s,
                        service: Some(v),
                    },
                );
            }
        }
    }

    fn is_diverted(&self, transport: Transport) -> bool {
        let Transport::Ports {
            protocol,
            destination,
            ..
        } = transport
        else {
            return false;
        };
        let mut published = self.view.published.iter();
        published.any(|p| p.protocol == protocol && p.dialled == destination)
    }

    pub(super) fn forward(&mut self, narrow: &RulesForSource<'_>, s: usize, source: IpAddr) {
        let view = self.view;
        let ways =
            view.out_interfaces.len() * view.forward_destinations.len() * view.interfaces.len();
        let thin = view.sources.len() * ways * self.transports() > PACKETS_MAX;
        for interface in &view.interfaces {
            for (o, out) in view.out_interfaces.iter().enumerate() {
                for (d, to) in view.forward_destinations.iter().enumerate() {
                    for (v, service) in view.services.iter().enumerate() {
                        let away = o + 1 < view.out_interfaces.len() || d > 0;
                        if thin
                            && away
                            && (Self::is_thin(s, view.sources.len())
                                || Self::is_thin(v, view.services.len()))
                        {
                            self.proof.thinned = true;
                            continue;
                        }
                        self.forward_service(
                            narrow,
                            (s, source, interface, *to, v),
                            out,
                            &service.transports,
                        );
                    }
                }
            }
        }
    }

    fn forward_service(
        &mut self,
        narrow: &RulesForSource<'_>,
        (s, source, interface, to, v): (usize, IpAddr, &str, IpAddr, usize),
        out: &str,
        transports: &[Transport],
    ) {
        let view = self.view;
        for transport in transports {
            for state in classes::states(view.family, *transport, view.mentioned.untracked) {
                // Link-local packets are not forwarded.
                let packet = view.packet(Hook::Forward, source, to, interface, *transport, *state);
                if *state == CtState::Untracked && packet.hop_limit != 64 {
                    continue;
                }
                let probe = Probe {
                    packet,
                    out: Some(out.to_owned()),
                    to_this_host: false,
                };
                self.case(
                    narrow,
                    &Case {
                        probe,
                        source: s,
                        service: Some(v),
                    },
                );
            }
        }
    }

    pub(super) fn published(&mut self, narrow: &RulesForSource<'_>, s: usize, source: IpAddr) {
        let view = self.view;
        for port in &view.published {
            for interface in &view.interfaces {
                let probe = view.dialled(port, source, interface);
                if is_foreign(self.policy, &probe.packet) {
                    continue;
                }
                self.case(
                    narrow,
                    &Case {
                        probe,
                        source: s,
                        service: None,
                    },
                );
            }
        }
    }
}
