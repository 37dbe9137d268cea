//! Names of directory entries, in any encoding.

use crate::error::FsError;
use crate::limits::NAME_MAX;
use std::fmt;

/// A name that a directory may hold: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks what the kernel, a user or the wire says is a name (POSIX, 3.170 Filename).
    pub fn new(bytes: &[u8]) -> Result<Self, FsError> {
        match bytes {
            [] => Err(FsError::NotFound),
            _ if bytes.len() > NAME_MAX => Err(FsError::NameTooLong),
            b"." | b".." => Err(FsError::InvalidArgument),
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(FsError::InvalidArgument),
            _ => Ok(Self(bytes.into())),
        }
    }
    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_posix_allows() {
        let longest = [b'a'; NAME_MAX];
        for good in [&b"a"[..], b"...", b"\xff\xfe", b" ", &longest] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
        let too_long = [b'a'; NAME_MAX + 1];
        for (bad, error) in [
            (&b""[..], FsError::NotFound),
            (b".", FsError::InvalidArgument),
            (b"..", FsError::InvalidArgument),
            (b"a/b", FsError::InvalidArgument),
            (b"a\0", FsError::InvalidArgument),
            (&too_long, FsError::NameTooLong),
        ] {
            assert_eq!(Name::new(bad), Err(error), "{bad:?}");
        }
    }
}
