//! Paths, for programs that have no kernel to walk them (POSIX, 4.16 Pathname Resolution).

use super::Client;
use crate::{Entry, Lookup};
use gfs_proto::FsError;
use gfs_proto::attr::FileKind;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;

/// Symbolic links followed in one path, as on Linux.
const LINKS_MAX: usize = 40;

/// Components still to walk, the next one last.
struct Rest(Vec<Vec<u8>>);

impl Rest {
    fn push(&mut self, path: &[u8]) {
        let parts = path.split(|byte| *byte == b'/').rev();
        self.0.extend(parts.filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec));
    }
}

impl Client {
    /// The inode at the end of a path from the root of the file system (a leading `/` is optional),
    /// symbolic links followed, the last one too.
    pub async fn resolve(&self, caller: &Caller, path: &[u8]) -> Result<Entry, FsError> {
        self.walk(caller, path, true).await
    }

    /// [`Client::resolve`], but a symbolic link at the end is the answer itself.
    pub async fn resolve_no_follow(&self, caller: &Caller, path: &[u8]) -> Result<Entry, FsError> {
        self.walk(caller, path, path.ends_with(b"/")).await
    }

    /// The directory and the name in it that a path ends with, to make, remove or rename something.
    /// The root has none: [`FsError::Busy`].
    pub async fn resolve_parent(&self, caller: &Caller, path: &[u8]) -> Result<(InodeId, Name), FsError> {
        let (parent, last) = split_last(path).ok_or(FsError::Busy)?;
        let name = Name::new(last)?;
        let parent = self.walk(caller, parent, true).await?;
        match parent.attr.kind {
            FileKind::Directory => Ok((parent.attr.inode, name)),
            _ => Err(FsError::NotDirectory),
        }
    }

    async fn walk(&self, caller: &Caller, path: &[u8], follow_last: bool) -> Result<Entry, FsError> {
        let mut above: Vec<Entry> = Vec::new();
        let mut at = self.getattr(caller, InodeId::ROOT).await?;
        let mut rest = Rest(Vec::new());
        rest.push(path);
        let mut links = 0;
        while let Some(part) = rest.0.pop() {
            if at.attr.kind != FileKind::Directory {
                return Err(FsError::NotDirectory);
            }
            if part == b".." {
                at = above.pop().unwrap_or(at);
                continue;
            }
            let next = self.step(caller, at.attr.inode, &Name::new(&part)?).await?;
            if next.attr.kind != FileKind::Symlink || (rest.0.is_empty() && !follow_last) {
                above.push(std::mem::replace(&mut at, next));
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(FsError::Loop);
            }
            let target = self.readlink(caller, next.attr.inode).await?;
            if target.starts_with(b"/") {
                at = above.drain(..).next().unwrap_or(at);
            }
            rest.push(&target);
        }
        match (path.ends_with(b"/"), at.attr.kind) {
            (true, FileKind::Directory) | (false, _) => Ok(at),
            (true, _) => Err(FsError::NotDirectory),
        }
    }

    async fn step(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<Entry, FsError> {
        match self.lookup(caller, parent, name).await? {
            Lookup::Found(entry) => Ok(entry),
            Lookup::Missing { .. } => Err(FsError::NotFound),
        }
    }
}

/// A path without its last component, and that.
fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    Some((&path[..start], &path[start..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_component_is_split_off() {
        for (path, expected) in
            [("/a/b", Some(("/a/", "b"))), ("a", Some(("", "a"))), ("/a//", Some(("/", "a"))), ("/", None), ("", None)]
        {
            let expected = expected.map(|(parent, last)| (parent.as_bytes(), last.as_bytes()));
            assert_eq!(split_last(path.as_bytes()), expected, "{path}");
        }
    }
}
