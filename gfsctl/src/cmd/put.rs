//! `gfsctl put`: local files into the cluster.

use crate::context::Context;
use crate::failure::usage;
use crate::format::bytes;
use crate::interrupt::unless_interrupted;
use crate::output::{Page, Report};
use crate::progress::Progress;
use crate::remote::{Place, Remote, shown};
use crate::transfer::{Copied, Partials, SharedProgress, partial_name, several, standard, upload};
use anyhow::{Context as _, bail};
use gfs_proto::FsError;
use gfs_proto::attr::{Attr, FileKind, Mode, SetAttr};
use gfs_proto::name::Name;
use serde::Serialize;
use std::fs::{self, FileType, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Copy local files into the cluster
///
/// A file that is there already is replaced when the new one is whole, and until then stays as it was; the new one gets
/// its mode, owner and goal. One with several names, and what is not a file, is written in place.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gfsctl put sea.jpg /photos/      # into a directory\n  gfsctl put -r photos /           # a tree\n  pg_dump base | gfsctl put - /base.sql"
)]
pub(crate) struct Args {
    /// Directories with everything in them
    #[arg(long, short)]
    recursive: bool,
    /// Local files; `-` is standard input
    #[arg(required = true, value_name = "LOCAL")]
    sources: Vec<PathBuf>,
    /// Path in the cluster: a name to give, or a directory to copy into
    #[arg(value_name = "PATH")]
    target: PathBuf,
}

type SharedPartials = Arc<Partials<Place>>;

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let plan = Plan::scan(&args)?;
    let copied = context.with_files(async |remote| plan.execute(remote, &args.target).await).await?;
    Ok(Put { copied, target: shown(&args.target) })
}

/// What there is to copy, found before anything is changed.
struct Plan {
    trees: Vec<Tree>,
    bytes: u64,
}

/// One of the sources with all that is below it: directories before what they contain.
struct Tree {
    source: PathBuf,
    items: Vec<Item>,
}

struct Item {
    /// Below the source; empty for the source itself.
    below: PathBuf,
    mode: Mode,
    kind: ItemKind,
}

enum ItemKind {
    Directory,
    File,
    Link(Vec<u8>),
}

impl Plan {
    fn scan(args: &Args) -> anyhow::Result<Self> {
        let mut plan = Self { trees: Vec::with_capacity(args.sources.len()), bytes: 0 };
        for source in &args.sources {
            let mut items = Vec::new();
            if is_stdin(source) {
                items.push(Item { below: PathBuf::new(), mode: Mode::new(0o644), kind: ItemKind::File });
            } else {
                let found = fs::metadata(source).with_context(|| shown(source))?;
                if found.is_dir() && !args.recursive {
                    return Err(usage(format!("{} is a directory; --recursive copies it", shown(source))));
                }
                plan.walk(source, Path::new(""), &found, &mut items)?;
            }
            plan.trees.push(Tree { source: source.clone(), items });
        }
        Ok(plan)
    }

    fn walk(&mut self, root: &Path, below: &Path, found: &Metadata, items: &mut Vec<Item>) -> anyhow::Result<()> {
        let path = joined(root, below);
        let kind = if found.is_dir() {
            ItemKind::Directory
        } else if found.is_symlink() {
            ItemKind::Link(fs::read_link(&path).with_context(|| shown(&path))?.into_os_string().into_vec())
        } else if is_special(found.file_type()) && !below.as_os_str().is_empty() {
            bail!("{} is neither file, directory nor symbolic link", shown(&path));
        } else {
            self.bytes += found.len();
            ItemKind::File
        };
        items.push(Item { below: below.to_owned(), mode: Mode::new(found.mode() & 0o777), kind });
        if found.is_dir() {
            for entry in fs::read_dir(&path).with_context(|| shown(&path))? {
                let entry = entry.with_context(|| shown(&path))?;
                let found = entry.metadata().with_context(|| shown(&entry.path()))?;
                self.walk(root, &below.join(entry.file_name()), &found, items)?;
            }
        }
        Ok(())
    }

