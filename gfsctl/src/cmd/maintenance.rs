//! `gfsctl maintenance`: a chunkserver will be away for a while.

use crate::chunkserver::{self, Duty};
use crate::context::Context;
use crate::format::duration_ms;
use crate::output::{Page, Report};
use gfs_proto::ids::ServerId;
use gfs_proto::units;
use gfs_proto::wire::MaintenanceRequest;
use serde::Serialize;
use std::time::Duration;

/// Do not make copies elsewhere while a chunkserver is away for a while
///
/// Without this, copies are made elsewhere half a minute after a chunkserver has gone silent, or ten minutes
/// after it was stopped in order (settings lost-after and maintenance-window of the master).
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gfsctl maintenance cs3 --for 2h\n  gfsctl maintenance cs3 --end")]
pub(crate) struct Args {
    /// As `gfsctl chunkservers` shows it
    #[arg(value_name = "SERVER", value_parser = chunkserver::parse)]
    server: ServerId,
    /// How long at most: a number with s, m or min, h or d
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "1h", conflicts_with = "end")]
    length: Duration,
    /// It is over
    #[arg(long)]
    end: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let found = units::time(text).filter(|length| !length.is_zero());
    found.ok_or_else(|| format!("{text:?} is no time; use {}", units::TIME_UNITS))
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<impl Report + use<>> {
    let length = if args.end { 0 } else { u64::try_from(args.length.as_millis()).unwrap_or(u64::MAX) };
    let request = MaintenanceRequest { server: args.server.get(), duration_ms: length };
    let reply = context.ask(async |mut admin| admin.maintenance(request).await).await?;
    Ok(Maintained(Duty::from(reply.server.unwrap_or_default())))
}

#[derive(Serialize)]
#[serde(transparent)]
struct Maintained(Duty);

impl Report for Maintained {
    fn human(&self, page: &mut Page) {
        let server = ServerId::new(self.0.server);
        match self.0.maintenance_ms {
            0 => page.line(format!("{server} is not under maintenance")),
            left => {
                page.line(format!("copies of {server} are not made elsewhere for {}", duration_ms(left)));
                if self.0.last_copies > 0 {
                    let count = self.0.last_copies;
                    page.line(format!("{count} chunks cannot be read while it is away: theirs are the last copies"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, secs) in [("30s", 30), ("10min", 600), ("1m", 60), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(secs)));
        }
        for bad in ["", "2", "h", "0h", "1.5h", "-1h", "2 hours", "99999999999999999999d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
