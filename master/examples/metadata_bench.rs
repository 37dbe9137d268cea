//! What metadata costs: `metadata_bench DIRECTORY [FILES]` (1,000,000 unless said).
//!
//! Makes files of one chunk, a thousand to a directory, as a mount's creates would: the create with its chunk, then
//! size and first write as they are logged later; checkpoints as the master makes them. Prints bytes per file in
//! memory and on disk, by table, and how long a start takes.

use anyhow::{Context, Result, bail};
use gfs_master_core::{Action, Command, CoreBatch, CoreMade, CoreResult, Genesis, SizeRecord, Stamp, StampedOp, Store};
use gfs_proto::attr::Mode;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{ClusterId, InodeId, LogIndex, RestoreGeneration, Sequence, ServerId, SessionId, Term};
use gfs_proto::layout::ChunkSize;
use gfs_proto::name::Name;
use gfs_proto::ops::{Make, MakeKind, Op};
use gfs_proto::time::Timestamp;
use redb::{ReadableDatabase, ReadableTableMetadata, TableHandle};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// As the master's defaults have it.
const CACHE_BYTES: usize = 64 << 20;
const DELTA_BYTES: usize = 12 << 20;
const FILES_PER_DIRECTORY: u64 = 1000;
/// Sizes are logged so many at a time.
const SIZES_PER_COMMAND: usize = 100;
const SERVERS: [u32; 3] = [1, 2, 3];
/// The mount's.
const SESSION: SessionId = SessionId::new(1);

struct Load {
    store: Store,
    index: u64,
    sizes: Vec<SizeRecord>,
    written: Vec<gfs_proto::ids::ChunkHandle>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("usage: metadata_bench DIRECTORY [FILES]")?;
    let files: u64 = arguments.next().map_or(Ok(1_000_000), |count| count.parse()).context("FILES")?;
    let file = Path::new(&directory).join(format!("metadata-bench-{}.redb", std::process::id()));
    let outcome = measure(&file, files);
    std::fs::remove_file(&file)?;
    outcome
}

fn open(file: &Path) -> Result<redb::Database> {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.create(file).with_context(|| format!("cannot make {}", file.display()))
}

fn measure(file: &Path, files: u64) -> Result<()> {
    let begun = Instant::now();
    let before = resident()?;
    let mut load = Load::new(Store::format(open(file)?, &genesis())?);
    load.apply(Action::OpenSession { session: SESSION, secret: [1; 16], name: "bench".to_owned() })?;
    let mut parent = InodeId::ROOT;
    for number in 0..files {
        if number % FILES_PER_DIRECTORY == 0 {
            parent = load.make(InodeId::ROOT, &format!("d{number:07}"), MakeKind::Directory)?.attr.inode;
        }
        let made = load.make(parent, &format!("f{number:07}"), MakeKind::File)?;
        load.write_first(&made)?;
    }
    load.settle()?;
    say(&format!("{files} files made in {:.1} s", begun.elapsed().as_secs_f64()));
    let memory = resident()?.saturating_sub(before);
    say(&format!("memory: {} MiB more than at the start, {} of them cache", memory >> 20, CACHE_BYTES >> 20));
    drop(load);
    let metadata = std::fs::metadata(file)?;
    say(&format!(
        "disk: {} bytes per file, in a file of {} each",
        metadata.blocks() * 512 / files,
        metadata.len() / files
    ));
    let begun = Instant::now();
    drop(Store::open(open(file)?)?);
    say(&format!("opened in {:.2} s", begun.elapsed().as_secs_f64()));
    tables(&open(file)?, files)
}

