//! One evaluation of a packet's way: hooks, their chains in order, DNAT and the routing decision.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use peerwall_proto::nf_tables::family_name;

use super::saved::SavedTreatment;
use super::turn::{Layer, Turn};
use super::{Decider, Journey, LiveHost, Passage, Printed, Rules, saved};
use crate::import::rule::At as LineAt;
use crate::net::addr::Family;
use crate::net::packet::{CtState, Hook, Packet, Transport, Verdict};
use crate::nft::foreign::Engine;
use crate::nft::machine::{At, Choices, Frame, KernelTable, RouteKind, Treatment, Way, treat};

/// Priority of connection tracking (`NF_IP_PRI_CONNTRACK`).
const CONNTRACK: i32 = -200;

/// A hook on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    name: &'static str,
    /// `NF_INET_*`
    number: u32,
    /// Name of the built-in chain of iptables.
    builtin: &'static str,
    has_out: bool,
}

const INGRESS: Place = Place {
    name: "ingress",
    number: 0,
    builtin: "",
    has_out: false,
};
const PREROUTING: Place = Place {
    name: "prerouting",
    number: 0,
    builtin: "PREROUTING",
    has_out: false,
};
const INPUT: Place = Place {
    name: "input",
    number: 1,
    builtin: "INPUT",
    has_out: false,
};
const FORWARD: Place = Place {
    name: "forward",
    number: 2,
    builtin: "FORWARD",
    has_out: true,
};
const POSTROUTING: Place = Place {
    name: "postrouting",
    number: 4,
    builtin: "POSTROUTING",
    has_out: true,
};

/// Describes what a chain of nf_tables did.
fn of_nft(place: Place, table: &KernelTable, name: &str, found: Treatment) -> Passage {
    let by = found.by.map(|(chain, index)| {
        let rules = table.chains.get(&chain).map(|chain| &chain.rules);
        let rule = rules.and_then(|rules| rules.get(index));
        Decider {
            chain,
            number: Some(index + 1),
            handle: rule.map(|rule| rule.handle),
            text: rule.and_then(|rule| rule.comment.clone()),
        }
    });
    Passage {
        engine: Engine::Nft,
        hook: place.name,
        family: family_name(table.family).unwrap_or_default(),
        table: table.name.clone(),
        chain: name.to_owned(),
        verdict: found.verdict,
        translated: None,
        by,
        path: found.path,
    }
}

/// Describes what a chain of iptables did.
fn of_printed(place: Place, printed: &Printed, found: &SavedTreatment) -> Passage {
    let line = |at: LineAt| printed.lines.get(at.line.checked_sub(1)?).cloned();
    let by = found.by.map(|at| {
        let text = line(at);
        let words = text.as_deref().unwrap_or_default().split_whitespace();
        let chain = words.skip_while(|word| *word != "-A").nth(1);
        Decider {
            chain: chain.unwrap_or_default().to_owned(),
            number: None,
            handle: None,
            text,
        }
    });
    Passage {
        engine: printed.engine,
        hook: place.name,
        family: match printed.table.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        },
        table: printed.table.name.clone(),
        chain: place.builtin.to_owned(),
        verdict: found.verdict,
        translated: None,
        by,
        path: Vec::new(),
    }
}

pub(super) struct Travel<'t, 'c> {
    rules: &'t Rules,
    described: &'t Packet,
    host: &'t mut dyn LiveHost,
    choices: &'c mut Choices,
    frame: Frame,
    passages: Vec<Passage>,
    assumed: BTreeSet<String>,
    dropped_by_kernel: Option<String>,
    hook: Option<Hook>,
    is_translated: bool,
}

/// What DNAT does to a packet.
pub(super) struct Translation {
    pub to: SocketAddr,
    pub hook: Hook,
    pub out: Option<String>,
    pub by: Passage,
}

impl<'t, 'c> Travel<'t, 'c> {
    pub(super) fn new(
        rules: &'t Rules,
        packet: &'t Packet,
        host: &'t mut dyn LiveHost,
        choices: &'c mut Choices,
    ) -> Self {
        Self {
            rules,
            described: packet,
            host,
            choices,
            frame: Frame::new(&packet.before_dnat()),
            passages: Vec::new(),
            assumed: BTreeSet::new(),
            dropped_by_kernel: None,
            hook: None,
            is_translated: false,
        }
    }

    pub(super) fn journey(self, verdict: Verdict) -> Journey {
        let mut packet = self.described.clone();
        packet.hook = self.hook.unwrap_or(packet.hook);
        packet.destination = self.frame.destination();
        packet.dialled = self.frame.dialled();
        packet.out = self.frame.out().map(str::to_owned);
        if let Transport::Ports { destination, .. } = &mut packet.transport {
            *destination = self.frame.destination_port().unwrap_or(*destination);
        }
        Journey {
            verdict,
            passages: self.passages,
            dropped_by_kernel: self.dropped_by_kernel,
            hook: self.hook,
            packet,
            assumed: self.assumed,
        }
    }

