//! Three hosts, a directory for each run, and the judges.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::place::{Ended, Place};
use crate::ns::peerwall_bin;
use crate::probe;
use crate::target::without_counts;
use crate::traffic::Three;

/// Longest time of a run: a lock is waited for for ten seconds.
const TIME_MAX: Duration = Duration::from_secs(25);
/// How long a guard may live that is not needed any more: it looks every second.
const GUARD_LIVES: Duration = Duration::from_secs(4);
/// Where every run has a directory.
const ROOT: &str = "/run/faults";
/// Where iptables and the last apply leave their notes.
const NOTES: &str = "/run/peerwall";

/// Only the peer and ssh.
pub const POLICY_A: &str = r#"
    version = 1
    [peers]
    friend = ["192.0.2.2", "2001:db8::2"]
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
"#;
/// The same, and a port that is open to all.
pub const POLICY_B: &str = r#"
    version = 1
    [peers]
    friend = ["192.0.2.2", "2001:db8::2"]
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
    [[allow]]
    name = "open"
    ports = ["9001/udp"]
    from = "any"
"#;

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Nothing of peerwall's.
    Nothing,
    /// [`POLICY_A`], whole.
    A,
    /// [`POLICY_B`], whole.
    B,
    /// The closed ruleset.
    Closed,
    /// The ruleset of a blocked host.
    Blocked,
    /// Anything else.
    Other,
}

/// The hosts and what is known of rulesets.
pub struct World {
    three: Three,
    /// Datagrams of the stranger that got in, to the port that is never open to it and to that of
    /// [`POLICY_B`].
    got_in: [Arc<AtomicU64>; 2],
    known: Vec<(Force, String)>,
    serial: u32,
    /// Guards that have to end: since when, of which run.
    leaving: Vec<(PathBuf, Instant, String)>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Makes the hosts, and learns how the rulesets look.
    ///
    /// # Panics
    /// If that fails.
    pub fn new() -> Self {
        let three = Three::new();
        let _ = probe::udp_server(&three.host, "192.0.2.1:9000");
        let got_in = [9000, 9001]
            .map(|port| probe::udp_server(&three.host, &format!("198.51.100.1:{port}")));
        let mut world = Self {
            three,
            got_in,
            known: Vec::new(),
            serial: 0,
            leaving: Vec::new(),
        };
        for by in ["nft", "iptables"] {
            for (force, policy) in [(Force::A, "a.toml"), (Force::B, "b.toml")] {
                let place = world.place();
                world.clean();
                let policy = place.file(policy).display().to_string();
                world.must(&place, &["apply", "--backend", by, &policy]);
                world.known.push((force, world.shot()));
            }
            let place = world.place();
            world.clean();
            let policy = place.file("a.toml").display().to_string();
            world.must(&place, &["apply", "--backend", by, &policy]);
            world.must(&place, &["block", "--no-confirm", "--force"]);
            world.known.push((Force::Blocked, world.shot()));
        }
        let place = world.place();
        world.clean();
        let _ = world.peerwall(&place, &["boot", "/nowhere"], &[]);
        world.known.push((Force::Closed, world.shot()));
        world.clean();
        world.known.push((Force::Nothing, world.shot()));
        world
    }

