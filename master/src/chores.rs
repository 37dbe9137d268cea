//! What is done now and then: lazily logged sizes and marks, leases and sessions that have run out.

use crate::master::Master;
use gfs_master_core::Action;
use gfs_proto::FsError;
use std::sync::Arc;
use std::time::Instant;
use tracing::debug;

/// Sizes logged in one command.
const RECORDS_MAX: usize = 512;

/// Works until the master stops.
pub async fn run(master: Arc<Master>) {
    let mut tick = tokio::time::interval(master.timings.tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = master.stopping.passed() => return,
            _ = tick.tick() => {}
        }
        master.servers.decay();
        master.recover_noted();
        let now = Instant::now();
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
