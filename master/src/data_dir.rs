//! The master's data directory: whose it is, in which format, and that only one master uses it.
//!
//! ```text
//! DIR/format          text: format version and cluster id; written last, so it says all is there
//! DIR/formatting      there while a first start is preparing the directory; a crash may leave it
//! DIR/lock            flock of the running master
//! DIR/metadata.redb   the state machine
//! DIR/log/            the operation log
//! ```
//! A directory that holds anything else and no `format` is never touched.

use gfs_master_core::{Genesis, Store, StoreError};
use gfs_proto::ids::{ClusterId, RestoreGeneration};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits;
use gfs_proto::time::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Format of the directory as a whole; the parts have their own.
const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "format";
const FORMATTING: &str = "formatting";
const LOCK: &str = "lock";
/// What the `format` of a chunkserver's directory begins with.
const CHUNKSERVER_FORMAT: &[u8] = b"gfs-chunkserver-directory ";
const METADATA: &str = "metadata.redb";
const LOG: &str = "log";
/// Made by the file system's own tools; not a sign of somebody else's data.
const LOST_AND_FOUND: &str = "lost+found";

/// Why a directory cannot be used. The text says what to do; nothing was changed.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the lock.
    #[error("{} is in use by another master; stop that one first", .0.display())]
    InUse(PathBuf),
    /// Something else lives there.
    #[error(
        "{} is not a master's data directory and holds other files ({found}); give an empty directory with --data",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of them.
        found: String,
    },
    /// Of a chunkserver, whose lock file has the same name.
    #[error("{} is the storage directory of a chunkserver; give one of its own with --data", .0.display())]
    Chunkserver(PathBuf),
    /// Written by a newer program.
    #[error("{} has format {found}, this master knows up to {FORMAT_VERSION}; start a newer one", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// As found.
        found: u32,
    },
    /// Not what we wrote.
    #[error("{} is damaged: {problem}; restore the directory from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Chosen at format, for ever.
    #[error("{} was formatted with {setting} {formatted}, it cannot be changed to {asked}", path.display())]
    Fixed {
        /// The directory.
        path: PathBuf,
        /// Which.
        setting: &'static str,
        /// As it is.
        formatted: u64,
        /// As asked for.
        asked: u64,
    },
    /// The metadata file.
    #[error("cannot open the metadata in {}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<StoreError>,
    },
    /// The system gives no random numbers.
    #[error("cannot choose a cluster id")]
    Random(#[from] getrandom::Error),
}

/// What a first start may choose.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// Of all chunks.
    pub chunk_size: Option<ChunkSize>,
    /// Default number of copies.
    pub goal: Option<u8>,
    /// Bytes of the metadata file's cache.
    pub cache_bytes: usize,
    /// For the root directory.
    pub now: Timestamp,
}

/// An open data directory. Locked as long as it lives.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct FormatFile {
    version: u32,
    cluster: String,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { doing, path, source }
}

impl DataDir {
    /// Opens a data directory, formatting it if it is empty or not there.
    pub fn open(path: &Path, options: &FormatOptions) -> Result<(Self, Store), DataDirError> {
        refuse_foreign(path)?;
        std::fs::create_dir_all(path).map_err(io_error("make the directory", path))?;
        let dir = Self { path: path.to_owned(), _lock: lock(path)? };
        let format = dir.read_format()?;
        let store = match &format {
            Some(format) => dir.open_store(format, options)?,
            None => dir.format(options)?,
        };
        dir.agree(store.genesis(), options)?;
        Ok((dir, store))
    }

    /// Directory of the operation log.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Bytes of the metadata file.
    pub fn metadata_bytes(&self) -> u64 {
        std::fs::metadata(self.path.join(METADATA)).map_or(0, |found| found.len())
    }

    fn read_format(&self) -> Result<Option<FormatFile>, DataDirError> {
        let path = self.path.join(FORMAT);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let format: FormatFile = toml::from_str(&text)
            .map_err(|e| DataDirError::Damaged { path: path.clone(), problem: e.message().to_owned() })?;
        if format.version > FORMAT_VERSION {
            return Err(DataDirError::Newer { path: self.path.clone(), found: format.version });
        }
        Ok(Some(format))
    }

