//! The story as its author would live it with these tools: what hangs is named, an audit finds the
//! missing pod network, and nothing opens or closes that was not announced.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::probe::PATIENCE;
use peerwall_integration::situation::Lan;
use peerwall_integration::story::{Cluster, Flavour, flows, wrong};

const FIRST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/rules-save.first"
);
const IPV6: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/story/rules6-save");
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");

/// What flannel writes on a node.
const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
                          FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn said(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    text.concat()
}

fn ask(host: &Host, line: &str) -> (Option<i32>, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = host.peerwall(&words);
    (output.status.code(), said(&output))
}

/// The policy of someone who has not heard of overlays.
fn without_overlay(mode: &str) -> String {
    let text = fs::read_to_string(POLICY).unwrap();
    let start = text.find("# The pod network.").unwrap();
    let end = text.find("# Open to more than the peers.").unwrap();
    format!("{}{}\n{mode}", &text[..start], &text[end..])
}

/// Applies a policy on every machine; the worker says what it opens and closes before.
fn apply(cluster: &Cluster, text: &str) -> String {
    fs::write("/run/story.toml", text).unwrap();
    let (_, plan) = ask(&cluster.workers[0], "plan /run/story.toml");
    cluster.apply("/run/story.toml");
    plan
}

#[test]
fn the_story_is_solved_by_asking() {
    world(|| {
        let flows = flows();
        let cluster = Cluster::build(Flavour::Legacy);
        cluster.wait_until_up();
        let worker = &cluster.workers[0];
        let request = "explain --live --policy /run/story.toml --from 129.21.49.54 \
                       --to 129.21.49.48 --port 30080/tcp";

        fs::create_dir_all("/run/flannel").unwrap();
        fs::write("/run/flannel/subnet.env", SUBNET_ENV).unwrap();

        // The requests that hang: who drops them?
        cluster.load_rules_save(FIRST, IPV6);
        fs::write("/run/story.toml", without_overlay("")).unwrap();
        let (code, text) = ask(worker, request);
        assert_eq!(code, Some(1), "{text}");
        for wanted in [
            "ip filter FORWARD (iptables-legacy), policy drop",
            "iptables-legacy -P FORWARD ACCEPT",
        ] {
            assert!(text.contains(wanted), "no {wanted}\n{text}");
        }
        let (_, text) = ask(worker, "import --live");
        assert!(text.contains("10.244.0.0/16"), "{text}");
        let (_, text) = ask(worker, "doctor /run/story.toml");
        assert!(
            text.contains("ip filter FORWARD") && text.contains("10.244.0.0/16"),
            "{text}"
        );

        // An audit: everything works, and what would be denied is known.
        cluster.unload_rules_save();
        let plan = apply(&cluster, &without_overlay("[options]\nmode = \"audit\"\n"));
        assert!(plan.contains("nothing is enforced"), "{plan}");
        let (_, text) = ask(worker, "status /run/story.toml");
        assert!(text.starts_with("AUDIT: nothing is enforced"), "{text}");
        let mut listener = worker.command(peerwall_bin());
        listener.args([
            "denied",
            "--suggest",
            "--listen",
            "4s",
            "--policy",
            "/run/story.toml",
        ]);
        let listener = listener
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let audited = cluster.reach(&flows);
        for (flow, reached) in flows.iter().zip(&audited) {
            let name = flow.name;
            let is_of_pods = name.contains("NodePort") || name.starts_with("pod → pod");
            assert!(!is_of_pods || *reached, "{name} is denied in an audit");
        }
        let patch = said(&listener.wait_with_output().unwrap());
        assert!(patch.contains("[overlay."), "{patch}");
        assert!(patch.contains("subnets = [\"10.244.0.0/16\"]"), "{patch}");

        // Enforced without it, pods are cut off, and the plan says so.
        let plan = apply(&cluster, &without_overlay(""));
        assert!(plan.contains("no longer open"), "{plan}");
        let of_pod = "explain --live --policy /run/story.toml --interface cni0 \
                      --from 10.244.1.2 --to 10.244.2.2 --port 8080/tcp";
        let (code, text) = ask(worker, of_pod);
        assert_eq!(code, Some(1), "{text}");
        let why = "forwarded, not allowed by the policy (forward-default)";
        assert!(text.contains(why), "{text}");

        // With it, everything works.
        let plan = apply(&cluster, &fs::read_to_string(POLICY).unwrap());
        assert!(plan.contains("newly open"), "{plan}");
        assert!(plan.contains("10.244.0.0/16"), "{plan}");
        let (code, text) = ask(worker, request);
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = ask(worker, of_pod);
        assert_eq!(code, Some(0), "{text}");
        let solved = cluster.reach(&flows);
        assert_eq!(wrong(&flows, &solved, false), [""; 0]);
    });
}

/// Python's parser of HTML is the judge.
#[test]
fn the_page_of_exposed_is_whole_and_a_hostile_program_is_text() {
    const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/check-page.py");
    world(|| {
        let node = Lan::new().join("node", 11);
        let policy = "/run/policy.toml";
        fs::write(policy, "version = 1\n[peers]\npeer = \"192.0.2.12\"\n").unwrap();
        // The kernel keeps 15 bytes of a name.
        let name = "</td><script>&\"";
        let program = format!(
            "import socket, time\nopen('/proc/self/comm', 'w').write('{name}')\n\
             server = socket.create_server(('0.0.0.0', 7070))\ntime.sleep(60)\n"
        );
        let mut command = node.command("python3");
        let mut hostile = command.args(["-c", &program]).spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        let is_there = || node.sh("ss -Hltn").contains(":7070");
        while !is_there() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let page = "/run/page.html";
        node.peerwall_ok(&["exposed", "--html", page, policy]);
        let output = node
            .command("python3")
            .args([CHECK, page, name, "7070/tcp"])
            .output();
        hostile.kill().unwrap();
        hostile.wait().unwrap();
        let output = output.unwrap();
        let faults = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{faults}");
    });
}
