//! The recipe for ulogd in `docs/debugging.md`, as it stands there.

use super::*;

const PAGE: &str = include_str!("../../../docs/debugging.md");

/// The block of the page after this line.
fn block(before: &str) -> String {
    let rest = PAGE.split_once(before).unwrap().1;
    let block = rest.split("```").nth(1).unwrap();
    block.trim_start_matches(|c| c != '\n').trim().to_owned()
}

#[test]
fn ulogd_reads_the_group_that_the_agent_leaves() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        let _agent = Running::agent(node, &["--no-denied"]);
        // Debian's directory of plugins, in the place of this machine's architecture.
        let found = node.sh("dirname $(find /usr/lib -name ulogd_inppkt_NFLOG.so | head -1)");
        let config = block("`/etc/ulogd.conf`:");
        let plugins = config.lines().find(|line| line.starts_with("plugin="));
        let folder = plugins.unwrap().trim_start_matches("plugin=\"");
        let folder = folder.rsplit_once('/').unwrap().0;
        let config = config.replace(folder, found.trim());
        let config = config.replace("/var/log/", "/run/");
        // ulogd skips a last line that has no end.
        fs::write("/run/ulogd.conf", format!("{config}\n")).unwrap();
        let mut command = node.command("ulogd");
        command
            .args(["-c", "/run/ulogd.conf"])
            .stderr(Stdio::null());
        let ulogd = Running(command.stdout(Stdio::null()).spawn().unwrap());
        let group = "cat /proc/net/netfilter/nfnetlink_log";
        wait_for(|| node.sh(group).contains("    5 "), "ulogd");
        // The group is another program's, which is named.
        let output = node.peerwall(&["denied", "--json"]);
        let error = json(&output)["error"].clone();
        assert_eq!(error["code"], "log-taken", "{error}");
        let holder = format!("ulogd (pid {})", ulogd.0.id());
        assert!(
            error["message"].as_str().unwrap().contains(&holder),
            "{error}"
        );
        site.send();
        let log = || fs::read_to_string("/run/peerwall-denied.log").unwrap_or_default();
        let find = |log: &str| {
            let mut lines = log.lines().filter(|line| line.contains("input-default"));
            lines
                .find(|line| line.contains("DPT=9100 "))
                .map(str::to_owned)
        };
        wait_for(|| find(&log()).is_some(), "the line of the log");
        // Its lines can be pasted.
        let line = find(&log()).unwrap();
        let output = node.peerwall(&["explain", "--json", &line]);
        let explained = json(&output);
        assert_eq!(
            explained["reason"], "input-default",
            "{line}: {explained:#}"
        );
    });
}
