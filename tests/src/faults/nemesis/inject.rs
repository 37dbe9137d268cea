//! SIGKILL at the N-th call of a kind: the process dies between two steps that it believes to be one. N is drawn anew
//! each time, so that a run sweeps over it.

use super::{Field, Strike};
use crate::data::Stream;
use crate::wait::until;
use anyhow::Result;
use std::time::Duration;

/// Flushes; the number is counted by each thread.
pub(super) const FLUSHES: &str = "fsync,fdatasync";
/// Renames, by which files come and go.
pub(super) const RENAMES: &str = "rename,renameat,renameat2";
/// The highest number that is drawn.
const CALLS_MAX: u64 = 12;
/// A process that does not call so often within this time is killed anyway, which is not counted.
const PATIENCE: Duration = Duration::from_secs(3);

/// A chunkserver is started so that it dies at a call, and started again when it has.
pub(super) fn chunkserver(field: &mut Field, calls: &str, chance: &mut Stream) -> Result<Strike> {
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    field.cluster.kill_chunkserver(number)?;
    let daemon = field.cluster.chunkserver_process_mut(number);
    daemon.wrap(strace(calls, 1 + (chance.number() >> 33) % CALLS_MAX));
    daemon.start()?;
    let died = until("it dies", PATIENCE, || Ok(daemon.ended()?.is_some())).is_ok();
    daemon.kill()?;
    daemon.wrap(Vec::new());
    field.start_all()?;
    Ok(Strike { count: u32::from(died), loss: None })
}

/// The same for the master.
pub(super) fn master(field: &mut Field, calls: &str, chance: &mut Stream) -> Result<Strike> {
    let daemon = field.cluster.master_process();
    daemon.kill()?;
    daemon.wrap(strace(calls, 1 + (chance.number() >> 33) % CALLS_MAX));
    daemon.start()?;
    let died = until("it dies", PATIENCE, || Ok(daemon.ended()?.is_some())).is_ok();
    daemon.kill()?;
    daemon.wrap(Vec::new());
    field.cluster.start_master()?;
    Ok(Strike { count: u32::from(died), loss: None })
}

/// The tracer is a process of its own (-D), so that the one that was started becomes the server.
fn strace(calls: &str, when: u64) -> Vec<String> {
    let inject = format!("inject={calls}:signal=SIGKILL:when={when}");
    let trace = format!("trace={calls}");
    let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    words.into_iter().map(str::to_owned).collect()
}
