//! A client: one session, a directory of its own, and whatever the dice say is done there. It repeats every
//! request until it is answered, under the same number if it changes something, so that it always knows
//! what the file system must hold.

use super::check::{CHUNK, CHUNKS, UNITS, first_unit};
use super::data::Writing;
use super::dice::Dice;
use super::model::UNIT;
use super::net::{Endpoint, Net, Place, Serving};
use gfs_master::master::Master;
use gfs_master::requests;
use gfs_master::sessions::Session;
use gfs_master::sessions::lifecycle::Reclaimed;
use gfs_proto::FsError;
use gfs_proto::attr::{Mode, SetAttr};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{ChunkIndex, InodeId, OpenId, Sequence, SessionId};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, Batch, BatchReply, DirPage, Make, MakeKind, Op, OpResult, OpenSpec, RenameMode};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// For one attempt.
const BOUND: Duration = Duration::from_secs(4);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(40);
/// A chunk without replicas is believed to be lost after so many attempts: servers were waited for by then.
const LOST_AFTER: u32 = 250;
/// A client that does nothing is heard of so often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Names that a client uses.
const NAMES: u64 = 4;

/// A file that the client has open.
#[derive(Clone)]
pub(super) struct File {
    pub(super) inode: InodeId,
    pub(super) open: OpenId,
    pub(super) size: u64,
}

/// What the world wants of its clients, and hears of them.
#[derive(Default)]
pub(super) struct Will {
    /// No new operations.
    pub(super) stop: AtomicBool,
    /// Clients that have finished their last one.
    pub(super) stopped: AtomicU32,
}

/// What a client knows, for the last comparison too.
#[derive(Default)]
pub(super) struct Known {
    pub(super) directory: Option<InodeId>,
    /// By name.
    pub(super) files: BTreeMap<u64, File>,
}

/// Everything of one client.
pub(super) struct Client {
    pub(super) net: Arc<Net>,
    pub(super) place: Place,
    pub(super) number: u8,
    pub(super) known: Arc<Mutex<Known>>,
    session: Mutex<Option<(SessionId, [u8; 16])>>,
    sequence: AtomicU64,
    opens: AtomicU64,
    stamps: AtomicU32,
    pub(super) frames: AtomicU64,
    pub(super) writing: tokio::sync::Mutex<BTreeMap<(InodeId, u32), Writing>>,
}

fn name_of(number: u64) -> Name {
    Name::new(format!("f{number}").as_bytes()).expect("a good name")
}

/// The session at the master that runs now; it returns there with what the client had open.
fn attached(
    master: &Arc<Master>,
    (id, secret): (SessionId, [u8; 16]),
    reclaims: &[Reclaimed],
) -> Result<Arc<Session>, FsError> {
    let session = master.sessions.find(id, &secret).ok_or(FsError::SessionExpired)?;
    session.heard(std::time::Instant::now());
    if master.sessions.expected().contains(&id) {
        master.resume_session(&session, reclaims);
    }
    Ok(session)
}

