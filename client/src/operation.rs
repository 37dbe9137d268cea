//! One operation of an application: what it is called, when it must have ended, what it waited for last.
//!
//! Whoever asks for something begins an operation ([`Client::bounded`](crate::Client::bounded)); all that is
//! done for it runs inside, and takes its deadlines from [`deadline`], so that they add up to one. Work that
//! nobody waits for (dirty data on its way) is an operation of its own. Whoever is in the way is named by
//! [`blame`]; if the operation fails for want of an answer, one line of the log says who it was.
//! Keeps: what runs inside an operation ends [`MARGIN_MAX`] before the operation does, and then says itself
//! what was missing; what does not is dropped at the end.

use crate::data::LinkError;
use gfs_proto::FsError;
use gfs_proto::chunk::Replica;
use gfs_proto::frame::DataError;
use gfs_proto::ids::{InodeId, ServerId};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

tokio::task_local! {
    static CURRENT: Operation;
}

/// Obstacles that are remembered: the last ones.
const OBSTACLES_MAX: usize = 4;
/// For those inside to end in good order.
const MARGIN_MAX: Duration = Duration::from_millis(500);

/// What keeps an operation.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum Obstacle {
    /// A chunkserver.
    #[error("{server} at {address}: {cause}")]
    Server { server: ServerId, address: SocketAddr, cause: Cause },
    /// The master was asked and has not answered.
    #[error("the master at {0} does not answer")]
    MasterSilent(String),
    /// The master cannot do it now.
    #[error("the master says: {0}")]
    Master(FsError),
    /// The bound on written bytes is reached, and the chunkservers take none.
    #[error("the memory for written bytes is full")]
    Memory,
}

/// What is the matter with a chunkserver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum Cause {
    /// It gave no answer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It refused.
    #[error("{0}")]
    Refused(DataError),
    /// What it gave does not match its checksums.
    #[error("its replica is corrupt")]
    Corrupt,
}

impl Obstacle {
    /// A chunkserver that was asked.
    pub(crate) fn server(replica: &Replica, cause: impl Into<Cause>) -> Self {
        Self::Server { server: replica.server, address: replica.address.tcp, cause: cause.into() }
    }
}

/// See the file's text.
#[derive(Clone, Debug)]
pub(crate) struct Operation(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    inode: Option<InodeId>,
    began: Instant,
    bound: Duration,
    /// Each once, the last one last.
    obstacles: Mutex<Vec<Obstacle>>,
}

impl Operation {
    /// Begins now and ends within `bound`.
    pub(crate) fn begin(name: &'static str, inode: Option<InodeId>, bound: Duration) -> Self {
        Self(Arc::new(Inner { name, inode, began: Instant::now(), bound, obstacles: Mutex::default() }))
    }

    fn end(&self) -> Instant {
        self.0.began + self.0.bound
    }

    /// For what runs inside.
    fn inner_end(&self) -> Instant {
        self.end() - (self.0.bound / 10).min(MARGIN_MAX)
    }

    /// Runs what is to be done, no longer than its bound.
    pub(crate) async fn run<T>(self, call: impl Future<Output = Result<T, FsError>>) -> Result<T, FsError> {
        let inside = CURRENT.scope(self.clone(), call);
        let outcome = timeout_at(self.end(), inside).await.unwrap_or(Err(FsError::TimedOut));
        if let Err(error) = outcome
            && is_for_want_of_somebody(error)
        {
            self.report(error);
        }
        outcome
    }

    fn report(&self, error: FsError) {
        let Inner { name, inode, began, obstacles, .. } = &*self.0;
        let obstacles: Vec<String> = obstacles.lock().iter().map(ToString::to_string).collect();
        let because = if obstacles.is_empty() { "nobody was in the way".to_owned() } else { obstacles.join("; ") };
        let inode = inode.map(|inode| inode.to_string()).unwrap_or_default();
        tracing::error!(operation = name, inode, after = ?began.elapsed(), because, "an operation failed: {error}");
    }
}

/// The errors that say nothing about the request: somebody did not do his part.
const fn is_for_want_of_somebody(error: FsError) -> bool {
    matches!(error, FsError::TimedOut | FsError::NoReplica | FsError::Unavailable | FsError::Io | FsError::Corrupt)
}

/// When something that may take `bound` must have ended: not later than the operation that it is part of.
pub(crate) fn deadline(bound: Duration) -> Instant {
    let own = Instant::now() + bound;
    CURRENT.try_with(|operation| own.min(operation.inner_end())).unwrap_or(own)
}

/// Notes what is in the way of the present operation.
pub(crate) fn blame(obstacle: Obstacle) {
    // work that belongs to no operation has nobody to tell
    let _ = CURRENT.try_with(|operation| {
        let mut obstacles = operation.0.obstacles.lock();
        obstacles.retain(|known| *known != obstacle);
        if obstacles.len() == OBSTACLES_MAX {
            obstacles.remove(0);
        }
        obstacles.push(obstacle);
    });
}

/// Notes that the master refuses. That it says nothing was noted where it was waited for.
pub(crate) fn blame_master(error: FsError) {
    if error != FsError::TimedOut {
        blame(Obstacle::Master(error));
    }
}

/// What was last in the way of the present operation.
pub(crate) fn obstacle() -> Option<Obstacle> {
    CURRENT.try_with(|operation| operation.0.obstacles.lock().last().cloned()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{Retry, wait};

    const BOUND: Duration = Duration::from_millis(500);
    /// For a busy machine.
    const LATE: Duration = Duration::from_secs(5);

    fn operation() -> Operation {
        Operation::begin("read", Some(InodeId::new(7)), BOUND)
    }

    #[tokio::test]
    async fn what_never_ends_is_dropped_at_the_bound() {
        let began = Instant::now();
        let outcome: Result<(), FsError> = operation().run(std::future::pending()).await;
        assert_eq!(outcome, Err(FsError::TimedOut));
        assert!((BOUND..LATE).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn parts_share_one_deadline_and_say_what_was_missing() {
        let operation = operation();
        let outcome: Result<(), FsError> = operation
            .clone()
            .run(async {
                for _ in 0..3 {
                    wait(BOUND / 10).await; // parts that took a while and ended well
                }
                let mut retry = Retry::within(BOUND);
                assert_eq!(retry.deadline(), operation.inner_end());
                assert!(operation.inner_end() < operation.end());
                loop {
                    blame_master(FsError::Unavailable);
                    blame_master(FsError::TimedOut);
                    retry.pause(FsError::NoReplica).await?;
                }
            })
            .await;
        assert_eq!(outcome, Err(FsError::NoReplica), "not merely that time has run out");
        assert_eq!(*operation.0.obstacles.lock(), [Obstacle::Master(FsError::Unavailable)], "once");
    }

    #[tokio::test]
    async fn a_part_may_be_shorter_and_nothing_outside_is_bounded_by_an_operation() {
        let now = Instant::now();
        let outcome = operation().run(async { Ok(deadline(BOUND / 10)) }).await;
        assert!(outcome.is_ok_and(|end| end < now + BOUND / 2));
        assert!(deadline(BOUND * 50) >= now + BOUND * 50);
        assert_eq!(obstacle(), None);
    }
}
