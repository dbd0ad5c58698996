//! A machine made of namespaces, with a real systemd as process 1: units, control groups, a root of
//! its own.
//!
//! `machine.sh` makes it, and can be run by hand. It ends with its standard input, so it does not
//! outlive the test that started it, however that ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ns::peerwall_bin;
use crate::sources::sources_bin;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Command before the boot: packages can be installed, on top of empty databases of dpkg and rpm.
pub const USR_IS_WRITABLE: &str = "
    mkdir -p /var/usr/upper /var/usr/work /var/usr/local
    mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
    mount --bind /usr/local /var/usr/local
    mount -t overlay overlay -o lowerdir=/usr,upperdir=/var/usr/upper,workdir=/var/usr/work /usr
    mount --bind /var/usr/local /usr/local
    : >/var/lib/dpkg/status
";
/// How long to wait for something that has to happen, on a busy computer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The contents of a machine's root before it starts.
#[derive(Debug)]
pub struct Seed {
    folder: TempDir,
    root_size: String,
}

impl Seed {
    /// The program and its units, as `scripts/install` puts them there, enabled; with this policy.
    ///
    /// # Panics
    /// If that fails.
    pub fn installed(policy: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let output = Command::new(Path::new(REPOSITORY).join("scripts/install"))
            .arg("--root")
            .arg(folder.path())
            .arg("--binary")
            .arg(peerwall_bin())
            .output()
            .expect("there is a shell");
        assert!(output.status.success(), "{}", said(&output));
        let seed = Self {
            folder,
            root_size: "64m".into(),
        };
        seed.write("etc/peerwall/policy.toml", policy);
        // As `systemctl enable` does.
        let wants = seed.path("etc/systemd/system/sysinit.target.wants");
        fs::create_dir_all(&wants).expect("it can be written");
        for unit in ["peerwall-boot.service", "peerwall.service"] {
            symlink(Path::new("..").join(unit), wants.join(unit)).expect("it can be written");
        }
        seed
    }

    /// Nothing of peerwall but its sources and the built program, in `usr/local/src/peerwall`.
    ///
    /// # Panics
    /// If that fails.
    pub fn with_sources() -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let sources = folder.path().join("usr/local/src/peerwall");
        fs::create_dir_all(&sources).expect("it can be written");
        let output = Command::new("cp")
            .args(["-r", "--parents", "scripts", "agent/systemd", "docs"])
            .args(["README.md", "CHANGELOG.md", "policy.toml"])
            .arg(&sources)
            .current_dir(REPOSITORY)
            .output()
            .expect("there is cp");
        assert!(output.status.success(), "{}", said(&output));
        fs::copy(peerwall_bin(), sources.join("peerwall")).expect("it can be written");
        Self {
            folder,
            root_size: "64m".into(),
        }
    }

    /// Packages of the built program, of these kinds of `scripts/package`; each revision in a
    /// directory of `usr/local/packages`. [`USR_IS_WRITABLE`] prepares the machine for dpkg, rpm.
    ///
    /// # Panics
    /// If that fails.
    pub fn with_packages(kinds: &[&str], revisions: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let programs = [peerwall_bin(), sources_bin()];
        // Without its debug information, and hardly compressed: this is about the packages.
        for program in &programs {
            let name = program.file_name().expect("it is a file");
            let stripped = Command::new("strip")
                .arg("-o")
                .arg(folder.path().join(name))
                .arg(program)
                .status();
            let is_stripped = stripped.is_ok_and(|status| status.success());
            assert!(is_stripped, "strip of binutils");
        }
        for revision in revisions {
            let output = Command::new(Path::new(REPOSITORY).join("scripts/package"))
                .arg("--binary")
                .arg(folder.path().join("peerwall"))
                .args(["--revision", revision, "--output"])
                .arg(folder.path().join("usr/local/packages").join(revision))
                .args(kinds)
                .env("DPKG_DEB_COMPRESSOR_LEVEL", "0")
                .env("RPM_PAYLOAD", "w1.gzdio")
                .output()
                .expect("there is a shell");
            assert!(output.status.success(), "{}", said(&output));
        }
        Self {
            folder,
            root_size: "512m".into(),
        }
    }

    /// Makes a symbolic link below `etc`.
    ///
    /// # Panics
    /// If that fails.
    pub fn link(&self, name: &str, to: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be written");
        symlink(to, path).expect("it can be written");
    }

    /// Writes a file below `etc`, `var` or `usr/local`.
    ///
    /// # Panics
    /// If that fails.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be written");
        fs::write(path, text).expect("it can be written");
    }

    /// Options of the tmpfs that is the root: its size, and the like.
    #[must_use]
    pub fn root_size(mut self, options: &str) -> Self {
        self.root_size = options.into();
        self
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it; `first` runs in it before systemd does. It is up when systemd has nothing left to
    /// start.
    ///
    /// # Panics
    /// If it does not come up: it needs root.
    pub fn boot(self, first: &str) -> Machine {
        // SAFETY: geteuid cannot fail and touches nothing.
        let is_root = unsafe { libc::geteuid() } == 0;
        let mut command = match is_root {
            true => Command::new("bash"),
            // An ordinary user cannot make control groups and mounts of this kind.
            false => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "--preserve-env=ROOT_SIZE", "bash"]);
                sudo
            }
        };
        let console = fs::File::create(self.path("console")).expect("it can be written");
        let errors = console.try_clone().expect("it can be written");
        let mut child = command
            .arg(Path::new(REPOSITORY).join("integration/src/machine.sh"))
            .arg(self.folder.path())
            .arg(first)
            .env("ROOT_SIZE", &self.root_size)
            .stdin(Stdio::piped())
            .stdout(console)
            .stderr(errors)
            .spawn()
            .expect("there are bash and, for an ordinary user, sudo");
        let stdin = child.stdin.take();
        let mut machine = Machine {
            process: Process { child, stdin },
            init: String::new(),
            is_root,
            seed: self,
        };
        machine.wait_for(
            "process 1; it needs root, or sudo without a password",
            |machine| {
                let pid = fs::read_to_string(machine.seed.path("pid"));
                pid.is_ok_and(|pid| {
                    machine.init = pid.trim().to_owned();
                    true
                })
            },
        );
        machine.wait_for("the end of the boot", |machine| {
            let state = machine.try_sh("systemctl is-system-running");
            matches!(said(&state).trim(), "running" | "degraded")
        });
        machine
    }
}