    pub(super) fn run(&mut self) -> Verdict {
        let interface = self.described.interface.clone();
        let is_bridge = self.host.is_bridge(&interface);
        let bridge = is_bridge.then_some(interface.as_str());
        let mut verdict = self.pass(INGRESS, &[5], None);
        if let (Verdict::Accept, Some(_)) = (verdict, bridge) {
            verdict = self.pass(PREROUTING, &[7], bridge);
        }
        if verdict != Verdict::Accept {
            return verdict;
        }
        if self.crosses_bridge(bridge) {
            return self.cross(bridge);
        }
        if bridge.is_some() {
            verdict = self.pass(INPUT, &[7], bridge);
        }
        if verdict == Verdict::Accept {
            verdict = self.pass_ip(PREROUTING);
        }
        if verdict != Verdict::Accept {
            return verdict;
        }
        match self.route() {
            Some(Hook::Input) => self.pass_ip(INPUT),
            Some(Hook::Forward) => match self.pass_ip(FORWARD) {
                Verdict::Accept => self.pass_ip(POSTROUTING),
                denied @ (Verdict::Drop | Verdict::Reject) => denied,
            },
            None => Verdict::Drop,
        }
    }

    /// Reports whether the packet goes from one port of the bridge to another.
    fn crosses_bridge(&mut self, bridge: Option<&str>) -> bool {
        let destination = self.frame.destination();
        let Some(bridge) = bridge.filter(|_| self.described.dialled.is_none()) else {
            return false;
        };
        self.host.kind(destination) == Some(RouteKind::Unicast)
            && self.host.ways(destination).iter().any(|way| way == bridge)
    }

    /// Follows a packet from one port of a bridge to another.
    fn cross(&mut self, bridge: Option<&str>) -> Verdict {
        self.hook = Some(Hook::Forward);
        let calls = self.host.bridge_calls();
        self.frame.leave_by(bridge.map(str::to_owned));
        let mut verdict = Verdict::Accept;
        if calls {
            verdict = self.pass_ip(PREROUTING);
        }
        if verdict == Verdict::Accept {
            verdict = self.pass(FORWARD, &[7], bridge);
        }
        if calls && verdict == Verdict::Accept {
            verdict = self.pass_ip(FORWARD);
        }
        if calls && verdict == Verdict::Accept {
            verdict = self.pass_ip(POSTROUTING);
        }
        verdict
    }

    /// Returns the new destination of the packet, the hook that it reaches and its outgoing
    /// interface, and the chain that translates it; `None` if none does.
    pub(super) fn translation(mut self) -> Option<Translation> {
        self.pass_ip(PREROUTING);
        let mut passages = std::mem::take(&mut self.passages).into_iter();
        let by = passages.find(|passage| passage.translated.is_some())?;
        let address = self.frame.destination();
        let port = self.frame.destination_port()?;
        let is_here = self.host.kind(address) == Some(RouteKind::Local);
        let ways = self.host.ways(address);
        Some(Translation {
            to: SocketAddr::new(address, port),
            hook: if is_here { Hook::Input } else { Hook::Forward },
            out: ways.into_iter().find(|_| !is_here),
            by,
        })
    }

    fn frame_family(&self) -> Family {
        self.described.family()
    }

    /// Decides where the packet goes; `None` if the kernel drops it.
    fn route(&mut self) -> Option<Hook> {
        let destination = self.frame.destination();
        if let Some(why) = self.host.refuses(self.described) {
            self.dropped_by_kernel = Some(why);
            return None;
        }
        let hook = match self.host.kind(destination) {
            Some(
                RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast | RouteKind::Anycast,
            ) => Hook::Input,
            Some(RouteKind::Unicast) => Hook::Forward,
            Some(RouteKind::Blackhole | RouteKind::Unreachable) => {
                let why = format!("this host has no route to {destination}");
                self.dropped_by_kernel = Some(why);
                return None;
            }
            None => self.described.hook,
        };
        if hook == Hook::Forward {
            let family = self.frame_family();
            if self.host.forwards(family) == Some(false) {
                let why = format!("this host does not forward IPv{}", family.digit());
                self.dropped_by_kernel = Some(why);
                return None;
            }
            let way = self.host.ways(destination).into_iter().next();
            self.frame
                .leave_by(way.or_else(|| self.described.out.clone()));
        }
        self.hook = Some(hook);
        Some(hook)
    }

