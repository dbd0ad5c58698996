//! The policy files that the agent follows.

use super::*;

#[test]
fn files_are_followed_however_they_are_changed() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        fs::create_dir(base.join("..one")).unwrap();
        fs::create_dir(base.join("policy.d")).unwrap();
        write(
            base,
            "..one/policy.toml",
            &format!(
                "include = [\"{}/policy.d/*.toml\"]\n{}",
                base.display(),
                policy(&["192.0.2.1"])
            ),
        );
        symlink("..one", base.join("..data")).unwrap();
        symlink("..data/policy.toml", base.join("policy.toml")).unwrap();
        let path = base.join("policy.toml");
        let agent = Agent::start(&host, &path, &[]);
        let has = |address: &str| agent.wait_for(|| peers(&host).contains(address), address);
        has("192.0.2.1");
        // In place, behind the link.
        write(
            base,
            "..one/policy.toml",
            &format!(
                "include = [\"{}/policy.d/*.toml\"]\n{}",
                base.display(),
                policy(&["192.0.2.2"])
            ),
        );
        has("192.0.2.2");
        // A new file that an include means.
        write(
            base,
            "policy.d/more.toml",
            "[peers]\nmore = \"192.0.2.30\"\n",
        );
        has("192.0.2.30");
        // As the kubelet swaps a ConfigMap.
        fs::create_dir(base.join("..two")).unwrap();
        write(base, "..two/policy.toml", &policy(&["192.0.2.4"]));
        symlink("..two", base.join("..tmp")).unwrap();
        fs::rename(base.join("..tmp"), base.join("..data")).unwrap();
        has("192.0.2.4");
        // As an editor does it.
        write(base, "..two/.policy.toml.swp", "half");
        write(base, "..two/new", &policy(&["192.0.2.5"]));
        fs::rename(base.join("..two/new"), base.join("..two/policy.toml")).unwrap();
        has("192.0.2.5");
        // What is wrong changes nothing, and is told with its line.
        let generation = host.sh("nft list ruleset").len();
        write(base, "..two/policy.toml", "version = 1\nnonsense = 1\n");
        agent.wait_for(
            || {
                agent
                    .status()
                    .is_some_and(|s| s["policy_diagnostics"][0]["start"]["line"] == 2)
            },
            "the error",
        );
        assert_eq!(host.sh("nft list ruleset").len(), generation);
        let reload = host.peerwall(&["reload"]);
        assert!(
            reload.status.code() == Some(2) && said(&reload).contains("nonsense"),
            "{}",
            said(&reload)
        );
        // Read again when it changes, and on a signal.
        write(base, "..two/policy.toml", &policy(&["192.0.2.6"]));
        has("192.0.2.6");
        assert!(agent.status().unwrap()["policy_error"].is_null());
        agent.signal("HUP");
        let reload = host.peerwall(&["reload"]);
        assert!(
            reload.status.success() && said(&reload).contains("no changes"),
            "{}",
            said(&reload)
        );
        // A second agent, and an apply of another policy, find this one.
        let second = host
            .command(peerwall_bin())
            .arg("run")
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            second.status.code() == Some(2) && said(&second).contains("another agent"),
            "{}",
            said(&second)
        );
        let other = write(base, "other.toml", &policy(&["192.0.2.99"]));
        let apply = host.peerwall(&["apply", other.to_str().unwrap()]);
        assert!(
            apply.status.code() == Some(2) && said(&apply).contains("the agent manages"),
            "{}",
            said(&apply)
        );
        // SIGTERM leaves the rules.
        agent.end();
        assert!(peers(&host).contains("192.0.2.6"));
    });
}

