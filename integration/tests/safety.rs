//! What peerwall promises while it works: one transaction, nobody else's rules, nothing on a bad
//! policy, whoever dies or interferes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::probe;
use peerwall_integration::target::listing;
use peerwall_integration::traffic::{Answers, Three, Totals, Traffic};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");
const MALFORMED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/core/tests/malformed");

/// Rules of everybody else: iptables of both flavours, nft tables, a set, a chain at our priority.
fn foreign_rules(host: &Host) {
    host.sh(
        "iptables-legacy -A INPUT -p tcp --dport 7 -m comment --comment legacy -j DROP && \
         ip6tables-legacy -A FORWARD -s 2001:db8::/32 -j ACCEPT && \
         iptables-nft -t nat -A PREROUTING -p tcp --dport 30080 -j DNAT --to-destination 10.244.1.2:8080 && \
         iptables-nft -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT && \
         ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT && \
         nft add table ip kube-proxy && nft add chain ip kube-proxy services && \
         nft add table inet firewalld && \
         nft 'add set inet firewalld blocked \
             { type ipv4_addr; flags interval; elements = { 203.0.113.0/24 } }' && \
         nft 'add chain inet firewalld in { type filter hook input priority 10; }' && \
         nft 'add rule inet firewalld in ip saddr @blocked counter drop' && \
         nft 'add table bridge filter { chain f { type filter hook forward priority 0; }; }'",
    );
}

/// Everything that is not ours, as every tool shows it.
fn foreign(host: &Host) -> String {
    let mut all = String::new();
    for (family, table) in [
        ("ip", "kube-proxy"),
        ("inet", "firewalld"),
        ("bridge", "filter"),
        ("ip", "nat"),
        ("ip", "filter"),
        ("ip6", "filter"),
    ] {
        all += &host.sh(&format!("nft --handle list table {family} {table}"));
    }
    for tool in [
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "iptables-nft-save",
        "ip6tables-nft-save",
    ] {
        let text = host.sh(tool);
        // The first and last lines of each table say when it was printed.
        all.extend(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| format!("{line}\n")),
        );
    }
    all
}