    fn open_store(&self, format: &FormatFile, options: &FormatOptions) -> Result<Store, DataDirError> {
        let path = self.path.join(METADATA);
        let damaged = |problem| DataDirError::Damaged { path: path.clone(), problem };
        let cluster: ClusterId = format.cluster.parse().map_err(damaged)?;
        if !path.exists() {
            return Err(damaged("the file is missing".to_owned()));
        }
        let store = database(&path, options.cache_bytes).and_then(Store::open).map_err(|e| self.store_error(e))?;
        if store.genesis().cluster != cluster {
            return Err(damaged(format!("it belongs to cluster {}, not {cluster}", store.genesis().cluster)));
        }
        Ok(store)
    }

    /// Prepares an empty directory. A crash on any line leaves one that the next start formats again.
    fn format(&self, options: &FormatOptions) -> Result<Store, DataDirError> {
        let formatting = self.path.join(FORMATTING);
        File::create(&formatting).and_then(|f| f.sync_all()).map_err(io_error("write", &formatting))?;
        self.sync()?;
        let metadata = self.path.join(METADATA);
        for (path, leftover) in [(&metadata, metadata.exists()), (&self.log(), false)] {
            if leftover {
                std::fs::remove_file(path).map_err(io_error("remove", path))?;
            }
        }
        let genesis = genesis(options)?;
        let store = database(&metadata, options.cache_bytes)
            .and_then(|db| Store::format(db, &genesis))
            .map_err(|e| self.store_error(e))?;
        self.write_format(genesis.cluster)?;
        std::fs::remove_file(&formatting).map_err(io_error("remove", &formatting))?;
        self.sync()?;
        Ok(store)
    }

    fn write_format(&self, cluster: ClusterId) -> Result<(), DataDirError> {
        let path = self.path.join(FORMAT);
        let text = format!(
            "# Data directory of a gfs-master. Do not edit.\nversion = {FORMAT_VERSION}\ncluster = \"{cluster}\"\n"
        );
        let temporary = path.with_extension("new");
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(io_error("write", &path))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), DataDirError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(io_error("flush", &self.path))
    }

    fn store_error(&self, source: StoreError) -> DataDirError {
        DataDirError::Store { path: self.path.join(METADATA), source: Box::new(source) }
    }

    /// What was chosen at format cannot be chosen again.
    fn agree(&self, genesis: &Genesis, options: &FormatOptions) -> Result<(), DataDirError> {
        let chunk = (u64::from(genesis.chunk_size.get()), options.chunk_size.map(|size| u64::from(size.get())));
        let goal = (u64::from(genesis.goal), options.goal.map(u64::from));
        for (setting, (formatted, asked)) in [("chunk size", chunk), ("goal", goal)] {
            if let Some(asked) = asked.filter(|asked| *asked != formatted) {
                return Err(DataDirError::Fixed { path: self.path.clone(), setting, formatted, asked });
            }
        }
        Ok(())
    }
}

fn database(path: &Path, cache_bytes: usize) -> Result<redb::Database, StoreError> {
    let open = redb::Database::builder().set_cache_size(cache_bytes).create(path);
    open.map_err(|e| redb::Error::from(e).into())
}

fn genesis(options: &FormatOptions) -> Result<Genesis, DataDirError> {
    let mut cluster = [0; 16];
    getrandom::fill(&mut cluster)?;
    Ok(Genesis {
        cluster: ClusterId::new(cluster),
        chunk_size: options.chunk_size.unwrap_or_else(default_chunk_size),
        goal: options.goal.unwrap_or(limits::GOAL_DEFAULT),
        restore_generation: RestoreGeneration::new(0),
        created: options.now,
    })
}