/// A machine that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    init: String,
    is_root: bool,
    seed: Seed,
}

/// The script that made a machine, which ends with its standard input.
#[derive(Debug)]
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Machine {
    /// Runs a shell command in it, outside of every unit, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn sh(&self, command: &str) -> String {
        let output = self.try_sh(command);
        assert!(
            output.status.success(),
            "{command}\n{}\n{}",
            said(&output),
            self.journal()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell command in it.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn try_sh(&self, command: &str) -> Output {
        let mut enter = match self.is_root {
            true => Command::new("nsenter"),
            false => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "nsenter"]);
                sudo
            }
        };
        enter
            .args(["--target", &self.init])
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"])
            .args(["env", "-i"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["sh", "-c", command])
            .stdin(Stdio::null())
            .output()
            .expect("there is nsenter")
    }

    /// Starts the machine again, with its files in `etc` and `var`, and nothing else: no rules.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn reboot(self) -> Self {
        let seed = self.seed.folder.path().display().to_string();
        let save = format!(
            "cd {seed} && rm -rf etc var pid && cp -a /proc/{0}/root/etc etc && cp -a /proc/{0}/root/var var",
            self.init
        );
        let output = match self.is_root {
            true => Command::new("sh").args(["-c", &save]).output(),
            false => Command::new("sudo")
                .args(["-n", "sh", "-c", &save])
                .output(),
        };
        let output = output.expect("there is a shell");
        assert!(output.status.success(), "{}", said(&output));
        self.stop().boot("")
    }

    /// Ends it, and returns what it started from.
    fn stop(self) -> Seed {
        drop(self.process);
        self.seed
    }

    /// Waits until a shell command succeeds.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn until(&mut self, command: &str) {
        self.wait_for(command, |machine| machine.try_sh(command).status.success());
    }

    /// What the units of peerwall logged, and the console.
    pub fn journal(&self) -> String {
        let journal = self.try_sh("journalctl --no-pager --boot --unit 'peerwall*'");
        let console = fs::read_to_string(self.seed.path("console")).unwrap_or_default();
        format!("{}\n{console}", said(&journal))
    }

    fn wait_for(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let is_over = !matches!(self.process.child.try_wait(), Ok(None));
            assert!(
                !is_over && start.elapsed() < PATIENCE,
                "{what} did not come\n{}",
                self.journal()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Everything that a command printed.
fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
