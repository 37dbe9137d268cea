//! One stream to the master, from registration to its end.

use super::dial::Dial;
use super::{LinkError, LinkSettings, Trouble, commands, register, report};
use crate::node::{Membership, Node};
use crate::server::may_block;
use crate::store::disk::Disk;
use futures_util::{Stream, StreamExt, TryStreamExt};
use gfs_proto::FsError;
use gfs_proto::control::{FromChunkserver, Heartbeat, Registered, ReplicaState, ToChunkserver};
use gfs_proto::ids::Term;
use gfs_proto::limits::MESSAGE_BYTES_MAX;
use gfs_proto::ops::HeldChunk;
use gfs_proto::wire;
use gfs_proto::wire::chunkserver_link_client::ChunkserverLinkClient;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

/// Messages that wait for the stream.
const OUT_MAX: usize = 64;
/// For connecting, and for the answer to the registration.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const REGISTER_MAX: Duration = Duration::from_secs(10);
/// A master that is gone without a word is noticed after these.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(3);
/// For the master to take note of a clean stop.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Leases named by one heartbeat; the others come with the next.
const WRITING_MAX: usize = 8192;
/// Heartbeats that may still be acknowledged.
const UNANSWERED_MAX: usize = 16;

/// Messages to the master.
pub type Out = mpsc::Sender<wire::FromChunkserver>;

/// Heartbeats sent and not acknowledged: when, and with which leases.
type Unanswered = Arc<Mutex<VecDeque<(u64, Vec<HeldChunk>)>>>;

/// Connects, registers, serves the stream. `Ok` after taking leave.
pub(super) async fn run<D: Disk>(
    node: &Arc<Node<D>>,
    (settings, dial): (&LinkSettings, &dyn Dial),
    stop: &mut watch::Receiver<bool>,
    trouble: &mut Trouble,
) -> Result<(), LinkError> {
    let (out, mut incoming, registered) = open(node, settings, dial).await?;
    trouble.over();
    tracing::info!(server = %registered.server, cluster = %registered.cluster, master = settings.master, "registered");
    let messages = (&mut incoming).map_err(|status| status.message().to_owned());
    let ended = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        reason = serve(node, &registered, out.clone(), messages) => Err(lost(settings, reason)),
    };
    if ended.is_ok() {
        leave(out, incoming).await;
    }
    ended
}

/// Serves a registered stream until it ends: heartbeats and reports up, commands down. Returns why it ended.
pub async fn serve<D: Disk>(
    node: &Arc<Node<D>>,
    registered: &Registered,
    out: Out,
    incoming: impl Stream<Item = Result<wire::ToChunkserver, String>>,
) -> String {
    let unanswered = Unanswered::default();
    let mut tasks = JoinSet::new();
    node.outbox.start();
    tasks.spawn(heartbeats(Arc::clone(node), out.clone(), registered.heartbeat, Arc::clone(&unanswered)));
    tasks.spawn(report::run(Arc::clone(node), out.clone()));
    let commands = commands::Commands::new(Arc::clone(node), out.clone());
    let down = Down { node, read_lease: registered.read_lease, unanswered, commands };
    let _listening = Listening(node);
    let incoming = pin!(incoming);
    tokio::select! {
        biased;
        reason = down.receive(incoming) => reason,
        _ = tasks.join_next() => "it takes no more messages".to_owned(),
    }
}

/// While it lives the master is told of changes.
struct Listening<'a, D: Disk>(&'a Node<D>);

impl<D: Disk> Drop for Listening<'_, D> {
    fn drop(&mut self) {
        self.0.outbox.stop();
    }
}

fn lost(settings: &LinkSettings, reason: String) -> LinkError {
    LinkError::Lost { master: settings.master.clone(), reason }
}

