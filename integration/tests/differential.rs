//! Random policies and random packets: the policy's words, the ruleset, nf_tables, iptables-legacy
//! and iptables-nft must all say the same.
//!
//! `PEERWALL_SEED` chooses the run (it is printed), `PEERWALL_PACKETS` how many packets each kernel
//! is sent at least.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use peerwall_core::generate;
use peerwall_core::iptables::script;
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::{CtState, Hook, Packet, Transport};
use peerwall_core::net::port::{TCP, UDP};
use peerwall_core::policy::Policy;
use peerwall_core::ruleset::compile::compile;
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::ns::world;
use peerwall_integration::story::Flavour;
use peerwall_integration::target::{Filter, Sets, Target, agrees};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// How many packets are drawn for each policy, and how many of a hook and reason are sent.
const DRAWN_PER_POLICY: usize = 800;
const PACKETS_PER_REASON: usize = 4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// The packet as a real one: to where it can be for, in the state that conntrack gives it. `None`
/// if no kernel would show it to our chains.
fn real(mut packet: Packet) -> Option<Packet> {
    let has_ports = matches!(packet.transport, Transport::Ports { .. });
    packet.syn &= matches!(packet.state, CtState::New | CtState::Untracked) || !has_ports;
    real_destination(&mut packet);
    if packet.interface == "lo" {
        real_loopback(&mut packet)?;
    }
    if packet.hook == Hook::Forward {
        // Routers pass on neither what has no hops left nor what is of the link.
        packet.hop_limit = 64;
        if is_link_local(packet.source) || packet.source.is_unspecified() {
            return None;
        }
    }
    // The way back to a link-local address is always the link.
    packet.reverse_path |= is_link_local(packet.source);
    packet.reverse_path &= !packet.source.is_unspecified();
    real_state(&mut packet)?;
    real_dialled(&mut packet);
    not_martian(packet)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// The test host gets the address that a packet is for; but not the one that it is from.
fn real_destination(packet: &mut Packet) {
    // Nothing is rewritten to loopback, where it would be dropped.
    let rewritten_to = |address: IpAddr| packet.dialled.is_some() && address.is_loopback();
    let usable = |address: IpAddr| {
        !is_link_local(address) && address != packet.source && !rewritten_to(address)
    };
    if usable(packet.destination) && packet.interface != "lo" {
        return;
    }
    packet.destination = match (packet.hook, packet.family()) {
        (Hook::Input, Family::V4) => HOST_V4,
        (Hook::Input, Family::V6) => HOST_V6,
        (Hook::Forward, Family::V4) => "203.0.113.9",
        (Hook::Forward, Family::V6) => "2001:db8:8::8",
    }
    .parse()
    .unwrap();
}

/// Loopback answers itself, and one packet would be counted with its answer. It is not Ethernet.
fn real_loopback(packet: &mut Packet) -> Option<()> {
    packet.reverse_path = false;
    packet.mac = None;
    packet.dialled = None;
    packet.to_host = true;
    (packet.state == CtState::New && !packet.source.is_unspecified()).then_some(())
}

fn real_state(packet: &mut Packet) -> Option<()> {
    match packet.transport {
        Transport::Ports { protocol, .. } => {
            let tcp_or_udp = [TCP, UDP].contains(&protocol);
            let possible = match packet.state {
                CtState::New | CtState::Untracked => true,
                CtState::Established => tcp_or_udp,
                CtState::Invalid => protocol == TCP,
                CtState::Related => false,
            };
            if !tcp_or_udp || packet.state != CtState::New {
                packet.dialled = None;
            }
            possible.then_some(())
        }
        Transport::Icmp { kind, .. } => {
            let is_error = match packet.family() {
                Family::V4 => [3, 5, 11, 12].contains(&kind),
                Family::V6 => (1..=4).contains(&kind),
            };
            if packet.state != CtState::Related || !is_error || packet.interface == "lo" {
                packet.state = icmp_state(packet.family(), kind)?;
            }
            Some(())
        }
        Transport::Other(_) => {
            packet.state = CtState::New;
            Some(())
        }
    }
}

/// What was dialled is another address or port, and this host's if it has the address.
fn real_dialled(packet: &mut Packet) {
    let port = match packet.transport {
        Transport::Ports { destination, .. } => destination,
        Transport::Icmp { .. } | Transport::Other(_) => 0,
    };
    let at = packet.before_dnat().destination;
    packet.dialled = packet.dialled.filter(|dialled| {
        let rewritten = (dialled.address, dialled.port) != (packet.destination, port);
        rewritten && !is_link_local(at) && at != packet.source
    });
    let is_input = packet.hook == Hook::Input;
    if packet.dialled.is_none() || at == packet.destination {
        packet.to_host = is_input;
    }
}

/// Loopback addresses from outside: of IPv6, Linux drops them before any hook. Nor are there
/// connections with them.
fn not_martian(mut packet: Packet) -> Option<Packet> {
    let claims = packet.source.is_loopback() || packet.before_dnat().destination.is_loopback();
    if packet.interface == "lo" || !claims {
        return Some(packet);
    }
    packet.out = None;
    packet.reverse_path = false;
    let known = matches!(packet.state, CtState::Established | CtState::Related);
    (packet.family() == Family::V4 && !known).then_some(packet)
}

/// What conntrack says of an ICMP packet that belongs to no connection (`icmp_pkt_to_tuple()` and
/// `icmpv6_error()` in `net/netfilter`): requests are new, neighbour and listener discovery is not
/// tracked, all else is invalid.
fn icmp_state(family: Family, kind: u8) -> Option<CtState> {
    Some(match (family, kind) {
        (Family::V4, 8 | 13 | 15 | 17) | (Family::V6, 128) => CtState::New,
        (Family::V6, 130..=136 | 143) => CtState::Untracked,
        (Family::V6, 137) => return None,
        _ => CtState::Invalid,
    })
}

/// A policy with the packets to send it.
struct Work {
    policy: Policy,
    /// Whether iptables can say it.
    fallback: bool,
    packets: Vec<Packet>,
}

/// Packets for a policy: not many that are decided at the same place, since few reasons decide
/// most.
fn packets(runner: &mut TestRunner, policy: &Policy) -> Vec<Packet> {
    let mut met: BTreeMap<(Hook, String), usize> = BTreeMap::new();
    let some =
        (0..DRAWN_PER_POLICY).map(|_| generate::packet().new_tree(runner).unwrap().current());
    some.filter_map(real)
        .filter(|packet| {
            let reason = policy.verdict(packet).reason.to_string();
            let count = met.entry((packet.hook, reason)).or_default();
            *count += 1;
            *count <= PACKETS_PER_REASON
        })
        .collect()
}

/// Enough work to give every kernel this number of packets.
fn work(runner: &mut TestRunner, wanted: usize) -> Vec<Work> {
    let mut works: Vec<Work> = Vec::new();
    let (mut all, mut by_iptables) = (0, 0);
    while all < wanted || by_iptables < wanted {
        let policy = generate::policy().new_tree(runner).unwrap().current();
        let ruleset = compile(&policy).0;
        let fallback = Family::BOTH
            .iter()
            .all(|family| script::script(&ruleset, *family, None).is_ok());
        let packets = packets(runner, &policy);
        all += packets.len();
        by_iptables += if fallback { packets.len() } else { 0 };
        works.push(Work {
            policy,
            fallback,
            packets,
        });
    }
    works
}

/// Sends one kernel all that it can be sent, and returns how many packets that was.
fn judge_all(works: &[Work], index: usize, filter: Filter, seed: u64) -> usize {
    let mut target = Target::named(&format!("t{index}"));
    if let Filter::Iptables(flavour) = filter {
        target.prefer(flavour);
    }
    let mut sent = 0;
    for (number, work) in works.iter().enumerate() {
        if filter != Filter::Nft && !work.fallback {
            continue;
        }
        let ruleset = compile(&work.policy).0;
        // Every other policy with ipsets.
        let sets = if number % 2 == 0 {
            Sets::Ipset
        } else {
            Sets::Rules
        };
        target.hold(&ruleset, filter, sets);
        for packet in &work.packets {
            let want = work.policy.verdict(packet);
            let at = format!("seed {seed}, policy {number}, {filter:?}: {packet:?}");
            assert_eq!(
                ruleset.eval(packet).decision().as_ref(),
                Some(&want),
                "{at}"
            );
            let got = target.judge(packet, &want);
            assert!(
                agrees(packet, &want, &got),
                "{at}: policy {want}, kernel {got}\n{:?}",
                work.policy
            );
            sent += 1;
        }
    }
    sent
}

/// How many packets each reason decides, with names left out.
fn reasons(works: &[Work]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for work in works {
        for packet in &work.packets {
            let reason = work.policy.verdict(packet).reason.to_string();
            let kind = reason.split('.').next().unwrap_or_default().to_owned();
            *found.entry(kind).or_default() += 1;
        }
    }
    found
}

#[test]
fn policy_ruleset_and_every_kernel_agree() {
    world(|| {
        let seed = setting("PEERWALL_SEED", 42);
        let wanted = setting("PEERWALL_PACKETS", 1000);
        let config = Config {
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..Config::default()
        };
        let mut runner = TestRunner::new(config);
        let works = work(&mut runner, usize::try_from(wanted).unwrap());
        let filters = [
            Filter::Nft,
            Filter::Iptables(Flavour::Legacy),
            Filter::Iptables(Flavour::Nft),
        ];
        let sent: Vec<usize> = std::thread::scope(|scope| {
            let works = &works;
            let judge =
                |(index, filter)| scope.spawn(move || judge_all(works, index, filter, seed));
            let running: Vec<_> = filters.into_iter().enumerate().map(judge).collect();
            running
                .into_iter()
                .map(|handle| handle.join().expect("no disagreement"))
                .collect()
        });
        println!(
            "seed {seed}: {} policies; {sent:?} packets, no disagreement",
            works.len()
        );
        println!("reasons: {:?}", reasons(&works));
        assert!(sent.iter().all(|sent| *sent as u64 >= wanted));
    });
}
