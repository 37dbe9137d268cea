//! The options after `-o`, as `mount(8)`, `/etc/fstab` and people write them.

use std::time::Duration;

/// What a mount is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountOptions {
    /// `ro`.
    pub(crate) read_only: bool,
    /// `suid`, `nosuid`; `None`: on for root, off for others.
    pub(crate) suid: Option<bool>,
    /// `dev`, `nodev`; likewise.
    pub(crate) dev: Option<bool>,
    /// `noexec`.
    pub(crate) no_exec: bool,
    /// `noatime`.
    pub(crate) no_atime: bool,
    /// `allow_other`; `None`: on for root, off for others.
    pub(crate) allow_other: Option<bool>,
    /// Source shown in the table of mounts.
    pub(crate) fsname: Option<String>,
    /// Type shown in the table of mounts after `fuse.`.
    pub(crate) subtype: String,
    /// Bound on any operation.
    pub(crate) timeout: Option<Duration>,
    /// Bytes for blocks that were read.
    pub(crate) cache_bytes: Option<u64>,
    /// Bytes that may wait to be written.
    pub(crate) dirty_bytes: Option<u64>,
    /// Address of the master.
    pub(crate) master: Option<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            suid: None,
            dev: None,
            no_exec: false,
            no_atime: false,
            allow_other: None,
            fsname: None,
            subtype: "gfs".to_owned(),
            timeout: None,
            cache_bytes: None,
            dirty_bytes: None,
            master: None,
        }
    }
}

impl MountOptions {
    /// Parses comma-separated lists; a later option overrides an earlier one. The error names the
    /// option and what would be right.
    pub(crate) fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut options = Self::default();
        for option in lists.into_iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((key, value)) => options.set_value(key, value)?,
                None => options.set_flag(option)?,
            }
        }
        Ok(options)
    }

    fn set_flag(&mut self, option: &str) -> Result<(), String> {
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "suid" => self.suid = Some(true),
            "nosuid" => self.suid = Some(false),
            "dev" => self.dev = Some(true),
            "nodev" => self.dev = Some(false),
            "exec" => self.no_exec = false,
            "noexec" => self.no_exec = true,
            "atime" | "relatime" => self.no_atime = false,
            "noatime" => self.no_atime = true,
            "allow_other" => self.allow_other = Some(true),
            // Permissions are always checked by the kernel; the rest is for mount(8) and systemd.
            "default_permissions"
            | "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "users"
            | "nouser"
            | "owner"
            | "group"
            | "_netdev"
            | "nofail"
            | "async" => {}
            _ if option.starts_with("x-") => {}
            _ => return Err(format!("unknown mount option {option:?}")),
        }
        Ok(())
    }

    fn set_value(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() && key != "comment" {
            return Err(format!("mount option {key:?} lacks its value"));
        }
        match key {
            "fsname" => self.fsname = Some(value.to_owned()),
            "subtype" => self.subtype = value.to_owned(),
            "master" => self.master = Some(value.to_owned()),
            "timeout" => self.timeout = Some(seconds(value)?),
            "cache" => self.cache_bytes = Some(size("cache", value)?),
            "dirty" => self.dirty_bytes = Some(size("dirty", value)?),
            "comment" => {}
            _ if key.starts_with("x-") => {}
            _ => return Err(format!("unknown mount option {key:?}")),
        }
        Ok(())
    }
}

fn seconds(value: &str) -> Result<Duration, String> {
    match value.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("timeout={value}: give whole seconds from 1 to 86400")),
    }
}

/// A size with an optional suffix K, M, G (powers of 1024).
fn size(key: &str, value: &str) -> Result<u64, String> {
    let bad = || format!("{key}={value}: give bytes, or a number with K, M or G, at least 1M");
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).filter(|bytes| (1 << 20..=1 << 40).contains(bytes)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_fstab_has_them() {
        let parsed = MountOptions::parse(["rw,noatime,_netdev,x-systemd.automount,timeout=5", "ro,cache=64M,nosuid,"]);
        let expected = MountOptions {
            read_only: true,
            suid: Some(false),
            no_atime: true,
            timeout: Some(Duration::from_secs(5)),
            cache_bytes: Some(64 << 20),
            ..MountOptions::default()
        };
        assert_eq!(parsed, Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, culprit) in [
            ("bogus", "bogus"),
            ("cache", "cache"),
            ("cache=", "cache"),
            ("cache=12Q", "cache=12Q"),
            ("cache=99999999999G", "cache=99999999999G"),
            ("dirty=1", "dirty=1"),
            ("timeout=0", "timeout=0"),
            ("timeout=soon", "timeout=soon"),
            ("colour=red", "colour"),
        ] {
            let error = MountOptions::parse([list]).expect_err(list);
            assert!(error.contains(culprit), "{list}: {error}");
        }
    }
}
