//! Sizes and times that were volatile while files were open for writing. They only grow here, and count
//! for the generation they were measured in alone. Keeps `sizes_are_within_limits`.

use crate::command::SizeRecord;
use crate::record::Body;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::limits::FILE_SIZE_MAX;

/// Records what is still true; leaves the rest out.
pub(crate) fn apply(tx: &mut Tables<'_>, sizes: &[SizeRecord]) -> Result<(), FsError> {
    for size in sizes {
        let known = tx.find_inode(size.inode)?.is_some_and(|inode| matches!(inode.body, Body::File(_)));
        if known && size.size <= FILE_SIZE_MAX {
            record(tx, size)?;
        }
    }
    Ok(())
}

/// Records one; the attributes afterwards, whether it counted or not.
pub(super) fn record(tx: &mut Tables<'_>, record: &SizeRecord) -> Result<Attr, FsError> {
    let file = tx.file(record.inode)?;
    let (mut inode, mut body) = (file.inode, file.body);
    if record.truncate_generation != body.truncate_generation {
        return Ok(inode.attr());
    }
    if record.size > FILE_SIZE_MAX {
        return Err(FsError::FileTooLarge);
    }
    // nothing above this line has changed anything
    let old_size = body.size;
    body.size = body.size.max(record.size);
    inode.body = Body::File(body);
    inode.atime = record.atime.unwrap_or(inode.atime);
    inode.mtime = record.mtime.unwrap_or(inode.mtime);
    if let Some(ctime) = record.ctime.or(record.mtime) {
        inode.ctime = inode.ctime.max(ctime);
    }
    tx.put_resized(&inode, old_size);
    Ok(inode.attr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Action;
    use crate::tests::{Fixture, ROOT, set_size};
    use gfs_proto::ids::{InodeId, TruncateGeneration};
    use gfs_proto::time::Timestamp;

    #[test]
    fn sizes_grow_within_their_generation() {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "f");
        let record = |size, generation| SizeRecord {
            inode: file,
            size,
            mtime: Timestamp::new(-7, 5),
            atime: None,
            ctime: None,
            truncate_generation: TruncateGeneration::new(generation),
        };
        let mut size = |record| {
            fixture.one(Action::RecordSizes(vec![record])).expect("always");
            fixture.attr(file).size
        };
        assert_eq!(size(record(100, 0)), 100);
        assert_eq!(size(record(40, 0)), 100, "never cuts");
        assert_eq!(size(record(FILE_SIZE_MAX + 1, 0)), 100);
        fixture.root(set_size(file, 10)).expect("root may");
        let mut size = |record| {
            fixture.one(Action::RecordSizes(vec![record])).expect("always");
            fixture.attr(file).size
        };
        assert_eq!(size(record(100, 0)), 10, "measured before the cut");
        assert_eq!(size(record(30, 1)), 30);
        assert_eq!(Some(fixture.attr(file).mtime), Timestamp::new(-7, 5));
    }

    #[test]
    fn what_is_gone_is_left_out() {
        let mut fixture = Fixture::new();
        let dir = fixture.dir(ROOT, "d");
        let records = [dir, InodeId::new(99)].map(|inode| SizeRecord {
            inode,
            size: 5,
            mtime: None,
            atime: None,
            ctime: None,
            truncate_generation: TruncateGeneration::default(),
        });
        fixture.one(Action::RecordSizes(records.to_vec())).expect("always");
        assert_eq!(fixture.attr(dir).size, 0);
    }
}
