//! `gfsctl fsck` finds nothing: neither in the metadata nor in what copies there are.

use super::{Findings, Invariant};
use crate::cluster::Cluster;
use anyhow::{Context, Result};
use serde_json::Value;

/// Asks the real program. All copies must be there, and nobody may write.
pub fn check(cluster: &Cluster) -> Result<Findings> {
    let ran = cluster.gfsctl_attempt(&["--json", "fsck"])?;
    let found = serde_json::from_str(&ran.out).with_context(|| format!("gfsctl fsck says {ran:?}"))?;
    judge(&found, ran.status)
}

/// Of what it says, and its exit status.
fn judge(found: &Value, status: i32) -> Result<Findings> {
    let mut findings = Findings::default();
    let listed = found["findings"].as_array().context("no list of findings")?;
    for finding in listed {
        findings.wrong(Invariant::FsckClean, format!("fsck: {}", finding["detail"].as_str().unwrap_or_default()));
    }
    let clean = listed.is_empty() && status == 0;
    if found["clean"] != clean || found["total"].as_u64() < Some(listed.len() as u64) {
        findings.wrong(Invariant::FsckClean, format!("fsck contradicts itself: status {status}, {found}"));
    }
    findings.looked(Invariant::FsckClean, found["chunks"].as_u64().context("no number of chunks")?);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_finding_is_a_violation_and_so_is_a_contradiction() {
        let found = |details: &[&str], clean: bool| {
            let findings: Vec<Value> = details.iter().map(|it| json!({ "detail": it })).collect();
            json!({ "findings": findings, "clean": clean, "total": details.len(), "chunks": 7 })
        };
        let wrong = |found: &Value, status| judge(found, status).expect("an answer").violations.len();
        assert_eq!(wrong(&found(&[], true), 0), 0);
        assert_eq!(wrong(&found(&["a", "b"], false), 1), 2);
        assert_eq!(wrong(&found(&[], true), 1), 1);
        assert_eq!(wrong(&found(&[], false), 0), 1);
        assert_eq!(judge(&found(&[], true), 0).expect("an answer").looked, [(Invariant::FsckClean, 7)]);
        assert!(judge(&json!({ "error": "no master" }), 1).is_err());
    }
}
