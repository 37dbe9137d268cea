//! The session with the master: a connection for requests and replies, a stream of callbacks.
//!
//! [`Session::call`] sends a batch and waits for its answer; the caller's own task puts the request
//! into the stream, the one task that reads replies wakes it. When the connection or the leader is
//! lost the keeper connects again, resumes the session, reclaims what the hooks say is open, and sends
//! every unanswered request again with its number: the master does each mutation once. When the
//! session itself is lost, what was under way in it fails, and a new one is opened.
//!
//! Knows nothing of files and caches: they are behind [`Hooks`].

mod callbacks;
mod dial;
mod keeper;
mod link;
mod requests;
mod silence;
mod stream;
#[cfg(test)]
mod tests;
mod window;

use crate::config::ConnectError;
use crate::operation::{self, Obstacle};
use crate::retry::Retry;
pub(crate) use dial::ByTcp;
pub use dial::{Dial, Dialling, RequestReader, RequestWriter, Requesting, Writable};
use futures_util::future::BoxFuture;
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{InodeId, OpenId, Sequence, SessionId};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, Batch, BatchReply, Op, OpResult, SlowServer};
use gfs_proto::time::Timestamp;
use gfs_proto::wire;
pub(crate) use link::Identity;
use parking_lot::Mutex;
use requests::{Answer, Completion, Outcome, Requests, Ticket};
use silence::Heard;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Requests under way at once, abandoned ones too: bounds memory while no master answers.
const REQUESTS_MAX: usize = 4096;

/// An open file that is claimed again when a session is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reclaim {
    pub(crate) inode: InodeId,
    pub(crate) open: OpenId,
    pub(crate) access: Access,
}

impl From<&Reclaim> for wire::Reclaim {
    fn from(reclaim: &Reclaim) -> Self {
        Self { inode: reclaim.inode.get(), open_id: reclaim.open.get(), access: reclaim.access.into() }
    }
}

/// What the session asks of the layer above it.
pub(crate) trait Hooks: Send + Sync + 'static {
    /// Everything that is registered as open.
    fn opens(&self) -> Vec<Reclaim>;
    /// Another leader answers: what the one before had noted and not logged when the connection was lost
    /// (at `lost`) is to be told again, before anything else.
    fn told_before(&self, lost: std::time::Instant) -> Vec<Op>;
    /// Flush and give up what was granted on an inode; when this returns it is done.
    fn recall(&self, inode: InodeId) -> BoxFuture<'_, ()>;
    /// Forget what is cached of an inode, and these names in it.
    fn invalidate(&self, inode: InodeId, names: Vec<Name>);
    /// The session has expired: grants and opens are void. Must not block.
    fn lost(&self);
    /// There is a new session after a lost one.
    fn renewed(&self) -> BoxFuture<'_, ()>;
    /// The session may have expired without our knowing: nobody may rely on what was granted to it. Must
    /// not block.
    fn silent(&self);
    /// What a sign of life tells of the chunkservers.
    fn slow_servers(&self) -> Vec<SlowServer>;
    /// It had not expired: it goes on.
    fn heard_again(&self) -> BoxFuture<'_, ()>;
}

/// Settings of a session.
#[derive(Clone, Debug)]
pub(crate) struct SessionConfig {
    pub(crate) masters: String,
    pub(crate) name: String,
    pub(crate) timeout: Duration,
}

/// Of the present connection.
#[derive(Clone)]
struct Current {
    identity: Identity,
    channel: Channel,
    address: String,
}

/// See the module's text.
pub(crate) struct Session {
    config: SessionConfig,
    requests: Mutex<Requests>,
    current: Mutex<Current>,
    room: Semaphore,
    hooks: OnceLock<Weak<dyn Hooks>>,
    stopped: watch::Sender<bool>,
    heard: watch::Sender<Heard>,
    silent: AtomicBool,
}

