//! A small part of the fault campaign, always the same; `target/debug/faults` runs all of it.
//!
//! `PEERWALL_FAULTS` sets how many faults of each scenario are run, `PEERWALL_SEED` selects them.

#![expect(
    clippy::print_stdout,
    reason = "a test that passes should say what it did"
)]

use peerwall_integration::faults::world::World;
use peerwall_integration::faults::{Options, campaign, scenarios};
use peerwall_integration::ns::world;

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
        sample(false, 4);
    });
}

#[test]
fn no_single_fault_breaks_a_promise_of_the_agent() {
    world(|| {
        sample(true, 3);
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