fn apply(host: &Host, policy: &Path) {
    host.peerwall_ok(&["apply", &policy.display().to_string()]);
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A policy with one peer that matters and many that do not.
fn policy_with_peers(folder: &Path, name: &str, extra: impl Iterator<Item = String>) -> PathBuf {
    let list = format!("{name}.txt");
    write(folder, &list, &extra.collect::<Vec<_>>().join("\n"));
    write(
        folder,
        &format!("{name}.toml"),
        &format!(
            r#"
                version = 1
                peers_files = ["{list}"]

                [peers]
                friend = ["192.0.2.2", "2001:db8::2"]
            "#
        ),
    )
}

fn status(host: &Host, policy: &str) -> String {
    let output = host.peerwall(&["status", policy]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `peerwall apply --hold`, once it holds.
fn hold(host: &Host, policy: &str) -> Child {
    let mut child = host
        .command(peerwall_bin())
        .args(["apply", "--hold", policy])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    while !said.contains("holding") {
        let read = std::io::BufRead::read_line(&mut out, &mut said).unwrap();
        assert!(read > 0, "apply --hold ended: {said}");
    }
    child
}

#[test]
fn foreign_tables_are_untouched_byte_for_byte() {
    world(|| {
        let host = Host::new("host");
        foreign_rules(&host);
        let before = foreign(&host);
        let example = Path::new(EXAMPLE);
        apply(&host, example);
        assert_eq!(foreign(&host), before, "after apply");
        apply(&host, example);
        assert_eq!(foreign(&host), before, "after a second apply");
        // What others use still works beside our table.
        host.sh(
            "iptables-nft-save >/dev/null && ip6tables-nft-save > /dev/null && \
            nft -j list ruleset > /dev/null",
        );
        host.peerwall_ok(&["remove"]);
        assert_eq!(foreign(&host), before, "after remove");
        assert!(!host.sh("nft list tables").contains("peerwall"));
    });
}

#[test]
fn a_second_apply_sends_nothing() {
    world(|| {
        let host = Host::new("host");
        apply(&host, Path::new(EXAMPLE));
        let generation = || {
            host.sh(
                "nft -j list ruleset >/dev/null; cat /proc/net/netfilter/nf_log >/dev/null \
                2>&1; true",
            ) + &status(&host, EXAMPLE)
        };
        let before = generation();
        let said = host.peerwall_ok(&["apply", EXAMPLE]);
        assert!(said.contains("no changes"), "{said}");
        assert_eq!(generation(), before, "the generation moved on");
        assert!(before.contains("in sync"), "{before}");
    });
}

#[test]
fn what_is_held_stays_and_what_is_not_can_be_claimed() {
    world(|| {
        let host = Host::new("host");
        let mut holder = hold(&host, EXAMPLE);
        let loaded = listing(&host);
        let said = status(&host, EXAMPLE);
        assert!(
            said.contains("in sync") && said.contains("nobody else can change the table"),
            "{said}"
        );
        // Another process's flush leaves it in place, and its changes are refused.
        host.sh("nft flush ruleset");
        assert_eq!(listing(&host), loaded);
        for attempt in [
            "nft delete table inet peerwall",
            "nft add rule inet peerwall input accept",
            "nft flush chain inet peerwall input",
            "nft add element inet peerwall peers4 '{ 203.0.113.66 }'",
        ] {
            assert!(!host.try_sh(attempt).status.success(), "{attempt}");
        }
        assert_eq!(listing(&host), loaded);
        // Ours say who has it.
        let more = write(
            tempfile::tempdir().unwrap().keep().as_path(),
            "p.toml",
            r#"
                version = 1
                [peers]
                a = "192.0.2.9"
            "#,
        );
        let refused = host.peerwall(&["apply", &more.display().to_string()]);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2));
        assert!(why.contains("owned by another process"), "{why}");
        let refused = host.peerwall(&["remove"]);
        assert_eq!(refused.status.code(), Some(2));
        assert_eq!(listing(&host), loaded);
        // Killed, it leaves the rules and lets go of the table.
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(listing(&host), loaded);
        let said = status(&host, EXAMPLE);
        assert!(
            said.contains("in sync") && said.contains("owner:      not locked"),
            "{said}"
        );
        // The next one claims it without touching a rule.
        let handles = host
            .sh("nft --handle list table inet peerwall")
            .lines()
            .filter(|l| l.contains("# handle"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let mut next = hold(&host, EXAMPLE);
        // nft writes the owner's name behind the table's handle.
        let again = host
            .sh("nft --handle list table inet peerwall | sed 's/ progname.*//'")
            .lines()
            .filter(|l| l.contains("# handle"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert_eq!(handles, again);
        assert!(
            !host
                .try_sh("nft delete table inet peerwall")
                .status
                .success()
        );
        // An end that was asked for leaves the rules too.
        let pid = next.id();
        host.sh(&format!("kill -TERM {pid}"));
        assert!(next.wait().unwrap().success());
        assert_eq!(listing(&host), loaded);
        // What nft made without persist is made anew to be owned.
        host.sh("nft delete table inet peerwall");
        host.sh(&format!(
            "{} render {EXAMPLE} | nft -f -",
            peerwall_bin().display()
        ));
        let mut last = hold(&host, EXAMPLE);
        host.sh("nft flush ruleset");
        assert_eq!(listing(&host), loaded);
        last.kill().unwrap();
        last.wait().unwrap();
    });
}

#[test]
fn one_more_peer_is_one_element_and_no_counter_starts_anew() {
    world(|| {
        let Three { host, friend, .. } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let many = |count: u32| {
            (0..count).map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255))
        };
        let before = policy_with_peers(folder.path(), "before", many(3000));
        let after = policy_with_peers(folder.path(), "after", many(3001));
        apply(&host, &before);
        assert!(probe::ping(&friend, "192.0.2.1", probe::PATIENCE));
        let rules = |host: &Host| -> Vec<String> {
            let text = host.sh("nft --handle list table inet peerwall");
            text.lines()
                .filter(|line| line.contains("# handle"))
                .map(str::to_owned)
                .collect()
        };
        // Counters in a fixed order; those of others than the peers may go on by themselves.
        let packets = |host: &Host| -> Vec<u64> {
            let text = host.sh("nft list counters table inet peerwall");
            let counts = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("packets "));
            counts
                .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
                .collect()
        };
        let counted = |host: &Host| host.sh("nft list counter inet peerwall input.peers");
        assert!(!counted(&host).contains("packets 0"), "{}", counted(&host));
        let (old_rules, old_count, old_packets) = (rules(&host), counted(&host), packets(&host));
        let plan = host.peerwall(&["plan", "--json", &after.display().to_string()]);
        let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
        let steps: Vec<&str> = plan
            .lines()
            .filter(|line| line.contains("inet peerwall"))
            .map(str::trim)
            .collect();
        assert_eq!(
            steps,
            ["\"add element inet peerwall peers4 { 10.0.11.184 }\""]
        );
        apply(&host, &after);
        assert_eq!(counted(&host), old_count, "the counter went on");
        assert_eq!(rules(&host), old_rules, "no rule changed");
        let went_back = old_packets
            .iter()
            .zip(packets(&host))
            .any(|(old, now)| now < *old);
        assert!(!went_back, "a counter started anew");
        // Twice as many and one more do not fit the set: it is made anew, and the counters go on.
        let grown = policy_with_peers(folder.path(), "grown", many(9000));
        apply(&host, &grown);
        assert_eq!(
            counted(&host),
            old_count,
            "the counter went on through a rebuild"
        );
        assert!(
            host.peerwall(&["plan", &grown.display().to_string()])
                .status
                .success()
        );
    });
}

#[test]
fn a_hundred_thousand_peers_load_in_one_transaction() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let hosts =
            (0..50_000u32).map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255));
        let nets = (0..10_000u32).map(|i| {
            format!(
                "{}.{}.{}.0/24",
                100 + (i >> 14),
                (i >> 6) & 255,
                (i & 63) * 4
            )
        });
        let six = (0..40_000u32).map(|i| format!("2001:db8:{:x}::{i:x}", i >> 8));
        let policy = policy_with_peers(folder.path(), "many", hosts.chain(nets).chain(six));
        let generation = || {
            let said = host.peerwall(&["status", "--json", &policy.display().to_string()]);
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            let line = said
                .lines()
                .find(|line| line.contains("\"generation\""))
                .unwrap_or_default()
                .to_owned();
            line.chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
                .parse::<u32>()
                .unwrap()
        };
        let before = generation();
        apply(&host, &policy);
        assert_eq!(generation(), before + 1, "it was more than one transaction");
        let elements =
            host.sh("nft list table inet peerwall | grep -oE '[0-9a-f:.]+(/24)?,| }$' | wc -l");
        assert!(
            elements.trim().parse::<u32>().unwrap() >= 100_000,
            "{elements}"
        );
        assert!(
            host.peerwall_ok(&["apply", &policy.display().to_string()])
                .contains("no changes")
        );
        assert_eq!(generation(), before + 1);
    });
}

