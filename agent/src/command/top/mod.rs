//! `peerwall top`: packets per second, denied packets and events, on one screen.

mod draw;
mod feed;
mod paint;
mod view;

use std::time::Duration;

use self::feed::{AgentLog, Feed};
use self::view::{Trends, View};
use super::status::Elements;
use super::status::watch::Readings;
use super::terminal::{self, Live, Size, Wakeups};
use super::{DONE, TROUBLE, on_host, status};
use crate::cli::{BackendArgs, OutputArgs, PolicyArgs, TopArgs};
use crate::json::Failure;
use crate::output::{self, Output};
use crate::store::audit;
use crate::store::{self, State};

/// Width of a frame that is printed as text, in columns.
const TEXT_COLUMNS: usize = 100;

pub(super) fn run(args: &TopArgs) -> u8 {
    let mut events = match Wakeups::new() {
        Ok(events) => events,
        Err(err) => return super::trouble("top", Failure::io(&err), &Output::new(false)),
    };
    let interval = Duration::from_secs(args.interval);
    let mut top = Top::new(args);
    match terminal::is_screen() && !args.once {
        true => terminal::on_screen(&mut top, interval, &mut events),
        false => once(&mut top, interval, &mut events),
    }
}

/// Prints one frame, for which it reads twice. A signal between the two leaves the rates out.
fn once(top: &mut Top, interval: Duration, events: &mut Wakeups) -> u8 {
    let mut read = top.read();
    if read.is_ok() && !events.wait(interval) {
        read = top.read();
    }
    match read {
        Ok(code) => {
            output::print(&top.text());
            code
        }
        Err(text) => {
            output::complain(&text);
            TROUBLE
        }
    }
}

/// What is shown, and what is remembered for the next reading.
struct Top {
    of: BackendArgs,
    readings: Readings,
    feed: Feed,
    trends: Trends,
    view: View,
}

impl Top {
    fn new(args: &TopArgs) -> Self {
        Self {
            of: BackendArgs {
                policy: PolicyArgs {
                    policy: args.policy.clone(),
                    output: OutputArgs { json: false },
                },
                backend: args.backend,
            },
            readings: Readings::new(),
            feed: Feed::default(),
            trends: Trends::default(),
            view: View::default(),
        }
    }

    /// Returns a frame that is as long as everything in it.
    fn text(&self) -> String {
        draw::text(&self.view, TEXT_COLUMNS, None)
    }
}

impl Live for Top {
    fn read(&mut self) -> Result<u8, String> {
        let Self {
            of,
            readings,
            feed,
            trends,
            view,
        } = self;
        let (code, printed) = output::captured(|| {
            on_host(of, of.backend, "top", |enforcer, given, _| {
                let status = status::read(enforcer, given, Elements::Known)?;
                let rates = readings.update(&status.counters);
                feed.read(AgentLog::of(&status), given);
                let events = audit::read(&State::open()).unwrap_or_default();
                *view = View::new(&status, rates.as_ref(), feed, &events, trends);
                Ok(DONE)
            })
        });
        view.time = store::time();
        view.error = (code == TROUBLE).then(|| printed.trim_end().to_owned());
        match code {
            TROUBLE => Err(printed),
            code => Ok(code),
        }
    }

    fn lines(&self, size: Size) -> String {
        draw::text(&self.view, size.columns, Some(size.rows))
    }
}
