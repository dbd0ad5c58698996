//! Forwarded packets.

use std::net::IpAddr;

use super::{AcceptTable, elsewhere, host_of};
use crate::import::classes;
use crate::import::eval::{Outcome, Probe, Published, ReadAs, RulesForSource};
use crate::net::addr;
use crate::net::packet::{CtState, Dialled, Hook, Transport, Verdict};

impl<'r> AcceptTable<'r> {
    /// Reports whether some packet of a source on this interface is forwarded, by a line that no
    /// program manages.
    pub(in crate::import) fn forwards(&self, interface: usize, source: usize) -> bool {
        self.forwards.get(interface, source) == Some(&true)
    }

    /// Reports whether replies to hosts behind this one are forwarded.
    pub(in crate::import) fn replies_pass(&self) -> bool {
        let stranger = classes::stranger(self.family);
        let narrow = self.rules.narrow(stranger, ReadAs::BesidePeerwall);
        let transport = Transport::Ports {
            protocol: crate::net::port::TCP,
            source: 443,
            destination: classes::SOURCE_PORT,
        };
        let interface = self
            .interfaces
            .last()
            .map(String::as_str)
            .unwrap_or_default();
        let to = elsewhere(self.family);
        let packet = self.packet(
            Hook::Forward,
            stranger,
            to,
            interface,
            transport,
            CtState::Established,
        );
        self.out_interfaces.iter().any(|out| {
            let probe = Probe {
                packet: packet.clone(),
                out: Some(out.clone()),
                to_this_host: false,
            };
            narrow.judge(&probe).verdict == Verdict::Accept
        })
    }

    /// Reports whether every new packet of a source on this interface is forwarded.
    pub(in crate::import) fn passes_all(&self, interface: usize, source: usize) -> bool {
        let (Some(interface), Some(source)) =
            (self.interfaces.get(interface), self.sources.get(source))
        else {
            return false;
        };
        let narrow = self.rules.narrow(source.example, ReadAs::BesidePeerwall);
        let mut ways = self.ways();
        ways.all(|(out, to)| {
            let mut services = self.forwarded_services();
            services.all(|t| {
                self.through(&narrow, source.example, interface, out, to, t)
                    .verdict
                    == Verdict::Accept
            })
        })
    }

    /// Reports whether new packets of a source on this interface are forwarded to unmentioned
    /// hosts.
    pub(in crate::import) fn passes_out(&self, interface: &str, source: IpAddr) -> bool {
        let narrow = self.rules.narrow(source, ReadAs::BesidePeerwall);
        let out = self
            .out_interfaces
            .last()
            .map(String::as_str)
            .unwrap_or_default();
        let to = elsewhere(self.family);
        self.forwarded_services().all(|t| {
            self.through(&narrow, source, interface, out, to, t).verdict == Verdict::Accept
        })
    }

    /// Finds whether some packet is forwarded, and whether by a line that no program manages.
    pub(super) fn some_way_through(
        &self,
        narrow: &RulesForSource<'_>,
        source: IpAddr,
        interface: &str,
    ) -> (bool, bool) {
        let mut found = (false, false);
        for (out, to) in self.ways() {
            for transport in self.forwarded_services() {
                let outcome = self.through(narrow, source, interface, out, to, transport);
                if outcome.verdict != Verdict::Accept {
                    continue;
                }
                found.0 = true;
                if !outcome.by.is_some_and(|at| self.managed.contains(&at)) {
                    return (true, true);
                }
            }
        }
        found
    }

    fn ways(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.out_interfaces.iter().flat_map(|out| {
            self.forward_destinations
                .iter()
                .map(move |to| (out.as_str(), *to))
        })
    }

    /// Returns one packet for each service that has a first packet.
    fn forwarded_services(&self) -> impl Iterator<Item = Transport> {
        self.services
            .iter()
            .flat_map(|service| service.transports.iter().copied())
            .filter(|t| classes::states(self.family, *t, false).contains(&CtState::New))
    }

    fn through(
        &self,
        narrow: &RulesForSource<'_>,
        source: IpAddr,
        interface: &str,
        out: &str,
        to: IpAddr,
        transport: Transport,
    ) -> Outcome {
        let packet = self.packet(
            Hook::Forward,
            source,
            to,
            interface,
            transport,
            CtState::New,
        );
        narrow.judge(&Probe {
            packet,
            out: Some(out.to_owned()),
            to_this_host: false,
        })
    }

    /// Returns a packet to a published port, as its hook sees it.
    pub(in crate::import) fn dialled(
        &self,
        port: &Published,
        source: IpAddr,
        interface: &str,
    ) -> Probe {
        let hook = if port.to.is_some() {
            Hook::Forward
        } else {
            Hook::Input
        };
        let here = self
            .host
            .first()
            .copied()
            .unwrap_or_else(|| host_of(self.family));
        let to = port.to.unwrap_or(here);
        let transport = Transport::Ports {
            protocol: port.protocol,
            source: classes::SOURCE_PORT,
            destination: port.port,
        };
        let mut packet = self.packet(hook, source, to, interface, transport, CtState::New);
        packet.dialled = Some(Dialled {
            address: here,
            port: port.dialled,
        });
        packet.to_host = true;
        Probe {
            packet,
            out: port.to.map(|to| self.way_to(to)),
            to_this_host: port.to.is_none(),
        }
    }

    /// Returns the output interface for an address, as far as rules determine it.
    fn way_to(&self, to: IpAddr) -> String {
        let behind = self
            .masqueraded
            .iter()
            .find(|(net, _, _)| net.contains(&to));
        if let Some((_, interface, _)) = behind {
            return interface.example();
        }
        let number = addr::number(to);
        let rules = self.rules.filter.values().flat_map(|chain| &chain.rules);
        let mut named = rules.filter_map(|rule| {
            let is_to = rule.conditions.iter().any(|c| {
                let mut spans = c.destinations().into_iter().flatten();
                !c.negated && spans.any(|(a, b)| (*a..=*b).contains(&number))
            });
            let mut outs = rule.conditions.iter().filter(|c| !c.negated && is_to);
            outs.find_map(|c| Some(c.outs()?.first()?.example()))
        });
        let found = named.next();
        found
            .or_else(|| self.out_interfaces.last().cloned())
            .unwrap_or_default()
    }
}
