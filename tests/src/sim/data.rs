//! How a client writes and reads chunks: a grant, frames to all members or along the chain, a new grant when
//! one of them fails, and everything again that was not acknowledged. What each answer means is what
//! `gfs-client` takes it for.

use super::check::{CHUNK, CHUNKS, UNITS, first_unit};
use super::client::{Client, File};
use super::dice::Dice;
use super::model::{Reach, UNIT, bytes_of, find_wrong};
use super::net::{Endpoint, Serving};
use super::server::place_of;
use gfs_chunkserver::net::buffer::Payload;
use gfs_chunkserver::net::dial::Answer;
use gfs_chunkserver::peers::Request;
use gfs_proto::FsError;
use gfs_proto::checksum::{block_sums, decode_sums, encode_sums, piece_sums};
use gfs_proto::chunk::{ChunkGrant, ChunkLocation, ChunkMap, Replica};
use gfs_proto::frame::{DataError, Extent, Hop, Kind, Read, Sync, SyncChunk, Write};
use gfs_proto::ids::{ChunkIndex, InodeId, Sequence, Serial, ServerId};
use gfs_proto::ops::{FlushedChunk, HeldChunk, Op, OpResult};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// For one frame.
const BOUND: Duration = Duration::from_millis(2500);
const PAUSE: Duration = Duration::from_millis(30);
/// An fsync awaits copies of a chunk that fewer members have flushed: what the master says by default.
const COPIES_MIN: usize = 2;

/// A chunk that the client may write.
pub(super) struct Writing {
    grant: Arc<ChunkGrant>,
    next: Serial,
    /// No frame of a new chunk was acknowledged yet.
    creating: bool,
    used: Instant,
    /// False: a grant is to be asked for. If the same comes back its serials go on.
    usable: bool,
}

/// Units of one chunk that are written together, under one number.
#[derive(Clone)]
struct Frame {
    sequence: Sequence,
    stamp: u32,
    /// Within the chunk.
    units: Range<usize>,
    sync: bool,
}

/// What an attempt came to.
enum Failed {
    Stale,
    Broken(Vec<ServerId>),
    Busy,
}

/// How a member answered: nothing, or what it said.
type Outcome = Option<(Result<(), DataError>, ServerId)>;

impl Frame {
    fn request(&self, session: gfs_proto::ids::SessionId, writing: &Writing, serial: Serial) -> (Write, Request) {
        let grant = &writing.grant;
        let (offset, length) = (self.units.start as u32 * UNIT, self.units.len() as u32 * UNIT);
        let bytes: Vec<u8> = self.units.clone().flat_map(|_| bytes_of(self.stamp)).collect();
        let mut payload = Payload::new(bytes.len());
        payload.copy_from_slice(&bytes);
        let write = Write {
            handle: grant.handle,
            version: grant.version,
            epoch: grant.epoch,
            incarnation: Default::default(),
            session,
            sequence: self.sequence,
            serial: Some(serial),
            truncate_generation: grant.truncate_generation,
            create: writing.creating,
            sync: self.sync,
            extents: vec![Extent { offset, length }],
            chain: Vec::new(),
        };
        let sums = Arc::new(encode_sums(piece_sums(offset, &bytes)));
        (write.clone(), Request::Write { write, sums, payload: Arc::new(payload) })
    }
}

fn ack(answer: Option<Answer>) -> Outcome {
    let ack = answer?.ack().ok()?;
    Some((ack.outcome, ack.culprit))
}

/// As `gfs-client` adds outcomes up.
fn verdict(asked: &[Replica], outcomes: &[Outcome]) -> Result<(), Failed> {
    let refused = |error| outcomes.iter().flatten().any(|(outcome, _)| *outcome == Err(error));
    if refused(DataError::Epoch) || refused(DataError::Generation) {
        return Err(Failed::Stale);
    }
    let suspect = |(replica, outcome): (&Replica, &Outcome)| match outcome {
        None => Some(replica.server),
        Some((Ok(()) | Err(DataError::Busy), _)) => None,
        Some((Err(DataError::Chain), culprit)) => Some(*culprit),
        Some((Err(_), _)) => Some(replica.server),
    };
    let suspects: Vec<ServerId> = asked.iter().zip(outcomes).filter_map(suspect).collect();
    if !suspects.is_empty() {
        return Err(Failed::Broken(suspects));
    }
    if refused(DataError::Busy) { Err(Failed::Busy) } else { Ok(()) }
}

