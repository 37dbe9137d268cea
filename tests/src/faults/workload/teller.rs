//! Says on standard output what begins and what has returned, one line of JSON each.

use crate::faults::history::{Event, Moment, Op, Outcome};
use crate::faults::workload::errno;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by the threads of a workload.
#[derive(Debug)]
pub struct Teller {
    next: AtomicU64,
    sequence: AtomicU64,
    ended: AtomicBool,
}

impl Teller {
    /// Its end is the end of standard input.
    pub fn new() -> Arc<Self> {
        let sequence = AtomicU64::new(1);
        let teller = Arc::new(Self { next: AtomicU64::new(1), sequence, ended: AtomicBool::new(false) });
        let ending = Arc::clone(&teller);
        std::thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new()); // an error is an end, too
            ending.ended.store(true, Ordering::Relaxed);
        });
        teller
    }

    /// True when no operation is to begin any more.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Greater than all before.
    pub fn sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Does an operation and tells about it. False if it failed.
    pub fn tell(&self, op: Op, act: impl FnOnce() -> io::Result<Outcome>) -> bool {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        say(&Event::Invoked { id, at: Moment::now(), op });
        let outcome = act().unwrap_or_else(|error| Outcome::Failed(errno(&error)));
        let good = !matches!(outcome, Outcome::Failed(_));
        say(&Event::Returned { id, at: Moment::now(), outcome });
        good
    }
}

/// Whoever reads it is gone if it cannot be said: then there is nothing left to do.
fn say(event: &Event) {
    let told = serde_json::to_string(event).map_err(io::Error::from).and_then(|line| {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    });
    if told.is_err() {
        std::process::exit(1);
    }
}
