//! `status --watch`: redraws one screen on a terminal; prints blocks of plain text elsewhere.

use std::time::{Duration, Instant};

use peerwall_core::rates::{Count, Meter, Rates};

use super::super::TROUBLE;
use super::Line;
use crate::command::terminal::{self, Live, Size, Wakeups};
use crate::json::Failure;
use crate::output;
use crate::store;

/// Time between two screens.
const EVERY: Duration = Duration::from_secs(2);

/// Chain and reason of a counter.
pub(in crate::command) type CounterKey = (Option<String>, String);

/// Readings of the counters of the rules.
pub(in crate::command) struct Readings {
    started: Instant,
    meter: Meter<CounterKey>,
}

impl Readings {
    /// Begins without a reading.
    pub(in crate::command) fn new() -> Self {
        Self {
            started: Instant::now(),
            meter: Meter::default(),
        }
    }

    /// Returns the rates since the last call; `None` at the first call.
    pub(in crate::command) fn update(&mut self, lines: &[Line]) -> Option<Rates<CounterKey>> {
        let count = |line: &Line| Count {
            packets: line.packets,
            bytes: line.bytes,
        };
        let counters = lines.iter().map(|line| (line.key(), count(line)));
        self.meter.read(self.started.elapsed(), counters.collect())
    }
}

/// Runs `show` repeatedly, until the user or a signal ends it.
pub(super) fn run(is_json: bool, show: impl FnMut() -> u8) -> u8 {
    let mut events = match Wakeups::new() {
        Ok(events) => events,
        Err(err) => {
            let output = output::Output::new(is_json);
            return super::super::trouble("status", Failure::io(&err), &output);
        }
    };
    match terminal::is_screen() && !is_json {
        true => terminal::on_screen(&mut Watched::new(show), EVERY, &mut events),
        false => in_blocks(is_json, show, &mut events),
    }
}

fn in_blocks(is_json: bool, mut show: impl FnMut() -> u8, events: &mut Wakeups) -> u8 {
    let mut is_first = true;
    loop {
        if !is_json {
            output::print(&format!("{}\n", store::time()));
        }
        let code = show();
        // An error of the first turn, such as missing privileges, is permanent.
        let is_hopeless = std::mem::take(&mut is_first) && code == TROUBLE;
        if is_hopeless || output::is_over() || events.wait(EVERY) {
            return code;
        }
        if !is_json {
            output::print("\n");
        }
    }
}

/// A command's output on a screen.
struct Watched<F> {
    show: F,
    text: String,
}

impl<F: FnMut() -> u8> Watched<F> {
    fn new(show: F) -> Self {
        Self {
            show,
            text: String::new(),
        }
    }
}

impl<F: FnMut() -> u8> Live for Watched<F> {
    fn read(&mut self) -> Result<u8, String> {
        let (code, text) = output::captured(&mut self.show);
        let time = store::time();
        let seconds = EVERY.as_secs();
        self.text = format!("{time}   every {seconds} s; q quits\n\n{text}");
        match code {
            TROUBLE => Err(text),
            code => Ok(code),
        }
    }

    fn lines(&self, _: Size) -> String {
        self.text.clone()
    }
}
