//! Copying between local files and the cluster: one file at a time here, several at once there.

use crate::progress::Progress;
use crate::remote::{Place, Remote, shown};
use anyhow::{Context as _, bail};
use gfs_client::{FileHandle, OpenFlags};
use gfs_proto::attr::Mode;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::FRAME_PAYLOAD_MAX;
use gfs_proto::ops::Access;
use serde::Serialize;
use std::hash::Hasher as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Bytes handed over at once.
const PIECE: usize = FRAME_PAYLOAD_MAX as usize;
/// Files under way at once: a small one is mostly waiting.
const FILES_AT_ONCE: usize = 16;

/// What was copied.
#[derive(Serialize, Default, Clone, Copy)]
pub(crate) struct Copied {
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) links: u64,
    pub(crate) bytes: u64,
    pub(crate) elapsed_ms: u64,
}

/// A name beside `name` under which a file is made until it is whole; of at most 255 bytes, and nobody else's.
pub(crate) fn partial_name(name: &[u8]) -> Vec<u8> {
    const KEPT_MAX: usize = 200; // a long name has no room for more
    let mut partial = b".".to_vec();
    partial.extend(&name[..name.len().min(KEPT_MAX)]);
    // the standard library's only source of random numbers
    let random = std::hash::BuildHasher::build_hasher(&std::hash::RandomState::new()).finish();
    partial.extend(format!(".gfsctl-{random:016x}").bytes());
    partial
}

/// Files that are not whole yet, for somebody to take away if that is all that becomes of them.
pub(crate) struct Partials<T>(Mutex<Vec<T>>);

impl<T> Default for Partials<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: PartialEq> Partials<T> {
    /// Before it is made.
    pub(crate) fn begun(&self, partial: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(partial);
    }
    /// It has its name.
    pub(crate) fn whole(&self, partial: &T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other != partial);
    }
    /// What is left.
    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes everything that `source` gives into a file of the cluster, created or cut to nothing first.
pub(crate) async fn upload(
    remote: &Remote,
    source: &mut (impl AsyncRead + Unpin),
    target: &Place,
    mode: Mode,
    progress: &Progress,
) -> anyhow::Result<()> {
    let flags = OpenFlags { truncate: true, ..OpenFlags::new(Access::Write) };
    let created = remote.client().create(remote.caller(), target.parent, &target.name, (mode, flags)).await;
    let (_, opened) = created.with_context(|| shown(&target.path))?;
    let written = write_all(remote, opened.handle, source, progress).await;
    let flushed = remote.client().flush(opened.handle).await;
    remote.client().release(opened.handle);
    written.and_then(|()| Ok(flushed?)).with_context(|| shown(&target.path))
}

async fn write_all(
    remote: &Remote,
    handle: FileHandle,
    source: &mut (impl AsyncRead + Unpin),
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let length = fill(source, &mut piece).await.context("cannot read what is to be written")?;
        if length == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < length {
            let taken = remote.client().write(handle, offset, &piece[written..length]).await? as usize;
            if taken == 0 {
                bail!("the cluster took no bytes at offset {offset}");
            }
            written += taken;
            offset += taken as u64;
        }
        progress.advance(length as u64);
    }
}

/// Whole pieces also from a pipe, which gives 64 KiB at a time.
async fn fill(source: &mut (impl AsyncRead + Unpin), piece: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match source.read(&mut piece[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// Writes a whole file of the cluster to `target`.
pub(crate) async fn download(
    remote: &Remote,
    inode: InodeId,
    path: &Path,
    target: &mut (impl AsyncWrite + Unpin),
    progress: &Progress,
) -> anyhow::Result<()> {
    let opened = remote.open(inode, OpenFlags::new(Access::Read), path).await?;
    let copied = read_all(remote, opened.handle, target, progress).await;
    remote.client().release(opened.handle);
    copied.with_context(|| shown(path))
}

async fn read_all(
    remote: &Remote,
    handle: FileHandle,
    target: &mut (impl AsyncWrite + Unpin),
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut offset = 0;
    loop {
        let piece = remote.client().read(handle, offset, FRAME_PAYLOAD_MAX).await?;
        if piece.is_empty() {
            return target.flush().await.context("cannot write the local file");
        }
        target.write_all(&piece).await.context("cannot write the local file")?;
        offset += piece.len() as u64;
        progress.advance(piece.len() as u64);
    }
}

/// Runs `work` on each of `items`, several at once. The first failure ends it.
pub(crate) async fn several<T, F>(items: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for item in items {
        while running.len() >= FILES_AT_ONCE {
            finished(running.join_next().await)?;
        }
        running.spawn(work(item));
    }
    while let Some(one) = running.join_next().await {
        finished(Some(one))?;
    }
    Ok(())
}

fn finished(one: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    one.map_or(Ok(()), |joined| joined.context("a transfer ended early")?)
}

/// One of the standard streams, to be read or written without waiting.
pub(crate) fn standard(stream: impl AsFd) -> anyhow::Result<tokio::fs::File> {
    let own = stream.as_fd().try_clone_to_owned().context("cannot use a standard stream")?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(own)))
}

/// Shared by the tasks of one transfer.
pub(crate) type SharedProgress = Arc<Progress>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn not_more_than_so_many_run_at_once_and_a_failure_ends_it() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = |_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        };
        several(0..100, counted).await.expect("all done");
        assert_eq!(most.load(Ordering::SeqCst), FILES_AT_ONCE);
        let failed = several(0..100, |n| async move { if n == 40 { bail!("n is {n}") } else { Ok(()) } }).await;
        assert_eq!(failed.expect_err("one failed").to_string(), "n is 40");
    }

    #[tokio::test]
    async fn pieces_from_a_pipe_are_whole() {
        let (mut tx, mut rx) = tokio::io::duplex(100);
        let sender = tokio::spawn(async move { tx.write_all(&[7; 1000]).await });
        let mut piece = [0; 600];
        assert_eq!(fill(&mut rx, &mut piece).await.expect("read"), 600);
        assert_eq!(fill(&mut rx, &mut piece).await.expect("read"), 400);
        sender.await.expect("joined").expect("written");
    }
}
