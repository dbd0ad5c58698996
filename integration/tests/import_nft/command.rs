//! `peerwall import` of nftables files, listings and broken files, and the steps of the migration.

use std::fs;
use std::path::Path;
use std::process::Output;

use peerwall_integration::ns::{Host, peerwall_bin, world};

const DOCS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/migrate-from-nftables.md"
);

const SCRIPT: &str = "#!/usr/sbin/nft -f
flush ruleset
include \"./ports.nft\"
table inet filter {
	chain input {
		type filter hook input priority 0; policy drop;
		iif \"uplink0\" tcp dport $PORTS accept
		ct state established,related accept
		iifname lo accept
		meta mark 7 accept
	}
}
";

/// A host with rules and files of its own.
fn host(name: &str) -> (Host, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("ports.nft"),
        "define PORTS = { ssh, 8443 }\n",
    )
    .unwrap();
    fs::write(folder.path().join("nftables.conf"), SCRIPT).unwrap();
    (Host::new(name), folder)
}

/// Hides nft in the world's mount namespace.
fn hide_nft(host: &Host) {
    host.sh("command -v nft >/run/nft && touch /run/nothing && mount --bind /run/nothing $(cat /run/nft)");
}

fn show_nft(host: &Host) {
    host.sh("umount $(cat /run/nft)");
}

fn import(host: &Host, folder: &Path, arguments: &str) -> Output {
    let (folder, program) = (folder.display(), peerwall_bin());
    host.try_sh(&format!(
        "cd {folder} && {} import {arguments}",
        program.display()
    ))
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn report(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn files_and_listings_become_the_same_policy_and_change_no_rules() {
    world(|| {
        let (host, folder) = host("host");
        host.sh("nft add table inet mine && ip link add eth7 type bridge");
        let state = "nft list ruleset; ip -o link | cut -d: -f2";
        let before = host.sh(state);
        let import = |arguments: &str| {
            let output = import(&host, folder.path(), arguments);
            assert!(output.status.success(), "{arguments}: {}", report(&output));
            (out(&output), report(&output))
        };
        let (policy, said) = import("nftables.conf");
        for want in ["\"22/tcp\", \"8443/tcp\"", "interfaces = [\"uplink0\"]"] {
            assert!(policy.contains(want), "{want}\n{policy}");
        }
        // Names and variables are resolved, and the mark is in the report, not in the policy.
        for want in [
            "tcp dport { 22, 8443 } accept",
            "meta mark 0x00000007 accept",
        ] {
            assert!(said.contains(want), "{want}\n{said}");
        }
        let loaded = Host::new("loaded");
        loaded.sh("ip link add uplink0 type bridge");
        let rules = format!(
            "cd {} && nft -f nftables.conf && nft -j list ruleset >rules.json && \
             (nft -j list ruleset; nft -a list ruleset) >rules",
            folder.path().display()
        );
        loaded.sh(&rules);
        // From here on there is no nft.
        hide_nft(&host);
        let text = |policy: &str| policy.lines().skip(1).collect::<Vec<_>>().join("\n");
        for arguments in ["rules", "rules.json", "- <rules"] {
            assert_eq!(text(&import(arguments).0), text(&policy), "{arguments}");
        }
        show_nft(&host);
        assert_eq!(host.sh(state), before);
        let (piped, _) = import("- <nftables.conf");
        assert_eq!(text(&piped), text(&policy));
    });
}

/// Files of a machine: rules for nft that include others, and rules of iptables for IPv6.
const CLOUD_CONFIG: &str = "#cloud-config
write_files:
  - path: /etc/nftables.d/ports.nft
    content: |
      define PORTS = { ssh, 8443 }
  - path: /etc/nftables.conf
    content: |
      #!/usr/sbin/nft -f
      flush ruleset
      include \"/etc/nftables.d/*.nft\"
      table ip filter {
        chain input {
          type filter hook input priority 0; policy drop;
          iif \"uplink0\" tcp dport $PORTS accept
        }
      }
  - path: /etc/iptables/rules.v6
    content: |
      *filter
      :INPUT DROP
      :FORWARD DROP
      -A INPUT -s 2001:db8:7::1 -p tcp --dport 9100 -j ACCEPT
      COMMIT
";

#[test]
fn nftables_files_in_configurations_are_imported_beside_iptables_files() {
    world(|| {
        let (host, folder) = host("host");
        let escaped = |text: &str| text.replace('\n', "%0A").replace('\"', "%22");
        let rules = "table ip t { chain i { type filter hook input priority 0; policy drop; \
             tcp dport 8443 accept; }; }\n";
        let ignition = format!(
            r#"{{"ignition": {{"version": "3.4.0"}}, "storage": {{"files": [
                {{"path": "/etc/sysconfig/nftables.conf",
                  "contents": {{"source": "data:,{}"}}}}]}}}}"#,
            escaped(rules)
        );
        let butane = format!(
            "variant: fcos\nversion: 1.5.0\nstorage:\n  files:\n    \
             - path: /etc/nftables/main.nft\n      contents:\n        inline: |\n          {rules}"
        );
        for (name, text, wanted) in [
            (
                "user-data",
                CLOUD_CONFIG,
                &["\"22/tcp\", \"8443/tcp\"", "uplink0", "2001:db8:7::1"][..],
            ),
            ("config.ign", &ignition, &["8443/tcp"]),
            ("config.bu", &butane, &["8443/tcp"]),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
            let output = import(&host, folder.path(), name);
            let policy = out(&output);
            assert!(output.status.success(), "{name}: {}", report(&output));
            for want in wanted {
                assert!(policy.contains(want), "{name}: {want}\n{policy}");
            }
        }
        hide_nft(&host);
        let output = import(&host, folder.path(), "user-data");
        let said = report(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("user-data: /etc/nftables.conf: nft is not installed"),
            "{said}"
        );
        show_nft(&host);
    });
}