/// A mutation's number while its caller holds it: given up when the caller ends.
struct Held<'a> {
    session: &'a Session,
    ticket: Ticket,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.session.requests.lock().finish(self.ticket);
    }
}

/// A caller that waits: if it ends before the answer came, the request is given up with it.
struct Waiting<'a> {
    session: &'a Session,
    request: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.session.requests.lock().cancel(self.request);
    }
}

impl Session {
    /// Opens a session with the first of the masters that will have us, and keeps it alive.
    /// One round of attempts, so that a person learns at once what is wrong.
    pub(crate) async fn connect(config: SessionConfig, dial: Arc<dyn Dial>) -> Result<Arc<Self>, ConnectError> {
        let masters = link::Masters { endpoints: link::endpoints(&config.masters)?, dial };
        let wanted = link::Wanted { name: &config.name, cluster: None, resume: None };
        let sent = Instant::now();
        let link = keeper::first_of(&masters, &wanted).await.map_err(|error| error.for_people(&config.masters))?;
        let session = Arc::new(Self {
            requests: Mutex::new(Requests::default()),
            current: Mutex::new(Current {
                identity: link.identity.clone(),
                channel: link.channel.clone(),
                address: link.address.clone(),
            }),
            room: Semaphore::new(REQUESTS_MAX),
            hooks: OnceLock::new(),
            stopped: watch::Sender::new(false),
            heard: watch::Sender::new(Heard { session: link.identity.session, sent }),
            silent: AtomicBool::new(false),
            config,
        });
        let watched = silence::watch(Arc::downgrade(&session), session.heard.subscribe(), link.identity.expiry);
        tokio::spawn(watched);
        session.requests.lock().link_up(link.sender.clone(), Vec::new());
        tokio::spawn(keeper::keep(Arc::downgrade(&session), masters, link, session.stopped.subscribe()));
        Ok(session)
    }

    /// Who to tell of callbacks and of a lost session. Once.
    pub(crate) fn set_hooks(&self, hooks: Weak<dyn Hooks>) {
        let first = self.hooks.set(hooks).is_ok();
        assert!(first, "hooks are set once, right after connecting");
    }

    fn hooks(&self) -> Option<Arc<dyn Hooks>> {
        self.hooks.get().and_then(Weak::upgrade)
    }

    /// What the master said when it opened the present session.
    pub(crate) fn identity(&self) -> Identity {
        self.current.lock().identity.clone()
    }

    /// The present session.
    pub(crate) fn id(&self) -> SessionId {
        self.current.lock().identity.session
    }

    /// The present connection and the address at its other end.
    pub(crate) fn channel(&self) -> (Channel, String) {
        let current = self.current.lock();
        (current.channel.clone(), current.address.clone())
    }