#[test]
fn whatever_others_did_to_the_table_is_mended() {
    world(|| {
        let host = Host::new("host");
        apply(&host, Path::new(EXAMPLE));
        let want = listing(&host);
        for mischief in [
            "nft insert rule inet peerwall input accept",
            "nft add rule inet peerwall forward-default ip saddr 203.0.113.7 log level info accept",
            "nft flush chain inet peerwall input",
            "nft flush chain inet peerwall forward",
            "nft add element inet peerwall peers4 '{ 203.0.113.66 }'",
            "nft delete element inet peerwall peers4 '{ 129.21.49.48 }'",
            "nft 'add chain inet peerwall input { policy accept; }'",
            "nft 'add chain inet peerwall other { type filter hook input priority -300; }' && \
             nft add rule inet peerwall other accept",
            "nft 'add set inet peerwall other { type mark; }'",
            "nft 'add map inet peerwall other \
             { type ipv4_addr : verdict; elements = { 1.2.3.4 : jump published }; }'",
            "nft 'add set inet peerwall other \
             { type ipv4_addr . inet_service; flags interval; elements = { 1.2.3.0/24 . 80-90 } }'",
            "nft add counter inet peerwall other",
            "nft 'add quota inet peerwall other { over 10 mbytes }'",
            "nft 'add rule inet peerwall input tcp dport { 1-5, 80 } \
             ct state vmap { new : accept, invalid : drop }'",
            "nft delete table inet peerwall && nft 'add table inet peerwall \
             { chain input { type filter hook input priority 0; policy accept; }; }'",
            "nft delete table inet peerwall && nft 'add table inet peerwall \
             { set peers4 { type ipv6_addr; }; }'",
            "nft 'add table inet peerwall { flags dormant; }' 2>/dev/null || nft flush ruleset",
            "nft delete table inet peerwall",
        ] {
            host.sh(mischief);
            let found = host.peerwall(&["status", EXAMPLE]);
            assert_eq!(found.status.code(), Some(1), "status after `{mischief}`");
            let planned = host.peerwall(&["plan", EXAMPLE]);
            assert_eq!(
                planned.status.code(),
                Some(1),
                "plan after `{mischief}`: {}",
                String::from_utf8_lossy(&planned.stderr)
            );
            apply(&host, Path::new(EXAMPLE));
            assert!(
                host.peerwall(&["plan", EXAMPLE]).status.success(),
                "after `{mischief}`"
            );
            let mut got: Vec<String> = listing(&host)
                .split("\n\n")
                .map(|s| s.trim().to_owned())
                .collect();
            let mut should: Vec<String> = want.split("\n\n").map(|s| s.trim().to_owned()).collect();
            got.sort();
            should.sort();
            // The order of chains and sets is the order they were made in.
            assert_eq!(
                got.len(),
                should.len(),
                "after `{mischief}`:\n{}",
                listing(&host)
            );
        }
    });
}

