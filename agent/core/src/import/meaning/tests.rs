//! Meaning against single packets.

use proptest::prelude::*;

use super::*;
use crate::generate::{packet, policy};
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{Packet, Transport, Verdict};
use crate::net::port::TCP;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

fn ruleset(text: &str) -> Ruleset {
    let text = format!("version = 1\n{text}");
    let loaded = load("policy.toml", &text, &NoFiles);
    compile(
        &loaded
            .policy
            .unwrap_or_else(|| panic!("{}", loaded.sources.render(&loaded.diagnostics, false))),
    )
    .0
}

fn messages(old: &str, new: &str) -> Vec<String> {
    let found = meaning(&ruleset(old), &ruleset(new));
    let line = |change: &AccessChange| match change.effect {
        Effect::Opens => format!("+ {}", change.message),
        Effect::Closes => format!("- {}", change.message),
    };
    let lines = found.access.iter().map(line);
    lines
        .chain(found.not_compared.iter().map(|why| format!("? {why}")))
        .collect()
}

const WEB: &str = "[[allow]]\nname = \"web\"\nports = [\"443/tcp\"]\nfrom = \"any\"\n";

#[test]
fn each_class_of_packets_has_a_line() {
    let peers = |names: &str| {
        let peer = |name: char| match name {
            'c' => "c = \"2001:db8::5\"\n".to_owned(),
            name => format!("{name} = \"10.0.0.{}\"\n", u32::from(name) - 96),
        };
        format!("[peers]\n{}", names.chars().map(peer).collect::<String>())
    };
    let overlay = "[overlay.pods]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n";
    let cases: [(String, String, &[&str]); 7] = [
        (WEB.into(), WEB.into(), &[]),
        (
            String::new(),
            WEB.into(),
            &["+ 443/tcp from any source to this host ([[allow]] web)"],
        ),
        (
            peers("a"),
            peers("abc"),
            &[
                "+ everything from b (10.0.0.2) to this host ([peers])",
                "+ everything from c (2001:db8::5) to this host ([peers])",
                "+ everything from b (10.0.0.2) through this host ([peers])",
                "+ everything from c (2001:db8::5) through this host ([peers])",
            ],
        ),
        (
            peers("ab") + WEB,
            peers("a")
                + &WEB
                    .replace("\"any\"", "\"10.7.0.0/16\"")
                    .replace("443/tcp", "80-90/tcp"),
            &[
                "+ 80-90/tcp from 10.7.0.0/16 to this host ([[allow]] web)",
                "- everything from b (10.0.0.2) to this host ([peers])",
                "- 443/tcp from any source except a (10.0.0.1) and b (10.0.0.2) to this host \
                 ([[allow]] web)",
                "- 443/tcp from any IPv6 source to this host ([[allow]] web)",
                "- everything from b (10.0.0.2) through this host ([peers])",
            ],
        ),
        (
            overlay.into(),
            overlay.replace("0.0/16", "0.0/17"),
            &[
                "+ igmp with TTL or hop limit 1 from 10.244.128.0/17 on other interfaces to this \
                 host (safe core: ICMP that networks need)",
                "+ ICMP (destination-unreachable, time-exceeded and parameter-problem) without a \
                 connection from 10.244.128.0/17 on other interfaces to this host (safe core: \
                 ICMP that networks need)",
                "+ 68/udp from port 67 from 10.244.128.0/17 on other interfaces to this host \
                 (safe core: answers to this host's DHCP client)",
                "+ ICMP (destination-unreachable, time-exceeded and parameter-problem) without a \
                 connection from 10.244.128.0/17 on other interfaces through this host (safe \
                 core: ICMP that networks need)",
                "- everything except 8472/udp from 10.244.128.0/17 on cni0, flannel-v6.1, \
                 flannel.1 and cali0 to this host ([overlay.pods])",
                "- everything except 8472/udp from 10.244.128.0/17 on cni0, flannel-v6.1, \
                 flannel.1 and cali0 through this host ([overlay.pods])",
            ],
        ),
        (
            String::new(),
            "[interfaces]\ntrusted = [\"eth1\"]\n".into(),
            &[
                "+ everything from any source on eth1 to this host ([interfaces] trusted)",
                "+ everything from any source on eth1 through this host ([interfaces] trusted)",
            ],
        ),
        (
            WEB.into(),
            format!("{WEB}limit = \"10/minute\"\n"),
            &["? limits of new connections differ"],
        ),
    ];
    for (old, new, wanted) in cases {
        let found = messages(&old, &new);
        assert_eq!(found, wanted, "{old:?} to {new:?}: {found:#?}");
    }
}

