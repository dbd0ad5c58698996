//! Network namespaces: a world of its own for each test, and hosts in it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Set in the process that is inside: a file that it removes when it gets there.
const INSIDE: &str = "PEERWALL_TEST_WORLD";

/// Runs the body of a test in user (when not root), network, mount and process namespaces of its
/// own. The test binary restarts itself for this one test, because a process with threads cannot
/// enter a user namespace. The type of the closure names the test.
///
/// # Panics
/// If the test fails or does not run: when namespaces are not available, or when the closure is not
/// written in the test function itself.
pub fn world<F: FnOnce()>(body: F) {
    if let Some(pending) = std::env::var_os(INSIDE) {
        std::fs::remove_file(pending).expect("the outer process made this file");
        prepare();
        return body();
    }
    let test = test_of::<F>();
    let pending = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let me = std::env::current_exe().expect("/proc is mounted");
    // SAFETY: geteuid cannot fail and touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let mut unshare = Command::new("unshare");
    if !root {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    let status = unshare
        .arg(me)
        .args([
            "--exact",
            test,
            "--nocapture",
            "--test-threads=1",
            "--include-ignored",
        ])
        .env(INSIDE, pending.path())
        // `/run` is a world's own; `/var/lib` is not.
        .env("PEERWALL_STATE", "/run/peerwall-state")
        .stdin(Stdio::null())
        .status()
        .unwrap_or_else(|err| panic!("{test}: cannot run unshare(1): {err}"));
    assert!(
        status.success(),
        "{test} failed in its namespaces ({status}). If it says `unshare failed`: an ordinary user \
         needs kernel.unprivileged_userns_clone=1 and user.max_user_namespaces>0"
    );
    assert!(
        !pending.path().exists(),
        "{test} did not run: no test of this binary has that name. Call `world` in the test itself"
    );
}

/// Returns the name that libtest gives to the function in which the closure `F` is written.
fn test_of<F>() -> &'static str {
    let closure = std::any::type_name::<F>();
    let function = closure.trim_end_matches("::{{closure}}");
    function.split_once("::").map_or(function, |(_, path)| path)
}

/// What a fresh world lacks: a `/run` to write in (xtables lock, named namespaces), loopback.
///
/// # Panics
/// If that cannot be had.
pub fn prepare() {
    sh(
        "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip link set lo up",
    );
}

/// Runs a shell command and returns what it printed.
///
/// # Panics
/// If it fails.
pub fn sh(command: &str) -> String {
    let output = try_sh(command);
    assert!(
        output.status.success(),
        "{command}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell command.
///
/// # Panics
/// If there is no shell.
pub fn try_sh(command: &str) -> Output {
    Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output()
        .expect("there is a shell")
}

/// A host: a network namespace with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name, as `ip netns` knows it.
    pub name: String,
}

impl Host {
    /// Makes one, quiet: no IPv6 autoconfiguration, no duplicate address detection, no reverse path
    /// filter, which would hide what our own rules do.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        sh(&format!("ip netns add {name}"));
        let host = Self {
            name: name.to_owned(),
        };
        host.sh("ip link set lo up");
        for (key, value) in [
            ("net.ipv6.conf.all.disable_ipv6", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv6.conf.all.accept_ra", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.rp_filter", "0"),
        ] {
            host.sysctl(key, value);
        }
        host
    }

    /// Runs a closure in the host's network.
    ///
    /// # Panics
    /// If the closure panics, or the namespace cannot be entered.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                body()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a thread in the host's network.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let host = self.clone();
        thread::spawn(move || {
            host.enter();
            body()
        })
    }

    /// Moves this thread, and no other, into the host's network.
    fn enter(&self) {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        setns(&file, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|err| panic!("enter {}: {err}", self.name));
    }

    /// A command that runs in the host's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program);
        command.stdin(Stdio::null());
        // Each host has folders of its own, as it has a network of its own.
        for (variable, folder) in [("PEERWALL_RUN", "run"), ("PEERWALL_STATE", "state")] {
            command.env(variable, format!("/run/hosts/{}/{folder}", self.name));
        }
        command
    }

    /// Runs a shell command in the host's network and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn sh(&self, command: &str) -> String {
        let output = self.try_sh(command);
        assert!(
            output.status.success(),
            "{}: {command}\n{}{}",
            self.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell command in the host's network.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn try_sh(&self, command: &str) -> Output {
        let mut shell = self.command("sh");
        shell
            .args(["-c", command])
            .output()
            .expect("there is a shell")
    }

    /// Runs `peerwall` in the host's network.
    ///
    /// # Panics
    /// If the program is not built.
    pub fn peerwall(&self, args: &[&str]) -> Output {
        self.command(peerwall_bin())
            .args(args)
            .output()
            .expect("the peerwall program is built")
    }

    /// Runs `peerwall` and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn peerwall_ok(&self, args: &[&str]) -> String {
        let output = self.peerwall(args);
        assert!(
            output.status.success(),
            "{}: peerwall {args:?}: {}\n{}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sets a sysctl of the host's network, if the kernel has it.
    ///
    /// # Panics
    /// If it is there and cannot be set.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| {
            if Path::new(&path).exists() {
                std::fs::write(&path, value).unwrap_or_else(|err| panic!("{path}: {err}"));
            }
        });
    }
}

/// The `peerwall` program: `PEERWALL_BIN`, or the one that cargo built beside this test.
///
/// # Panics
/// If it is not built: `cargo build` makes it, `scripts/test` does so first.
pub fn peerwall_bin() -> std::path::PathBuf {
    if let Some(path) = std::env::var_os("PEERWALL_BIN") {
        return path.into();
    }
    let me = std::env::current_exe().expect("/proc is mounted");
    let folders = me.ancestors().skip(1).take(2);
    folders
        .map(|folder| folder.join("peerwall"))
        .find(|path| path.is_file())
        .expect("target/…/peerwall is not built; run `cargo build` first")
}
