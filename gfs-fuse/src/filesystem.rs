//! The callbacks: each converts its arguments, makes one call, maps the answer.
//!
//! What can be answered without waiting is answered on the session thread. Everything else begins there, so
//! that its request leaves at once, and goes on as a task of the runtime ([`call`]): no session thread ever
//! waits for a server.

use crate::call;
use crate::convert::{self, GENERATION, caller, errno, file_attr, inode, name};
use fuser::{
    BsdFileFlags, Errno, FileHandle as FuseHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags as FuseOpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags as FuseWriteFlags,
};
use gfs_client::data::Tried;
use gfs_client::{
    Allocate, Client, DirHandle, DirItems, Entry, FileHandle, Lookup, OpenFlags, Opened, Seek, WriteFlags,
};
use gfs_proto::FsError;
use gfs_proto::attr::{Mode, SetAttr};
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::{BLOCK_SIZE, FRAME_PAYLOAD_MAX, NAME_MAX};
use gfs_proto::ops::{FsStats, MakeKind, XattrMode};
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
/// Cookies of the two entries that every directory begins with.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

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

    fn done(&self, reply: ReplyEmpty, call: impl Future<Output = Result<(), FsError>> + Send + 'static) {
        self.spawn(async move { reply_done(reply, call.await) });
    }

    fn entry(&self, reply: ReplyEntry, call: impl Future<Output = Result<Entry, FsError>> + Send + 'static) {
        let chunk_size = self.chunk_size;
        self.spawn(async move {
            match call.await {
                Ok(entry) => reply.entry(&entry.ttl, &file_attr(&entry.attr, chunk_size), GENERATION),
                Err(error) => reply.error(errno(error)),
            }
        });
    }
}

