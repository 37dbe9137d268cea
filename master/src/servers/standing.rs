//! What can be expected of servers' copies: whether they count, are awaited, or are lost.

use super::{Presence, Server, Servers};
use gfs_master_core::Duty;
use gfs_master_core::plan::{RepairServer, RepairView, Standing};
use gfs_proto::ids::ServerId;
use std::time::Instant;

impl Servers {
    /// All servers as repair sees them.
    pub fn repair_view(&self, now: Instant) -> RepairView {
        let table = self.table.lock();
        let row = |entry: &Server| RepairServer {
            rack: entry.rack.clone(),
            standing: self.standing(entry, now),
            draining: entry.duty.draining,
            accepts_chunks: entry.space.iter().any(|directory| directory.accepts_chunks),
            bytes_free: entry.bytes_free(),
            bytes_total: entry.space.iter().map(|directory| directory.bytes_total).sum(),
        };
        table.iter().map(|(id, entry)| (*id, row(entry))).collect()
    }

    /// An operator wants this of it now.
    pub fn set_duty(&self, server: ServerId, duty: Duty) {
        if let Some(entry) = self.table.lock().get_mut(&server) {
            entry.duty = duty;
        }
    }

    /// It is no part of the cluster any more.
    pub fn forget(&self, server: ServerId) {
        let removed = self.table.lock().remove(&server);
        if let Some(link) = removed.and_then(|entry| entry.link) {
            link.close();
        }
    }

    /// True unless it was removed, or never registered.
    pub fn is_known(&self, server: ServerId) -> bool {
        self.table.lock().contains_key(&server)
    }

    fn standing(&self, entry: &Server, now: Instant) -> Standing {
        let maintained = entry.duty.maintenance_until.is_some_and(|until| until > crate::master::now());
        let silence = now.saturating_duration_since(entry.heard.unwrap_or(self.started));
        match (entry.presence(self.started, now, &self.timings), entry.left) {
            (Presence::Up, _) => Standing::Live,
            _ if maintained => Standing::Away,
            (_, Some(left)) if now.saturating_duration_since(left) < self.timings.maintenance => Standing::Away,
            (_, Some(_)) => Standing::Lost,
            (_, None) if silence < self.timings.lost_after => Standing::Away,
            (_, None) => Standing::Lost,
        }
    }
}