fn members(grant: &ChunkGrant) -> u8 {
    grant.replicas.iter().fold(0, |all, replica| match place_of(replica.address.tcp) {
        super::net::Place::Server(number) => all | 1 << number,
        _ => all,
    })
}

impl Client {
    /// A grant that came with something else.
    pub(super) async fn take(&self, grant: ChunkGrant) {
        self.net.checks.granted(&grant);
        let first = first_unit(grant.index);
        self.net.checks.file(grant.inode, |model| model.keep(first, UNITS, members(&grant)));
        let mut writing = self.writing.lock().await;
        let key = (grant.inode, grant.index.get());
        let again = writing.get(&key).filter(|known| known.grant.epoch == grant.epoch);
        let next = again.map_or(Serial::new(1), |known| known.next);
        let creating = again.map_or(grant.created, |known| known.creating);
        writing.insert(key, Writing { grant: Arc::new(grant), next, creating, used: Instant::now(), usable: true });
    }

    pub(super) async fn forget_grants(&self, inode: InodeId) {
        for (_, held) in self.writing.lock().await.iter_mut().filter(|((of, _), _)| *of == inode) {
            held.usable = false;
        }
    }

    /// The grant of a chunk, which is not used any more; `None` if it was not before.
    async fn put_away(&self, inode: InodeId, index: u32) -> Option<Arc<ChunkGrant>> {
        let mut writing = self.writing.lock().await;
        let held = writing.get_mut(&(inode, index)).filter(|held| held.usable)?;
        held.usable = false;
        Some(held.grant.clone())
    }

    pub(super) async fn return_grant(&self, inode: InodeId, index: u32) {
        let Some(grant) = self.put_away(inode, index).await else { return };
        let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
        drop(self.ask("return", Op::ReturnChunks { chunks: vec![held] }).await); // it ends by itself otherwise
    }

    /// Gets a grant for a chunk if there is none that can be used. False if the file is gone.
    async fn ready(&self, file: &File, index: ChunkIndex) -> bool {
        let key = (file.inode, index.get());
        {
            let writing = self.writing.lock().await;
            let fresh = |held: &Writing| held.usable && held.used.elapsed() < held.grant.lease * 3 / 4;
            if writing.get(&key).is_some_and(fresh) {
                return true;
            }
        }
        match self.ask("grant", Op::GrantChunk { inode: file.inode.into(), index }).await {
            Ok(OpResult::Grant(grant)) => {
                self.take(grant).await;
                true
            }
            Err(FsError::NoReplica) => {
                self.give_up(file, index).await;
                false
            }
            other => {
                self.net.checks.fail(|| format!("no grant of chunk {index} of inode {}: {other:?}", file.inode));
                false
            }
        }
    }

    /// A chain broke: another grant, or none for now.
    async fn broke(&self, file: &File, index: ChunkIndex, suspects: Vec<ServerId>) {
        let Some(grant) = self.put_away(file.inode, index.get()).await else { return };
        let op = Op::BreakChunk {
            inode: file.inode.into(),
            index,
            handle: grant.handle,
            version: grant.version,
            epoch: grant.epoch,
            suspects,
        };
        match self.ask("break", op).await {
            Ok(OpResult::Grant(grant)) => self.take(grant).await,
            // if there is no replica the next grant says so again
            Ok(_) | Err(FsError::StaleGrant | FsError::NoReplica) => {}
            Err(error) => self.net.checks.fail(|| format!("a broken chain was not mended: {error}, {grant:?}")),
        }
    }

    /// Writes units of a file in frames; returns when all members of each chunk have acknowledged.
    pub(super) async fn write_units(&self, file: &File, units: Range<usize>, dice: &mut Dice) -> bool {
        for index in 0..CHUNKS as usize {
            let (begin, end) = (index * UNITS, (index + 1) * UNITS);
            let (start, stop) = (units.start.clamp(begin, end), units.end.clamp(begin, end));
            if start == stop {
                continue;
            }
            let frames = self.frames_of(file, start..stop, dice);
            let local = frames
                .into_iter()
                .map(|frame| Frame { units: frame.units.start - begin..frame.units.end - begin, ..frame });
            if !self.deliver(file, ChunkIndex::new(index as u32), local.collect(), dice).await {
                return false;
            }
        }
        true
    }

