//! Sizes and times of files that are being written, told while they are open: others see them grow, and
//! little is left to be found out if this client dies.
//!
//! A file is told of at most once a [`PERIOD`], with the size that it had when everything up to there was
//! sent to the replicas: the master never hears of bytes that only this client has. A file that is
//! written and closed at once is told of by its close alone.

use super::Client;
use crate::files::OpenInode;
use gfs_proto::FsError;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::debug;

/// Between two reports of one file.
const PERIOD: Duration = Duration::from_secs(1);

/// Files with something to tell, each once.
#[derive(Default)]
pub(super) struct Unreported {
    files: Mutex<Vec<Weak<OpenInode>>>,
    some: Notify,
}

impl Unreported {
    fn add(&self, inode: &Arc<OpenInode>) {
        if inode.set_report_due() {
            let mut files = self.files.lock();
            files.push(Arc::downgrade(inode));
            if files.len() == 1 {
                self.some.notify_one();
            }
        }
    }

    fn take(&self) -> Vec<Weak<OpenInode>> {
        std::mem::take(&mut self.files.lock())
    }
}

/// Tells until the client is gone; idle while nothing is written.
pub(super) async fn tell(client: Weak<Client>, unreported: Arc<Unreported>) {
    while client.strong_count() > 0 {
        unreported.some.notified().await;
        tokio::time::sleep(PERIOD).await;
        let Some(client) = client.upgrade() else { return };
        for inode in unreported.take().iter().filter_map(Weak::upgrade) {
            let client = client.clone();
            tokio::spawn(async move { client.report_open(&inode).await });
        }
    }
}

impl Client {
    /// Something about an open file is to be told to the master soon.
    pub(super) fn report_soon(&self, inode: &Arc<OpenInode>) {
        self.unreported.add(inode);
    }

    async fn report_open(&self, inode: &Arc<OpenInode>) {
        if let Err(error) = self.report_sent(inode).await {
            debug!(inode = %inode.id, %error, "the size of an open file is told later");
        }
        inode.clear_report_due();
        if inode.check().is_ok() && inode.unreported().is_some() {
            self.report_soon(inode);
        }
    }

    /// Sends what has been written, then tells what was known before that, unless somebody else has told
    /// more meanwhile. A write that fails is left for close and fsync to tell.
    async fn report_sent(&self, inode: &Arc<OpenInode>) -> Result<(), FsError> {
        let count = inode.reports();
        let Some(report) = inode.unreported() else { return Ok(()) };
        if !inode.data.drain().await {
            return Ok(());
        }
        let _reporting = inode.reporting.lock().await;
        if inode.reports() == count && inode.is_of_this_generation(&report) {
            self.send_report(inode, &report, false).await?;
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.unreported.some.notify_one();
    }
}
