//! Opening, creating and closing files.

use super::Client;
use super::names::get_attr;
use crate::cache::Seen;
use crate::data::OpenData;
use crate::files::{Closed, OpenInode, Opening, Unparked};
use crate::{Entry, FileHandle, OpenFlags, Opened};
use gfs_proto::FsError;
use gfs_proto::attr::Mode;
use gfs_proto::caller::Caller;
use gfs_proto::chunk::{ChunkGrant, ChunkMap};
use gfs_proto::ids::{ChunkIndex, InodeId, OpenId};
use gfs_proto::limits::{BATCH_OPS_MAX, CHUNKS_PER_REQUEST_MAX};
use gfs_proto::name::Name;
use gfs_proto::ops::{self, HeldChunk, Make, MakeKind, Op, OpResult, OpenSpec};
use std::sync::Arc;
use std::time::Instant;
use tracing::warn;

/// An open that the master has granted, on its way into the table.
struct Granted {
    opened: ops::Opened,
    grant: Option<ChunkGrant>,
    open: OpenId,
    flags: OpenFlags,
    /// The file was made by this call.
    made: bool,
    seen: Seen,
}

/// Closes a handle that its caller never gets: the open failed at its end, or took too long.
struct Unused<'a> {
    client: &'a Client,
    handle: FileHandle,
}

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        self.client.release(self.handle);
    }
}

impl Client {
    /// Opens a file.
    pub async fn open(&self, caller: &Caller, inode: InodeId, flags: OpenFlags) -> Result<Opened, FsError> {
        if let Some(opened) = self.try_open(inode, flags) {
            return opened;
        }
        self.await_release(inode, flags).await;
        let open_here = self.files.inode(inode).filter(|_| flags.truncate);
        let _cut = match &open_here {
            Some(open) => {
                let gate = open.gate.write().await;
                Some((open.data.truncate_prepare(0).await?, gate))
            }
            None => None,
        };
        let opening = self.files.begin_open();
        let spec = OpenSpec { open: self.files.next_open(), access: flags.access, truncate: flags.truncate };
        let mut answer = self.ask(caller, vec![Op::Open { inode: inode.into(), spec }]).await?;
        let result = answer.next().inspect_err(|error| {
            if matches!(error, FsError::Stale | FsError::NotFound) {
                // it is gone, and so is what led to it: whoever looks the name up again is told what is there now
                self.cache.forget_attr(inode, answer.seen.index);
            }
        });
        let OpResult::Opened(opened) = result? else { return Err(FsError::Protocol) };
        let granted = Granted { opened, grant: None, open: spec.open, flags, made: false, seen: answer.seen };
        self.adopt(granted, &opening).await
    }

    /// [`Client::open`] without waiting: possible only where nobody need be asked, because this client
    /// alone has the file open already.
    pub fn try_open(&self, inode: InodeId, flags: OpenFlags) -> Option<Result<Opened, FsError>> {
        if flags.truncate {
            return None;
        }
        let handle = self.files.insert_covered(inode, flags)?;
        Some(Ok(Opened { handle, keep_cache: true, direct: false }))
    }

    /// Creates a file and opens it, or opens what is there unless `flags.exclusive`. `mode` has the
    /// umask applied.
    pub async fn create(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        (mode, flags): (Mode, OpenFlags),
    ) -> Result<(Entry, Opened), FsError> {
        let opening = self.files.begin_open();
        let spec = OpenSpec { open: self.files.next_open(), access: flags.access, truncate: flags.truncate };
        let make = Make {
            parent: parent.into(),
            name: name.clone(),
            kind: MakeKind::File,
            mode,
            exclusive: flags.exclusive,
            open: Some(spec),
            first_chunk: flags.access.writes(),
            ids: None,
        };
        let mut answer = self.ask(caller, vec![Op::Make(make), get_attr(parent)]).await?;
        let seen = answer.seen;
        let OpResult::Made(made) = self.noted(answer.next(), parent, name, seen)? else {
            return Err(FsError::Protocol);
        };
        let opened = made.opened.ok_or(FsError::Protocol)?;
        if made.existed {
            self.cache.put_name(parent, name, Some(made.attr.inode), seen);
        } else {
            self.entry_made(parent, name, &made.attr, seen);
            self.parent_changed(parent, &mut answer);
        }
        let granted = Granted { opened, grant: made.grant, open: spec.open, flags, made: !made.existed, seen };
        let opened = self.adopt(granted, &opening).await?;
        Ok((self.taken(made.attr, seen), opened))
    }

