//! Requests under way: who waits for which answer, what must be sent again after a reconnect.
//!
//! Keeps: a mutation holds its sequence number until its outcome is known or nobody will send it
//! again; every unanswered request goes out again, in order and unchanged, on each new connection.

use super::window::Window;
use gfs_proto::FsError;
use gfs_proto::ids::Sequence;
use gfs_proto::ops::{Batch, BatchReply, Op};
use gfs_proto::wire;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

pub(super) type Outcome = Result<BatchReply, FsError>;

/// Where requests go out.
pub(super) trait Outgoing: Send + Sync {
    /// Never waits. What is sent on a connection that is gone is lost.
    fn send(&self, message: wire::ClientMessage);
    /// Goes with the next one that is sent, or by itself in a millisecond.
    fn send_behind(&self, message: wire::ClientMessage);
    /// Sends what lingers.
    fn hurry(&self);
}

/// Who is told of an answer.
pub(super) enum Answer {
    /// A waiting caller.
    Caller(oneshot::Sender<Outcome>),
    /// Nobody waits; this runs on the task that reads replies and must not block.
    Then(Box<dyn FnOnce(Outcome) + Send>),
}

/// The number of a mutation, good in one session only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    session: u64,
    pub(super) sequence: Sequence,
}

struct Pending {
    batch: Batch,
    answer: Answer,
}

/// What is left to do after an answer, outside the lock.
pub(super) enum Completion {
    /// All done.
    Told,
    /// To be called with the outcome.
    Then(Box<dyn FnOnce(Outcome) + Send>, Outcome),
    /// The caller has given up and will not use what this batch has opened.
    Abandoned(Batch, BatchReply),
}

/// See the file's text. All methods are quick and never wait: they run under one lock.
#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    pending: BTreeMap<u64, Pending>,
    window: Window,
    link: Option<Box<dyn Outgoing>>,
    /// How many sessions there were before this one.
    session: u64,
    closed: bool,
}

impl Requests {
    /// A sequence number for a new mutation.
    pub(super) fn begin(&mut self) -> Ticket {
        Ticket { session: self.session, sequence: self.window.begin() }
    }

    /// Whoever began this mutation will not send it again. If it is still on its way it keeps its number
    /// until the outcome is known.
    pub(super) fn finish(&mut self, ticket: Ticket) {
        let sequence = Some(ticket.sequence);
        if ticket.session == self.session
            && self.window.is_outstanding(ticket.sequence)
            && !self.pending.values().any(|pending| pending.batch.sequence == sequence)
        {
            self.window.finish(ticket.sequence);
        }
    }

    /// Notes a request and sends it, or keeps it until there is a connection. Refused if the ticket is
    /// of an earlier session, where the mutation may have been done.
    pub(super) fn submit(&mut self, mut batch: Batch, ticket: Option<Ticket>, answer: Answer) -> Result<u64, FsError> {
        if self.closed || ticket.is_some_and(|ticket| ticket.session != self.session) {
            return Err(FsError::SessionExpired);
        }
        self.last += 1;
        batch.sequence = ticket.map(|ticket| ticket.sequence);
        batch.acknowledged = self.window.acknowledged();
        if let Some(link) = &self.link {
            let message = message(self.last, &batch);
            match answer {
                Answer::Caller(_) => link.send(message),
                Answer::Then(_) => link.send_behind(message),
            }
        }
        self.pending.insert(self.last, Pending { batch, answer });
        Ok(self.last)
    }

    /// Whoever asked waits no longer. A mutation stays: its outcome must be learned.
    pub(super) fn cancel(&mut self, request: u64) {
        if self.pending.get(&request).is_some_and(|pending| pending.batch.sequence.is_none() && !opens(&pending.batch))
        {
            self.pending.remove(&request);
        }
    }

    /// An answer came. A retryable error leaves the sequence number with the caller, who sends the
    /// same mutation again.
    pub(super) fn complete(&mut self, request: u64, outcome: Outcome) -> Completion {
        let Some(Pending { batch, answer }) = self.pending.remove(&request) else { return Completion::Told };
        let again = matches!(&outcome, Err(error) if error.is_retryable());
        match answer {
            Answer::Then(then) => {
                self.forget(&batch);
                Completion::Then(then, outcome)
            }
            Answer::Caller(caller) => match caller.send(outcome) {
                Ok(()) => {
                    if !again {
                        self.forget(&batch);
                    }
                    Completion::Told
                }
                Err(outcome) => {
                    self.forget(&batch);
                    outcome.map_or(Completion::Told, |reply| Completion::Abandoned(batch, reply))
                }
            },
        }
    }

