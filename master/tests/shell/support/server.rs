//! A chunkserver that keeps its replicas in a table and does as the master says, unless told otherwise.

use super::{connect, soon};
use gfs_proto::FsError;
use gfs_proto::chunk::ServerAddress;
use gfs_proto::control::{
    Align, ChunkCommand, ChunkReport, CommandOutcome, CommandResult, DirectorySpace, FromChunkserver, Heartbeat,
    Install, InstallReport, Mended, NotDeleted, Position, Register, ReplicaRow, ReplicaState, ToChunkserver,
    WriteOutcome,
};
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId, Incarnation, RunId, ServerId, ServerUuid, Term};
use gfs_proto::ops::Capabilities;
use gfs_proto::wire;
use gfs_proto::wire::chunkserver_link_client::ChunkserverLinkClient;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// What a fake does with commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manners {
    /// Carries them out.
    Good,
    /// Answers none.
    Mute,
    /// Answers no deletions, and deletes nothing.
    NoDeletions,
    /// Carries copies and adoptions out only when it is told to be good again.
    SlowCopies,
    /// Refuses to adopt anything.
    NoAdoptions,
    /// Finds nothing to mend a block with.
    NoMends,
    /// Cannot be aligned: says that the source could not be read, or, if false, that its own disk fails.
    NoAlignments(bool),
}

#[derive(Default)]
struct State {
    replicas: BTreeMap<ChunkHandle, ReplicaRow>,
    commands: Vec<ChunkCommand>,
    acknowledged: u64,
    sent: BTreeMap<u64, Instant>,
    /// When the newest acknowledged heartbeat was sent.
    served_from: Option<Instant>,
    mute: bool,
    slow_copies: bool,
    no_deletions: bool,
    no_adoptions: bool,
    no_mends: bool,
    /// Chunks that it finds damaged when it is told to look.
    rotten: BTreeSet<ChunkHandle>,
    no_alignments: Option<FsError>,
    /// What it says at installs of the writes that a replica has.
    contents: BTreeMap<ChunkHandle, Content>,
    /// Copies and adoptions that it has yet to make, with their numbers.
    copies: Vec<(u64, ChunkCommand)>,
    server: Option<ServerId>,
}

/// The writes that a replica has, as far as an install tells.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) digest: u64,
    pub(crate) position: Position,
    pub(crate) outcomes: Vec<WriteOutcome>,
}

/// See the module's text. Its stream ends when it is dropped.
pub(crate) struct FakeServer {
    pub(crate) uuid: ServerUuid,
    incarnation: Incarnation,
    state: Arc<Mutex<State>>,
    out: Option<mpsc::Sender<wire::FromChunkserver>>,
    task: JoinHandle<()>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A fake that was killed.
pub(crate) struct Dead {
    number: u8,
    incarnation: Incarnation,
    replicas: BTreeMap<ChunkHandle, ReplicaRow>,
}

pub(crate) fn register(number: u8, incarnation: u64, cluster: Option<ClusterId>) -> Register {
    Register {
        cluster,
        uuid: ServerUuid::new([number; 16]),
        incarnation: Incarnation::new(incarnation),
        run: RunId::new(incarnation),
        // A port that nobody listens at: a connection is refused at once.
        address: ServerAddress { tcp: "127.0.0.1:1".parse().expect("address"), unix: None, host: "here".to_owned() },
        rack: String::new(),
        software: "fake".to_owned(),
        space: space(),
        capabilities: Capabilities::default(),
        highest_term: Term::new(0),
    }
}

fn space() -> Vec<DirectorySpace> {
    vec![DirectorySpace {
        path: "/fake".to_owned(),
        bytes_total: 1 << 40,
        bytes_free: 1 << 39,
        chunks: 0,
        accepts_chunks: true,
        error: String::new(),
    }]
}

/// Opens a stream with a registration; the master's answer, or why it refused.
pub(crate) async fn open(
    url: &str,
    register: Register,
) -> Result<(mpsc::Sender<wire::FromChunkserver>, tonic::Streaming<wire::ToChunkserver>), tonic::Status> {
    let mut client = ChunkserverLinkClient::new(connect(url).await);
    let (out, receiver) = mpsc::channel(1024);
    out.send((&FromChunkserver::Register(register)).into()).await.expect("open");
    Ok((out, client.link(ReceiverStream::new(receiver)).await?.into_inner()))
}

impl FakeServer {
    pub(crate) async fn start(url: &str, number: u8) -> Self {
        Self::start_with(url, number, 1, BTreeMap::new()).await
    }

