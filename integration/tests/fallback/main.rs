//! The same policy by iptables, legacy and nft: the story, others' rules, drift, a refusal half
//! way.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

mod choice;
mod cluster;
mod others;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::probe;
use peerwall_integration::story::{Cluster, Flavour, flows, matrix, wrong};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");
const POLICY_IPV6: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/policy-ipv6.toml"
);

/// A host with rules of others in one iptables, so that it is the one that is taken.
fn host_with_rules(flavour: Flavour) -> Host {
    let host = Host::new("host");
    let suffix = flavour.suffix();
    host.sh(&format!(
        "iptables-{suffix} -N DOCKER-USER && iptables-{suffix} -A FORWARD -j DOCKER-USER && \
         iptables-{suffix} -A DOCKER-USER -j RETURN && iptables-{suffix} -P FORWARD DROP && \
         iptables-{suffix} -A INPUT -p tcp --dport 7 -m comment --comment 'not ours' -j DROP && \
         iptables-{suffix} -t nat -A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE && \
         ip6tables-{suffix} -A INPUT -p ipv6-icmp -j ACCEPT"
    ));
    host
}

/// What iptables-save prints, without times and counters.
fn saved(host: &Host, flavour: Flavour) -> String {
    let suffix = flavour.suffix();
    let text = host.sh(&format!("iptables-{suffix}-save; ip6tables-{suffix}-save"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines: String = lines
        .map(|line| format!("{}\n", line.split(" [").next().unwrap()))
        .collect();
    without_empty_tables(&lines)
}

fn without_empty_tables(saved: &str) -> String {
    let tables = saved.split_inclusive("COMMIT\n");
    tables.filter(|table| !is_empty(table)).collect()
}

/// Whether a table is as the kernel makes it when it is first looked at, and keeps it from then on.
fn is_empty(table: &str) -> bool {
    table.lines().all(|line| {
        line.starts_with('*')
            || line.ends_with(" ACCEPT") && line.starts_with(':')
            || line == "COMMIT"
    })
}

fn iptables(host: &Host, command: &str) -> (Option<i32>, String) {
    let mut args = vec![command, "--backend", "iptables"];
    if command != "remove" {
        args.push(EXAMPLE);
    }
    let output = host.peerwall(&args);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code(), said)
}

/// Runs peerwall where sockets to netfilter are refused, as by a kernel without it: by seccomp, for
/// it and all that it starts.
fn without_netfilter_netlink(host: &Host, args: &[&str]) -> std::process::Output {
    use std::os::unix::process::CommandExt as _;
    let mut command = host.command(peerwall_bin());
    command.args(args);
    // SAFETY: between fork and exec only two system calls are made, with memory of this frame.
    unsafe {
        command.pre_exec(refuse_netfilter_netlink);
    }
    command.output().unwrap()
}

/// Has `socket(AF_NETLINK, …, NETLINK_NETFILTER)` answer EPROTONOSUPPORT from now on (seccomp(2)).
fn refuse_netfilter_netlink() -> std::io::Result<()> {
    const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RET: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER: u32 = 0; // offsets in struct seccomp_data, little-endian halves of arguments
    const ARGUMENT_0: u32 = 16;
    const ARGUMENT_2: u32 = 32;
    const NETLINK_NETFILTER: u32 = 12;
    let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT.unsigned_abs();
    let mut program = [
        line(LD, NUMBER, 0, 0),
        line(
            JEQ,
            u32::try_from(libc::SYS_socket).unwrap_or(u32::MAX),
            0,
            5,
        ),
        line(LD, ARGUMENT_0, 0, 0),
        line(JEQ, libc::AF_NETLINK.unsigned_abs(), 0, 3),
        line(LD, ARGUMENT_2, 0, 0),
        line(JEQ, NETLINK_NETFILTER, 0, 1),
        line(RET, refuse, 0, 0),
        line(RET, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: 8,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: plain numbers, and a program that lives across the call.
    let rc = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            )
    };
    match rc {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn many_addresses_become_ipsets_that_are_swapped_and_taken_away() {
    world(|| {
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            let host = Host::new(&format!("host-{}", flavour.suffix()));
            let friend = Host::new(&format!("friend-{}", flavour.suffix()));
            host.sh(&format!(
                "iptables-{} -t nat -A OUTPUT -d 203.0.113.254 -j ACCEPT",
                flavour.suffix()
            ));
            host.sh("ipset create others hash:ip && ipset add others 203.0.113.1");
            peerwall_integration::net::wire(
                &host,
                "eth0",
                &["192.0.2.1/24", "2001:db8::1/64"],
                &friend,
                "eth0",
                &["192.0.2.2/24", "2001:db8::2/64"],
            );
            let echo = probe::udp_server(&host, "[::]:9000");
            let folder = tempfile::tempdir().unwrap();
            let policy = |name: &str, with_friend: bool, peers: u32| {
                let mut list: Vec<String> = (0..peers)
                    .map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255))
                    .collect();
                list.extend((0..40).map(|i| format!("172.16.{i}.0/24")));
                list.extend((0..40).map(|i| format!("2001:db8:1::{i:x}")));
                if with_friend {
                    list.extend(["192.0.2.2".to_owned(), "2001:db8::2".to_owned()]);
                }
                fs::write(folder.path().join(format!("{name}.txt")), list.join("\n")).unwrap();
                let path = folder.path().join(format!("{name}.toml"));
                fs::write(
                    &path,
                    format!("version = 1\npeers_files = [\"{name}.txt\"]\n"),
                )
                .unwrap();
                path.display().to_string()
            };
            let with = policy("with", true, 3000);
            let without = policy("without", false, 3001);
            let run = |args: &[&str]| {
                let output = host.peerwall(args);
                let said = format!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
                (output.status.code(), said)
            };
            let rules = || {
                host.sh(&format!(
                    "iptables-{}-save | grep -c PEERWALL",
                    flavour.suffix()
                ))
                .trim()
                .parse::<u32>()
                .unwrap()
            };
            for _ in 0..2 {
                let (code, said) = run(&["apply", "--backend", "iptables", &with]);
                assert!(code == Some(0) && said.contains("with ipset"), "{said}");
                assert!(rules() < 60, "{} rules", rules());
                assert!(
                    probe::udp(&friend, "192.0.2.1:9000", probe::PATIENCE),
                    "{flavour:?}"
                );
                assert!(
                    probe::udp(&friend, "[2001:db8::1]:9000", probe::PATIENCE),
                    "{flavour:?}"
                );
                assert_eq!(run(&["plan", "--backend", "iptables", &with]).0, Some(0));
                let (code, said) = run(&["apply", "--backend", "iptables", &without]);
                assert!(
                    code == Some(0) && said.contains("applied: feed ipset restore"),
                    "{said}"
                );
                host.try_sh("conntrack -F");
                assert!(
                    !probe::udp(&friend, "192.0.2.1:9000", probe::IMPATIENCE),
                    "{flavour:?}"
                );
                assert!(
                    !probe::udp(&friend, "[2001:db8::1]:9000", probe::IMPATIENCE),
                    "{flavour:?}"
                );
            }
            // Drift in a set is detected and repaired.
            host.sh("ipset add peerwall-peers4 192.0.2.2");
            assert_eq!(run(&["plan", "--backend", "iptables", &without]).0, Some(1));
            assert_eq!(
                run(&["apply", "--backend", "iptables", &without]).0,
                Some(0)
            );
            assert!(
                !host
                    .sh("ipset list peerwall-peers4")
                    .contains("192.0.2.2\n")
            );
            // Ours go, with the rules or without; others' stay.
            assert_eq!(run(&["apply", "--backend", "iptables", EXAMPLE]).0, Some(0));
            assert_eq!(host.sh("ipset list -n"), "others\n");
            assert_eq!(run(&["apply", "--backend", "iptables", &with]).0, Some(0));
            assert_eq!(run(&["remove", "--backend", "iptables"]).0, Some(0));
            assert_eq!(host.sh("ipset list -n"), "others\n");
            assert!(echo.load(std::sync::atomic::Ordering::SeqCst) >= 4);
        }
    });
}