    fn forget(&mut self, batch: &Batch) {
        if let Some(sequence) = batch.sequence {
            self.window.finish(sequence);
        }
    }

    /// A connection is attached to the session: `first` goes out on it, then everything unanswered, in
    /// order.
    pub(super) fn link_up(&mut self, link: impl Outgoing + 'static, first: Vec<Batch>) {
        self.link = Some(Box::new(link));
        let unanswered = self.last;
        for batch in first {
            // A closed session refuses: then nobody cares.
            let _ = self.submit(batch, None, Answer::Then(Box::new(|_| ())));
        }
        for (request, pending) in self.pending.range(..=unanswered) {
            if let Some(link) = &self.link {
                link.send(message(*request, &pending.batch));
            }
        }
    }

    /// What was posted leaves now.
    pub(super) fn hurry(&self) {
        if let Some(link) = &self.link {
            link.hurry();
        }
    }

    /// The connection is gone.
    pub(super) fn link_down(&mut self) {
        self.link = None;
    }

    /// A message that nobody waits for.
    pub(super) fn notify(&self, kind: wire::client_message::Kind) {
        if let Some(link) = &self.link {
            link.send(wire::ClientMessage { request: 0, kind: Some(kind) });
        }
    }

    /// The session is lost: nothing of it may be sent in another one, where it could be done twice.
    /// Returns what must be told, outside the lock.
    #[must_use]
    pub(super) fn expire(&mut self) -> Vec<Completion> {
        self.link = None;
        let requests: Vec<u64> = self.pending.keys().copied().collect();
        let told = requests.into_iter().map(|request| self.complete(request, Err(FsError::SessionExpired))).collect();
        self.window = Window::default();
        self.session += 1;
        told
    }