    fn pass_ip(&mut self, place: Place) -> Verdict {
        let own = match self.frame_family() {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        self.pass(place, &[1, own], None)
    }

    /// Sends the packet through the base chains of a hook.
    fn pass(&mut self, place: Place, families: &[u8], bridge: Option<&str>) -> Verdict {
        let described = self.described.state;
        let is_early = |priority| place.name == "prerouting" && priority < CONNTRACK;
        let mut was_early = false;
        let mut layers: VecDeque<Turn<'t>> = self.layers(place, families).into();
        while let Some(turn) = layers.pop_front() {
            let Turn {
                priority, layer, ..
            } = turn;
            // Before connection tracking, no packet has a connection.
            if is_early(priority) && bridge.is_none() {
                was_early = true;
                if self.frame.state() != CtState::Untracked {
                    self.frame.set_state(CtState::Invalid);
                }
            } else if was_early && self.frame.state() == CtState::Invalid {
                self.frame.set_state(described);
            }
            let before = (self.frame.clone(), self.passages.len());
            let was_translated = self.is_translated;
            let verdict = self.pass_layer(place, layer, bridge);
            let translates = self.is_translated && !was_translated && !turn.is_delayed;
            let mut others = layers.iter();
            if translates && others.any(|other| other.can_precede(&turn, place.builtin)) {
                // The kernel does not tell which of them was registered first.
                let about = || format!("the order of nat chains with priority {priority}");
                if self.choices.is_so(about) {
                    let (frame, passages) = before;
                    self.frame = frame;
                    self.passages.truncate(passages);
                    self.is_translated = false;
                    let last = layers.iter().rposition(|other| other.priority == priority);
                    let delayed = Turn {
                        is_delayed: true,
                        ..turn
                    };
                    layers.insert(last.map_or(0, |last| last + 1), delayed);
                    continue;
                }
            }
            if verdict != Verdict::Accept {
                return verdict;
            }
        }
        if was_early && self.frame.state() == CtState::Invalid {
            self.frame.set_state(described);
        }
        self.translate_as_described(place);
        Verdict::Accept
    }

    /// Applies the DNAT that the description of the packet has, and that no rule did.
    fn translate_as_described(&mut self, place: Place) {
        if place != PREROUTING || self.described.dialled.is_none() {
            return;
        }
        let port = Frame::new(self.described).destination_port();
        self.frame.translate(Some(self.described.destination), port);
    }

    /// Returns the base chains of a hook in order.
    fn layers(&self, place: Place, families: &[u8]) -> Vec<Turn<'t>> {
        let rules = self.rules;
        let mut found: Vec<(i32, Layer<'t>)> = Vec::new();
        for table in rules.tables.registered() {
            if !families.contains(&table.family) {
                continue;
            }
            for (name, chain) in &table.chains {
                let Some(base) = &chain.base else { continue };
                let interface = &self.described.interface;
                let is_here = base.devices.is_empty() || base.devices.contains(interface);
                if base.hook == place.number && is_here {
                    found.push((base.priority, Layer::Nft(table, name, base.is_nat)));
                }
            }
        }
        if families.contains(&1) {
            let family = self.described.family();
            let of_family = |printed: &&Printed| {
                printed.table.family == family && printed.table.chains.contains_key(place.builtin)
            };
            let printed = rules.printed.iter().filter(of_family);
            found.extend(printed.map(|printed| {
                let priority = priority(&printed.table.name, place);
                (priority, Layer::Printed(printed))
            }));
        }
        found.sort_by_key(|(priority, _)| *priority);
        let turn = |(priority, layer)| Turn {
            priority,
            layer,
            is_delayed: false,
        };
        found.into_iter().map(turn).collect()
    }

    /// Reports whether a chain of type nat sees the packet.
    fn sees_nat(&self) -> bool {
        self.frame.state() == CtState::New
            && !self.is_translated
            && self.described.dialled.is_none()
    }

    /// Sends the packet through a base chain.
    fn pass_layer(&mut self, place: Place, layer: Layer<'t>, bridge: Option<&str>) -> Verdict {
        if layer.is_nat() && !self.sees_nat() {
            return Verdict::Accept;
        }
        let before = (self.frame.destination(), self.frame.destination_port());
        let mut way = Way {
            host: &mut *self.host,
            choices: &mut *self.choices,
            assumed: &mut self.assumed,
        };
        let described = self.described;
        let (mut passage, is_translated) = match layer {
            Layer::Nft(table, name, _) => {
                let at = At {
                    bridge,
                    has_out: place.has_out,
                };
                let found = treat(table, name, at, &mut self.frame, &mut way);
                let is_translated = found.is_translated;
                (of_nft(place, table, name, found), is_translated)
            }
            Layer::Printed(printed) => {
                let (chains, has_out) = (&printed.table.chains, place.has_out);
                let frame = &mut self.frame;
                let found =
                    saved::treat(chains, place.builtin, described, has_out, frame, &mut way);
                let is_translated = found.is_translated;
                (of_printed(place, printed, &found), is_translated)
            }
        };
        self.is_translated |= is_translated && place == PREROUTING;
        passage.translated = self.translated(before);
        let verdict = passage.verdict;
        self.passages.push(passage);
        verdict
    }

    /// Describes the destination, if it is another one than before.
    fn translated(&self, before: (IpAddr, Option<u16>)) -> Option<String> {
        let now = (self.frame.destination(), self.frame.destination_port());
        let text = match now {
            (address, Some(port)) => SocketAddr::new(address, port).to_string(),
            (address, None) => address.to_string(),
        };
        (now != before).then_some(text)
    }
}

/// Returns the priority of a built-in chain of iptables (`enum nf_ip_hook_priorities`).
fn priority(table: &str, place: Place) -> i32 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" if place == PREROUTING => -100,
        "nat" => 100,
        "security" => 50,
        _ => 0,
    }
}
