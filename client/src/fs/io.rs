//! Reading, writing and syncing open files.

use super::Client;
use crate::data::{InodeData, OpenData, Tried};
use crate::files::{OpenFile, OpenInode, UnsentReport};
use crate::{Allocate, FileHandle, Seek, WriteFlags};
use bytes::Bytes;
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, SetTime};
use gfs_proto::caller::Caller;
use gfs_proto::chunk::ChunkMap;
use gfs_proto::ids::{InodeId, TruncateGeneration};
use gfs_proto::limits::{FILE_SIZE_MAX, FRAME_PAYLOAD_MAX};
use gfs_proto::ops::{Access, Op, OpenSpec};
use std::sync::Arc;
use std::time::Instant;

/// A write is made again after so many cuts by other mounts; then its caller is told.
const CUTS_MAX: usize = 8;

impl Client {
    /// Up to `length` bytes; fewer only at the end of the file.
    pub async fn read(&self, handle: FileHandle, offset: u64, length: u32) -> Result<Bytes, FsError> {
        let file = self.readable(handle)?;
        if self.may_have_grown(&file.inode, offset, length) {
            self.fresh_attr(&Caller::root(), file.inode.id).await?;
        }
        file.inode.data.read(offset, length).await
    }

    /// [`Client::read`] as far as it goes without waiting.
    pub fn try_read(&self, handle: FileHandle, offset: u64, length: u32) -> Result<Tried, FsError> {
        let file = self.readable(handle)?;
        if self.may_have_grown(&file.inode, offset, length) {
            return Ok(Tried::Elsewhere);
        }
        Ok(file.inode.data.try_read(offset, length))
    }

    fn readable(&self, handle: FileHandle) -> Result<Arc<OpenFile>, FsError> {
        let file = self.files.get(handle)?;
        file.inode.check()?;
        if file.flags.access.reads() { Ok(file) } else { Err(FsError::BadHandle) }
    }

    /// The read reaches the end as it is known, others may write, and the attributes are old: a read
    /// is never shorter than the size that somebody was told.
    fn may_have_grown(&self, inode: &OpenInode, offset: u64, length: u32) -> bool {
        !inode.is_exclusive()
            && offset.saturating_add(length.into()) > inode.data.size()
            && self.cache.attr(inode.id, Instant::now()).is_none()
    }