    /// An open for writing follows the close before it at the master too: what the close gives back
    /// must not be what the open is given.
    async fn await_release(&self, inode: InodeId, flags: OpenFlags) {
        if let Some(mut released) = self.files.releasing(inode).filter(|_| flags.access.writes() || flags.truncate) {
            self.session.hurry();
            // Bounded: the answer comes, or the session ends and takes the sender with it.
            let _ = tokio::time::timeout_at(self.session.deadline(), released.wait_for(|done| *done)).await;
        }
    }

    /// Takes what the master has granted into the table.
    async fn adopt(&self, mut granted: Granted, opening: &Opening<'_>) -> Result<Opened, FsError> {
        let mut attr = granted.opened.attr.clone();
        self.files.outgrow(&mut attr);
        let recalled = self.files.was_recalled(attr.inode, opening);
        // An open for reading is told so because of another for writing, which may be closed by now.
        let exclusive = granted.opened.exclusive && granted.flags.access.writes() && !recalled;
        let given_up = granted.grant.take_if(|_| recalled);
        let Unparked { data: parked, noted } = self.files.unpark(&attr);
        let known = parked.as_ref().is_some_and(|(_, same)| *same);
        let parked = parked.map(|(data, same)| {
            if !same {
                data.reopened(attr.size, attr.truncate_generation, granted.opened.chunks.clone());
            }
            data
        });
        let handle_is = (granted.flags, Some(granted.open), granted.flags.truncate && !granted.made);
        let (handle, inode, fresh) = self.files.insert(attr.inode, handle_is, || {
            let buffered = exclusive && parked.is_none();
            let data = parked.unwrap_or_else(|| {
                self.plane.open(OpenData {
                    inode: attr.inode,
                    size: attr.size,
                    truncate_generation: attr.truncate_generation,
                    map: granted.opened.chunks.clone(),
                    grant: granted.grant.take(),
                    exclusive,
                })
            });
            let open = OpenInode::new(&attr, data, buffered, granted.made);
            if let Some(noted) = noted {
                open.inherit(noted);
            }
            open
        });
        let same_content = if fresh { known } else { inode.is_exclusive() || inode.has_content_of(&attr) };
        if !fresh {
            inode.learn(&attr);
        }
        let told =
            self.cache.attr(attr.inode, Instant::now()).filter(|_| !granted.flags.truncate && !inode.is_exclusive());
        let kernel_is_behind = told.is_some_and(|(told, _)| (told.size, told.mtime) != (attr.size, attr.mtime));
        self.cache.put_attr(&attr, granted.seen);
        let unused = given_up.or(granted.grant);
        if let Some(grant) = unused {
            self.return_chunks(vec![HeldChunk { handle: grant.handle, epoch: grant.epoch }]);
        }
        let unused = Unused { client: self, handle };
        self.settle_mode(&inode, exclusive, opening).await?;
        std::mem::forget(unused);
        // A kernel that believes in an older size would not even ask for what lies behind it.
        let direct = kernel_is_behind || (granted.flags.access.writes() && !inode.is_exclusive());
        Ok(Opened { handle, keep_cache: same_content, direct })
    }

    /// Becomes the exclusive writer, unless that was recalled in the meantime.
    pub(super) async fn settle_mode(
        &self,
        inode: &Arc<OpenInode>,
        exclusive: bool,
        opening: &Opening<'_>,
    ) -> Result<(), FsError> {
        let _mode = inode.mode.lock().await;
        if self.files.was_recalled(inode.id, opening) || self.session.is_silent() {
            inode.set_exclusive(false);
            return inode.data.set_exclusive(false).await;
        }
        if exclusive && !inode.is_exclusive() {
            inode.data.set_exclusive(true).await?;
            inode.set_exclusive(true);
        } else if !inode.is_exclusive() && inode.data.is_exclusive() {
            // It was written and closed before, and what was known of it is used again.
            inode.data.set_exclusive(false).await?;
        }
        Ok(())
    }

    /// `close(2)` of one descriptor: what was written is in the memory of the replicas, the size at
    /// the master. Errors of earlier writes are reported here.
    pub async fn flush(&self, handle: FileHandle) -> Result<(), FsError> {
        let file = self.files.get(handle)?;
        if !file.flags.access.writes() {
            return Ok(());
        }
        file.inode.check()?;
        if file.replaces {
            // What replaces an older content is not less durable than that was.
            file.inode.data.sync_at_close().await?;
            return self.report(&file.inode, Some(false)).await;
        }
        self.flush_inode(&file.inode).await
    }

    /// Data to the replicas, size to the master: at once where nobody else can look.
    pub(super) async fn flush_inode(&self, inode: &Arc<OpenInode>) -> Result<(), FsError> {
        if inode.is_exclusive() {
            let (flushed, reported) = tokio::join!(inode.data.flush(), self.report(inode, None));
            flushed.and(reported)
        } else {
            inode.data.flush().await?;
            self.report(inode, None).await
        }
    }

