//! A master for tests: the session service over a small namespace in memory, with faults on request.
//!
//! It remembers outcomes by (session, sequence) as the real one does, and counts what it applied, so
//! that a test can tell "done once" from "done twice".

mod namespace;
mod requests;

pub(crate) use namespace::PAGE_ENTRIES;

use crate::data::tests::server::FakeServer;
use gfs_proto::FsError;
use gfs_proto::ids::{ClusterId, InodeId, LogIndex};
use gfs_proto::ops::{Batch, BatchReply, Op};
use gfs_proto::wire::session_server::{Session, SessionServer};
use gfs_proto::wire::{self, callback, callback_answer, server_message};
use namespace::Namespace;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const CHUNK_SIZE: u32 = 64 << 10;
/// What names and attributes live here.
pub(crate) const TTL: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Opened {
    secret: [u8; 16],
    outcomes: HashMap<u64, BatchReply>,
    acknowledged: u64,
}

/// Something that goes wrong with the next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The next mutation is done, the connection breaks before its answer.
    CutAfterMutation,
    /// The next mutation is done and never answered, until it is sent again.
    SwallowAnswer,
    /// The next batch is refused as a whole.
    Refuse(FsError),
    /// The next batch is never answered.
    Swallow,
}

#[derive(Default)]
struct State {
    sessions: HashMap<u64, Opened>,
    last_session: u64,
    namespace: Namespace,
    faults: VecDeque<Fault>,
    /// Every operation of every batch that came, in order; replays too.
    seen: Vec<Op>,
    replays: u64,
    resumed: Vec<wire::Reclaim>,
    callbacks: Vec<mpsc::UnboundedSender<Result<wire::Callback, Status>>>,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    last_callback: u64,
    exclusive: bool,
    term: u64,
    expiry_ms: u32,
    /// Nobody hears of it, as if the network were cut.
    away: bool,
}

/// See the file's text.
#[derive(Clone)]
pub(crate) struct FakeMaster {
    state: Arc<Mutex<State>>,
    /// Raised to break all connections.
    cuts: watch::Sender<u64>,
    pub(crate) address: String,
}

impl FakeMaster {
    /// Listens on a port of its own.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let state = State { exclusive: true, expiry_ms: 30_000, ..State::default() };
        let master = Self { state: Arc::new(Mutex::new(state)), cuts: watch::Sender::new(0), address };
        let service = SessionServer::new(master.clone());
        let (grpc, connections) = mpsc::unbounded_channel();
        tokio::spawn(requests::accept(master.clone(), listener, grpc));
        let incoming = UnboundedReceiverStream::new(connections);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        master
    }

    /// Lets files be written, to `count` servers.
    pub(crate) async fn start_servers(&self, count: u32) -> Vec<Arc<FakeServer>> {
        let mut servers = Vec::new();
        for id in 1..=count {
            servers.push(FakeServer::start(id, CHUNK_SIZE, None).await);
        }
        self.with_namespace(|namespace| namespace.servers = servers.clone());
        servers
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Breaks all connections as another leader takes over, who has forgotten what was not logged.
    pub(crate) fn take_over(&self) {
        {
            let mut state = self.state.lock();
            state.term += 1;
            state.namespace.forget_reports();
        }
        self.cut();
    }

    /// Of sessions that are opened from now on.
    pub(crate) fn set_expiry(&self, expiry: Duration) {
        self.state.lock().expiry_ms = expiry.as_millis() as u32;
    }

    /// Breaks all connections and lets nobody in, until it is called again.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.lock().away = away;
        self.cut();
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.state.lock().faults.push_back(fault);
    }

    /// Forgets all sessions, as after their expiry.
    pub(crate) fn expire_sessions(&self) {
        self.state.lock().sessions.clear();
        self.cut();
    }

    /// Opens are answered as if other sessions had the file open, or not.
    pub(crate) fn set_exclusive(&self, exclusive: bool) {
        self.state.lock().exclusive = exclusive;
    }

    /// Recalls an inode and waits until that is done.
    pub(crate) async fn recall(&self, inode: InodeId) {
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.state.lock();
            state.last_callback += 1;
            let id = state.last_callback;
            state.waiting.insert(id, tell);
            let recall = wire::Recall { inode: inode.get(), r#type: 1, scope: 1, epoch: None, barrier_index: 0 };
            let kind = Some(callback::Kind::Recall(recall));
            state.callbacks.retain(|stream| stream.send(Ok(wire::Callback { id, kind: kind.clone() })).is_ok());
            assert!(!state.callbacks.is_empty(), "somebody listens");
        }
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("done in time").expect("answered");
    }

    /// Ends the streams of callbacks; the connections stay.
    pub(crate) fn end_callbacks(&self) {
        for stream in self.state.lock().callbacks.drain(..) {
            let _ = stream.send(Err(Status::unavailable("it is too slow")));
        }
    }

    /// Waits until a client listens to callbacks.
    pub(crate) async fn has_listener(&self) {
        while self.state.lock().callbacks.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Operations that came since the last call, replays too.
    pub(crate) fn take_seen(&self) -> Vec<Op> {
        std::mem::take(&mut self.state.lock().seen)
    }

    pub(crate) fn replays(&self) -> u64 {
        self.state.lock().replays
    }

    pub(crate) fn take_resumed(&self) -> Vec<wire::Reclaim> {
        std::mem::take(&mut self.state.lock().resumed)
    }

    /// Highest number up to which a client has acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.state.lock().sessions.values().map(|session| session.acknowledged).max().unwrap_or_default()
    }

    /// Changes the namespace behind the clients' backs.
    pub(crate) fn with_namespace<T>(&self, change: impl FnOnce(&mut Namespace) -> T) -> T {
        change(&mut self.state.lock().namespace)
    }

    fn check(&self, attach: Option<&wire::Attach>) -> Result<u64, FsError> {
        let attach = attach.ok_or(FsError::Protocol)?;
        let state = self.state.lock();
        let session = state.sessions.get(&attach.session).ok_or(FsError::SessionExpired)?;
        if session.secret.as_slice() == attach.secret.as_ref() { Ok(attach.session) } else { Err(FsError::Protocol) }
    }

    /// `None`: no answer. `Err`: the connection breaks.
    fn answer(&self, session: u64, raw: wire::Batch) -> Result<Option<server_message::Kind>, Status> {
        let batch = Batch::try_from(raw)?;
        let mut state = self.state.lock();
        state.seen.extend(batch.ops.iter().cloned());
        let mutation = batch.sequence.is_some();
        let fault = match state.faults.front() {
            Some(Fault::CutAfterMutation | Fault::SwallowAnswer) if !mutation => None,
            _ => state.faults.pop_front(),
        };
        match fault {
            Some(Fault::Refuse(error)) => return Ok(Some(server_message::Kind::Error(error.code()))),
            Some(Fault::Swallow) => return Ok(None),
            Some(Fault::CutAfterMutation | Fault::SwallowAnswer) | None => {}
        }
        let Some(reply) = state.apply(session, &batch) else {
            return Ok(Some(server_message::Kind::Error(FsError::SessionExpired.code())));
        };
        match fault {
            Some(Fault::SwallowAnswer) => Ok(None),
            Some(_) => Err(Status::unavailable("the connection breaks")),
            None => Ok(Some(server_message::Kind::Reply((&reply).into()))),
        }
    }
}

