//! `peerwall test` as a command: its formats and its errors; `apply --verify kernel`.

use std::fs;
use std::path::Path;

use peerwall_integration::ns::{Host, world};
use serde_json::Value;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");
const CASE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/cases/12-invalid-accepted/policy.toml"
);

const POLICY: &str = r#"version = 1
[peers]
db = ["192.0.2.7", "2001:db8::7"]
[overlay.pods]
backend = "vxlan"
subnets = ["10.244.0.0/16"]
interfaces = ["cni0", "flannel.1"]
[[allow]]
name = "ssh"
ports = ["22/tcp"]
from = "any"
[[allow]]
name = "slow"
ports = ["123/udp"]
from = "any"
limit = "1/minute burst 1"
[[expect]]
from = "db"
verdict = "accept"
[[expect]]
from = "198.51.100.0/24"
port = "123/udp"
verdict = "accept"
[[expect]]
hook = "forward"
from = "198.51.100.7"
port = "80/tcp"
verdict = "drop"
"#;

const WRONG: &str = r#"[[expect]]
from = "198.51.100.7"
port = "5432/tcp"
verdict = "accept"
"#;

const PACKETS: &str = "# hook, source, what
accept from 192.0.2.7 port 5432/tcp
drop from 198.51.100.7 port 5432/tcp
drop from 192.0.2.7 port 22/tcp interface cni0
accept forward from 192.0.2.7 to 10.244.1.5 port 8080/tcp dialled 192.0.2.254:30080 out cni0
accept from 198.51.100.7 port 5432/tcp state established
drop from 198.51.100.7 port 5432/tcp state invalid
drop from 2001:db8::9 icmp echo-reply
accept from 10.244.1.5 port 53/udp
drop IN=eth0 OUT= SRC=198.51.100.1 DST=192.0.2.10 PROTO=TCP SPT=40000 DPT=6443 SYN
drop from 127.0.0.1 port 22/tcp
drop from 198.51.100.7 port 9/sctp
";

