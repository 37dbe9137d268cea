//! What can be expected of servers' copies: whether they count, are awaited, or are lost.

use super::{Presence, Server, Servers};
use gfs_master_core::plan::{RepairServer, RepairView, Standing};
use std::time::Instant;

impl Servers {
    /// All servers as repair sees them.
    pub fn repair_view(&self, now: Instant) -> RepairView {
        let table = self.table.lock();
        let row = |entry: &Server| RepairServer {
            rack: entry.rack.clone(),
            standing: self.standing(entry, now),
            draining: false,
            accepts_chunks: entry.space.iter().any(|directory| directory.accepts_chunks),
            bytes_free: entry.bytes_free(),
            bytes_total: entry.space.iter().map(|directory| directory.bytes_total).sum(),
        };
        table.iter().map(|(id, entry)| (*id, row(entry))).collect()
    }

    fn standing(&self, entry: &Server, now: Instant) -> Standing {
        let silence = now.saturating_duration_since(entry.heard.unwrap_or(self.started));
        match (entry.presence(self.started, now, &self.timings), entry.left) {
            (Presence::Up, _) => Standing::Live,
            (_, Some(left)) if now.saturating_duration_since(left) < self.timings.maintenance => Standing::Away,
            (_, Some(_)) => Standing::Lost,
            (_, None) if silence < self.timings.lost_after => Standing::Away,
            (_, None) => Standing::Lost,
        }
    }
}
