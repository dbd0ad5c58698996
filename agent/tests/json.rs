//! What commands print with `--json` is what their schemas say, as far as that needs neither
//! kernel nor root.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::process::{Command, Output};

use base64::Engine as _;
use serde_json::Value;
use sha2::Digest as _;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn peerwall(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peerwall"))
        .args(args)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"))
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

fn check(command: &str, output: &Output) -> Value {
    let mut schema = json(&peerwall(&["schema", command]));
    strict(&mut schema);
    let printed = json(output);
    let validator = jsonschema::validator_for(&schema).unwrap();
    if let Err(err) = validator.validate(&printed) {
        panic!("{command}: {err}\n{printed:#}");
    }
    assert_eq!(printed["version"], 1, "{command}");
    printed
}

#[test]
fn every_schema_is_one() {
    let help = String::from_utf8(peerwall(&["schema", "--help"]).stdout).unwrap();
    let named = help
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "));
    let named = named.filter_map(|line| line.split_once(':'));
    let named = named.filter(|(_, what)| what.contains("peerwall") || what.contains("policy"));
    let named: Vec<&str> = named.map(|(name, _)| name).collect();
    assert_eq!(named.len(), 24, "{help}");
    for of in named {
        let schema = json(&peerwall(&["schema", of]));
        assert!(jsonschema::meta::is_valid(&schema), "{of}");
        let title = schema["title"].as_str().unwrap();
        assert!(title.contains(of), "{title}");
    }
}

#[test]
fn successes_are_as_their_schemas_say() {
    let policy = format!("{ROOT}/policy.toml");
    let output = peerwall(&["check", "--json", &policy]);
    assert_eq!(output.status.code(), Some(0));
    let checked = check("check", &output);
    assert_eq!(
        (&checked["outcome"], &checked["peers"]),
        (&"valid".into(), &4.into())
    );
    let found = check(
        "test",
        &peerwall(&["test", "--no-kernel", "--json", &policy]),
    );
    assert_eq!(
        (&found["outcome"], &found["kernel"]),
        (&"passed".into(), &Value::Null)
    );
    for (from, code, outcome) in [
        ("129.21.49.53", 0, "accepted"),
        ("198.51.100.7", 1, "denied"),
    ] {
        let to = ["--to", "192.0.2.1", "--port", "9100/tcp", "--json"];
        let args = ["explain", "--policy", &policy, "--from", from];
        let output = peerwall(&[&args[..], &to[..]].concat());
        assert_eq!(output.status.code(), Some(code), "{from}");
        let found = check("explain", &output);
        assert_eq!(found["outcome"], outcome, "{from}");
        assert_eq!(found["fixes"].as_array().unwrap().is_empty(), code == 0);
    }
    let found = check("exposed", &peerwall(&["exposed", "--json", &policy]));
    assert_eq!(found["every_port"].as_array().unwrap().len(), 2);
    let other = format!("{ROOT}/integration/fixtures/import/06-docker/policy.toml");
    for (new, code, outcome) in [(&policy, 0, "same"), (&other, 1, "different")] {
        let output = peerwall(&["diff", "--json", &policy, new]);
        assert_eq!(output.status.code(), Some(code), "{new}");
        let found = check("diff", &output);
        assert_eq!(found["outcome"], outcome);
        let access = found["meaning"]["access"].as_array().unwrap();
        assert_eq!(access.is_empty(), code == 0);
        let output = peerwall(&["diff", "--exit-if-wider", &policy, new]);
        assert_eq!(output.status.code(), Some(3 * code), "{new}");
    }
    for entry in std::fs::read_dir(format!("{ROOT}/integration/fixtures/import")).unwrap() {
        let files = std::fs::read_dir(entry.unwrap().path()).unwrap();
        let files = files.map(|file| file.unwrap().path().display().to_string());
        let files: Vec<String> = files.filter(|file| file.contains("rules")).collect();
        let args = ["import", "--json"]
            .into_iter()
            .chain(files.iter().map(String::as_str));
        let output = peerwall(&args.collect::<Vec<_>>());
        check("import", &output);
    }
}

#[test]
fn failures_are_json_too() {
    let folder = std::env::temp_dir().join(format!("peerwall-json-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let (wrong, rules, nowhere) = (path("wrong.toml"), path("rules"), path("nowhere"));
    std::fs::write(&wrong, "version = 1\n[peers]\na = \"10.0.0.1/24\"\n").unwrap();
    std::fs::write(&rules, "*filter\n:INPUT ACCEPT\n").unwrap();
    for (command, args, code, diagnostic) in [
        (
            "check",
            vec![wrong.as_str()],
            "policy-invalid",
            Some("invalid-address"),
        ),
        ("check", vec![&nowhere], "policy-unreadable", None),
        ("import", vec![&nowhere], "input-unreadable", None),
        (
            "import",
            vec!["--v4", &rules],
            "input-invalid",
            Some("invalid-input"),
        ),
        (
            "denied",
            vec!["--policy", &nowhere],
            "policy-unreadable",
            None,
        ),
        ("check", vec!["--nonsense"], "usage", None),
    ] {
        let args = [command, "--json"]
            .into_iter()
            .chain(args)
            .collect::<Vec<_>>();
        let output = peerwall(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let failure = check(command, &output);
        assert_eq!(failure["error"]["code"], code, "{args:?}: {failure:#}");
        let found = failure["diagnostics"][0]["code"].as_str();
        assert_eq!(found, diagnostic, "{args:?}: {failure:#}");
    }
    let output = peerwall(&["render", "--json", &wrong]);
    assert_eq!(json(&output)["error"]["code"], "policy-invalid");
    let output = peerwall(&["check", "--json", &wrong]);
    let at = json(&output)["diagnostics"][0].clone();
    assert_eq!(
        (&at["start"]["line"], &at["start"]["column"]),
        (&3.into(), &5.into())
    );
    assert_eq!(
        (&at["end"]["column"], &at["end"]["offset"]),
        (&18.into(), &37.into())
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn pages_are_written_beside_the_output_and_replace_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let policy = format!("{ROOT}/policy.toml");
    let [page, map] = ["page.html", "map.svg"].map(|name| folder.path().join(name));
    let written = [page.to_str().unwrap(), map.to_str().unwrap()];
    let args = [
        "exposed", &policy, "--html", written[0], "--svg", written[1],
    ];
    for _ in 0..2 {
        let output = peerwall(&args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let text = std::fs::read_to_string(&page).unwrap();
    // The page lets only its own script run.
    let script = text.split("<script>").nth(1).unwrap();
    let script = script.split("</script>").next().unwrap();
    let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(script));
    assert!(
        text.contains(&format!("script-src 'sha256-{digest}'")),
        "{digest}"
    );
    for each in ["http:", "https:", "//"] {
        assert!(
            !text
                .replace("http://www.w3.org/2000/svg", "")
                .contains(each),
            "{each}"
        );
    }
    for path in [&page, &map] {
        std::fs::write(path, "mine").unwrap();
        let output = peerwall(&args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
        std::fs::remove_file(path).unwrap();
    }
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &page).unwrap();
    assert_eq!(peerwall(&args).status.code(), Some(2));
    assert!(!folder.path().join("elsewhere").exists());
    for (format, start) in [("dot", "digraph"), ("mermaid", "flowchart"), ("json", "{")] {
        let output = peerwall(&["exposed", &policy, "--format", format]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with(start), "{format}: {text}");
    }
}
