//! Every command's `--json` is what its schema says, by every backend, with and without an agent,
//! in success and in failure; and nft reads the JSON that `render` prints.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes which seed it had"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use peerwall_core::generate;
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::render;
use peerwall_integration::net::bridge;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::Agent;
use peerwall_integration::target::listing;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;

fn policy(folder: &Path, name: &str, peer: &str) -> String {
    let path = folder.join(name);
    let text = format!(
        r#"version = 1
[peers]
friend = "{peer}"
[[allow]]
name = "ssh"
ports = ["22/tcp"]
from = "any"
"#
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Objects have no fields but those that are described: a schema that lags behind is an error here.
fn strict(schema: &mut Value) {
    if let Value::Object(table) = schema {
        if table.contains_key("properties") {
            table.insert("additionalProperties".to_owned(), false.into());
        }
        table.values_mut().for_each(strict);
    } else if let Value::Array(list) = schema {
        list.iter_mut().for_each(strict);
    }
}

/// A host whose every `--json` is compared with its schema.
struct Checked {
    host: Host,
    schemas: BTreeMap<String, jsonschema::Validator>,
}

impl Checked {
    fn new() -> Self {
        Self {
            host: Host::new("host"),
            schemas: BTreeMap::new(),
        }
    }

    fn validator(&mut self, command: &str) -> &jsonschema::Validator {
        let host = &self.host;
        self.schemas.entry(command.to_owned()).or_insert_with(|| {
            let text = host.peerwall_ok(&["schema", command]);
            let mut schema: Value = serde_json::from_str(&text).unwrap();
            strict(&mut schema);
            jsonschema::validator_for(&schema).unwrap()
        })
    }

    /// Runs a command from an ssh connection with this port of the client.
    fn run(&mut self, port: u16, args: &[&str]) -> (Option<i32>, Value) {
        let mut command = self.host.command(peerwall_bin());
        let connection = format!("203.0.113.5 {port} 203.0.113.6 22");
        command
            .args(args)
            .arg("--json")
            .env("SSH_CONNECTION", connection);
        let output = command.output().unwrap();
        let printed = json(args, &output);
        let validator = self.validator(args[0]);
        if let Err(err) = validator.validate(&printed) {
            panic!("{args:?}: {} {err}\n{printed:#}", err.instance_path());
        }
        assert_eq!(printed["version"], 1, "{args:?}");
        (output.status.code(), printed)
    }

    /// Runs a command that succeeds, and returns its outcome.
    fn outcome(&mut self, port: u16, args: &[&str]) -> String {
        let (_, printed) = self.run(port, args);
        let outcome = printed["outcome"].as_str();
        outcome
            .unwrap_or_else(|| panic!("{args:?}: {printed:#}"))
            .to_owned()
    }

    /// Runs a command that fails, and returns the error's code.
    fn error(&mut self, port: u16, args: &[&str]) -> String {
        let (code, printed) = self.run(port, args);
        assert_eq!(code, Some(2), "{args:?}: {printed:#}");
        let error = printed["error"]["code"].as_str();
        error
            .unwrap_or_else(|| panic!("{args:?}: {printed:#}"))
            .to_owned()
    }
}

fn json(args: &[&str], output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{args:?}: {err}\n{text}\n{said}"))
}

/// Every command, with what it says it did.
fn every_command(backend: &str, with_agent: bool) {
    let mut host = Checked::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = policy(folder, "policy.toml", "192.0.2.1");
    let copy = policy(folder, "copy.toml", "192.0.2.2");
    let wrong = policy(folder, "wrong.toml", "192.0.2.1/24");
    let by = ["--backend", backend];
    let with = |command: &'static str, path: &str| -> Vec<String> {
        [&[command, path], &by[..]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let (_, status) = host.run(4000, &["status", &path, "--backend", backend]);
    assert_eq!(status["state"], "not_loaded");
    assert_eq!(
        host.outcome(4000, &["plan", &path, "--backend", backend]),
        "changes"
    );
    let agent = with_agent.then(|| Agent::start(&host.host, &PathBuf::from(&path), &by));
    if !with_agent {
        assert_eq!(host.error(4000, &["reload"]), "no-agent");
        assert_eq!(
            host.outcome(4000, &["apply", &path, "--backend", backend]),
            "applied"
        );
    }
    let (_, applied) = host.run(4000, &["apply", &path, "--backend", backend]);
    assert_eq!(
        (&applied["outcome"], &applied["backend"]),
        (&"unchanged".into(), &backend.into())
    );
    assert_eq!(applied["iptables"].is_null(), backend == "nft");
    assert_eq!(
        host.outcome(4000, &["plan", &path, "--backend", backend]),
        "no_changes"
    );
    let (code, status) = host.run(4000, &["status", &path, "--backend", backend]);
    assert_eq!(
        (code, &status["state"], &status["backend"]),
        (Some(0), &"in_sync".into(), &backend.into())
    );
    assert_eq!(status["agent"].is_null(), !with_agent);
    for command in ["check", "plan", "apply"] {
        let args: Vec<String> = match command {
            "check" => vec!["check".into(), wrong.clone()],
            _ if with_agent && command == "apply" => continue,
            _ => with(command, &wrong),
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(host.error(4000, &args), "policy-invalid");
    }
    let (_, status) = host.run(4000, &["status", &wrong, "--backend", backend]);
    assert_eq!(status["policy_error"]["code"], "policy-invalid");
    assert_eq!(status["diagnostics"][0]["code"], "invalid-address");

    assert_eq!(host.error(4001, &["confirm"]), "no-trial");
    let trial = ["apply", "--confirm", "60s", &copy, "--backend", backend];
    let (_, tried) = host.run(4000, &trial);
    assert_eq!(
        (&tried["outcome"], &tried["confirm_seconds"]),
        (&"on_trial".into(), &60.into())
    );
    let (_, status) = host.run(4000, &["status", &copy, "--backend", backend]);
    assert_eq!(
        (&status["state"], &status["trial"]["policy"]),
        (&"on_trial".into(), &copy.as_str().into())
    );
    assert_eq!(host.error(4000, &["apply", &path]), "trial-waits");
    assert_eq!(host.error(4000, &["confirm"]), "same-session");
    let confirmed = host.outcome(4001, &["confirm"]);
    assert_eq!(
        confirmed,
        if with_agent {
            "confirmed_until_restart"
        } else {
            "confirmed"
        }
    );
    assert_eq!(host.outcome(4000, &["rollback"]), "rolled_back");
    let (_, status) = host.run(4000, &["status", &path, "--backend", backend]);
    assert_eq!(status["rolled_back"]["kind"], "rolled_back");
    host.run(4000, &trial);
    assert_eq!(host.outcome(4000, &["rollback"]), "trial_ended");
    if with_agent {
        assert_eq!(host.error(4000, &["remove"]), "agent-runs");
        assert_eq!(host.error(4000, &["apply", &copy]), "other-policy");
        assert_eq!(host.outcome(4000, &["reload"]), "unchanged");
        fs::copy(&wrong, &path).unwrap();
        let (_, refused) = host.run(4000, &["reload"]);
        assert_eq!(refused["error"]["code"], "policy-invalid");
        assert_eq!(refused["diagnostics"][0]["code"], "invalid-address");
        let (_, status) = host.run(4000, &["status", "--backend", backend]);
        assert_eq!(status["agent"]["policy_error"]["code"], "policy-invalid");
        assert_eq!(
            status["agent"]["policy_diagnostics"][0]["code"],
            "invalid-address"
        );
    }
    drop(agent);
    let (_, history) = host.run(4000, &["history"]);
    assert_eq!(history["confirmed"].as_array().unwrap().len(), 1);
    assert_eq!(history["confirmed"][0]["backend"], backend);
    assert_eq!(host.error(4000, &["history", "99"]), "unknown-ruleset");
    assert_eq!(
        host.outcome(4000, &["remove", "--backend", backend]),
        "removed"
    );
    assert_eq!(
        host.outcome(4000, &["remove", "--backend", backend]),
        "nothing_loaded"
    );
    assert_eq!(host.outcome(4000, &["boot", &copy]), "confirmed");
    let (_, initial) = host.run(4000, &["init", "-"]);
    assert!(initial["path"].is_null() && initial["policy"].is_string());
    let (_, imported) = host.run(4000, &["import", "--live"]);
    assert!(imported["policy"].is_string() || imported["error"].is_object());
}

#[test]
fn every_command_by_nft() {
    world(|| {
        every_command("nft", false);
    });
}

#[test]
fn every_command_by_nft_with_an_agent() {
    world(|| {
        every_command("nft", true);
    });
}

#[test]
fn every_command_by_iptables() {
    world(|| {
        every_command("iptables", false);
    });
}

#[test]
fn every_command_by_iptables_with_an_agent() {
    world(|| {
        every_command("iptables", true);
    });
}

/// A policy that only nf_tables can express.
const BY_ROUTE: &str = r#"version = 1
[peers]
a = "203.0.113.5"
[overlay.lan]
backend = "host-gw"
subnets = ["10.244.0.0/16"]
"#;

#[test]
fn what_iptables_cannot_express_and_what_locks_out_has_a_code() {
    world(|| {
        let mut host = Checked::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, "version = 1\n[peers]\nfriend = \"192.0.2.1\"\n").unwrap();
        let path = path.display().to_string();
        bridge(&host.host, "d0", &["203.0.113.6/24"]);
        assert_eq!(host.error(4000, &["apply", &path]), "lock-out");
        fs::write(&path, BY_ROUTE).unwrap();
        let (_, printed) = host.run(4000, &["plan", &path, "--backend", "iptables"]);
        assert_eq!(printed["error"]["code"], "not-expressible");
        assert_eq!(printed["diagnostics"][0]["code"], "rule-not-expressible");
        assert_eq!(printed["diagnostics"][0]["file"], path);
        assert_eq!(
            host.error(4000, &["apply", "/nowhere.toml"]),
            "policy-unreadable"
        );
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(
            host.error(4000, &["apply", &path]),
            "policy-writable-by-others"
        );
    });
}

/// How many random rulesets nft reads.
const RULESETS: u64 = 60;

#[test]
fn nft_makes_the_same_table_of_the_json_as_of_the_text() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let (text, json) = (folder.path().join("text"), folder.path().join("json"));
        let seed = std::env::var("PEERWALL_SEED").map_or(1, |seed| seed.parse().unwrap());
        println!("PEERWALL_SEED={seed}");
        let config = Config {
            rng_seed: RngSeed::Fixed(seed),
            ..Config::default()
        };
        let mut runner = TestRunner::new(config);
        let mut compared = 0;
        while compared < RULESETS {
            let policy = generate::policy().new_tree(&mut runner).unwrap().current();
            let ruleset = compile(&policy).0;
            // nft 1.0.6 prints sets with rates as JSON, and does not read them.
            if ruleset.sets.values().any(|set| set.meter) {
                continue;
            }
            fs::write(&text, render::script(&ruleset)).unwrap();
            fs::write(&json, render::json(&ruleset).to_string()).unwrap();
            host.sh(&format!("nft -f {}", text.display()));
            let want = listing(&host);
            host.sh("nft delete table inet peerwall");
            host.sh(&format!(
                "nft -j -c -f {0} && nft -j -f {0}",
                json.display()
            ));
            assert_eq!(listing(&host), want);
            host.sh("nft delete table inet peerwall");
            compared += 1;
        }
    });
}
