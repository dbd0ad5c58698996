//! Open connections that the policy no longer admits.

use super::*;

/// Sends back what it is sent, over TCP.
fn echo(host: &Host, addresses: &[&str]) {
    for address in addresses {
        let listener = host.run(|| TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut buffer = [0; 16];
                    while let Ok(len) = stream.read(&mut buffer) {
                        if len == 0 || stream.write_all(&buffer[..len]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }
}

fn open(from: &Host, to: &str) -> TcpStream {
    let stream = from.run(|| TcpStream::connect(to).unwrap());
    let wait = Some(Duration::from_millis(500));
    stream.set_read_timeout(wait).unwrap();
    stream
}

/// Whether what is sent comes back.
fn lives(stream: &mut TcpStream) -> bool {
    stream.write_all(b"?").is_ok() && stream.read(&mut [0; 16]).is_ok_and(|len| len > 0)
}

#[test]
fn open_connections_of_who_is_no_peer_any_more_end_and_no_others() {
    world(|| {
        let Three {
            host,
            friend,
            stranger,
        } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let both = policy(&["192.0.2.2", "198.51.100.2"]);
        let path = write(folder.path(), "policy.toml", &both);
        let text = path.to_str().unwrap().to_owned();
        echo(
            &host,
            &["192.0.2.1:9100", "198.51.100.1:9100", "198.51.100.1:22"],
        );
        for (with_agent, backend) in [
            (false, "nft"),
            (true, "nft"),
            (false, "iptables"),
            (true, "iptables"),
        ] {
            write(folder.path(), "policy.toml", &both);
            let by = ["--backend", backend];
            host.peerwall_ok(&["apply", by[0], by[1], &text]);
            let agent = with_agent.then(|| Agent::start(&host, &path, &by));
            let mut of_peer = open(&friend, "192.0.2.1:9100");
            let mut of_revoked = open(&stranger, "198.51.100.1:9100");
            let mut to_ssh = open(&stranger, "198.51.100.1:22");
            for stream in [&mut of_peer, &mut of_revoked, &mut to_ssh] {
                assert!(lives(stream));
            }
            // Said before it is done, and not done where the policy says so.
            let fewer = policy(&["192.0.2.2"]);
            let keeping = write(
                folder.path(),
                "keeping.toml",
                &format!("{fewer}[options]\nrevoke = \"keep\"\n"),
            );
            let fewer = write(folder.path(), "fewer.toml", &fewer);
            let plan = said(&host.peerwall(&["plan", by[0], by[1], fewer.to_str().unwrap()]));
            // Those of the last round may still try.
            let named = " of friends (198.51.100.2) to this host, 9100/tcp (input-default)";
            assert!(
                plan.contains("would end:\n")
                    && plan.contains(named)
                    && !plan.contains("would stay open"),
                "{plan}"
            );
            let plan = said(&host.peerwall(&["plan", by[0], by[1], keeping.to_str().unwrap()]));
            assert!(
                !plan.contains("would end")
                    && plan.contains(named)
                    && plan.contains(
                        "would stay open, although the policy refuses new connections like this:\n"
                    ),
                "{plan}"
            );
            assert!(lives(&mut of_revoked));
            fs::copy(&fewer, &path).unwrap();
            let output = host.peerwall(&["apply", by[0], by[1], &text]);
            assert!(output.status.success(), "{}", said(&output));
            assert!(lives(&mut of_peer) && lives(&mut to_ssh), "others go on");
            assert!(!lives(&mut of_revoked), "{}", said(&output));
            drop(agent);
        }
    });
}

#[test]
fn what_came_in_while_the_rules_were_not_there_ends() {
    world(|| {
        let three = Three::new();
        let Three {
            host,
            friend,
            stranger,
        } = &three;
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        echo(host, &["192.0.2.1:9100", "198.51.100.1:9100"]);
        // The kernel tracks connections once somebody wants that.
        host.sh("nft add table ip tracking; nft 'add chain ip tracking in \
            { type filter hook input priority 0; }'; \
            nft add rule ip tracking in ct state new accept");
        // Admitted by no policy: the first load ends it.
        let mut older = open(stranger, "198.51.100.1:9100");
        assert!(lives(&mut older));
        let agent = Agent::start(host, &path, &["--no-owner"]);
        assert!(
            !lives(&mut older),
            "what was there before any rules ends with the first load"
        );
        let mut of_peer = open(friend, "192.0.2.1:9100");
        assert!(lives(&mut of_peer));
        // It cannot repair anything, and somebody takes the table away.
        agent.signal("STOP");
        host.sh("nft delete table inet peerwall");
        let mut got_in = open(stranger, "198.51.100.1:9100");
        assert!(lives(&mut got_in));
        agent.signal("CONT");
        // Though both ends keep talking.
        agent.wait_for(|| !lives(&mut got_in.try_clone().unwrap()), "the end of it");
        assert!(lives(&mut of_peer), "a peer's goes on");
    });
}
