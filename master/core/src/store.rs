//! The store: redb tables under an in-memory delta.
//!
//! ```text
//! apply -> active delta --freeze--> frozen delta --merge--> database (one durable commit)
//! views read active, frozen, database; a merge replaces the last two by a new snapshot in one step
//! ```
//!
//! Commits of the database never stand in the path of a command. The state that a commit holds is that
//! of one log index, reply cache and counters included; a restart replays the log from there.

use crate::apply;
use crate::command::Command;
use crate::invariants::{self, Examination, Violation};
use crate::nesting::{self, Alone};
use crate::outcome::{Applied, Outcome, Stats};
use crate::record::{Body, Inode, State};
use crate::state::delta::Delta;
use crate::state::layers::{Base, Fault, Frozen, Layers};
use crate::state::table::{META, Table, inode_key};
use crate::state::{Read, Tables};
use crate::view::{Snapshot, View};
use gfs_proto::attr::Mode;
use gfs_proto::ids::{ChunkHandle, ClusterId, InodeId, LogIndex, RestoreGeneration, ServerId, Term};
use gfs_proto::layout::ChunkSize;
use gfs_proto::time::Timestamp;
use parking_lot::{Mutex, RwLock};
use redb::{Durability, ReadableDatabase, TableHandle, WriteTransaction};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Format of the tables and their records as a whole.
const FORMAT: u32 = 1;
/// Keys of the table of what is no table.
const FORMAT_KEY: &str = "format";
const GENESIS_KEY: &str = "genesis";
const STATE_KEY: &str = "state";

/// What a cluster is formatted with; never changes (but the restore generation, which only grows).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// The cluster's name.
    pub cluster: ClusterId,
    /// Of all its chunks.
    pub chunk_size: ChunkSize,
    /// Default replication goal; the root directory's.
    pub goal: u8,
    /// In the upper bits of the first ids; [`crate::Action::Restored`] goes on to the next.
    pub restore_generation: RestoreGeneration,
    /// When it was formatted; the root directory's times.
    pub created: Timestamp,
}

/// Why the store cannot be used. All are final: the process must end (or never start).
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database answered with an error.
    #[error("the metadata database failed")]
    Database(#[from] Box<redb::Error>),
    /// `format` on a database that has something in it.
    #[error("the metadata database is not empty")]
    NotEmpty,
    /// `open` on a database without a file system.
    #[error("the database holds no file system metadata")]
    NotFormatted,
    /// Written by a newer version.
    #[error("the metadata has format {found}, this master knows up to {known}: start a newer one")]
    Format {
        /// As found.
        found: u32,
        /// As known.
        known: u32,
    },
    /// A record that cannot be what we wrote.
    #[error("a record of table {table} is damaged (key {key:02x?})")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Its key.
        key: Vec<u8>,
    },
    /// An earlier error; the state may not be used any more.
    #[error("the metadata database failed before")]
    Failed,
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// The database's many error types as ours.
fn database<E: Into<redb::Error>>(error: E) -> StoreError {
    StoreError::from(error.into())
}

/// All metadata of a cluster. Shared by reference between threads.
pub struct Store {
    db: redb::Database,
    genesis: Genesis,
    layers: RwLock<Layers>,
    /// Held by the one who applies.
    applying: Mutex<()>,
    /// Held by the one who merges.
    merging: Mutex<()>,
    /// What the database holds; never locked for long.
    durable: Mutex<Applied>,
    failed: AtomicBool,
}

impl Store {
    /// Writes an empty file system (the root directory, mode 0755, owned by root) durably.
    pub fn format(db: redb::Database, genesis: &Genesis) -> Result<Self, StoreError> {
        if db.begin_read().map_err(database)?.list_tables().map_err(database)?.next().is_some() {
            return Err(StoreError::NotEmpty);
        }
        let state = first_state(genesis);
        let mut rows = Delta::default();
        let root = root(genesis);
        rows.put(Table::Inodes, &inode_key(root.id), root.encode(), true);
        let transaction = begin(&db)?;
        {
            let mut meta = transaction.open_table(META).map_err(database)?;
            meta.insert(FORMAT_KEY, &FORMAT.to_be_bytes()[..]).map_err(database)?;
            meta.insert(GENESIS_KEY, &genesis.encode()[..]).map_err(database)?;
        }
        write(&transaction, &rows, &state)?;
        transaction.commit().map_err(database)?;
        Self::open(db)
    }

