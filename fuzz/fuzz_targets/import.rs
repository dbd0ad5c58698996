//! Whatever a rules file says, it is imported or refused without panic, and no packet is treated
//! differently by the policy unless the report lists a difference for it. Single packets decide.
//!
//! `fuzz/seeds` writes the seeds. Inputs are mutated by lines and words, and by bytes.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use peerwall_core::import::File;
use peerwall_core::import::judge::{Effort, judge};
use peerwall_core::net::addr::Family;

/// Longer files have more of the same.
const LENGTH_MAX: usize = 6000;

fuzz_target!(|text: &str| {
    if text.len() > LENGTH_MAX {
        return;
    }
    let family = match text.contains("::") {
        true => None,
        false => Some(Family::V4),
    };
    let file = File {
        name: "rules".into(),
        text: text.into(),
        family,
    };
    let effort = Effort {
        packets: 300,
        seed: text.len() as u64,
    };
    if let Ok(Some(problem)) = judge(&[file], effort) {
        panic!("{text}\n{problem}");
    }
});

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random(u64::from(seed) | 1 << 32);
    let text = match std::str::from_utf8(&data[..size]) {
        Ok(text) if random.below(4) > 0 => text.to_owned(),
        _ => return fuzzer_mutate(data, size, max_size),
    };
    let changed = mutated(&text, &mut random);
    let len = changed.len().min(max_size);
    data[..len].copy_from_slice(&changed.as_bytes()[..len]);
    len
});

/// Moves, repeats or removes a line, or puts a word of one line in place of a word of another.
fn mutated(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return "-A INPUT -j ACCEPT\n".to_owned();
    }
    for _ in 0..=random.below(3) {
        let (from, to) = (random.below(lines.len()), random.below(lines.len()));
        match random.below(8) {
            0 => lines.swap(from, to),
            1 => {
                let line = lines[from].clone();
                lines.insert(to, line);
            }
            2 if lines.len() > 1 => {
                lines.remove(from);
            }
            3 => {
                let words = [" !", " -j ACCEPT", " -j DROP", " -j RETURN"];
                let word = words[random.below(words.len())];
                lines[to].push_str(word);
            }
            _ => {
                let source: Vec<&str> = lines[from].split(' ').collect();
                let word = source[random.below(source.len())].to_owned();
                let mut target: Vec<&str> = lines[to].split(' ').collect();
                let at = random.below(target.len());
                match random.below(3) {
                    0 => target.insert(at, &word),
                    _ => target[at] = &word,
                }
                lines[to] = target.join(" ");
            }
        }
    }
    lines.join("\n") + "\n"
}
