//! Answers of the client as fuser takes them.

use crate::convert::{self, GENERATION, errno, file_attr};
use fuser::{
    Errno, FileHandle as FuseHandle, FopenFlags, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};
use gfs_client::{DirItems, Entry, Lookup, Opened};
use gfs_proto::FsError;
use gfs_proto::ids::InodeId;
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::{BLOCK_SIZE, NAME_MAX};
use gfs_proto::ops::FsStats;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Cookies of the two entries that every directory begins with.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

pub(crate) fn done(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn data(reply: ReplyData, result: Result<impl AsRef<[u8]>, FsError>) {
    match result {
        Ok(data) => reply.data(data.as_ref()),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn lookup(reply: ReplyEntry, found: Result<Lookup, FsError>, chunk_size: ChunkSize) {
    match found {
        Ok(Lookup::Found(entry)) => reply.entry(&entry.ttl, &file_attr(&entry.attr, chunk_size), GENERATION),
        Ok(Lookup::Missing { ttl }) => reply.entry(&ttl, &convert::no_such_file(), GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn attr(reply: ReplyAttr, result: Result<Entry, FsError>, chunk_size: ChunkSize) {
    match result {
        Ok(entry) => reply.attr(&entry.ttl, &file_attr(&entry.attr, chunk_size)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn open(reply: ReplyOpen, result: Result<Opened, FsError>, append: bool) {
    match result {
        Ok(opened) => reply.opened(FuseHandle(opened.handle.get()), open_flags(&opened, append)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn entry(reply: ReplyEntry, result: Result<Entry, FsError>, chunk_size: ChunkSize) {
    lookup(reply, result.map(Lookup::Found), chunk_size);
}

pub(crate) fn created(
    reply: ReplyCreate,
    result: Result<(Entry, Opened), FsError>,
    append: bool,
    chunk_size: ChunkSize,
) {
    match result {
        Ok((entry, opened)) => reply.created(
            &entry.ttl,
            &file_attr(&entry.attr, chunk_size),
            GENERATION,
            FuseHandle(opened.handle.get()),
            open_flags(&opened, append),
        ),
        Err(error) => reply.error(errno(error)),
    }
}

/// Appenders and shared writers go past the page cache: its idea of the end of the file may be old.
fn open_flags(opened: &Opened, append: bool) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct || append);
    flags
}

/// `size` 0 asks for the length.
pub(crate) fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, FsError>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

/// Names one after the other, each ended by a zero.
pub(crate) fn xattr_names(reply: ReplyXattr, size: u32, result: Result<Vec<Vec<u8>>, FsError>) {
    let join = |names: Vec<Vec<u8>>| names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect();
    xattr(reply, size, result.map(join));
}

pub(crate) fn written(reply: ReplyWrite, result: Result<u32, FsError>) {
    match result {
        Ok(written) => reply.written(written),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn offset(reply: ReplyLseek, result: Result<u64, FsError>) {
    match result {
        Ok(offset) => reply.offset(offset as i64),
        Err(error) => reply.error(errno(error)),
    }
}

/// Bytes for a user: what the servers have, divided by the copies that each byte takes.
pub(crate) fn statfs(reply: ReplyStatfs, result: Result<FsStats, FsError>) {
    let stats = match result {
        Ok(stats) => stats,
        Err(error) => return reply.error(errno(error)),
    };
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

pub(crate) fn directory(
    mut reply: ReplyDirectory,
    (directory, offset): (InodeId, u64),
    result: Result<DirItems, FsError>,
) {
    let page = match result {
        Ok(page) => page,
        Err(error) => return reply.error(errno(error)),
    };
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

pub(crate) fn directory_plus(
    mut reply: ReplyDirectoryPlus,
    (directory, offset): (InodeId, u64),
    result: Result<DirItems, FsError>,
    chunk_size: ChunkSize,
) {
    let page = match result {
        Ok(page) => page,
        Err(error) => return reply.error(errno(error)),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::ids::DirCookie;

    #[test]
    fn a_listing_begins_with_the_dots_once() {
        let names = |offset| dots(InodeId::new(5), offset).map(|(_, _, name)| name).collect::<Vec<_>>();
        assert_eq!(names(0), [".", ".."]);
        assert_eq!(names(COOKIE_DOT), [".."]);
        assert!(names(COOKIE_DOT_DOT).is_empty() && names(DirCookie::FIRST.get()).is_empty());
        const { assert!(COOKIE_DOT_DOT < DirCookie::FIRST.get()) };
    }
}