    /// A new directory.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn place(&mut self) -> Place {
        self.serial += 1;
        let path = Path::new(ROOT).join(self.serial.to_string());
        fs::create_dir_all(&path).expect("/run is a world's own");
        let place = Place { path };
        for (name, text) in [
            ("a.toml", POLICY_A),
            ("b.toml", POLICY_B),
            ("policy.toml", POLICY_A),
        ] {
            fs::write(place.file(name), text).expect("/run has room");
        }
        place
    }

    /// Removes every rule, and the notes of what was applied: as if the machine had been started
    /// again.
    pub fn clean(&self) {
        let host = &self.three.host;
        host.sh("nft flush ruleset; \
             for t in ip ip6; do \
                 for n in $(cat /proc/net/${t}_tables_names 2>/dev/null); do \
                     ${t}tables-legacy -t $n -F; ${t}tables-legacy -t $n -X; \
                 done; \
             done; \
             ipset destroy 2>/dev/null; true");
        let _ = fs::remove_dir_all(NOTES);
    }

    /// A command of peerwall's in the host's network.
    pub fn command(&self, place: &Place, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.three.host.command(program);
        command
            .env("PEERWALL_STATE", place.state())
            .env("PEERWALL_RUN", place.file("run"))
            .env_remove("SSH_CONNECTION");
        command
    }

    /// Runs peerwall without a fault.
    ///
    /// # Panics
    /// If the program is not built.
    pub fn peerwall(
        &self,
        place: &Place,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> (Option<i32>, String) {
        let mut command = self.command(place, peerwall_bin());
        let output = command.args(args).envs(env.iter().copied()).output();
        let output = output.expect("the peerwall program is built");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// Runs peerwall without a fault.
    ///
    /// # Panics
    /// If it fails.
    pub fn must(&self, place: &Place, args: &[&str]) -> String {
        let (code, said) = self.peerwall(place, args, &[]);
        assert_eq!(code, Some(0), "peerwall {args:?}: {said}");
        said
    }

    /// Runs peerwall with a fault.
    ///
    /// # Panics
    /// If there is no strace.
    pub fn traced(&self, place: &Place, args: &[&str], fault: Option<&Fault>) -> Ended {
        let (log, said) = (place.file("log"), place.file("said"));
        let mut command = self.command(place, "strace");
        strace(&mut command, place, fault);
        command.arg(peerwall_bin()).args(args);
        let out = fs::File::create(&said).expect("/run has room");
        let err = out.try_clone().expect("a file can be shared");
        let begun = Instant::now();
        let child = command.stdout(out).stderr(err).spawn();
        let mut child = child.expect("strace is installed");
        let status = loop {
            match child.try_wait().expect("it is our child") {
                Some(status) => break Some(status),
                None if begun.elapsed() > TIME_MAX => {
                    self.end_processes(place);
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ended {
            status,
            said: read(&said),
            log: read(&log),
            took: begun.elapsed(),
        }
    }

    /// What is in force, as `nft` and `iptables-save` show it.
    pub fn force(&self) -> Force {
        let shot = self.shot();
        let known = self.known.iter().find(|(_, known)| *known == shot);
        known.map_or(Force::Other, |(force, _)| *force)
    }

    /// Rules of peerwall's in the words of others, without what counts.
    fn shot(&self) -> String {
        let text = self.three.host.sh(
            "nft list table inet peerwall 2>/dev/null; echo ==; \
             iptables-nft-save; ip6tables-nft-save; \
             for t in ip ip6; do [ ! -e /proc/net/${t}_tables_names ] || ${t}tables-legacy-save; done; \
             ipset save 2>/dev/null; true",
        );
        let (table, saved) = text.split_once("==\n").unwrap_or((&text, ""));
        let ours = saved
            .lines()
            .filter(|line| line.to_lowercase().contains("peerwall"));
        // What was added later is listed later.
        let table = without_counts(table);
        let mut objects: Vec<&str> = table
            .split_inclusive("\n\t}\n")
            .map(str::trim_start)
            .collect();
        objects.sort_unstable();
        let mut shot = objects.concat();
        shot.extend(ours.map(|line| format!("{}\n", line.split(" [").next().unwrap_or(line))));
        shot
    }

    /// Sends packets of the peer and of the stranger; what is wrong with the answers.
    pub fn probe(&self, force: Force) -> Vec<String> {
        let before = self
            .got_in
            .each_ref()
            .map(|count| count.load(Ordering::SeqCst));
        self.three.stranger.run(|| {
            for port in [9000, 9001] {
                let sent = UdpSocket::bind("0.0.0.0:0")
                    .and_then(|socket| socket.send_to(b"!", ("198.51.100.1", port)));
                sent.expect("the wire is there");
            }
        });
        let is_friend_in = matches!(force, Force::Nothing | Force::A | Force::B);
        let patience = if is_friend_in {
            probe::PATIENCE
        } else {
            Duration::from_millis(60)
        };
        let answered = probe::udp(&self.three.friend, "192.0.2.1:9000", patience);
        thread::sleep(Duration::from_millis(3));
        let mut wrong = Vec::new();
        if answered != is_friend_in {
            wrong.push(format!(
                "{force:?} is loaded, and a peer is answered: {answered}"
            ));
        }
        let wanted = [
            force == Force::Nothing,
            matches!(force, Force::Nothing | Force::B),
        ];
        for (index, port) in [9000, 9001].into_iter().enumerate() {
            let got_in = || self.got_in[index].load(Ordering::SeqCst) > before[index];
            let until = Instant::now() + probe::PATIENCE;
            while wanted[index] && !got_in() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
            if got_in() != wanted[index] {
                wrong.push(format!(
                    "{force:?} is loaded, and a stranger gets in at {port}: {}",
                    got_in()
                ));
            }
        }
        // A trial may have been rolled back in between.
        match wrong.is_empty() || self.force() == force {
            true => wrong,
            false => Vec::new(),
        }
    }

    /// Starts the machine again with this state: what `boot` loads, and what it says.
    pub fn boot(&mut self, place: &Place) -> (Force, Option<i32>, String) {
        let copy = self.place();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(place.state())
            .arg(copy.state())
            .stderr(Stdio::null())
            .status();
        copied.expect("there is cp");
        self.clean();
        let policy = copy.file("b.toml").display().to_string();
        let (code, said) =
            self.peerwall(&copy, &["boot", &policy], &[("PEERWALL_BOOT_ID", "next")]);
        let _ = fs::remove_dir_all(&copy.path);
        (self.force(), code, said)
    }

    /// Processes of peerwall's that belong to a directory.
    pub fn processes(place: &Place) -> Vec<i32> {
        let program = peerwall_bin();
        let wanted = format!("PEERWALL_STATE={}", place.state().display());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let is_ours = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
            is_ours
                && environ
                    .split(|byte| *byte == 0)
                    .any(|each| each == wanted.as_bytes())
        })
        .collect()
    }

    /// Waits until the programs of iptables that a killed process left behind have ended: what they
    /// change is not in force before that.
    pub fn wait_for_tools() {
        let is_tool = |name: &str| {
            let tools = ["iptables", "ip6tables", "xtables", "ipset"];
            tools.iter().any(|tool| name.starts_with(tool))
        };
        for _ in 0..100 {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let mut names =
                entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
            if !names.any(|name| is_tool(&name)) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills what still runs in a directory.
    pub fn end_processes(&self, place: &Place) {
        for pid in Self::processes(place) {
            // SAFETY: kill(2) touches no memory; the process is in this world, and was started by
            // it.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Notes that nothing of a run may be left in a moment, and takes its directory away then.
    pub fn leave(&mut self, place: Place, run: &str) {
        self.leaving
            .push((place.path, Instant::now() + GUARD_LIVES, run.to_owned()));
    }

    /// Processes that should have ended; with `all`, waits for all of them.
    pub fn overdue(&mut self, all: bool) -> Vec<String> {
        reap();
        let mut flags = Vec::new();
        loop {
            for (path, until, run) in std::mem::take(&mut self.leaving) {
                let place = Place { path };
                let left = Self::processes(&place);
                if left.is_empty() {
                    let _ = fs::remove_dir_all(&place.path);
                } else if Instant::now() > until {
                    flags.push(format!("{run}: processes are left behind: {left:?}"));
                    self.end_processes(&place);
                } else {
                    self.leaving.push((place.path, until, run));
                }
            }
            if !all || self.leaving.is_empty() {
                return flags;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The host.
    pub fn three(&self) -> &Three {
        &self.three
    }
}

/// What strace is told.
pub(super) fn strace(command: &mut Command, place: &Place, fault: Option<&Fault>) {
    command.args(["-qq", "-o"]).arg(place.file("log"));
    if let Some(fault) = fault {
        command.args(["-e", &format!("trace={}", fault.call)]);
        command.args(["-e", &format!("inject={}", fault.injection())]);
    }
}

/// Collects orphans that ended: this process is the first of its namespace, and adopts them.
fn reap() {
    // SAFETY: waitpid(2) with no place for a status touches no memory; no child of this process
    // runs now that is waited for, except agents, and those are asked for by their own ids.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WNOTHREAD) } > 0
    {
    }
}