    /// Starts again after a crash, with what it has on disk.
    pub(crate) async fn again(self, url: &str) -> Self {
        self.kill().start(url).await
    }

    /// Its process dies; what it has on disk stays.
    pub(crate) fn kill(self) -> Dead {
        let replicas = self.state.lock().replicas.clone();
        Dead { number: self.uuid.as_bytes()[0], incarnation: self.incarnation, replicas }
    }

    async fn start_with(url: &str, number: u8, incarnation: u64, replicas: BTreeMap<ChunkHandle, ReplicaRow>) -> Self {
        let register = register(number, incarnation, None);
        let (uuid, incarnation) = (register.uuid, register.incarnation);
        let (out, mut incoming) = open(url, register).await.expect("registered");
        let state = Arc::new(Mutex::new(State { replicas, ..State::default() }));
        let shared = state.clone();
        let sender = out.downgrade();
        let task = tokio::spawn(async move {
            let mut commands = pin!(async {
                while let Ok(Some(message)) = incoming.message().await {
                    let message = ToChunkserver::try_from(message).expect("a valid message");
                    take(&shared, &sender, incarnation, message).await;
                }
            });
            tokio::select! {
                () = &mut commands => {}
                () = beat(&shared, &sender) => commands.await,
            }
        });
        Self { uuid, incarnation, state, out: Some(out), task }
    }

    pub(crate) fn id(&self) -> ServerId {
        self.state.lock().server.expect("registered")
    }

    pub(crate) fn manners(&self, manners: Manners) {
        let mut state = self.state.lock();
        state.mute = manners == Manners::Mute;
        state.slow_copies = manners == Manners::SlowCopies;
        state.no_deletions = manners == Manners::NoDeletions;
        state.no_adoptions = manners == Manners::NoAdoptions;
        state.no_mends = manners == Manners::NoMends;
        state.no_alignments = match manners {
            Manners::NoAlignments(true) => Some(FsError::Unavailable),
            Manners::NoAlignments(false) => Some(FsError::Io),
            _ => None,
        };
    }

    /// Makes the copies and adoptions that were asked for meanwhile; answers if `answer`, and reports them.
    pub(crate) async fn make_copies(&self, answer: bool) {
        let copies = std::mem::take(&mut self.state.lock().copies);
        for (id, command) in copies {
            let outcome = carry_out(&mut self.state.lock(), self.incarnation, command);
            if let (Ok(CommandOutcome::Replica(row)), false) = (&outcome, answer) {
                let present = vec![*row];
                let report = ChunkReport { full: false, last: true, present, removed: Vec::new() };
                self.tell(FromChunkserver::Report(report)).await;
            }
            if answer {
                let result = CommandResult { id, outcome, detail: String::new() };
                self.tell(FromChunkserver::Result(result)).await;
            }
        }
    }

    /// Makes the copies and adoptions that were asked for meanwhile; what is to be told of them, perhaps later.
    pub(crate) fn carry_out_copies(&self) -> Vec<FromChunkserver> {
        let mut state = self.state.lock();
        let copies = std::mem::take(&mut state.copies);
        let mut result = |(id, command)| {
            let outcome = carry_out(&mut state, self.incarnation, command);
            FromChunkserver::Result(CommandResult { id, outcome, detail: String::new() })
        };
        copies.into_iter().map(&mut result).collect()
    }

    /// Copies and adoptions that it was asked for and has yet to make.
    pub(crate) fn copies_waiting(&self) -> usize {
        self.state.lock().copies.len()
    }

    /// As a client's first frame would: makes the replica and reports it.
    pub(crate) async fn create(&self, handle: ChunkHandle, version: ChunkVersion, length: u32) {
        let row = self.create_unreported(handle, version, length);
        let report = ChunkReport { full: false, last: true, present: vec![row], removed: Vec::new() };
        self.tell(FromChunkserver::Report(report)).await;
    }

