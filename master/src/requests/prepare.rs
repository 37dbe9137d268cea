//! What has to be chosen or done before a batch is logged: servers for new chunks, who has open what
//! may be removed, recalls before a cut, and keeping lazily logged times back.

use super::Request;
use crate::master::Master;
use crate::opens::Registered;
use gfs_master_core::{Openers, StampedOp};
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, SetAttr};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{InodeId, ServerId, SessionId};
use gfs_proto::name::Name;
use gfs_proto::ops::{InodeRef, Make, MakeKind, Op, RenameMode};
use std::sync::Arc;

/// Keeps everybody from opening a file that is about to lose a name; ends when dropped.
pub(super) struct Removal {
    master: Arc<Master>,
    inode: InodeId,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.master.opens.end_removal(self.inode);
    }
}

/// Keeps a file's volatile times from being logged while they are set; ends when dropped.
pub(super) struct Hold {
    master: Arc<Master>,
    inode: InodeId,
    mtime: bool,
    atime: bool,
}

impl Hold {
    /// The times were set: volatile ones from before are void.
    pub(super) fn applied(&mut self, changes: &SetAttr) {
        self.mtime |= changes.mtime.is_some() || changes.size.is_some();
        self.atime |= changes.atime.is_some();
    }
    pub(super) fn inode(&self) -> InodeId {
        self.inode
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.master.sizes.set(self.inode, self.mtime, self.atime);
    }
}

/// A batch ready for the log, and what must stay as it is until it was applied.
pub(super) struct Prepared {
    pub(super) ops: Vec<StampedOp>,
    pub(super) removals: Vec<Removal>,
    pub(super) holds: Vec<Hold>,
}

impl Request {
    pub(super) async fn prepare(&self, ops: Vec<Op>) -> Prepared {
        let mut prepared = Prepared { ops: Vec::new(), removals: Vec::new(), holds: Vec::new() };
        for op in &ops {
            match op {
                Op::SetAttr { inode, changes } if changes.size.is_some() => {
                    self.prepare_cut(self.meant(*inode, &ops)).await;
                }
                Op::Open { inode, spec } if spec.truncate => self.prepare_cut(self.meant(*inode, &ops)).await,
                Op::Make(make) if make.open.is_some_and(|spec| spec.truncate) => {
                    self.prepare_cut(self.child(make.parent, &make.name, &ops)).await;
                }
                Op::Make(make) if make.open.is_some() && !self.master.everybody_is_back() => {
                    if let Some(inode) = self.child(make.parent, &make.name, &ops) {
                        self.master.claims_of(inode).await;
                    }
                }
                _ => {}
            }
        }
        // After all cuts, which wait for everybody's holds: whoever waited with a hold of its own could
        // wait for ever.
        for op in &ops {
            if let Op::SetAttr { inode, changes } = op {
                prepared.holds.extend(self.hold(self.meant(*inode, &ops), changes).await);
            }
        }
        for op in &ops {
            let placement = self.placement(op, &ops).await;
            let openers = self.openers(op, &ops, &mut prepared.removals);
            prepared.ops.push(StampedOp { op: op.clone(), placement, openers });
        }
        prepared
    }

    /// Keeps volatile times back if the changes set any.
    async fn hold(&self, inode: Option<InodeId>, changes: &SetAttr) -> Option<Hold> {
        let inode = inode?;
        let sets = changes.size.is_some() || changes.mtime.is_some() || changes.atime.is_some();
        let held = sets && self.master.sizes.hold(inode).await;
        held.then(|| Hold { master: self.master.clone(), inode, mtime: false, atime: false })
    }

    /// Before a file is cut: its exclusive writer flushes, and what it knows of the size is recorded, so
    /// that the state machine sees where the file really ends.
    async fn prepare_cut(&self, inode: Option<InodeId>) {
        let Some(inode) = inode else { return };
        self.master.claims_of(inode).await;
        while let Some(recall) = self.master.opens.recall_for(inode, self.session.id) {
            match recall {
                Registered::Wait(gate) => gate.passed().await,
                Registered::Recall { holder } => self.master.recall_exclusive(inode, holder).await,
                Registered::Done(_) => break,
            }
        }
        // A failure shows again, to the cut itself.
        let _ = self.master.log_size(inode).await;
    }

