//! Logged packets as the kernel sends them, floods, and names.

use super::*;
use crate::policy::Policy;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

const NOW: u64 = 1_800_000_000;

/// A SYN of 198.51.100.7 to 192.0.2.1:9100.
fn syn() -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 63, 6, 0, 0];
    bytes.extend([198, 51, 100, 7, 192, 0, 2, 1]);
    bytes.extend([0x0f, 0xa0, 0x23, 0x8c, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2]);
    bytes.extend([0; 6]);
    bytes
}

fn logged(prefix: &str, hook: u8, payload: Vec<u8>) -> Logged {
    Logged {
        header: Some(vec![8, 0, hook, 0]),
        indev: Some(2),
        outdev: (hook == 2).then_some(3),
        payload: Some(payload),
        prefix: Some(prefix.as_bytes().to_vec()),
        ..Logged::default()
    }
}

fn name(index: u32) -> String {
    format!("eth{index}")
}

#[test]
fn logged_packets_are_read_with_reason_and_interfaces() {
    let forward = "peerwall forward-default: ";
    let found = read(&logged(forward, 2, syn()), "peerwall", name).unwrap();
    assert_eq!(found.reason, Reason::ForwardDefault);
    assert_eq!(
        found.flow,
        Flow {
            hook: DeniedHook::Forward,
            interface: "eth2".to_owned(),
            out: Some("eth3".to_owned()),
            source: "198.51.100.7".parse().unwrap(),
            service: Service::Port {
                protocol: 6,
                port: 9100
            },
        }
    );
    assert!(found.sample.syn && found.sample.source_port == 4000);
    let long = |_| "a-very-long-name-of-some-interface".to_owned();
    let found = read(&logged("a b input-default:", 1, syn()), "a b", long).unwrap();
    assert_eq!(found.flow.interface.len(), 16);
    for (case, prefix, hook, payload, why) in [
        ("another program", "UFW BLOCK ", 1, syn(), Unread::Foreign),
        ("no prefix", "", 1, syn(), Unread::Foreign),
        (
            "another prefix",
            "wall input-default: ",
            1,
            syn(),
            Unread::Foreign,
        ),
        (
            "no reason",
            "peerwall nonsense: ",
            1,
            syn(),
            Unread::Foreign,
        ),
        (
            "not a denial",
            "peerwall peers: ",
            1,
            syn(),
            Unread::Foreign,
        ),
        (
            "no packet",
            "peerwall invalid: ",
            1,
            Vec::new(),
            Unread::Malformed,
        ),
        (
            "another hook",
            "peerwall invalid: ",
            3,
            syn(),
            Unread::Malformed,
        ),
    ] {
        let found = read(&logged(prefix, hook, payload), "peerwall", name);
        assert_eq!(found, Err(why), "{case}");
    }
}

#[test]
fn every_denial_of_a_ruleset_is_among_the_reasons() {
    assert!(REASONS.iter().all(Reason::is_denial));
    let text = "[overlay.pods]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n\
                [interfaces]\nguests = [\"docker0\"]\n[peers]\na = \"192.0.2.12\"\n";
    let (ruleset, _) = compile(&policy(text));
    let counters = ruleset.counters.iter();
    let denials: Vec<Reason> = counters
        .filter_map(|name| Reason::parse(name))
        .filter(Reason::is_denial)
        .collect();
    assert!(denials.len() >= 9, "{denials:?}");
    assert!(denials.iter().all(|reason| REASONS.contains(reason)));
}

#[test]
fn services_have_the_names_of_the_policy() {
    let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let port = |protocol| Service::Port {
        protocol,
        port: 9100,
    };
    let icmp = |kind| Service::Icmp { kind, code: 0 };
    for (service, source, want) in [
        (port(6), v4, "9100/tcp"),
        (port(17), v6, "9100/udp"),
        (icmp(8), v4, "ICMP echo-request"),
        (icmp(128), v6, "ICMP echo-request"),
        (icmp(200), v4, "ICMP type 200"),
        (Service::Protocol(47), v4, "protocol gre"),
        (Service::Fragment(17), v4, "fragment of udp"),
    ] {
        assert_eq!(service.text(source), want);
    }
}

fn policy(text: &str) -> Policy {
    let loaded = load("policy.toml", &format!("version = 1\n{text}"), &NoFiles);
    loaded.policy.unwrap()
}

#[test]
fn the_log_of_a_ruleset_is_that_of_its_policy() {
    for (text, want) in [
        ("", Some((5, "peerwall"))),
        ("[log]\ndenied = false\n", None),
        (
            "[log]\ndenied = { group = 77, prefix = \"fw: x\" }\n",
            Some((77, "fw: x")),
        ),
    ] {
        let (ruleset, _) = compile(&policy(text));
        let found = log_of(&ruleset);
        let want = want.map(|(group, prefix)| (group, prefix.to_owned()));
        assert_eq!(found, want, "{text}");
    }
}

fn seen(reason: Reason, source: u32, port: u16) -> Sighting {
    let mut sighting = read(&logged("p invalid: ", 1, syn()), "p", name).unwrap();
    sighting.reason = reason;
    sighting.flow.source = std::net::Ipv4Addr::from(source).into();
    sighting.flow.service = Service::Port { protocol: 6, port };
    sighting
}

