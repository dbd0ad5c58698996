//! Policies that would lock out their operator.

use super::*;

#[test]
fn who_would_lock_himself_out_is_told_before() {
    world(|| {
        let Three { host, stranger, .. } = Three::new();
        let listener = host.run(|| TcpListener::bind("198.51.100.1:22").unwrap());
        let _client = stranger.run(|| TcpStream::connect("198.51.100.1:22").unwrap());
        let (accepted, _) = listener.accept().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let closed = write(
            folder.path(),
            "policy.toml",
            r#"
                version = 1
                [peers]
                friend = "192.0.2.2"
                [options]
                revoke = "keep"
            "#,
        );
        let apply = |ssh: &str, more: &[&str]| {
            let mut command = host.command(peerwall_bin());
            command
                .arg("apply")
                .args(more)
                .arg(&closed)
                .env("SSH_CONNECTION", ssh)
                .output()
                .unwrap()
        };
        let output = apply("198.51.100.2 4000 198.51.100.1 22", &[]);
        assert!(
            output.status.code() == Some(2)
                && said(&output).contains("would block your ssh session"),
            "{}",
            said(&output)
        );
        assert!(
            !host.sh("nft list tables").contains("peerwall"),
            "nothing was changed"
        );
        // sudo takes the variable away; the shell above has it.
        let shell = format!(
            "SSH_CONNECTION='198.51.100.2 4000 198.51.100.1 22' sh -c 'env -u SSH_CONNECTION {} \
             apply {}; exit $?'",
            peerwall_bin().display(),
            closed.display()
        );
        let output = host.try_sh(&shell);
        assert!(
            !output.status.success() && said(&output).contains("would block your ssh session"),
            "{}",
            said(&output)
        );
        assert!(
            apply("192.0.2.2 4000 192.0.2.1 22", &[]).status.success(),
            "a peer is let in"
        );
        assert!(
            apply("198.51.100.2 4000 198.51.100.1 22", &["--force"])
                .status
                .success()
        );
        // By the agent as well.
        let _agent = Agent::start(&host, &closed, &[]);
        let output = apply("198.51.100.2 4000 198.51.100.1 22", &[]);
        assert!(
            output.status.code() == Some(2)
                && said(&output).contains("would block your ssh session"),
            "{}",
            said(&output)
        );

        // An ssh server that has the connection; nothing in any environment.
        let server = folder.path().join("sshd");
        fs::copy("/bin/sh", &server).unwrap();
        let beneath = |shell: &str| {
            let mut command = host.command(&server);
            let stream = std::os::fd::OwnedFd::from(accepted.try_clone().unwrap());
            command
                .args(["-c", &format!("{shell}; exit $?")])
                .stdin(Stdio::from(stream));
            command.env_remove("SSH_CONNECTION");
            command
        };
        let (bin, closed) = (
            peerwall_bin().display().to_string(),
            closed.display().to_string(),
        );
        let apply = beneath(&format!("{bin} apply {closed} </dev/null"))
            .output()
            .unwrap();
        assert!(
            apply.status.code() == Some(2)
                && said(&apply).contains(
                    "block your ssh session: a new connection from 198.51.100.2 to port 22"
                ),
            "{}",
            said(&apply)
        );

        // In tmux the server is not a parent: every ssh session may be the caller's.
        let mut session = beneath("sleep 60").spawn().unwrap();
        let at_terminal = |more: &str| {
            let shell = format!("script -qec 'exec {bin} apply {more} {closed}' /dev/null");
            host.command("sh")
                .args(["-c", &shell])
                .env_remove("SSH_CONNECTION")
                .output()
                .unwrap()
        };
        let apply = at_terminal("");
        assert!(
            apply.status.code() == Some(2)
                && said(&apply).contains("block every current ssh session"),
            "{}",
            said(&apply)
        );
        // A script that nobody sits at is not asked, and who insists gets it.
        host.peerwall_ok(&["apply", &closed]);
        assert!(at_terminal("--force").status.success());
        session.kill().unwrap();
        session.wait().unwrap();
    });
}
