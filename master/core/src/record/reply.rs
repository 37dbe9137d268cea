//! Results of a batch as the reply cache keeps them, so that a retry gets the first answer.

use super::codec::{Reader, Writer};
use super::{kind_number, kind_of, read_stats, write_stats};
use crate::outcome::{Afterlife, ChunkRecord, CoreMade, CoreResult, FileChunk, FileChunks, PendingCut, Removed};
use gfs_proto::attr::{Attr, Mode};
use gfs_proto::error::FsError;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, DirCookie, InodeId, MapGeneration, ServerId, TruncateGeneration};
use gfs_proto::name::Name;
use gfs_proto::ops::{DirEntry, DirPage};

const FORMAT: u8 = 1;

/// The value of a reply row.
pub(crate) fn encode_results(results: &[Result<CoreResult, FsError>]) -> Box<[u8]> {
    let mut out = Writer::versioned(FORMAT, 96);
    out.number(results.len() as u64);
    for result in results {
        match result {
            Ok(result) => write_result(&mut out, result),
            Err(error) => {
                out.byte(0);
                out.number(error.code());
            }
        }
    }
    out.finish()
}

/// `None` if the value is damaged.
pub(crate) fn decode_results(bytes: &[u8]) -> Option<Vec<Result<CoreResult, FsError>>> {
    let mut from = Reader::versioned(FORMAT, bytes)?;
    let results = from.list(|f| match f.byte()? {
        0 => Some(Err(FsError::from_code(f.narrow()?))),
        tag => read_result(tag, f).map(Ok),
    })?;
    from.end().map(|()| results)
}

fn write_result(out: &mut Writer, result: &CoreResult) {
    match result {
        CoreResult::Done => out.byte(1),
        CoreResult::Attr(attr) => {
            out.byte(2);
            write_attr(out, attr);
        }
        CoreResult::Bytes(bytes) => {
            out.byte(3);
            out.bytes(bytes);
        }
        CoreResult::Page(page) => {
            out.byte(4);
            write_page(out, page);
        }
        CoreResult::Names(names) => {
            out.byte(5);
            out.number(names.len() as u64);
            names.iter().for_each(|name| out.bytes(name));
        }
        CoreResult::Stats(stats) => {
            out.byte(6);
            write_stats(out, stats);
        }
        CoreResult::Chunks(chunks) => {
            out.byte(7);
            write_chunks(out, chunks);
        }
        CoreResult::Made(made) => {
            out.byte(8);
            write_attr(out, &made.attr);
            out.byte(made.existed.into());
            write_option(out, made.chunk.as_ref(), write_chunk);
        }
        CoreResult::Opened(attr) => {
            out.byte(9);
            write_attr(out, attr);
        }
        CoreResult::Removed(removed) => {
            out.byte(10);
            write_removed(out, removed);
        }
        CoreResult::Renamed { inode, replaced } => {
            out.byte(11);
            out.number(inode.get());
            write_option(out, replaced.as_ref(), write_removed);
        }
        CoreResult::Deferred { inode } => {
            out.byte(12);
            write_option(out, inode.as_ref(), |out, inode| out.number(inode.get()));
        }
        CoreResult::Allocated { chunk, created, generation } => {
            out.byte(13);
            write_chunk(out, chunk);
            out.byte((*created).into());
            out.number(generation.get());
        }
        CoreResult::Server(server) => {
            out.byte(14);
            out.number(server.get());
        }
        CoreResult::Reaped(reaped) => {
            out.byte(16);
            out.numbers(reaped.iter().map(|inode| inode.get()));
        }
    }
}

fn read_result(tag: u8, from: &mut Reader<'_>) -> Option<CoreResult> {
    Some(match tag {
        1 => CoreResult::Done,
        2 => CoreResult::Attr(read_attr(from)?),
        3 => CoreResult::Bytes(from.bytes()?.to_vec()),
        4 => CoreResult::Page(read_page(from)?),
        5 => CoreResult::Names(from.list(|f| f.bytes().map(<[u8]>::to_vec))?),
        6 => CoreResult::Stats(read_stats(from)?),
        7 => CoreResult::Chunks(read_chunks(from)?),
        8 => CoreResult::Made(CoreMade {
            attr: read_attr(from)?,
            existed: read_bool(from)?,
            chunk: read_option(from, read_chunk)?,
        }),
        9 => CoreResult::Opened(read_attr(from)?),
        10 => CoreResult::Removed(read_removed(from)?),
        11 => CoreResult::Renamed { inode: read_inode(from)?, replaced: read_option(from, read_removed)? },
        12 => CoreResult::Deferred { inode: read_option(from, read_inode)? },
        13 => CoreResult::Allocated {
            chunk: read_chunk(from)?,
            created: read_bool(from)?,
            generation: MapGeneration::new(from.number()?),
        },
        14 => CoreResult::Server(ServerId::new(from.narrow()?)),
        // 15 was a result that no batch ever had.
        16 => CoreResult::Reaped(from.list(read_inode)?),
        _ => return None,
    })
}

