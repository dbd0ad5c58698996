//! Which backend is chosen, and what it cannot say.

use super::*;

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
            said.contains("p.toml:3: ") && said.contains("nftables"),
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

#[test]
fn a_namespace_with_a_reused_number_does_not_inherit_the_record() {
    world(|| {
        let number = |host: &Host| {
            host.sh("stat -Lc %i /proc/thread-self/ns/net")
                .trim()
                .to_owned()
        };
        let (old, new) = (Host::new("old"), Host::new("new"));
        // The kernel reuses numbers of namespaces; a copied record is as if it had.
        let inherit = || {
            old.sh(&format!(
                "cp /run/peerwall/applied-{}.json /run/peerwall/applied-{}.json",
                number(&old),
                number(&new)
            ));
        };
        assert_eq!(iptables(&old, "apply").0, Some(0));
        assert!(
            old.peerwall_ok(&["status", EXAMPLE])
                .contains("backend:    iptables")
        );
        inherit();
        let said = new.peerwall_ok(&["apply", EXAMPLE]);
        assert!(!said.contains("iptables"), "{said}");
        new.peerwall_ok(&["remove"]);

        old.peerwall_ok(&["apply", "--backend", "nft", EXAMPLE]);
        assert!(old.peerwall_ok(&["status", EXAMPLE]).contains("applied:  "));
        inherit();
        new.sh(&format!(
            "{} render {EXAMPLE} | nft -f -",
            peerwall_bin().display()
        ));
        let said = new.peerwall_ok(&["status", EXAMPLE]);
        assert!(!said.contains("applied:  "), "{said}");
    });
}
