//! A chunkserver in memory that speaks the real frames, and fails on demand.

use super::super::stream::{FrameReader, write_frame};
use super::lending::Lending;
use bytes::Bytes;
use gfs_proto::checksum::{block_sums, decode_sums, encode_sums, piece_sums};
use gfs_proto::chunk::{ChunkGrant, Replica, ServerAddress};
use gfs_proto::frame::{Ack, CAPABILITY_LENDS, DataError, DataReply, Kind, Lend, Prefix, Read, Sync, Write};
use gfs_proto::ids::{
    ChunkHandle, ChunkVersion, Epoch, Incarnation, Sequence, Serial, ServerId, SessionId, TruncateGeneration,
};
use gfs_proto::wire;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

/// One replica.
#[derive(Clone, Default)]
pub(crate) struct FakeChunk {
    pub version: ChunkVersion,
    pub epoch: Epoch,
    pub generation: TruncateGeneration,
    pub next: Serial,
    pub data: Vec<u8>,
    /// As on stable storage.
    pub stable: Vec<u8>,
    pub seen: HashSet<(SessionId, Sequence)>,
}

/// What goes wrong next.
#[derive(Default)]
pub(crate) struct Faults {
    /// Close the connection instead of answering this many writes, after they were applied or before.
    pub drop_writes: usize,
    pub apply_dropped: bool,
    /// Refuse writes with these.
    pub refuse_writes: VecDeque<DataError>,
    /// Damage the payload of this many answers to READ.
    pub corrupt_reads: usize,
    /// Damage every answer to READ that was not asked for by copy, or every one.
    pub rotten: bool,
    /// Blocks of the chunk that are damaged.
    pub rotten_blocks: Vec<u32>,
    pub full: bool,
    /// Answer no WRITE while this is true.
    pub held: bool,
    /// Keep answers to READ back while this is true.
    pub reads_held: bool,
    /// Every answer to READ takes so much longer.
    pub read_delay: Duration,
    /// Take connections and requests, and do nothing else, while this is true.
    pub hung: bool,
    /// Do not greet while this is true.
    pub greetings_held: bool,
    /// Answer no LEND while this is true.
    pub lends_held: bool,
    /// Refuse LEND with these.
    pub refuse_lends: VecDeque<DataError>,
    /// Refuse connections, close those that come.
    pub down: bool,
}

/// What was asked, for assertions.
#[derive(Clone, Default, Debug)]
pub(crate) struct Seen {
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
    pub syncs: usize,
    pub pings: usize,
    pub lends: usize,
    pub connections: usize,
}

pub(crate) struct FakeServer {
    pub id: ServerId,
    pub incarnation: Mutex<Incarnation>,
    pub address: ServerAddress,
    pub chunk_size: u32,
    pub chunks: Mutex<HashMap<ChunkHandle, FakeChunk>>,
    pub faults: Mutex<Faults>,
    pub seen: Mutex<Seen>,
    pub changed: Notify,
    pub peers: Mutex<HashMap<ServerId, Weak<FakeServer>>>,
    /// `None`: a server without the capability.
    pub lending: Mutex<Option<Lending>>,
}

type Answer = (Kind, Vec<u8>, Vec<u8>, Vec<Bytes>);

