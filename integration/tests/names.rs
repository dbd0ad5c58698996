//! Names that others choose: of processes and tables that change rules.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use peerwall_integration::ns::{Host, peerwall_bin, sh, world};

const PATIENCE: Duration = Duration::from_secs(15);
/// Clears the screen, and is not UTF-8.
const NAME: &[u8] = b"ev\xff\x1b[2J";
const SHOWN: &str = "ev\u{fffd}\\u{1b}[2J";

/// Killed when it goes out of scope.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_process_with_any_name_is_named_and_counted_and_gives_no_terminal_orders() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        fs::write(
            &policy,
            r#"
                version = 1
                [peers]
                p = "192.0.2.1"
            "#,
        )
        .unwrap();
        let nft = folder.path().join(OsStr::from_bytes(NAME));
        fs::copy(sh("command -v nft").trim_end(), &nft).unwrap();
        let change = |arguments: &[&str]| {
            let status = host.command(&nft).args(arguments).status().unwrap();
            assert!(status.success(), "{arguments:?}");
        };
        change(&["add", "table", "ip", "others"]);
        let log = folder.path().join("log");
        let metrics = folder.path().join("metrics.sock");
        let mut command = host.command(peerwall_bin());
        command
            .arg("run")
            .arg(&policy)
            .args(["--no-owner", "--metrics-listen"]);
        command.arg(format!("unix:{}", metrics.display()));
        command
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        let _agent = Agent(command.spawn().unwrap());
        let peers = || {
            host.try_sh("nft list set inet peerwall peers4")
                .status
                .success()
        };
        wait_for("the first apply", peers);

        let log = || fs::read_to_string(&log).unwrap();
        change(&["delete", "table", "ip", "others"]);
        wait_for("the loss", || {
            log().contains("deleted the table ip others, which is not ours")
        });
        change(&["delete", "table", "inet", "peerwall"]);
        wait_for("the repair", || {
            log().contains("repaired the rules after a change by")
        });
        let status = host.peerwall(&["status", policy.to_str().unwrap()]);
        let status = String::from_utf8(status.stdout).unwrap();
        for said in [&log(), &status] {
            assert!(said.contains(SHOWN), "{said}");
            assert!(
                !said.chars().any(|c| c.is_control() && c != '\n'),
                "{said:?}"
            );
        }
        assert!(
            status.contains("gone:       ") && status.contains("ip others"),
            "{status}"
        );
        let mut stream = UnixStream::connect(&metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut counted = String::new();
        stream.read_to_string(&mut counted).unwrap();
        assert!(
            counted.contains("peerwall_repairs_total{process=\"ev\u{fffd}\\\\u{1b}[2J\"} 1"),
            "{counted}"
        );
    });
}