#[test]
fn a_flood_of_spoofed_sources_displaces_neither_other_reasons_nor_frequent_flows() {
    let mut tally = Tally::default();
    for _ in 0..3 {
        tally.add(seen(Reason::PeerSpoof, 7, 22), NOW);
    }
    for source in 0..50_000_u32 {
        tally.add(seen(Reason::InputDefault, 0x0100_0000 + source, 23), NOW);
        if source.is_multiple_of(100) {
            tally.add(seen(Reason::InputDefault, 8, 9100), NOW);
        }
    }
    let window = Window::last(3600, NOW);
    let entries = tally.entries(window, 0);
    assert_eq!(entries.len(), FLOWS_MAX + 1);
    let spoofed = entries.iter().find(|each| each.reason == Reason::PeerSpoof);
    let spoofed = spoofed.unwrap();
    assert_eq!((spoofed.packets, spoofed.is_at_least), (3, false));
    // 500 of 50,500 packets, which is more than one in 256.
    let frequent = &entries[0];
    assert_eq!(frequent.flow.service.text(frequent.flow.source), "9100/tcp");
    assert!((300..=500).contains(&frequent.packets), "{frequent:?}");
    let totals = tally.totals(window);
    let counted: Vec<(u64, u64)> = totals.iter().map(|t| (t.packets, t.since_start)).collect();
    assert_eq!(counted, [(3, 3), (50_500, 50_500)]);
    // What changed since a stamp, and what is too old.
    let stamp = tally.stamp();
    tally.add(seen(Reason::PeerSpoof, 7, 22), NOW + 7200);
    let new = tally.entries(Window::last(60, NOW + 7200), stamp);
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].packets, 1);
    tally.expire(NOW + 2 * LONGEST_SECONDS);
    let window = Window::last(LONGEST_SECONDS, NOW + 2 * LONGEST_SECONDS);
    assert_eq!(
        (tally.entries(window, 0), tally.totals(window)[0].packets),
        (Vec::new(), 0)
    );
    assert_eq!(tally.totals(window)[0].since_start, 4);
}

#[test]
fn counters_are_followed_across_a_new_table() {
    let read = |input: u64, spoof: Option<u64>| {
        let spoof = spoof.map(|count| (Reason::PeerSpoof, count));
        let input = Some((Reason::InputDefault, input));
        spoof.into_iter().chain(input).collect::<BTreeMap<_, _>>()
    };
    let mut counted = Counted::default();
    assert_eq!(counted.denied(), None);
    for (reading, want) in [
        (read(100, None), None),
        (read(130, Some(4)), Some((30, 4))),
        // The table was deleted and created again.
        (read(7, Some(0)), Some((37, 4))),
        (read(7, Some(1)), Some((37, 5))),
    ] {
        counted.update(&reading);
        let denied = counted.denied().unwrap();
        let found = denied.get(&Reason::InputDefault).copied();
        let found = found.map(|input| (input, denied[&Reason::PeerSpoof]));
        assert_eq!(found, want, "{reading:?}");
    }
}

#[test]
fn every_kind_of_owner_is_recognized() {
    use ResemblanceKind as Kind;
    let policy = policy(
        "[peers]\nworker = \"192.0.2.12\"\n\
         [groups]\noffice = [\"203.0.113.0/24\"]\nall = [\"0.0.0.0/0\"]\n\
         [overlay.flannel]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n\
         [interfaces]\nguests = [\"docker0\"]\n",
    );
    let own: IpAddr = "192.0.2.1".parse().unwrap();
    let cases = [
        (
            "192.0.2.1",
            "eth0",
            Some((Kind::Host, "this host's own address")),
        ),
        ("192.0.2.12", "cni0", Some((Kind::Peer, "peer worker"))),
        ("10.244.3.7", "eth0", Some((Kind::Pod, "pod of flannel"))),
        ("203.0.113.9", "eth0", Some((Kind::Group, "group office"))),
        (
            "172.17.0.2",
            "docker0",
            Some((Kind::Guest, "guest on docker0")),
        ),
        (
            "10.99.0.2",
            "cali12",
            Some((
                Kind::UndeclaredPod,
                "looks like a pod of no declared overlay",
            )),
        ),
        (
            "192.168.122.2",
            "virbr0",
            Some((
                Kind::UndeclaredGuest,
                "looks like a container or guest on virbr0",
            )),
        ),
        ("198.51.100.7", "cali12", None),
        ("10.99.0.2", "eth0", None),
    ];
    let mut kinds = Vec::new();
    for (source, interface, want) in cases {
        let found = resembling(&policy, source.parse().unwrap(), interface, |ip| ip == own);
        let text = found.as_ref().map(Resemblance::text);
        let found = found.map(|each| each.kind).zip(text);
        let want = want.map(|(kind, text)| (kind, text.to_owned()));
        assert_eq!(found, want, "{source} on {interface}");
        kinds.extend(found.map(|(kind, _)| kind));
    }
    kinds.dedup();
    assert_eq!(kinds.len(), 7, "a case for each kind");
}

#[test]
fn the_last_packet_of_a_flow_can_be_explained() {
    let mut logged = logged("p forward-default: ", 2, syn());
    let mut tally = Tally::default();
    tally.add(read(&logged, "p", name).unwrap(), NOW);
    // The same with a later fragment.
    let mut fragment = syn();
    fragment[7] = 9;
    logged.payload = Some(fragment);
    tally.add(read(&logged, "p", name).unwrap(), NOW);
    let entries = tally.entries(Window::last(60, NOW), 0);
    let packets: Vec<_> = entries.iter().filter_map(Entry::packet).collect();
    assert_eq!((entries.len(), packets.len()), (2, 1));
    let packet = &packets[0];
    assert_eq!((packet.hook, packet.syn), (Hook::Forward, true));
    assert_eq!(packet.out.as_deref(), Some("eth3"));
    let fixes = crate::explain::fixes(&Policy::default(), packet, &entries[0].reason);
    assert!(fixes[0].toml.contains("9100/tcp"), "{fixes:?}");
}
