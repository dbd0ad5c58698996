//! More denied packets than can be read: memory stays bounded, and repairs are as fast as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use peerwall_integration::situation::counted;

use super::*;

/// Memory that an agent may need more after a flood, in KiB: its tables and buffers.
const GROWTH_MAX_KIB: u64 = 24 * 1024;

/// Logs as many packets as the kernel can.
const LOG: &str = "[log]\ndenied = { rate = \"1000000/second burst 100000\" }\n";

fn seconds() -> u64 {
    let text = std::env::var("PEERWALL_FLOOD");
    text.map_or(1, |text| text.parse().unwrap())
}

/// Resident memory of a process, in KiB.
fn memory(agent: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

/// Deletes the table, and measures until it is back.
fn repair(node: &Host) -> Duration {
    node.sh("nft delete table inet peerwall");
    let start = Instant::now();
    wait_for(
        || {
            node.try_sh("nft list chain inet peerwall input")
                .status
                .success()
        },
        "the repair",
    );
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Datagrams from all sources of 198.18.0.0/15 in turns, until it is stopped.
fn flood(stranger: &Host, stop: &Arc<AtomicBool>) -> (Arc<AtomicU64>, std::thread::JoinHandle<()>) {
    let sent = Arc::new(AtomicU64::new(0));
    let (stop, count) = (Arc::clone(stop), Arc::clone(&sent));
    let thread = stranger.spawn(move || {
        let mut frame = datagram("198.18.0.0", "192.0.2.11", 7, b"flood");
        frame.destination_mac = mac(11);
        let mut frames = (0..=u16::MAX).map(|number| {
            let [high, low] = [number / 256, number % 256];
            frame.source = format!("198.18.{high}.{low}").parse().unwrap();
            frame.bytes()
        });
        let frames: Vec<Vec<u8>> = frames.by_ref().take(20_000).collect();
        let socket = peerwall_integration::raw::Sender::open("eth0").unwrap();
        for frame in frames.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // The queue may be full.
            if socket.send(frame).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (sent, thread)
}

/// Repairs during a flood.
struct Flooded {
    /// Median time of a repair.
    repair: Duration,
    /// Packets that were sent.
    sent: u64,
    /// Time of a request for denied packets.
    asked: Duration,
}

/// Deletes the table again and again during a flood.
fn flooded(site: &Site) -> Flooded {
    let stop = Arc::new(AtomicBool::new(false));
    let (sent, thread) = flood(&site.stranger, &stop);
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(seconds()) {
        std::thread::sleep(Duration::from_millis(50));
        times.push(repair(&site.node));
    }
    let start = Instant::now();
    site.node
        .peerwall(&["denied", "--listen", "1s", "--limit", "0"]);
    let asked = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    Flooded {
        repair: median(times),
        sent: sent.load(Ordering::Relaxed),
        asked,
    }
}

/// Sum of a field of a list.
fn sum(list: &Value, field: &str) -> u64 {
    let list = list.as_array().unwrap().iter();
    list.map(|each| each[field].as_u64().unwrap()).sum()
}

#[test]
fn what_the_rate_limit_hides_is_counted() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        let _agent = Running::agent(node, &[]);
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, thread) = flood(&site.stranger, &stop);
        let start = Instant::now();
        wait_for(|| sent.load(Ordering::Relaxed) > 20_000, "the flood");
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        // The kernel keeps packets for a fifth of a second.
        std::thread::sleep(Duration::from_millis(400));
        let seconds = start.elapsed().as_secs() + 1;
        let found = denied(node, &[]);
        let reason = &found["reasons"][0];
        let number = |field: &str| reason[field].as_u64().unwrap();
        let (recorded, denied) = (number("recorded"), number("denied_in_all"));
        assert_eq!(denied, counted(node, "input-default"), "{found:#}");
        assert!(
            denied > 1000 && denied <= sent.load(Ordering::Relaxed),
            "{found:#}"
        );
        assert_eq!(number("not_recorded"), denied - recorded, "{found:#}");
        // The default: ten a second, and five at once.
        assert!((5..=10 * seconds + 5).contains(&recorded), "{found:#}");
        assert_eq!(found["lost"], 0, "{found:#}");
        let text = text(node, &[]);
        let said = format!(
            "because the log is limited: {} input-default",
            denied - recorded
        );
        assert!(text.contains(&said), "{text}");
    });
}

#[test]
fn a_flood_neither_fills_memory_nor_delays_repairs() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        fs::write(POLICY, format!("{RULES}{LOG}")).unwrap();
        // The same flood, without a reader of the log.
        let agent = Running::agent(node, &["--no-owner", "--no-denied"]);
        let unread = flooded(&site);
        drop(agent);
        let agent = Running::agent(node, &["--no-owner"]);
        let before = memory(&agent);
        let read = flooded(&site);
        // What comes later is recorded again.
        let is_listed = || {
            site.send();
            row(&denied(node, &["--limit", "0"]), SEEN[4].1).is_some()
        };
        wait_for(is_listed, "a packet after the flood");
        let after = denied(node, &["--limit", "0"]);
        let growth = memory(&agent).saturating_sub(before);
        let recorded = sum(&after["reasons"], "recorded");
        let lost = after["lost"].as_u64().unwrap();
        println!(
            "{} packets: {recorded} recorded, {lost} lost, {growth} KiB more; repairs take {:?}, \
             and {:?} if nobody reads the log; a request takes {:?}",
            read.sent, read.repair, unread.repair, read.asked
        );
        assert!(recorded > 1000, "{after:#}");
        assert!(recorded + lost <= read.sent + 100, "{after:#}");
        let rows = after["rows"].as_array().unwrap().len();
        assert!(rows <= 2 * 256 + 100, "{rows}");
        let listed = sum(&after["rows"], "packets") + after["not_kept"].as_u64().unwrap();
        assert_eq!(listed, recorded, "{after:#}");
        assert!(growth < GROWTH_MAX_KIB, "{growth} KiB");
        let slowest = unread.repair * 3 + Duration::from_millis(100);
        assert!(
            read.repair < slowest,
            "{:?}, {:?}",
            read.repair,
            unread.repair
        );
    });
}
