//! The agent lasts: silent clients, ended guards, errors that pass and very many connections do it
//! no harm.
//!
//! `PEERWALL_CONNECTIONS=200000` sets how many connections end at once.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and this one what it measured"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use peerwall_core::net::port::TCP;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{Agent, at, track, tracked, wait_for};

const POLICY: &str = r#"
    version = 1
    [peers]
    p = "192.0.2.9"
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
"#;

fn policy(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("policy.toml");
    fs::write(&path, POLICY).unwrap();
    path
}

fn status(host: &Host) -> serde_json::Value {
    let output = host.peerwall(&["status", "--json", "/nowhere"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn silent_clients_keep_nobody_from_control_and_metrics() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let metrics = folder.path().join("metrics.sock");
        let more = ["--metrics-listen", &format!("unix:{}", metrics.display())];
        let _agent = Agent::start(&host, &policy(&folder), &more);
        let control = PathBuf::from(format!("/run/hosts/{}/run/control.sock", host.name));
        let connect = |path| UnixStream::connect(path).unwrap();
        // Many more than there is room for: some say nothing, some do not take what they asked for.
        let silent: Vec<_> = (0..40)
            .flat_map(|_| [connect(&control), connect(&metrics)])
            .collect();
        let asks: Vec<_> = (0..40)
            .map(|_| {
                let mut stream = connect(&metrics);
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
                stream
            })
            .collect();
        assert!(!status(&host)["agent"]["pid"].is_null());
        let mut stream = connect(&metrics);
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("peerwall_build_info{"), "{text}");
        drop((silent, asks));
    });
}

#[test]
fn a_guard_that_ended_leaves_no_zombie() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        let agent = Agent::start(&host, &path, &["--no-follow"]);
        for peer in 10..14 {
            fs::write(
                &path,
                POLICY.replace("192.0.2.9", &format!("192.0.2.{peer}")),
            )
            .unwrap();
            host.peerwall_ok(&["apply", "--confirm", "60s", path.to_str().unwrap()]);
            host.peerwall_ok(&["rollback"]);
        }
        // Guards look every now and then whether they are needed still.
        std::thread::sleep(Duration::from_secs(3));
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap();
        assert_eq!(children, "");
    });
}

#[test]
fn an_idle_agent_pats_its_watchdog() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        let address = folder.path().join("notify");
        let socket = UnixDatagram::bind(&address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut command = host.command(peerwall_bin());
        command
            .arg("run")
            .arg(&path)
            .env("NOTIFY_SOCKET", &address)
            .env("WATCHDOG_USEC", "1000000");
        let mut agent = command.stderr(Stdio::null()).spawn().unwrap();
        // Nothing happens, and nobody asks.
        let mut pats = 0;
        while pats < 3 {
            let mut message = [0; 4096];
            let len = socket.recv(&mut message).unwrap();
            pats += usize::from(message[..len].starts_with(b"WATCHDOG=1"));
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
    });
}

#[test]
fn an_agent_that_waits_for_a_slow_program_pats_its_watchdog() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        // An iptables-restore that does not end until it may.
        let tools = folder.path().join("tools");
        fs::create_dir(&tools).unwrap();
        let (begun, may_end) = (folder.path().join("begun"), folder.path().join("may-end"));
        for tool in [
            "iptables-nft",
            "ip6tables-nft",
            "iptables-nft-save",
            "ip6tables-nft-save",
            "ip6tables-nft-restore",
            "ipset",
        ] {
            host.sh(&format!(
                "test ! -e /usr/sbin/{tool} || ln -s /usr/sbin/{tool} {}/{tool}",
                tools.display()
            ));
        }
        let slow = format!(
            "#!/bin/sh\n\
             touch {}\n\
             while test ! -e {}; do sleep 0.05; done\n\
             exec /usr/sbin/iptables-nft-restore \"$@\"\n",
            begun.display(),
            may_end.display()
        );
        let tool = tools.join("iptables-nft-restore");
        fs::write(&tool, slow).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let address = folder.path().join("notify");
        let socket = UnixDatagram::bind(&address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut command = host.command(peerwall_bin());
        command
            .arg("run")
            .arg(&path)
            .args(["--backend", "iptables", "--iptables"])
            .arg(&tools);
        command
            .env("NOTIFY_SOCKET", &address)
            .env("WATCHDOG_USEC", "1000000");
        let mut agent = command.stderr(Stdio::null()).spawn().unwrap();
        let heard = |word: &str| {
            let mut message = [0; 4096];
            loop {
                let len = socket.recv(&mut message).unwrap();
                if message[..len].starts_with(word.as_bytes()) {
                    break;
                }
            }
        };
        wait_for("the program", || begun.exists());
        for _ in 0..3 {
            heard("WATCHDOG=1");
        }
        fs::write(&may_end, "").unwrap();
        heard("READY=1");
        agent.kill().unwrap();
        agent.wait().unwrap();
    });
}