fn write_option<T>(out: &mut Writer, value: Option<&T>, write: impl FnOnce(&mut Writer, &T)) {
    out.byte(value.is_some().into());
    if let Some(value) = value {
        write(out, value);
    }
}

fn read_option<T>(from: &mut Reader<'_>, read: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Option<Option<T>> {
    if read_bool(from)? { read(from).map(Some) } else { Some(None) }
}

fn read_bool(from: &mut Reader<'_>) -> Option<bool> {
    match from.byte()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_inode(from: &mut Reader<'_>) -> Option<InodeId> {
    from.number().map(InodeId::new)
}

fn write_attr(out: &mut Writer, attr: &Attr) {
    out.number(attr.inode.get());
    out.byte(kind_number(attr.kind));
    out.number(attr.mode.get());
    [attr.nlink, attr.uid, attr.gid, attr.rdev, attr.chunks].into_iter().for_each(|field| out.number(field));
    out.number(attr.size);
    [attr.atime, attr.mtime, attr.ctime].into_iter().for_each(|time| out.time(time));
    out.byte(attr.goal);
    out.byte(u8::from(attr.has_xattrs) | u8::from(attr.has_acl) << 1);
    out.number(attr.truncate_generation.get());
    out.number(attr.map_generation.get());
}

fn read_attr(from: &mut Reader<'_>) -> Option<Attr> {
    let inode = read_inode(from)?;
    let kind = kind_of(from.byte()?)?;
    let mode = Mode::new(from.narrow()?);
    let (nlink, uid, gid) = (from.narrow()?, from.narrow()?, from.narrow()?);
    let (rdev, chunks) = (from.narrow()?, from.narrow()?);
    let size = from.number()?;
    let (atime, mtime, ctime) = (from.time()?, from.time()?, from.time()?);
    let (goal, flags) = (from.byte()?, from.byte()?);
    let truncate_generation = TruncateGeneration::new(from.number()?);
    let map_generation = MapGeneration::new(from.number()?);
    let (has_xattrs, has_acl) = (flags & 1 != 0, flags & 2 != 0);
    Some(Attr {
        inode,
        kind,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        size,
        chunks,
        atime,
        mtime,
        ctime,
        goal,
        has_xattrs,
        has_acl,
        truncate_generation,
        map_generation,
    })
}

fn write_page(out: &mut Writer, page: &DirPage) {
    out.byte(page.end.into());
    out.number(page.version);
    out.number(page.entries.len() as u64);
    for entry in &page.entries {
        out.bytes(entry.name.as_bytes());
        out.number(entry.cookie.get());
        out.number(entry.inode.get());
        out.byte(kind_number(entry.kind));
        write_option(out, entry.attr.as_ref(), write_attr);
    }
}

fn read_page(from: &mut Reader<'_>) -> Option<DirPage> {
    let end = read_bool(from)?;
    let version = from.number()?;
    let entries = from.list(|f| {
        Some(DirEntry {
            name: Name::new(f.bytes()?).ok()?,
            cookie: DirCookie::new(f.number()?),
            inode: read_inode(f)?,
            kind: kind_of(f.byte()?)?,
            attr: read_option(f, read_attr)?,
        })
    })?;
    Some(DirPage { entries, end, version })
}

fn write_chunk(out: &mut Writer, chunk: &FileChunk) {
    out.number(chunk.index.get());
    out.number(chunk.handle.get());
    chunk.record.write(out);
    write_option(out, chunk.cut.as_ref(), |out, cut| cut.write(out));
}

fn read_chunk(from: &mut Reader<'_>) -> Option<FileChunk> {
    Some(FileChunk {
        index: ChunkIndex::new(from.narrow()?),
        handle: ChunkHandle::new(from.number()?),
        record: ChunkRecord::read(from)?,
        cut: read_option(from, PendingCut::read)?,
    })
}

fn write_chunks(out: &mut Writer, chunks: &FileChunks) {
    out.number(chunks.generation.get());
    out.number(chunks.truncate_generation.get());
    out.number(chunks.chunks.len() as u64);
    chunks.chunks.iter().for_each(|chunk| write_chunk(out, chunk));
}

fn read_chunks(from: &mut Reader<'_>) -> Option<FileChunks> {
    Some(FileChunks {
        generation: MapGeneration::new(from.number()?),
        truncate_generation: TruncateGeneration::new(from.number()?),
        chunks: from.list(read_chunk)?,
    })
}

fn write_removed(out: &mut Writer, removed: &Removed) {
    out.number(removed.inode.get());
    out.byte(match removed.afterlife {
        Afterlife::Linked => 0,
        Afterlife::Orphaned => 1,
        Afterlife::Gone => 2,
    });
}

fn read_removed(from: &mut Reader<'_>) -> Option<Removed> {
    let inode = read_inode(from)?;
    let afterlife = match from.byte()? {
        0 => Afterlife::Linked,
        1 => Afterlife::Orphaned,
        2 => Afterlife::Gone,
        _ => return None,
    };
    Some(Removed { inode, afterlife })
}
