//! The task that decides: looks at chunks, keeps the queue, begins steps as the throttle allows.

use super::copy::Copying;
use super::{Rebalance, StepError};
use crate::blocking::may_block;
use crate::master::Master;
use gfs_master_core::ChunkRecord;
use gfs_master_core::plan::{
    self, ChunkCopies, Limits, Load as _, Need, Reason, RepairQueue, RepairView, Standing, Step, Throttle, Waiting,
};
use gfs_proto::FsError;
use gfs_proto::ids::{ChunkHandle, ServerId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error, info, warn};

/// Chunks that wait at most: 15 MiB.
const QUEUE_MAX: usize = 100_000;
/// Chunks that are looked at under one view of the state, and between two looks at anything else.
const PAGE: usize = 512;
/// Chunks of the queue that are looked at for a step at a time: the first ones may have to wait for servers
/// that are busy.
const CANDIDATES_MAX: usize = 64;
/// The shortest wait for the throttle.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Copies are removed so many at a time.
const REMOVALS_MAX: usize = 32;
/// Copies are adopted or mended so many at a time: each is read as a whole by its server, a few at a time there.
const ADOPTIONS_MAX: usize = 32;
/// A chunk that no server can take is looked at again after this, or when the servers change.
const HELPLESS: Duration = Duration::from_secs(5);
/// Chunks that wait to be moved for even filling: few, since each move changes what is to be moved next.
const MOVES_MAX: usize = 64;
/// A chunk that is disturbed so often while it is copied is held the next time.
const DISTURBANCES_MAX: u32 = 2;

/// A step that has ended.
struct Done {
    handle: ChunkHandle,
    task: Task,
    /// Bytes that were moved.
    result: Result<u64, StepError>,
}

/// A step as it is carried out.
#[derive(Clone, Copy, Debug)]
enum Task {
    Copy {
        copying: Copying,
        /// To be moved, as far as is known.
        bytes: u64,
        /// For even filling.
        moves: bool,
    },
    Remove {
        server: ServerId,
        hold: bool,
    },
    /// Remove what the chunk record does not entitle.
    Strays,
    /// Mend a damaged copy.
    Mend {
        server: ServerId,
        hold: bool,
    },
    /// Make a suspect copy count.
    Adopt(ServerId),
    /// Log what copies are ahead by.
    Raise,
}

impl Task {
    fn target(&self) -> Option<ServerId> {
        match self {
            Self::Copy { copying, .. } => Some(copying.target),
            Self::Remove { .. } | Self::Strays | Self::Adopt(_) | Self::Raise | Self::Mend { .. } => None,
        }
    }
}

/// What a walk over all chunks is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// Servers have changed: as fast as it goes.
    Urgent,
    /// Nothing is known to have changed: a page in every tick.
    Idle,
}

#[derive(Clone, Copy)]
struct Walk {
    after: Option<ChunkHandle>,
    pace: Pace,
    /// The next page is looked at then, if there is no hurry.
    due: Duration,
}

/// What one round goes by.
struct Round {
    view: RepairView,
    /// Since the master started.
    now: Duration,
}

struct Planner {
    master: Arc<Master>,
    queue: RepairQueue,
    throttle: Throttle,
    /// Further bound on copies for even filling.
    moves: Throttle,
    steps: JoinSet<Done>,
    removals: usize,
    adoptions: usize,
    walk: Walk,
    /// Servers as of the last look, to see a change.
    servers: Vec<(ServerId, Standing, bool, String)>,
    /// All chunks were looked at and none waits.
    whole: bool,
}

/// Works until the master stops.
pub async fn run(master: Arc<Master>) {
    let mut planner = Planner::new(master.clone());
    loop {
        let pause = planner.turn();
        tokio::select! {
            biased;
            () = master.stopping.passed() => return,
            () = master.repair.news.notified() => {}
            Some(done) = planner.steps.join_next() => planner.ended(done),
            () = tokio::time::sleep(pause) => {}
        }
        while let Some(done) = planner.steps.try_join_next() {
            planner.ended(done);
        }
    }
}

fn move_limits(rebalance: Option<Rebalance>) -> Limits {
    Limits { rate: rebalance.map(|rebalance| rebalance.rate), rate_per_server: None, copies_per_server: u32::MAX }
}

fn shape(view: &RepairView) -> Vec<(ServerId, Standing, bool, String)> {
    let row =
        |(id, server): (&ServerId, &plan::RepairServer)| (*id, server.standing, server.draining, server.rack.clone());
    view.iter().map(row).collect()
}

