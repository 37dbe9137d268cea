//! `gfsctl local`: a cluster on this machine.

use crate::context::Context;
use crate::local::{self, Wishes};
use crate::output::Report;
use clap::Subcommand;
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::GOAL_MAX;
use gfs_proto::units;
use std::path::PathBuf;
use std::time::Duration;

/// Start, stop and look at a cluster on this machine
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gfsctl local up ~/gfs --mount /mnt/gfs\n  gfsctl local status ~/gfs\n  gfsctl local down ~/gfs            # the data stays\n  gfsctl local up ~/gfs              # as it was"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Start the cluster in DIR, a new one if there is none; what runs already is left alone
    Up(Up),
    /// Stop it: the mount is flushed first, the data stays
    Down(Which),
    /// Show what runs, where it listens, and where its logs are; exit status 1 if anything is down
    Status(Where),
    /// Stop it and start it again as it was
    Restart(Which),
}

#[derive(clap::Args, Debug)]
struct Where {
    /// Directory of the cluster
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(clap::Args, Debug)]
struct Which {
    #[command(flatten)]
    place: Where,
    /// Seconds until a process that does not end is killed, or one that does not start is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

#[derive(clap::Args, Debug)]
struct Up {
    #[command(flatten)]
    place: Where,
    /// Mount it there too; made if it is missing
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
    /// How many chunkservers [default: 3, or as many as there were]
    #[arg(long, value_name = "COUNT")]
    chunkservers: Option<usize>,
    /// Chunk size of a new cluster, 64KiB to 256MiB [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size)]
    chunk_size: Option<String>,
    /// Copies of each chunk in a new cluster [default: 3]
    #[arg(long, value_name = "COPIES", value_parser = clap::value_parser!(u8).range(1..=i64::from(GOAL_MAX)))]
    goal: Option<u8>,
    /// Port of the master [default: 9400 or the next free one; then as it was]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Seconds until it must be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

/// As it is given to the master, which says the same.
fn chunk_size(text: &str) -> Result<String, String> {
    let found = units::bytes(text).and_then(|bytes| ChunkSize::new(u32::try_from(bytes).ok()?));
    found.map(|_| text.to_owned()).ok_or_else(|| "use a power of two from 64KiB to 256MiB".to_owned())
}

pub(crate) async fn run(_: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    match args.action {
        Action::Up(up) => {
            let wishes = Wishes {
                mount: up.mount,
                chunkservers: up.chunkservers,
                chunk_size: up.chunk_size,
                goal: up.goal,
                port: up.port,
            };
            local::up(&up.place.directory, &wishes, Duration::from_secs(up.timeout)).await
        }
        Action::Down(which) => local::down(&which.place.directory, Duration::from_secs(which.timeout)).await,
        Action::Restart(which) => local::restart(&which.place.directory, Duration::from_secs(which.timeout)).await,
        Action::Status(place) => local::status(&place.directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_size_that_cannot_be_is_refused_before_anything_is_made() {
        assert_eq!(chunk_size("1MiB"), Ok("1MiB".to_owned()));
        for bad in ["65M", "5", "512MiB", "much", ""] {
            assert!(chunk_size(bad).is_err(), "{bad}");
        }
    }
}