#[test]
fn a_file_that_nft_cannot_load_is_an_error_with_nfts_words() {
    world(|| {
        let (host, folder) = host("host");
        let nat = "table ip nat {\n chain p {\n  type nat hook prerouting priority 0\n }\n}\n";
        for (text, want) in [
            (
                "flush ruleset\ntable inet t {\n\tchain c {\n\t\ttcp dprt 22\n\t}\n}\n",
                "file:4:",
            ),
            ("flush ruleset\ninclude \"./none.nft\"\n", "none.nft"),
            (nat, "no chain of type filter has the hook input"),
            (
                "flush ruleset\n",
                "no chain of type filter has the hook input",
            ),
            (
                "{\"nftables\": [\n{]}\n",
                "file: line 2: the JSON is invalid",
            ),
        ] {
            fs::write(folder.path().join("file"), text).unwrap();
            let output = import(&host, folder.path(), "file");
            assert_eq!(output.status.code(), Some(2), "{text}: {}", report(&output));
            assert!(
                report(&output).contains(want),
                "{text}: {}",
                report(&output)
            );
            assert_eq!(out(&output), "", "{text}");
        }
        hide_nft(&host);
        let output = import(&host, folder.path(), "nftables.conf");
        assert_eq!(output.status.code(), Some(2));
        let said = report(&output);
        for want in [
            "nft is not installed",
            "nft -j list ruleset; nft -a list ruleset",
        ] {
            assert!(said.contains(want), "{said}");
        }
        show_nft(&host);
    });
}

#[test]
fn an_ordinary_user_imports_in_a_user_namespace() {
    world(|| {
        let (host, folder) = host("host");
        let as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
        if !host.try_sh(&format!("{as_nobody} true")).status.success() {
            // A user namespace has no other user.
            return;
        }
        fs::copy(peerwall_bin(), folder.path().join("peerwall")).unwrap();
        let path = folder.path().display();
        let output = host.try_sh(&format!(
            "chmod -R a+rX {path} && cd {path} && {as_nobody} ./peerwall import nftables.conf"
        ));
        assert!(output.status.success(), "{}", report(&output));
        assert!(out(&output).contains("8443/tcp"), "{}", out(&output));
    });
}

/// The commands of a page, in order.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```").skip(1).step_by(2);
    blocks.flat_map(|block| block.trim().lines()).collect()
}

#[test]
fn the_migration_is_walked_through_and_leaves_nothing_of_the_old_rules() {
    world(|| {
        let (host, folder) = host("host");
        host.sh("ip link add uplink0 type bridge");
        let path = folder.path().display();
        host.sh(&format!("cd {path} && nft -f nftables.conf"));
        let page = fs::read_to_string(DOCS).unwrap();
        let mut tables = Vec::new();
        for command in commands(&page) {
            // Units are tested elsewhere.
            if command.contains("systemctl") {
                continue;
            }
            let command = command
                .replace("sudo ", "")
                .replace("/etc", &format!("{path}/etc"));
            let command = command.replace(&format!("{path}/etc/nftables.conf"), "nftables.conf");
            let program = peerwall_bin();
            let folder = program.parent().unwrap().display();
            let output = host.try_sh(&format!("cd {path} && PATH={folder}:$PATH; {command}"));
            // `plan` exits with 1 if there are changes.
            let code = i32::from(command.contains(" plan "));
            assert_eq!(
                output.status.code(),
                Some(code),
                "{command}: {}",
                report(&output)
            );
            tables.push(host.sh("nft list tables"));
        }
        let last = tables.len() - 1;
        assert_eq!(tables[last - 2], "table inet peerwall\n", "after step 4");
        assert_eq!(tables[last], "table inet filter\n", "undone");
    });
}

/// `PEERWALL_BLESS=1` writes the policies and reports; their lines are those of nft's listing.
#[test]
fn every_fixture_gives_its_policy_and_its_report() {
    world(|| {
        let host = Host::new("host");
        let mut count = 0;
        for folder in super::folders() {
            let output = import(&host, &folder, "nftables.conf");
            let at = folder.display();
            assert!(output.status.success(), "{at}: {}", report(&output));
            for (name, got) in [
                ("policy.toml", out(&output)),
                ("report.txt", report(&output)),
            ] {
                let path = folder.join(name);
                if std::env::var_os("PEERWALL_BLESS").is_some() {
                    fs::write(&path, &got).unwrap();
                }
                let want = fs::read_to_string(&path).unwrap_or_default();
                assert_eq!(got, want, "{at}/{name} (PEERWALL_BLESS=1 writes it)");
            }
            let policy = folder.join("policy.toml").display().to_string();
            host.peerwall_ok(&["check", &policy]);
            count += 1;
        }
        assert!(count >= 30, "{count}");
    });
}