    /// [`Client::flush`] without waiting: `Some` if there is nothing to do.
    pub fn try_flush(&self, handle: FileHandle) -> Option<Result<(), FsError>> {
        match self.files.get(handle) {
            Ok(file) if file.flags.access.writes() => None,
            Ok(_) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    /// The last descriptor is closed. Never waits; what must be told to the master is sent behind it. May be called
    /// outside of every runtime.
    pub fn release(&self, handle: FileHandle) {
        match self.files.remove(handle) {
            Closed::Unknown => {}
            Closed::Handle(opens) => {
                if let Some((inode, opens)) = opens.first().map(|(inode, _)| (*inode, &opens)) {
                    let ops = opens.iter().map(|(_, open)| Op::Release { inode: inode.into(), open: *open });
                    self.post_all(ops.collect(), |_| ());
                }
            }
            Closed::Inode(inode) => self.close_inode(inode),
        }
    }

    /// The last handle is closed.
    fn close_inode(&self, inode: Arc<OpenInode>) {
        let settled = inode.is_settled();
        match self.me.upgrade() {
            Some(me) if !settled => {
                // Written through a mapping after the descriptor was closed, or a flush that failed.
                self.plane.runtime.spawn(async move {
                    let flushed = me.bounded("release", inode.id, me.flush_inode(&inode)).await;
                    if let Err(error) = &flushed {
                        warn!(inode = %inode.id, %error, "data of a closed file could not be written");
                    }
                    me.forget_inode(&inode, flushed.is_err());
                });
            }
            _ => self.forget_inode(&inode, false),
        }
    }

    /// Tells the master that the inode is closed, unless it was opened again. `given_up`: what is left of it
    /// cannot be written.
    fn forget_inode(&self, inode: &Arc<OpenInode>, given_up: bool) {
        let Some((opens, done)) = self.files.remove_unused(inode, given_up) else { return };
        let held = inode.data.held();
        inode.data.forget_grants();
        self.files.park(inode);
        let mut ops: Vec<Op> = opens.iter().map(|open| Op::Release { inode: inode.id.into(), open: *open }).collect();
        ops.extend(return_ops(&held));
        let (me, id) = (self.me.clone(), inode.id);
        self.post_all(ops, move |_| {
            if let Some(me) = me.upgrade() {
                me.files.released(id, &done);
            }
        });
    }

    /// Gives leases back, without waiting.
    pub(super) fn return_chunks(&self, held: Vec<HeldChunk>) {
        self.post_all(return_ops(&held), |_| ());
    }

    /// Sends operations without waiting; `then` is called with the outcome of the last batch.
    fn post_all(&self, mut ops: Vec<Op>, then: impl FnOnce(Result<(), FsError>) + Send + 'static) {
        let root = Caller::root();
        while ops.len() > BATCH_OPS_MAX {
            let rest = ops.split_off(BATCH_OPS_MAX);
            self.session.post(&root, std::mem::replace(&mut ops, rest), |_| ());
        }
        if ops.is_empty() {
            return then(Ok(()));
        }
        let (session, again, runtime) = (self.session.clone(), ops.clone(), self.plane.runtime.clone());
        self.session.post(&root, ops, move |outcome| match outcome {
            Err(error) if error.is_retryable() => {
                runtime.spawn(async move { then(session.call(&Caller::root(), again).await.map(|_| ())) });
            }
            outcome => then(outcome.map(|_| ())),
        });
    }

    /// Where the chunks of a file are, holes left out.
    pub async fn file_chunks(&self, caller: &Caller, inode: InodeId) -> Result<ChunkMap, FsError> {
        let size = self.fresh_attr(caller, inode).await?.attr.size;
        let count = self.session.identity().chunk_size.chunks_of(size);
        let mut map = ChunkMap::default();
        for first in (0..count).step_by(CHUNKS_PER_REQUEST_MAX as usize) {
            let op = Op::ReadChunks {
                inode: inode.into(),
                first: ChunkIndex::new(first),
                count: (count - first).min(CHUNKS_PER_REQUEST_MAX),
            };
            let OpResult::Chunks(page) = self.ask(caller, vec![op]).await?.next()? else {
                return Err(FsError::Protocol);
            };
            map.generation = page.generation;
            map.chunks.extend(page.chunks);
        }
        Ok(map)
    }
}

fn return_ops(held: &[HeldChunk]) -> Vec<Op> {
    let pages = held.chunks(CHUNKS_PER_REQUEST_MAX as usize);
    pages.map(|chunks| Op::ReturnChunks { chunks: chunks.to_vec() }).collect()
}