impl Planner {
    fn new(master: Arc<Master>) -> Self {
        Self {
            queue: RepairQueue::new(QUEUE_MAX),
            throttle: Throttle::new(master.repair.settings.limits),
            moves: Throttle::new(move_limits(master.repair.settings.rebalance)),
            steps: JoinSet::new(),
            removals: 0,
            adoptions: 0,
            walk: Walk { after: None, pace: Pace::Urgent, due: Duration::ZERO },
            servers: Vec::new(),
            whole: false,
            master,
        }
    }

    fn now(&self) -> Duration {
        self.master.started.elapsed()
    }

    /// One round; how long to wait for the next if nothing happens.
    fn turn(&mut self) -> Duration {
        let round = Round { view: self.master.servers.repair_view(Instant::now()), now: self.now() };
        self.notice(&round.view);
        let looked = may_block(|| {
            self.look_at_notes(&round);
            let looked = self.look_at_page(&round);
            self.begin_steps(&round);
            looked
        });
        self.report();
        match looked {
            Ok(()) => self.pause(round.now),
            Err(error) => {
                warn!(%error, "chunks cannot be looked at for repair");
                self.master.timings.tick
            }
        }
    }

    /// Until the throttle lets something begin again, or the next page is due.
    fn pause(&self, now: Duration) -> Duration {
        if self.walk.pace == Pace::Urgent {
            return Duration::ZERO;
        }
        let ready = self.throttle.ready().into_iter().chain(self.moves.ready()).chain([self.walk.due]).min();
        ready.map_or(self.master.timings.tick, |at| at.saturating_sub(now).max(PAUSE_MIN))
    }

    /// Servers that came, went or changed may concern any chunk.
    fn notice(&mut self, view: &RepairView) {
        let servers = shape(view);
        let changed = servers != self.servers;
        self.servers = servers;
        let asked = self.master.repair.everywhere.swap(false, Ordering::AcqRel);
        if changed || asked || self.queue.has_room_again() {
            self.master.repair.status.lock().looked_everywhere = false;
            self.queue.hurry();
            self.walk = Walk { after: None, pace: Pace::Urgent, ..self.walk };
        }
    }

    fn look_at_notes(&mut self, round: &Round) {
        for (handle, blocking) in self.master.repair.take_notes() {
            let record = self.master.store.view().chunk(handle);
            match record {
                Ok(Some(record)) => self.look_at(round, handle, &record, blocking),
                Ok(None) => self.queue.remove(handle),
                Err(error) => warn!(chunk = %handle, %error, "a chunk cannot be looked at for repair"),
            }
        }
    }

    fn look_at_page(&mut self, round: &Round) -> Result<(), FsError> {
        if self.walk.pace == Pace::Idle && round.now < self.walk.due {
            return Ok(());
        }
        self.walk.due = round.now + self.master.timings.tick;
        let page = self.master.store.view().all_chunks(self.walk.after, PAGE)?;
        self.walk.after = page.last().map(|(handle, _)| *handle).filter(|_| page.len() == PAGE);
        for (handle, record) in &page {
            self.look_at(round, *handle, record, false);
        }
        if self.walk.after.is_none() {
            self.walk.pace = Pace::Idle;
        }
        Ok(())
    }

    /// Puts the chunk into the queue if it needs something, and takes it out if it does not.
    fn look_at(&mut self, round: &Round, handle: ChunkHandle, record: &ChunkRecord, blocking: bool) {
        match self.need(&round.view, handle, record) {
            Some(need) => {
                self.queue.insert(handle, self.master.urgency(record, need, blocking), round.now);
                if self.master.repair.is_awaited(handle) {
                    self.queue.not_put_off(handle, round.now);
                }
            }
            None if self.may_move(&round.view, handle, record, &self.anybody()).is_some() => {
                let need = Need { reason: Reason::Rebalance, missing: 0 };
                self.queue.insert(handle, self.master.urgency(record, need, false), round.now);
            }
            None => self.queue.remove(handle),
        }
    }

    /// The copy that would make servers more even, if nothing else is to be done and not too much is planned.
    fn may_move(&self, view: &RepairView, handle: ChunkHandle, record: &ChunkRecord, load: &Throttle) -> Option<Step> {
        let threshold = self.master.repair.settings.rebalance?.threshold;
        let calm = self.walk.pace == Pace::Idle && self.queue.len() <= MOVES_MAX;
        let settled = !self.master.unwritten.contains(handle) && !self.master.may_be_leased(handle, Instant::now());
        if !calm || !settled {
            return None;
        }
        plan::rebalance_step(view, &self.master.copies_of(handle, record), threshold, load)
    }