    async fn execute(&self, remote: &Remote, target: &Path) -> anyhow::Result<Copied> {
        if self.trees.len() > 1 && remote.resolve(target).await?.attr.kind != FileKind::Directory {
            return Err(usage(format!("{} is not a directory, so it cannot take several files", shown(target))));
        }
        let progress: SharedProgress = Arc::new(Progress::new(self.bytes));
        let (mut copied, partials) = (Copied::default(), SharedPartials::default());
        let all = async {
            for tree in &self.trees {
                tree.copy(remote, target, (&progress, &partials), &mut copied).await?;
            }
            Ok(())
        };
        let outcome = unless_interrupted(all).await;
        for partial in partials.take() {
            let _ = remote.unlink(&partial).await; // it may never have been made
        }
        outcome?;
        let (bytes, elapsed) = progress.finish();
        copied.bytes = bytes;
        copied.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Ok(copied)
    }
}

impl Tree {
    async fn copy(
        &self,
        remote: &Remote,
        target: &Path,
        (progress, partials): (&SharedProgress, &SharedPartials),
        copied: &mut Copied,
    ) -> anyhow::Result<()> {
        let named = if is_stdin(&self.source) { Ok(self.source.clone()) } else { named(&self.source) }?;
        let top = remote.destination(target, &named).await?;
        let mut directories = std::collections::HashMap::new();
        let mut files = Vec::new();
        for item in &self.items {
            let place = match item.below.parent() {
                None => top.clone(),
                Some(parent) => {
                    let (inode, path): &(_, PathBuf) =
                        directories.get(parent).context("a directory comes before what it contains")?;
                    let name = item.below.file_name().unwrap_or_default();
                    let name = Name::new(name.as_bytes()).with_context(|| shown(&item.below))?;
                    Place::within(*inode, name, path)
                }
            };
            match &item.kind {
                ItemKind::Directory => {
                    let made = remote.make_directory(&place, item.mode, true).await?;
                    directories.insert(item.below.clone(), (made.attr.inode, place.path));
                    copied.directories += 1;
                }
                ItemKind::Link(link) => {
                    link_to(remote, &place, link).await?;
                    copied.links += 1;
                }
                ItemKind::File => files.push((joined(&self.source, &item.below), place, item.mode)),
            }
        }
        copied.files += files.len() as u64;
        several(files, |(local, place, mode)| {
            let (remote, progress, partials) = (remote.clone(), Arc::clone(progress), Arc::clone(partials));
            async move { one_file(&remote, &local, (&place, mode), &progress, &partials).await }
        })
        .await
    }
}

/// The bytes go to a file beside the target, which takes its name when it is whole.
async fn one_file(
    remote: &Remote,
    local: &Path,
    (place, mode): (&Place, Mode),
    progress: &Progress,
    partials: &Partials<Place>,
) -> anyhow::Result<()> {
    let former = remote.lookup(place).await?.map(|entry| entry.attr);
    if former.as_ref().is_some_and(|attr| attr.kind != FileKind::File || attr.nlink > 1) {
        return bytes_into(remote, local, (place, mode), progress).await;
    }
    let name = Name::new(&partial_name(place.name.as_bytes())).with_context(|| shown(&place.path))?;
    let partial = Place { parent: place.parent, name, path: place.path.clone() };
    partials.begun(partial.clone());
    bytes_into(remote, local, (&partial, former.as_ref().map_or(mode, |attr| attr.mode)), progress).await?;
    if let Some(former) = &former {
        like(remote, &partial, former).await?;
    }
    remote.replace(&partial, place).await?;
    partials.whole(&partial);
    Ok(())
}

