//! Who asks: the credentials that permission checks are made with.

/// User, group and supplementary groups of the process that made a call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// Effective (file system) user id.
    pub uid: u32,
    /// Effective (file system) group id.
    pub gid: u32,
    /// Supplementary groups; at most [`crate::limits::GROUPS_MAX`].
    pub groups: Vec<u32>,
}

impl Caller {
    /// The superuser, who passes every permission check.
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }
    /// True for uid 0.
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }
    /// True if `gid` is the caller's group or one of the supplementary ones.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
