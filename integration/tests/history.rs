//! The audit trail: what came into force and ended, by whom, and the message to the terminal of a
//! trial.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::path::{Path, PathBuf};

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{Agent, wait_for};
use serde_json::Value;

fn policy(folder: &Path, name: &str, peer: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!(
        r#"
            version = 1
            [peers]
            friend = "{peer}"
            [[allow]]
            name = "ssh"
            ports = ["22/tcp"]
            from = "any"
        "#
    );
    fs::write(&path, text).unwrap();
    path
}

fn events(host: &Host) -> Vec<Value> {
    let text = host.peerwall_ok(&["history", "--all", "--json"]);
    let history: Value = serde_json::from_str(&text).unwrap();
    history["events"].as_array().unwrap().clone()
}

/// The kinds of all events, and by what each was.
fn kinds(host: &Host) -> Vec<String> {
    let kind = |event: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} by {}", word(&event["kind"]), word(&event["by"]["what"]))
    };
    events(host).iter().map(kind).collect()
}

fn from_ssh(host: &Host, port: u16, args: &[&str]) {
    let mut command = host.command(peerwall_bin());
    let connection = format!("203.0.113.5 {port} 203.0.113.6 22");
    command.args(args).env("SSH_CONNECTION", connection);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Every way in and out of force, with what has to be recorded of it.
fn record_everything(with_agent: bool) {
    let host = Host::new("host");
    let folder = tempfile::tempdir().unwrap();
    let path = policy(folder.path(), "policy.toml", "192.0.2.1");
    let copy = policy(folder.path(), "copy.toml", "192.0.2.2");
    let (path_text, copy_text) = (path.to_str().unwrap(), copy.to_str().unwrap());
    let agent = with_agent.then(|| Agent::start(&host, &path, &[]));
    if agent.is_none() {
        host.peerwall_ok(&["apply", path_text]);
    }
    // The same once more is no event.
    host.peerwall_ok(&["apply", path_text]);
    from_ssh(&host, 4000, &["apply", "--confirm", "1s", copy_text]);
    wait_for("the end of the trial", || kinds(&host).len() == 3);
    from_ssh(&host, 4000, &["apply", "--confirm", "60s", copy_text]);
    from_ssh(&host, 4001, &["confirm"]);
    from_ssh(&host, 4001, &["rollback"]);
    drop(agent);
    host.peerwall_ok(&["remove"]);
    host.peerwall_ok(&["remove"]);
    host.peerwall_ok(&["boot", path_text]);
    let (first, guard) = if with_agent {
        ("agent", "agent")
    } else {
        ("apply", "guard")
    };
    let want = [
        format!("applied by {first}"),
        "tried by apply".to_owned(),
        format!("ran_out by {guard}"),
        "tried by apply".to_owned(),
        "confirmed by confirm".to_owned(),
        "rolled_back by rollback".to_owned(),
        "removed by remove".to_owned(),
        "booted by boot".to_owned(),
    ];
    assert_eq!(kinds(&host), want);
    let events = events(&host);
    for (event, policy) in [
        (0, path_text),
        (1, copy_text),
        (2, copy_text),
        (4, copy_text),
        (5, copy_text),
        (7, path_text),
    ] {
        assert_eq!(events[event]["policy"], policy, "event {event}");
    }
    assert_eq!(
        (&events[1]["seconds"], &events[2]["seconds"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (
            &events[0]["number"],
            &events[4]["number"],
            &events[7]["number"]
        ),
        (&1.into(), &2.into(), &1.into())
    );
    assert!(
        events[1]["by"]["ssh"]
            .as_str()
            .unwrap()
            .starts_with("203.0.113.5 4000 "),
        "{}",
        events[1]
    );
    assert!(
        events[1]["summary"]
            .as_str()
            .unwrap()
            .contains("1 set element"),
        "{}",
        events[1]
    );
    let text = host.peerwall_ok(&["history"]);
    assert!(
        text.contains("ran out after 1 s")
            && text.contains("by confirm, uid 0, ssh from 203.0.113.5"),
        "{text}"
    );
}

/// A trial from a terminal that runs out.
fn run_out_on_a_terminal(with_agent: bool) {
    let host = Host::new("host");
    let folder = tempfile::tempdir().unwrap();
    let path = policy(folder.path(), "policy.toml", "192.0.2.1");
    let copy = policy(folder.path(), "copy.toml", "192.0.2.2");
    let _agent = with_agent.then(|| Agent::start(&host, &path, &[]));
    let terminal = folder.path().join("typescript");
    let inside = format!(
        "{} apply --force --confirm 1s {}; sleep 4",
        peerwall_bin().display(),
        copy.display()
    );
    host.sh(&format!(
        "script -qefc '{inside}' {} >/dev/null </dev/null",
        terminal.display()
    ));
    let said = fs::read_to_string(&terminal).unwrap();
    let want = format!(
        "peerwall: {} was not confirmed within 1 s and was rolled back",
        copy.display()
    );
    assert!(said.contains(&want), "with an agent: {with_agent}\n{said}");
}

#[test]
fn every_way_in_and_out_of_force_is_recorded_once() {
    world(|| {
        record_everything(false);
    });
}

#[test]
fn every_way_in_and_out_of_force_of_an_agent_is_recorded_once() {
    world(|| {
        record_everything(true);
    });
}

#[test]
fn a_terminal_is_told_that_its_trial_ran_out() {
    world(|| {
        run_out_on_a_terminal(false);
    });
}

#[test]
fn a_terminal_is_told_by_the_agent_that_its_trial_ran_out() {
    world(|| {
        run_out_on_a_terminal(true);
    });
}

#[test]
fn a_torn_or_unknown_line_hides_no_other_event() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(folder.path(), "policy.toml", "192.0.2.1");
        host.peerwall_ok(&["apply", path.to_str().unwrap()]);
        host.sh("cd ${PEERWALL_STATE:-/var/lib/peerwall} && \
            printf '{\"time\":\"2026-01\\n\\0\\377\\n{\"kind\":\"new\"}\\n' >> audit.log");
        host.peerwall_ok(&["remove"]);
        assert_eq!(kinds(&host), ["applied by apply", "removed by remove"]);
        // A full one becomes the old one; both are read.
        host.sh("cd ${PEERWALL_STATE:-/var/lib/peerwall} && \
            head -c 1100000 /dev/zero | tr '\\0' '\\n' >> audit.log");
        host.peerwall_ok(&["apply", path.to_str().unwrap()]);
        host.peerwall_ok(&["remove"]);
        assert_eq!(
            kinds(&host).len(),
            3,
            "the same text is no new entry of the history"
        );
    });
}
