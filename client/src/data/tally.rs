//! Waits for the acknowledgements of several servers with one wake-up.
//!
//! Each reader task fills its slot; the waiting task is woken by the last one, or by the first that
//! brings bad news. Waking costs more than anything else on the path of a small write.

use super::connection::{Answer, LinkError};
use futures_util::task::AtomicWaker;
use gfs_proto::chunk::Replica;
use gfs_proto::frame::Ack;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

/// The others' time to answer after the first failure.
const GRACE: Duration = Duration::from_millis(500);

/// What came from one server.
pub(super) type Outcome = Result<Ack, LinkError>;

/// Outcomes of one request sent to several servers.
pub(super) struct Tally {
    slots: Mutex<Vec<Option<Outcome>>>,
    waker: AtomicWaker,
}

impl Tally {
    pub(super) fn new(count: usize) -> Self {
        Self { slots: Mutex::new((0..count).map(|_| None).collect()), waker: AtomicWaker::new() }
    }

    /// The answer of server number `slot`; a second one is ignored.
    pub(super) fn put(&self, slot: usize, answer: Result<Answer, LinkError>) {
        let outcome = answer.and_then(|answer| match answer {
            Answer::Ack(ack) => Ok(ack),
            Answer::Data { .. } => Err(LinkError::Protocol),
        });
        let mut slots = self.slots.lock();
        if slots[slot].is_none() {
            slots[slot] = Some(outcome);
        }
        let wake = settled(&slots);
        drop(slots);
        if wake {
            self.waker.wake();
        }
    }

    /// Returns when all have answered, or a moment after one has failed: whoever has the bytes counts
    /// when the master chooses among the members.
    pub(super) async fn wait(&self) {
        self.until(settled).await;
        let complete = |slots: &[Option<Outcome>]| slots.iter().all(Option::is_some);
        if !complete(&self.slots.lock()) {
            let _ = timeout(GRACE, self.until(complete)).await;
        }
    }

    async fn until(&self, condition: impl Fn(&[Option<Outcome>]) -> bool) {
        poll_fn(|context| {
            self.waker.register(context.waker());
            if condition(&self.slots.lock()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Those of `asked` that have not answered.
    pub(super) fn missing<'a>(&self, asked: &'a [Replica]) -> Vec<&'a Replica> {
        let slots = self.slots.lock();
        asked.iter().zip(slots.iter()).filter_map(|(replica, slot)| slot.is_none().then_some(replica)).collect()
    }

    /// What has come so far; `None` where nothing has.
    pub(super) fn outcomes(&self) -> Vec<Option<Outcome>> {
        self.slots.lock().clone()
    }
}

fn settled(slots: &[Option<Outcome>]) -> bool {
    let failed = |slot: &Option<Outcome>| !matches!(slot, None | Some(Ok(Ack { outcome: Ok(()), .. })));
    slots.iter().all(Option::is_some) || slots.iter().any(failed)
}