fn default_chunk_size() -> ChunkSize {
    ChunkSize::new(limits::CHUNK_SIZE_DEFAULT).expect("the default is within the limits")
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::InUse(dir.to_owned())),
        Err(e) => Err(io_error("lock", &path)(e.into())),
    }
}

/// Looks before anything is written.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("read the directory", path)(e)),
    };
    let format = std::fs::read(path.join(FORMAT)).unwrap_or_default(); // what cannot be read is said when it is opened
    if format.starts_with(CHUNKSERVER_FORMAT) {
        return Err(DataDirError::Chunkserver(path.to_owned()));
    }
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(io_error("read the directory", path))?.file_name().to_string_lossy().into_owned());
    }
    let ours = names.iter().any(|name| name == FORMAT || name == FORMATTING);
    match names.into_iter().find(|name| name != LOCK && name != LOST_AND_FOUND) {
        Some(found) if !ours => Err(DataDirError::Foreign { path: path.to_owned(), found }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> FormatOptions {
        FormatOptions {
            chunk_size: ChunkSize::new(64 << 10),
            goal: None,
            cache_bytes: 1 << 20,
            now: Timestamp::default(),
        }
    }
    fn error(path: &Path, options: &FormatOptions) -> String {
        match DataDir::open(path, options) {
            Ok(_) => panic!("{} should have been refused", path.display()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn formats_once_and_opens_again() {
        let temp = tempfile::tempdir().expect("directory");
        let path = temp.path().join("a/b");
        let cluster = DataDir::open(&path, &options()).expect("formatted").1.genesis().cluster;
        let again = DataDir::open(&path, &options()).expect("opened");
        assert_eq!(again.1.genesis().cluster, cluster);
        assert_eq!(again.1.genesis().chunk_size.get(), 64 << 10);
        assert!(error(&path, &options()).contains("in use"), "locked while open");
    }

    #[test]
    fn an_interrupted_format_is_done_again() {
        let temp = tempfile::tempdir().expect("directory");
        std::fs::write(temp.path().join(FORMATTING), "").expect("written");
        std::fs::write(temp.path().join(METADATA), "half").expect("written");
        DataDir::open(temp.path(), &options()).expect("formatted again");
        assert!(!temp.path().join(FORMATTING).exists());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let temp = tempfile::tempdir().expect("directory");
        std::fs::write(temp.path().join("thesis.tex"), "x").expect("written");
        assert!(error(temp.path(), &options()).contains("thesis.tex"));
        assert_eq!(std::fs::read_dir(temp.path()).expect("readable").count(), 1, "nothing was added");
    }

    #[test]
    fn newer_damaged_and_changed_directories_are_refused() {
        let temp = tempfile::tempdir().expect("directory");
        drop(DataDir::open(temp.path(), &options()).expect("formatted"));
        let other = FormatOptions { chunk_size: ChunkSize::new(128 << 10), ..options() };
        assert!(error(temp.path(), &other).contains("chunk size 65536"));
        assert!(error(temp.path(), &FormatOptions { goal: Some(2), ..options() }).contains("goal 3"));
        let id = "a5".repeat(16);
        for (text, named) in [
            (format!("version = 99\ncluster = \"{id}\"\n"), "format 99"),
            (format!("version = 1\ncluster = \"{id}\"\n"), "belongs to cluster"),
            ("version = 1\ncluster = \"xyz\"\n".to_owned(), "damaged"),
            ("gibberish".to_owned(), "damaged"),
        ] {
            std::fs::write(temp.path().join(FORMAT), &text).expect("written");
            let said = error(temp.path(), &options());
            assert!(said.contains(named), "{said:?} for {text:?}");
        }
    }

    #[test]
    fn the_directory_of_a_chunkserver_is_named_as_such_though_it_is_locked() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join(FORMAT), "gfs-chunkserver-directory 2\n").expect("written");
        let held = lock(dir.path()).expect("free");
        let error = DataDir::open(dir.path(), &options()).map(drop).expect_err("foreign");
        assert!(matches!(error, DataDirError::Chunkserver(_)), "{error}");
        drop(held);
    }
}
