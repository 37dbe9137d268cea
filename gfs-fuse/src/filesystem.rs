//! The callbacks: each converts its arguments, makes one call, has its answer mapped ([`reply`]).
//!
//! What can be answered without waiting is answered on the session thread. Everything else begins there, so
//! that its request leaves at once, and goes on as a task of the runtime ([`call`]): no session thread ever
//! waits for a server.

use crate::convert::{self, caller, errno, inode, name};
use crate::{call, reply};
use fuser::{
    BsdFileFlags, Errno, FileHandle as FuseHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags as FuseOpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags as FuseWriteFlags,
};
use gfs_client::data::Tried;
use gfs_client::{Allocate, Client, DirHandle, Entry, FileHandle, OpenFlags, Seek, WriteFlags};
use gfs_proto::FsError;
use gfs_proto::attr::{Mode, SetAttr};
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::FRAME_PAYLOAD_MAX;
use gfs_proto::ops::{MakeKind, XattrMode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tracing::warn;

/// Requests that the kernel may have outstanding in the background (read-ahead, asynchronous I/O).
const BACKGROUND_MAX: u16 = 64;
/// A read(2) whose read-ahead failed is made once more by the kernel, for the page that is wanted.
const READS_PER_CALL: u32 = 2;

/// The file system as fuser wants it.
pub(crate) struct GfsFilesystem {
    client: Arc<Client>,
    runtime: Handle,
    chunk_size: ChunkSize,
}

impl GfsFilesystem {
    pub(crate) fn new(client: Arc<Client>, runtime: Handle) -> Self {
        let chunk_size = client.info().chunk_size;
        Self { client, runtime, chunk_size }
    }

    /// Runs a call to its first wait here and the rest on the runtime.
    fn spawn(&self, call: impl Future<Output = ()> + Send + 'static) {
        call::begin(&self.runtime, call);
    }

    /// Makes a call within the bound on one operation, and answers.
    fn serve<T, C>(
        &self,
        (name, on): (&'static str, INodeNo),
        call: impl FnOnce(Arc<Client>) -> C,
        answer: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) where
        T: Send + 'static,
        C: Future<Output = Result<T, FsError>> + Send + 'static,
    {
        let client = self.client.clone();
        let call = call(client.clone());
        self.spawn(async move { answer(client.bounded(name, inode(on), call).await) });
    }

    fn done<C>(&self, what: (&'static str, INodeNo), reply: ReplyEmpty, call: impl FnOnce(Arc<Client>) -> C)
    where
        C: Future<Output = Result<(), FsError>> + Send + 'static,
    {
        self.serve(what, call, |result| reply::done(reply, result));
    }

    fn entry<C>(&self, what: (&'static str, INodeNo), reply: ReplyEntry, call: impl FnOnce(Arc<Client>) -> C)
    where
        C: Future<Output = Result<Entry, FsError>> + Send + 'static,
    {
        let chunk_size = self.chunk_size;
        self.serve(what, call, move |result| reply::entry(reply, result, chunk_size));
    }

    fn attr<C>(&self, what: (&'static str, INodeNo), reply: ReplyAttr, call: impl FnOnce(Arc<Client>) -> C)
    where
        C: Future<Output = Result<Entry, FsError>> + Send + 'static,
    {
        let chunk_size = self.chunk_size;
        self.serve(what, call, move |result| reply::attr(reply, result, chunk_size));
    }
}

/// The kernel's flags for `fallocate(2)`.
fn allocate(mode: i32) -> Result<Allocate, FsError> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(Allocate::Extend),
        KEEP => Ok(Allocate::KeepSize),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::Zero { keep_size: false }),
        _ if mode == libc::FALLOC_FL_PUNCH_HOLE | KEEP || mode == libc::FALLOC_FL_ZERO_RANGE | KEEP => {
            Ok(Allocate::Zero { keep_size: true })
        }
        _ => Err(FsError::NotSupported),
    }
}

impl Filesystem for GfsFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            // Without it the kernel asks for security.capability before each write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                warn!(?flag, "the kernel lacks a FUSE feature; going on without it");
            }
        }
        // Each of these lowers itself to what the kernel allows and says so in its error.
        let _ = config.set_max_write(FRAME_PAYLOAD_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, raw: &OsStr, reply: ReplyEntry) {
        let name = match name(raw) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(error)),
        };
        let chunk_size = self.chunk_size;
        if let Some(found) = self.client.try_lookup(inode(parent), &name) {
            return reply::lookup(reply, Ok(found), chunk_size);
        }
        let caller = caller(request);
        self.serve(
            ("lookup", parent),
            |client| async move { client.lookup(&caller, inode(parent), &name).await },
            move |found| reply::lookup(reply, found, chunk_size),
        );
    }

    /// The client keeps no table of inodes: a number is all that the kernel holds.
    fn forget(&self, _request: &Request, _number: INodeNo, _lookups: u64) {}

    fn getattr(&self, request: &Request, number: INodeNo, _handle: Option<FuseHandle>, reply: ReplyAttr) {
        if let Some(entry) = self.client.try_getattr(inode(number)) {
            return reply::attr(reply, Ok(entry), self.chunk_size);
        }
        let caller = caller(request);
        self.attr(("getattr", number), reply, |client| async move { client.getattr(&caller, inode(number)).await });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FuseHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = SetAttr {
            mode: mode.map(Mode::new),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: None,
            by_open_handle: handle.is_some() && size.is_some(),
        };
        let (caller, open) = (caller(request), handle.map(|handle| FileHandle::new(handle.0)));
        self.attr(("setattr", number), reply, |client| async move {
            client.setattr(&caller, inode(number), changes, open).await
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        if let Some(target) = self.client.try_readlink(inode(number)) {
            return reply.data(&target);
        }
        let caller = caller(request);
        self.serve(
            ("readlink", number),
            |client| async move { client.readlink(&caller, inode(number)).await },
            |target| reply::data(reply, target),
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        raw: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let asked = name(raw).and_then(|name| Ok((name, convert::node_kind(mode, rdev)?)));
        let (caller, mode) = (caller(request), Mode::new(mode & !umask));
        self.entry(("mknod", parent), reply, |client| async move {
            let (name, kind) = asked?;
            client.make(&caller, inode(parent), &name, kind, mode).await
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, raw: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (caller, name, mode) = (caller(request), name(raw), Mode::new(mode & !umask));
        self.entry(("mkdir", parent), reply, |client| async move {
            client.make(&caller, inode(parent), &name?, MakeKind::Directory, mode).await
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, raw: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name(raw));
        let kind = MakeKind::Symlink(target.as_os_str().as_bytes().to_vec());
        self.entry(("symlink", parent), reply, |client| async move {
            client.make(&caller, inode(parent), &name?, kind, Mode::new(0o777)).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, raw: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name(raw));
        self.done(
            ("unlink", parent),
            reply,
            |client| async move { client.unlink(&caller, inode(parent), &name?).await },
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, raw: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name(raw));
        self.done(("rmdir", parent), reply, |client| async move { client.rmdir(&caller, inode(parent), &name?).await });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        raw: &OsStr,
        new_parent: INodeNo,
        new_raw: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (caller, from, to, mode) = (caller(request), name(raw), name(new_raw), convert::rename_mode(flags));
        self.done(("rename", parent), reply, |client| async move {
            client.rename(&caller, (inode(parent), &from?), (inode(new_parent), &to?), mode?).await
        });
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, raw: &OsStr, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name(raw));
        self.entry(("link", parent), reply, |client| async move {
            client.link(&caller, inode(number), inode(parent), &name?).await
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: FuseOpenFlags, reply: ReplyOpen) {
        let flags = OpenFlags::from_linux(flags.0);
        if let Some(result) = self.client.try_open(inode(number), flags) {
            return reply::open(reply, result, flags.append);
        }
        let caller = caller(request);
        self.serve(
            ("open", number),
            |client| async move { client.open(&caller, inode(number), flags).await },
            move |opened| reply::open(reply, opened, flags.append),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        raw: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name, chunk_size) = (caller(request), name(raw), self.chunk_size);
        let (mode, flags) = (Mode::new(mode & !umask), OpenFlags::from_linux(flags));
        self.serve(
            ("create", parent),
            |client| async move { client.create(&caller, inode(parent), &name?, (mode, flags)).await },
            move |created| reply::created(reply, created, flags.append, chunk_size),
        );
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FuseHandle,
        offset: u64,
        size: u32,
        _flags: FuseOpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (client, handle) = (self.client.clone(), FileHandle::new(handle.0));
        let tried = client.try_read(handle, offset, size);
        let read = async move {
            client.bounded_part(READS_PER_CALL, "read", inode(number), client.read(handle, offset, size)).await
        };
        match tried {
            Err(error) => reply.error(errno(error)),
            Ok(Tried::Done(data)) => reply.data(&data),
            Ok(Tried::Cold(cold)) => call::begin_after(&self.runtime, move || match cold.wait() {
                Some(data) => {
                    reply.data(&data);
                    None
                }
                None => Some(async move { reply::data(reply, read.await) }),
            }),
            Ok(Tried::Elsewhere) => self.spawn(async move { reply::data(reply, read.await) }),
        }
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FuseHandle,
        offset: u64,
        data: &[u8],
        write_flags: FuseWriteFlags,
        _flags: FuseOpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let handle = FileHandle::new(handle.0);
        let flags = WriteFlags {
            from_cache: write_flags.contains(FuseWriteFlags::FUSE_WRITE_CACHE),
            kill_suid: write_flags.contains(FuseWriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        if let Some(written) = self.client.try_write(handle, offset, data, flags) {
            return reply::written(reply, written);
        }
        let data = data.to_vec();
        self.serve(
            ("write", number),
            |client| async move { client.write_with(handle, offset, &data, flags).await },
            |written| reply::written(reply, written),
        );
    }

    fn flush(&self, _request: &Request, number: INodeNo, handle: FuseHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let handle = FileHandle::new(handle.0);
        if let Some(result) = self.client.try_flush(handle) {
            return reply::done(reply, result);
        }
        self.done(("flush", number), reply, |client| async move { client.flush(handle).await });
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FuseHandle,
        _flags: FuseOpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _inside = self.runtime.enter();
        self.client.release(FileHandle::new(handle.0));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, number: INodeNo, handle: FuseHandle, data_only: bool, reply: ReplyEmpty) {
        let handle = FileHandle::new(handle.0);
        self.done(("fsync", number), reply, |client| async move { client.fsync(handle, data_only).await });
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: FuseOpenFlags, reply: ReplyOpen) {
        let _inside = self.runtime.enter();
        match self.client.opendir(&caller(request), inode(number)) {
            Ok(handle) => reply.opened(FuseHandle(handle.get()), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _request: &Request, number: INodeNo, handle: FuseHandle, offset: u64, reply: ReplyDirectory) {
        let (directory, handle, after) = (inode(number), DirHandle::new(handle.0), DirCookie::new(offset));
        if let Some(page) = self.client.try_readdir(handle, after, false) {
            return reply::directory(reply, (directory, offset), Ok(page));
        }
        self.serve(
            ("readdir", number),
            |client| async move { client.readdir(handle, after, false).await },
            move |page| reply::directory(reply, (directory, offset), page),
        );
    }

    fn readdirplus(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FuseHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (directory, handle, after) = (inode(number), DirHandle::new(handle.0), DirCookie::new(offset));
        let chunk_size = self.chunk_size;
        if let Some(page) = self.client.try_readdir(handle, after, true) {
            return reply::directory_plus(reply, (directory, offset), Ok(page), chunk_size);
        }
        self.serve(
            ("readdir", number),
            |client| async move { client.readdir(handle, after, true).await },
            move |page| reply::directory_plus(reply, (directory, offset), page, chunk_size),
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FuseHandle,
        _flags: FuseOpenFlags,
        reply: ReplyEmpty,
    ) {
        self.client.releasedir(DirHandle::new(handle.0));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _number: INodeNo, _handle: FuseHandle, _data_only: bool, reply: ReplyEmpty) {
        self.client.fsyncdir();
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let root = INodeNo(InodeId::ROOT.get());
        self.serve(
            ("statfs", root),
            |client| async move { client.statfs().await },
            |stats| reply::statfs(reply, stats),
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Either,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (caller, key, value) = (caller(request), key.as_bytes().to_vec(), value.to_vec());
        self.done(("setxattr", number), reply, |client| async move {
            client.setxattr(&caller, inode(number), (&key, &value), mode).await
        });
    }

    fn getxattr(&self, request: &Request, number: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        if let Some(result) = self.client.try_getxattr(inode(number), key.as_bytes()) {
            return reply::xattr(reply, size, result);
        }
        let (caller, key) = (caller(request), key.as_bytes().to_vec());
        self.serve(
            ("getxattr", number),
            |client| async move { client.getxattr(&caller, inode(number), &key).await },
            move |value| reply::xattr(reply, size, value),
        );
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        if let Some(names) = self.client.try_listxattr(inode(number)) {
            return reply::xattr_names(reply, size, Ok(names));
        }
        let caller = caller(request);
        self.serve(
            ("listxattr", number),
            |client| async move { client.listxattr(&caller, inode(number)).await },
            move |names| reply::xattr_names(reply, size, names),
        );
    }

    fn removexattr(&self, request: &Request, number: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        let (caller, key) = (caller(request), key.as_bytes().to_vec());
        self.done(("removexattr", number), reply, |client| async move {
            client.removexattr(&caller, inode(number), &key).await
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FuseHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (handle, what) = (FileHandle::new(handle.0), allocate(mode));
        self.done(("fallocate", number), reply, |client| async move {
            client.fallocate(handle, offset, length, what?).await
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FuseHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let handle = FileHandle::new(handle.0);
        self.serve(
            ("lseek", number),
            |client| async move { client.seek(handle, offset, what).await },
            |found| reply::offset(reply, found),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallocate_modes_that_are_served() {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        for (mode, expected) in [
            (0, Ok(Allocate::Extend)),
            (keep, Ok(Allocate::KeepSize)),
            (libc::FALLOC_FL_PUNCH_HOLE | keep, Ok(Allocate::Zero { keep_size: true })),
            (libc::FALLOC_FL_ZERO_RANGE, Ok(Allocate::Zero { keep_size: false })),
            (libc::FALLOC_FL_PUNCH_HOLE, Err(FsError::NotSupported)),
            (libc::FALLOC_FL_COLLAPSE_RANGE, Err(FsError::NotSupported)),
        ] {
            assert_eq!(allocate(mode), expected, "{mode:#x}");
        }
    }
}