    /// [`FakeServer::create`], with the report still to come.
    pub(crate) fn create_unreported(&self, handle: ChunkHandle, version: ChunkVersion, length: u32) -> ReplicaRow {
        let row = ReplicaRow { handle, version, length, state: ReplicaState::Dirty };
        self.state.lock().replicas.insert(handle, row);
        row
    }

    /// Finds its replica damaged, and reports it.
    pub(crate) async fn find_damage(&self, handle: ChunkHandle) {
        self.change(handle, ReplicaState::Damaged).await;
    }

    /// Has its replica on stable storage, and reports it.
    pub(crate) async fn flush(&self, handle: ChunkHandle) {
        self.change(handle, ReplicaState::Clean).await;
    }

    async fn change(&self, handle: ChunkHandle, now: ReplicaState) {
        let row = {
            let mut state = self.state.lock();
            let row = state.replicas.get_mut(&handle).expect("has it");
            row.state = now;
            *row
        };
        let report = ChunkReport { full: false, last: true, present: vec![row], removed: Vec::new() };
        self.tell(FromChunkserver::Report(report)).await;
    }

    /// Its replica is damaged, which it finds when it is told to look.
    pub(crate) fn rot(&self, handle: ChunkHandle) {
        self.state.lock().rotten.insert(handle);
    }

    /// Servers that it was to mend the chunk from, each time.
    pub(crate) fn mends(&self, handle: ChunkHandle) -> Vec<Vec<ServerId>> {
        let mend = |command: &ChunkCommand| match command {
            ChunkCommand::Mend { handle: of, peers, .. } if *of == handle => {
                Some(peers.iter().map(|peer| peer.server).collect())
            }
            _ => None,
        };
        self.state.lock().commands.iter().filter_map(mend).collect()
    }

    /// Times that it was told to look at the chunk.
    pub(crate) fn looks(&self, handle: ChunkHandle) -> usize {
        let is_look =
            |command: &&ChunkCommand| matches!(command, ChunkCommand::Verify(chunk) if chunk.handle == handle);
        self.state.lock().commands.iter().filter(is_look).count()
    }

    /// What it says at installs from now on.
    pub(crate) fn set_content(&self, handle: ChunkHandle, content: Content) {
        self.state.lock().contents.insert(handle, content);
    }

    pub(crate) fn content(&self, handle: ChunkHandle) -> Content {
        self.state.lock().contents.get(&handle).cloned().unwrap_or_default()
    }

    pub(crate) fn alignments(&self, handle: ChunkHandle) -> Vec<Align> {
        let align = |command: &ChunkCommand| match command {
            ChunkCommand::Align(align) if align.handle == handle => Some(align.clone()),
            _ => None,
        };
        self.state.lock().commands.iter().filter_map(align).collect()
    }

    /// Changes what is on disk behind everybody's back.
    pub(crate) fn set_version(&self, handle: ChunkHandle, version: ChunkVersion) {
        self.state.lock().replicas.get_mut(&handle).expect("has it").version = version;
    }

    /// As if its disk had been replaced by an empty one; it does not report that.
    pub(crate) fn lose(&self, handle: ChunkHandle) {
        self.state.lock().replicas.remove(&handle).expect("has it");
    }

    pub(crate) async fn tell(&self, message: FromChunkserver) {
        let out = self.out.as_ref().expect("it has not left");
        out.send((&message).into()).await.expect("the stream is open");
    }

    /// Takes leave and waits until the master has ended the stream.
    pub(crate) async fn leave(mut self) -> Dead {
        self.tell(FromChunkserver::Leaving).await;
        self.out = None;
        soon("the end of the stream", &mut self.task).await.expect("no panic");
        self.kill()
    }

    /// Since when it may have answered its last read, if it keeps to the read lease.
    pub(crate) fn served_from(&self) -> Option<Instant> {
        self.state.lock().served_from
    }

    pub(crate) fn version(&self, handle: ChunkHandle) -> Option<ChunkVersion> {
        self.state.lock().replicas.get(&handle).map(|row| row.version)
    }

