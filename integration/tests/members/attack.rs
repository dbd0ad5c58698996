//! A source that is in the hands of an attacker, and agents that are killed.

use std::time::{Duration, Instant};

use peerwall_integration::ns::world;
use peerwall_integration::open::{Agent, wait_for};

use super::*;

/// Time that a process used, of user and kernel.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // utime and stime, in ticks of 10 ms (proc(5)).
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_source_that_attacks_admits_nobody_outside_its_limits() {
    world(|| {
        let seconds = std::env::var("PEERWALL_ATTACK").map_or(4, |text| text.parse().unwrap());
        let cluster = Cluster::new("max = 500");
        let agent = Agent::start(&cluster.host, &cluster.path(), &[]);
        let good = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        cluster.list(5, &good);
        wait_for("the nodes", || good.iter().all(|node| cluster.has(node)));
        let (start, used, before) = (Instant::now(), cpu(agent.pid()), resident_kib(agent.pid()));
        let mut random = 1_u64;
        let mut writes = 0_u32;
        let mut looked = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (number, kind) = (random >> 40, (random >> 33) % 8);
            let inside = |n: u64| format!("10.0.{}.{}", n % 256, (n / 256) % 256);
            let members: Vec<String> = match kind {
                0 => Vec::new(),
                1 => (0..2000).map(|each| inside(number + each)).collect(),
                2 => (0..50)
                    .map(|each| format!("192.0.2.{}", (number + each) % 256))
                    .collect(),
                3 => vec![
                    "0.0.0.0/0".to_owned(),
                    "::/0".to_owned(),
                    "198.51.100.0/24".to_owned(),
                ],
                4 => (0..20).map(|each| inside(number * each)).collect(),
                _ => vec![inside(number), format!("172.16.{}.1", number % 256)],
            };
            let list: Vec<&str> = members.iter().map(String::as_str).collect();
            let text = listing(number, &list);
            match kind {
                6 => cluster.write(&text.as_bytes()[..text.len() / 2]),
                7 => cluster.write(random.to_string().repeat(10_000)),
                _ => cluster.write(text),
            }
            writes += 1;
            if looked.elapsed() > Duration::from_millis(300) {
                looked = Instant::now();
                let peers = cluster.peers();
                let own: IpAddr = "198.51.100.1".parse().unwrap();
                let is_inside = |peer: &&IpAddr| peer.to_string().starts_with("10.0.");
                let outside: Vec<&IpAddr> = peers
                    .iter()
                    .filter(|peer| **peer != own && !is_inside(peer))
                    .collect();
                assert_eq!(outside, Vec::<&IpAddr>::new());
                assert!(
                    peers.len() <= 501 && peers.contains(&own),
                    "{}",
                    peers.len()
                );
                assert!(
                    good.iter()
                        .all(|node| peers.contains(&node.parse().unwrap()))
                );
            }
        }
        let took = start.elapsed();
        let share = (cpu(agent.pid()) - used).as_secs_f64() / took.as_secs_f64();
        let grown = resident_kib(agent.pid()).saturating_sub(before);
        println!("{writes} writes in {took:?}: {share:.2} of a core, {grown} KiB more");
        assert!(grown < 32 * 1024, "{grown} KiB more");
        assert!(share < 0.6, "{share} of a core");
        // Another policy is still taken.
        cluster.policy("198.51.100.7", "max = 500");
        wait_for("the policy", || cluster.has("198.51.100.7"));
    });
}

/// Number of members of the source below: more of them leave it.
const LISTED_MAX: usize = 100;

#[test]
fn an_agent_that_is_killed_loses_no_member() {
    world(|| {
        let rounds = std::env::var("PEERWALL_ROUNDS").map_or(6, |text| text.parse().unwrap());
        // Who leaves the list is a member for a second more.
        let cluster = Cluster::new("grace = \"1s\"\nmax_loss = \"100%\"");
        let mut listed: VecDeque<IpAddr> = VecDeque::new();
        let mut revision = 0;
        for round in 0..rounds {
            let agent = Agent::start(&cluster.host, &cluster.path(), &[]);
            let begun = Instant::now();
            let moment = Duration::from_millis(17 * round % 160);
            let old = cluster.peers();
            let own: IpAddr = "198.51.100.1".parse().unwrap();
            let stays = |node: &IpAddr| old.contains(node);
            assert!(stays(&own) && listed.iter().all(stays), "{old:?}");
            let first = revision;
            while begun.elapsed() < moment || revision == first {
                revision += 1;
                let node = format!("10.0.{}.{}", revision / 200, revision % 200 + 1);
                listed.push_back(node.parse().unwrap());
                if listed.len() > LISTED_MAX {
                    listed.pop_front();
                }
                let list: Vec<String> = listed.iter().map(ToString::to_string).collect();
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                cluster.list(revision, &list);
                std::thread::sleep(Duration::from_millis(3));
            }
            // The agent is killed, and the rules stay.
            drop(agent);
            let now = cluster.peers();
            let kept = |node: &&IpAddr| **node == own || listed.contains(node);
            assert!(
                old.iter().filter(kept).all(|node| now.contains(node)),
                "round {round}: {old:?}, {now:?}"
            );
            let agent = Agent::start(&cluster.host, &cluster.path(), &[]);
            let begun = Instant::now();
            loop {
                let peers = cluster.peers();
                if listed.iter().all(|node| peers.contains(node)) {
                    break;
                }
                assert!(
                    begun.elapsed() < Duration::from_secs(30),
                    "round {round}, revision {revision}: {}\n{listed:?}\n{peers:?}",
                    cluster.source()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            // A restart begins their second again.
            if round % 20 == 19 {
                wait_for("the end of who left", || {
                    cluster.peers().len() == listed.len() + 1
                });
                // An agent that is killed before it saves the members brings them back.
                std::thread::sleep(Duration::from_millis(1500));
            }
            drop(agent);
        }
    });
}