#[test]
fn no_malformed_policy_changes_the_kernel() {
    world(|| {
        let host = Host::new("host");
        apply(&host, Path::new(EXAMPLE));
        let before = host.sh("nft --handle list ruleset");
        let mut tried = 0;
        let mut files: Vec<PathBuf> = fs::read_dir(MALFORMED)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for file in files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        {
            for command in ["apply", "plan", "check", "render"] {
                let output = host.peerwall(&[command, &file.display().to_string()]);
                assert_eq!(
                    output.status.code(),
                    Some(2),
                    "{command} {}",
                    file.display()
                );
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                assert!(
                    said.contains(&format!("{name}:")) && said.contains("help:"),
                    "{command} {name}: {said}"
                );
                assert!(!said.contains("panicked"), "{said}");
            }
            tried += 1;
        }
        for not_a_policy in ["/nowhere/policy.toml", "/", "/dev/null", "/bin/sh"] {
            assert_eq!(
                host.peerwall(&["apply", not_a_policy]).status.code(),
                Some(2),
                "{not_a_policy}"
            );
        }
        assert!(tried >= 60);
        assert_eq!(host.sh("nft --handle list ruleset"), before);
    });
}

#[test]
fn who_may_not_is_told_so() {
    world(|| {
        let host = Host::new("host");
        // A user namespace of its own has no power over this network.
        let output = host.try_sh(&format!(
            "unshare --user {} apply {EXAMPLE}",
            peerwall_bin().display()
        ));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
        // An ordinary user is told what would do, by every command that needs it. In a user
        // namespace there is no other.
        if !host
            .try_sh("setpriv --reuid 65534 --regid 65534 --clear-groups true")
            .status
            .success()
        {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("peerwall");
        fs::copy(peerwall_bin(), &bin).unwrap();
        fs::copy(EXAMPLE, folder.path().join("policy.toml")).unwrap();
        host.sh(&format!("chmod -R a+rX {}", folder.path().display()));
        for command in [
            "status", "plan", "apply", "confirm", "rollback", "remove", "reload",
        ] {
            let policy = if matches!(command, "status" | "plan" | "apply") {
                "policy.toml"
            } else {
                ""
            };
            let output = host.try_sh(&format!(
                "cd {} && setpriv --reuid 65534 --regid 65534 \
                --clear-groups ./peerwall {command} {policy}",
                folder.path().display()
            ));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.code() == Some(2) && said.contains("run it as root"),
                "{command}: {said}"
            );
        }
    });
}