/// Bytes per file in each table: what is stored, what B-trees add, what lies unused in pages.
fn tables(db: &redb::Database, files: u64) -> Result<()> {
    let read = db.begin_read()?;
    let mut names: Vec<String> = read.list_tables()?.map(|table| table.name().to_owned()).collect();
    names.sort_unstable();
    for name in names.iter().filter(|name| *name != "meta") {
        let definition: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new(name);
        let table = read.open_table(definition)?;
        let stats = table.stats()?;
        let per_file = |bytes: u64| bytes as f64 / files as f64;
        say(&format!(
            "{name:12} {:9} rows, depth {}: {:6.1} stored, {:5.1} tree, {:6.1} unused",
            table.len()?,
            stats.tree_height(),
            per_file(stats.stored_bytes()),
            per_file(stats.metadata_bytes()),
            per_file(stats.fragmented_bytes())
        ));
    }
    let write = db.begin_write()?;
    let stats = write.stats()?;
    let allocated = stats.allocated_pages() * stats.page_size() as u64;
    say(&format!("of them in use: {} bytes per file", allocated / files));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(line: &str) {
    println!("{line}");
}

fn genesis() -> Genesis {
    Genesis {
        cluster: ClusterId::new([7; 16]),
        chunk_size: ChunkSize::new(64 << 20).expect("within limits"),
        goal: 3,
        restore_generation: RestoreGeneration::new(0),
        created: Timestamp::from_nanos(0),
    }
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib << 10)
}

impl Load {
    fn new(store: Store) -> Self {
        Self { store, index: 0, sizes: Vec::new(), written: Vec::new() }
    }

    fn apply(&mut self, action: Action) -> Result<Vec<CoreResult>> {
        self.index += 1;
        let now = Timestamp::from_nanos((1_790_000_000 << 30) + i128::from(self.index) * 271_828);
        let outcome =
            self.store.apply(LogIndex::new(self.index), Term::new(1), &Command { stamp: Stamp { now }, action })?;
        if self.store.delta_bytes() >= DELTA_BYTES {
            self.checkpoint()?;
        }
        outcome.results.into_iter().map(|result| result.map_err(anyhow::Error::from)).collect()
    }

    fn checkpoint(&self) -> Result<()> {
        self.store.freeze();
        self.store.merge()?;
        Ok(())
    }

    fn make(&mut self, parent: InodeId, name: &str, kind: MakeKind) -> Result<CoreMade> {
        let name = Name::new(name.as_bytes())?;
        let first_chunk = matches!(kind, MakeKind::File);
        let make = Make {
            parent: parent.into(),
            name,
            kind,
            mode: Mode::new(0o644),
            exclusive: true,
            open: None,
            first_chunk,
            ids: None,
        };
        let placement = SERVERS.map(ServerId::new).to_vec();
        let batch = CoreBatch {
            session: SESSION,
            sequence: Sequence::new(self.index + 1),
            acknowledged: Sequence::new(self.index),
            caller: Caller::root(),
            precondition: None,
            ops: vec![StampedOp { placement, ..Op::Make(make).into() }],
        };
        match self.apply(Action::Batch(batch))?.pop() {
            Some(CoreResult::Made(made)) => Ok(made),
            other => bail!("{other:?} of a make"),
        }
    }

    fn write_first(&mut self, made: &CoreMade) -> Result<()> {
        let mtime = Some(Timestamp::from_nanos((1_790_000_000 << 30) + i128::from(self.index) * 271_828 + 141_421));
        let truncate_generation = made.attr.truncate_generation;
        let inode = made.attr.inode;
        self.sizes.push(SizeRecord { inode, size: 4096, mtime, atime: None, ctime: None, truncate_generation });
        self.written.extend(made.chunk.as_ref().map(|chunk| chunk.handle));
        if self.sizes.len() >= SIZES_PER_COMMAND { self.settle_sizes() } else { Ok(()) }
    }

    fn settle_sizes(&mut self) -> Result<()> {
        let (sizes, handles) = (std::mem::take(&mut self.sizes), std::mem::take(&mut self.written));
        self.apply(Action::RecordSizes(sizes))?;
        self.apply(Action::Written { handles, flushed: true })?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.settle_sizes()?;
        self.checkpoint()
    }
}