    /// Opens what `format` made; refuses unknown format versions.
    pub fn open(db: redb::Database) -> Result<Self, StoreError> {
        let transaction = db.begin_read().map_err(database)?;
        let mut tables = transaction.list_tables().map_err(database)?;
        if !tables.any(|table| table.name() == META.name()) {
            return Err(StoreError::NotFormatted);
        }
        let meta = transaction.open_table(META).map_err(database)?;
        let corrupt = |key: &str| StoreError::Corrupt { table: "meta", key: key.into() };
        let record = |key: &'static str| -> Result<Vec<u8>, StoreError> {
            let guard = meta.get(key).map_err(database)?.ok_or_else(|| corrupt(key))?;
            Ok(guard.value().to_vec())
        };
        let format = record(FORMAT_KEY)?;
        let found = format.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(|| corrupt(FORMAT_KEY))?;
        if found != FORMAT {
            return Err(StoreError::Format { found, known: FORMAT });
        }
        let genesis = Genesis::decode(&record(GENESIS_KEY)?).ok_or_else(|| corrupt(GENESIS_KEY))?;
        let state = State::decode(&record(STATE_KEY)?).ok_or_else(|| corrupt(STATE_KEY))?;
        let base = open_base(&db)?;
        let durable = state.applied;
        let layers = RwLock::new(Layers { active: Delta::default(), frozen: None, base, state });
        let (applying, merging, durable) = (Mutex::new(()), Mutex::new(()), Mutex::new(durable));
        Ok(Self { db, genesis, layers, applying, merging, durable, failed: AtomicBool::new(false) })
    }

    /// What the cluster was formatted with.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Last command whose effects are visible. After `open`: replay the log from the next one.
    pub fn applied(&self) -> Applied {
        self.layers.read().state.applied
    }

    /// What the database holds: a start after a crash replays the log from there.
    pub fn durable(&self) -> Applied {
        *self.durable.lock()
    }

    /// Runs a command, the next of the log (its index must be higher than any before). One caller at a time
    /// (others wait). Waits for no disk but where metadata is not in memory. An error is about the database,
    /// not the command: the state is as before, nothing can be applied any more, the process must end.
    pub fn apply(&self, index: LogIndex, term: Term, command: &Command) -> Result<Outcome, StoreError> {
        nesting::check(self);
        let _one_at_a_time = self.applying.lock();
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Failed);
        }
        let fault = Fault::default();
        let (answer, mut changes) = {
            let layers = self.layers.read();
            assert!(index > layers.state.applied.index, "the log is applied in order");
            let mut tables = Tables::new(&layers, &self.genesis, &fault);
            let answer = apply::run(&mut tables, command);
            (answer, tables.finish())
        };
        if let Some(error) = fault.take() {
            self.failed.store(true, Ordering::Release);
            return Err(error);
        }
        changes.state.applied = Applied { index, term };
        let mut layers = self.layers.write();
        layers.active.absorb(changes.rows);
        layers.state = changes.state;
        drop(layers);
        Ok(Outcome { replayed: answer.replayed, results: answer.results, dropped: changes.dropped })
    }

    /// A consistent picture of the state. Holds a lock that `apply` waits for at its end: keep it for one
    /// request, not across an await (it is not `Send`), and while holding one never call another method
    /// of the store on the same thread (deadlock). Work on many rows takes a new view every few hundred.
    pub fn view(&self) -> View<'_> {
        let alone = Alone::with(self);
        View::new((self.layers.read(), alone), &self.genesis)
    }

    /// The state at this moment, to be looked at for as long as it takes: `apply` and `merge` go on.
    pub fn snapshot(&self) -> Snapshot<'_> {
        nesting::check(self);
        let layers = self.layers.read().clone();
        Snapshot::new(layers, &self.genesis)
    }

    /// Memory that is in the delta, about; what `freeze` and `merge` bring down.
    pub fn delta_bytes(&self) -> usize {
        nesting::check(self);
        let layers = self.layers.read();
        layers.active.bytes() + layers.frozen.as_ref().map_or(0, |frozen| frozen.delta.bytes())
    }

    /// Sets the active delta aside for `merge`. False if one is set aside already or nothing has changed.
    pub fn freeze(&self) -> bool {
        let mut layers = self.layers.write();
        if layers.frozen.is_some() || layers.state.applied == *self.durable.lock() {
            return false;
        }
        let frozen = Frozen { delta: std::mem::take(&mut layers.active), state: layers.state.clone() };
        layers.frozen = Some(Arc::new(frozen));
        true
    }

    /// Writes the frozen delta to the database in one durable commit, beside `apply` and views; returns
    /// what is durable now (the log up to there may go). One caller at a time (others wait). Without a
    /// frozen delta it returns at once.
    pub fn merge(&self) -> Result<Applied, StoreError> {
        let _one_at_a_time = self.merging.lock();
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Failed);
        }
        let Some(frozen) = self.layers.read().frozen.clone() else { return Ok(*self.durable.lock()) };
        let merged = self.commit(&frozen).inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        let mut layers = self.layers.write();
        layers.frozen = None;
        // `frozen` and the snapshot of before are freed at the end, where nobody waits
        let _before = std::mem::replace(&mut layers.base, merged);
        *self.durable.lock() = frozen.state.applied;
        drop(layers);
        Ok(frozen.state.applied)
    }

    fn commit(&self, frozen: &Frozen) -> Result<Arc<Base>, StoreError> {
        let transaction = begin(&self.db)?;
        write(&transaction, &frozen.delta, &frozen.state)?;
        transaction.commit().map_err(database)?;
        Ok(Arc::new(Base::open(&self.db.begin_read().map_err(database)?)?))
    }

    /// All invariants, over the whole state; empty if all is well. Slow (reads everything).
    pub fn check(&self) -> Result<Vec<Violation>, StoreError> {
        let view = self.view();
        let found = invariants::check(&view);
        match view.into_fault() {
            Some(error) => Err(error),
            None => Ok(found.expect("only the database fails a check")),
        }
    }

    /// As [`Store::check`], on a snapshot: nobody waits for it. Takes memory for the whole state, decoded.
    pub fn examine(&self) -> Result<Examination, StoreError> {
        let snapshot = self.snapshot();
        let view = snapshot.view();
        let found = invariants::examine(&view);
        match view.into_fault() {
            Some(error) => Err(error),
            None => Ok(found.expect("only the database fails a check")),
        }
    }

    /// Changes rows behind the rules, and makes that the state.
    #[cfg(test)]
    pub(crate) fn damage(&self, work: impl FnOnce(&mut Tables<'_>)) {
        let fault = Fault::default();
        let changes = {
            let layers = self.layers.read();
            let mut tables = Tables::new(&layers, &self.genesis, &fault);
            work(&mut tables);
            tables.finish()
        };
        let mut layers = self.layers.write();
        layers.active.absorb(changes.rows);
        layers.state = changes.state;
    }

    /// Hash of the whole logical state: equal on all replicas after the same log, whatever was merged.
    pub fn digest(&self) -> Result<u128, StoreError> {
        let view = self.view();
        let mut hasher = SipHasher13::new();
        hasher.write(&view.state().encode());
        digest_rows(view, hasher)
    }

    /// Bytes that the database has allocated.
    #[cfg(test)]
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        let transaction = self.db.begin_write().expect("memory does not fail");
        let stats = transaction.stats().expect("memory does not fail");
        stats.allocated_pages() * stats.page_size() as u64
    }

    /// Runs `work` on tables whose changes are thrown away.
    #[cfg(test)]
    pub(crate) fn with_tables(&self, fault: &Fault, work: impl FnOnce(&mut Tables<'_>)) {
        work(&mut Tables::new(&self.layers.read(), &self.genesis, fault));
    }

    /// [`Store::digest`] without counters and the place in the log.
    pub fn digest_of_rows(&self) -> Result<u128, StoreError> {
        digest_rows(self.view(), SipHasher13::new())
    }
}