#[test]
fn a_kill_in_the_middle_of_1000_applies_leaves_old_or_new() {
    world(|| {
        let three = Three::new();
        let host = &three.host;
        let folder = tempfile::tempdir().unwrap();
        let many = |from: u32, count: u32| {
            (from..from + count).map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255))
        };
        let a = policy_with_peers(folder.path(), "a", many(0, 600));
        let b = policy_with_peers(folder.path(), "b", many(300, 600));
        apply(host, &a);

        // The friend's requests are all answered; the stranger's never get in.
        let traffic = Traffic::start(&three, Answers::All);

        // How long an apply takes here, so that kills fall on all of it.
        let start = Instant::now();
        apply(host, &b);
        apply(host, &a);
        let whole = start.elapsed() / 2;
        let (mut killed, mut mixtures) = (0, Vec::new());
        for round in 0..1000_u32 {
            let policy = if round % 2 == 0 { &b } else { &a };
            let mut child = host
                .command(peerwall_bin())
                .arg("apply")
                .arg(policy)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // 997 is prime: every fraction of the time comes up.
            std::thread::sleep(whole * (round * 613 % 997) / 997);
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
            if round % 25 == 0 {
                let same = |p: &Path| {
                    host.peerwall(&["plan", &p.display().to_string()])
                        .status
                        .success()
                };
                if !same(&a) && !same(&b) {
                    mixtures.push(round);
                }
            }
        }
        let Totals {
            answered: asked,
            knocked,
            got_in,
        } = traffic.end();
        println!(
            "{killed} of 1000 applies were killed; {asked} \
             requests of a peer were answered, {knocked} of a stranger were not"
        );
        assert_eq!(mixtures, [0_u32; 0]);
        assert!(killed > 300, "only {killed} were killed in time");
        assert!(asked > 1000 && knocked > 1000);
        assert_eq!(got_in, 0, "a stranger got in");
        // And what a kill leaves can be gone on from.
        apply(host, &b);
        assert!(
            host.peerwall(&["plan", &b.display().to_string()])
                .status
                .success()
        );
    });
}

#[test]
fn two_who_apply_at_once_both_end_well() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policies: Vec<PathBuf> = (0..2u8)
            .map(|i| {
                policy_with_peers(
                    folder.path(),
                    &format!("p{i}"),
                    (0..200).map(move |n| format!("10.0.{i}.{n}")),
                )
            })
            .collect();
        for _ in 0..20 {
            let running: Vec<Child> = policies
                .iter()
                .map(|policy| {
                    host.command(peerwall_bin())
                        .arg("apply")
                        .arg(policy)
                        .stdout(Stdio::null())
                        .spawn()
                        .unwrap()
                })
                .collect();
            for mut child in running {
                assert!(child.wait().unwrap().success());
            }
            let same = |p: &PathBuf| {
                host.peerwall(&["plan", &p.display().to_string()])
                    .status
                    .success()
            };
            assert!(policies.iter().any(same), "a mixture");
        }
    });
}

#[test]
fn denied_packets_are_rejected_when_the_policy_says_so() {
    world(|| {
        let Three {
            host,
            friend,
            stranger,
        } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
            version = 1
            [peers]
            friend = ["192.0.2.2", "2001:db8::2"]
            [options]
            denied = "reject"
        "#;
        apply(&host, &write(folder.path(), "p.toml", text));
        // A stranger is told at once; a peer finds nobody listening, by the host's own word.
        for (who, to) in [
            (&stranger, "198.51.100.1:9"),
            (&friend, "192.0.2.1:9"),
            (&friend, "[2001:db8::1]:9"),
        ] {
            let start = Instant::now();
            assert_eq!(probe::tcp(who, to, probe::PATIENCE), None);
            assert!(start.elapsed() < probe::PATIENCE, "{to}: no answer came");
        }
        let count = host.sh("nft list counter inet peerwall input-default");
        assert!(!count.contains("packets 0"), "{count}");
        // UDP is answered with ICMP administratively prohibited.
        let refused = stranger.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("198.51.100.1:9").unwrap();
            socket.set_read_timeout(Some(probe::PATIENCE)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err().raw_os_error()
        });
        assert_eq!(refused, Some(libc::EHOSTUNREACH));
    });
}

