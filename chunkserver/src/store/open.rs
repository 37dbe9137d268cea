//! Opening a store: lock and read the directories, format empty ones, check that they belong together,
//! raise the incarnation. What the replicas are worth is decided in [`super::recover`].

use super::damage::Harm;
use super::directory::{CHUNKS, Directory, FAILED, FORMAT, FORMAT_NEW, LOCK, Parts, Thresholds, subdir};
use super::disk::{Disk, DiskFile, OpenMode};
use super::format_file::{self, FormatError, FormatFile};
use super::index::{DIRECTORIES_MAX, Index};
use super::layout::{Layout, SUBDIRS};
use super::marks::{self, MarkJournal};
use super::pack::{PACK_BYTES_MAX, PACKS, Packs};
use super::recover::{Found, FoundIn, LastRun, recover};
use super::{ChunkStore, Identity, StoreConfig, StoreError, expect_same};
use crate::loans::Loans;
use gfs_proto::control::{DirectorySpace, ReplicaState};
use gfs_proto::ids::{Incarnation, Term};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// A directory that is locked, with its format file if it has one.
struct Locked<D: Disk> {
    path: PathBuf,
    lock: D::File,
    format: Option<FormatFile>,
}

/// Folder of a directory of format 1.
const SPARE: &str = "spare";

/// A directory that is ready for use.
struct Ready<D: Disk> {
    directory: Directory<D>,
    found: Vec<Found>,
}

impl<D: Disk> ChunkStore<D> {
    /// Locks and reads the directories, formats empty ones, raises the incarnation durably, decides
    /// which replicas are suspect. Directories that fail are left out as long as one works.
    pub fn open(config: StoreConfig, disk: D) -> Result<Self, StoreError> {
        check_config(&config)?;
        let disk = Arc::new(disk);
        let mut failed = Vec::new();
        let locked = keep_working(&mut failed, config.directories.iter().map(|path| lock(&*disk, path)))?;
        let before = agree(&locked, &config)?;
        let identity = Identity { incarnation: before.incarnation.next(), ..before };
        let loans = Loans::new();
        let ready = locked.into_iter().map(|one| bring_up(&disk, one, &config, (&identity, &loans)));
        let ready = keep_working(&mut failed, ready)?;
        let index = Index::new(config.open_files_max.max(64));
        let (directories, found): (Vec<_>, Vec<_>) = ready.into_iter().map(|one| (one.directory, one.found)).unzip();
        for (number, found) in found.into_iter().enumerate() {
            found.into_iter().for_each(|found| enter(&index, &directories, (number as u8, found)));
        }
        let layout = identity.chunk_size.map_or_else(OnceLock::new, |size| OnceLock::from(Layout::new(size)));
        Ok(Self {
            disk,
            directories,
            missing: failed.iter().filter_map(left_out).collect(),
            index,
            identity: RwLock::new(identity),
            layout,
            stopped: AtomicBool::new(false),
            unmovable: Mutex::default(),
            harm: Harm::default(),
            loans,
        })
    }
}

fn check_config(config: &StoreConfig) -> Result<(), StoreError> {
    let distinct: BTreeSet<&PathBuf> = config.directories.iter().collect();
    if config.directories.is_empty() {
        Err(StoreError::NoDirectory)
    } else if config.directories.len() > DIRECTORIES_MAX {
        Err(StoreError::Config("there are more than 256 storage directories"))
    } else if distinct.len() != config.directories.len() {
        Err(StoreError::Config("a storage directory is named twice"))
    } else if config.pack_bytes != 0 && !(config.pack_bytes.is_power_of_two() && config.pack_bytes <= PACK_BYTES_MAX) {
        Err(StoreError::Config("pack_bytes is no power of two, or too large"))
    } else if config.watermark_bytes < config.reserve_bytes {
        Err(StoreError::Config("watermark_bytes is below reserve_bytes"))
    } else if config.boot_id.is_empty() || config.boot_id.contains(char::is_whitespace) {
        Err(StoreError::Config("the boot id of this machine is unknown"))
    } else {
        Ok(())
    }
}

/// What worked. A directory that the operating system fails is left out, unless none is left; any other
/// error ends the start: a person has to decide.
fn keep_working<T>(
    failed: &mut Vec<StoreError>,
    outcomes: impl Iterator<Item = Result<T, StoreError>>,
) -> Result<Vec<T>, StoreError> {
    let mut working = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(one) => working.push(one),
            Err(error @ StoreError::Io { .. }) => failed.push(error),
            Err(error) => return Err(error),
        }
    }
    match failed.pop() {
        Some(error) if working.is_empty() => Err(error),
        last => {
            failed.extend(last);
            Ok(working)
        }
    }
}