    /// As [`Requests::expire`], and nothing is accepted any more.
    #[must_use]
    pub(super) fn close(&mut self) -> Vec<Completion> {
        self.closed = true;
        self.expire()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

fn message(request: u64, batch: &Batch) -> wire::ClientMessage {
    wire::ClientMessage { request, kind: Some(wire::client_message::Kind::Batch(batch.into())) }
}

/// True if the batch registers an open file, which somebody must release again.
fn opens(batch: &Batch) -> bool {
    batch.ops.iter().any(|op| matches!(op, Op::Open { .. }) || matches!(op, Op::Make(make) if make.open.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::caller::Caller;
    use gfs_proto::ids::{InodeId, LogIndex};
    use gfs_proto::name::Name;
    use gfs_proto::ops::OpResult;
    use std::time::Duration;
    use tokio::sync::mpsc;

    impl Outgoing for mpsc::UnboundedSender<wire::ClientMessage> {
        fn send(&self, message: wire::ClientMessage) {
            Self::send(self, message).expect("the test looks at it later");
        }
        fn send_behind(&self, message: wire::ClientMessage) {
            Outgoing::send(self, message);
        }
        fn hurry(&self) {}
    }

    fn batch(mutation: bool) -> Batch {
        let name = Name::new(b"a").expect("a good name");
        let op = if mutation { Op::Unlink { parent: InodeId::ROOT.into(), name } } else { Op::StatFs };
        Batch {
            caller: Caller::root(),
            sequence: None,
            acknowledged: Sequence::default(),
            client_time: None,
            precondition: None,
            ops: vec![op],
        }
    }

    fn reply() -> BatchReply {
        BatchReply {
            results: vec![Ok(OpResult::Done)],
            log_index: LogIndex::new(1),
            durable_index: LogIndex::new(1),
            ttl: Duration::from_secs(1),
        }
    }

    fn sent(receiver: &mut mpsc::UnboundedReceiver<wire::ClientMessage>) -> Vec<(u64, u64, u64)> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|message| match message.kind {
                Some(wire::client_message::Kind::Batch(batch)) => (message.request, batch.sequence, batch.acknowledged),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn everything_unanswered_goes_out_again_in_order_with_the_same_numbers() {
        let mut requests = Requests::default();
        let (link, mut first) = mpsc::unbounded_channel();
        requests.link_up(link, Vec::new());
        let mut waiting = Vec::new();
        for mutation in [true, false, true, true] {
            let ticket = mutation.then(|| requests.begin());
            let (caller, answer) = oneshot::channel();
            let request = requests.submit(batch(mutation), ticket, Answer::Caller(caller)).expect("the session lives");
            waiting.push((request, answer));
        }
        assert_eq!(sent(&mut first), [(1, 1, 0), (2, 0, 0), (3, 2, 0), (4, 3, 0)]);
        assert!(matches!(requests.complete(1, Ok(reply())), Completion::Told));
        requests.link_down();

        let (link, mut second) = mpsc::unbounded_channel();
        requests.link_up(link, vec![batch(false)]);
        assert_eq!(sent(&mut second), [(5, 0, 1), (2, 0, 0), (3, 2, 0), (4, 3, 0)], "unchanged, after what is first");
        assert!(matches!(requests.complete(3, Ok(reply())), Completion::Told));
        assert!(matches!(requests.complete(3, Ok(reply())), Completion::Told), "a second answer says nothing");
        let (caller, _answer) = oneshot::channel();
        requests.submit(batch(false), None, Answer::Caller(caller)).expect("the session lives");
        assert_eq!(sent(&mut second), [(6, 0, 2)]);
    }

    #[test]
    fn a_retryable_answer_leaves_the_number_with_the_caller() {
        let mut requests = Requests::default();
        let ticket = requests.begin();
        let (caller, mut answer) = oneshot::channel();
        let request = requests.submit(batch(true), Some(ticket), Answer::Caller(caller)).expect("the session lives");
        requests.complete(request, Err(FsError::Unavailable));
        assert_eq!(answer.try_recv().expect("told"), Err(FsError::Unavailable));
        assert_eq!(requests.window.acknowledged().get(), 0, "it will be sent again");
        requests.finish(ticket);
        assert_eq!(requests.window.acknowledged().get(), 1);
    }

    #[test]
    fn a_mutation_that_nobody_waits_for_is_still_followed_to_its_end() {
        let mut requests = Requests::default();
        let ticket = requests.begin();
        let (caller, answer) = oneshot::channel();
        let request = requests.submit(batch(true), Some(ticket), Answer::Caller(caller)).expect("the session lives");
        drop(answer);
        requests.cancel(request);
        requests.finish(ticket);
        assert_eq!(requests.window.acknowledged().get(), 0, "the master must keep its outcome");
        let (link, mut receiver) = mpsc::unbounded_channel();
        requests.link_up(link, Vec::new());
        assert_eq!(sent(&mut receiver), [(1, 1, 0)]);
        assert!(matches!(requests.complete(request, Ok(reply())), Completion::Abandoned(..)));
        assert_eq!(requests.window.acknowledged().get(), 1);
    }

    #[test]
    fn nothing_of_a_lost_session_is_sent_in_the_next() {
        let mut requests = Requests::default();
        let ticket = requests.begin();
        let (caller, mut answer) = oneshot::channel();
        requests.submit(batch(true), Some(ticket), Answer::Caller(caller)).expect("the session lives");
        assert_eq!(requests.expire().len(), 1);
        assert_eq!(answer.try_recv().expect("told"), Err(FsError::SessionExpired));
        let (link, mut receiver) = mpsc::unbounded_channel();
        requests.link_up(link, Vec::new());
        assert!(sent(&mut receiver).is_empty());
        assert_eq!(requests.begin().sequence.get(), 1, "numbers begin anew");
        requests.finish(ticket);
        assert_eq!(requests.window.acknowledged().get(), 0, "an old number says nothing of a new one");
        let (caller, _answer) = oneshot::channel();
        assert_eq!(requests.submit(batch(true), Some(ticket), Answer::Caller(caller)), Err(FsError::SessionExpired));
        let _ = requests.close();
        let (caller, _answer) = oneshot::channel();
        assert_eq!(requests.submit(batch(false), None, Answer::Caller(caller)), Err(FsError::SessionExpired));
    }
}