impl State {
    fn apply(&mut self, session: u64, batch: &Batch) -> Option<BatchReply> {
        let exclusive = self.exclusive;
        let opened = self.sessions.get_mut(&session)?;
        opened.acknowledged = opened.acknowledged.max(batch.acknowledged.get());
        if let Some(outcome) = batch.sequence.and_then(|sequence| opened.outcomes.get(&sequence.get())) {
            self.replays += 1;
            return Some(outcome.clone());
        }
        let mut results = Vec::new();
        for op in &batch.ops {
            results.push(self.namespace.apply(op, exclusive));
            if results.last().is_some_and(Result::is_err) {
                break;
            }
        }
        let index = LogIndex::new(self.namespace.index);
        let reply = BatchReply { results, log_index: index, durable_index: index, ttl: TTL };
        if let Some(sequence) = batch.sequence {
            opened.outcomes.insert(sequence.get(), reply.clone());
        }
        Some(reply)
    }
}

type Replies<T> = UnboundedReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Session for FakeMaster {
    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionReply>, Status> {
        let request = request.into_inner();
        if self.state.lock().away {
            return Err(Status::unavailable("nobody is here"));
        }
        let session = match &request.resume {
            Some(attach) => {
                let session = self.check(Some(attach)).map_err(|error| error.into_status("no such session"))?;
                self.state.lock().resumed.extend(request.reclaim);
                session
            }
            None => {
                let mut state = self.state.lock();
                state.last_session += 1;
                let session = state.last_session;
                let secret = [session as u8; 16];
                state.sessions.insert(session, Opened { secret, ..Opened::default() });
                session
            }
        };
        let (expiry_ms, term) = {
            let state = self.state.lock();
            (state.expiry_ms, state.term)
        };
        Ok(Response::new(wire::OpenSessionReply {
            session,
            secret: vec![session as u8; 16].into(),
            cluster_id: ClusterId::new([7; 16]).as_bytes().to_vec().into(),
            chunk_size: CHUNK_SIZE,
            keep_alive_ms: expiry_ms / 6,
            expiry_ms,
            capabilities: 0,
            goal_default: 3,
            term,
            copies_min: 2,
        }))
    }

    type CallbacksStream = Replies<wire::Callback>;

    async fn callbacks(
        &self,
        request: Request<Streaming<wire::CallbackAnswer>>,
    ) -> Result<Response<Self::CallbacksStream>, Status> {
        let mut answers = request.into_inner();
        let (callbacks, receiver) = mpsc::unbounded_channel();
        let me = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                match answer.kind {
                    Some(callback_answer::Kind::Attach(_)) => me.state.lock().callbacks.push(callbacks.clone()),
                    Some(callback_answer::Kind::Done(id)) => {
                        if let Some(tell) = me.state.lock().waiting.remove(&id) {
                            let _ = tell.send(());
                        }
                    }
                    None => {}
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }
}
