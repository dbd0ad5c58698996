//! Files that are not what they should be: special files, files and directories that others can
//! write, a lock that somebody holds, a system that is out of file descriptors.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use peerwall_integration::ns::{Host, peerwall_bin, sh, world};

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(15);

fn policy(peer: &str) -> String {
    format!(
        r#"
            version = 1
            [peers]
            p = "{peer}"
            [[allow]]
            name = "ssh"
            ports = ["22/tcp"]
            from = "any"
        "#
    )
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Waits for the end of a process; `None` if it does not come.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// Runs a command that must not hang.
fn run(mut command: Command) -> (Option<i32>, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = ended(&mut child).unwrap_or_else(|| panic!("{command:?} hangs"));
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    (status.code(), said)
}

fn peerwall(host: &Host, args: &[&str]) -> (Option<i32>, String) {
    let mut command = host.command(peerwall_bin());
    command.args(args);
    run(command)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn peers(host: &Host) -> String {
    text(&host.try_sh("nft list set inet peerwall peers4"))
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running agent; killed when it goes out of scope.
struct Agent(Child);

impl Agent {
    fn start(host: &Host, args: &[&str]) -> Self {
        let mut command = host.command(peerwall_bin());
        command.arg("run").args(args);
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    /// Ends it as systemd does.
    fn end(mut self) {
        sh(&format!("kill -TERM {}", self.0.id()));
        let status = ended(&mut self.0).expect("SIGTERM is heard");
        assert!(status.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state_of(host: &Host, name: &str) -> PathBuf {
    Path::new("/run/hosts")
        .join(&host.name)
        .join("state")
        .join(name)
}

/// A policy that has every kind of file, each of them good.
fn with_all_files(base: &Path) -> PathBuf {
    write(&base.join("more.toml"), "[peers]\nmore = \"192.0.2.7\"\n");
    write(&base.join("list"), "192.0.2.8\n");
    write(&base.join("subnet.env"), "FLANNEL_NETWORK=10.244.0.0/16\n");
    let main = base.join("policy.toml");
    let text = format!(
        r#"
            include = ["more.toml"]
            peers_files = ["list"]
            {}
            [overlay.f]
            backend = "none"
            interfaces = ["cni0"]
            discover = "subnet.env"
        "#,
        policy("192.0.2.1")
    );
    write(&main, &text);
    main
}

#[test]
fn no_special_file_hangs_a_command_or_the_agent() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let main = with_all_files(folder.path());
        let main = main.to_str().unwrap();
        host.peerwall_ok(&["check", main]);
        let make_fifo = |path: &Path| mkfifo(path, Mode::S_IRWXU).unwrap();
        for name in ["policy.toml", "more.toml", "list", "subnet.env"] {
            let path = folder.path().join(name);
            let good = fs::read_to_string(&path).unwrap();
            for kind in ["FIFO", "device", "directory"] {
                fs::remove_file(&path).unwrap();
                match kind {
                    "FIFO" => make_fifo(&path),
                    "device" => symlink("/dev/zero", &path).unwrap(),
                    _ => fs::create_dir(&path).unwrap(),
                }
                for command in ["check", "plan", "apply", "render"] {
                    let (code, said) = peerwall(&host, &[command, main]);
                    assert_eq!(code, Some(2), "{command} with a {kind} {name}: {said}");
                    assert!(
                        said.contains(name) && said.contains(kind),
                        "{command} with a {kind} {name}: {said}"
                    );
                }
                match kind {
                    "directory" => fs::remove_dir(&path).unwrap(),
                    _ => fs::remove_file(&path).unwrap(),
                }
                write(&path, &good);
            }
        }
        // At boot, and as the state.
        let state = state_of(&host, "confirmed.json");
        sh(&format!(
            "mkdir -p -m 700 {}",
            state.parent().unwrap().display()
        ));
        for name in ["confirmed.json", "pending.json", "discovered.json"] {
            make_fifo(&state_of(&host, name));
        }
        let (code, said) = peerwall(&host, &["boot", main]);
        assert!(
            code == Some(0) && said.contains("confirmed.json: it is a FIFO"),
            "{said}"
        );
        assert!(peers(&host).contains("192.0.2.7"), "{}", peers(&host));
        for name in ["confirmed.json", "pending.json", "discovered.json"] {
            fs::remove_file(state_of(&host, name)).unwrap();
        }

        // While the agent runs.
        let agent = Agent::start(
            &host,
            &[
                main,
                "--metrics-file",
                folder.path().join("metrics.prom").to_str().unwrap(),
            ],
        );
        let status = || peerwall(&host, &["status", "--json", "/nowhere"]).1;
        wait_for("the first apply", || {
            status().contains("\"in_sync_seconds\": ")
        });
        wait_for("the metrics", || {
            folder.path().join("metrics.prom").exists()
        });
        fs::remove_file(folder.path().join("metrics.prom")).unwrap();
        make_fifo(&folder.path().join("metrics.prom"));
        for name in ["list", "policy.toml"] {
            fs::remove_file(folder.path().join(name)).unwrap();
            make_fifo(&folder.path().join(name));
            wait_for("the error", || {
                status().contains(&format!("{name}: it is a FIFO"))
            });
        }
        assert!(peers(&host).contains("192.0.2.8"), "the rules stay");
        agent.end();
    });
}

#[test]
fn what_others_can_write_is_judged_as_it_was_opened() {
    world(|| {
        let host = Host::new("host");
        if Path::new("/proc/self/uid_map").exists()
            && !fs::read_to_string("/proc/self/uid_map")
                .unwrap()
                .contains("4294967295")
        {
            // As an ordinary user there is nobody else here.
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
        let main = with_all_files(base);
        let main = main.to_str().unwrap();
        host.peerwall_ok(&["apply", main]);
        host.peerwall_ok(&["remove"]);
        for name in ["policy.toml", "more.toml", "list", "subnet.env"] {
            sh(&format!("chown 65534 {}", base.join(name).display()));
            let (code, said) = peerwall(&host, &["apply", main]);
            assert!(
                code == Some(2) && said.contains(&format!("{name} belongs to user 65534")),
                "{said}"
            );
            for command in ["check", "plan"] {
                let (_, said) = peerwall(&host, &[command, main]);
                assert!(
                    said.contains("warning:") && said.contains("apply refuses this"),
                    "{command}: {said}"
                );
            }
            sh(&format!("chown 0 {}", base.join(name).display()));
        }
        // A directory on the way, also to where a link goes.
        let below = base.join("below");
        fs::create_dir(&below).unwrap();
        write(&below.join("policy.toml"), &policy("192.0.2.2"));
        symlink(below.join("policy.toml"), base.join("link.toml")).unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o777)).unwrap();
        for path in ["below/policy.toml", "link.toml"] {
            let path = base.join(path);
            let path = path.to_str().unwrap();
            let (code, said) = peerwall(&host, &["apply", path]);
            assert!(
                code == Some(2) && said.contains("below can be written by others"),
                "{said}"
            );
            peerwall(&host, &["apply", "--insecure-permissions", path]);
            assert!(peers(&host).contains("192.0.2.2"));
            host.peerwall_ok(&["remove"]);
        }
        // Gone, or another, by the time it is looked at: what was read is what is judged.
        let raced = below.join("raced.toml");
        for _ in 0..5 {
            let padding = "# padding\n".repeat(80_000);
            write(
                &raced,
                &format!(
                    r#"
                        version = 1
                        [[allow]]
                        name = "backdoor"
                        from = "any"
                        {padding}
                    "#
                ),
            );
            sh(&format!("chown 65534 {}", raced.display()));
            let inotify = Inotify::init(InitFlags::empty()).unwrap();
            inotify
                .add_watch(&raced, AddWatchFlags::IN_CLOSE_NOWRITE)
                .unwrap();
            let attacker = std::thread::spawn({
                let raced = raced.clone();
                move || {
                    inotify.read_events().unwrap();
                    fs::remove_file(raced).unwrap();
                }
            });
            let (code, said) = peerwall(&host, &["apply", raced.to_str().unwrap()]);
            attacker.join().unwrap();
            assert!(
                code == Some(2) && said.contains("raced.toml belongs to user 65534"),
                "{said}"
            );
        }
        assert!(!host.sh("nft list tables").contains("peerwall"));
    });
}

#[test]
fn the_state_is_roots_alone_and_refused_where_it_is_not() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        write(&path, &policy("192.0.2.1"));
        let main = path.to_str().unwrap();
        host.sh(&format!(
            "umask 0; {} apply {main}",
            peerwall_bin().display()
        ));
        let state = state_of(&host, "");
        let modes = sh(&format!("stat -c '%a %n' {0} {0}/*", state.display()));
        for line in modes.lines() {
            assert!(
                line.starts_with("700 ") || line.starts_with("600 "),
                "{modes}"
            );
        }
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        for command in ["history", "rollback"] {
            let (code, said) = peerwall(&host, &[command]);
            assert!(
                code == Some(2) && said.contains("state can be written by others (mode 777)"),
                "{command}: {said}"
            );
        }
        let (code, said) = peerwall(&host, &["apply", "--confirm", "60s", main]);
        assert!(
            code == Some(2) && said.contains("can be written by others"),
            "{said}"
        );
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();

        // Somebody of root's who holds the lock is named, and not waited for without end.
        write(&path, &policy("192.0.2.2"));
        let mut holder = Command::new("flock")
            .args([state_of(&host, "lock").to_str().unwrap(), "sleep", "60"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let (code, said) = peerwall(&host, &["apply", main]);
        assert!(
            code == Some(0) && said.contains("has locked it for too long"),
            "{said}"
        );
        assert!(
            said.contains(&format!("flock (pid {})", holder.id())),
            "{said}"
        );
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
}

#[test]
fn a_system_out_of_file_descriptors_says_nothing_about_the_policy() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let main = with_all_files(folder.path());
        let mut few = host.command("sh");
        few.args([
            "-c",
            &format!(
                "exec 3</dev/null 4</dev/null; ulimit -n 6; exec {} check {}",
                peerwall_bin().display(),
                main.display()
            ),
        ]);
        let (code, said) = run(few);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("Too many open files")
                && said.contains("a transient error of the system"),
            "{said}"
        );
    });
}
#[test]
fn no_path_decides_which_iptables_runs() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        write(&path, &policy("192.0.2.1"));
        let (trace, evil) = (folder.path().join("trace"), folder.path().join("evil"));
        fs::create_dir(&evil).unwrap();
        for tool in ["iptables", "ip6tables"] {
            for suffix in [
                "",
                "-save",
                "-restore",
                "-nft-save",
                "-legacy-save",
                "-nft-restore",
                "-legacy-restore",
            ] {
                let shim = evil.join(format!("{tool}{suffix}"));
                write(
                    &shim,
                    &format!("#!/bin/sh\necho $0 >> {}\nexit 1\n", trace.display()),
                );
                fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let apply = |more: &[&str]| {
            let mut command = host.command(peerwall_bin());
            command
                .current_dir(&evil)
                .args(["apply", "--backend", "iptables", "--force"])
                .args(more)
                .arg(&path);
            run(command)
        };
        let unset = |how: &str| {
            host.try_sh(&format!(
                "cd {} && {how} {} apply --backend iptables --force {}",
                evil.display(),
                peerwall_bin().display(),
                path.display()
            ))
        };
        for how in [
            "env -u PATH",
            "env PATH=",
            "env PATH=.:",
            &format!("env PATH={}:/usr/sbin:/usr/bin", evil.display()),
        ] {
            let output = unset(how);
            assert!(
                output.status.success(),
                "{how}: {}{}",
                text(&output),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(
                !trace.exists(),
                "{how}: {}",
                fs::read_to_string(&trace).unwrap()
            );
        }
        // Only an explicit request gets another one.
        let evil = evil.display().to_string();
        let (code, _) = apply(&["--iptables", &evil]);
        assert!(code == Some(2) && trace.exists());
        for wrong in ["evil", "/nowhere", path.to_str().unwrap()] {
            let (code, said) = apply(&["--iptables", wrong]);
            assert!(code == Some(2) && said.contains("--iptables"), "{said}");
        }
    });
}
