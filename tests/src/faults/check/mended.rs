//! Damage that was done to replicas is found by one scrub, mended from the other copies, and a second scrub finds nothing.

use super::{Findings, Invariant};
use crate::cluster::Cluster;
use crate::wait::until;
use anyhow::{Context, Result};
use std::time::Duration;

/// Bound on mending what was found.
const MENDED: Duration = Duration::from_secs(60);

/// Has all chunkservers read all their replicas, twice. All must be up, and nobody may write.
pub fn check(cluster: &Cluster) -> Result<Findings> {
    let mut findings = Findings::default();
    scrub(cluster)?;
    let healed = until("no replica is called damaged any more", MENDED, || {
        let chunks = cluster.gfsctl_json(&["status"])?["chunks"].take();
        Ok(chunks["damaged_replicas"] == 0 && chunks["incurable"] == 0)
    });
    if let Err(error) = healed {
        findings.wrong(Invariant::ReplicasEqual, format!("damage stays: {error:#}"));
    }
    let again = scrub(cluster)?;
    if again > 0 {
        findings.wrong(Invariant::ReplicasEqual, format!("a second scrub finds {again} replicas damaged"));
    }
    findings.looked(Invariant::ReplicasEqual, 1);
    Ok(findings)
}

/// Replicas that it found damaged.
fn scrub(cluster: &Cluster) -> Result<u64> {
    let scrubbed = cluster.gfsctl_json(&["scrub"])?;
    let servers = scrubbed["servers"].as_array().context("no list of servers")?;
    servers.iter().map(|server| server["damaged"].as_u64().context("no number of damaged replicas")).sum()
}

/// What all chunkservers together have found damaged, and what of it was mended, since they were started.
pub fn counts(cluster: &Cluster) -> Result<(u64, u64)> {
    let servers = cluster.gfsctl_json(&["chunkservers"])?;
    let all = servers["chunkservers"].as_array().context("no list of chunkservers")?;
    let sum = |key: &str| all.iter().map(|server| server["scrub"][key].as_u64().unwrap_or(0)).sum();
    Ok((sum("damaged"), sum("mended")))
}