/// How a directory that was left out is shown.
fn left_out(error: &StoreError) -> Option<DirectorySpace> {
    let StoreError::Io { action, path, source } = error else { return None };
    let reason = format!("cannot {action} it: {source}");
    tracing::error!(directory = %path.display(), reason, "storage directory is left out");
    Some(DirectorySpace {
        path: path.display().to_string(),
        bytes_total: 0,
        bytes_free: 0,
        chunks: 0,
        accepts_chunks: false,
        error: reason,
    })
}

fn failing(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

/// Makes the directory if need be, refuses a foreign one, locks it, reads its format file.
fn lock<D: Disk>(disk: &D, path: &Path) -> Result<Locked<D>, StoreError> {
    make_dir(disk, path).map_err(failing("make", path))?;
    refuse_foreign(disk, path)?;
    let lock = disk.open(&path.join(LOCK), OpenMode::OpenOrCreate).map_err(failing("lock", path))?;
    if !lock.try_lock().map_err(failing("lock", path))? {
        let mut holder = Vec::new();
        lock.read(0, 32, &mut holder).map_err(failing("lock", path))?;
        let holder = String::from_utf8_lossy(&holder).trim().to_owned();
        let holder = if holder.is_empty() { holder } else { format!(" (process {holder})") };
        return Err(StoreError::Locked { path: path.to_owned(), holder });
    }
    let note = format!("{}\n", std::process::id());
    let noted = lock.set_len(0).and_then(|()| lock.write(0, &[note.as_bytes()]));
    noted.map_err(failing("lock", path))?;
    let format = read_format(disk, path)?;
    Ok(Locked { path: path.to_owned(), lock, format })
}

/// Makes a directory, durably, unless it is there.
fn make_dir<D: Disk>(disk: &D, path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match disk.make_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| disk.sync_dir(parent)),
    }
}

/// A directory without a format file must hold nothing but what an interrupted formatting leaves.
fn refuse_foreign<D: Disk>(disk: &D, path: &Path) -> Result<(), StoreError> {
    const LEFT_BEHIND: [&str; 8] = [LOCK, FORMAT_NEW, marks::FILE, marks::FILE_NEW, CHUNKS, PACKS, SPARE, "lost+found"];
    let listed = disk.list(path).map_err(failing("list", path))?;
    if listed.iter().any(|entry| entry.name == FORMAT) {
        return Ok(());
    }
    match listed.into_iter().find(|entry| !LEFT_BEHIND.iter().any(|name| entry.name == *name)) {
        None => Ok(()),
        Some(entry) => {
            Err(StoreError::Foreign { path: path.to_owned(), found: entry.name.to_string_lossy().into_owned() })
        }
    }
}

/// A whole small file; `None` if there is none.
pub(super) fn read_file<D: Disk>(disk: &D, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut raw = Vec::new();
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    if length > 0 {
        file.read(0, length, &mut raw)?;
    }
    Ok(Some(raw))
}

fn read_format<D: Disk>(disk: &D, dir: &Path) -> Result<Option<FormatFile>, StoreError> {
    let path = dir.join(FORMAT);
    let Some(raw) = read_file(disk, &path).map_err(failing("read the format file of", dir))? else { return Ok(None) };
    FormatFile::decode(&raw).map(Some).map_err(|error| match error {
        FormatError::Newer(found) => StoreError::Newer { path: dir.to_owned(), found, known: format_file::FORMAT },
        FormatError::Damaged(what) => StoreError::Damaged { path, what },
    })
}

/// Whose directories these are; all must be the same server's.
fn agree<D: Disk>(locked: &[Locked<D>], config: &StoreConfig) -> Result<Identity, StoreError> {
    let formats = || locked.iter().filter_map(|one| one.format.as_ref());
    let identity = Identity {
        cluster: formats().find_map(|format| format.cluster),
        chunk_size: formats().find_map(|format| format.chunk_size),
        uuid: formats().next().map_or(config.uuid_if_new, |format| format.uuid),
        incarnation: formats().map(|format| format.incarnation).max().unwrap_or(Incarnation::new(0)),
        highest_term: formats().map(|format| format.highest_term).max().unwrap_or(Term::new(0)),
    };
    for Locked { path, format, .. } in locked {
        let Some(format) = format else { continue };
        expect_same(path, "server", Some(format.uuid), identity.uuid)?;
        if let Some(cluster) = identity.cluster {
            expect_same(path, "cluster", format.cluster, cluster)?;
        }
        if let Some(chunk_size) = identity.chunk_size {
            let found = format.chunk_size.map(|size| size.get());
            expect_same(path, "a cluster with chunk size", found, chunk_size.get())?;
        }
    }
    Ok(identity)
}

