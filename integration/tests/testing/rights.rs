//! `peerwall test` without root, where namespaces are not permitted, and when it is killed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use peerwall_integration::ns::{Host, peerwall_bin, sh, world};

const POLICY: &str = r#"version = 1
[[allow]]
name = "ssh"
ports = ["22/tcp"]
from = "any"
[[expect]]
from = "198.51.100.7"
port = "22/tcp"
verdict = "accept"
"#;

/// A directory that every user can read, with the program and a policy.
fn shared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(peerwall_bin(), folder.path().join("peerwall")).unwrap();
    fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
    folder
}

#[test]
fn an_ordinary_user_tests_by_the_kernel() {
    let folder = shared();
    let program = folder.path().join("peerwall");
    let mut command = match nix::unistd::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
            ]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    };
    let output = command
        .args(["test", "--kernel", "--junit", "junit.xml", "policy.toml"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{errors}");
    assert!(
        text.starts_with("policy.toml: 1 test: 1 passed; 1 packet through Linux"),
        "{text}"
    );
    let junit = fs::read_to_string(folder.path().join("junit.xml")).unwrap();
    assert!(junit.contains("tests=\"1\" failures=\"0\""), "{junit}");
}

#[test]
fn a_system_without_namespaces_is_told_and_with_kernel_an_error() {
    world(|| {
        let folder = shared();
        let run = |options: &str| {
            // No user namespace in this one, and no right to create other namespaces.
            let script = format!(
                "echo 0 >/proc/sys/user/max_user_namespaces && cd {} && exec setpriv \
                 --bounding-set=-sys_admin --inh-caps=-all ./peerwall test {options} policy.toml",
                folder.path().display()
            );
            Command::new("unshare")
                .args(["--user", "--map-root-user", "sh", "-c", &script])
                .output()
                .unwrap()
        };
        let output = run("");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{text}{errors}");
        assert!(
            errors.starts_with("note: only the evaluator was asked: "),
            "{errors}"
        );
        assert!(
            errors.contains("user.max_user_namespaces above 0"),
            "{errors}"
        );
        assert!(text.contains("1 passed; by the evaluator only"), "{text}");
        let output = run("--kernel");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains("does not permit namespaces"), "{errors}");
        let output = run("--no-kernel");
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    });
}

/// The network namespaces of all processes of this world.
fn namespaces() -> String {
    sh("lsns --type net --noheadings --output NS | sort")
}

#[test]
fn nothing_is_left_when_it_ends_and_when_it_is_killed() {
    world(|| {
        let host = Host::new("ci");
        let packets: String = (0..4000)
            .map(|port| format!("drop from 198.51.100.7 port {}/udp\n", 1000 + port))
            .collect();
        fs::write("/run/policy.toml", POLICY).unwrap();
        fs::write("/run/packets.txt", packets).unwrap();
        let before = namespaces();
        host.peerwall_ok(&["test", "--kernel", "/run/policy.toml"]);
        assert_eq!(namespaces(), before);
        let mut child = host
            .command(peerwall_bin())
            .args([
                "test",
                "--kernel",
                "/run/policy.toml",
                "--packets",
                "/run/packets.txt",
            ])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Until the namespace of the test exists.
        let mut tries = 0;
        while namespaces() == before {
            tries += 1;
            assert!(tries < 500, "no namespace was created");
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none(), "it was over too early");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(namespaces(), before);
        let left = sh("ps -eo comm= | grep -c peerwall || true");
        assert_eq!(left.trim(), "0", "a process is left");
        assert_eq!(host.sh("nft list ruleset"), "");
    });
}
