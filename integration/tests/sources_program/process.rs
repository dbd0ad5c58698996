//! The process: its configuration, signals, and death.

use std::fs;
use std::time::Duration;

use peerwall_integration::api_server::{ApiServer, Fault, node};
use peerwall_integration::ns::{sh, world};
use peerwall_integration::sources::{Sources, sources_bin};
use serde_json::{Value, json};

fn source(name: &str, server: &ApiServer) -> Value {
    json!({"name": name, "kind": "kubernetes", "server": [server.url()]})
}

#[test]
fn sources_start_restart_and_stop_with_the_configuration() {
    world(|| {
        let (one, two) = (ApiServer::start("1", None), ApiServer::start("2", None));
        one.put(node("a", &["10.0.0.1"], 0));
        two.put(node("b", &["10.0.0.2"], 0));
        let mut sources =
            Sources::start(&[source("x", &one), json!({"name": "y", "kind": "files"})]);
        sources.await_addresses("x", &["10.0.0.1"]);
        assert!(
            sources
                .log()
                .contains("source y: this program has no kind \"files\"")
        );
        sources.configure(&[source("x", &one), source("z", &two)]);
        sources.await_addresses("z", &["10.0.0.2"]);
        // An entry that changed: the old addresses stay until the new answer.
        sources.configure(&[source("x", &two)]);
        sources.await_addresses("x", &["10.0.0.2"]);
        sources.until("removed files", || {
            sources.file("z").is_none() && sources.file("z.status").is_none()
        });
        // Garbage changes nothing.
        fs::write(sources.folder().join("sources.json"), "{").unwrap();
        sources.until("the complaint", || {
            sources.log().contains("EOF while parsing")
        });
        two.put(node("c", &["10.0.0.3"], 0));
        sources.await_addresses("x", &["10.0.0.2", "10.0.0.3"]);
        // It ends at once, even if a server does not answer.
        two.fail(Fault::Frozen);
        let (time, is_success) = sources.terminate();
        assert!(is_success && time < Duration::from_secs(1), "{time:?}");
        assert!(sources.file("x").is_some(), "the addresses stay");
    });
}

#[test]
fn a_killed_process_leaves_complete_files_and_the_next_one_goes_on() {
    world(|| {
        let server = ApiServer::start("1", None);
        for number in 0..2000 {
            let address = format!("10.1.{}.{}", number / 250, number % 250);
            server.put(node(&format!("n{number}"), &[&address], 0));
        }
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sources.json");
        let given = json!({"version": 1, "sources": [source("x", &server)]});
        fs::write(&config, given.to_string()).unwrap();
        let path = folder.path().join("sources/x");
        let rounds: u64 = std::env::var("PEERWALL_ROUNDS").map_or(10, |text| text.parse().unwrap());
        for round in 0..rounds {
            let mut child = std::process::Command::new(sources_bin())
                .arg("--config")
                .arg(&config)
                .arg("--directory")
                .arg(path.parent().unwrap())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let sign = if round == 0 { "x" } else { "y" };
            let start = std::time::Instant::now();
            while !path.exists() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Many writes, and the end at some moment among them.
            for number in 0..10 {
                server.put(node(sign, &[&format!("10.2.{}.{number}", round % 256)], 0));
                std::thread::sleep(Duration::from_millis(3 * round % 7));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().count();
            assert!(
                text.ends_with(&format!("end {}\n", lines - 2)),
                "round {round}"
            );
        }
    });
}

#[test]
fn help_and_options_are_understood() {
    let help = sh(&format!("{} --help", sources_bin().display()));
    for option in [
        "--config",
        "--directory",
        "--watch",
        "--timeout",
        "--verbose",
    ] {
        assert!(help.contains(option), "{help}");
    }
    let wrong = std::process::Command::new(sources_bin())
        .args(["--watch", "0"])
        .output();
    assert_eq!(wrong.unwrap().status.code(), Some(2));
}