#[test]
fn counters_of_rules_that_stay_go_on() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let friend = Host::new("friend");
        peerwall_integration::net::wire(
            &host,
            "eth0",
            &["129.21.49.1/24"],
            &friend,
            "eth0",
            &["129.21.49.48/24"],
        );
        assert_eq!(iptables(&host, "apply").0, Some(0));
        assert!(probe::ping(&friend, "129.21.49.1", probe::PATIENCE));
        let counted = || {
            let text = host.sh("iptables-legacy-save -c -t filter");
            text.lines()
                .find(|line| line.contains("129.21.49.48") && line.contains("PEERWALL-INPUT"))
                .unwrap()
                .to_owned()
        };
        let before = counted();
        assert!(!before.starts_with("[0:"), "{before}");
        host.sh("iptables-legacy -D PEERWALL-INPUT 1");
        assert_eq!(iptables(&host, "apply").0, Some(0));
        assert_eq!(counted(), before);
    });
}

/// Puts a program into a folder that refuses input with lines that match `when`, and runs the real
/// one otherwise. `$at` in its message is the number of the last line that matches `at`.
fn refuse(host: &Host, folder: &Path, program: &str, (when, at): (&str, &str), said: &str) {
    let real = host.sh(&format!("command -v {program}"));
    let input = folder.join("in").display().to_string();
    let script = format!(
        "#!/bin/sh\ncat >{input}\nat=$(grep -n -e '{at}' {input} | tail -n 1 | cut -d: -f1)\n\
         if grep -q -e '{when}' {input}; then echo \"{said}\" >&2; exit 1; fi\n\
         exec {} \"$@\" <{input}\n",
        real.trim()
    );
    let shim = folder.join(program);
    let _ = fs::remove_file(&shim);
    fs::write(&shim, script).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Applies a policy by the iptables of a folder, and returns what is said.
fn apply_with(host: &Host, folder: &str, policy: &str) -> String {
    let more = ["apply", "--backend", "iptables", policy];
    let output = host.peerwall(&[&["--iptables", folder], &more[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

/// A kernel without `xt_NFLOG` or `xt_limit` still gets the firewall.
#[test]
fn without_a_log_target_everything_else_is_loaded() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display().to_string();
        // iptables-legacy names the end of the table.
        for (tool, named) in [("iptables", "NFLOG"), ("ip6tables", "COMMIT")] {
            let program = format!("{tool}-legacy-restore");
            let said = format!("{tool}-restore: line $at failed");
            refuse(&host, folder.path(), &program, ("NFLOG", named), &said);
            host.sh(&format!(
                "cd {place} && ln -s $(command -v {tool}-legacy-save) $(command -v {tool}) ."
            ));
        }
        let policy = folder.path().join("policy.toml");
        let policy = policy.to_str().unwrap();
        let text = "version = 1\n[peers]\np = \"129.21.49.48\"\n";
        fs::write(policy, text).unwrap();
        for _ in 0..2 {
            let said = apply_with(&host, &place, policy);
            assert!(said.contains("iptables cannot log packets"), "{said}");
            let loaded = saved(&host, Flavour::Legacy);
            assert!(loaded.contains("129.21.49.48"), "{loaded}");
            assert!(!loaded.contains("NFLOG"), "{loaded}");
        }
        // With the target, the log is back.
        let output = host.peerwall(&["apply", "--backend", "iptables", policy]);
        assert_eq!(output.status.code(), Some(0));
        assert!(saved(&host, Flavour::Legacy).contains("NFLOG"));
    });
}

/// `ipset` runs, but the kernel lacks the type of set, or the match for it.
#[test]
fn without_usable_sets_each_address_has_a_rule() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display().to_string();
        for tool in ["iptables", "ip6tables"] {
            host.sh(&format!(
                "cd {place} && for end in '' -legacy-save -legacy-restore; do \
                 ln -s $(command -v {tool}$end) .; done"
            ));
        }
        let policy = folder.path().join("policy.toml");
        let peers: Vec<String> = (1..=20).map(|n| format!("\"192.0.2.{n}\"")).collect();
        let peers = peers.join(", ");
        fs::write(&policy, format!("version = 1\n[peers]\nmany = [{peers}]\n")).unwrap();
        let policy = policy.to_str().unwrap();
        let apply = || {
            let said = apply_with(&host, &place, policy);
            assert!(said.contains("ipset cannot be used"), "{said}");
            let loaded = saved(&host, Flavour::Legacy);
            assert!(loaded.contains("192.0.2.20"), "{loaded}");
            assert!(!loaded.contains("--match-set"), "{loaded}");
            host.peerwall_ok(&["remove"]);
        };
        let said = "ipset v7.17: Kernel error received: set type not supported";
        refuse(&host, folder.path(), "ipset", ("^create", "^create"), said);
        apply();
        fs::remove_file(folder.path().join("ipset")).unwrap();
        host.sh(&format!("ln -s $(command -v ipset) {place}"));
        for tool in ["iptables", "ip6tables"] {
            let said = format!("{tool}-restore: line $at failed");
            let program = format!("{tool}-legacy-restore");
            let at = ("--match-set", "--match-set");
            refuse(&host, folder.path(), &program, at, &said);
        }
        apply();
        assert_eq!(host.sh("ipset list -n").trim(), "", "a set is left");
    });
}