    /// Writes all of `data`; at the end of the file if the handle was opened with O_APPEND.
    pub async fn write(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<u32, FsError> {
        self.write_with(handle, offset, data, WriteFlags::default()).await
    }

    /// [`Client::write`] with what the kernel says about it.
    pub async fn write_with(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<u32, FsError> {
        let file = self.writable(handle, offset, data)?;
        let written = u32::try_from(data.len()).map_err(|_| FsError::InvalidArgument)?;
        if flags.kill_suid {
            self.kill_suid(file.inode.id).await?;
        }
        self.write_open(&file, offset, data, flags).await?;
        if file.flags.sync {
            file.inode.data.sync().await?;
            self.report(&file.inode, Some(true)).await?;
        }
        Ok(written)
    }

    fn writable(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<Arc<OpenFile>, FsError> {
        let file = self.files.get(handle)?;
        file.inode.check()?;
        if !file.flags.access.writes() {
            return Err(FsError::BadHandle);
        }
        match offset.checked_add(data.len() as u64) {
            Some(end) if end <= FILE_SIZE_MAX => Ok(file),
            _ => Err(FsError::FileTooLarge),
        }
    }

    /// Where others write too, another mount may cut the file at the same moment. A write that went out under
    /// a generation from before the cut is erased with what lies beyond it, and the master tells so in its
    /// answer to the size: then it is written again, after the cut.
    async fn write_open(&self, file: &OpenFile, offset: u64, data: &[u8], flags: WriteFlags) -> Result<(), FsError> {
        let inode = &file.inode;
        let _gate = inode.gate.read().await;
        for _ in 0..CUTS_MAX {
            let generation = inode.data.truncate_generation();
            self.write_once(file, offset, data, flags).await?;
            if inode.is_exclusive() {
                self.report_soon(inode);
                return Ok(());
            }
            self.report(inode, None).await?;
            if inode.data.truncate_generation() == generation {
                return Ok(());
            }
        }
        Err(FsError::Busy)
    }

    async fn write_once(&self, file: &OpenFile, offset: u64, data: &[u8], flags: WriteFlags) -> Result<(), FsError> {
        let inode = &file.inode;
        if flags.from_cache {
            // Pages of a mapping end with the page, not with the file.
            let inside = inode.data.size().saturating_sub(offset).min(data.len() as u64) as usize;
            inode.data.write(offset, &data[..inside]).await
        } else if file.flags.append {
            self.append(inode, data).await
        } else {
            inode.data.write(offset, data).await
        }
    }

    /// Under an exclusive open the end of the file is known here. Otherwise the master is asked: two
    /// clients that append at the same moment may still get the same offset.
    async fn append(&self, inode: &Arc<OpenInode>, data: &[u8]) -> Result<(), FsError> {
        if inode.is_exclusive() {
            inode.data.append(data).await?;
            return Ok(());
        }
        let _append = inode.append.lock().await;
        self.fresh_attr(&Caller::root(), inode.id).await?;
        inode.data.append(data).await?;
        Ok(())
    }

    /// [`Client::write_with`] into memory without waiting, if the file is buffered and there is room.
    /// `None`: nothing was done.
    pub fn try_write(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Option<Result<u32, FsError>> {
        let file = match self.writable(handle, offset, data) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let inode = &file.inode;
        if flags.kill_suid || flags.from_cache || file.flags.sync || !inode.is_exclusive() {
            return None;
        }
        let _gate = inode.gate.try_read().ok()?;
        let written = if file.flags.append {
            inode.data.try_append(data)?.map(drop)
        } else {
            inode.data.try_write(offset, data)?
        };
        self.report_soon(inode);
        Some(written.and(u32::try_from(data.len()).map_err(|_| FsError::InvalidArgument)))
    }

    /// `fsync(2)`, or `fdatasync(2)` if `data_only`: the bytes on stable storage of every replica, then
    /// the size logged at the master.
    pub async fn fsync(&self, handle: FileHandle, data_only: bool) -> Result<(), FsError> {
        let file = self.files.get(handle)?;
        file.inode.check()?;
        let data = &file.inode.data;
        match data.sync().await {
            // It was written before, a member is not what it was, and new ones take an open for writing.
            Err(FsError::BadHandle) => self.sync_reopened(file.inode.id, data).await?,
            other => other?,
        }
        self.report(&file.inode, Some(data_only)).await
    }

    /// `fsync(2)` of a directory: its changes are durable when they return, so there is nothing to do.
    pub fn fsyncdir(&self) {}

    /// Tells the master size and times. `durable`: logged before it returns, `Some(true)` without the
    /// times. No request if there is nothing new.
    pub(super) async fn report(&self, inode: &Arc<OpenInode>, durable: Option<bool>) -> Result<(), FsError> {
        let _reporting = inode.reporting.lock().await;
        let report = match durable {
            Some(data_only) => inode.unlogged(data_only),
            None => inode.unreported(),
        };
        match report {
            Some(report) => self.send_report(inode, &report, durable.is_some()).await,
            None => Ok(()),
        }
    }

    /// One report, under the inode's lock for them.
    pub(super) async fn send_report(
        &self,
        inode: &OpenInode,
        report: &UnsentReport,
        durable: bool,
    ) -> Result<(), FsError> {
        let op = Op::ReportSize {
            inode: inode.id.into(),
            size: report.0.size,
            mtime: report.0.mtime.map(SetTime::At),
            atime: report.0.atime.map(SetTime::At),
            ctime: report.0.ctime,
            truncate_generation: report.0.generation,
            durable,
        };
        let mut answer = self.ask(&Caller::root(), vec![op]).await?;
        let attr = answer.attr()?;
        inode.reported(report, &attr, durable);
        self.take(&attr, answer.seen);
        Ok(())
    }

    /// What a file holds that is about to replace another one goes to stable storage first, so that
    /// the name leads to the old content or the new after any crash.
    pub(super) async fn make_durable(&self, inode: InodeId) -> Result<(), FsError> {
        if let Some(open) = self.files.inode(inode) {
            open.data.sync().await?;
            let wrote = open.with_overlay(|overlay, written| overlay.unlogged_writes(written)).is_some();
            return if wrote { self.report(&open, Some(false)).await } else { Ok(()) };
        }
        let Some((data, unlogged)) = self.files.parked(inode) else { return self.sync_closed(inode).await };
        match data.sync().await {
            // A member of the closed file's lease is not what it was: new ones take an open file.
            Err(FsError::BadHandle) => self.sync_reopened(inode, &data).await?,
            other => other?,
        }
        if let Some((size, generation)) = unlogged {
            self.log_size(inode, size, generation).await?;
            self.files.parked_is_logged(inode);
        }
        Ok(())
    }

    async fn log_size(
        &self,
        inode: InodeId,
        size: u64,
        truncate_generation: TruncateGeneration,
    ) -> Result<(), FsError> {
        let report = Op::ReportSize {
            inode: inode.into(),
            size,
            mtime: None,
            atime: None,
            ctime: None,
            truncate_generation,
            durable: true,
        };
        self.ask(&Caller::root(), vec![report]).await?.attr().map(drop)
    }

    /// A file that is not open here and of which nothing is remembered: another mount may have written it, or
    /// this one before it wrote many others.
    async fn sync_closed(&self, inode: InodeId) -> Result<(), FsError> {
        let attr = self.getattr(&Caller::root(), inode).await?.attr;
        if attr.kind != FileKind::File {
            return Ok(());
        }
        let (size, truncate_generation) = (attr.size, attr.truncate_generation);
        let map = ChunkMap::default();
        let open = OpenData { inode, size, truncate_generation, map, grant: None, exclusive: false };
        self.plane.open(open).sync().await?;
        self.log_size(inode, size, truncate_generation).await
    }

    async fn sync_reopened(&self, inode: InodeId, data: &Arc<InodeData>) -> Result<(), FsError> {
        let spec = OpenSpec { open: self.files.next_open(), access: Access::Write, truncate: false };
        self.ask(&Caller::root(), vec![Op::Open { inode: inode.into(), spec }]).await?.next()?;
        let synced = data.sync().await;
        data.forget_grants();
        self.ask(&Caller::root(), vec![Op::Release { inode: inode.into(), open: spec.open }]).await?.done()?;
        synced
    }

    /// `fallocate(2)`. Space cannot be set aside: that is refused, and the C library writes instead.
    pub async fn fallocate(&self, handle: FileHandle, offset: u64, length: u64, what: Allocate) -> Result<(), FsError> {
        let keep_size = match what {
            Allocate::Extend | Allocate::KeepSize => return Err(FsError::NotSupported),
            Allocate::Zero { keep_size } => keep_size,
        };
        let end = offset.checked_add(length).ok_or(FsError::FileTooLarge)?;
        let file = self.writable(handle, end, &[])?;
        let end = if keep_size { end.min(file.inode.data.size()) } else { end };
        let zeroes = vec![0; FRAME_PAYLOAD_MAX as usize];
        let mut at = offset;
        while at < end {
            let length = (end - at).min(zeroes.len() as u64);
            let _gate = file.inode.gate.read().await;
            file.inode.data.write(at, &zeroes[..length as usize]).await?;
            at += length;
        }
        if file.inode.is_exclusive() { Ok(()) } else { self.report(&file.inode, None).await }
    }

    /// `lseek(2)` for data and holes; whole chunks are told apart.
    pub async fn seek(&self, handle: FileHandle, offset: u64, what: Seek) -> Result<u64, FsError> {
        let file = self.files.get(handle)?;
        let inode = &file.inode;
        inode.check()?;
        let size = inode.data.size();
        if offset >= size {
            return Err(FsError::NoSuchAddress);
        }
        if inode.data.is_dirty() {
            inode.data.flush().await?;
        }
        let map = self.file_chunks(&Caller::root(), inode.id).await?;
        let chunk_size = self.session.identity().chunk_size;
        let present: Vec<u32> = map.chunks.iter().map(|chunk| chunk.index.get()).collect();
        let (first, _) = chunk_size.locate(offset);
        let is_data = |index: &u32| present.binary_search(index).is_ok();
        let found = (first.get()..chunk_size.chunks_of(size)).find(|index| is_data(index) == (what == Seek::Data));
        let start = |index| chunk_size.start_of(gfs_proto::ids::ChunkIndex::new(index)).max(offset);
        match (found, what) {
            (Some(index), _) => Ok(start(index)),
            (None, Seek::Hole) => Ok(size), // there is a hole behind every end
            (None, Seek::Data) => Err(FsError::NoSuchAddress),
        }
    }
}