/// Runs `peerwall test` with `--json`, and returns its exit code and its result.
fn json(host: &Host, args: &[&str]) -> (Option<i32>, Value) {
    let output = host.peerwall(&[&["test", "--json"], args].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|err| panic!("{err}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), value)
}

fn in_text(host: &Host, args: &[&str]) -> (Option<i32>, String, String) {
    let output = host.peerwall(&[&["test"], args].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn policies_and_packets_are_tested_by_this_kernel() {
    world(|| {
        let host = Host::new("ci");
        fs::write("/run/good.toml", POLICY).unwrap();
        fs::write("/run/packets.txt", PACKETS).unwrap();
        let args = ["--kernel", EXAMPLE, CASE, "/run/good.toml"];
        let (code, found) = json(&host, &args);
        assert_eq!(
            (code, &found["outcome"]),
            (Some(0), &"passed".into()),
            "{found:#}"
        );
        assert!(
            found["kernel"].as_str().unwrap().starts_with("Linux "),
            "{found:#}"
        );
        for (policy, tests) in [(1, 2), (2, 3)] {
            let tested = found["policies"][policy]["tests"].as_array().unwrap();
            assert_eq!(tested.len(), tests, "{found:#}");
            for test in tested {
                assert_eq!(test["outcome"], "passed", "{test:#}");
                assert_eq!(test["sent"], test["packets"], "{test:#}");
                assert_eq!(test["kernel"], test["evaluator"], "{test:#}");
            }
        }
        let args = [
            "--kernel",
            "/run/good.toml",
            "--packets",
            "/run/packets.txt",
        ];
        let (code, text, errors) = in_text(&host, &args);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
        assert!(
            text.contains("good.toml: 14 tests: 14 passed; 18 packets through Linux"),
            "{text}"
        );
        // The host of the command has no rules afterwards, and no interfaces.
        assert_eq!(host.sh("nft list ruleset"), "");
        assert_eq!(host.sh("ip -o link | wc -l").trim(), "1");
    });
}

#[test]
fn a_wrong_expectation_fails_in_every_format() {
    world(|| {
        let host = Host::new("ci");
        fs::create_dir_all("/run/repo").unwrap();
        fs::write("/run/repo/wrong.toml", format!("{POLICY}{WRONG}")).unwrap();
        fs::write(
            "/run/repo/broken.toml",
            "version = 1\n[peers]\ndb = \"192.0.2.777\"\n",
        )
        .unwrap();
        let line = POLICY.lines().count() + 4;
        let files = ["/run/repo/wrong.toml", "/run/repo/broken.toml"];
        let said = "the evaluator says drop (input-default), the kernel says drop (input-default)";

        let (code, text, _) = in_text(&host, &["--kernel", files[0]]);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.starts_with(&format!("/run/repo/wrong.toml:{line}: expectation not met")),
            "{text}"
        );
        assert!(text.contains(said), "{text}");
        let (code, text, errors) = in_text(&host, &[files[0], files[1]]);
        assert_eq!(code, Some(2), "{text}");
        assert!(
            errors.contains("192.0.2.777") && errors.contains("broken.toml:3:6"),
            "{errors}"
        );

        let (code, found) = json(&host, &files);
        assert_eq!((code, &found["outcome"]), (Some(2), &"error".into()));
        let tests = found["policies"][0]["tests"].as_array().unwrap();
        assert_eq!(tests[3]["outcome"], "failed", "{found:#}");
        assert_eq!(tests[3]["start"]["line"], line, "{found:#}");
        assert_eq!(
            found["policies"][1]["diagnostics"][0]["code"], "invalid-address",
            "{found:#}"
        );

        let junit = "/run/repo/junit.xml";
        let args = ["--format", "github", "--junit", junit, files[0], files[1]];
        let (code, text, errors) = in_text(&host, &args);
        assert_eq!((code, errors.as_str()), (Some(2), ""), "{text}");
        let start = format!("::error file=/run/repo/wrong.toml,line={line},endLine={line},col=11,");
        assert_eq!(
            text.lines().filter(|line| line.starts_with(&start)).count(),
            1,
            "{text}"
        );
        let start = "::error file=/run/repo/broken.toml,line=3,endLine=3,col=6,";
        assert!(text.contains(start), "{text}");

        check_junit(junit);
        let output = host.peerwall(&["test", "--format", "sarif", files[0], files[1]]);
        assert_eq!(output.status.code(), Some(2));
        check_sarif(&serde_json::from_slice(&output.stdout).unwrap(), line);
    });
}

/// Reads the file with a parser of XML.
fn check_junit(path: &str) {
    let script = format!(
        "import xml.etree.ElementTree as e; t = e.parse('{path}').getroot(); \
         print(t.tag, t.get('tests'), t.get('failures'), t.get('errors'), \
         len(t.findall('.//testcase')), len(t.findall('.//failure')), len(t.findall('.//error')))"
    );
    let found = peerwall_integration::ns::sh(&format!("python3 -c \"{script}\""));
    assert_eq!(found.trim(), "testsuites 5 1 1 5 1 1");
}

/// `PEERWALL_SARIF_SCHEMA` names the schema of the specification, to validate the log with.
fn check_sarif(log: &Value, line: usize) {
    let results = log["runs"][0]["results"].as_array().unwrap();
    let place = |at: usize| &results[at]["locations"][0]["physicalLocation"];
    let by_rule = |rule: &str| {
        results
            .iter()
            .position(|each| each["ruleId"] == rule)
            .unwrap()
    };
    let failed = place(by_rule("test-failed"));
    assert_eq!(failed["region"]["startLine"], line, "{log:#}");
    assert_eq!(
        failed["artifactLocation"]["uri"],
        "file:///run/repo/wrong.toml"
    );
    let broken = place(by_rule("invalid-address"));
    assert_eq!(broken["region"]["startColumn"], 6, "{log:#}");
    if let Some(path) = std::env::var_os("PEERWALL_SARIF_SCHEMA") {
        let schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        if let Err(err) = validator.validate(log) {
            panic!("{err}\n{log:#}");
        }
        println!("the log is valid");
    }
}

#[test]
fn bad_packet_lists_are_errors_at_their_places() {
    world(|| {
        let host = Host::new("ci");
        fs::write("/run/good.toml", POLICY).unwrap();
        for (line, column) in [
            ("allow from 192.0.2.7", 1),
            ("accept", 1),
            ("accept form 192.0.2.7", 8),
            ("accept from", 8),
            ("accept from 192.0.2.777", 13),
            ("accept from 192.0.2.7 from 192.0.2.8", 23),
            ("accept port 22/tcp", 1),
            ("drop from 192.0.2.7 port 22-80/tcp", 26),
            ("drop from 192.0.2.7 to 2001:db8::1", 1),
            ("drop forward from 192.0.2.7", 1),
            ("drop from 192.0.2.7 state open", 27),
            ("drop IN=eth0 OUT= SRC=192.0.2.7 PROTO=TCP", 6),
        ] {
            fs::write("/run/bad.txt", format!("# a list\n{line}\n")).unwrap();
            let args = ["/run/good.toml", "--packets", "/run/bad.txt"];
            let (code, text, errors) = in_text(&host, &args);
            assert_eq!(code, Some(2), "{line}: {text}");
            assert!(
                errors.contains(&format!("/run/bad.txt:2:{column}")),
                "{line}: {errors}"
            );
            assert!(
                text.contains("error: 1 error in /run/bad.txt"),
                "{line}: {text}"
            );
        }
        fs::write("/run/bad.txt", [0xff, 0xfe]).unwrap();
        for path in ["/run/bad.txt", "/run/nowhere.txt"] {
            let (code, _, errors) = in_text(&host, &["/run/good.toml", "--packets", path]);
            assert_eq!(code, Some(2), "{path}: {errors}");
            assert!(errors.contains(path), "{path}: {errors}");
        }
    });
}

#[test]
fn apply_verifies_by_the_kernel_first_and_changes_nothing_after_a_failure() {
    world(|| {
        let host = Host::new("node");
        fs::write("/run/good.toml", POLICY).unwrap();
        fs::write("/run/wrong.toml", format!("{POLICY}{WRONG}")).unwrap();
        let refused = |args: &[&str], why: &str| {
            let output = host.peerwall(&[&["apply", "--verify", "kernel"], args].concat());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(why), "{text}");
            assert!(!host.sh("nft list tables").contains("peerwall"), "{text}");
        };
        refused(&["/run/wrong.toml"], "the kernel says drop (input-default)");
        refused(
            &["/run/wrong.toml"],
            "1 expectation not met; nothing was changed",
        );
        refused(
            &["--backend", "iptables", "/run/good.toml"],
            "tests the rules of nf_tables",
        );
        let output = host.peerwall(&["apply", "--json", "--verify", "kernel", "/run/wrong.toml"]);
        let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(failure["error"]["code"], "not-verified", "{failure:#}");
        host.peerwall_ok(&["apply", "--verify", "kernel", "/run/good.toml"]);
        assert_eq!(host.sh("nft list tables").trim(), "table inet peerwall");
        assert_eq!(
            host.peerwall(&["plan", "/run/good.toml"]).status.code(),
            Some(0)
        );
        assert!(!Path::new("/run/netns/peerwall-test").exists());
    });
}
