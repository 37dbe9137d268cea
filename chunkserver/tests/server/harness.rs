//! A made-up master, chunkservers that register with it, and a client of their data ports.

use gfs_chunkserver::clock::{BootClock, Clock};
use gfs_chunkserver::config::{Config, Settings};
use gfs_chunkserver::net::dial::{Answer, DataConnection, Endpoint};
use gfs_chunkserver::net::frames::Outgoing;
use gfs_chunkserver::node::Patience;
use gfs_chunkserver::run::{Chunkserver, Seams};
use gfs_proto::checksum::{block_sums, decode_sums, encode_sums, piece_sums};
use gfs_proto::chunk::{Numbering, Replica};
use gfs_proto::control::{
    ChunkCommand, ChunkReport, CommandOutcome, CommandResult, FromChunkserver, Heartbeat, Install, InstallReport,
    Register, Registered, ReplicaRow, ToChunkserver,
};
use gfs_proto::error::FsError;
use gfs_proto::frame::{Ack, DataError, DataReply, Extent, Hop, Kind, Read, Sync, SyncChunk, Write};
use gfs_proto::ids::{
    ChunkHandle, ChunkVersion, ClusterId, Epoch, Incarnation, Sequence, Serial, ServerId, ServerUuid, SessionId, Term,
    TruncateGeneration,
};
use gfs_proto::layout::ChunkSize;
use gfs_proto::ops::Capabilities;
use gfs_proto::wire;
use gfs_proto::wire::chunkserver_link_server::{ChunkserverLink, ChunkserverLinkServer};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const CLUSTER: ClusterId = ClusterId::new([7; 16]);
pub(crate) const CHUNK: u32 = 4 << 20;
/// Everything that a test waits for happens within this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What the master has heard, and what it will say.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) servers: HashMap<ServerUuid, ServerId>,
    pub(crate) registered: BTreeMap<ServerId, Register>,
    pub(crate) registrations: usize,
    pub(crate) heartbeats: Vec<(ServerId, Heartbeat)>,
    pub(crate) reports: Vec<(ServerId, ChunkReport)>,
    pub(crate) breaks: Vec<gfs_proto::control::ChainBreak>,
    pub(crate) left: Vec<ServerId>,
    results: HashMap<u64, CommandResult>,
    down: BTreeMap<ServerId, mpsc::Sender<Result<wire::ToChunkserver, Status>>>,
    streams: Vec<JoinHandle<()>>,
    next_command: u64,
    pub(crate) term: Term,
    /// Heartbeats are heard and not acknowledged.
    pub(crate) deaf: bool,
    pub(crate) cluster: ClusterId,
    /// The answer to every registration.
    pub(crate) refusal: Option<FsError>,
}

#[derive(Clone)]
struct Service {
    heard: Arc<Mutex<Heard>>,
    changed: Arc<Notify>,
}

pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    service: Service,
    task: JoinHandle<()>,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl ChunkserverLink for Service {
    type LinkStream = ReceiverStream<Result<wire::ToChunkserver, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<wire::FromChunkserver>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("nothing"))?;
        let Ok(FromChunkserver::Register(register)) = FromChunkserver::try_from(first) else {
            return Err(Status::invalid_argument("not a registration"));
        };
        if let Some(refusal) = self.refuse() {
            return Err(refusal.into_status("you may not"));
        }
        let (down, receiver) = mpsc::channel(1024);
        let (server, registered) = {
            let mut heard = self.heard.lock();
            let next = ServerId::new(heard.servers.len() as u32 + 1);
            let server = *heard.servers.entry(register.uuid).or_insert(next);
            heard.registered.insert(server, register);
            heard.registrations += 1;
            heard.down.insert(server, down.clone());
            (server, registered(server, &heard))
        };
        down.send(Ok((&ToChunkserver::Registered(registered)).into())).await.expect("room");
        self.changed.notify_waiters();
        let service = self.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let message = FromChunkserver::try_from(message).expect("our own messages are well formed");
                service.hear(server, message, &down).await;
            }
        });
        self.heard.lock().streams.push(task);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn registered(server: ServerId, heard: &Heard) -> Registered {
    Registered {
        server,
        cluster: heard.cluster,
        term: heard.term,
        chunk_size: ChunkSize::new(CHUNK).expect("a chunk size"),
        heartbeat: Duration::from_millis(20),
        read_lease: Duration::from_secs(2),
        capabilities: Capabilities::default(),
    }
}

impl Service {
    fn refuse(&self) -> Option<FsError> {
        let mut heard = self.heard.lock();
        heard.registrations += usize::from(heard.refusal.is_some());
        self.changed.notify_waiters();
        heard.refusal
    }

    async fn hear(
        &self,
        server: ServerId,
        message: FromChunkserver,
        down: &mpsc::Sender<Result<wire::ToChunkserver, Status>>,
    ) {
        let answer = {
            let mut heard = self.heard.lock();
            match message {
                FromChunkserver::Heartbeat(heartbeat) => {
                    let (sent, term) = (heartbeat.sent, heard.term);
                    heard.heartbeats.push((server, heartbeat));
                    (!heard.deaf).then_some(ToChunkserver::HeartbeatAck { sent, term })
                }
                other => {
                    heard.note(server, other);
                    None
                }
            }
        };
        self.changed.notify_waiters();
        if let Some(answer) = answer {
            let _ = down.send(Ok((&answer).into())).await;
        }
    }
}