    pub(crate) fn installs(&self, handle: ChunkHandle) -> Vec<Install> {
        let state = self.state.lock();
        let install = |command: &ChunkCommand| match command {
            ChunkCommand::Install(install) if install.handle == handle => Some(install.clone()),
            _ => None,
        };
        state.commands.iter().filter_map(install).collect()
    }

    pub(crate) fn commands(&self) -> Vec<ChunkCommand> {
        self.state.lock().commands.clone()
    }

    /// Versions of the chunk that it was to adopt, each with the one that it was to raise it to.
    pub(crate) fn adoptions(&self, handle: ChunkHandle) -> Vec<(ChunkVersion, ChunkVersion)> {
        let adoption = |command: &ChunkCommand| match command {
            ChunkCommand::Adopt { handle: of, version, raise_to } if *of == handle => Some((*version, *raise_to)),
            _ => None,
        };
        self.state.lock().commands.iter().filter_map(adoption).collect()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.state.lock().acknowledged
    }
}

impl Dead {
    /// Its machine has lost power: what was being written is suspect.
    pub(crate) fn without_power(mut self) -> Self {
        let dirty = self.replicas.values_mut().filter(|row| row.state == ReplicaState::Dirty);
        dirty.for_each(|row| row.state = ReplicaState::Suspect);
        self
    }

    /// Its replica is not on its disk any more.
    pub(crate) fn without(mut self, handle: ChunkHandle) -> Self {
        self.replicas.remove(&handle).expect("has it");
        self
    }

    /// The version of a replica on its disk.
    pub(crate) fn set_version(&mut self, handle: ChunkHandle, version: ChunkVersion) {
        self.replicas.get_mut(&handle).expect("has it").version = version;
    }