/// Gives a file the owner and the goal of the one that it replaces.
async fn like(remote: &Remote, place: &Place, former: &Attr) -> anyhow::Result<()> {
    let Some(made) = remote.lookup(place).await?.map(|entry| entry.attr) else {
        bail!("{}: somebody has removed what was being written", shown(&place.path));
    };
    if made.goal != former.goal {
        let set = remote.client().set_goal(remote.caller(), made.inode, former.goal).await;
        set.with_context(|| shown(&place.path))?;
    }
    if remote.caller().uid == 0 && (made.uid, made.gid) != (former.uid, former.gid) {
        // the mode again: a change of the owner takes set-user-id away
        let (mode, uid, gid) = (Some(former.mode), Some(former.uid), Some(former.gid));
        let owner = SetAttr { uid, gid, ..SetAttr::default() };
        for changes in [owner, SetAttr { mode, ..SetAttr::default() }] {
            let set = remote.client().setattr(remote.caller(), made.inode, changes, None).await;
            set.with_context(|| shown(&place.path))?;
        }
    }
    Ok(())
}

async fn bytes_into(
    remote: &Remote,
    local: &Path,
    (place, mode): (&Place, Mode),
    progress: &Progress,
) -> anyhow::Result<()> {
    if is_stdin(local) {
        return upload(remote, &mut standard(std::io::stdin())?, place, mode, progress).await;
    }
    let mut file = tokio::fs::File::open(local).await.with_context(|| shown(local))?;
    upload(remote, &mut file, place, mode, progress).await
}

/// A symbolic link that is there already is replaced if it leads elsewhere.
async fn link_to(remote: &Remote, place: &Place, target: &[u8]) -> anyhow::Result<()> {
    if let Some(found) = remote.lookup(place).await? {
        if found.attr.kind != FileKind::Symlink {
            return Err(FsError::Exists).with_context(|| shown(&place.path));
        }
        remote.unlink(place).await?;
    }
    remote.make_link(place, target).await.map(drop)
}

/// `.` and `..` have names too.
fn named(source: &Path) -> anyhow::Result<PathBuf> {
    if source.file_name().is_some() {
        return Ok(source.to_owned());
    }
    source.canonicalize().with_context(|| shown(source))
}

fn joined(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn is_special(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
}

#[derive(Serialize)]
struct Put {
    target: String,
    #[serde(flatten)]
    copied: Copied,
}

impl Report for Put {
    fn human(&self, page: &mut Page) {
        if self.copied.directories > 0 {
            page.line(format!(
                "{}: {} files, {} directories, {} symbolic links, {}",
                self.target,
                self.copied.files,
                self.copied.directories,
                self.copied.links,
                bytes(self.copied.bytes)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(sources: &[&Path], recursive: bool) -> Args {
        Args { recursive, sources: sources.iter().map(|it| (*it).to_owned()).collect(), target: "/x".into() }
    }

    #[test]
    fn directories_come_before_what_they_contain() {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("made");
        fs::write(dir.path().join("a/b/c"), b"12345").expect("written");
        std::os::unix::fs::symlink("b/c", dir.path().join("a/l")).expect("linked");
        let plan = Plan::scan(&args(&[dir.path()], true)).expect("scanned");
        let seen: Vec<_> = plan.trees[0].items.iter().map(|it| it.below.clone()).collect();
        let at = |path: &str| seen.iter().position(|it| it == Path::new(path)).expect(path);
        assert!(at("") < at("a") && at("a") < at("a/b") && at("a/b") < at("a/b/c"));
        assert_eq!((plan.bytes, seen.len()), (5, 5));
        assert!(matches!(&plan.trees[0].items[at("a/l")].kind, ItemKind::Link(to) if to == b"b/c"));
    }

    #[test]
    fn a_directory_needs_a_word_and_a_missing_file_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let error = Plan::scan(&args(&[dir.path()], false)).err().expect("refused");
        assert_eq!(crate::failure::exit_status(&error), 2);
        let error = Plan::scan(&args(&[&dir.path().join("none")], true)).err().expect("refused");
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }
}
