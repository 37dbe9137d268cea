//! Deliberate bugs, to see that the tests notice them: one place of the code each asks
//! `mutant!(Name)`, which is `false` for the compiler unless the feature `mutants` is on.
//!
//! With the feature the environment variable `GFS_MUTANT` names the bug of this process. The feature is for
//! debug builds: a release build with it does not compile. `tests/mutants.sh` runs them all.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` puts bugs into the programs: it is for debug builds only");

/// A bug, named by what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A chunk's new name is not made durable with its directory.
    NoDirectorySync,
    /// The operation log answers before its record is on stable storage.
    AcknowledgeBeforeSync,
    /// A version that should be raised stays as it is.
    NoVersionBump,
    /// Replicas that the master does not know are deleted.
    DeleteUnknown,
    /// What comes over the network is stored without a look at its checksums.
    SkippedChecksum,
    /// A request that is sent again is carried out again.
    NoReplyCache,
    /// Reads are answered whether the read lease is held or not.
    StaleRead,
    /// Damage in the middle of the operation log is taken for its end.
    TruncatedLog,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoDirectorySync,
        Self::AcknowledgeBeforeSync,
        Self::NoVersionBump,
        Self::DeleteUnknown,
        Self::SkippedChecksum,
        Self::NoReplyCache,
        Self::StaleRead,
        Self::TruncatedLog,
    ];
}

/// True if this process has that bug.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_on(_: Mutant) -> bool {
    false
}

/// True if this process has that bug.
///
/// # Panics
/// If `GFS_MUTANT` names none: a misspelt bug must not pass for one that was not noticed.
#[cfg(feature = "mutants")]
pub fn is_on(mutant: Mutant) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
    let named = |name: String| {
        let found = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
        found.unwrap_or_else(|| panic!("GFS_MUTANT={name}: there is no such mutant"))
    };
    *CHOSEN.get_or_init(|| std::env::var("GFS_MUTANT").ok().map(named)) == Some(mutant)
}

/// True if this process has the deliberate bug of that name; see [`mutant`](crate::mutant).
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutant::is_on($crate::mutant::Mutant::$name)
    };
}