    /// Nobody is busy.
    fn anybody(&self) -> Throttle {
        Throttle::new(self.master.repair.settings.limits)
    }

    fn need(&self, view: &RepairView, handle: ChunkHandle, record: &ChunkRecord) -> Option<Need> {
        // What nobody has written yet has no copies; whether it has is found out elsewhere.
        if self.master.unwritten.contains(handle) {
            return None;
        }
        let copies = self.master.copies_of(handle, record);
        let stray = !copies.occupied.is_empty() && !self.master.repair.is_at_work(handle);
        plan::need(view, &copies).or_else(|| {
            let removable = stray && !self.master.removable_strays(handle).is_empty();
            removable.then_some(Need { reason: Reason::Surplus, missing: 0 })
        })
    }

    fn begin_steps(&mut self, round: &Round) {
        self.throttle.at(round.now);
        self.moves.at(round.now);
        let due: Vec<ChunkHandle> = self.queue.due(round.now).take(CANDIDATES_MAX).collect();
        for handle in due {
            let idle = round.view.keys().filter(|server| self.throttle.copies(**server).is_some());
            let copies_may_begin = !self.throttle.is_exhausted() && idle.count() > 1;
            if !copies_may_begin && self.removals >= REMOVALS_MAX && self.adoptions >= ADOPTIONS_MAX {
                return;
            }
            if !self.master.repair.is_at_work(handle) {
                self.begin(round, handle);
            }
        }
    }

    /// Begins the next step of a chunk if there is one that may begin now.
    fn begin(&mut self, round: &Round, handle: ChunkHandle) {
        let record = self.master.store.view().chunk(handle);
        let Ok(Some(record)) = record else { return self.queue.remove(handle) };
        if self.need(&round.view, handle, &record).is_none() {
            return self.begin_move(&round.view, handle, &record);
        }
        if !self.master.removable_strays(handle).is_empty() {
            return self.spawn(handle, Task::Strays);
        }
        let failures = self.queue.get(handle).map_or(0, |waiting| waiting.failures);
        let bytes = self.master.bytes_of(&record);
        let copies = ChunkCopies { bytes, failures, ..self.master.copies_of(handle, &record) };
        let Some(step) = plan::next_step(&round.view, &copies, &self.throttle) else {
            if plan::next_step(&round.view, &copies, &self.anybody()).is_none() {
                // Nobody can take it: others, further down, may be helped meanwhile.
                self.queue.put_off(handle, round.now + HELPLESS);
            }
            return;
        };
        match step {
            // Nobody can be writing it.
            Step::Adopt(server) => self.spawn(handle, Task::Adopt(server)),
            Step::Raise => self.spawn(handle, Task::Raise),
            Step::Mend(server) => {
                let Some(hold) = self.may_hold(handle, round.now) else { return };
                self.spawn(handle, Task::Mend { server, hold });
            }
            Step::Copy { source, target } => {
                let Some(hold) = self.may_hold(handle, round.now) else { return };
                let copying = Copying { handle, source, target, hold };
                self.spawn(handle, Task::Copy { copying, bytes: copies.bytes, moves: false });
            }
            Step::Remove(server) => {
                let Some(hold) = self.may_hold(handle, round.now) else { return };
                self.spawn(handle, Task::Remove { server, hold });
            }
        }
    }

    /// The chunk needs nothing; perhaps it was to be moved.
    fn begin_move(&mut self, view: &RepairView, handle: ChunkHandle, record: &ChunkRecord) {
        let is_planned = |waiting: Waiting| waiting.urgency.need.reason == Reason::Rebalance;
        let planned = self.queue.get(handle).is_some_and(is_planned);
        if !planned || self.may_move(view, handle, record, &self.anybody()).is_none() {
            return self.queue.remove(handle);
        }
        let step = self.may_move(view, handle, record, &self.throttle).filter(|_| !self.moves.is_exhausted());
        if let Some(Step::Copy { source, target }) = step {
            let bytes = self.master.bytes_of(record);
            let copying = Copying { handle, source, target, hold: false };
            self.spawn(handle, Task::Copy { copying, bytes, moves: true });
        }
    }