fn reply_done(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_data(reply: ReplyData, result: Result<impl AsRef<[u8]>, FsError>) {
    match result {
        Ok(data) => reply.data(data.as_ref()),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_lookup(reply: ReplyEntry, found: Result<Lookup, FsError>, chunk_size: ChunkSize) {
    match found {
        Ok(Lookup::Found(entry)) => reply.entry(&entry.ttl, &file_attr(&entry.attr, chunk_size), GENERATION),
        Ok(Lookup::Missing { ttl }) => reply.entry(&ttl, &convert::no_such_file(), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_attr(reply: ReplyAttr, result: Result<Entry, FsError>, chunk_size: ChunkSize) {
    match result {
        Ok(entry) => reply.attr(&entry.ttl, &file_attr(&entry.attr, chunk_size)),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_open(reply: ReplyOpen, result: Result<Opened, FsError>, append: bool) {
    match result {
        Ok(opened) => reply.opened(FuseHandle(opened.handle.get()), open_reply_flags(&opened, append)),
        Err(error) => reply.error(errno(error)),
    }
}

/// Appenders and shared writers go past the page cache: its idea of the end of the file may be old.
fn open_reply_flags(opened: &Opened, append: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct || append);
    flags
}

/// `size` 0 asks for the length.
fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, FsError>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

fn join_names(names: Vec<Vec<u8>>) -> Vec<u8> {
    names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect()
}

/// Bytes for a user: what the servers have, divided by the copies that each byte takes.
fn reply_statfs(reply: ReplyStatfs, stats: &FsStats) {
    let per_block = u64::from(BLOCK_SIZE) * u64::from(stats.goal.max(1));
    let (total, free) = (stats.bytes_total / per_block, stats.bytes_free / per_block);
    let inodes_free = u64::from(u32::MAX);
    reply.statfs(total, free, free, stats.inodes + inodes_free, inodes_free, BLOCK_SIZE, NAME_MAX as u32, BLOCK_SIZE);
}

/// `.` and `..` as far as they come after `offset`, with the cookies that go on after them. The kernel
/// knows the parent itself, so `..` need not be looked up.
fn dots(directory: InodeId, offset: u64) -> impl Iterator<Item = (INodeNo, u64, &'static str)> {
    let dots = [(COOKIE_DOT, "."), (COOKIE_DOT_DOT, "..")];
    dots.into_iter()
        .filter(move |(cookie, _)| *cookie > offset)
        .map(move |(cookie, name)| (INodeNo(directory.get()), cookie, name))
}

fn fill_directory(mut reply: ReplyDirectory, directory: InodeId, offset: u64, page: &DirItems) {
    for (number, cookie, name) in dots(directory, offset) {
        if reply.add(number, cookie, fuser::FileType::Directory, name) {
            return reply.ok();
        }
    }
    for item in &page.items {
        let name = OsStr::from_bytes(item.name.as_bytes());
        if reply.add(INodeNo(item.inode.get()), item.cookie.get(), convert::file_type(item.kind), name) {
            break;
        }
    }
    reply.ok();
}

fn fill_directory_plus(
    mut reply: ReplyDirectoryPlus,
    (directory, offset): (InodeId, u64),
    page: &DirItems,
    chunk_size: ChunkSize,
) {
    let dot =
        fuser::FileAttr { ino: INodeNo(directory.get()), kind: fuser::FileType::Directory, ..convert::no_such_file() };
    for (number, cookie, name) in dots(directory, offset) {
        if reply.add(number, cookie, name, &Duration::ZERO, &dot, GENERATION) {
            return reply.ok();
        }
    }
    for item in &page.items {
        let name = OsStr::from_bytes(item.name.as_bytes());
        // Never left out in silence: a listing without an entry that is there loses files for its reader.
        let Some(entry) = &item.entry else { return reply.error(Errno::EIO) };
        let attr = file_attr(&entry.attr, chunk_size);
        if reply.add(attr.ino, item.cookie.get(), name, &entry.ttl, &attr, GENERATION) {
            break;
        }
    }
    reply.ok();
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
        if let Some(found) = self.client.try_lookup(inode(parent), &name) {
            return reply_lookup(reply, Ok(found), self.chunk_size);
        }
        let (client, caller, chunk_size) = (self.client.clone(), caller(request), self.chunk_size);
        self.spawn(async move {
            reply_lookup(
                reply,
                client.bounded("lookup", inode(parent), client.lookup(&caller, inode(parent), &name)).await,
                chunk_size,
            );
        });
    }

    /// The client keeps no table of inodes: a number is all that the kernel holds.
    fn forget(&self, _request: &Request, _number: INodeNo, _lookups: u64) {}

    fn getattr(&self, request: &Request, number: INodeNo, _handle: Option<FuseHandle>, reply: ReplyAttr) {
        if let Some(entry) = self.client.try_getattr(inode(number)) {
            return reply_attr(reply, Ok(entry), self.chunk_size);
        }
        let (client, caller, chunk_size) = (self.client.clone(), caller(request), self.chunk_size);
        self.spawn(async move {
            reply_attr(
                reply,
                client.bounded("getattr", inode(number), client.getattr(&caller, inode(number))).await,
                chunk_size,
            )
        });
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
        let (client, caller, chunk_size) = (self.client.clone(), caller(request), self.chunk_size);
        let open = handle.map(|handle| FileHandle::new(handle.0));
        self.spawn(async move {
            reply_attr(
                reply,
                client.bounded("setattr", inode(number), client.setattr(&caller, inode(number), changes, open)).await,
                chunk_size,
            );
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        if let Some(target) = self.client.try_readlink(inode(number)) {
            return reply.data(&target);
        }
        let (client, caller) = (self.client.clone(), caller(request));
        self.spawn(async move {
            reply_data(reply, client.bounded("readlink", inode(number), client.readlink(&caller, inode(number))).await)
        });
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
        let (client, caller) = (self.client.clone(), caller(request));
        let asked = name(raw).and_then(|name| Ok((name, convert::node_kind(mode, rdev)?)));
        self.entry(reply, async move {
            let (name, kind) = asked?;
            client
                .bounded(
                    "mknod",
                    inode(parent),
                    client.make(&caller, inode(parent), &name, kind, Mode::new(mode & !umask)),
                )
                .await
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, raw: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (client, caller, name) = (self.client.clone(), caller(request), name(raw));
        self.entry(reply, async move {
            client
                .bounded(
                    "mkdir",
                    inode(parent),
                    client.make(&caller, inode(parent), &name?, MakeKind::Directory, Mode::new(mode & !umask)),
                )
                .await
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, raw: &OsStr, target: &Path, reply: ReplyEntry) {
        let (client, caller, name) = (self.client.clone(), caller(request), name(raw));
        let kind = MakeKind::Symlink(target.as_os_str().as_bytes().to_vec());
        self.entry(reply, async move {
            client
                .bounded("symlink", inode(parent), client.make(&caller, inode(parent), &name?, kind, Mode::new(0o777)))
                .await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, raw: &OsStr, reply: ReplyEmpty) {
        let (client, caller, name) = (self.client.clone(), caller(request), name(raw));
        self.done(reply, async move {
            client.bounded("unlink", inode(parent), client.unlink(&caller, inode(parent), &name?)).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, raw: &OsStr, reply: ReplyEmpty) {
        let (client, caller, name) = (self.client.clone(), caller(request), name(raw));
        self.done(reply, async move {
            client.bounded("rmdir", inode(parent), client.rmdir(&caller, inode(parent), &name?)).await
        });
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
        let (client, caller) = (self.client.clone(), caller(request));
        let asked = (name(raw), name(new_raw), convert::rename_mode(flags));
        self.done(reply, async move {
            let (from, to) = (asked.0?, asked.1?);
            client
                .bounded(
                    "rename",
                    inode(parent),
                    client.rename(&caller, (inode(parent), &from), (inode(new_parent), &to), asked.2?),
                )
                .await
        });
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, raw: &OsStr, reply: ReplyEntry) {
        let (client, caller, name) = (self.client.clone(), caller(request), name(raw));
        self.entry(reply, async move {
            client.bounded("link", inode(parent), client.link(&caller, inode(number), inode(parent), &name?)).await
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: FuseOpenFlags, reply: ReplyOpen) {
        let flags = OpenFlags::from_linux(flags.0);
        if let Some(result) = self.client.try_open(inode(number), flags) {
            return reply_open(reply, result, flags.append);
        }
        let (client, caller) = (self.client.clone(), caller(request));
        self.spawn(async move {
            reply_open(
                reply,
                client.bounded("open", inode(number), client.open(&caller, inode(number), flags)).await,
                flags.append,
            )
        });
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
        let (client, caller, name) = (self.client.clone(), caller(request), name(raw));
        let (mode, flags, chunk_size) = (Mode::new(mode & !umask), OpenFlags::from_linux(flags), self.chunk_size);
        self.spawn(async move {
            let result = match name {
                Ok(name) => {
                    client
                        .bounded("create", inode(parent), client.create(&caller, inode(parent), &name, (mode, flags)))
                        .await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok((entry, opened)) => reply.created(
                    &entry.ttl,
                    &file_attr(&entry.attr, chunk_size),
                    GENERATION,
                    FuseHandle(opened.handle.get()),
                    open_reply_flags(&opened, flags.append),
                ),
                Err(error) => reply.error(errno(error)),
            }
        });
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
        let handle = FileHandle::new(handle.0);
        let client = self.client.clone();
        match client.try_read(handle, offset, size) {
            Err(error) => reply.error(errno(error)),
            Ok(Tried::Done(data)) => reply.data(&data),
            Ok(Tried::Cold(read)) => {
                call::begin_after(&self.runtime, move || match read.wait() {
                    Some(data) => {
                        reply.data(&data);
                        None
                    }
                    None => Some(async move {
                        reply_data(
                            reply,
                            client
                                .bounded_part(READS_PER_CALL, "read", inode(number), client.read(handle, offset, size))
                                .await,
                        )
                    }),
                });
            }
            Ok(Tried::Elsewhere) => {
                self.spawn(async move {
                    reply_data(
                        reply,
                        client
                            .bounded_part(READS_PER_CALL, "read", inode(number), client.read(handle, offset, size))
                            .await,
                    )
                });
            }
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
        let finish = |reply: ReplyWrite, result| match result {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        };
        if let Some(result) = self.client.try_write(handle, offset, data, flags) {
            return finish(reply, result);
        }
        let (client, data) = (self.client.clone(), data.to_vec());
        self.spawn(async move {
            finish(reply, client.bounded("write", inode(number), client.write_with(handle, offset, &data, flags)).await)
        });
    }

    fn flush(&self, _request: &Request, number: INodeNo, handle: FuseHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let handle = FileHandle::new(handle.0);
        if let Some(result) = self.client.try_flush(handle) {
            return reply_done(reply, result);
        }
        let client = self.client.clone();
        self.done(reply, async move { client.bounded("flush", inode(number), client.flush(handle)).await });
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
        let client = self.client.clone();
        self.done(reply, async move {
            client.bounded("fsync", inode(number), client.fsync(FileHandle::new(handle.0), data_only)).await
        });
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
            return fill_directory(reply, directory, offset, &page);
        }
        let client = self.client.clone();
        self.spawn(async move {
            match client.bounded("readdir", inode(number), client.readdir(handle, after, false)).await {
                Ok(page) => fill_directory(reply, directory, offset, &page),
                Err(error) => reply.error(errno(error)),
            }
        });
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
            return fill_directory_plus(reply, (directory, offset), &page, chunk_size);
        }
        let client = self.client.clone();
        self.spawn(async move {
            match client.bounded("readdir", inode(number), client.readdir(handle, after, true)).await {
                Ok(page) => fill_directory_plus(reply, (directory, offset), &page, chunk_size),
                Err(error) => reply.error(errno(error)),
            }
        });
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
        let client = self.client.clone();
        self.spawn(async move {
            match client.bounded("statfs", InodeId::ROOT, client.statfs()).await {
                Ok(stats) => reply_statfs(reply, &stats),
                Err(error) => reply.error(errno(error)),
            }
        });
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
        let (client, caller) = (self.client.clone(), caller(request));
        let (key, value) = (key.as_bytes().to_vec(), value.to_vec());
        self.done(reply, async move {
            client
                .bounded("setxattr", inode(number), client.setxattr(&caller, inode(number), (&key, &value), mode))
                .await
        });
    }

    fn getxattr(&self, request: &Request, number: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        if let Some(result) = self.client.try_getxattr(inode(number), key.as_bytes()) {
            return reply_xattr(reply, size, result);
        }
        let (client, caller, key) = (self.client.clone(), caller(request), key.as_bytes().to_vec());
        self.spawn(async move {
            reply_xattr(
                reply,
                size,
                client.bounded("getxattr", inode(number), client.getxattr(&caller, inode(number), &key)).await,
            )
        });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        if let Some(names) = self.client.try_listxattr(inode(number)) {
            return reply_xattr(reply, size, Ok(join_names(names)));
        }
        let (client, caller) = (self.client.clone(), caller(request));
        self.spawn(async move {
            reply_xattr(
                reply,
                size,
                client
                    .bounded("listxattr", inode(number), client.listxattr(&caller, inode(number)))
                    .await
                    .map(join_names),
            );
        });
    }

    fn removexattr(&self, request: &Request, number: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        let (client, caller, key) = (self.client.clone(), caller(request), key.as_bytes().to_vec());
        self.done(reply, async move {
            client.bounded("removexattr", inode(number), client.removexattr(&caller, inode(number), &key)).await
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
        let (client, what) = (self.client.clone(), allocate(mode));
        self.done(reply, async move {
            client
                .bounded("fallocate", inode(number), client.fallocate(FileHandle::new(handle.0), offset, length, what?))
                .await
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
        let client = self.client.clone();
        self.spawn(async move {
            match client.bounded("lseek", inode(number), client.seek(FileHandle::new(handle.0), offset, what)).await {
                Ok(found) => reply.offset(found as i64),
                Err(error) => reply.error(errno(error)),
            }
        });
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

    #[test]
    fn a_listing_begins_with_the_dots_once() {
        let names = |offset| dots(InodeId::new(5), offset).map(|(_, _, name)| name).collect::<Vec<_>>();
        assert_eq!(names(0), [".", ".."]);
        assert_eq!(names(COOKIE_DOT), [".."]);
        assert!(names(COOKIE_DOT_DOT).is_empty() && names(DirCookie::FIRST.get()).is_empty());
        const { assert!(COOKIE_DOT_DOT < DirCookie::FIRST.get()) };
    }
}
