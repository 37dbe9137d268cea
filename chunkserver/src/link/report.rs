//! Chunk reports: everything once after registration, in pages; then what changed, gathered for a
//! short while.

use super::stream::Out;
use crate::node::Node;
use crate::outbox::{Change, removed_row};
use crate::store::disk::Disk;
use gfs_proto::control::{ChunkReport, FromChunkserver, ReplicaRow, ReplicaState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Rows of one page: about 200 KiB.
const PAGE_ROWS: usize = 8192;
/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(50);

/// Reports until the stream ends.
pub(super) async fn run<D: Disk>(node: Arc<Node<D>>, out: Out) {
    if report_all(&node, &out).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            biased;
            () = node.outbox.filled() => {}
            () = out.closed() => return,
        }
        sleep(GATHER).await;
        if report_changes(&node, &out).await.is_err() {
            return;
        }
    }
}

/// The stream has ended.
struct Ended;

async fn send(out: &Out, message: FromChunkserver) -> Result<(), Ended> {
    out.send((&message).into()).await.map_err(|_| Ended)
}

/// The outbox records from before this, so nothing falls in between.
async fn report_all<D: Disk>(node: &Node<D>, out: &Out) -> Result<(), Ended> {
    let rows: Vec<ReplicaRow> = node.store.rows().into_iter().map(|row| told(node, row)).collect();
    let count = rows.len().div_ceil(PAGE_ROWS).max(1);
    for page in 0..count {
        let end = rows.len().min((page + 1) * PAGE_ROWS);
        let present = rows[page * PAGE_ROWS..end].to_vec();
        let report = ChunkReport { full: true, last: page + 1 == count, present, removed: Vec::new() };
        send(out, FromChunkserver::Report(report)).await?;
    }
    tracing::debug!(chunks = rows.len(), "reported all chunks");
    Ok(())
}

/// As the master is told: one that may differ from others is as good as one being written.
fn told<D: Disk>(node: &Node<D>, row: ReplicaRow) -> ReplicaRow {
    let doubtful = || node.grants.get(row.handle).is_some_and(|gate| gate.is_doubtful());
    if row.state == ReplicaState::Clean && doubtful() { ReplicaRow { state: ReplicaState::Dirty, ..row } } else { row }
}

async fn report_changes<D: Disk>(node: &Node<D>, out: &Out) -> Result<(), Ended> {
    let letters = node.outbox.take();
    for chain in letters.breaks {
        send(out, FromChunkserver::ChainBreak(chain)).await?;
    }
    if letters.report_all {
        return report_all(node, out).await;
    }
    for changes in letters.changes.chunks(PAGE_ROWS) {
        let report = changes_as_report(changes, |handle| node.store.row(handle).map(|row| told(node, row)));
        send(out, FromChunkserver::Report(report)).await?;
    }
    Ok(())
}

/// Replicas are reported as they are now; one that was deleted and made again is there.
fn changes_as_report(
    changes: &[(gfs_proto::ids::ChunkHandle, Change)],
    row: impl Fn(gfs_proto::ids::ChunkHandle) -> Option<ReplicaRow>,
) -> ChunkReport {
    let mut report = ChunkReport { full: false, last: true, ..ChunkReport::default() };
    for (handle, change) in changes {
        match (row(*handle), change) {
            (Some(row), _) => report.present.push(row),
            (None, Change::Removed(version)) => report.removed.push(removed_row(*handle, *version)),
            (None, Change::Touched) => {} // its removal is noted after this
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::ids::{ChunkHandle, ChunkVersion};

    #[test]
    fn replicas_are_reported_as_they_are_now() {
        let (here, gone, passing) = (ChunkHandle::new(1), ChunkHandle::new(2), ChunkHandle::new(3));
        let row = ReplicaRow { handle: here, version: ChunkVersion::new(5), length: 9, state: ReplicaState::Dirty };
        let changes = [
            (here, Change::Removed(ChunkVersion::new(4))),
            (gone, Change::Removed(ChunkVersion::new(2))),
            (passing, Change::Touched),
        ];
        let report = changes_as_report(&changes, |handle| (handle == here).then_some(row));
        assert_eq!(report.present, [row]);
        assert_eq!(report.removed, [removed_row(gone, ChunkVersion::new(2))]);
        assert!(!report.full);
    }
}
