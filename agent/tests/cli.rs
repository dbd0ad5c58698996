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
        "denied",
        "diff",
        "doctor",
        "explain",
        "exposed",
        "test",
        "trace",
        "block",
        "unblock",
        "apply",
        "peer",
        "render",
        "sources",
        "status",
        #[cfg(feature = "top")]
        "top",
        "remove",
        "import",
        "completions",
        "man",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    assert_eq!(peerwall(&["frobnicate"]).status.code(), Some(2));
    let alone = peerwall(&[]);
    assert_eq!(alone.status.code(), Some(0));
    assert!(stdout(&alone).contains("Usage: peerwall"));
}

#[test]
fn completions_and_man_pages_are_made_from_the_same_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&peerwall(&["completions", shell]));
        assert!(
            script.contains("status") && script.contains("hold"),
            "{shell}"
        );
        let hidden = script.lines().find(|line| line.contains("guard"));
        assert_eq!(hidden, None, "{shell}: what apply starts is not for people");
    }
    let folder = std::env::temp_dir().join(format!("peerwall-man-{}", std::process::id()));
    assert!(
        peerwall(&["man", &folder.display().to_string()])
            .status
            .success()
    );
    for page in ["peerwall.8", "peerwall-apply.8", "peerwall.toml.5"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".TH") && text.contains("policy"), "{page}");
    }
    assert!(!folder.join("peerwall-guard.1").exists());
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
    assert!(json.contains("\"outcome\": \"valid\""), "{json}");
    let text = stdout(&peerwall(&["render", EXAMPLE]));
    assert!(
        text.contains("table inet peerwall {") && text.contains("policy drop;"),
        "{text}"
    );
    let json = stdout(&peerwall(&["render", "--format", "json", EXAMPLE]));
    assert!(json.starts_with("{\n  \"nftables\": ["), "{json}");
}

const CLUSTER: &str = r#"version = 1
[peers]
node = "192.0.2.11"
[overlay.flannel]
backend = "vxlan"
discover = "/nowhere/subnet.env"
[[expect]]
from = "flannel"
verdict = "accept"
[[expect]]
from = "198.51.100.1"
verdict = "drop"
"#;

#[test]
fn check_works_off_the_node_and_says_what_it_could_not_test() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let policy = write("policy.toml", CLUSTER);
    let output = peerwall(&["check", &policy]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        stdout(&output).contains("1 expectation met, 1 not tested")
            && stdout(&output).contains("not known here: the pods of overlay flannel"),
        "{}",
        stdout(&output)
    );
    assert!(
        said.contains("policy.toml:9:11") && said.contains("--discovered FILE"),
        "{said}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&peerwall(&["check", "--json", &policy]))).unwrap();
    assert_eq!(
        (&json["outcome"], &json["untested"]),
        (&"valid".into(), &1.into()),
        "{json}"
    );
    let there = write(
        "node.toml",
        "[files]\n\"/nowhere/subnet.env\" = [\"10.244.0.0/16\"]\n",
    );
    let output = peerwall(&["check", "--discovered", &there, &policy]);
    assert!(
        output.status.success() && stdout(&output).contains("2 expectations met."),
        "{}",
        stdout(&output)
    );
    let wrong = write(
        "wrong.toml",
        "[files]\n\"/nowhere/subnet.env\" = [\"10.244.0.1/16\"]\n",
    );
    let output = peerwall(&["check", "--discovered", &wrong, &policy]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && said.contains("wrong.toml:2:"),
        "{said}"
    );
    let output = peerwall(&["check", "--discovered", "/nowhere.toml", &policy]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && said.contains("/nowhere.toml"),
        "{said}"
    );
    // What is put in force needs the pods.
    assert_eq!(peerwall(&["render", &policy]).status.code(), Some(2));
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

#[test]
fn output_that_cannot_be_written_is_trouble() {
    let example = format!("'{EXAMPLE}'");
    let bin = env!("CARGO_BIN_EXE_peerwall");
    let story = format!("--v4 '{STORY}/rules-save.final'");
    for command in [
        "--help".to_owned(),
        "--version".to_owned(),
        "help apply".to_owned(),
        "completions bash".to_owned(),
        format!("check {example}"),
        format!("check --json {example}"),
        format!("render {example}"),
        format!("import {story}"),
    ] {
        for (to, want) in [
            (">/dev/full", 2),
            (">&-", 2),
            (">/dev/null", 0),
            ("</dev/null 2>/dev/null >/dev/null", 0),
        ] {
            let shell = format!("{bin} {command} {to}");
            let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(want), "{command} {to}: {said}");
            let complains = said.contains("cannot write output");
            assert!(complains == (want == 2), "{command} {to}: {said}");
        }
    }
}

const STORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../integration/fixtures/story");

#[test]
fn import_prints_a_policy_to_one_side_and_its_account_to_the_other() {
    let files = [
        format!("{STORY}/rules-save.final"),
        format!("{STORY}/rules6-save"),
    ];
    let output = peerwall(&["import", "--strict", &files[0], &files[1]]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stdout(&output).starts_with("# Generated by")
            && stdout(&output).contains("[overlay.flannel]")
    );
    let account = String::from_utf8(output.stderr).unwrap();
    assert!(
        account.contains("problems in these rules")
            && account.contains("converted         [[allow]] ssh"),
        "{account}"
    );

    // Peers may send through the host, which the rules forbid.
    let first = [
        format!("{STORY}/rules-save.first"),
        format!("{STORY}/rules6-save"),
    ];
    let output = peerwall(&["import", "--strict", &first[0], &first[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let account = String::from_utf8(output.stderr).unwrap();
    assert!(account.contains("accepts more than the rules"), "{account}");

    let output = peerwall(&["import", "--json", &files[0], &files[1]]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["policy"].as_str().unwrap().contains("[peers]"));
    assert_eq!(json["lines"][5]["fate"], "covered");
    assert!(
        json["differences"]
            .as_array()
            .unwrap()
            .iter()
            .any(|d| d["change"] == "closed")
    );
}

#[test]
fn import_reads_standard_input_and_refuses_what_it_cannot_read() {
    let import = |args: &[&str], text: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_peerwall"))
            .arg("import")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let rules = "*filter\n\
        :INPUT DROP\n\
        -A INPUT -p tcp --dport 22 -j ACCEPT\n\
        -A INPUT -p tcp --dport 80 -m string --string x -j ACCEPT\n\
        COMMIT\n";
    let output = import(&["--v4", "-"], rules);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("22/tcp") && !stdout(&output).contains("80/tcp"));
    let output = import(&["--strict", "--v4", "-"], rules);
    assert_eq!(output.status.code(), Some(1), "a line is left");
    assert_eq!(stdout(&output), "");
    for (text, wanted) in [
        ("nonsense", "not a file of firewall rules"),
        ("", "no lines besides comments"),
        ("*filter\n:INPUT DROP\n", "no COMMIT"),
    ] {
        let output = import(&["-"], text);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(stdout(&output), "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(wanted), "{text}: {said}");
    }
    assert_eq!(
        peerwall(&["import"]).status.code(),
        Some(2),
        "nothing to import"
    );
    assert_eq!(peerwall(&["import", "/nowhere"]).status.code(), Some(2));
}
