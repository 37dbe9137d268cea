//! A name in a directory as a key that can be looked up without copying the name.

use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// Key of a dentry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NameKey {
    pub(super) parent: InodeId,
    pub(super) name: Name,
}

/// What [`NameKey`] and a borrowed pair have in common.
pub(super) trait Pair {
    fn pair(&self) -> (InodeId, &Name);
}

impl Pair for NameKey {
    fn pair(&self) -> (InodeId, &Name) {
        (self.parent, &self.name)
    }
}

impl Pair for (InodeId, &Name) {
    fn pair(&self) -> (InodeId, &Name) {
        (self.0, self.1)
    }
}

impl<'a> Borrow<dyn Pair + 'a> for NameKey {
    fn borrow(&self) -> &(dyn Pair + 'a) {
        self
    }
}

impl Hash for dyn Pair + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pair().hash(state);
    }
}

impl PartialEq for dyn Pair + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for dyn Pair + '_ {}

impl Hash for NameKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pair().hash(state);
    }
}
