//! Metrics, as the parsers of Prometheus's client read them.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use peerwall_integration::metrics::{Family, Format, parse};
use peerwall_integration::ns::{Host, peerwall_bin, world};

const PATIENCE: Duration = Duration::from_secs(30);
const POLICY: &str = "version = 1\n[peers]\np = [\"192.0.2.1\", \"2001:db8::1\"]\n\
    [peers_from.cluster]\nkind = \"dns\"\nnames = \"x\"\nwithin = \"10.0.0.0/8\"\n";
/// Every metric, with its type in the classic format and in OpenMetrics.
const METRICS: [(&str, &str, &str); 30] = [
    ("peerwall_applies", "counter", "counter"),
    ("peerwall_audit", "gauge", "gauge"),
    ("peerwall_blocked", "gauge", "gauge"),
    ("peerwall_build", "gauge", "info"),
    ("peerwall_bytes", "counter", "counter"),
    ("peerwall_commit_seconds", "histogram", "histogram"),
    ("peerwall_failures", "counter", "counter"),
    ("peerwall_foreign_drop_chains", "gauge", "gauge"),
    ("peerwall_in_sync", "gauge", "gauge"),
    ("peerwall_last_apply_timestamp_seconds", "gauge", "gauge"),
    ("peerwall_log_read", "gauge", "gauge"),
    ("peerwall_log_packets", "counter", "counter"),
    ("peerwall_log_lost_packets", "counter", "counter"),
    ("peerwall_packets", "counter", "counter"),
    ("peerwall_policy_ok", "gauge", "gauge"),
    ("peerwall_reload_errors", "counter", "counter"),
    ("peerwall_repairs", "counter", "counter"),
    ("peerwall_set_elements", "gauge", "gauge"),
    (
        "peerwall_source_credential_end_timestamp_seconds",
        "gauge",
        "gauge",
    ),
    ("peerwall_source_delay_seconds", "histogram", "histogram"),
    ("peerwall_source_errors", "counter", "counter"),
    ("peerwall_source_fresh_timestamp_seconds", "gauge", "gauge"),
    ("peerwall_source_held_members", "gauge", "gauge"),
    ("peerwall_source_joined_members", "counter", "counter"),
    ("peerwall_source_left_members", "counter", "counter"),
    ("peerwall_source_members", "gauge", "gauge"),
    ("peerwall_source_refused_entries", "gauge", "gauge"),
    ("peerwall_source_stale", "gauge", "gauge"),
    ("peerwall_start_time_seconds", "gauge", "gauge"),
    ("peerwall_trial_pending", "gauge", "gauge"),
];