    /// Cuts a range into up to three writes, the later of which may lie over the earlier ones.
    fn frames_of(&self, file: &File, units: Range<usize>, dice: &mut Dice) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut whole = vec![units.clone()];
        while whole.len() < 3 && dice.chance(400) {
            let start = dice.within(units.start as u64, units.end as u64 - 1) as usize;
            whole.push(start..dice.within(start as u64 + 1, units.end as u64) as usize);
        }
        for units in whole {
            let stamp = self.stamp();
            self.net.checks.file(file.inode, |model| model.issue(stamp, units.start, units.len()));
            let sequence = Sequence::new(self.frames.fetch_add(1, Ordering::Relaxed));
            frames.push(Frame { sequence, stamp, units, sync: dice.chance(100) });
        }
        frames
    }

    /// Sends frames until all are acknowledged by all members.
    async fn deliver(&self, file: &File, index: ChunkIndex, mut frames: Vec<Frame>, dice: &mut Dice) -> bool {
        while !frames.is_empty() {
            if self.net.checks.violation().is_some() || !self.ready(file, index).await {
                return false;
            }
            let chain = dice.chance(500);
            let failed = self.send(file, index, &mut frames, chain).await;
            match failed {
                Ok(()) => {}
                Err(Failed::Stale) => drop(self.put_away(file.inode, index.get()).await),
                Err(Failed::Broken(suspects)) => self.broke(file, index, suspects).await,
                Err(Failed::Busy) => tokio::time::sleep(PAUSE).await,
            }
        }
        true
    }

    /// One attempt at all frames, at the same time; those that are acknowledged are taken out.
    async fn send(&self, file: &File, index: ChunkIndex, frames: &mut Vec<Frame>, chain: bool) -> Result<(), Failed> {
        let (grant, sent) = self.take_turns((file.inode, index.get()), frames).await?;
        let before = self.net.checks.losses();
        let mut tasks = JoinSet::new();
        let mut asked = Vec::new();
        for (at, (write, request)) in sent.into_iter().enumerate() {
            // the first frame of a new chunk goes to all, whatever its size
            let chain = chain && !(write.create && write.serial == Some(Serial::new(1)));
            asked.push(if chain { 1 } else { grant.replicas.len() });
            self.post(&mut tasks, (at, asked[at]), &grant, (write, request));
        }
        let mut outcomes: Vec<Vec<Outcome>> = asked.iter().map(|count| vec![None; *count]).collect();
        while let Some(done) = tasks.join_next().await {
            let (at, slot, outcome) = done.expect("a request does not panic");
            outcomes[at][slot] = outcome;
        }
        let mut verdicts: Vec<_> =
            outcomes.iter().map(|outcomes| verdict(&grant.replicas[..outcomes.len()], outcomes)).collect();
        // members apply in the order of serials: who has the later one has the earlier ones
        if let Some(last) = verdicts.iter().rposition(Result::is_ok) {
            verdicts[..last].fill_with(|| Ok(()));
            self.note(&grant, &frames[..=last], &verdicts, before).await;
        }
        let mut kept = verdicts.iter().map(Result::is_err);
        frames.retain(|_| kept.next().unwrap_or(true));
        verdicts.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Serials for all frames, in order, under the grant that is held.
    async fn take_turns(
        &self,
        key: (InodeId, u32),
        frames: &[Frame],
    ) -> Result<(Arc<ChunkGrant>, Vec<(Write, Request)>), Failed> {
        let session = self.session();
        let mut writing = self.writing.lock().await;
        let held = writing.get_mut(&key).filter(|held| held.usable).ok_or(Failed::Stale)?;
        let mut sent = Vec::new();
        for frame in frames {
            let serial = held.next;
            held.next = serial.next();
            sent.push(frame.request(session, held, serial));
        }
        if !held.creating {
            held.used = Instant::now();
        }
        Ok((held.grant.clone(), sent))
    }

    /// Sends frame number `at`: to so many members, or to the first, which sends it on to the others.
    fn post(
        &self,
        tasks: &mut JoinSet<(usize, usize, Outcome)>,
        (at, asked): (usize, usize),
        grant: &Arc<ChunkGrant>,
        (write, request): (Write, Request),
    ) {
        let Request::Write { sums, payload, .. } = request else { return };
        let hop = |replica: &Replica| Hop {
            server: replica.server,
            incarnation: replica.incarnation,
            address: replica.address.tcp,
        };
        let chain: Vec<Hop> = grant.replicas[asked..].iter().map(hop).collect();
        for (slot, replica) in grant.replicas.iter().take(asked).enumerate() {
            let write = Write { incarnation: replica.incarnation, chain: chain.clone(), ..write.clone() };
            let request = Request::Write { write, sums: sums.clone(), payload: payload.clone() };
            let (net, ends) = (self.net.clone(), (self.place, place_of(replica.address.tcp)));
            let serve = move |endpoint: Endpoint| -> Serving<Option<Answer>> {
                let request = request.clone();
                Box::pin(async move {
                    let Endpoint::Server(node) = endpoint else { return None };
                    Some(node.handle(request).await)
                })
            };
            tasks.spawn(async move {
                let answer = net.call(ends, BOUND, "write", serve).await;
                (at, slot, ack(answer.ok().flatten()))
            });
        }
    }

    /// Some frames were acknowledged by all members. One that lost its memory since they were sent may have
    /// acknowledged before.
    async fn note(&self, grant: &ChunkGrant, frames: &[Frame], verdicts: &[Result<(), Failed>], before: [u32; 8]) {
        let first = first_unit(grant.index);
        for (frame, _) in frames.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_ok()) {
            let reach = Reach::Acknowledged(members(grant) & self.net.checks.spared(before));
            let units = first + frame.units.start;
            self.net.checks.file(grant.inode, |model| model.reach(frame.stamp, units, frame.units.len(), reach));
            self.net.checks.count(|counts| counts.writes += 1);
        }
        if let Some(held) = self.writing.lock().await.get_mut(&(grant.inode, grant.index.get())) {
            held.creating = false;
            held.used = Instant::now();
        }
    }

    /// Has all members of every chunk flush what was acknowledged; where these are few, waits for copies.
    pub(super) async fn flush(&self, file: &File) -> bool {
        loop {
            let Some(thin) = self.flush_once(file).await else { return false };
            if thin.is_empty() {
                return true;
            }
            match self.ask("await copies", Op::AwaitCopies { chunks: thin.clone() }).await {
                Ok(_) => return true,
                Err(FsError::StaleGrant) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    self.net.checks.fail(|| format!("no copies of {thin:?}: {error}"));
                    return false;
                }
            }
        }
    }

    /// What few members have flushed; none: it could not be.
    async fn flush_once(&self, file: &File) -> Option<Vec<FlushedChunk>> {
        let map = self.map(file.inode).await;
        let mut thin = Vec::new();
        for location in map.chunks {
            loop {
                if self.net.checks.violation().is_some() || !self.ready(file, location.index).await {
                    return None;
                }
                match self.flush_chunk(file, location.index).await {
                    Ok(few) => {
                        thin.extend(few);
                        break;
                    }
                    Err(Failed::Stale) => drop(self.put_away(file.inode, location.index.get()).await),
                    Err(Failed::Broken(suspects)) => self.broke(file, location.index, suspects).await,
                    Err(Failed::Busy) => tokio::time::sleep(PAUSE).await,
                }
            }
        }
        Some(thin)
    }

    /// Who has flushed the chunk, if they are few.
    async fn flush_chunk(&self, file: &File, index: ChunkIndex) -> Result<Option<FlushedChunk>, Failed> {
        let (grant, creating) = {
            let writing = self.writing.lock().await;
            let held = writing.get(&(file.inode, index.get())).filter(|held| held.usable).ok_or(Failed::Stale)?;
            (held.grant.clone(), held.creating)
        };
        if creating {
            return Ok(None); // nothing of it was ever acknowledged
        }
        let mut outcomes = Vec::new();
        for replica in &grant.replicas {
            let chunks = vec![SyncChunk { handle: grant.handle, version: grant.version }];
            let sync = Sync { incarnation: replica.incarnation, chunks };
            let serve = move |endpoint: Endpoint| -> Serving<Option<Answer>> {
                let sync = sync.clone();
                Box::pin(async move {
                    let Endpoint::Server(node) = endpoint else { return None };
                    Some(node.handle_sync(&sync))
                })
            };
            let ends = (self.place, place_of(replica.address.tcp));
            outcomes.push(ack(self.net.call(ends, BOUND, "sync", serve).await.ok().flatten()));
        }
        verdict(&grant.replicas, &outcomes)?;
        let servers = grant.replicas.iter().map(|replica| replica.server).collect();
        let flushed = FlushedChunk { handle: grant.handle, version: grant.version, servers };
        Ok((grant.replicas.len() < COPIES_MIN).then_some(flushed))
    }

    async fn map(&self, inode: InodeId) -> ChunkMap {
        let op = Op::ReadChunks { inode: inode.into(), first: ChunkIndex::new(0), count: CHUNKS };
        match self.ask("locate", op).await {
            Ok(OpResult::Chunks(map)) => map,
            _ => ChunkMap::default(), // the file is gone
        }
    }

    /// Reads part of any client's file and compares; now and then by a chunk map that is not new.
    pub(super) async fn read(&self, dice: &mut Dice) {
        let files = self.net.checks.files();
        let Some(inode) = dice.pick(&files).copied() else { return };
        let cuts = self.net.checks.file(inode, |model| model.cuts);
        let map = self.map(inode).await;
        for _ in 0..dice.within(1, 3) {
            for index in 0..CHUNKS {
                let index = ChunkIndex::new(index);
                let location = map.chunks.iter().find(|location| location.index == index);
                self.read_chunk((inode, index, cuts), location, dice).await;
            }
            tokio::time::sleep(Duration::from_millis(dice.within(0, 400))).await;
        }
    }

    async fn read_chunk(
        &self,
        (inode, index, cuts): (InodeId, ChunkIndex, u64),
        location: Option<&ChunkLocation>,
        dice: &mut Dice,
    ) {
        // one that was not there may have been made since
        let Some(location) = location else { return };
        let first = first_unit(index);
        let mut allowed = self.net.checks.file(inode, |model| model.allowed(first, UNITS));
        let Some(replica) = dice.pick(&location.replicas) else { return };
        let Some(mut bytes) = self.fetch(location, replica).await else { return };
        if let Some(clip) = location.clip {
            let clip = (clip as usize).min(bytes.len());
            bytes[clip..].fill(0);
        }
        let of_now = self.net.checks.file(inode, |model| {
            model.allow_issued(first, &mut allowed);
            !model.gone && model.cuts == cuts
        });
        if !of_now {
            return;
        }
        self.net.checks.count(|counts| counts.reads += 1);
        if let Some((unit, word)) = find_wrong(&bytes, &allowed) {
            self.net.checks.fail(|| {
                format!(
                    "{:?} read {word} in unit {unit} of inode {inode}, chunk {index}, from {replica:?}, allowed are {:?}",
                    self.place, allowed[unit]
                )
            });
        }
    }

    /// A chunk as one replica has it, if it answers and its sums are right.
    async fn fetch(&self, location: &ChunkLocation, replica: &Replica) -> Option<Vec<u8>> {
        let read =
            Read { handle: location.handle, version: location.version, offset: 0, length: CHUNK, by_copy: false };
        let serve = move |endpoint: Endpoint| -> Serving<Option<Answer>> {
            Box::pin(async move {
                let Endpoint::Server(node) = endpoint else { return None };
                Some(node.handle(Request::Read(read)).await)
            })
        };
        let ends = (self.place, place_of(replica.address.tcp));
        let answer = self.net.call(ends, BOUND, "read", serve).await.ok().flatten()?;
        if answer.kind != Kind::Data {
            return None;
        }
        let mut bytes = answer.payload.to_vec();
        if !decode_sums(&answer.sums).eq(block_sums(&bytes)) {
            self.net
                .checks
                .fail(|| format!("{replica:?} sent bytes of chunk {} that its sums do not match", location.handle));
        }
        bytes.resize(CHUNK as usize, 0);
        Some(bytes)
    }
}
