//! Rejected packets and bridged frames.

use super::*;

#[test]
fn denied_packets_are_rejected_when_the_policy_says_so() {
    world(|| {
        let Three {
            host,
            friend,
            stranger,
        } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
            version = 1
            [peers]
            friend = ["192.0.2.2", "2001:db8::2"]
            [options]
            denied = "reject"
        "#;
        apply(&host, &write(folder.path(), "p.toml", text));
        // A stranger is told at once; a peer finds nobody listening, by the host's own word.
        for (who, to) in [
            (&stranger, "198.51.100.1:9"),
            (&friend, "192.0.2.1:9"),
            (&friend, "[2001:db8::1]:9"),
        ] {
            let start = Instant::now();
            assert_eq!(probe::tcp(who, to, probe::PATIENCE), None);
            assert!(start.elapsed() < probe::PATIENCE, "{to}: no answer came");
        }
        let count = host.sh("nft list counter inet peerwall input-default");
        assert!(!count.contains("packets 0"), "{count}");
        // UDP is answered with ICMP administratively prohibited.
        let refused = stranger.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("198.51.100.1:9").unwrap();
            socket.set_read_timeout(Some(probe::PATIENCE)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err().raw_os_error()
        });
        assert_eq!(refused, Some(libc::EHOSTUNREACH));
    });
}

#[test]
fn bridged_frames_are_judged_alike_with_br_netfilter_on_and_off() {
    world(|| {
        let host = Host::new("node");
        peerwall_integration::net::bridge(&host, "cni0", &["10.244.1.1/24"]);
        let pods = [2u8, 3].map(|n| {
            let pod = Host::new(&format!("pod{n}"));
            wire(
                &pod,
                "eth0",
                &[&format!("10.244.1.{n}/24")],
                &host,
                &format!("veth{n}"),
                &[],
            );
            peerwall_integration::net::enslave(&host, &format!("veth{n}"), "cni0");
            pod
        });
        probe::tcp_server(&pods[1], "0.0.0.0:8080");
        apply(&host, Path::new(EXAMPLE));
        let passed = || host.sh("nft list counter inet peerwall forward.overlay.flannel");
        host.sysctl("net.bridge.bridge-nf-call-iptables", "0");
        assert_eq!(
            probe::tcp(&pods[0], "10.244.1.3:8080", probe::PATIENCE).as_deref(),
            Some("pod3")
        );
        assert!(
            passed().contains("packets 0"),
            "frames came by the forward hook though they should not"
        );
        host.sysctl("net.bridge.bridge-nf-call-iptables", "1");
        assert_eq!(
            probe::tcp(&pods[0], "10.244.1.3:8080", probe::PATIENCE).as_deref(),
            Some("pod3")
        );
        assert!(
            !passed().contains("packets 0"),
            "br_netfilter is on and no frame came by the forward hook"
        );
    });
}

#[test]
fn a_bridge_that_is_not_judged_passes_frames_and_routes_nothing() {
    world(|| {
        let host = Host::new("node");
        peerwall_integration::net::bridge(&host, "br0", &["192.0.2.1/24"]);
        let guests = [2u8, 3].map(|n| {
            let guest = Host::new(&format!("guest{n}"));
            wire(
                &guest,
                "eth0",
                &[&format!("192.0.2.{n}/24")],
                &host,
                &format!("veth{n}"),
                &[],
            );
            peerwall_integration::net::enslave(&host, &format!("veth{n}"), "br0");
            guest.sh("ip route add default via 192.0.2.1");
            guest
        });
        let beyond = Host::new("beyond");
        wire(
            &beyond,
            "eth0",
            &["203.0.113.2/24"],
            &host,
            "eth0",
            &["203.0.113.1/24"],
        );
        beyond.sh("ip route add default via 203.0.113.1");
        host.sysctl("net.ipv4.ip_forward", "1");
        host.sysctl("net.bridge.bridge-nf-call-iptables", "1");
        probe::tcp_server(&guests[1], "0.0.0.0:8080");
        probe::tcp_server(&beyond, "0.0.0.0:8080");
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let base = r#"
            version = 1
            [peers]
            a = "198.51.100.9"
        "#;
        let from_guest = |to: &str, patience| probe::tcp(&guests[0], to, patience);
        fs::write(&policy, base).unwrap();
        apply(&host, &policy);
        assert_eq!(
            from_guest("192.0.2.3:8080", probe::IMPATIENCE),
            None,
            "unsaid, they are judged"
        );
        fs::write(
            &policy,
            format!("{base}[interfaces]\nbridged = [\"br0\"]\n"),
        )
        .unwrap();
        apply(&host, &policy);
        assert_eq!(
            from_guest("192.0.2.3:8080", probe::PATIENCE).as_deref(),
            Some("guest3")
        );
        assert_eq!(
            from_guest("203.0.113.2:8080", probe::IMPATIENCE),
            None,
            "that is routed"
        );
        let passed = host.sh("nft list counter inet peerwall forward.bridged");
        assert!(!passed.contains("packets 0"), "{passed}");
    });
}
