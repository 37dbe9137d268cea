//! The whole system in one thread, step by step, under faults that a seed chooses (`docs/adr/0014`).
//!
//! What runs is the code of the programs: the master's state machine, log, planners, grants, sessions; the
//! chunkservers' store, order of writes, link and background work. What is simulated is below and between
//! them: disks that lose what was not flushed (`store::mem`, `log::mem_disk`, [`file`]), the network
//! ([`net`]), time and randomness ([`entropy`]). Each process has a runtime of its own whose clock stands
//! still but for the world's ticks. Nothing waits for a real device, no second thread takes part, so that a
//! seed always gives the same world.

mod check;
mod client;
mod data;
mod dice;
mod entropy;
mod file;
mod master;
mod model;
mod net;
mod panics;
mod pipe;
pub mod rpc;
mod server;
mod trace;
mod world;

pub use check::Counts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use tokio::runtime::{Builder, Runtime};

/// Ticks of work under faults, each 10 ms of the world's time.
pub const STEPS_DEFAULT: u64 = 900;

/// How a world ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// What was not as it must be; `None` if everything was.
    pub violation: Option<String>,
    /// The last things that happened.
    pub trace: Vec<String>,
    /// Of all that happened: equal for two runs of a seed.
    pub hash: u64,
    /// How much happened.
    pub counts: Counts,
}

impl Outcome {
    fn panicked(seed: u64) -> Self {
        let violation = Some("the simulation itself panicked".to_owned());
        Self { seed, violation, trace: Vec::new(), hash: 0, counts: Counts::default() }
    }
}

/// The runtime of one process: no threads, no devices, a clock that goes on when it is told to.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime needs nothing but memory")
}

/// Runs the world of a seed; `aloud`: prints what happens.
///
/// # Panics
/// If no thread can be started.
pub fn run(seed: u64, steps: u64, aloud: bool) -> Outcome {
    panics::keep();
    // a thread's hash maps have keys that are made once
    let world = thread::Builder::new().name(format!("seed {seed}")).stack_size(8 << 20).spawn(move || {
        let _entered = entropy::enter(seed);
        let trace = trace::Trace::new(aloud);
        let mut world = world::World::new(seed, trace.clone());
        let panicked = catch_unwind(AssertUnwindSafe(|| world.run(steps))).is_err();
        let panic = if panicked { panics::taken() } else { None };
        let violation = panic.or_else(|| world.checks().violation());
        let counts = Counts { events: trace.events(), ..world.checks().counts() };
        drop(world);
        Outcome { seed, violation, trace: trace.lines(), hash: trace.hash(), counts }
    });
    world.expect("a thread").join().unwrap_or_else(|_| Outcome::panicked(seed))
}