/// From locked to ready: subdirectories, what the last run left, a fresh mark journal, the format file.
fn bring_up<D: Disk>(
    disk: &Arc<D>,
    locked: Locked<D>,
    config: &StoreConfig,
    (identity, loans): (&Identity, &Arc<Loans>),
) -> Result<Ready<D>, StoreError> {
    let Locked { path, lock, format } = locked;
    make_subdirs(&**disk, &path).map_err(failing("make the subdirectories of", &path))?;
    let note = read_file(&**disk, &path.join(FAILED)).map_err(failing("read", &path))?;
    let last_run = LastRun::of(format.as_ref(), &config.boot_id, note.is_some());
    empty_spare(&**disk, &path).map_err(failing("remove the spare files of", &path))?;
    let (packs, scanned) =
        Packs::open(disk.clone(), &path, config.pack_bytes).map_err(failing("read the packs of", &path))?;
    let found_in = FoundIn { disk: &**disk, path: &path, packs: &packs };
    let recovered = recover(&found_in, scanned, last_run, identity.chunk_size).map_err(failing("recover", &path))?;
    if let (None, Some(found)) = (&format, recovered.found.first()) {
        let found = format!("{CHUNKS}/../{}", found.entry.name(found.handle).file_name());
        return Err(StoreError::Foreign { path, found });
    }
    // suspect replicas are noted down before the run that made them suspect is forgotten
    let marks = MarkJournal::create(disk.clone(), path.clone(), recovered.marks, recovered.harmed);
    let marks = marks.map_err(failing("write the mark journal of", &path))?;
    let format = FormatFile {
        cluster: identity.cluster,
        chunk_size: identity.chunk_size,
        uuid: identity.uuid,
        incarnation: identity.incarnation,
        highest_term: identity.highest_term,
        boot_id: config.boot_id.clone(),
        stopped: false,
    };
    marks::replace_file(&**disk, &path, (FORMAT, FORMAT_NEW), format.encode().as_bytes())
        .map_err(failing("write the format file of", &path))?;
    let thresholds = Thresholds { reserve: config.reserve_bytes, watermark: config.watermark_bytes };
    let chunks = recovered.found.len() as u64;
    let loans = loans.group();
    let disk = disk.clone();
    let directory = Directory::new(Parts { disk, path, lock, marks, format, thresholds, chunks, packs, loans });
    if let Some(note) = note {
        let flag = directory.path.join(FAILED);
        let note = String::from_utf8_lossy(&note).into_owned();
        directory.fail(&format!("{note}; check the disk, then remove {} to use it again", flag.display()));
    }
    Ok(Ready { directory, found: recovered.found })
}

/// Directories of format 1 had a folder of files for chunks to come.
fn empty_spare<D: Disk>(disk: &D, path: &Path) -> io::Result<()> {
    let spare = path.join(SPARE);
    match disk.list(&spare) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        listed => listed?.iter().try_for_each(|entry| disk.remove(&spare.join(&entry.name))),
    }
}

fn make_subdirs<D: Disk>(disk: &D, path: &Path) -> io::Result<()> {
    let chunks = path.join(CHUNKS);
    make_dir(disk, &chunks)?;
    make_dir(disk, &path.join(PACKS))?;
    let there = disk.list(&chunks)?;
    let missing: Vec<PathBuf> = (0..SUBDIRS)
        .map(|number| subdir(path, number))
        .filter(|dir| !there.iter().any(|entry| dir.file_name() == Some(&entry.name)))
        .collect();
    missing.iter().try_for_each(|dir| disk.make_dir(dir))?;
    if missing.is_empty() { Ok(()) } else { disk.sync_dir(&chunks) }
}

/// Adds a replica to the index. Of one that is in two directories the higher version counts; of two of
/// the same version, which nothing here makes, neither is believed.
fn enter<D: Disk>(index: &Index<D::File>, directories: &[Directory<D>], (dir, found): (u8, Found)) {
    let Found { handle, mut entry } = found;
    entry.dir = dir;
    let Some(other) = index.get(handle) else {
        index.insert(handle, entry);
        return;
    };
    let (keep, drop) = if other.version >= entry.version { (other, entry) } else { (entry, other) };
    let doubtful = keep.version == drop.version;
    let state = if doubtful { ReplicaState::Suspect } else { keep.state };
    index.update(handle, super::index::Entry { state, ..keep });
    let directory = &directories[usize::from(drop.dir)];
    let path = directory.file_path(handle, drop);
    tracing::warn!(chunk = %handle, file = %path.display(), "removed: another storage directory has this chunk too");
    // if that fails the directory is out of service, and the next start sees both again
    let removed = directory.remove(handle, drop);
    let _ = removed.and_then(|()| drop.place.map_or(Ok(()), |place| directory.sync_pack(place.pack)));
}
