//! `gfsctl verify` finds nothing: every replica of every file matches its checksums and the other replicas, and every
//! file can be read as a whole.

use super::{Findings, Invariant};
use crate::cluster::Cluster;
use anyhow::{Context, Result};
use serde_json::Value;

/// Asks the real program. All copies must be there, and nobody may write.
pub fn check(cluster: &Cluster) -> Result<Findings> {
    let ran = cluster.gfsctl_attempt(&["--json", "verify", "/"])?;
    let found = serde_json::from_str(&ran.out).with_context(|| format!("gfsctl verify says {ran:?}"))?;
    judge(&found)
}

/// Of what it says.
fn judge(found: &Value) -> Result<Findings> {
    let mut findings = Findings::default();
    let files = found["files"].as_array().context("no list of files")?;
    for file in files {
        let path = file["path"].as_str().context("a file without a path")?;
        for finding in file["findings"].as_array().context("a file without a list")? {
            findings.wrong(Invariant::ReplicasEqual, format!("verify: {path}: {finding}"));
        }
        if file["sha256"].is_null() {
            findings.wrong(Invariant::ReplicasEqual, format!("verify: {path} cannot be read as a whole"));
        }
    }
    findings.looked(Invariant::ReplicasEqual, files.len() as u64);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_and_what_cannot_be_read_are_violations() {
        let file = |findings: Value, sha256: Value| json!({ "path": "/f", "findings": findings, "sha256": sha256 });
        let wrong = |files: &[Value]| judge(&json!({ "files": files })).expect("an answer").violations.len();
        assert_eq!(wrong(&[file(json!([]), json!("ab"))]), 0);
        assert_eq!(wrong(&[file(json!([{ "what": "differs" }]), json!("ab")), file(json!([]), json!("ab"))]), 1);
        assert_eq!(wrong(&[file(json!([{ "what": "damaged" }]), Value::Null)]), 2);
        assert!(judge(&json!({ "error": "no master" })).is_err());
    }
}
