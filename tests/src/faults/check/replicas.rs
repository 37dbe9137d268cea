//! Replicas of one chunk and version are equal, in the files of the chunkservers themselves.

use super::{Findings, Invariant};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Compares the replicas in these storage directories, until they are equal or for so long. Nobody may write.
pub fn check(directories: &[PathBuf], patience: Duration) -> Result<Findings> {
    let compared = || -> Result<Findings> {
        let all = directories.iter().map(|directory| crate::replicas(directory)).collect::<Result<Vec<_>>>()?;
        Ok(compare(&all))
    };
    let mut findings = compared()?;
    if !findings.violations.is_empty() {
        let _ = crate::wait::until("replicas are equal", patience, || {
            findings = compared()?;
            Ok(findings.violations.is_empty())
        }); // what is left is what is found
    }
    Ok(findings)
}

/// One map for each server: replica to digest.
fn compare(servers: &[BTreeMap<String, String>]) -> Findings {
    let mut chunks: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
    for (server, replicas) in servers.iter().enumerate() {
        for (name, digest) in replicas {
            chunks.entry(name).or_default().push((server, digest));
        }
    }
    let mut findings = Findings::default();
    for (name, replicas) in &chunks {
        if replicas.iter().any(|it| it.1 != replicas[0].1) {
            findings.wrong(Invariant::ReplicasEqual, format!("replicas of {name} differ: {replicas:?}"));
        }
    }
    findings.looked(Invariant::ReplicasEqual, chunks.len() as u64);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_is_seen_and_another_version_is_another_chunk() {
        let server = |all: &[(&str, &str)]| all.iter().map(|it| (it.0.into(), it.1.into())).collect();
        let wrong = |servers: &[BTreeMap<String, String>]| compare(servers).violations.len();
        assert_eq!(wrong(&[server(&[("a.1", "x")]), server(&[("a.1", "x")])]), 0);
        assert_eq!(wrong(&[server(&[("a.1", "x")]), server(&[("a.1", "y")])]), 1);
        assert_eq!(wrong(&[server(&[("a.1", "x")]), server(&[("a.2", "y")])]), 0);
    }
}