    /// Whether the chunk is to be held while the step is made; none: later. A chunk that is being written is
    /// left alone for a while: most are written once, and then not again.
    fn may_hold(&mut self, handle: ChunkHandle, now: Duration) -> Option<bool> {
        let waiting = self.queue.get(handle)?;
        if waiting.disturbances >= DISTURBANCES_MAX {
            return Some(true);
        }
        if !self.master.may_be_leased(handle, Instant::now()) {
            return Some(false);
        }
        if self.master.repair.is_awaited(handle) {
            return Some(true);
        }
        let until = waiting.since + self.master.timings.repair_patience;
        if now < until {
            self.queue.put_off(handle, until.min(now + self.master.timings.tick));
            return None;
        }
        Some(true)
    }

    fn spawn(&mut self, handle: ChunkHandle, task: Task) {
        match task {
            Task::Copy { .. } if self.throttle.is_exhausted() => return,
            Task::Copy { copying, bytes, moves } => {
                self.throttle.begin(copying.source, copying.target, bytes);
                if moves {
                    self.moves.begin(copying.source, copying.target, bytes);
                }
            }
            Task::Remove { .. } | Task::Strays if self.removals >= REMOVALS_MAX => return,
            Task::Remove { .. } | Task::Strays => self.removals += 1,
            Task::Adopt(_) | Task::Raise | Task::Mend { .. } if self.adoptions >= ADOPTIONS_MAX => return,
            Task::Adopt(_) | Task::Raise | Task::Mend { .. } => self.adoptions += 1,
        }
        let work = self.master.repair.begin(&self.master, handle, task.target());
        let work = work.expect("the planner asked before, and nobody else begins anything");
        let master = self.master.clone();
        self.steps.spawn(async move {
            let result = match task {
                Task::Copy { copying, .. } => master.make_copy(copying, &work).await,
                Task::Remove { server, hold } => master.remove_copy(handle, server, hold).await.map(|()| 0),
                Task::Strays => master.remove_strays(handle).await.map(|()| 0),
                Task::Adopt(server) => master.adopt_copy(handle, server).await.map(|()| 0),
                Task::Raise => master.log_raise(handle).await.map(|()| 0),
                Task::Mend { server, hold } => master.mend_copy(handle, server, hold).await.map(|()| 0),
            };
            Done { handle, task, result }
        });
    }

    fn ended(&mut self, done: Result<Done, JoinError>) {
        // A step that panicked leaves its place in the throttle taken; nothing else is known of it.
        let Done { handle, task, result } = match done {
            Ok(done) => done,
            Err(error) => return error!(%error, "a step of repair has failed"),
        };
        let now = self.now();
        match task {
            Task::Copy { copying, bytes, moves } => {
                let moved = *result.as_ref().unwrap_or(&0);
                self.throttle.at(now);
                self.throttle.end(copying.source, copying.target, bytes, moved);
                if moves {
                    self.moves.at(now);
                    self.moves.end(copying.source, copying.target, bytes, moved);
                }
                if result.is_ok() {
                    self.master.repair.status.lock().note_copy(moved, now);
                }
            }
            Task::Remove { .. } | Task::Strays => {
                self.removals -= 1;
                self.master.repair.status.lock().removed += u64::from(result.is_ok());
            }
            Task::Mend { .. } => {
                self.adoptions -= 1;
                self.master.repair.status.lock().mended += u64::from(result.is_ok());
            }
            Task::Adopt(_) | Task::Raise => self.adoptions -= 1,
        }
        match result {
            Ok(_) => {
                self.master.repair.steps.notify_waiters();
                self.master.repair.note(handle, false);
            }
            Err(StepError::Leased) => self.queue.put_off(handle, now + self.master.timings.tick),
            Err(error) => {
                debug!(chunk = %handle, ?task, %error, "repair is put off");
                self.queue.failed(handle, now, matches!(error, StepError::Changed));
            }
        }
    }

    fn report(&mut self) {
        let mut status = self.master.repair.status.lock();
        status.queued = self.queue.len() as u64;
        status.copying = self.throttle.under_way();
        status.looked_everywhere |= self.walk.pace == Pace::Idle;
        let whole = status.looked_everywhere && self.queue.is_empty();
        if whole != self.whole {
            self.whole = whole;
            match whole {
                true => info!(copied = status.copied, removed = status.removed, "every chunk is as it should be"),
                false => info!(chunks = status.queued, "chunks wait for repair"),
            }
        }
    }
}