#[test]
fn what_the_second_family_refuses_is_taken_back_in_the_first() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let before = saved(&host, Flavour::Legacy);
        let folder = tempfile::tempdir().unwrap();
        let shim = folder.path().join("ip6tables-legacy-restore");
        fs::write(
            &shim,
            "#!/bin/sh\ncat >/dev/null\necho no IPv6 today >&2\nexit 2\n",
        )
        .unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        // The others are those of the system.
        host.sh(&format!(
            r#"cd {} &&
            for tool in iptables ip6tables; do
                ln -s "$(command -v $tool-legacy-save)" "$(command -v $tool)" .
            done
            ln -s "$(command -v iptables-legacy-restore)" "$(command -v ipset)" ."#,
            folder.path().display()
        ));
        let apply = |policy: &Path| {
            let mut command = host.command(peerwall_bin());
            command
                .args(["apply", "--backend", "iptables", "--iptables"])
                .arg(folder.path())
                .arg(policy)
                .output()
                .unwrap()
        };
        let output = apply(Path::new(EXAMPLE));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains("no IPv6 today"), "{said}");
        assert_eq!(
            saved(&host, Flavour::Legacy),
            before,
            "IPv4 was left changed"
        );
        // If peerwall's rules were loaded before, they are restored.
        assert_eq!(iptables(&host, "apply").0, Some(0));
        let loaded = saved(&host, Flavour::Legacy);
        let other = folder.path().join("other.toml");
        fs::write(
            &other,
            r#"
                version = 1
                [peers]
                a = ["192.0.2.9", "2001:db8::9"]
            "#,
        )
        .unwrap();
        assert_eq!(apply(&other).status.code(), Some(2));
        assert_eq!(saved(&host, Flavour::Legacy), loaded);
        assert_eq!(iptables(&host, "plan").0, Some(0));
    });
}
