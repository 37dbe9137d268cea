//! The one error type of the file system, and its exhaustive mapping to `errno`.

use thiserror::Error;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $errno:literal, $text:literal;)*) => {
        /// Why an operation failed, as the caller of a system call may learn it.
        ///
        /// The code on the wire is stable and separate from `errno`, which differs by platform.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
        pub enum FsError {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl FsError {
            /// Every error there is, for table tests.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The Linux error number (asm-generic/errno.h).
            pub const fn errno(self) -> i32 {
                match self { $(Self::$name => $errno,)* }
            }
            /// The stable number on the wire, from 1; 0 is success.
            pub const fn code(self) -> u32 {
                match self { $(Self::$name => $code,)* }
            }
            /// The error of a wire number; an unknown one is an I/O error, never a success.
            pub const fn from_code(code: u32) -> Self {
                match code { $($code => Self::$name,)* _ => Self::Io }
            }
        }
    };
}

errors! {
    /// EPERM.
    NotPermitted = 1, 1, "operation not permitted";
    /// ENOENT.
    NotFound = 2, 2, "no such file or directory";
    /// EINTR.
    Interrupted = 3, 4, "interrupted by a signal";
    /// EIO: nothing better is known; the log says more.
    Io = 4, 5, "input/output error";
    /// ENXIO: SEEK_DATA or SEEK_HOLE beyond the end.
    NoSuchAddress = 5, 6, "no such device or address";
    /// EBADF.
    BadHandle = 6, 9, "bad file handle";
    /// EAGAIN: a lock is held by somebody else.
    WouldBlock = 7, 11, "resource temporarily unavailable";
    /// EACCES.
    AccessDenied = 8, 13, "permission denied";
    /// EBUSY.
    Busy = 9, 16, "resource busy";
    /// EEXIST.
    Exists = 10, 17, "file exists";
    /// EXDEV.
    CrossDevice = 11, 18, "link across file systems";
    /// ENOTDIR.
    NotDirectory = 12, 20, "not a directory";
    /// EISDIR.
    IsDirectory = 13, 21, "is a directory";
    /// EINVAL.
    InvalidArgument = 14, 22, "invalid argument";
    /// EFBIG.
    FileTooLarge = 15, 27, "file too large";
    /// ENOSPC: the chunkservers have no room left.
    NoSpace = 16, 28, "no space left on the chunkservers";
    /// EROFS.
    ReadOnly = 17, 30, "read-only file system";
    /// EMLINK.
    TooManyLinks = 18, 31, "too many links";
    /// ERANGE: the buffer for an extended attribute is too small.
    Range = 19, 34, "buffer too small";
    /// EDEADLK.
    Deadlock = 20, 35, "resource deadlock avoided";
    /// ENAMETOOLONG.
    NameTooLong = 21, 36, "file name too long";
    /// ENOSYS.
    NotImplemented = 22, 38, "function not implemented";
    /// ENOTEMPTY.
    NotEmpty = 23, 39, "directory not empty";
    /// ELOOP.
    Loop = 24, 40, "too many levels of symbolic links";
    /// ENODATA: no such extended attribute.
    NoAttribute = 25, 61, "no such extended attribute";
    /// EOVERFLOW.
    Overflow = 26, 75, "value too large";
    /// EOPNOTSUPP.
    NotSupported = 27, 95, "operation not supported";
    /// ETIMEDOUT: the bound on the operation ran out.
    TimedOut = 28, 110, "timed out waiting for the cluster";
    /// ESTALE: the inode is gone.
    Stale = 29, 116, "stale file handle";
    /// EDQUOT.
    QuotaExceeded = 30, 122, "disk quota exceeded";
    /// The session has expired or is unknown; what it held is lost.
    SessionExpired = 31, 5, "the session with the master has expired";
    /// The master is not (or no longer) the leader; ask another.
    NotLeader = 32, 5, "this master is not the leader";
    /// The master or the servers are not ready; the same request may be sent again.
    Unavailable = 33, 5, "the service is not available at the moment";
    /// The chunk grant is void (revoked, expired or of an older epoch); ask for a new one.
    StaleGrant = 34, 5, "the chunk lease is no longer valid";
    /// No up-to-date replica of a chunk can be reached.
    NoReplica = 35, 5, "no up-to-date replica of a chunk is reachable";
    /// The precondition of a batch did not hold.
    Precondition = 36, 11, "the directory changed in between";
    /// The message violates the protocol.
    Protocol = 37, 71, "protocol error";
    /// Every replica's checksum fails.
    Corrupt = 38, 5, "data is corrupt on every replica";
}

impl FsError {
    /// True if the same request may succeed when it is sent again to the same or another server.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::NotLeader | Self::Unavailable | Self::NoReplica | Self::StaleGrant)
    }
    /// True if what the client remembers (grant, session) is void and must be fetched anew.
    pub const fn is_stale(self) -> bool {
        matches!(self, Self::StaleGrant | Self::SessionExpired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_round_trip() {
        for (i, error) in FsError::ALL.iter().enumerate() {
            assert_eq!(error.code() as usize, i + 1, "codes are dense, in order");
            assert_eq!(FsError::from_code(error.code()), *error);
            assert!(error.errno() > 0);
        }
        assert_eq!(FsError::from_code(9999), FsError::Io);
    }
}
