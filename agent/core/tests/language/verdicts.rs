//! The order of the sections decides.

use super::*;

/// Order is meaning: each pair of neighbours in docs/policy.md's table, with a packet that both
/// fit.
#[test]
fn the_first_that_fits_decides() {
    let text = "version = 1\n[peers]\npeer = \"10.1.0.0/16\"\n[interfaces]\ntrusted = [\"wg0\"]\n\
        [overlay.f]\nbackend = \"vxlan\"\nsubnets = \"10.244.0.0/16\"\n[icmp]\nping = \"any\"\n\
        [[allow]]\nname = \"all\"\nfrom = \"any\"\n";
    let policy = read(text, &[]).policy.unwrap();
    let (ruleset, _) = compile(&policy);
    let tcp = Transport::Ports {
        protocol: TCP,
        source: 40_000,
        destination: 80,
    };
    let vxlan = Transport::Ports {
        protocol: 17,
        source: 40_000,
        destination: 8472,
    };
    let ping = Transport::Icmp { kind: 8, code: 0 };
    let error = Transport::Icmp { kind: 3, code: 4 };
    for (name, interface, source, transport, state, want) in [
        (
            "established before spoof",
            "eth0",
            "10.244.0.1",
            tcp,
            CtState::Established,
            "established",
        ),
        (
            "trusted before spoof",
            "wg0",
            "10.244.0.1",
            tcp,
            CtState::New,
            "trusted",
        ),
        (
            "spoof before peers",
            "eth0",
            "10.244.0.1",
            tcp,
            CtState::New,
            "overlay-spoof",
        ),
        (
            "spoof before ICMP",
            "eth0",
            "10.244.0.1",
            error,
            CtState::New,
            "overlay-spoof",
        ),
        (
            "peers before injection",
            "eth0",
            "10.1.0.1",
            vxlan,
            CtState::New,
            "peers",
        ),
        (
            "pods before peers",
            "cni0",
            "10.1.0.1",
            tcp,
            CtState::New,
            "peer-spoof",
        ),
        (
            "a tunnel guarded before overlays",
            "cni0",
            "10.244.0.1",
            vxlan,
            CtState::New,
            "overlay-inject",
        ),
        (
            "a tunnel guarded before loopback",
            "lo",
            "192.0.2.254",
            vxlan,
            CtState::New,
            "overlay-inject",
        ),
        (
            "loopback from outside before all",
            "wg0",
            "127.0.0.1",
            tcp,
            CtState::New,
            "loopback-spoof",
        ),
        (
            "overlays before invalid",
            "cni0",
            "10.244.0.1",
            tcp,
            CtState::Invalid,
            "overlay.f",
        ),
        (
            "peers before invalid",
            "eth0",
            "10.1.0.1",
            tcp,
            CtState::Invalid,
            "peers",
        ),
        (
            "injection before allows",
            "eth0",
            "192.0.2.1",
            vxlan,
            CtState::New,
            "overlay-inject",
        ),
        (
            "ICMP before invalid",
            "eth0",
            "192.0.2.1",
            error,
            CtState::Invalid,
            "icmp",
        ),
        (
            "ping before allows",
            "eth0",
            "192.0.2.1",
            ping,
            CtState::New,
            "ping",
        ),
        (
            "invalid before allows",
            "eth0",
            "192.0.2.1",
            tcp,
            CtState::Invalid,
            "invalid",
        ),
        (
            "allows before the rest",
            "eth0",
            "192.0.2.1",
            tcp,
            CtState::New,
            "allow.all",
        ),
    ] {
        let (source, destination) = (source.parse().unwrap(), "192.0.2.254".parse().unwrap());
        let packet = Packet {
            state,
            reverse_path: false,
            ..Packet::new(Hook::Input, interface, source, destination, transport)
        };
        assert_eq!(
            policy.verdict(&packet).reason.to_string(),
            want,
            "{name}: the policy"
        );
        assert_eq!(
            ruleset.eval(&packet).reason().unwrap().to_string(),
            want,
            "{name}: the ruleset"
        );
    }
}