impl FakeServer {
    pub(crate) async fn start(id: u32, chunk_size: u32, unix: Option<String>) -> Arc<Self> {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let local = unix.as_ref().map(|path| UnixListener::bind(path).expect("a socket"));
        let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id").trim().to_owned();
        let address = ServerAddress { tcp: tcp.local_addr().expect("bound"), unix, host };
        let server = Arc::new(Self {
            id: ServerId::new(id),
            incarnation: Mutex::new(Incarnation::new(1)),
            address,
            chunk_size,
            chunks: Mutex::default(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            changed: Notify::new(),
            peers: Mutex::default(),
            lending: Mutex::default(),
        });
        let weak = Arc::downgrade(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let Some(server) = weak.upgrade() else { return };
                stream.set_nodelay(true).expect("nodelay");
                let (reader, writer) = stream.into_split();
                tokio::spawn(server.serve(reader, writer, None));
            }
        });
        if let Some(local) = local {
            let weak = Arc::downgrade(&server);
            tokio::spawn(async move {
                while let Ok((stream, _)) = local.accept().await {
                    let Some(server) = weak.upgrade() else { return };
                    let socket = stream.as_fd().try_clone_to_owned().expect("a descriptor");
                    let (reader, writer) = stream.into_split();
                    tokio::spawn(server.serve(reader, writer, Some(Arc::new(socket))));
                }
            });
        }
        server
    }

    pub(crate) fn replica(&self) -> Replica {
        Replica { server: self.id, incarnation: *self.incarnation.lock(), address: self.address.clone() }
    }

    /// A grant of a newer epoch; the first chunk of a file is cut at `size`.
    pub(crate) fn install(&self, grant: &ChunkGrant, size: u64) {
        self.revoke(grant.handle);
        if let Some(chunk) = self.chunks.lock().get_mut(&grant.handle) {
            (chunk.epoch, chunk.next) = (grant.epoch, Serial::new(1));
            chunk.generation = grant.truncate_generation;
            chunk.data.truncate(size as usize);
        }
    }

    pub(crate) fn is_hung(&self) -> bool {
        self.faults.lock().hung
    }

    pub(crate) fn is_down(&self) -> bool {
        self.faults.lock().down
    }

    /// The process dies: connections close, nothing answers.
    pub(crate) fn kill(&self) {
        self.faults.lock().down = true;
        self.changed.notify_waiters();
    }

    /// It comes back with what was on stable storage.
    pub(crate) fn restart(&self) {
        let mut incarnation = self.incarnation.lock();
        *incarnation = incarnation.next();
        for chunk in self.chunks.lock().values_mut() {
            chunk.data = chunk.stable.clone();
            chunk.epoch = Epoch::default();
        }
        self.faults.lock().down = false;
        self.changed.notify_waiters();
    }

    async fn serve<R, W>(self: Arc<Self>, reader: R, mut writer: W, socket: Option<Arc<OwnedFd>>)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        self.seen.lock().connections += 1;
        let mut reader = FrameReader::new(reader);
        let Ok((prefix, header)) = reader.head().await else { return };
        assert_eq!(prefix.kind, Kind::Hello);
        wire::Hello::decode(header).expect("a hello");
        let welcome = wire::Welcome {
            server: self.id.get(),
            incarnation: self.incarnation.lock().get(),
            capabilities: if socket.is_some() && self.lending.lock().is_some() { CAPABILITY_LENDS } else { 0 },
            chunk_size: self.chunk_size,
        };
        self.while_held(|faults| faults.greetings_held || faults.hung).await;
        let head = Prefix::encode(Kind::Welcome, 0, &welcome.encode_to_vec(), 0, 0);
        if self.is_down() || write_frame(&mut writer, &head, &[], &[]).await.is_err() {
            return;
        }
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let hang_up = Arc::new(Notify::new());
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_down() {
                return;
            }
            let next = tokio::select! {
                next = Self::next(&mut reader) => next,
                () = hang_up.notified() => return,
                () = async {
                    loop {
                        changed.as_mut().await;
                        if self.is_down() {
                            return;
                        }
                        changed.set(self.changed.notified());
                    }
                } => return,
            };
            let Some((prefix, header, sums, payload)) = next else { return };
            let (server, writer, hang_up, socket) = (self.clone(), writer.clone(), hang_up.clone(), socket.clone());
            tokio::spawn(async move {
                server.while_held(|faults| faults.hung).await;
                if prefix.kind == Kind::Lend {
                    server.while_held(|faults| faults.lends_held).await;
                }
                let answer = match prefix.kind {
                    Kind::Lend => match server.lend(&socket.expect("a local socket"), prefix.request, &header) {
                        Ok(()) => return,
                        Err(error) => Some(server.ack(Err(error), server.id)),
                    },
                    _ => server.handle(prefix, &header, &sums, payload).await,
                };
                match answer {
                    Some((kind, header, sums, payload)) => {
                        let length = payload.iter().map(Bytes::len).sum();
                        let head = Prefix::encode(kind, prefix.request, &header, sums.len(), length);
                        let _ = write_frame(&mut *writer.lock().await, &head, &sums, &payload).await;
                    }
                    None => hang_up.notify_one(),
                }
            });
        }
    }

    async fn next<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Option<(Prefix, Bytes, Bytes, Bytes)> {
        let (prefix, header) = reader.head().await.ok()?;
        let sums = reader.bytes(prefix.sums_len as usize).await.ok()?;
        let payload = reader.bytes(prefix.payload_len as usize).await.ok()?;
        Some((prefix, header, sums, payload))
    }

    /// `None`: hang up.
    async fn handle(self: &Arc<Self>, prefix: Prefix, header: &[u8], sums: &[u8], payload: Bytes) -> Option<Answer> {
        match prefix.kind {
            Kind::Read => {
                let answer = self.read(Read::decode(header).expect("a read"));
                self.while_held(|faults| faults.reads_held).await;
                let delay = self.faults.lock().read_delay;
                tokio::time::sleep(delay).await;
                Some(answer)
            }
            Kind::Write => {
                let write = Write::decode(header, prefix.payload_len).expect("a write");
                self.write(write, sums, payload).await
            }
            Kind::Sync => {
                let sync = Sync::decode(header).expect("a sync");
                self.seen.lock().syncs += 1;
                Some(self.ack(self.sync(&sync).map(|()| Serial::default()), self.id))
            }
            Kind::Ping => {
                self.seen.lock().pings += 1;
                Some(self.ack(Ok(Serial::default()), self.id))
            }
            kind => panic!("{kind:?} is not for a server"),
        }
    }

    fn lend(&self, socket: &OwnedFd, request: u64, header: &[u8]) -> Result<(), DataError> {
        let lend = Lend::decode(header).expect("a request");
        self.seen.lock().lends += 1;
        if let Some(error) = self.faults.lock().refuse_lends.pop_front() {
            return Err(error);
        }
        let chunks = self.chunks.lock();
        let chunk = chunks.get(&lend.handle).filter(|chunk| chunk.version == lend.version).ok_or(DataError::NoChunk)?;
        let mut lending = self.lending.lock();
        lending.as_mut().expect("it lends").lend(socket, request, (lend.handle, &chunk.data), self.chunk_size);
        Ok(())
    }

    /// The replica has changed.
    pub(super) fn revoke(&self, handle: ChunkHandle) {
        if let Some(lending) = &mut *self.lending.lock() {
            lending.revoke(handle);
        }
    }

    fn ack(&self, outcome: Result<Serial, DataError>, culprit: ServerId) -> Answer {
        let incarnation = *self.incarnation.lock();
        let serial = outcome.unwrap_or_default();
        let ack = Ack { outcome: outcome.map(drop), culprit, incarnation, serial, chunk_length: 0 };
        (Kind::Ack, ack.encode(), Vec::new(), Vec::new())
    }

    fn read(&self, read: Read) -> Answer {
        self.seen.lock().reads.push(read);
        let chunks = self.chunks.lock();
        let Some(chunk) = chunks.get(&read.handle) else { return self.ack(Err(DataError::NoChunk), self.id) };
        if chunk.version != read.version {
            return self.ack(Err(DataError::Version), self.id);
        }
        let end = ((read.offset + read.length) as usize).min(chunk.data.len().next_multiple_of(4096));
        let mut data = vec![0; end.saturating_sub(read.offset as usize)];
        let there = chunk.data.get(read.offset as usize..end.min(chunk.data.len())).unwrap_or_default();
        data[..there.len()].copy_from_slice(there);
        let sums = encode_sums(block_sums(&data));
        let faults = &mut *self.faults.lock();
        let once = faults.corrupt_reads > 0 && !data.is_empty();
        faults.corrupt_reads -= usize::from(once);
        if (once || faults.rotten)
            && let Some(byte) = data.first_mut()
        {
            *byte ^= 0x55;
        }
        for block in &faults.rotten_blocks {
            let at = (block * 4096).checked_sub(read.offset).map(|at| at as usize);
            if let Some(byte) = at.and_then(|at| data.get_mut(at)) {
                *byte ^= 0x55;
            }
        }
        let reply = DataReply { chunk_length: chunk.data.len() as u32 };
        (Kind::Data, reply.encode(), sums, vec![Bytes::from(data)])
    }

    /// Nothing is held back any more.
    pub(super) fn release(&self) {
        {
            let faults = &mut *self.faults.lock();
            (faults.held, faults.reads_held, faults.greetings_held, faults.lends_held) = Default::default();
            faults.hung = false;
        }
        self.changed.notify_waiters();
    }

    async fn while_held(&self, held: impl Fn(&Faults) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !held(&self.faults.lock()) {
                return;
            }
            changed.await;
        }
    }

    async fn write(self: &Arc<Self>, write: Write, sums: &[u8], payload: Bytes) -> Option<Answer> {
        self.seen.lock().writes.push(write.clone());
        self.while_held(|faults| faults.held).await;
        if self.is_down() {
            return None;
        }
        let dropped = {
            let faults = &mut *self.faults.lock();
            let dropped = faults.drop_writes > 0;
            faults.drop_writes -= usize::from(dropped);
            if dropped && !faults.apply_dropped {
                return None;
            }
            dropped
        };
        let refused = self.faults.lock().refuse_writes.pop_front();
        let outcome = match refused {
            Some(error) => Err((error, self.id)),
            None => Box::pin(self.replicate(write, sums, payload)).await,
        };
        match outcome {
            _ if dropped => None,
            Ok(serial) => Some(self.ack(Ok(serial), self.id)),
            Err((error, culprit)) => Some(self.ack(Err(error), culprit)),
        }
    }

    /// Applies, then hands on along the chain.
    async fn replicate(
        self: &Arc<Self>,
        mut write: Write,
        sums: &[u8],
        payload: Bytes,
    ) -> Result<Serial, (DataError, ServerId)> {
        let serial = self.apply(&write, sums, &payload).await.map_err(|error| (error, self.id))?;
        if write.chain.is_empty() {
            return Ok(serial);
        }
        let hop = write.chain.remove(0);
        let peer = self.peers.lock().get(&hop.server).and_then(Weak::upgrade).filter(|peer| !peer.is_down());
        let peer = peer.ok_or((DataError::Chain, hop.server))?;
        write.incarnation = hop.incarnation;
        write.serial = Some(serial);
        peer.seen.lock().writes.push(write.clone());
        peer.while_held(|faults| faults.hung).await;
        let refused = peer.faults.lock().refuse_writes.pop_front();
        if let Some(error) = refused {
            return Err(if error == DataError::NoSpace { (error, hop.server) } else { (DataError::Chain, hop.server) });
        }
        Box::pin(peer.replicate(write, sums, payload)).await.map_err(|(error, culprit)| match error {
            DataError::NoSpace | DataError::Chain => (error, culprit),
            _ => (DataError::Chain, hop.server),
        })
    }

    async fn apply(&self, write: &Write, sums: &[u8], payload: &[u8]) -> Result<Serial, DataError> {
        let expected: Vec<_> = {
            let mut rest = payload;
            let mut all = Vec::new();
            for extent in &write.extents {
                let (bytes, more) = rest.split_at(extent.length as usize);
                rest = more;
                all.extend(piece_sums(extent.offset, bytes));
            }
            all
        };
        if !expected.into_iter().eq(decode_sums(sums)) {
            return Err(DataError::Transfer);
        }
        let deadline = tokio::time::Instant::now() + Duration::from_millis(800);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(serial) = self.try_apply(write, payload)? {
                self.changed.notify_waiters();
                return Ok(serial);
            }
            tokio::time::timeout_at(deadline, changed).await.map_err(|_| DataError::SerialGap)?;
        }
    }

    /// `None`: a predecessor is missing.
    fn try_apply(&self, write: &Write, payload: &[u8]) -> Result<Option<Serial>, DataError> {
        if *self.incarnation.lock() != write.incarnation {
            return Err(DataError::Incarnation);
        }
        if self.faults.lock().full {
            return Err(DataError::NoSpace);
        }
        let mut chunks = self.chunks.lock();
        if write.create && !chunks.contains_key(&write.handle) {
            let (version, epoch, generation) = (write.version, write.epoch, write.truncate_generation);
            let chunk = FakeChunk { version, epoch, generation, next: Serial::new(1), ..FakeChunk::default() };
            chunks.insert(write.handle, chunk);
        }
        let chunk = chunks.get_mut(&write.handle).ok_or(DataError::NoChunk)?;
        if chunk.version != write.version {
            return Err(DataError::Version);
        }
        if chunk.epoch != write.epoch {
            return Err(DataError::Epoch);
        }
        if chunk.generation > write.truncate_generation {
            return Err(DataError::Generation);
        }
        let serial = write.serial.unwrap_or(chunk.next);
        if serial > chunk.next {
            return Ok(None);
        }
        let known = chunk.seen.contains(&(write.session, write.sequence));
        if serial < chunk.next && !known {
            return Err(DataError::Protocol);
        }
        if serial == chunk.next {
            chunk.next = serial.next();
        }
        if !known {
            self.revoke(write.handle);
            chunk.put(write, payload);
        }
        if write.sync {
            chunk.stable = chunk.data.clone();
        }
        Ok(Some(serial))
    }

    fn sync(&self, sync: &Sync) -> Result<(), DataError> {
        if *self.incarnation.lock() != sync.incarnation {
            return Err(DataError::Incarnation);
        }
        let mut chunks = self.chunks.lock();
        for named in &sync.chunks {
            let chunk = chunks.get_mut(&named.handle).ok_or(DataError::NoChunk)?;
            if chunk.version != named.version {
                return Err(DataError::Version);
            }
            chunk.stable = chunk.data.clone();
        }
        Ok(())
    }
}

impl FakeChunk {
    fn put(&mut self, write: &Write, payload: &[u8]) {
        self.seen.insert((write.session, write.sequence));
        let mut rest = payload;
        for extent in &write.extents {
            let (bytes, more) = rest.split_at(extent.length as usize);
            rest = more;
            let (start, end) = (extent.offset as usize, (extent.offset + extent.length) as usize);
            if self.data.len() < end {
                self.data.resize(end, 0);
            }
            self.data[start..end].copy_from_slice(bytes);
        }
    }
}