    /// When an operation that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        operation::deadline(self.config.timeout)
    }

    /// Sends a batch and waits for its answer, within the bound on operations. Tried again while the
    /// cluster is not ready; a mutation is done at most once.
    pub(crate) async fn call(&self, caller: &Caller, ops: Vec<Op>) -> Outcome {
        let mut retry = Retry::within(self.config.timeout);
        loop {
            let reply = self.deliver(caller, &ops, &mut retry).await?;
            match reply.results.first() {
                // Nothing was done, so this is another batch with a number of its own.
                Some(Err(error)) if error.is_retryable() && !error.is_stale() => {
                    operation::blame_master(*error);
                    retry.pause(*error).await?;
                }
                _ => return Ok(reply),
            }
        }
    }

    /// Until the batch as a whole was taken: the same mutation, with the same number, each time.
    async fn deliver(&self, caller: &Caller, ops: &[Op], retry: &mut Retry) -> Outcome {
        let mutation = ops.iter().any(Op::is_mutation);
        let repeatable = ops.iter().all(Op::only_looks);
        let held = mutation.then(|| Held { session: self, ticket: self.requests.lock().begin() });
        let ticket = held.as_ref().map(|held| held.ticket);
        loop {
            let error = match self.exchange(batch(caller, ops.to_vec()), ticket, retry.deadline()).await {
                Ok(reply) => return Ok(reply),
                Err(FsError::SessionExpired) if repeatable && !self.requests.lock().is_closed() => FsError::Unavailable,
                Err(error) => error,
            };
            operation::blame_master(error);
            retry.pause(error).await?;
        }
    }

    /// One attempt.
    async fn exchange(&self, batch: Batch, ticket: Option<Ticket>, deadline: Instant) -> Outcome {
        let attempt = async {
            let _room = self.room.acquire().await.map_err(|_| FsError::SessionExpired)?;
            let (tell, told) = oneshot::channel();
            let request = self.requests.lock().submit(batch, ticket, Answer::Caller(tell))?;
            let _waiting = Waiting { session: self, request };
            told.await.unwrap_or(Err(FsError::SessionExpired))
        };
        match tokio::time::timeout_at(deadline, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => {
                operation::blame(Obstacle::MasterSilent(self.current.lock().address.clone()));
                Err(FsError::TimedOut)
            }
        }
    }

    /// What was posted leaves now: somebody waits for it after all.
    pub(crate) fn hurry(&self) {
        self.requests.lock().hurry();
    }

    /// Sends a batch without waiting, with the next request or in a millisecond. `then` runs on the task that
    /// reads replies, with whatever the first answer is: it must be quick.
    pub(crate) fn post(&self, caller: &Caller, ops: Vec<Op>, then: impl FnOnce(Outcome) + Send + 'static) {
        let mut requests = self.requests.lock();
        let ticket = ops.iter().any(Op::is_mutation).then(|| requests.begin());
        // A closed session drops the answer: there is nobody left to care.
        let _ = requests.submit(batch(caller, ops), ticket, Answer::Then(Box::new(then)));
    }

    /// Finishes what an answer leaves to do, outside the lock.
    fn settle(self: &Arc<Self>, completion: Completion) {
        match completion {
            Completion::Told => {}
            Completion::Then(then, outcome) => then(outcome),
            Completion::Abandoned(batch, reply) => self.release_abandoned(&batch, &reply),
        }
    }

    /// Whoever asked for these opens has timed out: close them again.
    fn release_abandoned(&self, batch: &Batch, reply: &BatchReply) {
        let opened = batch.ops.iter().zip(&reply.results).filter_map(|(op, result)| match (op, result) {
            (Op::Open { spec, .. }, Ok(OpResult::Opened(opened))) => Some((opened.attr.inode, spec.open)),
            (Op::Make(make), Ok(OpResult::Made(made))) => Some((made.attr.inode, make.open?.open)),
            _ => None,
        });
        let ops: Vec<Op> = opened.map(|(inode, open)| Op::Release { inode: inode.into(), open }).collect();
        if !ops.is_empty() {
            self.post(&batch.caller, ops, |_| ());
        }
    }

    /// An answer came in.
    fn complete(self: &Arc<Self>, request: u64, outcome: Outcome) {
        let completion = self.requests.lock().complete(request, outcome);
        self.settle(completion);
    }

    /// Ends the session: it is closed at the master, everything under way fails.
    pub(crate) async fn close(self: &Arc<Self>) {
        let kind = wire::client_message::Kind::Close(wire::CloseSession {});
        self.requests.lock().notify(kind);
        self.closed().await;
        let told = self.requests.lock().close();
        told.into_iter().for_each(|completion| self.settle(completion));
    }
}

fn batch(caller: &Caller, ops: Vec<Op>) -> Batch {
    Batch {
        caller: caller.clone(),
        sequence: None,
        acknowledged: Sequence::default(),
        client_time: Some(now()),
        precondition: None,
        ops,
    }
}

/// The client's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(since.as_nanos() as i128)
}