#[test]
fn a_table_that_is_replaced_is_not_told_to_be_gone() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let _agent = Agent::start(&host, &policy(&folder), &[]);
        let replace = folder.path().join("replace.nft");
        fs::write(
            &replace,
            "table inet other\ndelete table inet other\ntable inet other { }\n",
        )
        .unwrap();
        for _ in 0..3 {
            host.sh(&format!("nft -f {}", replace.display()));
        }
        host.sh("nft delete table inet other; nft add table inet last; nft delete table inet last");
        let gone = || status(&host)["agent"]["deleted_tables"].to_string();
        wait_for("the news", || gone().contains("inet last"));
        let gone = gone();
        assert_eq!(gone.matches("inet other").count(), 1, "{gone}");
    });
}

#[test]
fn errors_of_system_calls_that_pass_do_not_end_the_agent() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        let listen = "127.0.0.1:9469";
        let mut agent = Agent::start(&host, &path, &["--metrics-listen", listen]);
        let mut peer = 10;
        for fault in [
            "poll,ppoll:error=ENOMEM:when=1..5",
            "poll,ppoll:error=EAGAIN:when=1..5",
            "poll,ppoll:error=EINTR:when=1..5",
            "accept,accept4:error=EMFILE:when=1..5",
            "accept,accept4:error=ENOMEM:when=1..5",
            "accept,accept4:error=ECONNABORTED:when=1..5",
            "recvfrom,recvmsg:error=ENOMEM:when=1..3",
            "sendto,sendmsg:error=ENOBUFS:when=1..3",
            "read:error=ENOMEM:when=1..3",
            "setsockopt:error=ENOMEM:when=1..3",
            "flock:error=EINTR:when=1..3",
        ] {
            let mut strace = host.command("strace");
            strace.args([
                "-qq",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                &format!("inject={fault}"),
                "-p",
                &agent.pid().to_string(),
            ]);
            let mut strace = strace
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let traced = || {
                fs::read_to_string(format!("/proc/{}/status", agent.pid()))
                    .unwrap()
                    .lines()
                    .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            };
            wait_for("strace", traced);
            // The policy changes, somebody asks, and somebody changes the rules, meanwhile.
            peer += 1;
            let address = format!("192.0.2.{peer}");
            fs::write(&path, POLICY.replace("192.0.2.9", &address)).unwrap();
            let mut stream = host.run(|| TcpStream::connect(listen).unwrap());
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            host.sh("nft add table inet other; nft delete table inet other");
            let holds = || {
                host.try_sh(&format!(
                    "nft get element inet peerwall peers4 '{{ {address} }}'"
                ))
                .status
                .success()
            };
            wait_for(fault, holds);
            assert!(agent.lives(), "{fault}");
            strace.kill().unwrap();
            strace.wait().unwrap();
            wait_for("an answer", || !status(&host)["agent"]["pid"].is_null());
        }
    });
}

/// A value of `/proc/PID/status`, in KiB.
fn kib(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_connections_cost_little_memory_and_only_for_a_moment() {
    world(|| {
        let host = Host::new("host");
        host.sysctl("net.ipv4.ip_forward", "1");
        host.sh("ip link add eth0 type bridge && ip link set eth0 up && ip route add 10.0.0.0/8 dev eth0");
        let most: u32 = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let wanted =
            std::env::var("PEERWALL_CONNECTIONS").map_or(80_000, |count| count.parse().unwrap());
        let wanted: u32 = wanted.min(most / 4 * 3);
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        fs::write(&path, POLICY.replace("192.0.2.9", "10.0.0.0/8")).unwrap();
        let agent = Agent::start(&host, &path, &["--no-follow"]);
        // Each from another address: no two are of one kind.
        let entries: Vec<_> = (1..=wanted)
            .map(|number| {
                let client = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
                (
                    (
                        TCP,
                        SocketAddr::from((client, 40_000)),
                        at("10.244.1.5", 80),
                    ),
                    3,
                )
            })
            .collect();
        track(&host, &entries);
        drop(entries);
        fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").unwrap();
        let before = kib(agent.pid(), "VmRSS:");
        fs::write(&path, POLICY).unwrap();
        let start = std::time::Instant::now();
        host.peerwall_ok(&["reload", "--force"]);
        let (peak, after) = (kib(agent.pid(), "VmHWM:"), kib(agent.pid(), "VmRSS:"));
        let mut left = tracked(&host);
        // The host itself reports groups (IGMP).
        left.retain(|entry| entry.0 == TCP);
        println!(
            "{wanted} connections: {before} KiB before, {peak} at most, {after} afterwards; {:?}; {} left",
            start.elapsed(),
            left.len()
        );
        assert_eq!(left, BTreeSet::new());
        assert!(
            peak - before <= 64 * 1024,
            "{before} KiB before, {peak} at most"
        );
        assert!(
            after.saturating_sub(before) <= 8 * 1024,
            "{before} KiB before, {after} afterwards"
        );
    });
}
