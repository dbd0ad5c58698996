//! An apply that repeats the last one reads neither policy nor rules, and whatever changed in
//! between makes it a whole one.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use peerwall_integration::ns::{Host, peerwall_bin, world};

/// Enough for a record of the last load that an apply can rely on.
const PEERS: u32 = 1100;
const REPEATED: &str = "are those of the last apply";

fn list(first: u32) -> String {
    let lines = (first..first + PEERS).map(|n| format!("10.{}.{}.1\n", n / 250, n % 250));
    lines.collect()
}

struct Node {
    host: Host,
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            host: Host::new("host"),
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(node.path("peers.txt"), list(0)).unwrap();
        fs::create_dir(node.path("d")).unwrap();
        node.write("");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn policy(&self) -> String {
        self.path("policy.toml").display().to_string()
    }

    fn write(&self, more: &str) {
        let policy = format!(
            "version = 1\ninclude = [\"d/*.toml\"]\npeers_files = [\"peers.txt\"]\n{more}\n\
             [[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n"
        );
        fs::write(self.policy(), policy).unwrap();
    }

    fn apply(&self, more: &[&str]) -> (bool, Output) {
        let output = self
            .host
            .peerwall(&[&["-vv", "apply", &self.policy()], more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        (said.contains(REPEATED), output)
    }

    /// Applies, and requires that the kernel then has what the policy says, and the next boot too.
    fn applied(&self, what: &str) -> bool {
        let (is_repeated, output) = self.apply(&[]);
        assert!(output.status.success(), "{what}: {output:?}");
        self.assert_in_force(what);
        is_repeated
    }

    fn assert_in_force(&self, what: &str) {
        // Reads the policy and every element of the kernel.
        let status = self.host.peerwall(&["status", "--deep", &self.policy()]);
        assert!(status.status.success(), "{what}: {status:?}");
        let stored = self.stored();
        let last = stored
            .iter()
            .max()
            .unwrap_or_else(|| panic!("{what}: nothing stored"));
        let text = fs::read_to_string(last).unwrap();
        let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(stored.get("chains").is_some(), "{what}: {text}");
    }

    fn state(&self) -> PathBuf {
        Path::new("/run/hosts/host/state").to_owned()
    }

    fn stored(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.state()).unwrap();
        let names = all.map(|entry| entry.unwrap().path());
        let is_ruleset = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("ruleset-")
        };
        names.filter(is_ruleset).collect()
    }
}

