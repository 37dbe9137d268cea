//! Sizes and times that were volatile while files were open for writing. They only grow here, and count
//! for the generation they were measured in alone. Keeps `sizes_are_within_limits`.

use super::Request;
use crate::access::may_open;
use crate::command::{Openers, SizeRecord};
use crate::record::Body;
use crate::state::{Read, Tables};
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::limits::FILE_SIZE_MAX;
use gfs_proto::ops::Access;

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

/// A client's report counts like its write: either the leader knows the caller's session as a writer of
/// the file, or the caller may write it.
pub(super) fn report(
    tx: &mut Tables<'_>,
    request: Request<'_>,
    openers: Option<&Openers>,
    size: &SizeRecord,
) -> Result<Attr, FsError> {
    let writes = openers.is_some_and(|openers| openers.inode == size.inode && !openers.sessions.is_empty());
    if !writes {
        may_open(request.caller, &tx.inode(size.inode)?, Access::Write)?;
    }
    record(tx, size)
}

/// Records one; the attributes afterwards, whether it counted or not.
fn record(tx: &mut Tables<'_>, record: &SizeRecord) -> Result<Attr, FsError> {
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
    use crate::command::StampedOp;
    use crate::tests::{Fixture, ROOT, set_mode, set_size, user};
    use gfs_proto::ids::{InodeId, SessionId, TruncateGeneration};
    use gfs_proto::ops::Op;
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
    fn only_who_may_write_reports_a_size() {
        let mut fixture = Fixture::new();
        let (file, other) = (fixture.file(ROOT, "f"), InodeId::new(99));
        let report = |size, open: Option<InodeId>| StampedOp {
            openers: open.map(|inode| Openers { inode, sessions: vec![SessionId::new(1)] }),
            ..StampedOp::from(Op::ReportSize {
                inode: file.into(),
                size,
                mtime: None,
                atime: None,
                ctime: None,
                truncate_generation: TruncateGeneration::new(0),
                durable: false,
            })
        };
        for open in [None, Some(other)] {
            assert_eq!(fixture.run(&user(1), report(7, open)), Err(FsError::AccessDenied), "{open:?}");
        }
        fixture.run(&user(1), report(7, Some(file))).expect("it opened the file when it might");
        fixture.root(set_mode(file, 0o622)).expect("root may");
        fixture.run(&user(1), report(8, None)).expect("everybody may");
        assert_eq!(fixture.attr(file).size, 8);
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
