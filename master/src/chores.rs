//! What is done now and then: lazily logged sizes and marks, leases and sessions that have run out.

use crate::master::Master;
use gfs_master_core::Action;
use gfs_proto::FsError;
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, warn};

/// A stall of such a part of the expiry can be told from silence: clients speak at least as often.
const STALLS_PER_EXPIRY: u32 = 4;
/// Sizes logged in one command.
const RECORDS_MAX: usize = 512;

/// Works until the master stops.
pub async fn run(master: Arc<Master>) {
    let mut tick = tokio::time::interval(master.timings.tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = master.stopping.passed() => return,
            _ = tick.tick() => {}
        }
        last = awake(&master, last);
        master.servers.decay();
        master.recover_noted();
        let now = Instant::now();
        master.servers.doubt_findings(now);
        for lease in master.leases.remove_expired(now) {
            master.sizes.want(lease.inode);
            master.uneven.note(lease.handle);
        }
        if let Err(error) = master.log_sizes().await {
            debug!(%error, "sizes are logged later");
        }
        if let Err(error) = master.log_written().await {
            debug!(%error, "chunks stay marked as unwritten for now");
        }
        for session in master.sessions.expired(master.timings.expiry, now) {
            let master = master.clone();
            tokio::spawn(async move { master.end_session(session, "not heard of").await });
        }
    }
}

/// The process may have been stopped, or its machine. Before anything is concluded from the silence of others.
fn awake(master: &Master, last: Instant) -> Instant {
    let now = Instant::now();
    let gap = now.saturating_duration_since(last);
    if gap > master.timings.expiry / STALLS_PER_EXPIRY {
        warn!(?gap, "this master did not run for a while: sessions live on as if they had been heard of now");
        master.sessions.forgive(now);
    }
    now
}

impl Master {
    /// Logs the sizes and times of all files that are not being written any more.
    pub async fn log_sizes(&self) -> Result<(), FsError> {
        loop {
            let pending = self.sizes.take_wanted(RECORDS_MAX);
            if pending.is_empty() {
                return Ok(());
            }
            let records = pending.iter().map(|p| p.record).collect();
            let logged = self.commit_one(Action::RecordSizes(records)).await;
            pending.iter().for_each(|p| self.sizes.logged(p, logged.is_ok()));
            logged?;
        }
    }
}
