//! Everything that happens in a world, as a hash: each segment that the network takes, brings or drops, with its
//! bytes, and each line of the programs' logs, in order.

use super::super::entropy;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// What the simulated network calls its events.
const NETWORK: &str = "turmoil";
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Lines kept for the report of a failure.
const KEPT_MAX: usize = 400;

#[derive(Default)]
struct State {
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
}

/// Who says it, for those who read along.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// A line of a world, or of a program's log.
    Loud,
    /// A segment.
    Low,
}

/// Clones are the same trace.
#[derive(Clone)]
pub(super) struct Trace {
    state: Arc<Mutex<State>>,
    aloud: bool,
}

impl Trace {
    /// `aloud`: what is not said in a low voice is printed as it comes.
    pub(super) fn new(aloud: bool) -> Self {
        Self { state: Arc::default(), aloud }
    }

    pub(super) fn hash(&self) -> u64 {
        self.state.lock().hash
    }

    /// How many lines there were.
    pub(super) fn events(&self) -> u64 {
        self.state.lock().events
    }

    /// The last of them that were not said in a low voice.
    pub(super) fn lines(&self) -> Vec<String> {
        self.state.lock().lines.iter().cloned().collect()
    }

    /// Something happened.
    pub(super) fn note(&self, what: &str, voice: Voice) {
        let line = format!("{:9.3} {what}", entropy::clock().as_secs_f64());
        let mut state = self.state.lock();
        state.hash = line.bytes().fold(state.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        state.events += 1;
        if voice == Voice::Low {
            return;
        }
        if self.aloud {
            say(&line);
        }
        if state.lines.len() == KEPT_MAX {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
    }
}

#[expect(clippy::print_stdout, reason = "the replay of a seed is read by a person")]
fn say(line: &str) {
    println!("{line}");
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}"); // a string takes everything
    }
}

impl<S: Subscriber> Layer<S> for Trace {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let target = metadata.target();
        target == NETWORK || (target.starts_with("gfs_") && *metadata.level() <= Level::DEBUG)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        let mut line = Line(target.to_owned());
        event.record(&mut line);
        self.note(&line.0, if target == NETWORK { Voice::Low } else { Voice::Loud });
    }
}
