//! The command line: help, completions, man pages, and what needs no kernel.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::process::{Command, Output, Stdio};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");

fn peerwall(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peerwall"))
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn help_says_what_there_is_and_how_it_exits() {
    let help = stdout(&peerwall(&["--help"]));
    for word in [
        "check",
        "plan",
        "apply",
        "render",
        "status",
        "remove",
        "completions",
        "man",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    assert_eq!(peerwall(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(peerwall(&[]).status.code(), Some(2));
}

#[test]
fn completions_and_man_pages_are_made_from_the_same_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&peerwall(&["completions", shell]));
        assert!(
            script.contains("status") && script.contains("hold"),
            "{shell}"
        );
    }
    let folder = std::env::temp_dir().join(format!("peerwall-man-{}", std::process::id()));
    assert!(
        peerwall(&["man", &folder.display().to_string()])
            .status
            .success()
    );
    for page in ["peerwall.1", "peerwall-apply.1", "peerwall-plan.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".TH") && text.contains("policy"), "{page}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn check_and_render_need_neither_kernel_nor_root() {
    let output = peerwall(&["check", EXAMPLE]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stdout(&output).contains("ok. 4 peers, 1 overlay, 1 allow"),
        "{}",
        stdout(&output)
    );
    let json = stdout(&peerwall(&["check", "--json", EXAMPLE]));
    assert!(json.contains("\"ok\": true"), "{json}");
    let text = stdout(&peerwall(&["render", EXAMPLE]));
    assert!(
        text.contains("table inet peerwall {") && text.contains("policy drop;"),
        "{text}"
    );
    let json = stdout(&peerwall(&["render", "--format", "json", EXAMPLE]));
    assert!(json.starts_with("{\n  \"nftables\": ["), "{json}");
}

#[test]
fn what_is_wrong_goes_to_stderr_or_into_json_and_exits_with_2() {
    let path = std::env::temp_dir().join(format!("peerwall-bad-{}.toml", std::process::id()));
    std::fs::write(&path, "version = 1\n[peers]\na = \"10.0.0.1/24\"\n").unwrap();
    let name = path.display().to_string();
    let output = peerwall(&["check", &name]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(2), "")
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(&format!("{name}:3:5")) && said.contains("1 error in the policy"),
        "{said}"
    );
    let output = peerwall(&["check", "--json", &name]);
    assert_eq!(output.status.code(), Some(2));
    let json = stdout(&output);
    assert!(
        json.contains("\"line\": 3") && json.contains("\"column\": 5"),
        "{json}"
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_reader_that_goes_away_is_nobodys_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_peerwall"))
        .args(["render", EXAMPLE])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
