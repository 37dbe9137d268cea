//! Runs one test on a cluster of its own, and ends it whatever happens.

use crate::cluster::{Cluster, MountPoints, Options};
use crate::mounts;
use crate::programs::environment_is_fit;
use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Starts a cluster, runs `test` on it, stops it cleanly. Every process must run to the end and end
/// well, unless the test itself has ended it. Panics with the logs of all processes if anything fails.
///
/// # Panics
/// If the test fails.
pub fn scenario(options: Options, test: impl FnOnce(&mut Cluster) -> Result<()>) {
    let deadline = options.deadline;
    let mut cluster = match environment_is_fit().and_then(|()| Cluster::start(options)) {
        Ok(cluster) => cluster,
        Err(error) => panic!("the cluster did not start: {error:#}"),
    };
    let watchdog = Watchdog::start(deadline, cluster.points());
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&mut cluster)));
    let in_time = watchdog.stop();
    let failure = match outcome {
        Err(panic) => {
            let logs = cluster.logs();
            drop(cluster);
            print(&logs);
            resume_unwind(panic)
        }
        Ok(outcome) => outcome.and_then(|()| cluster.stop()).err(),
    };
    let late = if in_time { String::new() } else { format!(" (after {deadline:?} all requests were ended)") };
    if let Some(error) = failure {
        let logs = cluster.logs();
        drop(cluster);
        panic!("{error:#}{late}\n{logs}");
    }
    assert!(in_time, "the test took more than {deadline:?}");
}

/// Output of a failed test; the panic's own message has been printed already.
#[expect(clippy::print_stdout, reason = "captured by the test runner")]
fn print(logs: &str) {
    println!("{logs}");
}

/// Ends every request to the mounts when a test takes too long: what waits for an answer gets an error,
/// and the test fails with its logs instead of hanging.
struct Watchdog {
    done: mpsc::Sender<()>,
    thread: thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(deadline: Duration, points: MountPoints) -> Self {
        let (done, waiting) = mpsc::channel();
        let watch = move || match waiting.recv_timeout(deadline) {
            Err(RecvTimeoutError::Timeout) => {
                points.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|point| mounts::abort(point));
                false
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        };
        Self { done, thread: thread::spawn(watch) }
    }

    /// False if it had to act.
    fn stop(self) -> bool {
        drop(self.done);
        self.thread.join().unwrap_or(false)
    }
}
