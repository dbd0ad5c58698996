//! Measures what the kernel alone needs to load a policy: the messages are prepared in memory, sent
//! and acknowledged. `scripts/bench-loads` compares complete loads with it.
//!
//! Prints the time in milliseconds, and the number of bytes.

#![expect(clippy::print_stdout, reason = "the result of a measurement")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peerwall::kernel::netlink::Socket;
use peerwall::policy_file::files::FileSystem;
use peerwall::policy_file::prepare;
use peerwall_core::nft::lower::lower;
use peerwall_core::nft::observed::Observed;
use peerwall_core::nft::plan::plan;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: floor POLICY")?;
    let ready = prepare(&PathBuf::from(path), &FileSystem::default());
    let ready = ready.map_err(|why| why.text)?;
    let batch = lower(
        &plan(&ready.ruleset, &Observed::default()),
        0,
        Duration::ZERO,
    )?;
    let mut socket = Socket::open()?;
    let seq = socket.take_seq(batch.len() + 2);
    let encoded = batch.commit(seq, None);
    let start = Instant::now();
    socket.send(&encoded.bytes)?;
    let acks = socket.drain_acks()?;
    let took = start.elapsed();
    if let Some(refused) = acks.iter().find(|ack| ack.errno != 0) {
        return Err(format!("the kernel refused the load: errno {}", refused.errno).into());
    }
    println!("{:.2} {}", took.as_secs_f64() * 1000.0, encoded.bytes.len());
    Ok(())
}