#[test]
fn what_is_left_to_be_discovered_is_waited_for_followed_and_kept() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let env = folder.path().join("run/flannel/subnet.env");
        let text = format!(
            r#"
                {}
                [overlay.flannel]
                backend = "vxlan"
                discover = "{}"
                [[expect]]
                from = "flannel"
                port = "53/udp"
                verdict = "accept"
            "#,
            policy(&["192.0.2.1"]),
            env.display()
        );
        let path = write(folder.path(), "policy.toml", &text);
        let policy = path.to_str().unwrap();
        // By hand nobody would look again.
        let apply = host.peerwall(&["apply", policy]);
        assert!(
            apply.status.code() == Some(2) && said(&apply).contains("cannot read"),
            "{}",
            said(&apply)
        );
        let agent = Agent::start(&host, &path, &[]);
        let overlay = || agent.status().unwrap()["counts"]["overlays"][0].clone();
        assert_eq!(overlay()["discovery"], "awaited");
        let status = said(&host.peerwall(&["status", policy]));
        assert!(
            status.contains("in sync with") && status.contains("waits for"),
            "{status}"
        );
        assert!(peers(&host).contains("192.0.2.1"), "the rest is in force");

        // flannel starts: the folder, the file, the tunnel.
        fs::create_dir_all(env.parent().unwrap()).unwrap();
        let lease = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n";
        fs::write(&env, lease).unwrap();
        let pods = || said(&host.try_sh("nft list set inet peerwall overlay-flannel-ip4-nets"));
        agent.wait_for(|| pods().contains("10.244.0.0/16"), "the pods");
        let tunnel = || said(&host.try_sh("nft list chain inet peerwall input"));
        assert!(tunnel().contains("udp dport 8472"), "{}", tunnel());
        host.sh("ip link add flannel.1 type vxlan id 7 dstport 4789 local 192.0.2.9 nolearning");
        agent.wait_for(|| tunnel().contains("udp dport 4789"), "the tunnel's port");
        let link = &overlay()["interface"];
        assert!(
            link["kind"] == "vxlan" && link["udp_port"] == 4789,
            "{link}"
        );
        assert!(link["vni"] == 7 && link["local"] == "192.0.2.9", "{link}");
        // Recreated, as flannel does when its configuration changed.
        host.sh(
            "ip link del flannel.1; ip link add flannel.1 type vxlan id 7 dstport 8473 nolearning",
        );
        agent.wait_for(|| tunnel().contains("udp dport 8473"), "the other port");

        // It says something else, then nonsense, then nothing.
        fs::write(&env, lease.replace("10.244", "10.42")).unwrap();
        agent.wait_for(|| pods().contains("10.42.0.0/16"), "the other pods");
        fs::write(&env, "FLANNEL_NETWORK=10.43\n").unwrap();
        agent.wait_for(|| overlay()["discovery"] == "kept", "what was good");
        fs::remove_dir_all(env.parent().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(400));
        assert!(
            pods().contains("10.42.0.0/16") && overlay()["discovery"] == "kept",
            "{}",
            overlay()
        );
        // Other changes are taken meanwhile, also after a restart, also by hand.
        write(
            folder.path(),
            "policy.toml",
            &text.replace("192.0.2.1", "192.0.2.3"),
        );
        agent.wait_for(|| peers(&host).contains("192.0.2.3"), "the change");
        agent.end();
        let apply = host.peerwall(&["apply", policy]);
        assert!(
            apply.status.success() && said(&apply).contains("still used: 10.42.0.0/16"),
            "{}",
            said(&apply)
        );
        let agent = Agent::start(&host, &path, &[]);
        assert!(pods().contains("10.42.0.0/16"));
        fs::create_dir_all(env.parent().unwrap()).unwrap();
        fs::write(&env, lease).unwrap();
        agent.wait_for(|| pods().contains("10.244.0.0/16"), "the pods again");
    });
}

#[test]
fn a_policy_that_others_can_write_is_not_taken() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let text = path.to_str().unwrap();
        let mode =
            |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o664);
        let apply = host.peerwall(&["apply", text]);
        assert!(
            apply.status.code() == Some(2) && said(&apply).contains("can be written by others"),
            "{}",
            said(&apply)
        );
        assert!(!host.sh("nft list tables").contains("peerwall"));
        host.peerwall_ok(&["check", text]);
        host.peerwall_ok(&["apply", "--insecure-permissions", text]);
        mode(0o644);
        let agent = Agent::start(&host, &path, &[]);
        mode(0o666);
        write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        agent.wait_for(
            || {
                agent
                    .status()
                    .is_some_and(|s| s["policy_error"].to_string().contains("written by others"))
            },
            "the refusal",
        );
        assert!(!peers(&host).contains("192.0.2.2"));
        mode(0o600);
        agent.wait_for(|| peers(&host).contains("192.0.2.2"), "the change");
    });
}
