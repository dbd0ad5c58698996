//! The same policy by iptables, legacy and nft: the story, others' rules, drift, a refusal half
//! way.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

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

fn story(flavour: Flavour) {
    let cluster = Cluster::build(flavour);
    cluster.wait_until_up();
    let flows = flows();
    cluster.apply_by_iptables(EXAMPLE);
    let reached = cluster.reach(&flows);
    assert_eq!(
        wrong(&flows, &reached, false),
        [""; 0],
        "{}",
        matrix(&flows, &[("iptables", reached)])
    );
    cluster.apply_by_iptables(POLICY_IPV6);
    let reached = cluster.reach(&flows);
    assert_eq!(
        wrong(&flows, &reached, true),
        [""; 0],
        "{}",
        matrix(&flows, &[("with IPv6 peers", reached)])
    );
}

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

fn others_are_left_alone(flavour: Flavour) {
    let host = host_with_rules(flavour);
    let before = saved(&host, flavour);
    let ours = |line: &&str| line.contains("PEERWALL");
    let others = |text: &str| {
        let lines = text.lines().filter(|line| !ours(line));
        without_empty_tables(&lines.map(|line| format!("{line}\n")).collect::<String>())
    };
    for _ in 0..2 {
        let (code, said) = iptables(&host, "apply");
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains(&format!("iptables-{} ", flavour.suffix())),
            "{said}"
        );
        assert_eq!(others(&saved(&host, flavour)), before);
    }
    let (code, said) = iptables(&host, "status");
    assert!(
        code == Some(0) && said.contains("in sync") && said.contains("one after the other"),
        "{said}"
    );
    let (code, said) = iptables(&host, "remove");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(saved(&host, flavour), before, "after remove");
    assert!(iptables(&host, "remove").1.contains("no changes"));
}

fn drift_is_mended(flavour: Flavour) {
    let host = host_with_rules(flavour);
    let suffix = flavour.suffix();
    assert_eq!(iptables(&host, "apply").0, Some(0));
    let want = saved(&host, flavour);
    for mischief in [
        "iptables-X -D PEERWALL-INPUT 4",
        "iptables-X -I PEERWALL-INPUT -j ACCEPT",
        "iptables-X -I INPUT -j ACCEPT && iptables-X -D INPUT 2 && iptables-X -A INPUT -j PEERWALL-INPUT",
        "iptables-X -F PEERWALL-FORWARD",
        "iptables-X -R PEERWALL-INPUT 2 -i eth0 -m comment --comment input.loopback -j ACCEPT",
        "ip6tables-X -D INPUT 1",
        "ip6tables-X -N PEERWALL-OTHER",
        "iptables-X -F && iptables-X -X",
    ] {
        host.sh(&mischief
            .replace("-X ", &format!("-{suffix} "))
            .replace("tables--", "tables-"));
        let (code, said) = iptables(&host, "plan");
        assert_eq!(code, Some(1), "plan after `{mischief}`: {said}");
        let (code, said) = iptables(&host, "apply");
        assert_eq!(code, Some(0), "apply after `{mischief}`: {said}");
        assert_eq!(iptables(&host, "plan").0, Some(0), "after `{mischief}`");
        let ours = |text: &str| {
            text.lines()
                .filter(|line| line.contains("PEERWALL"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ours(&saved(&host, flavour)),
            ours(&want),
            "after `{mischief}`"
        );
    }
}

#[test]
fn the_story_by_iptables_legacy() {
    world(|| {
        story(Flavour::Legacy);
    });
}

#[test]
fn the_story_by_iptables_nft() {
    world(|| {
        story(Flavour::Nft);
    });
}

#[test]
fn legacy_rules_of_others_are_left_alone() {
    world(|| {
        others_are_left_alone(Flavour::Legacy);
    });
}

#[test]
fn nft_rules_of_others_are_left_alone() {
    world(|| {
        others_are_left_alone(Flavour::Nft);
    });
}

#[test]
fn drift_of_iptables_legacy_is_mended() {
    world(|| {
        drift_is_mended(Flavour::Legacy);
    });
}

#[test]
fn drift_of_iptables_nft_is_mended() {
    world(|| {
        drift_is_mended(Flavour::Nft);
    });
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
            // Drift in a set is seen and mended.
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
        // With rules of ours there before, it is those that come back.
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

#[test]
fn a_kernel_without_nf_tables_is_found_out_by_asking() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        // Asked for, nft is not replaced by anything.
        let output = without_netfilter_netlink(&host, &["apply", "--backend", "nft", EXAMPLE]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains("this kernel has no nf_tables"), "{said}");
        assert!(!saved(&host, Flavour::Legacy).contains("PEERWALL"));
        // Not asked for anything, it goes on with the iptables that works here.
        for (command, asks) in [
            ("plan", true),
            ("apply", true),
            ("status", false),
            ("plan", false),
        ] {
            let output = without_netfilter_netlink(&host, &[command, EXAMPLE]);
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(output.status.code() < Some(2), "{command}: {said}");
            assert_eq!(
                said.contains("going on with iptables"),
                asks,
                "{command}: {said}"
            );
            assert!(said.contains("iptables-legacy ("), "{command}: {said}");
        }
        assert_eq!(iptables(&host, "plan").0, Some(0));
        // The choice stays, and status says so, until another is asked for.
        assert!(
            host.peerwall_ok(&["status", EXAMPLE])
                .contains("backend:    iptables-legacy")
        );
        let said = host.peerwall_ok(&["apply", EXAMPLE]);
        assert!(
            said.starts_with("iptables-legacy (") && said.contains("no changes"),
            "{said}"
        );
        // The table comes before the chains go.
        host.peerwall_ok(&["apply", "--backend", "nft", EXAMPLE]);
        assert!(!saved(&host, Flavour::Legacy).contains("PEERWALL"));
        assert!(host.sh("nft list tables").contains("inet peerwall"));
        // And the other way round.
        assert_eq!(iptables(&host, "apply").0, Some(0));
        assert!(saved(&host, Flavour::Legacy).contains("PEERWALL"));
        assert!(!host.sh("nft list tables").contains("inet peerwall"));
        host.peerwall_ok(&["remove"]);
        assert!(!saved(&host, Flavour::Legacy).contains("PEERWALL"));
    });
}

