//! Points in time as POSIX has them: nanoseconds, before 1970 and after 2106.

/// Seconds and nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    secs: i64,
    nanos: u32,
}

impl Timestamp {
    /// `None` unless `nanos` is below one second.
    pub const fn new(secs: i64, nanos: u32) -> Option<Self> {
        if nanos < 1_000_000_000 { Some(Self { secs, nanos }) } else { None }
    }
    /// From nanoseconds since 1970.
    #[must_use]
    pub const fn from_nanos(nanos: i128) -> Self {
        Self { secs: nanos.div_euclid(1_000_000_000) as i64, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
    }
    /// Nanoseconds since 1970.
    #[must_use]
    pub const fn as_nanos(self) -> i128 {
        self.secs as i128 * 1_000_000_000 + self.nanos as i128
    }
    /// Whole seconds since 1970, rounded down.
    pub const fn secs(self) -> i64 {
        self.secs
    }
    /// Nanoseconds within the second.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }
}
