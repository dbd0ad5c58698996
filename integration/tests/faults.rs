//! A small part of the fault campaign, always the same; `target/debug/faults` runs all of it.
//!
//! `PEERWALL_FAULTS` sets how many faults of each scenario are run, `PEERWALL_SEED` selects them.

#![expect(
    clippy::print_stdout,
    reason = "a test that passes should say what it did"
)]

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use peerwall_integration::faults::fault::{Effect, Fault};
use peerwall_integration::faults::place::{Ended, Place};
use peerwall_integration::faults::world::{Force, POLICY_B, World};
use peerwall_integration::faults::{Options, campaign, scenarios};
use peerwall_integration::ns::{peerwall_bin, world};

/// A number from the environment.
fn number(name: &str, usual: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(usual, |text| text.parse().expect("a number"))
}

/// Scenarios of commands, or of the agent and its clients.
fn names(of_agent: bool) -> Vec<String> {
    let is_of_agent = |name: &str| name.starts_with("agent-") || name.starts_with("client-");
    let all = scenarios();
    let found = all.iter().map(|each| each.name().to_owned());
    found.filter(|name| is_of_agent(name) == of_agent).collect()
}

fn run(world: &mut World, options: &Options) {
    let mut flags = Vec::new();
    let figures = campaign(world, options, |line| match line.starts_with("FLAG") {
        true => flags.push(line.to_owned()),
        false => println!("{line}"),
    });
    assert_eq!(
        figures.len(),
        options.scenarios.len(),
        "{:?}",
        options.scenarios
    );
    assert!(flags.is_empty(), "{}", flags.join("\n"));
}

/// Some faults of each scenario.
fn sample(of_agent: bool, usual: u64) {
    let limit = number("PEERWALL_FAULTS", usual);
    run(
        &mut World::new(),
        &Options {
            scenarios: names(of_agent),
            limit: Some(usize::try_from(limit).expect("a small number")),
            seed: number("PEERWALL_SEED", 1),
            ..Options::default()
        },
    );
}

#[test]
fn no_single_fault_breaks_a_promise_of_a_command() {
    world(|| {
        sample(false, 1);
    });
}

#[test]
fn no_single_fault_breaks_a_promise_of_the_agent() {
    world(|| {
        sample(true, 2);
    });
}

#[test]
fn what_the_campaign_found_stays_fixed() {
    world(|| {
        let mut world = World::new();
        for (scenario, calls, limit) in [
            // The end of a lock panicked.
            ("confirm", &["flock"][..], 6),
            // A trial that was refused waited, since only the directory could not be synced.
            ("trial", &["fsync"], 6),
            // A rollback that was made said that it was not.
            ("rollback-trial", &["renameat", "fchmod"], 6),
            // A block that could not be recorded said that it had failed.
            ("block", &["newfstatat", "renameat"], 6),
            // Rules were removed during a trial that could not be read.
            ("refused-remove", &["openat"], 6),
            // Output was treated as closed.
            ("boot", &["fcntl"], 3),
            // A program whose output could not be read made the command panic.
            ("iptables-change", &["poll", "ioctl", "statx"], 8),
            // A trial that could not be read back ran for good.
            ("agent-trial", &["renameat", "newfstatat"], 4),
            // A signal was lost.
            ("agent-stop", &["sendto"], 3),
        ] {
            run(
                &mut world,
                &Options {
                    scenarios: vec![scenario.to_owned()],
                    calls: calls.iter().map(|call| (*call).to_owned()).collect(),
                    kills: false,
                    limit: Some(limit),
                    ..Options::default()
                },
            );
        }
    });
}

#[test]
fn a_trial_begins_only_if_the_loaded_rules_can_be_read() {
    world(|| {
        // Every socket of the command in turn, so that of this read as well.
        run(
            &mut World::new(),
            &Options {
                scenarios: vec!["trial".to_owned()],
                calls: vec!["bind".to_owned()],
                kills: false,
                ..Options::default()
            },
        );
    });
}

/// The places of the calls that strace printed with this mark, from 1.
fn places(log: &str, call: &str, mark: &str) -> Vec<u32> {
    let calls = log
        .lines()
        .filter(|line| line.starts_with(&format!("{call}(")));
    let marked = (1..).zip(calls).filter(|(_, line)| line.contains(mark));
    marked.map(|(nth, _)| nth).collect()
}

/// The agent's part of `status`, once it has loaded its rules.
fn agent_status(world: &World, place: &Place) -> serde_json::Value {
    let start = Instant::now();
    loop {
        let (_, said) = world.peerwall(place, &["status", "--json", "/nowhere"], &[]);
        let status: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        if status["agent"]["in_sync_seconds"].is_u64() {
            return status["agent"].clone();
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{said}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What a client left beside an agent that does not lock the table.
struct Left {
    place: Place,
    ended: Ended,
    force: Force,
    repairs: u64,
}

/// Runs a client beside an agent with policy A, after its policy file changed to B.
fn beside_agent(world: &mut World, args: &[&str], fault: Option<&Fault>) -> Left {
    let place = world.place();
    world.clean();
    let full = |name: &str| place.file(name).display().to_string();
    // An earlier policy, for `rollback`.
    world.must(&place, &["apply", &full("b.toml")]);
    let mut agent = world.command(&place, peerwall_bin());
    agent.args(["run", "--no-owner", "--no-follow", &full("policy.toml")]);
    agent.stderr(Stdio::null());
    let mut agent = agent.spawn().expect("the peerwall program is built");
    agent_status(world, &place);
    fs::write(place.file("policy.toml"), POLICY_B).expect("/run has room");
    let args: Vec<String> = args
        .iter()
        .map(|arg| match arg.ends_with(".toml") {
            true => full(arg),
            false => (*arg).to_owned(),
        })
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = world.traced(&place, &args, fault);
    let force = world.force();
    let status = agent_status(world, &place);
    agent.kill().expect("it is our child");
    agent.wait().expect("it is our child");
    world.end_processes(&place);
    Left {
        place,
        ended,
        force,
        repairs: status["repairs"].as_u64().expect("a number"),
    }
}

#[test]
fn a_client_that_cannot_reach_the_agent_changes_nothing() {
    world(|| {
        let mut world = World::new();
        for args in [
            &["apply", "policy.toml"][..],
            &["apply", "--confirm", "60s", "b.toml"],
            &["rollback"],
            &["remove"],
        ] {
            let log = beside_agent(&mut world, args, None).ended.log;
            for (call, mark, error) in [
                ("socket", "AF_UNIX", "EPERM"),
                ("connect", "control.sock", "EACCES"),
            ] {
                let mut refused = 0;
                for nth in places(&log, call, mark) {
                    let fault = Fault {
                        call: call.to_owned(),
                        nth,
                        effect: Effect::Error(error),
                    };
                    let left = beside_agent(&mut world, args, Some(&fault));
                    let said = &left.ended.said;
                    let what = format!("{args:?} {fault}: {said}");
                    // The agent would repair what a client changed without it.
                    assert_eq!(left.repairs, 0, "{what}");
                    // A connection that only shows something may fail.
                    let is_refused = left.ended.code() != Some(0);
                    let wanted = if is_refused { Force::A } else { Force::B };
                    assert_eq!(left.force, wanted, "{what}");
                    assert!(!is_refused || !left.place.trial_waits(), "{what}");
                    assert!(!is_refused || said.contains("control.sock"), "{what}");
                    refused += u32::from(is_refused);
                }
                assert!(refused > 0, "{args:?} {call}: {log}");
            }
        }
    });
}
