//! `gfsctl verify`: all replicas of files compared with their checksums and with each other.

use crate::compare::{FileReport, Finding, Verifier, What};
use crate::context::Context;
use crate::format;
use crate::output::{Page, Report};
use crate::progress::Progress;
use crate::remote::{Remote, shown};
use crate::transfer::several;
use anyhow::bail;
use gfs_proto::attr::{Attr, FileKind};
use gfs_proto::ids::ServerId;
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Read every copy of a file, or of all files in a tree, and compare it with its checksums and with the other copies
///
/// Prints the SHA-256 of what a reader gets. What is damaged is reported to the master and mended from other copies;
/// say it again to see. A copy that is not to be had is asked for again for ten seconds; one whose server does not answer
/// then is `not checked`. The exit status is 1 if anything was found or not checked.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl verify\n  gfsctl verify /photos --json")]
pub(crate) struct Args {
    /// A file or directory in the cluster
    #[arg(default_value = "/", value_name = "PATH")]
    path: PathBuf,
}

type Reports = Arc<Mutex<Vec<FileReport>>>;

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let admin = context.asker();
    let verified = context.with_files(async |remote| {
        let entry = remote.resolve(&args.path).await?;
        let (reports, progress) = (Reports::default(), Arc::new(Progress::new(0)));
        let verifier = Arc::new(Verifier::new(remote.clone(), admin, Arc::clone(&progress)));
        match entry.attr.kind {
            FileKind::File => files(&verifier, vec![(entry.attr, args.path.clone())], &reports).await?,
            FileKind::Directory => tree(remote, &verifier, (entry.attr, &args.path), &reports).await?,
            other => bail!("{} is a {}, not a file", shown(&args.path), format::kind(other)),
        }
        let (bytes_read, _) = progress.finish();
        let mut files = std::mem::take(&mut *reports.lock().unwrap_or_else(PoisonError::into_inner));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Verified { bytes_read, findings: files.iter().map(|file| file.findings.len() as u64).sum(), files })
    });
    verified.await
}

async fn files(verifier: &Arc<Verifier>, files: Vec<(Attr, PathBuf)>, reports: &Reports) -> anyhow::Result<()> {
    several(files, |(attr, path)| {
        let (verifier, reports) = (Arc::clone(verifier), Arc::clone(reports));
        async move {
            let report = verifier.file(&attr, &shown(&path)).await?;
            reports.lock().unwrap_or_else(PoisonError::into_inner).extend(report);
            Ok(())
        }
    })
    .await
}

/// Directory by directory, so that memory is bounded by the largest of them and by what was found.
async fn tree(
    remote: &Remote,
    verifier: &Arc<Verifier>,
    (top, path): (Attr, &Path),
    reports: &Reports,
) -> anyhow::Result<()> {
    let mut open = vec![(top.inode, path.to_owned())];
    while let Some((directory, path)) = open.pop() {
        let mut found = Vec::new();
        for item in remote.list(directory, &path).await? {
            let path = path.join(OsStr::from_bytes(item.name.as_bytes()));
            match (item.kind, item.entry) {
                (FileKind::Directory, _) => open.push((item.inode, path)),
                (FileKind::File, Some(entry)) => found.push((entry.attr, path)),
                (FileKind::File, None) => found.push((remote.resolve_no_follow(&path).await?.attr, path)),
                _ => {}
            }
        }
        files(verifier, found, reports).await?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Verified {
    files: Vec<FileReport>,
    bytes_read: u64,
    findings: u64,
}

impl Report for Verified {
    fn human(&self, page: &mut Page) {
        for file in &self.files {
            let hash = file.sha256.as_deref().unwrap_or("cannot be read");
            let not_checked = |finding: &Finding| matches!(finding.what, What::NotChecked(_));
            let word = match file.findings.iter().all(not_checked) {
                false => "BAD",
                true if file.findings.is_empty() => "ok",
                true => "?",
            };
            let note = if file.changing { "  (was written meanwhile)" } else { "" };
            page.line(format!("{word:<4} {hash:<64}  {}{note}", page.name(&file.path)));
            for finding in &file.findings {
                let server = finding.server.map_or("-".to_owned(), |server| ServerId::new(server).to_string());
                let Finding { chunk, handle, offset, length, what, .. } = finding;
                let range = if *length == 0 { String::new() } else { format!(" at {offset}, {length} bytes") };
                page.line(format!("       {server}: chunk {chunk} ({handle}){range}: {what}"));
            }
        }
        let bytes = format::bytes(self.bytes_read);
        page.line(format!("{} files, {bytes} of all copies read, {} findings", self.files.len(), self.findings));
    }

    fn exit_status(&self) -> u8 {
        u8::from(self.findings > 0)
    }
}