    /// Starts again, with what it has on disk.
    pub(crate) async fn start(self, url: &str) -> FakeServer {
        FakeServer::start_with(url, self.number, self.incarnation.next().get(), self.replicas).await
    }
}

async fn beat(state: &Mutex<State>, out: &mpsc::WeakSender<wire::FromChunkserver>) {
    for sent in 1.. {
        let Some(out) = out.upgrade() else { return };
        state.lock().sent.insert(sent, Instant::now());
        let heartbeat = Heartbeat { sent, space: space(), writing: Vec::new(), requests_in_flight: 0, scrub: None };
        if out.send((&FromChunkserver::Heartbeat(heartbeat)).into()).await.is_err() {
            return;
        }
        drop(out);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn take(
    state: &Mutex<State>,
    out: &mpsc::WeakSender<wire::FromChunkserver>,
    incarnation: Incarnation,
    message: ToChunkserver,
) {
    let answer = match message {
        ToChunkserver::Registered(registered) => {
            let mut state = state.lock();
            state.server = Some(registered.server);
            let present = state.replicas.values().copied().collect();
            FromChunkserver::Report(ChunkReport { full: true, last: true, present, removed: Vec::new() })
        }
        ToChunkserver::HeartbeatAck { sent, .. } => {
            let mut state = state.lock();
            state.acknowledged += 1;
            state.served_from = state.sent.get(&sent).copied();
            return;
        }
        ToChunkserver::Command { id, command, .. } => {
            let mut state = state.lock();
            state.commands.push(command.clone());
            if state.mute || state.no_deletions && matches!(command, ChunkCommand::Delete { .. }) {
                return;
            }
            if state.slow_copies && matches!(command, ChunkCommand::Copy { .. } | ChunkCommand::Adopt { .. }) {
                state.copies.push((id, command));
                return;
            }
            let looked_at = match &command {
                ChunkCommand::Verify(chunk) => Some(chunk.handle),
                _ => None,
            };
            let outcome = carry_out(&mut state, incarnation, command);
            match looked_at {
                // nobody waits for what it finds: it is reported
                Some(handle) => {
                    let present = state.replicas.get(&handle).copied().into_iter().collect();
                    FromChunkserver::Report(ChunkReport { full: false, last: true, present, removed: Vec::new() })
                }
                None => FromChunkserver::Result(CommandResult { id, outcome, detail: String::new() }),
            }
        }
    };
    tell(out, &answer).await;
}

/// The test may be over.
async fn tell(out: &mpsc::WeakSender<wire::FromChunkserver>, message: &FromChunkserver) {
    if let Some(out) = out.upgrade() {
        let _ = out.send(message.into()).await;
    }
}

fn carry_out(state: &mut State, incarnation: Incarnation, command: ChunkCommand) -> Result<CommandOutcome, FsError> {
    match command {
        ChunkCommand::Install(install) => {
            let row = state.replicas.get_mut(&install.handle).ok_or(FsError::NotFound)?;
            if row.version < install.version {
                return Err(FsError::NotFound);
            }
            if row.state == ReplicaState::Suspect {
                return Err(FsError::NoReplica);
            }
            if row.version != install.version && Some(row.version) != install.raise_to {
                return Err(FsError::Stale);
            }
            row.version = install.raise_to.unwrap_or(row.version);
            row.length = install.cut.map_or(row.length, |cut| row.length.min(cut));
            let length = row.length;
            let Content { digest, position, outcomes } =
                state.contents.get(&install.handle).cloned().unwrap_or_default();
            let report = InstallReport { length, incarnation, digest, position, outcomes, ..InstallReport::default() };
            Ok(CommandOutcome::Installed(report))
        }
        ChunkCommand::Align(align) => {
            if let Some(error) = state.no_alignments {
                return Err(error);
            }
            let row = state.replicas.get(&align.handle).ok_or(FsError::NotFound)?;
            if row.version != align.version {
                return Err(FsError::Stale);
            }
            // what the source has is said by its position: fakes do not read from each other
            let digest = align.position.serial.get();
            let content = Content { digest, position: align.position, outcomes: align.outcomes };
            state.contents.insert(align.handle, content);
            Ok(CommandOutcome::Done)
        }
        ChunkCommand::Delete { chunks, .. } => {
            let mut kept = Vec::new();
            for SyncChunk { handle, version } in chunks {
                match state.replicas.get(&handle) {
                    Some(row) if row.version != version => kept.push(NotDeleted { handle, error: FsError::Stale }),
                    _ => drop(state.replicas.remove(&handle)),
                }
            }
            Ok(CommandOutcome::Deleted(kept))
        }
        ChunkCommand::Copy { handle, version, .. } => {
            if state
                .replicas
                .get(&handle)
                .is_some_and(|row| row.version >= version && row.state != ReplicaState::Suspect)
            {
                return Err(FsError::Stale);
            }
            let row = ReplicaRow { handle, version, length: 100, state: ReplicaState::Clean };
            state.replicas.insert(handle, row);
            Ok(CommandOutcome::Replica(row))
        }
        ChunkCommand::Adopt { .. } if state.no_adoptions => Err(FsError::Io),
        ChunkCommand::Adopt { handle, version, raise_to } => {
            let row = state.replicas.get_mut(&handle).ok_or(FsError::NotFound)?;
            if row.version != version && (row.version, row.state) != (raise_to, ReplicaState::Clean) {
                return Err(FsError::Stale);
            }
            (row.version, row.state) = (raise_to, ReplicaState::Clean);
            Ok(CommandOutcome::Replica(*row))
        }
        ChunkCommand::Verify(chunk) => {
            let rotten = state.rotten.contains(&chunk.handle);
            let row = state.replicas.get_mut(&chunk.handle).ok_or(FsError::NotFound)?;
            row.state = if rotten { ReplicaState::Damaged } else { row.state };
            Ok(CommandOutcome::Replica(*row))
        }
        ChunkCommand::Mend { handle, version, .. } => {
            let lost = state.no_mends;
            let row = state.replicas.get_mut(&handle).filter(|row| row.version == version).ok_or(FsError::Stale)?;
            row.state = if lost { ReplicaState::Damaged } else { ReplicaState::Clean };
            let (blocks_mended, blocks_lost) = if lost { (0, 1) } else { (1, 0) };
            Ok(CommandOutcome::Mended(Mended {
                row: *row,
                blocks_mended,
                blocks_lost,
                lost: vec![3; usize::from(lost)],
            }))
        }
        ChunkCommand::Revoke { .. } | ChunkCommand::Scrub => Ok(CommandOutcome::Done),
    }
}
