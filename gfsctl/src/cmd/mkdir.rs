//! `gfsctl mkdir`: new directories.

use crate::context::Context;
use crate::output::{Done, Report};
use crate::remote::{Place, Remote};
use gfs_proto::attr::Mode;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Make directories
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl mkdir -p /photos/2025/sea")]
pub(crate) struct Args {
    /// Those above it too, and no error if it exists
    #[arg(long, short)]
    parents: bool,
    /// Permission bits in octal [default: 777 without the umask]
    #[arg(long, short, value_parser = octal)]
    mode: Option<Mode>,
    /// Paths in the cluster
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let mode = args.mode.unwrap_or_else(without_umask);
    context
        .with_files(async |remote| {
            for path in &args.paths {
                if args.parents {
                    with_parents(remote, path, mode).await?;
                } else {
                    let place = remote.place(path).await?;
                    remote.make_directory(&place, mode, false).await?;
                }
            }
            Ok(())
        })
        .await?;
    Ok(Done::new())
}

async fn with_parents(remote: &Remote, path: &Path, mode: Mode) -> anyhow::Result<()> {
    let mut parent = InodeId::ROOT;
    let mut so_far = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                let place = Place::within(parent, Name::new(name.as_bytes())?, &so_far);
                so_far.push(name);
                parent = remote.make_directory(&place, mode, true).await?.attr.inode;
            }
            Component::ParentDir => {
                so_far.push("..");
                parent = remote.resolve(&so_far).await?.attr.inode;
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}

fn octal(text: &str) -> Result<Mode, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(Mode::new(bits)),
        _ => Err("permission bits are octal, up to 7777".to_owned()),
    }
}

/// The umask can only be read by setting it; nothing is created by this process in between.
fn without_umask() -> Mode {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    Mode::new(0o777 & !umask.as_raw_mode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("1755"), Ok(Mode::new(0o1755)));
        for bad in ["", "8", "10000", "rwx", "-1"] {
            assert!(octal(bad).is_err(), "{bad}");
        }
    }
}