#[test]
fn one_of_many_peers_is_named() {
    let many = |count: u32| {
        let address = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + 7 * n);
        let peers: String = (0..count)
            .map(|n| format!("p{n} = \"{}\"\n", address(n)))
            .collect();
        format!("[peers]\n{peers}")
    };
    let found = messages(&many(5000), &many(5001));
    let wanted = [
        "+ everything from p5000 (10.0.136.184) to this host ([peers])",
        "+ everything from p5000 (10.0.136.184) through this host ([peers])",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn services_have_the_sources_that_can_reach_them() {
    let policy = format!(
        "[peers]\na = \"10.0.0.1\"\n\
         [overlay.pods]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n{WEB}\
         [[allow]]\nname = \"db\"\nports = [\"5432/tcp\"]\nfrom = [\"10.7.0.0/16\"]\n\
         interfaces = [\"eth1\"]\n"
    );
    let found = access(
        &ruleset(&policy),
        &[(6, 443), (6, 5432), (17, 443), (6, 22)],
    );
    let lines = |list: &[Admitted]| -> Vec<(String, bool)> {
        let line = |each: &Admitted| (each.message.clone(), each.is_anybody);
        list.iter().map(line).collect()
    };
    let every_port = [
        "10.244.0.0/16 on cni0, flannel-v6.1, flannel.1 and cali0 ([overlay.pods])",
        "a (10.0.0.1) on any interface except cni0 and cali0 ([peers])",
    ];
    assert_eq!(
        lines(&found.every_port),
        every_port.map(|line| (line.to_owned(), false))
    );
    let found: Vec<_> = found.services.iter().map(|list| lines(list)).collect();
    assert_eq!(found[0].len(), 2, "{found:?}");
    assert!(found[0][0].0.ends_with("([[allow]] web)"), "{found:?}");
    assert_eq!(
        found[0][1],
        ("any IPv6 source ([[allow]] web)".to_owned(), true)
    );
    assert_eq!(
        found[1],
        [("10.7.0.0/16 on eth1 ([[allow]] db)".to_owned(), false)]
    );
    assert_eq!((found[2].len(), found[3].len()), (0, 0), "{found:?}");
}

/// Returns the packets that a packet stands for.
fn point(space: &mut Space<'_>, packet: &Packet) -> PacketSet {
    let axes = std::sync::Arc::clone(&space.axes);
    let d = &mut space.d;
    let number = |address| (addr::number(address), addr::number(address));
    let exactly = |name: &str| [InterfacePattern::Exact(name.into())];
    let reverse_path = u64::from(packet.reverse_path);
    let mut parts = vec![
        axes.states(d, &[packet.state]),
        axes.sources(d, &[number(packet.source)]),
        axes.destinations(d, &[number(packet.destination)]),
        axes.interfaces(d, &exactly(&packet.interface)),
        axes.hop_limits(d, packet.hop_limit, packet.hop_limit),
        axes.protocols(d, |each| each == packet.protocol()),
        d.in_runs(axes.reverse_path, &[(reverse_path, reverse_path)]),
    ];
    if let Some(out) = &packet.out {
        parts.push(axes.outs(d, &exactly(out)));
    }
    match packet.transport {
        Transport::Ports {
            protocol,
            source,
            destination,
        } => {
            parts.push(axes.sent_from(d, &[(source, source)]));
            parts.push(axes.sent_to(d, &[(destination, destination)]));
            if protocol == TCP {
                let flags = if packet.syn { 0x02 } else { 0x10 };
                parts.push(axes.flags(d, 0x3f, flags));
            }
        }
        Transport::Icmp { kind, code } => parts.push(axes.icmp(d, &[(kind, Some(code))])),
        Transport::Other(_) => {}
    }
    let parts = parts.into_iter();
    parts.fold(PacketSet::ALL, |all, part| d.and(all, part))
}

/// The differing packets of one family at one hook.
struct Told<'r> {
    reduced: &'r Reduced,
    comparison: Comparison<'r>,
    differing: [(Effect, PacketSet, Ruled); 2],
    hook: Hook,
}

impl<'r> Told<'r> {
    fn new(reduced: &'r Reduced, family: Family, hook: Hook) -> Self {
        let mut comparison = Comparison::new(family, reduced);
        let differing = comparison.differing(hook);
        Self {
            reduced,
            comparison,
            differing,
            hook,
        }
    }

    /// Returns whether a packet is among the differing ones; `None` if it cannot arrive.
    fn of(&mut self, packet: &Packet) -> Option<Option<Effect>> {
        let mut packet = packet.clone();
        for address in [&mut packet.source, &mut packet.destination] {
            let number = self.reduced.representative(addr::number(*address));
            *address = addr::address(Family::of(*address), number);
        }
        let space = &mut self.comparison.space;
        let point = point(space, &packet);
        let valid = space.site(self.hook).valid;
        space.d.meets(point, valid).then(|| {
            let mut differing = self.differing.iter();
            let found = differing.find(|(_, packets, _)| space.d.meets(point, *packets));
            found.map(|(effect, _, _)| *effect)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_packet_is_told_that_one_of_both_accepts(
        old in policy(),
        new in policy(),
        packets in prop::collection::vec(packet(), 256),
    ) {
        let (old, new) = (compile(&old).0, compile(&new).0);
        for family in [Family::V4, Family::V6] {
            let reduced = Reduced::new(&old, &new, family);
            for hook in [Hook::Input, Hook::Forward] {
                let mut told = Told::new(&reduced, family, hook);
                let here = packets.iter().filter(|p| p.family() == family && p.hook == hook);
                for packet in here {
                    let mut packet = packet.clone();
                    packet.dialled = None;
                    packet.mac = None;
                    packet.to_host = hook == Hook::Input;
                    let accepts = |ruleset: &Ruleset| {
                        let decision = ruleset.eval(&packet).decision();
                        decision.is_some_and(|decision| decision.verdict == Verdict::Accept)
                    };
                    let wanted = match (accepts(&old), accepts(&new)) {
                        (false, true) => Some(Effect::Opens),
                        (true, false) => Some(Effect::Closes),
                        _ => None,
                    };
                    if let Some(told) = told.of(&packet) {
                        prop_assert_eq!(told, wanted, "{:?}", packet);
                    }
                }
            }
        }
    }
}