/// Connects and registers.
async fn open<D: Disk>(
    node: &Node<D>,
    settings: &LinkSettings,
    dial: &dyn Dial,
) -> Result<(Out, Streaming<wire::ToChunkserver>, Registered), LinkError> {
    let unreachable = |reason: String| LinkError::Unreachable { master: settings.master.clone(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{}", settings.master))
        .map_err(|error| unreachable(error.to_string()))?
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .keep_alive_while_idle(true);
    let channel = dial.channel(&endpoint).await.map_err(|error| unreachable(root_cause(&error)))?;
    let mut client = ChunkserverLinkClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (out, messages) = mpsc::channel(OUT_MAX);
    out.send((&register(node, settings)).into()).await.map_err(|error| unreachable(error.to_string()))?;
    let refused = |status: Status| refusal(settings, &status);
    let link = async {
        let mut incoming = client.link(ReceiverStream::new(messages)).await.map_err(refused)?.into_inner();
        let first = incoming.message().await.map_err(refused)?;
        Ok::<_, LinkError>((incoming, first))
    };
    let waited = timeout(REGISTER_MAX, link).await;
    let (incoming, first) = waited.map_err(|_| unreachable("it does not answer the registration".to_owned()))??;
    let registered = match first.map(ToChunkserver::try_from) {
        Some(Ok(ToChunkserver::Registered(registered))) => registered,
        Some(Err(error)) => return Err(unreachable(format!("its answer cannot be understood: {error}"))),
        Some(Ok(_)) | None => return Err(unreachable("it did not answer the registration".to_owned())),
    };
    join(node, settings, &registered)?;
    Ok((out, incoming, registered))
}

/// The innermost error says what happened: "connection refused".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Connection troubles are one thing, a "no" of the master is another, and one for good a third. The
/// master says [`FsError::InvalidArgument`] to what cannot be right for it, [`FsError::Protocol`] to
/// another version of the protocol.
fn refusal(settings: &LinkSettings, status: &Status) -> LinkError {
    use tonic::Code;
    let (master, reason) = (settings.master.clone(), status.message().to_owned());
    if let Some(FsError::InvalidArgument | FsError::Protocol) = FsError::from_status(status) {
        return LinkError::TurnedAway { master, reason };
    }
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Unimplemented | Code::Internal => {
            LinkError::Unreachable { master, reason }
        }
        _ => LinkError::Refused { master, reason },
    }
}

/// Checks that this is our cluster and its current leader, and remembers both.
pub fn join<D: Disk>(node: &Node<D>, settings: &LinkSettings, registered: &Registered) -> Result<(), LinkError> {
    let identity = node.store.identity();
    let master = || settings.master.clone();
    if let Some(ours) = identity.cluster.filter(|ours| *ours != registered.cluster) {
        return Err(LinkError::AnotherCluster { master: master(), theirs: registered.cluster, ours });
    }
    if registered.term < identity.highest_term {
        return Err(LinkError::Deposed { master: master(), theirs: registered.term, ours: identity.highest_term });
    }
    may_block(|| {
        node.store.join(registered.cluster, registered.chunk_size)?;
        node.store.observe_term(registered.term)
    })?;
    let Registered { server, cluster, chunk_size, .. } = *registered;
    node.joined(Membership { server, cluster, chunk_size });
    Ok(())
}

/// Ends when the stream does.
async fn heartbeats<D: Disk>(node: Arc<Node<D>>, out: Out, every: Duration, unanswered: Unanswered) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = node.store.directories_failed();
    loop {
        ticks.tick().await;
        tell_of_failed(&node, &mut failed);
        node.store.take_harm_news().into_iter().for_each(|handle| node.outbox.touched(handle));
        let Ok(room) = out.reserve().await else { return };
        let sent = u64::try_from(node.clock.now().as_nanos()).unwrap_or(u64::MAX);
        let writing = node.grants.take_written(WRITING_MAX);
        {
            let mut unanswered = unanswered.lock();
            if unanswered.len() == UNANSWERED_MAX {
                unanswered.pop_front();
            }
            unanswered.push_back((sent, writing.clone()));
        }
        let requests_in_flight = node.requests.load(Ordering::Relaxed);
        let scrub = Some(node.scrub.progress(&node.store));
        let heartbeat = Heartbeat { sent, space: node.store.space(), writing, requests_in_flight, scrub };
        room.send((&FromChunkserver::Heartbeat(heartbeat)).into());
    }
}

/// Replicas in a directory that has gone out of service are reported again, as what they are now.
fn tell_of_failed<D: Disk>(node: &Node<D>, failed: &mut usize) {
    let now = node.store.directories_failed();
    if std::mem::replace(failed, now) != now {
        let failing = node.store.rows().into_iter().filter(|row| row.state == ReplicaState::Failing);
        failing.for_each(|row| node.outbox.touched(row.handle));
    }
}

/// The receiving half.
struct Down<'a, D: Disk> {
    node: &'a Arc<Node<D>>,
    read_lease: Duration,
    unanswered: Unanswered,
    commands: commands::Commands<D>,
}

impl<D: Disk> Down<'_, D> {
    /// Returns why the stream ended.
    async fn receive(self, mut incoming: Pin<&mut impl Stream<Item = Result<wire::ToChunkserver, String>>>) -> String {
        loop {
            let message = match incoming.next().await {
                Some(Ok(message)) => message,
                None => return "it closed the connection".to_owned(),
                Some(Err(reason)) => return reason,
            };
            let result = match ToChunkserver::try_from(message) {
                Ok(ToChunkserver::HeartbeatAck { sent, term }) => self.acknowledged(sent, term),
                Ok(ToChunkserver::Command { id, term, command }) => {
                    self.term(term);
                    self.commands.start(id, term, command);
                    Ok(())
                }
                Ok(ToChunkserver::Registered(_)) => Err("it registered this server twice".to_owned()),
                Err(error) => Err(format!("it sent what cannot be understood: {error}")),
            };
            if let Err(reason) = result {
                return reason;
            }
        }
    }

    /// Extends the read lease and the chunk leases that the heartbeat named.
    fn acknowledged(&self, sent: u64, term: Term) -> Result<(), String> {
        if self.term(term) {
            return Err(format!("its term {term} is over"));
        }
        let mut unanswered = self.unanswered.lock();
        let Some(at) = unanswered.iter().position(|(at, _)| *at == sent) else {
            return Ok(()); // older than what is remembered
        };
        let (_, held) = unanswered.drain(..=at).next_back().expect("at is a position");
        let sent = Duration::from_nanos(sent);
        self.node.lease.acknowledged(sent, self.read_lease);
        for held in held {
            if let Some(gate) = self.node.grants.get(held.handle) {
                gate.extend(held.epoch, sent);
            }
        }
        Ok(())
    }

    /// Remembers a higher term; true if it is a lower one.
    fn term(&self, term: Term) -> bool {
        let highest = self.node.store.identity().highest_term;
        if term > highest
            && let Err(error) = may_block(|| self.node.store.observe_term(term))
        {
            tracing::error!(%error, %term, "the master's term cannot be remembered");
        }
        term < highest
    }
}

/// Tells the master that this is a clean stop.
async fn leave(out: Out, mut incoming: Streaming<wire::ToChunkserver>) {
    let farewell = async {
        if out.send((&FromChunkserver::Leaving).into()).await.is_ok() {
            drop(out);
            while let Ok(Some(_)) = incoming.message().await {}
        }
    };
    let _ = timeout(LEAVE_MAX, farewell).await; // the master will notice anyway
}
