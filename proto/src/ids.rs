//! Newtypes for every id, version and counter that crosses a process boundary.
//!
//! Their inner integers are private so that an inode can never be handed to a function that wants a
//! chunk handle. All are plain 64-bit (or smaller) integers on disk and on the wire.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw value read from disk, wire or kernel.
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }
            /// The raw value for disk, wire or kernel.
            pub const fn get(self) -> $inner {
                self.0
            }
            /// The next value; ids are never reused, so running out is a bug.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// Inode number. 1 is the root. The upper 16 bits are the restore generation (see
    /// [`RestoreGeneration`]), so numbers are never handed out twice.
    InodeId, u64, "{}"
);
id!(
    /// Chunk handle: names a chunk for ever (GFS paper, 2.3). Upper 16 bits as in [`InodeId`].
    ChunkHandle, u64, "{:016x}"
);
id!(
    /// Chunk version (GFS paper, 4.5): a replica with an older one is stale. Starts at 1.
    ChunkVersion, u64, "v{}"
);
id!(
    /// Position of a chunk in its file: byte offset / chunk size.
    ChunkIndex, u32, "{}"
);
id!(
    /// Number of a chunkserver in its cluster, given by the master at first registration, from 1.
    ServerId, u32, "cs{}"
);
id!(
    /// One run of a chunkserver process. Acknowledgements carry it and flushes name it: bytes
    /// acknowledged by an earlier incarnation may be gone.
    Incarnation, u64, "{}"
);
id!(
    /// Drawn at random by each start of a chunkserver. Two with the same incarnation are two of it: a storage directory
    /// was copied, or put back.
    RunId, u64, "{:016x}"
);
id!(
    /// Order of a mutation of one chunk under one lease epoch, from 1 (GFS paper, 3.1).
    Serial, u64, "{}"
);
id!(
    /// A client's session, given by the master. Never reused, so it fences by itself. 0 = none.
    SessionId, u64, "{:x}"
);
id!(
    /// Number of a mutation within a session, from 1; with it a retry is recognised.
    Sequence, u64, "{}"
);
id!(
    /// Raised by every cut of a file's size; reports from before the cut are void.
    TruncateGeneration, u64, "{}"
);
id!(
    /// Raised by every change of which chunks a file consists of.
    MapGeneration, u64, "{}"
);
id!(
    /// Raised when a master starts from a backup (`gfs-master --restored`), so that ids given out by
    /// the lost future are recognised. Lives in the upper 16 bits of inode numbers and handles.
    RestoreGeneration, u16, "{}"
);
id!(
    /// Term of the operation log's leader (Raft). Servers obey the highest they have seen.
    Term, u64, "{}"
);
id!(
    /// Position in the operation log.
    LogIndex, u64, "{}"
);
id!(
    /// An open file as the master knows it; chosen by the client, unique in its session.
    OpenId, u64, "{}"
);
id!(
    /// Position in a directory listing: the hash order of names, stable while entries come and go.
    /// 0 is the beginning; cookies of entries are at least [`DirCookie::FIRST`].
    DirCookie, u64, "{}"
);

/// Bits of a 64-bit id below the restore generation.
const RESTORE_SHIFT: u32 = 48;

impl InodeId {
    /// The root directory, as FUSE numbers it.
    pub const ROOT: Self = Self::new(1);

    /// The first number of a restore generation that may be given out.
    #[must_use]
    pub const fn first_of(generation: RestoreGeneration) -> Self {
        Self::new(((generation.get() as u64) << RESTORE_SHIFT) + 2)
    }
}

impl ChunkHandle {
    /// The first handle of a restore generation.
    #[must_use]
    pub const fn first_of(generation: RestoreGeneration) -> Self {
        Self::new(((generation.get() as u64) << RESTORE_SHIFT) + 1)
    }

    /// The restore generation that this handle was given out in.
    #[must_use]
    pub const fn restore_generation(self) -> RestoreGeneration {
        RestoreGeneration::new((self.get() >> RESTORE_SHIFT) as u16)
    }
}

impl DirCookie {
    /// Cookies below this one are for `.` and `..`, which the client adds.
    pub const FIRST: Self = Self::new(16);
}

/// Epoch of a chunk lease: the granting leader's term, then a counter that it raises for each grant.
/// Ordered, never reused; a data frame of an older epoch is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch {
    /// Term of the leader that granted the lease.
    pub term: Term,
    /// Number of the grant within that term, from 1.
    pub counter: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.counter)
    }
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 128 random bits.
            pub const fn new(raw: [u8; 16]) -> Self {
                Self(raw)
            }
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
            /// From a message field; `None` if it does not hold exactly 16 bytes.
            pub fn from_slice(raw: &[u8]) -> Option<Self> {
                raw.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let parse = || {
                    let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
                };
                parse()
                    .map(|bits| Self(bits.to_be_bytes()))
                    .ok_or_else(|| format!(concat!($what, " {:?} is not 32 hexadecimal digits"), text))
            }
        }
    };
}

uuid!(
    /// A cluster's name, chosen when the master formats its directory. Servers and directories of
    /// another cluster are refused.
    ClusterId, "cluster id"
);
uuid!(
    /// A chunkserver's name for itself, kept in its storage directories; the master maps it to a
    /// [`ServerId`].
    ServerUuid, "server id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_round_trips_through_text() {
        let id = ClusterId::new([0xa5; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "a5", "g5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5", "+5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn restore_generation_separates_ids() {
        let (old, new) = (RestoreGeneration::new(0), RestoreGeneration::new(1));
        assert!(InodeId::first_of(new) > InodeId::first_of(old));
        assert_eq!(ChunkHandle::first_of(new).restore_generation(), new);
    }
}
