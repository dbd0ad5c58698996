//! The command line: what needs no engine.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::process::{Command, Output};

fn sources(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peerwall-sources"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn help_names_every_option_and_the_version_is_the_workspaces() {
    let help = String::from_utf8(sources(&["--help"]).stdout).unwrap();
    for option in ["--config", "--directory"] {
        assert!(help.contains(option), "{help}");
    }
    let version = String::from_utf8(sources(&["--version"]).stdout).unwrap();
    assert_eq!(
        version.trim(),
        concat!("peerwall-sources ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn an_unknown_option_is_an_error_of_usage() {
    let output = sources(&["--directroy", "/nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--directory"));
}

#[test]
fn a_directory_that_cannot_be_made_ends_the_program_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("below");
    let output = sources(&["--directory", below.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(below.to_str().unwrap()));
}