impl Client {
    pub(super) fn new(net: Arc<Net>, number: u8, known: Arc<Mutex<Known>>) -> Self {
        Self {
            net,
            place: Place::Client(number),
            number,
            known,
            session: Mutex::default(),
            sequence: AtomicU64::new(1),
            opens: AtomicU64::new(1),
            // clients tell their writes apart
            stamps: AtomicU32::new(1 + (u32::from(number) << 24)),
            frames: AtomicU64::new(1),
            writing: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session.lock().expect("a session was opened first").0
    }

    pub(super) fn stamp(&self) -> u32 {
        self.stamps.fetch_add(1, Ordering::Relaxed)
    }

    async fn open_session(&self) {
        loop {
            let serve = |endpoint: Endpoint| -> Serving<Option<(SessionId, [u8; 16])>> {
                Box::pin(async move {
                    let Endpoint::Master(master) = endpoint else { return None };
                    let session = master.open_session("sim".to_owned()).await.ok()?;
                    let record = master.store.view().session(session.id).ok()??;
                    Some((record.session, record.secret))
                })
            };
            let answer = self.net.call((self.place, Place::Master), BOUND, "open session", serve).await;
            if let Ok(Some(session)) = answer {
                *self.session.lock() = Some(session);
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One attempt at a batch; `None` if nobody knows how it went.
    async fn attempt(&self, what: &'static str, batch: &Batch) -> Option<Result<BatchReply, FsError>> {
        let session = self.session.lock().expect("a session was opened first");
        let of = |file: &File| Reclaimed { inode: file.inode, open: file.open, access: Access::ReadWrite };
        let reclaims: Vec<Reclaimed> = self.known.lock().files.values().map(of).collect();
        let batch = batch.clone();
        let serve = move |endpoint: Endpoint| -> Serving<Result<BatchReply, FsError>> {
            let (batch, reclaims) = (batch.clone(), reclaims.clone());
            Box::pin(async move {
                let Endpoint::Master(master) = endpoint else { return Err(FsError::Unavailable) };
                let session = attached(&master, session, &reclaims)?;
                requests::run(master, session, batch).await
            })
        };
        let answer = self.net.call((self.place, Place::Master), BOUND, what, serve).await.ok()?;
        match answer {
            Err(FsError::Unavailable | FsError::NotLeader) => None,
            answer => Some(answer),
        }
    }

    /// One operation, repeated until it is answered.
    pub(super) async fn ask(&self, what: &'static str, op: Op) -> Result<OpResult, FsError> {
        let sequence = op.is_mutation().then(|| self.sequence.fetch_add(1, Ordering::Relaxed));
        let next = Sequence::new(self.sequence.load(Ordering::Relaxed));
        let batch = Batch {
            caller: Caller::root(),
            sequence: sequence.map(Sequence::new),
            acknowledged: sequence.map_or(next, Sequence::new),
            client_time: None,
            precondition: None,
            ops: vec![op],
        };
        let mut without_replica = 0;
        loop {
            match self.attempt(what, &batch).await {
                Some(Ok(reply)) => {
                    self.net.checks.answered(reply.durable_index);
                    match reply.results.into_iter().next() {
                        Some(Err(FsError::NoReplica)) if without_replica < LOST_AFTER => without_replica += 1,
                        Some(Err(FsError::Unavailable)) | None => {}
                        Some(result) => return result,
                    }
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks for what must succeed.
    async fn must(&self, what: &'static str, op: Op) -> Option<OpResult> {
        let said = format!("{op:?}");
        match self.ask(what, op).await {
            Ok(result) => {
                self.net.checks.count(|counts| counts.operations += 1);
                Some(result)
            }
            Err(error) => {
                self.net.checks.fail(|| format!("{:?} was refused with {error}: {said}", self.place));
                None
            }
        }
    }

    /// Works until it is told to stop.
    pub(super) async fn run(self: Arc<Self>, mut dice: Dice, will: Arc<Will>) {
        self.open_session().await;
        self.make_directory().await;
        while !will.stop.load(Ordering::Relaxed) && self.net.checks.violation().is_none() {
            self.act(&mut dice).await;
            tokio::time::sleep(Duration::from_millis(dice.within(0, 150))).await;
        }
        let names: Vec<u64> = self.known.lock().files.keys().copied().collect();
        for name in names {
            self.sync(name).await;
        }
        will.stopped.fetch_add(1, Ordering::Relaxed);
        loop {
            tokio::time::sleep(KEEP_ALIVE).await;
            drop(self.ask("keep alive", Op::GetAttr { inode: InodeId::ROOT.into() }).await);
        }
    }

    async fn make_directory(&self) {
        let op = Op::Make(Make {
            parent: InodeId::ROOT.into(),
            name: Name::new(format!("c{}", self.number).as_bytes()).expect("a good name"),
            kind: MakeKind::Directory,
            mode: Mode::new(0o755),
            exclusive: true,
            open: None,
            first_chunk: false,
            ids: None,
        });
        if let Some(OpResult::Made(made)) = self.must("mkdir", op).await {
            self.known.lock().directory = Some(made.attr.inode);
        }
    }

    async fn act(&self, dice: &mut Dice) {
        let name = dice.below(NAMES);
        let known = self.known.lock().files.contains_key(&name);
        match dice.below(100) {
            _ if !known => self.create(name, dice.chance(700)).await,
            0..45 => self.write(name, dice).await,
            45..58 => self.sync(name).await,
            58..80 => self.read(dice).await,
            80..87 => self.truncate(name, dice).await,
            87..92 => self.rename(name, dice.below(NAMES)).await,
            92..95 => self.unlink(name).await,
            95..97 => self.list().await,
            _ => self.give_back(name, dice).await,
        }
    }

    fn directory(&self) -> InodeId {
        self.known.lock().directory.unwrap_or(InodeId::ROOT)
    }

    pub(super) fn file(&self, name: u64) -> Option<File> {
        self.known.lock().files.get(&name).cloned()
    }

    async fn create(&self, name: u64, first_chunk: bool) {
        let open = OpenId::new(self.opens.fetch_add(1, Ordering::Relaxed));
        let op = Op::Make(Make {
            parent: self.directory().into(),
            name: name_of(name),
            kind: MakeKind::File,
            mode: Mode::new(0o644),
            exclusive: true,
            open: Some(OpenSpec { open, access: Access::ReadWrite, truncate: false }),
            first_chunk,
            ids: None,
        });
        if let Some(OpResult::Made(made)) = self.must("create", op).await {
            let inode = made.attr.inode;
            self.known.lock().files.insert(name, File { inode, open, size: 0 });
            self.net.checks.file(inode, |_| {});
            if let Some(grant) = made.grant {
                self.take(grant).await;
            }
        }
    }

    async fn write(&self, name: u64, dice: &mut Dice) {
        let Some(file) = self.file(name) else { return };
        let units = u64::from(CHUNKS) * UNITS as u64;
        let first = if dice.chance(600) { dice.below(12) } else { dice.below(units) };
        let count = dice.within(1, 20).min(units - first);
        let pieces = self.write_units(&file, first as usize..(first + count) as usize, dice).await;
        let end = (first + count) * u64::from(UNIT);
        let mut known = self.known.lock();
        if let (Some(file), true) = (known.files.get_mut(&name), pieces) {
            file.size = file.size.max(end);
        }
    }

    /// fsync.
    pub(super) async fn sync(&self, name: u64) {
        let Some(file) = self.file(name) else { return };
        if !self.flush(&file).await || !self.report(&file, true).await {
            return;
        }
        self.net.checks.file(file.inode, |model| model.synced());
        self.net.checks.count(|counts| counts.syncs += 1);
    }

    /// Tells the size.
    async fn report(&self, file: &File, durable: bool) -> bool {
        let attr = self.must("getattr", Op::GetAttr { inode: file.inode.into() }).await;
        let Some(OpResult::Attr(attr)) = attr else { return false };
        let op = Op::ReportSize {
            inode: file.inode.into(),
            size: file.size,
            mtime: None,
            atime: None,
            ctime: None,
            truncate_generation: attr.truncate_generation,
            durable,
        };
        self.must("report size", op).await.is_some()
    }

    async fn truncate(&self, name: u64, dice: &mut Dice) {
        let Some(file) = self.file(name) else { return };
        let units = dice.below(u64::from(CHUNKS) * UNITS as u64);
        let size = units * u64::from(UNIT);
        // what is not told yet must not come back
        if !self.report(&file, false).await {
            return;
        }
        self.net.checks.file(file.inode, |model| model.issue_cut(units as usize));
        let changes = SetAttr { size: Some(size), ..SetAttr::default() };
        if self.must("truncate", Op::SetAttr { inode: file.inode.into(), changes }).await.is_some() {
            self.net.checks.file(file.inode, |model| model.cut(units as usize));
            if let Some(file) = self.known.lock().files.get_mut(&name) {
                file.size = size;
            }
            self.forget_grants(file.inode).await;
        }
    }

    async fn rename(&self, from: u64, to: u64) {
        if from == to || self.file(from).is_none() {
            return;
        }
        let replaced = self.file(to);
        if let Some(file) = &replaced {
            self.net.checks.file(file.inode, |model| model.gone = true);
        }
        let directory = self.directory();
        let op = Op::Rename {
            from_parent: directory.into(),
            from_name: name_of(from),
            to_parent: directory.into(),
            to_name: name_of(to),
            mode: RenameMode::Replace,
        };
        if self.must("rename", op).await.is_some() {
            let mut known = self.known.lock();
            if let Some(file) = known.files.remove(&from) {
                known.files.insert(to, file);
            }
        }
        if let Some(file) = replaced {
            self.close(&file).await;
        }
    }

    async fn unlink(&self, name: u64) {
        let Some(file) = self.file(name) else { return };
        self.net.checks.file(file.inode, |model| model.gone = true);
        let op = Op::Unlink { parent: self.directory().into(), name: name_of(name) };
        if self.must("unlink", op).await.is_some() {
            self.known.lock().files.remove(&name);
            self.close(&file).await;
        }
    }

    /// A chunk has lost all its replicas, which may be only if nothing had to be there: its file is removed.
    pub(super) async fn give_up(&self, file: &File, index: ChunkIndex) {
        if self.net.checks.file(file.inode, |model| model.must_be_there(first_unit(index), UNITS)) {
            self.net.checks.fail(|| format!("chunk {index} of inode {} is lost, with what must be there", file.inode));
        }
        let name = self.known.lock().files.iter().find(|(_, known)| known.inode == file.inode).map(|(name, _)| *name);
        if let Some(name) = name {
            self.unlink(name).await;
        }
    }

    async fn close(&self, file: &File) {
        self.forget_grants(file.inode).await;
        let op = Op::Release { inode: file.inode.into(), open: file.open };
        drop(self.ask("release", op).await); // a master that was started since knows nothing of it
    }

    /// What is in the directory is what this client has put there.
    pub(super) async fn list(&self) {
        let op = Op::ReadDir {
            inode: self.directory().into(),
            after: Default::default(),
            bytes_max: 64 << 10,
            with_attributes: false,
        };
        let Some(OpResult::Page(DirPage { entries, .. })) = self.must("readdir", op).await else { return };
        let mut found: Vec<_> = entries.into_iter().map(|entry| (entry.name, entry.inode)).collect();
        found.retain(|(name, _)| !matches!(name.as_bytes(), b"." | b".."));
        found.sort();
        let known: Vec<_> = self.known.lock().files.iter().map(|(name, file)| (name_of(*name), file.inode)).collect();
        if found != known {
            self.net.checks.fail(|| format!("{:?} lists {found:?}, and made {known:?}", self.place));
        }
    }

    /// Sizes are what was written and cut.
    pub(super) async fn measure(&self) {
        let files: Vec<File> = self.known.lock().files.values().cloned().collect();
        for file in files {
            let attr = self.must("getattr", Op::GetAttr { inode: file.inode.into() }).await;
            if let Some(OpResult::Attr(attr)) = attr
                && attr.size != file.size
            {
                self.net.checks.fail(|| format!("inode {} has size {}, not {}", file.inode, attr.size, file.size));
            }
        }
    }

    async fn give_back(&self, name: u64, dice: &mut Dice) {
        let Some(file) = self.file(name) else { return };
        let index = dice.below(u64::from(CHUNKS)) as u32;
        self.return_grant(file.inode, index).await;
    }
}

const _: () = assert!(CHUNK.is_multiple_of(UNIT));