fn digest_rows(view: View<'_>, mut hasher: SipHasher13) -> Result<u128, StoreError> {
    for table in Table::ALL {
        hasher.write_u8(table as u8);
        let scanned = view.rows().scan(table, &[], &[], &mut |key, value| {
            for part in [key, value] {
                hasher.write_u64(part.len() as u64);
                hasher.write(part);
            }
            Ok(ControlFlow::Continue(()))
        });
        if scanned.is_err() {
            // the view's fault says why
            break;
        }
    }
    let digest = hasher.finish128().as_u128();
    view.into_fault().map_or(Ok(digest), Err)
}

/// The newest snapshot. A table that came with a later version than the database is empty.
fn open_base(db: &redb::Database) -> Result<Arc<Base>, StoreError> {
    let read = db.begin_read().map_err(database)?;
    if read.list_tables().map_err(database)?.count() <= Table::ALL.len() {
        let transaction = begin(db)?;
        for table in Table::ALL {
            transaction.open_table(table.definition()).map_err(database)?;
        }
        transaction.commit().map_err(database)?;
        return Ok(Arc::new(Base::open(&db.begin_read().map_err(database)?)?));
    }
    Ok(Arc::new(Base::open(&read)?))
}

fn begin(db: &redb::Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = db.begin_write().map_err(database)?;
    transaction.set_durability(Durability::Immediate).map_err(database)?;
    // or an unclean stop would have the next start walk the whole file
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Puts a delta and its state into a transaction.
fn write(transaction: &WriteTransaction, delta: &Delta, state: &State) -> Result<(), StoreError> {
    for table in Table::ALL {
        let mut rows = transaction.open_table(table.definition()).map_err(database)?;
        for (key, value) in delta.rows(table) {
            match value {
                Some(value) => rows.insert(key, value).map_err(database)?,
                None => rows.remove(key).map_err(database)?,
            };
        }
    }
    let mut meta = transaction.open_table(META).map_err(database)?;
    meta.insert(STATE_KEY, &state.encode()[..]).map_err(database)?;
    Ok(())
}

fn first_state(genesis: &Genesis) -> State {
    State {
        applied: Applied::default(),
        next_inode: InodeId::first_of(genesis.restore_generation),
        next_handle: ChunkHandle::first_of(genesis.restore_generation),
        next_server: ServerId::new(1),
        stats: Stats { directories: 1, goal: genesis.goal, ..Stats::default() },
    }
}

fn root(genesis: &Genesis) -> Inode {
    Inode {
        id: InodeId::ROOT,
        mode: Mode::new(0o755),
        nlink: 2,
        uid: 0,
        gid: 0,
        goal: genesis.goal,
        has_xattrs: false,
        has_acl: false,
        parent: InodeId::ROOT,
        atime: genesis.created,
        mtime: genesis.created,
        ctime: genesis.created,
        body: Body::Directory { entries: 0, version: 1 },
    }
}