#[test]
fn whatever_changed_since_the_last_apply_is_seen_by_the_next() {
    world(|| {
        let node = Node::new();
        assert!(!node.applied("the first"), "there was nothing to repeat");
        let set_mode = |name: &str, mode: u32| {
            fs::set_permissions(node.path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let damage = |path: &Path| {
            let length = fs::metadata(path).unwrap().len();
            fs::write(path, "x".repeat(usize::try_from(length).unwrap())).unwrap();
        };
        let changes: [(&str, &dyn Fn()); 13] = [
            ("another list", &|| {
                fs::write(node.path("peers.txt"), list(7)).unwrap();
            }),
            ("a list of the same size, and the old time", &|| {
                let list = node.path("peers.txt");
                let time = fs::metadata(&list).unwrap().modified().unwrap();
                let text = fs::read_to_string(&list).unwrap();
                fs::write(&list, text.replacen("10.4.106.1", "10.4.206.1", 1)).unwrap();
                let file = fs::File::options().write(true).open(&list).unwrap();
                file.set_modified(time).unwrap();
            }),
            ("a comment", &|| node.write("# changed")),
            ("a new include", &|| {
                fs::write(node.path("d/a.toml"), "[peers]\nlate = \"203.0.113.9\"\n").unwrap();
            }),
            ("an include that is gone", &|| {
                fs::remove_file(node.path("d/a.toml")).unwrap();
            }),
            ("an interface of the host", &|| {
                drop(node.host.sh("ip link add other type veth peer name end"));
            }),
            ("an address of the host", &|| {
                drop(
                    node.host
                        .sh("ip address add 192.0.2.77/24 dev other; ip link set other up"),
                );
            }),
            ("a deleted table", &|| {
                drop(node.host.sh("nft delete table inet peerwall"));
            }),
            ("a deleted element", &|| {
                let delete = "nft delete element inet peerwall peers4 '{ 10.2.1.1 }'";
                drop(node.host.sh(delete));
            }),
            ("a table of another program", &|| {
                drop(node.host.sh("nft add table ip other"));
            }),
            ("a damaged ruleset for the next boot", &|| {
                damage(node.stored().iter().max().unwrap());
            }),
            ("a lost history", &|| {
                fs::remove_file(node.state().join("confirmed.json")).unwrap();
            }),
            ("another program of peerwall", &|| {
                // Another build can make other rules of the same policy.
                let run = fs::read_dir("/run/peerwall").unwrap();
                let note = run.map(|entry| entry.unwrap().path());
                let note = note.filter(|path| path.display().to_string().contains("applied-"));
                for path in note {
                    let text = fs::read_to_string(&path).unwrap();
                    let (before, after) = text.split_once("\"program\":{\"device\":").unwrap();
                    fs::write(path, format!("{before}\"program\":{{\"device\":9{after}")).unwrap();
                }
            }),
        ];
        for (what, change) in changes {
            // Changes of another program's tables are recorded by the next apply.
            let is_armed = (0..3).any(|_| node.applied(what));
            assert!(is_armed, "before {what}: no apply was a repetition");
            change();
            assert!(!node.applied(what), "{what} was not seen");
        }

        // Each ssh session has another port, and one from elsewhere may be locked out.
        let by_ssh = |client: &str| {
            let mut apply = node.host.command(peerwall_bin());
            apply.env("SSH_CONNECTION", format!("{client} 192.0.2.77 22"));
            let output = apply
                .args(["-vv", "apply", &node.policy()])
                .output()
                .unwrap();
            assert!(output.status.success(), "{client}: {output:?}");
            String::from_utf8_lossy(&output.stderr).contains(REPEATED)
        };
        assert!(!by_ssh("10.2.1.1 50000"));
        assert!(by_ssh("10.2.1.1 50001"));
        assert!(!by_ssh("10.2.2.1 50001"));

        // What an apply refuses, it also refuses then.
        assert!((0..2).any(|_| node.applied("armed")));
        set_mode("peers.txt", 0o666);
        let (is_repeated, output) = node.apply(&[]);
        assert_eq!((is_repeated, output.status.code()), (false, Some(2)));
        set_mode("peers.txt", 0o644);
        assert!((0..2).any(|_| node.applied("the mode is back")));

        // Options that an apply without changes obeys, too.
        for options in [
            ["--confirm", "60s"].as_slice(),
            &["--backend", "nft"],
            &["--force"],
            &["--end-refused"],
            &["--insecure-permissions"],
            &["--verify", "kernel"],
        ] {
            let (is_repeated, output) = node.apply(options);
            assert!(!is_repeated, "{options:?}: {output:?}");
            assert!(output.status.success(), "{options:?}: {output:?}");
            if options[0] == "--confirm" {
                let (is_repeated, output) = node.apply(&[]);
                assert_eq!(
                    (is_repeated, output.status.code()),
                    (false, Some(2)),
                    "on trial"
                );
                drop(node.host.peerwall_ok(&["confirm"]));
            }
        }
        assert!((0..2).any(|_| node.applied("plain again")));

        // The same answer, for people and for programs.
        let (is_repeated, text) = node.apply(&[]);
        let (is_json_repeated, json) = node.apply(&["--json"]);
        assert!(is_repeated && is_json_repeated);
        drop(node.host.sh("nft add table ip again"));
        let (is_repeated, whole) = node.apply(&[]);
        assert!(!is_repeated);
        assert_eq!(text.stdout, whole.stdout);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["outcome"], "unchanged");
        assert_eq!(json["policy"], node.policy());

        // A blocked host stays blocked.
        assert!((0..2).any(|_| node.applied("armed")));
        drop(node.host.peerwall_ok(&["block"]));
        let (is_repeated, output) = node.apply(&[]);
        assert_eq!(
            (is_repeated, output.status.code()),
            (false, Some(2)),
            "{output:?}"
        );
    });
}

#[test]
fn warnings_are_repeated_until_their_cause_is_gone() {
    world(|| {
        let node = Node::new();
        node.write(
            "[overlay.flannel]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n\
             interfaces = [\"flannel0\"]\n",
        );
        let (is_repeated, whole) = node.apply(&[]);
        assert!(!is_repeated && whole.status.success(), "{whole:?}");
        let warnings = |output: &Output| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines = said.lines().filter(|line| !line.starts_with('['));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(
            warnings(&whole).join("\n").contains("flannel0"),
            "{whole:?}"
        );
        let (is_repeated, again) = node.apply(&[]);
        assert!(is_repeated, "{again:?}");
        assert_eq!(warnings(&again), warnings(&whole));

        let diagnostics = |output: &Output| {
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            json["diagnostics"].clone()
        };
        let (is_repeated, again) = node.apply(&["--json"]);
        assert!(is_repeated, "{again:?}");
        drop(node.host.sh("nft add table ip other"));
        let (is_repeated, whole) = node.apply(&["--json"]);
        assert!(!is_repeated, "{whole:?}");
        assert_eq!(diagnostics(&again), diagnostics(&whole));

        drop(
            node.host
                .sh("ip link add flannel0 type bridge; ip link set flannel0 up"),
        );
        let (is_repeated, other) = node.apply(&[]);
        assert!(!is_repeated && other.status.success(), "{other:?}");
        assert!(
            !warnings(&other).join("\n").contains("does not exist"),
            "{other:?}"
        );
    });
}