#[test]
fn bridged_frames_are_judged_alike_with_br_netfilter_on_and_off() {
    world(|| {
        let host = Host::new("node");
        peerwall_integration::net::bridge(&host, "cni0", &["10.244.1.1/24"]);
        let pods = [2u8, 3].map(|n| {
            let pod = Host::new(&format!("pod{n}"));
            wire(
                &pod,
                "eth0",
                &[&format!("10.244.1.{n}/24")],
                &host,
                &format!("veth{n}"),
                &[],
            );
            peerwall_integration::net::enslave(&host, &format!("veth{n}"), "cni0");
            pod
        });
        probe::tcp_server(&pods[1], "0.0.0.0:8080");
        apply(&host, Path::new(EXAMPLE));
        let passed = || host.sh("nft list counter inet peerwall forward.overlay.flannel");
        host.sysctl("net.bridge.bridge-nf-call-iptables", "0");
        assert_eq!(
            probe::tcp(&pods[0], "10.244.1.3:8080", probe::PATIENCE).as_deref(),
            Some("pod3")
        );
        assert!(
            passed().contains("packets 0"),
            "frames came by the forward hook though they should not"
        );
        host.sysctl("net.bridge.bridge-nf-call-iptables", "1");
        assert_eq!(
            probe::tcp(&pods[0], "10.244.1.3:8080", probe::PATIENCE).as_deref(),
            Some("pod3")
        );
        assert!(
            !passed().contains("packets 0"),
            "br_netfilter is on and no frame came by the forward hook"
        );
    });
}

#[test]
fn a_bridge_that_is_not_judged_passes_frames_and_routes_nothing() {
    world(|| {
        let host = Host::new("node");
        peerwall_integration::net::bridge(&host, "br0", &["192.0.2.1/24"]);
        let guests = [2u8, 3].map(|n| {
            let guest = Host::new(&format!("guest{n}"));
            wire(
                &guest,
                "eth0",
                &[&format!("192.0.2.{n}/24")],
                &host,
                &format!("veth{n}"),
                &[],
            );
            peerwall_integration::net::enslave(&host, &format!("veth{n}"), "br0");
            guest.sh("ip route add default via 192.0.2.1");
            guest
        });
        let beyond = Host::new("beyond");
        wire(
            &beyond,
            "eth0",
            &["203.0.113.2/24"],
            &host,
            "eth0",
            &["203.0.113.1/24"],
        );
        beyond.sh("ip route add default via 203.0.113.1");
        host.sysctl("net.ipv4.ip_forward", "1");
        host.sysctl("net.bridge.bridge-nf-call-iptables", "1");
        probe::tcp_server(&guests[1], "0.0.0.0:8080");
        probe::tcp_server(&beyond, "0.0.0.0:8080");
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let base = r#"
            version = 1
            [peers]
            a = "198.51.100.9"
        "#;
        let from_guest = |to: &str, patience| probe::tcp(&guests[0], to, patience);
        fs::write(&policy, base).unwrap();
        apply(&host, &policy);
        assert_eq!(
            from_guest("192.0.2.3:8080", probe::IMPATIENCE),
            None,
            "unsaid, they are judged"
        );
        fs::write(
            &policy,
            format!("{base}[interfaces]\nbridged = [\"br0\"]\n"),
        )
        .unwrap();
        apply(&host, &policy);
        assert_eq!(
            from_guest("192.0.2.3:8080", probe::PATIENCE).as_deref(),
            Some("guest3")
        );
        assert_eq!(
            from_guest("203.0.113.2:8080", probe::IMPATIENCE),
            None,
            "that is routed"
        );
        let passed = host.sh("nft list counter inet peerwall forward.bridged");
        assert!(!passed.contains("packets 0"), "{passed}");
    });
}
