//! Chunks whose replicas may differ, and that nobody may be going to write: a writer died or fell silent, a chain broke,
//! a chunkserver was killed while it wrote, a master before this one knew more. Once no lease lives on them they are
//! fenced and compared, and made equal, as a grant would do it.
//!
//! ```text
//!   noted --nobody writes it for a while--> every entitled server confirms, all are equal --> forgotten
//!     '------------- a grant does the same meanwhile ----------------------------------------'
//!                                            '-- some are away: again, less and less often
//! ```
//! Changes neither version nor record: a server that is away for a moment keeps its place. Volatile: after a restart of
//! the master the full reports name what was being written, or is in doubt at its server.
//!
//! A cut inside a chunk that nobody writes any more is made in the same way: until then replicas are what they were
//! behind it, and differ where some have made it.

use super::Generations;
use super::install::Wanted;
use crate::master::Master;
use futures_util::StreamExt as _;
use gfs_master_core::Action;
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::ids::{ChunkHandle, InodeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// A client that goes on, under a new grant, is heard of within so many ticks.
const TICKS_TO_RESUME: u32 = 2;
/// Chunks looked at together.
const AT_ONCE: usize = 32;
/// Patience doubles so often at most: to some minutes, with ticks of a second.
const DOUBLINGS_MAX: u32 = 7;
/// Chunks noted at most, about 40 MB: others are compared when they are granted.
const NOTED_MAX: usize = 1 << 20;

/// Pending cuts looked up under one view of the state.
const CUTS_PER_VIEW: usize = 512;

#[derive(Clone, Copy, Default)]
struct Waiting {
    /// Without a lease, and not looked at, since then.
    since: Option<Instant>,
    /// Looked at in vain so many times.
    in_vain: u32,
}

/// See the module's text.
#[derive(Default)]
pub struct Uneven(Mutex<HashMap<ChunkHandle, Waiting>>);

impl Uneven {
    /// The chunk's replicas may differ.
    pub fn note(&self, handle: ChunkHandle) {
        let mut chunks = self.0.lock();
        let full = chunks.len() >= NOTED_MAX;
        if let Entry::Vacant(place) = chunks.entry(handle) {
            if full {
                return warn!(chunk = %handle, "too many chunks may be uneven: it is compared when it is granted");
            }
            place.insert(Waiting::default());
        }
    }

    /// They are equal, or the chunk is gone.
    pub fn forget(&self, handle: ChunkHandle) {
        self.0.lock().remove(&handle);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// True if all replicas are known to be equal.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn due(&self, held: impl Fn(ChunkHandle) -> bool, now: Instant, patience: Duration) -> Vec<ChunkHandle> {
        let mut due = Vec::new();
        for (handle, waiting) in self.0.lock().iter_mut() {
            if held(*handle) {
                *waiting = Waiting::default();
            } else if now.saturating_duration_since(*waiting.since.get_or_insert(now))
                >= patience * (1 << waiting.in_vain)
            {
                due.push(*handle);
            }
        }
        due
    }

    fn put_off(&self, handle: ChunkHandle, now: Instant) {
        if let Some(waiting) = self.0.lock().get_mut(&handle) {
            *waiting = Waiting { since: Some(now), in_vain: (waiting.in_vain + 1).min(DOUBLINGS_MAX) };
        }
    }
}

/// Works until the master stops. A task of its own, because servers that do not answer make it slow.
pub async fn even_all(master: Arc<Master>) {
    if let Err(error) = master.note_pending_cuts() {
        warn!(%error, "cuts of files that nobody writes are made later");
    }
    loop {
        tokio::select! {
            biased;
            () = master.stopping.passed() => return,
            () = tokio::time::sleep(master.timings.tick) => {}
        }
        let now = Instant::now();
        let due = master.uneven.due(|handle| master.is_held(handle, now), now, master.timings.tick * TICKS_TO_RESUME);
        let chunks = futures_util::stream::iter(due).take_until(master.stopping.passed());
        let even = async |handle| match master.even(handle).await {
            Ok(true) => master.uneven.forget(handle),
            Ok(false) => master.uneven.put_off(handle, Instant::now()),
            Err(error) => {
                debug!(chunk = %handle, %error, "whether its replicas are equal is found out later");
                master.uneven.put_off(handle, Instant::now());
            }
        };
        chunks.for_each_concurrent(AT_ONCE, even).await;
    }
}

impl Master {
    /// Somebody may be writing it who has heard of no failure.
    fn is_held(&self, handle: ChunkHandle, now: Instant) -> bool {
        self.leases.get(handle, now).map_or_else(|| self.is_held_since_before(handle, now), |lease| !lease.broken)
    }

    /// Under a lease of the master before this one: then its file is open for writing, as far as that is known.
    fn is_held_since_before(&self, handle: ChunkHandle, now: Instant) -> bool {
        let is_written = || {
            let record = self.store.view().chunk(handle).ok().flatten();
            record.is_some_and(|record| self.opens.is_written(record.inode))
        };
        self.inherits_leases(now) && (!self.everybody_is_back() || is_written())
    }

    /// Makes the replicas equal that can be reached. True if these are all, or there is nothing to be done.
    async fn even(&self, handle: ChunkHandle) -> Result<bool, FsError> {
        let Some(record) = self.store.view().chunk(handle)? else { return Ok(true) };
        let _turn = self.chunk_locks.lock((record.inode, record.index)).await;
        if self.is_held(handle, Instant::now()) || self.unwritten.contains(handle) {
            return Ok(false);
        }
        let file = self.store.view().chunks(record.inode, record.index, 1)?;
        let generations = Generations::from(&file);
        let Some(chunk) = file.chunks.first().filter(|chunk| chunk.handle == handle) else { return Ok(true) };
        // Who holds a broken lease asks for another.
        self.leases.remove(handle);
        self.repair.disturb(handle);
        let wanted = Wanted { chunk, generations, numbering: Numbering::Primary, suspects: &[], raise: false };
        let equal = self.fence(&wanted).await;
        let all = chunk.record.entitled.iter().all(|server| equal.contains(server));
        if let Some(cut) = chunk.cut.filter(|_| all) {
            self.commit_one(Action::CutApplied { cuts: vec![(handle, cut.generation)] }).await?;
        }
        Ok(all)
    }

    /// The file was cut: the replicas of the chunk that it ends in may reach further.
    pub fn note_cut(&self, inode: InodeId) {
        let view = self.store.view();
        let Ok(attr) = view.attr(inode) else { return }; // removed since
        let (last, _) = self.store.genesis().chunk_size.locate(attr.size);
        let cut = view.chunks(inode, last, 1).ok().and_then(|file| file.chunks.into_iter().find(|it| it.cut.is_some()));
        cut.iter().for_each(|chunk| self.uneven.note(chunk.handle));
    }

    /// Cuts that a master before this one has logged and not seen made.
    fn note_pending_cuts(&self) -> Result<(), FsError> {
        let mut after = None;
        loop {
            let page = self.store.view().pending_cuts(after, CUTS_PER_VIEW)?;
            page.iter().for_each(|(handle, _)| self.uneven.note(*handle));
            match page.last() {
                Some((last, _)) => after = Some(*last),
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looked_at_when_nobody_writes_and_less_and_less_often() {
        let (uneven, mut now, patience) = (Uneven::default(), Instant::now(), Duration::from_secs(2));
        let (held, free) = (ChunkHandle::new(1), ChunkHandle::new(2));
        [held, free, free].into_iter().for_each(|handle| uneven.note(handle));
        let due = |now| uneven.due(|handle| handle == held, now, patience);
        assert_eq!((due(now), uneven.len()), (vec![], 2));
        for pauses in [1, 2, 4, 8, 16, 32, 64, 128, 128] {
            assert_eq!(due(now + patience * pauses - Duration::from_millis(1)), [], "{pauses}");
            now += patience * pauses;
            assert_eq!(due(now), [free], "{pauses}");
            uneven.put_off(free, now);
        }
        uneven.forget(free);
        assert_eq!(due(now + patience * 1000), []);
    }
}
