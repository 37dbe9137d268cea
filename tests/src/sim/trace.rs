//! What happened in a world, as a hash that two runs of a seed agree on, and as text for a person.

use parking_lot::Mutex;
use std::sync::Arc;

/// Lines kept for the report of a failure.
const KEPT_MAX: usize = 400;

#[derive(Default)]
struct State {
    hash: u64,
    events: u64,
    lines: std::collections::VecDeque<String>,
}

/// Clones are the same trace.
#[derive(Clone)]
pub(super) struct Trace {
    state: Arc<Mutex<State>>,
    aloud: bool,
}

impl Trace {
    /// `aloud`: printed as it comes.
    pub(super) fn new(aloud: bool) -> Self {
        Self { state: Arc::default(), aloud }
    }

    /// Something happened.
    pub(super) fn note(&self, tick: u64, what: impl FnOnce() -> String) {
        let line = format!("{tick:6} {}", what());
        if self.aloud {
            say(&line);
        }
        let mut state = self.state.lock();
        for byte in line.bytes() {
            state.hash = (state.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        state.events += 1;
        if state.lines.len() == KEPT_MAX {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
    }

    pub(super) fn hash(&self) -> u64 {
        self.state.lock().hash
    }

    /// How many lines there were.
    pub(super) fn events(&self) -> u64 {
        self.state.lock().events
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.state.lock().lines.iter().cloned().collect()
    }
}

#[expect(clippy::print_stdout, reason = "the replay of a seed is read by a person")]
fn say(line: &str) {
    println!("{line}");
}
