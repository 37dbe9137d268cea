//! Files in the cluster by path: what commands need on top of the client library's inode numbers.

use anyhow::{Context as _, bail};
use gfs_client::{Client, DirItem, Entry, Lookup, OpenFlags, Opened};
use gfs_proto::FsError;
use gfs_proto::attr::{FileKind, Mode};
use gfs_proto::caller::Caller;
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::name::Name;
use gfs_proto::ops::{MakeKind, RenameMode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A session, and who uses it.
#[derive(Clone)]
pub(crate) struct Remote {
    client: Arc<Client>,
    caller: Arc<Caller>,
}

/// A place where a name is, or could be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Place {
    pub(crate) parent: InodeId,
    pub(crate) name: Name,
    /// As people write it.
    pub(crate) path: PathBuf,
}

impl Place {
    /// The same name in other words: the path with the directory's name in front.
    pub(crate) fn within(parent: InodeId, name: Name, directory: &Path) -> Self {
        let path = directory.join(OsStr::from_bytes(name.as_bytes()));
        Self { parent, name, path }
    }
}

impl Remote {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client, caller: Arc::new(caller()) }
    }

    /// The library itself, for what is not here.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Who asks.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Everything that was written goes to the chunkservers; the session ends.
    pub(crate) async fn close(&self) -> Result<(), FsError> {
        self.client.shutdown().await
    }

    /// What a path leads to, symbolic links followed.
    pub(crate) async fn resolve(&self, path: &Path) -> anyhow::Result<Entry> {
        self.client.resolve(&self.caller, bytes(path)).await.with_context(|| shown(path))
    }

    /// What a path leads to; a symbolic link at its end is the answer itself.
    pub(crate) async fn resolve_no_follow(&self, path: &Path) -> anyhow::Result<Entry> {
        self.client.resolve_no_follow(&self.caller, bytes(path)).await.with_context(|| shown(path))
    }

    /// [`Remote::resolve`], but a name that is not there is no failure.
    pub(crate) async fn find(&self, path: &Path) -> anyhow::Result<Option<Entry>> {
        match self.client.resolve(&self.caller, bytes(path)).await {
            Ok(entry) => Ok(Some(entry)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| shown(path)),
        }
    }

    /// The directory and the name that a path ends with.
    pub(crate) async fn place(&self, path: &Path) -> anyhow::Result<Place> {
        let (parent, name) =
            self.client.resolve_parent(&self.caller, bytes(path)).await.with_context(|| shown(path))?;
        Ok(Place { parent, name, path: path.to_owned() })
    }

    /// Where `source` goes when it is copied or moved to `target`: into it if that is a directory.
    pub(crate) async fn destination(&self, target: &Path, source: &Path) -> anyhow::Result<Place> {
        match self.find(target).await? {
            Some(entry) if entry.attr.kind == FileKind::Directory => {
                let Some(name) = source.file_name() else {
                    bail!("{} has no name of its own; say what it shall be called in {}", shown(source), shown(target))
                };
                let name = Name::new(name.as_bytes()).with_context(|| shown(source))?;
                Ok(Place::within(entry.attr.inode, name, target))
            }
            Some(_) | None => self.place(target).await,
        }
    }

    /// What a name in a directory leads to, without following symbolic links.
    pub(crate) async fn lookup(&self, place: &Place) -> anyhow::Result<Option<Entry>> {
        match self.client.lookup(&self.caller, place.parent, &place.name).await {
            Ok(Lookup::Found(entry)) => Ok(Some(entry)),
            Ok(Lookup::Missing { .. }) | Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| shown(&place.path)),
        }
    }

    /// A whole directory, in order of names. `path` is for messages.
    pub(crate) async fn list(&self, directory: InodeId, path: &Path) -> anyhow::Result<Vec<DirItem>> {
        let handle = self.client.opendir(&self.caller, directory).with_context(|| shown(path))?;
        let listed = self.pages(handle).await.with_context(|| shown(path));
        self.client.releasedir(handle);
        listed
    }

    async fn pages(&self, handle: gfs_client::DirHandle) -> Result<Vec<DirItem>, FsError> {
        let mut all: Vec<DirItem> = Vec::new();
        loop {
            let after = all.last().map_or(DirCookie::default(), |item| item.cookie);
            let page = self.client.readdir(handle, after, true).await?;
            let end = page.end || page.items.is_empty();
            all.extend(page.items);
            if end {
                all.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(all);
            }
        }
    }

    /// Makes a directory; with `existing_too` one that is there already will do.
    pub(crate) async fn make_directory(&self, place: &Place, mode: Mode, existing_too: bool) -> anyhow::Result<Entry> {
        match self.client.make(&self.caller, place.parent, &place.name, MakeKind::Directory, mode).await {
            Err(FsError::Exists) if existing_too => match self.resolve(&place.path).await? {
                entry if entry.attr.kind == FileKind::Directory => Ok(entry),
                _ => Err(FsError::Exists).with_context(|| shown(&place.path)),
            },
            made => made.with_context(|| shown(&place.path)),
        }
    }

    /// Makes a symbolic link.
    pub(crate) async fn make_link(&self, place: &Place, target: &[u8]) -> anyhow::Result<Entry> {
        let kind = MakeKind::Symlink(target.to_vec());
        let made = self.client.make(&self.caller, place.parent, &place.name, kind, Mode::new(0o777)).await;
        made.with_context(|| shown(&place.path))
    }

    /// Opens what is there.
    pub(crate) async fn open(&self, inode: InodeId, flags: OpenFlags, path: &Path) -> anyhow::Result<Opened> {
        self.client.open(&self.caller, inode, flags).await.with_context(|| shown(path))
    }

    /// Gives a file another name, in place of what has it.
    pub(crate) async fn replace(&self, from: &Place, to: &Place) -> anyhow::Result<()> {
        let (from, target) = ((from.parent, &from.name), (to.parent, &to.name));
        let renamed = self.client.rename(&self.caller, from, target, RenameMode::Replace).await;
        renamed.with_context(|| shown(&to.path))
    }

    /// Removes a name of anything but a directory.
    pub(crate) async fn unlink(&self, place: &Place) -> anyhow::Result<()> {
        let removed = self.client.unlink(&self.caller, place.parent, &place.name).await;
        removed.with_context(|| shown(&place.path))
    }

    /// Removes an empty directory.
    pub(crate) async fn remove_directory(&self, place: &Place) -> anyhow::Result<()> {
        let removed = self.client.rmdir(&self.caller, place.parent, &place.name).await;
        removed.with_context(|| shown(&place.path))
    }
}

/// This process, as the master shall judge it.
fn caller() -> Caller {
    let groups = rustix::process::getgroups().unwrap_or_default(); // fewer rights, never more
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path as messages name it.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