#[test]
fn boot_loads_what_was_confirmed_by_the_backend_that_is_left() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let folder = tempfile::tempdir().unwrap();
        let wrong = folder.path().join("policy.toml");
        std::fs::write(&wrong, "nonsense").unwrap();
        let wrong = wrong.to_str().unwrap();
        let reboot = || {
            host.sh(
                "iptables-legacy -F; iptables-legacy -X; ip6tables-legacy -F; \
                ip6tables-legacy -X; nft flush ruleset; rm -rf /run/peerwall",
            );
        };
        // Confirmed by iptables, which is not there any more.
        assert_eq!(iptables(&host, "apply").0, Some(0));
        reboot();
        let output = host.peerwall(&["--iptables", folder.path().to_str().unwrap(), "boot", wrong]);
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            output.status.success() && said.contains("loaded number 1"),
            "{said}"
        );
        assert!(
            host.sh("nft list table inet peerwall")
                .contains("129.21.49.48"),
            "{said}"
        );
        // Confirmed by nf_tables, which the next kernel lacks.
        host.peerwall_ok(&["apply", "--backend", "nft", EXAMPLE]);
        reboot();
        let output = without_netfilter_netlink(&host, &["boot", wrong]);
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            output.status.success() && said.contains("loaded number 1"),
            "{said}"
        );
        assert!(
            saved(&host, Flavour::Legacy).contains("129.21.49.48"),
            "{said}"
        );
        // Neither can be had: that is said, and the unit fails.
        reboot();
        let output = without_netfilter_netlink(
            &host,
            &["--iptables", folder.path().to_str().unwrap(), "boot", wrong],
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && said.contains("not even the closed ruleset"),
            "{said}"
        );
    });
}

#[test]
fn the_story_on_a_kernel_without_nf_tables() {
    world(|| {
        let cluster = Cluster::build(Flavour::Legacy);
        cluster.wait_until_up();
        for host in cluster.machines() {
            // The machine without pods has no rules of others to go by.
            host.sh("iptables-legacy -t nat -A OUTPUT -d 203.0.113.254 -j ACCEPT");
            let output = without_netfilter_netlink(host, &["apply", EXAMPLE]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() && said.contains("going on with iptables"),
                "{said}"
            );
        }
        let flows = flows();
        let reached = cluster.reach(&flows);
        assert_eq!(
            wrong(&flows, &reached, false),
            [""; 0],
            "{}",
            matrix(&flows, &[("iptables", reached)])
        );
    });
}

#[test]
fn what_iptables_cannot_say_is_an_error_with_its_line() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let before = saved(&host, Flavour::Legacy);
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("p.toml");
        fs::write(
            &policy,
            r#"
                version = 1
                [overlay.pods]
                backend = "host-gw"
                subnets = "10.244.0.0/16"
                [peers]
                a = "192.0.2.9"
            "#,
        )
        .unwrap();
        let output = host.peerwall(&[
            "apply",
            "--backend",
            "iptables",
            &policy.display().to_string(),
        ]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            said.contains("p.toml:2: ") && said.contains("nftables"),
            "{said}"
        );
        assert_eq!(saved(&host, Flavour::Legacy), before);
    });
}

#[test]
fn a_policy_can_ask_for_iptables_and_the_command_line_for_another() {
    world(|| {
        let host = host_with_rules(Flavour::Legacy);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let text = fs::read_to_string(EXAMPLE).unwrap();
        fs::write(
            &path,
            format!(
                r#"
                    {text}
                    [options]
                    backend = "iptables"
                "#
            ),
        )
        .unwrap();
        let path = path.to_str().unwrap();
        host.peerwall_ok(&["apply", path]);
        assert!(saved(&host, Flavour::Legacy).contains("PEERWALL-INPUT"));
        assert!(!host.sh("nft list tables").contains("inet peerwall"));
        host.peerwall_ok(&["apply", "--backend", "nft", path]);
        assert!(host.sh("nft list tables").contains("inet peerwall"));
        assert!(!saved(&host, Flavour::Legacy).contains("PEERWALL-INPUT"));
    });
}
