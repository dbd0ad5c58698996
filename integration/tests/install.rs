//! scripts/install and scripts/uninstall in a scratch root, and the units.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use peerwall_integration::ns::{peerwall_bin, sh, world};
use peerwall_integration::sources::sources_bin;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What `systemd-analyze security` may make of each unit at most, in tenths. The one that loads the
/// rules at boot has nothing that needs a mount namespace, since it must not fail.
const EXPOSURE_MAX_TENTHS: [(&str, u32); 3] = [
    ("peerwall.service", 20),
    ("peerwall-boot.service", 33),
    ("peerwall-sources.service", 15),
];

fn script(name: &str, args: &[&str]) -> Output {
    let path = Path::new(REPOSITORY).join("scripts").join(name);
    Command::new(path).args(args).output().unwrap()
}

fn install(root: &Path, more: &[&str]) {
    let (root, bin) = (
        root.display().to_string(),
        peerwall_bin().display().to_string(),
    );
    let mut args = vec!["--root", &root, "--binary", &bin];
    args.extend(more);
    let output = script("install", &args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every file below, with its size.
fn tree(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.metadata().unwrap() {
                meta if meta.is_dir() => folders.push(entry.path()),
                meta => found.push((
                    entry.path().strip_prefix(root).unwrap().to_owned(),
                    meta.len(),
                )),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn install_can_be_run_again_and_uninstall_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), &[]);
    let once = tree(root.path());
    for name in [
        "usr/local/sbin/peerwall",
        "usr/local/sbin/peerwall-sources",
        "usr/local/share/man/man8/peerwall-apply.8",
        "usr/local/share/man/man8/peerwall-sources.service.8",
        "usr/local/share/man/man5/peerwall.toml.5",
        "usr/local/share/bash-completion/completions/peerwall",
        "usr/local/share/doc/peerwall/policy.toml",
        "usr/local/share/peerwall/policy.schema.json",
        "etc/systemd/system/peerwall.service",
        "etc/systemd/system/peerwall-boot.service",
        "etc/systemd/system/peerwall-sources.service",
    ] {
        assert!(
            once.iter()
                .any(|(path, len)| path == Path::new(name) && *len > 0),
            "{name}"
        );
    }
    // Units that take other units' places only come when asked for; a policy never does.
    assert!(
        !once
            .iter()
            .any(|(path, _)| path.ends_with("iptables-restore.service"))
    );
    assert!(!root.path().join("etc/peerwall").exists());
    install(root.path(), &[]);
    assert_eq!(tree(root.path()), once);
    install(root.path(), &["--restore-units"]);
    assert_eq!(tree(root.path()).len(), once.len() + 2);
    // What is somebody else's stays.
    fs::write(
        root.path().join("etc/systemd/system/other.service"),
        "[Service]\n",
    )
    .unwrap();
    for _ in 0..2 {
        let output = script("uninstall", &["--root", &root.path().display().to_string()]);
        assert!(output.status.success());
        assert_eq!(
            tree(root.path()),
            [(PathBuf::from("etc/systemd/system/other.service"), 10)]
        );
    }
}

#[test]
fn an_existing_rules_save_is_imported_once_when_asked() {
    let saved = tempfile::tempdir().unwrap();
    for (folder, name) in [
        ("iptables", "rules-save.final"),
        ("ip6tables", "rules6-save"),
    ] {
        let fixture = Path::new(REPOSITORY)
            .join("integration/fixtures/story")
            .join(name);
        fs::create_dir(saved.path().join(folder)).unwrap();
        fs::copy(fixture, saved.path().join(folder).join("rules-save")).unwrap();
    }
    let from = saved.path().display().to_string();
    let root = tempfile::tempdir().unwrap();
    install(root.path(), &["--from-rules-save", &from]);
    let policy = root.path().join("etc/peerwall/policy.toml");
    let text = fs::read_to_string(&policy).unwrap();
    assert!(text.contains("[overlay.flannel]"), "{text}");
    // One that is there stays.
    fs::write(&policy, "version = 1\n").unwrap();
    install(root.path(), &["--from-rules-save", &from]);
    assert_eq!(fs::read_to_string(&policy).unwrap(), "version = 1\n");

    let root = tempfile::tempdir().unwrap();
    let (root_name, bin) = (
        root.path().display().to_string(),
        peerwall_bin().display().to_string(),
    );
    let output = script(
        "install",
        &[
            "--root",
            &root_name,
            "--binary",
            &bin,
            "--from-rules-save",
            &root_name,
        ],
    );
    assert!(!output.status.success(), "there are no rules");
    assert!(!root.path().join("etc/peerwall").exists());
}

#[test]
fn wrong_words_install_nothing() {
    let root = tempfile::tempdir().unwrap();
    let name = root.path().display().to_string();
    for args in [
        vec!["--rot", &name],
        vec!["--root", &name, "--enable"],
        vec!["extra"],
    ] {
        let output = script("install", &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    assert_eq!(tree(root.path()), []);
}

/// The program is what removes its rules, so it does not go away before them unasked.
#[test]
fn uninstall_says_what_is_still_loaded() {
    world(|| {
        sh("mount -t tmpfs tmpfs /usr/local && mount -t tmpfs tmpfs /etc/systemd/system");
        let program = Path::new("/usr/local/sbin/peerwall");
        let policy = Path::new(REPOSITORY).join("policy.toml");
        let uninstall = |args: &[&str]| {
            let output = script("uninstall", args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        };
        for (backend, name) in [
            ("nft", "the table inet peerwall"),
            ("iptables", "chains PEERWALL-* in ip6tables-"),
        ] {
            let installed = script(
                "install",
                &["--binary", &peerwall_bin().display().to_string()],
            );
            assert!(installed.status.success(), "{installed:?}");
            let policy = policy.display();
            sh(&format!(
                "{} apply --backend {backend} {policy}",
                program.display()
            ));
            let (code, said) = uninstall(&[]);
            assert_eq!(code, Some(1), "{backend}: {said}");
            assert!(
                said.contains(name) && said.contains("    peerwall remove\n"),
                "{backend}: {said}"
            );
            assert!(program.exists(), "{backend}: nothing was removed");
            // Asked for, the rules outlive it.
            let (code, said) = uninstall(&["--keep-rules"]);
            assert!(
                code == Some(0) && said.contains("still loaded") && said.contains(name),
                "{backend}: {said}"
            );
            assert!(!program.exists());
            // Without rules there is nothing to say.
            script(
                "install",
                &["--binary", &peerwall_bin().display().to_string()],
            );
            sh(&format!("{} remove --backend {backend}", program.display()));
            let (code, said) = uninstall(&[]);
            assert!(
                code == Some(0) && said.is_empty() && !program.exists(),
                "{backend}: {said}"
            );
        }
    });
}

/// The units, with a program that is there.
fn units() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in [
        "peerwall.service",
        "peerwall-boot.service",
        "peerwall-sources.service",
        "iptables-restore.service",
        "ip6tables-restore.service",
    ] {
        let text =
            fs::read_to_string(Path::new(REPOSITORY).join("agent/systemd").join(unit)).unwrap();
        let text = text.replace(
            "/usr/local/sbin/peerwall ",
            &format!("{} ", peerwall_bin().display()),
        );
        let sources = sources_bin().display().to_string();
        let text = text.replace("/usr/local/sbin/peerwall-sources", &sources);
        fs::write(folder.path().join(unit), text).unwrap();
    }
    folder
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = units();
    let files: Vec<PathBuf> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 5);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(files)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("restore.service") || line.contains("peerwall"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// Settings that make a unit fail where the root is full or read-only, or a mount is missing; see
/// `systemd.rs`, which tries.
#[test]
fn no_unit_asks_for_what_may_fail() {
    for unit in ["peerwall.service", "peerwall-boot.service"] {
        let path = Path::new(REPOSITORY).join("agent/systemd").join(unit);
        let text = fs::read_to_string(path).unwrap();
        for setting in [
            "StateDirectory=",
            "CacheDirectory=",
            "LogsDirectory=",
            "PrivateDevices=",
            "PrivateTmp=",
            "TemporaryFileSystem=",
            // With a dash, a file that is missing or cannot be read is ignored.
            "EnvironmentFile=/",
        ] {
            let asks = |line: &str| line.starts_with(setting);
            assert!(!text.lines().any(asks), "{unit}: {setting}");
        }
        // Paths that may be missing have a dash, except for one that is always there.
        for line in text.lines() {
            if let Some(paths) = line.strip_prefix("ReadWritePaths=") {
                let may_fail = |path: &str| !path.starts_with('-') && path != "/run";
                assert!(!paths.split(' ').any(may_fail), "{unit}: {line}");
            }
            if let Some(mounts) = line.strip_prefix("RequiresMountsFor=") {
                assert_eq!(mounts, "/usr/local/sbin", "{unit}");
            }
        }
    }
}

/// iptables-legacy runs modprobe for these two, which the units' capabilities and mounts do not let
/// it do.
#[test]
fn modules_that_the_kernel_does_not_load_itself_are_loaded_first() {
    for unit in ["peerwall.service", "peerwall-boot.service"] {
        let path = Path::new(REPOSITORY).join("agent/systemd").join(unit);
        let text = fs::read_to_string(path).unwrap();
        for verb in ["Wants", "After"] {
            let line = format!("{verb}=modprobe@ip_tables.service modprobe@ip6_tables.service");
            assert!(text.lines().any(|each| each == line), "{unit}: {line}");
        }
    }
}

/// The network may be up when systemd starts. Sockets and services with default dependencies follow
/// `sysinit.target`, which would wait forever for a unit without a time limit.
#[test]
fn services_start_after_the_rules_are_loaded() {
    let path = Path::new(REPOSITORY).join("agent/systemd/peerwall-boot.service");
    let text = fs::read_to_string(path).unwrap();
    let before = text.lines().find_map(|line| line.strip_prefix("Before="));
    assert!(
        before.is_some_and(|units| units.contains("sysinit.target")),
        "{before:?}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("TimeoutStartSec="))
    );
}

#[test]
fn the_unit_is_confined() {
    let folder = units();
    for (unit, max_tenths) in EXPOSURE_MAX_TENTHS {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={max_tenths}"))
            .arg(folder.path().join(unit))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{unit}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

/// What the unit runs works with nothing but the capability that the unit leaves it.
#[test]
fn the_units_command_needs_no_more_than_the_unit_leaves_it() {
    world(|| {
        let unit = fs::read_to_string(Path::new(REPOSITORY).join("agent/systemd/peerwall.service"))
            .unwrap();
        assert!(unit.contains("\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW\n"));
        let policy = Path::new(REPOSITORY).join("policy.toml");
        let apply = |backend: &str| {
            let caps = "--bounding-set=-all,+net_admin,+net_raw --inh-caps=-all --no-new-privs";
            let (bin, policy) = (peerwall_bin(), policy.display());
            sh(&format!(
                "setpriv {caps} {} apply --backend {backend} {policy}",
                bin.display()
            ))
        };
        apply("nft");
        assert!(sh("nft list tables").contains("inet peerwall"));
        // Without CAP_NET_RAW the legacy rules could not be seen, and the other iptables be taken.
        sh("iptables-legacy -A OUTPUT -j ACCEPT");
        assert!(apply("iptables").contains("iptables-legacy ("));
    });
}