impl Heard {
    fn note(&mut self, server: ServerId, message: FromChunkserver) {
        match message {
            FromChunkserver::Report(report) => self.reports.push((server, report)),
            FromChunkserver::Result(result) => drop(self.results.insert(result.id, result)),
            FromChunkserver::ChainBreak(chain) => self.breaks.push(chain),
            FromChunkserver::Leaving => self.left.push(server),
            FromChunkserver::Register(_) | FromChunkserver::Heartbeat(_) => panic!("out of place: {message:?}"),
        }
    }

    /// What the reports of a server say of a chunk in the end.
    pub(crate) fn row(&self, server: ServerId, handle: ChunkHandle) -> Option<ReplicaRow> {
        let mut found = None;
        for (_, report) in self.reports.iter().filter(|(from, _)| *from == server) {
            if report.removed.iter().any(|row| row.handle == handle) {
                found = None;
            }
            found = report.present.iter().rfind(|row| row.handle == handle).copied().or(found);
        }
        found
    }
}

impl Master {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("address"), CLUSTER, Term::new(1)).await
    }

    pub(crate) async fn start_at(address: SocketAddr, cluster: ClusterId, term: Term) -> Self {
        let listener = TcpListener::bind(address).await.expect("bound");
        let address = listener.local_addr().expect("address");
        let heard = Heard { cluster, term, ..Heard::default() };
        let service = Service { heard: Arc::new(Mutex::new(heard)), changed: Arc::default() };
        let server = tonic::transport::Server::builder().add_service(ChunkserverLinkServer::new(service.clone()));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("served");
        });
        Self { address, service, task }
    }

    pub(crate) fn heard<T>(&self, look: impl FnOnce(&mut Heard) -> T) -> T {
        look(&mut self.service.heard.lock())
    }

    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut Heard) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.service.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = self.heard(&mut look) {
                    return found;
                }
                changed.await;
            }
        };
        timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
    }

    pub(crate) async fn command_of(&self, server: ServerId, term: Term, command: ChunkCommand) -> CommandResult {
        let (id, down) = self.heard(|heard| {
            heard.next_command += 1;
            (heard.next_command, heard.down[&server].clone())
        });
        down.send(Ok((&ToChunkserver::Command { id, term, command }).into())).await.expect("connected");
        self.until("the result of a command", |heard| heard.results.remove(&id)).await
    }

    pub(crate) async fn command(&self, server: ServerId, command: ChunkCommand) -> Result<CommandOutcome, FsError> {
        let term = self.heard(|heard| heard.term);
        self.command_of(server, term, command).await.outcome
    }

    pub(crate) async fn install(&self, server: ServerId, install: Install) -> Result<InstallReport, FsError> {
        match self.command(server, ChunkCommand::Install(install)).await? {
            CommandOutcome::Installed(report) => Ok(report),
            other => panic!("not the answer to an install: {other:?}"),
        }
    }

    /// Dies: the port is free and all streams have ended afterwards.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await; // cancelled, as it should be
        self.heard(|heard| {
            heard.streams.drain(..).for_each(|stream| stream.abort());
            heard.down.clear();
        });
    }
}

/// A chunkserver and its directory; the directory survives it.
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) process: Chunkserver,
    pub(crate) directory: Arc<TempDir>,
}

pub(crate) fn config(master: SocketAddr, directory: &TempDir) -> Config {
    let settings = Settings {
        directories: vec![directory.path().join("store")],
        socket: Some(directory.path().join("data.sock")),
        master: Some(master.to_string()),
        reserve_mib: Some(1),
        watermark_mib: Some(2),
        in_flight_mib_max: Some(64),
        rack: Some("r1".to_owned()),
        ..Settings::default()
    };
    Config::new(settings).expect("settings")
}

pub(crate) fn seams(clock: Arc<dyn Clock>) -> Seams {
    let patience =
        Patience { turn: Duration::from_millis(500), hop: Duration::from_millis(500), idle: Duration::from_secs(60) };
    Seams { clock, patience }
}