    /// Servers for the chunk that an operation may allocate. Without any the file is made all the same:
    /// it need not be written.
    async fn placement(&self, op: &Op, ops: &[Op]) -> Vec<ServerId> {
        match op {
            Op::Make(Make { parent, kind: MakeKind::File, first_chunk: true, .. }) => {
                let parent = self.meant(*parent, ops).and_then(|parent| self.master.store.view().attr(parent).ok());
                let goal = parent.map_or(self.master.store.genesis().goal, |attr| attr.goal);
                self.master.choose_servers(goal, &[]).await.unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Who has the file open that an operation may remove (until it was applied nobody can open it), or
    /// whose size is reported.
    fn openers(&self, op: &Op, ops: &[Op], removals: &mut Vec<Removal>) -> Option<Openers> {
        let (parent, name) = match op {
            Op::ReportSize { inode, .. } => return self.writer(self.meant(*inode, ops)?),
            Op::Unlink { parent, name } => (parent, name),
            Op::Rename { to_parent, to_name, mode: RenameMode::Replace, .. } => (to_parent, to_name),
            _ => return None,
        };
        let inode = self.child(*parent, name, ops)?;
        let mut sessions = self.master.opens.begin_removal(inode);
        removals.push(Removal { master: self.master.clone(), inode });
        if !self.master.everybody_is_back() {
            // They may have it open, too: then it lives until they have come back or expired.
            let more: Vec<SessionId> =
                self.master.sessions.expected().into_iter().filter(|s| !sessions.contains(s)).collect();
            sessions.extend(more);
        }
        Some(Openers { inode, sessions })
    }

    /// The session, if it has the file open for writing: what it writes needs no permission any more.
    fn writer(&self, inode: InodeId) -> Option<Openers> {
        let session = self.session.id;
        self.master.opens.numbering(session, inode).map(|_| Openers { inode, sessions: vec![session] })
    }

    /// The file that has a name now, whoever asks; directories are never open.
    fn child(&self, parent: InodeRef, name: &Name, ops: &[Op]) -> Option<InodeId> {
        let parent = self.meant(parent, ops)?;
        let attr = self.master.store.view().lookup(&Caller::root(), parent, name).ok()?;
        (attr.kind == FileKind::File).then_some(attr.inode)
    }

    /// The inode that a reference will mean when the batch runs, as far as can be said before.
    fn meant(&self, reference: InodeRef, ops: &[Op]) -> Option<InodeId> {
        let n = match reference {
            InodeRef::Id(inode) => return Some(inode),
            InodeRef::ResultOf(n) => usize::from(n),
        };
        // References point backwards, so this ends.
        let (earlier, op) = (ops.get(..n)?, ops.get(n)?);
        match op {
            Op::Lookup { parent, name } => {
                let parent = self.meant(*parent, earlier)?;
                self.master.store.view().lookup(&Caller::root(), parent, name).ok().map(|attr| attr.inode)
            }
            Op::GetAttr { inode } | Op::SetAttr { inode, .. } | Op::Open { inode, .. } | Op::Link { inode, .. } => {
                self.meant(*inode, earlier)
            }
            _ => None,
        }
    }
}

/// In a batch that is logged, a grant that fails must not come before what was applied already.
pub(super) fn well_ordered(ops: &[Op]) -> Result<(), FsError> {
    let volatile = |op: &Op| matches!(op, Op::GrantChunk { .. } | Op::BreakChunk { .. });
    let first = ops.iter().position(volatile).unwrap_or(ops.len());
    if ops[first..].iter().any(Op::is_mutation) { Err(FsError::Protocol) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::ids::ChunkIndex;

    #[test]
    fn grants_come_after_mutations() {
        let inode = InodeRef::Id(InodeId::ROOT);
        let grant = Op::GrantChunk { inode, index: ChunkIndex::new(0) };
        let mutation = Op::Unlink { parent: inode, name: Name::new(b"x").expect("a name") };
        assert_eq!(well_ordered(&[mutation.clone(), grant.clone()]), Ok(()));
        assert_eq!(well_ordered(&[grant, mutation]), Err(FsError::Protocol));
    }
}
