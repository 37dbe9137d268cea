//! Listing directories.

use super::Client;
use crate::{DirHandle, DirItems};
use gfs_proto::FsError;
use gfs_proto::caller::Caller;
use gfs_proto::ids::{DirCookie, InodeId};

impl Client {
    /// Opens a directory for listing. Costs no request.
    pub fn opendir(&self, caller: &Caller, inode: InodeId) -> Result<DirHandle, FsError> {
        let _ = (caller, inode);
        Err(FsError::NotImplemented)
    }

    /// The entries after a cookie (0: from the beginning), as many as a page of the master holds. The
    /// caller takes as many as it has room for and asks again with the cookie of the last it took.
    pub async fn readdir(
        &self,
        handle: DirHandle,
        after: DirCookie,
        with_attributes: bool,
    ) -> Result<DirItems, FsError> {
        let _ = (handle, after, with_attributes);
        Err(FsError::NotImplemented)
    }

    /// [`Client::readdir`] without waiting, if the page is there already.
    pub fn try_readdir(&self, handle: DirHandle, after: DirCookie, with_attributes: bool) -> Option<DirItems> {
        let _ = (handle, after, with_attributes);
        None
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: DirHandle) {
        let _ = handle;
    }
}
