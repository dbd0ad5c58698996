//! The metrics file and the metrics socket.

use super::*;

#[test]
fn metrics_are_written_and_served_where_they_are_wanted() {
    world(|| {
        let host = Host::new("host");
        host.sh("ip link set lo up");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let file = folder.path().join("peerwall.prom");
        let socket = folder.path().join("metrics.sock");
        let check = |text: &str| {
            for line in [
                "peerwall_in_sync 1",
                "peerwall_applies_total 1",
                "peerwall_set_elements{set=\"peers4\"} 1",
            ] {
                assert!(text.contains(line), "{line}\n{text}");
            }
        };
        let ask = |stream: &mut dyn ReadWrite| {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let port = "127.0.0.1:9469";
        let agent = Agent::start(
            &host,
            &path,
            &[
                "--metrics-file",
                file.to_str().unwrap(),
                "--metrics-listen",
                port,
            ],
        );
        agent.wait_for(|| file.exists(), "the file");
        check(&fs::read_to_string(&file).unwrap());
        let mut stream = host.run(|| TcpStream::connect(port).unwrap());
        check(&ask(&mut stream));
        // Killed, it leaves its socket, and takes it again.
        agent.kill();
        let listen = format!("unix:{}", socket.display());
        Agent::start(&host, &path, &["--metrics-listen", &listen]).kill();
        assert!(socket.exists());
        let agent = Agent::start(&host, &path, &["--metrics-listen", &listen]);
        check(&ask(
            &mut std::os::unix::net::UnixStream::connect(&socket).unwrap()
        ));
        agent.end();
        assert!(!socket.exists());
        // What is not for everybody is not offered to everybody.
        let output = host.peerwall(&[
            "run",
            path.to_str().unwrap(),
            "--metrics-listen",
            "0.0.0.0:9469",
        ]);
        assert!(
            output.status.code() == Some(2) && said(&output).contains("loopback"),
            "{}",
            said(&output)
        );
    });
}

/// A stream of either kind.
trait ReadWrite: std::io::Read + std::io::Write {}

impl<T: std::io::Read + std::io::Write> ReadWrite for T {}
