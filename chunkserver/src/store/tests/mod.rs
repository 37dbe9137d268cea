//! Tests of the whole store: on a disk in memory that crashes and fails, and on the real one.

mod basic;
mod crash;
mod damage;
mod directories;
mod fault;
mod model;
mod on_disk;
mod pack_flushes;
mod packs;
mod script;

use super::disk::Disk;
use super::mem::MemDisk;
use super::{ChunkStore, ReadOut, StoreConfig, StoreError, WriteData};
use gfs_proto::checksum::{block_sums, decode_sums, encode_sums, piece_sums};
use gfs_proto::frame::{DataError, Extent, SyncChunk};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ClusterId, ServerUuid};
use gfs_proto::layout::ChunkSize;
use std::path::PathBuf;

const BLOCK: u32 = 4096;
/// Twice what fits into a pack.
const CHUNK: u32 = 128 << 10;
/// Of a chunk that has a file of its own from the beginning.
const LARGE: u32 = CHUNK;
const DIR: &str = "/store";
const CLUSTER: ClusterId = ClusterId::new([1; 16]);
const V1: ChunkVersion = ChunkVersion::new(1);
const V2: ChunkVersion = ChunkVersion::new(2);

fn h(raw: u64) -> ChunkHandle {
    ChunkHandle::new(raw)
}

fn config(boot: &str) -> StoreConfig {
    StoreConfig {
        directories: vec![PathBuf::from(DIR)],
        reserve_bytes: 1000,
        watermark_bytes: 2000,
        boot_id: boot.into(),
        uuid_if_new: ServerUuid::new([2; 16]),
        open_files_max: 64,
        pack_bytes: 128 << 10,
    }
}

fn open(disk: &MemDisk, boot: &str) -> ChunkStore<MemDisk> {
    ChunkStore::open(config(boot), disk.clone()).expect("store opens")
}

/// A formatted disk that has joined a cluster, everything durable, and its store.
fn fresh_with(chunk_bytes: u32) -> (MemDisk, ChunkStore<MemDisk>) {
    let disk = MemDisk::default();
    let store = open(&disk, "boot-1");
    store.join(CLUSTER, ChunkSize::new(chunk_bytes).expect("chunk size")).expect("join");
    (disk, store)
}

fn fresh() -> (MemDisk, ChunkStore<MemDisk>) {
    fresh_with(CHUNK)
}

/// Bytes that differ from place to place.
fn pattern(seed: u8, length: u32) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ (at >> 9) as u8 ^ seed).collect()
}

fn sums_of(extents: &[Extent], payload: &[u8]) -> Vec<u8> {
    let mut rest = payload;
    let mut sums = Vec::new();
    for extent in extents {
        let (now, later) = rest.split_at(extent.length as usize);
        sums.extend(encode_sums(piece_sums(extent.offset, now)));
        rest = later;
    }
    sums
}

trait Handy {
    fn put(&self, handle: ChunkHandle, offset: u32, data: &[u8]) -> Result<u32, DataError>;
    fn put_all(&self, handle: ChunkHandle, extents: &[Extent], payload: &[u8]) -> Result<u32, DataError>;
    fn get(&self, handle: ChunkHandle) -> Result<Vec<u8>, DataError>;
    fn flush(&self, handle: ChunkHandle) -> Result<(), DataError>;
    fn state(&self, handle: ChunkHandle) -> Option<super::ReplicaState>;
}

impl<D: Disk> Handy for ChunkStore<D> {
    fn put(&self, handle: ChunkHandle, offset: u32, data: &[u8]) -> Result<u32, DataError> {
        self.put_all(handle, &[Extent { offset, length: data.len() as u32 }], data)
    }

    fn put_all(&self, handle: ChunkHandle, extents: &[Extent], payload: &[u8]) -> Result<u32, DataError> {
        let version = self.row(handle).ok_or(DataError::NoChunk)?.version;
        let sums = sums_of(extents, payload);
        self.write(handle, version, &WriteData { extents, payload, sums: &sums })
    }

    /// The whole chunk, compared with its sums as a client does it.
    fn get(&self, handle: ChunkHandle) -> Result<Vec<u8>, DataError> {
        let version = self.row(handle).ok_or(DataError::NoChunk)?.version;
        let mut out = Vec::new();
        let range = Extent { offset: 0, length: self.layout()?.chunk_bytes() };
        let read = self.read(handle, version, range, &mut out)?;
        assert_eq!(out.len(), read.data_len as usize);
        matches(&read, &out)?;
        Ok(out)
    }

    fn flush(&self, handle: ChunkHandle) -> Result<(), DataError> {
        let version = self.row(handle).ok_or(DataError::NoChunk)?.version;
        self.sync(&[SyncChunk { handle, version }])
    }

    fn state(&self, handle: ChunkHandle) -> Option<super::ReplicaState> {
        self.row(handle).map(|row| row.state)
    }
}

fn matches(read: &ReadOut, data: &[u8]) -> Result<(), DataError> {
    if decode_sums(&read.sums).eq(block_sums(data)) { Ok(()) } else { Err(DataError::Corrupt) }
}

/// Path of the file of a replica as it is at the moment.
fn file_of(disk: &MemDisk, handle: ChunkHandle) -> PathBuf {
    let name = handle.to_string();
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
    disk.files().into_iter().find(is_it).expect("chunk file")
}
