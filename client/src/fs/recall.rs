//! What the master asks of us, and what the end of a session does to open files.

use super::Client;
use crate::files::OpenInode;
use crate::session::{Hooks, Reclaim};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gfs_proto::FsError;
use gfs_proto::attr::SetTime;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::ops::{Op, OpResult, OpenSpec, SlowServer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The master logs sizes of closed files within about a second; a connection whose end nobody announced
/// is found dead within 20 more.
const NOTED_LIFE: Duration = Duration::from_secs(30);

impl Hooks for Client {
    fn opens(&self) -> Vec<Reclaim> {
        self.files.registered()
    }

    fn told_before(&self, lost: Instant) -> Vec<Op> {
        let since = lost.checked_sub(NOTED_LIFE).unwrap_or(lost);
        let told = self.files.noted(since).into_iter().map(|(inode, noted)| Op::ReportSize {
            inode: inode.into(),
            size: noted.size,
            mtime: Some(SetTime::At(noted.mtime)),
            atime: noted.atime.map(SetTime::At),
            ctime: Some(noted.ctime),
            truncate_generation: noted.generation,
            durable: false,
        });
        told.collect()
    }

    fn recall(&self, inode: InodeId) -> BoxFuture<'_, ()> {
        async move {
            if let Some(open) = self.files.recall(inode) {
                self.write_through(&open).await;
            }
        }
        .boxed()
    }

    fn invalidate(&self, inode: InodeId, names: Vec<Name>) {
        self.cache.invalidate(inode, &names);
        if let Some(open) = self.files.inode(inode) {
            open.data.invalidate();
        }
    }

    fn lost(&self) {
        for inode in self.files.inodes() {
            if inode.data.is_dirty() {
                warn!(inode = %inode.id, "its unwritten data is lost with the session");
                inode.fail();
            }
            inode.set_exclusive(false);
            inode.data.forget_grants();
        }
        self.cache.clear();
        self.files.forget_parked();
    }

    fn renewed(&self) -> BoxFuture<'_, ()> {
        async move {
            for reclaim in self.files.registered() {
                self.open_again(reclaim).await;
            }
        }
        .boxed()
    }

    fn silent(&self) {
        for inode in self.files.inodes() {
            inode.set_exclusive(false);
            inode.data.stop_buffering();
        }
        self.cache.clear();
    }

    fn slow_servers(&self) -> Vec<SlowServer> {
        self.plane.slow_servers()
    }

    fn heard_again(&self) -> BoxFuture<'_, ()> {
        async move {
            for reclaim in self.files.registered().into_iter().filter(|reclaim| reclaim.access.writes()) {
                self.resume_open(reclaim).await;
            }
        }
        .boxed()
    }
}

impl Client {
    /// Another session opens a file that we had for ourselves: everything to the replicas, the size to
    /// the master, the leases back, and from now on each write goes through.
    async fn write_through(&self, open: &Arc<OpenInode>) {
        let _mode = open.mode.lock().await;
        open.set_exclusive(false);
        if let Err(error) = open.data.set_exclusive(false).await {
            // It is told to whoever calls fsync or close next; the master must not wait for that.
            warn!(inode = %open.id, %error, "not all data could be written when the file was recalled");
        }
        if let Err(error) = self.report(open, None).await {
            warn!(inode = %open.id, %error, "the size could not be reported when the file was recalled");
        }
        let held = open.data.held();
        open.data.forget_grants();
        if let Err(error) = self.give_back(&held).await {
            // They are fenced by the next grant, or run out.
            info!(inode = %open.id, %error, "leases could not be returned");
        }
    }

    async fn give_back(&self, held: &[gfs_proto::ops::HeldChunk]) -> Result<(), FsError> {
        if held.is_empty() {
            return Ok(());
        }
        let op = Op::ReturnChunks { chunks: held.to_vec() };
        self.ask(&Caller::root(), vec![op]).await?.done()
    }

    /// Registers an open file in a new session. Its user keeps the handle, if the file still exists.
    async fn open_again(&self, reclaim: Reclaim) {
        let Some(open) = self.files.inode(reclaim.inode).filter(|open| open.check().is_ok()) else { return };
        if let Err(error) = self.register_again(&open, reclaim).await {
            warn!(inode = %reclaim.inode, %error, "an open file could not be kept over the end of the session");
            open.fail();
        }
    }

    /// Finds out whether we are still alone with a file; if not it is written through.
    async fn resume_open(&self, reclaim: Reclaim) {
        let Some(open) = self.files.inode(reclaim.inode).filter(|open| open.check().is_ok()) else { return };
        if let Err(error) = self.register_again(&open, reclaim).await {
            warn!(inode = %reclaim.inode, %error, "an open file is not buffered any more");
        }
        if !self.files.registered().contains(&reclaim) {
            // Closed meanwhile, and maybe the master heard of that before.
            let release = Op::Release { inode: reclaim.inode.into(), open: reclaim.open };
            self.session.post(&Caller::root(), vec![release], |_| ());
        } else if !open.is_exclusive() {
            self.write_through(&open).await;
        }
    }

    async fn register_again(&self, open: &Arc<OpenInode>, reclaim: Reclaim) -> Result<(), FsError> {
        let spec = OpenSpec { open: reclaim.open, access: reclaim.access, truncate: false };
        let opening = self.files.begin_open();
        let mut answer = self.ask(&Caller::root(), vec![Op::Open { inode: reclaim.inode.into(), spec }]).await?;
        let OpResult::Opened(opened) = answer.next()? else { return Err(FsError::Protocol) };
        open.data.set_exclusive(false).await?;
        open.learn(&opened.attr);
        open.data.invalidate();
        self.cache.put_attr(&opened.attr, answer.seen);
        self.settle_mode(open, opened.exclusive && reclaim.access.writes(), &opening).await
    }

    /// Everything of an inode to replicas and master, at the end.
    pub(super) async fn settle(&self, inode: &Arc<OpenInode>) -> Result<(), FsError> {
        inode.check()?;
        inode.data.flush().await?;
        self.report(inode, None).await
    }
}