impl Server {
    pub(crate) async fn start(master: &Master) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("directory"));
        Self::start_in(master, directory, Arc::new(BootClock)).await
    }

    pub(crate) async fn start_in(master: &Master, directory: Arc<TempDir>, clock: Arc<dyn Clock>) -> Self {
        let process = Chunkserver::start(config(master.address, &directory), seams(clock)).await.expect("started");
        let incarnation = process.node().incarnation;
        let uuid = process.node().store.identity().uuid;
        let id = master
            .until("registration, a heartbeat and the full report", |heard| {
                let id = *heard.servers.get(&uuid)?;
                let current = heard.registered.get(&id).is_some_and(|register| register.incarnation == incarnation);
                let reported = heard.reports.iter().any(|(from, report)| *from == id && report.last);
                (current && reported).then_some(id)
            })
            .await;
        let server = Self { id, process, directory };
        master.until("a read lease", |_| server.process.node().lease.is_held().then_some(())).await;
        server
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.process.node().incarnation
    }

    pub(crate) fn hop(&self) -> Hop {
        Hop { server: self.id, incarnation: self.incarnation(), address: self.process.address() }
    }

    pub(crate) fn replica(&self, master: &Master) -> Replica {
        let address = master.heard(|heard| heard.registered[&self.id].address.clone());
        Replica { server: self.id, incarnation: self.incarnation(), address }
    }

    pub(crate) fn tcp(&self) -> Endpoint {
        Endpoint::Tcp(self.process.address())
    }

    pub(crate) fn unix(&self) -> Endpoint {
        Endpoint::Unix(PathBuf::from(self.process.socket()))
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.tcp()).await
    }
}

/// Three servers of one cluster.
pub(crate) async fn cluster() -> (Master, Vec<Server>) {
    let master = Master::start().await;
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(&master).await);
    }
    (master, servers)
}

/// A connection to a data port.
pub(crate) struct Client {
    pub(crate) connection: DataConnection,
}

pub(crate) struct ReadBack {
    pub(crate) bytes: Vec<u8>,
    pub(crate) chunk_length: u32,
}

impl Client {
    pub(crate) async fn connect(endpoint: &Endpoint) -> Self {
        Self { connection: DataConnection::open(endpoint, CLUSTER, "test").await.expect("connected") }
    }

    pub(crate) async fn call(&self, kind: Kind, header: &[u8], sums: &[u8], payload: &[u8]) -> Answer {
        let frame = Outgoing { kind, request: 0, header, sums, payload };
        self.connection.call(frame, DEADLINE).await.expect("an answer")
    }

    pub(crate) async fn write(&self, write: &Write, payload: &[u8]) -> Ack {
        let sums = sums_of(&write.extents, payload);
        self.write_with(write, payload, &sums).await
    }

    pub(crate) async fn write_with(&self, write: &Write, payload: &[u8], sums: &[u8]) -> Ack {
        self.call(Kind::Write, &write.encode(), sums, payload).await.ack().expect("an acknowledgement")
    }

    /// Reads and checks the sums.
    pub(crate) async fn read(&self, read: Read) -> Result<ReadBack, DataError> {
        let answer = self.call(Kind::Read, &read.encode(), &[], &[]).await;
        if answer.kind == Kind::Ack {
            return Err(answer.ack().expect("an acknowledgement").outcome.expect_err("refused"));
        }
        let reply = DataReply::decode(&answer.header).expect("a header");
        let expected: Vec<_> = decode_sums(&answer.sums).collect();
        assert_eq!(block_sums(&answer.payload).collect::<Vec<_>>(), expected, "sums of {read:?}");
        Ok(ReadBack { bytes: answer.payload.to_vec(), chunk_length: reply.chunk_length })
    }

    pub(crate) async fn sync(&self, incarnation: Incarnation, handle: ChunkHandle, version: ChunkVersion) -> Ack {
        let sync = Sync { incarnation, chunks: vec![SyncChunk { handle, version }] };
        self.call(Kind::Sync, &sync.encode(), &[], &[]).await.ack().expect("an acknowledgement")
    }
}

pub(crate) fn sums_of(extents: &[Extent], payload: &[u8]) -> Vec<u8> {
    let mut at = 0;
    let mut sums = Vec::new();
    for extent in extents {
        let end = at + extent.length as usize;
        sums.extend(encode_sums(piece_sums(extent.offset, &payload[at..end])));
        at = end;
    }
    sums
}

pub(crate) fn epoch(counter: u64) -> Epoch {
    Epoch { term: Term::new(1), counter }
}

pub(crate) const HANDLE: ChunkHandle = ChunkHandle::new(0x11);

/// The nth write of a client that numbers by itself, to a chunk that it creates.
pub(crate) fn write(server: &Server, n: u64, offset: u32, length: usize) -> Write {
    Write {
        handle: HANDLE,
        version: ChunkVersion::new(1),
        epoch: epoch(1),
        incarnation: server.incarnation(),
        session: SessionId::new(5),
        sequence: Sequence::new(n),
        serial: Some(Serial::new(n)),
        truncate_generation: TruncateGeneration::new(0),
        create: true,
        sync: false,
        extents: vec![Extent { offset, length: length as u32 }],
        chain: Vec::new(),
    }
}

pub(crate) fn read(offset: u32, length: u32) -> Read {
    Read { handle: HANDLE, version: ChunkVersion::new(1), offset, length, by_copy: false }
}

pub(crate) fn install(counter: u64, members: &[Replica]) -> Install {
    Install {
        handle: HANDLE,
        version: ChunkVersion::new(1),
        raise_to: None,
        epoch: epoch(counter),
        cut: None,
        truncate_generation: TruncateGeneration::new(0),
        numbering: Numbering::Client,
        members: members.to_vec(),
        lease: Duration::from_secs(60),
    }
}

pub(crate) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i / 7 + i * 31) as u8 ^ seed).collect()
}