/// Ends when it goes out of scope.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the head and the body of a response.
fn ask(socket: &Path, accept: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The families, sorted by name; the classic parser leaves `_info` in place.
fn families(format: Format, text: &str) -> Vec<Family> {
    let mut families = parse(format, text);
    for family in &mut families {
        let name = family.name.strip_suffix("_info").unwrap_or(&family.name);
        family.name = name.to_owned();
        family.samples.sort();
    }
    families.sort_by(|a, b| a.name.cmp(&b.name));
    families
}

fn value(families: &[Family], name: &str) -> f64 {
    let family = families.iter().find(|family| family.name == name).unwrap();
    assert_eq!(family.samples.len(), 1, "{name}");
    family.samples[0].value.parse().unwrap()
}

#[test]
fn both_formats_are_what_prometheus_reads_and_say_the_same() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let (policy, socket) = (
            folder.path().join("policy.toml"),
            folder.path().join("metrics.sock"),
        );
        let file = folder.path().join("peerwall.prom");
        std::fs::write(&policy, POLICY).unwrap();
        let sources = Path::new("/run/hosts/host/run/sources");
        std::fs::create_dir_all(sources).unwrap();
        let listing = "peerwall-members 1 source=cluster\nx y\nend 1\n";
        std::fs::write(sources.join("cluster"), listing).unwrap();
        let report = r#"{"state": "failing", "errors": {"timeout": 3}, "credential_end": 1}"#;
        std::fs::write(sources.join("cluster.status"), report).unwrap();
        let agent = host
            .command(peerwall_bin())
            .arg("run")
            .arg(&policy)
            .args(["--no-owner", "--metrics-file"])
            .arg(&file)
            .arg("--metrics-listen")
            .arg(format!("unix:{}", socket.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _agent = Agent(agent);
        let open = || {
            ask(
                &socket,
                "Accept: application/openmetrics-text; version=1.0.0\r\n",
            )
        };
        let wait_for = |what: &str, done: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !done() {
                assert!(start.elapsed() < PATIENCE, "{what} did not come");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        wait_for("the first apply", &|| file.exists());
        // A name of a process with everything that has to be escaped.
        let nft = folder.path().join("n\"f\\t");
        std::fs::copy(host.sh("command -v nft").trim_end(), &nft).unwrap();
        assert!(
            host.command(&nft)
                .args(["delete", "table", "inet", "peerwall"])
                .status()
                .unwrap()
                .success()
        );
        wait_for("the repair", &|| {
            open().1.contains("peerwall_repairs_total{")
        });

        let (head, text) = open();
        assert!(
            head.contains(
                "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
            ),
            "{head}"
        );
        let open = families(Format::OpenMetrics, &text);
        let (head, text) = ask(&socket, "");
        assert!(
            head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{head}"
        );
        let classic = families(Format::Classic, &text);
        let kinds = |families: &[Family]| -> BTreeMap<String, String> {
            families
                .iter()
                .map(|family| (family.name.clone(), family.kind.clone()))
                .collect()
        };
        let want = |of: fn(&(&str, &str, &str)) -> (String, String)| {
            METRICS.iter().map(of).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(
            kinds(&classic),
            want(|(name, classic, _)| (name.to_string(), classic.to_string()))
        );
        assert_eq!(
            kinds(&open),
            want(|(name, _, open)| (name.to_string(), open.to_string()))
        );
        for (of_open, of_classic) in open.iter().zip(&classic) {
            assert_eq!(of_open.help, of_classic.help);
            assert!(of_open.help.ends_with('.'), "{}", of_open.help);
            assert_eq!(of_open.samples, of_classic.samples, "{}", of_open.name);
            assert!(!of_open.samples.is_empty(), "{}", of_open.name);
        }
        // The file is in the classic format; the repair may be later than it.
        assert_eq!(
            kinds(&families(
                Format::Classic,
                &std::fs::read_to_string(&file).unwrap()
            )),
            kinds(&classic)
        );

        let repairs = open
            .iter()
            .find(|family| family.name == "peerwall_repairs")
            .unwrap();
        assert_eq!(repairs.samples[0].labels["process"], "n\"f\\t");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        for name in [
            "peerwall_start_time_seconds",
            "peerwall_last_apply_timestamp_seconds",
        ] {
            let time = value(&open, name);
            assert!(time <= now && time > now - 600.0, "{name} {time}");
        }
        assert!(value(&open, "peerwall_trial_pending") < 0.5);

        // While a trial waits.
        let copy = folder.path().join("copy.toml");
        std::fs::write(&copy, POLICY.replace("192.0.2.1", "192.0.2.2")).unwrap();
        host.peerwall_ok(&["apply", "--confirm", "60s", copy.to_str().unwrap()]);
        wait_for("the trial", &|| {
            ask(&socket, "").1.contains("\npeerwall_trial_pending 1\n")
        });
        host.peerwall_ok(&["rollback"]);
        wait_for("its end", &|| {
            ask(&socket, "").1.contains("\npeerwall_trial_pending 0\n")
        });
    });
}

/// Names in the documentation, the alerts and the dashboard.
fn names(file: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("peerwall_"));
    let family = |name: &str| {
        let suffixes = ["_total", "_bucket", "_info"];
        let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
        stem.unwrap_or(name).to_owned()
    };
    names.map(family).collect()
}

#[test]
fn documentation_alerts_and_dashboard_name_metrics_that_exist() {
    let metrics = METRICS.iter().map(|(name, ..)| (*name).to_owned());
    let metrics: BTreeSet<String> = metrics.collect();
    assert_eq!(names("metrics.md"), metrics);
    for file in [
        "monitoring/alerts.yaml",
        "monitoring/alerts.test.yaml",
        "monitoring/grafana.json",
    ] {
        let names = names(file);
        assert!(
            !names.is_empty() && names.is_subset(&metrics),
            "{file}: {names:?}"
        );
    }
}
