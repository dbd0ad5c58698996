//! Shows the main job for real: the story's cluster in namespaces, who reaches whom before and
//! after `peerwall apply policy.toml`, and the table that was loaded. `scripts/run` starts it in
//! namespaces of its own; this host is not touched.

#![expect(clippy::print_stdout, reason = "it is there to print")]

use std::process::ExitCode;

use peerwall_integration::ns::prepare;
use peerwall_integration::story::{Cluster, Flavour, flows, matrix, wrong};

const FINAL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/rules-save.final"
);
const FIRST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/story/rules-save.first"
);
const IPV6: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/story/rules6-save");
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");

fn main() -> ExitCode {
    if std::env::var_os("PEERWALL_TEST_WORLD").is_none() {
        println!("this builds a cluster out of network namespaces: start it with scripts/run");
        return ExitCode::from(2);
    }
    prepare();
    let flows = flows();
    println!(
        "Building four machines, flannel over VXLAN, four pods, NodePorts, a gateway, an outsider …"
    );
    let cluster = Cluster::build(Flavour::Nft);
    cluster.wait_until_up();
    println!("Without a filter everything gets through. Now three ways to close it:\n");
    cluster.load_rules_save(FIRST, IPV6);
    let first = cluster.reach(&flows);
    cluster.load_rules_save(FINAL, IPV6);
    let last = cluster.reach(&flows);
    cluster.unload_rules_save();
    cluster.apply(POLICY);
    let policy = cluster.reach(&flows);
    let table = cluster.workers[0].sh("nft list table inet peerwall");
    let status = cluster.workers[0].peerwall(&["status", POLICY]);
    let wrong = wrong(&flows, &policy, false);
    let stages = [
        ("rules-save, first", first),
        ("rules-save, final", last),
        ("policy.toml", policy),
    ];
    println!("The table on worker-1:\n\n{table}");
    println!(
        "What it counted (`peerwall status`):\n\n{}",
        String::from_utf8_lossy(&status.stdout)
    );
    println!(
        "Who reaches whom (! is not as it is wanted):\n\n{}",
        matrix(&flows, &stages)
    );
    println!("* once the peers have IPv6 addresses in the policy as well.\n");
    match wrong.is_empty() {
        true => {
            println!("policy.toml: every flow is as it is wanted.");
            ExitCode::SUCCESS
        }
        false => {
            println!("policy.toml: these are not as they are wanted: {wrong:?}");
            ExitCode::FAILURE
        }
    }
}
