//! scripts/remove-old-rules beside other programs' rules.

use std::fs;

use peerwall_integration::ns::{Host, peerwall_bin, world};

use super::REPOSITORY;

/// Docker's chains and rules, and those of an administrator who added and removed some since.
#[test]
fn old_rules_are_removed_and_those_of_others_stay() {
    const OLD: &str = "*nat\n:PREROUTING ACCEPT\n:DOCKER -\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 80\nCOMMIT\n\
        *filter\n:INPUT DROP [5:300]\n:FORWARD DROP\n:DOCKER -\n:DOCKER-USER -\n:own -\n:own2 -\n\
        [7:420] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
        -I INPUT 1 -i lo -j ACCEPT\n\
        -A INPUT -m set --match-set nodes src -j own\n\
        -A FORWARD -j DOCKER-USER\n\
        -A FORWARD -o docker0 -j DOCKER\n\
        -A DOCKER-USER -s 198.51.100.0/24 -j DROP\n\
        -A DOCKER -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j ACCEPT\n\
        -A own -g own2\n-A own2 -j ACCEPT\nCOMMIT\n";
    const SETS: &str = "create nodes hash:ip family inet\nadd nodes 192.0.2.7\n\
        create all list:set\nadd all nodes\n";
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (v4, sets) = (file("v4", OLD), file("sets", SETS));
        let policy = file(
            "policy.toml",
            "version = 1\n[interfaces]\nguests = [\"docker0\"]\n",
        );
        for variant in ["legacy", "nft"] {
            let host = Host::new(variant);
            let program = peerwall_bin();
            let run = |sets: &str| {
                host.try_sh(&format!(
                    "PATH={}:$PATH {REPOSITORY}/scripts/remove-old-rules --v4 {v4} {sets}",
                    program.parent().unwrap().display()
                ))
            };
            let saved = || {
                let text = host.sh(&format!("iptables-{variant}-save"));
                let rules = text.lines().filter(|line| line.starts_with("-A"));
                let chains = text.lines().filter(|line| line.contains(" DROP ["));
                rules
                    .chain(chains)
                    .map(|line| format!("{line}\n"))
                    .collect::<String>()
            };
            host.sh(&format!(
                "ipset restore <{sets} && iptables-{variant}-restore <{v4}"
            ));
            let before = saved();
            let refused = run("");
            assert_eq!(refused.status.code(), Some(2), "peerwall is not loaded");
            assert_eq!(saved(), before, "{variant}");
            host.peerwall_ok(&["apply", "--backend", "nft", &policy]);
            // Since then, one rule was removed and others were added.
            host.sh(&format!(
                "iptables-{variant} -D INPUT -i lo -j ACCEPT && \
                 iptables-{variant} -A INPUT -s 203.0.113.9 -j DROP && \
                 iptables-{variant} -A INPUT -s 203.0.113.8 -j own"
            ));
            let output = run(&format!("--sets {sets}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // A rule of others keeps a chain.
            assert!(
                output.status.code() == Some(1) && said.contains("-X own: "),
                "{variant}: {said}"
            );
            let kept = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
                -A INPUT -s 203.0.113.9/32 -j DROP\n\
                -A INPUT -s 203.0.113.8/32 -j own\n\
                -A FORWARD -o docker0 -j DOCKER\n\
                -A DOCKER -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j ACCEPT\n";
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&saved()), sorted(kept), "{variant}");
            assert_eq!(host.sh("ipset list -n"), "", "{variant}");
            host.sh(&format!(
                "iptables-{variant} -D INPUT -s 203.0.113.8 -j own"
            ));
            for _ in 0..2 {
                let output = run(&format!("--sets {sets}"));
                assert!(output.status.success(), "{variant}: {output:?}");
                let text = host.sh(&format!("iptables-{variant}-save"));
                assert!(!text.contains("own"), "{variant}: {text}");
            }
        }
    });
}
