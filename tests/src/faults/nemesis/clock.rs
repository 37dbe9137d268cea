//! Steps of wall clocks: an hour forward, an hour back, or right again, at one process while it runs.

use super::{Field, Strike};
use crate::data::Stream;
use crate::wait::until;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a clock can be wrong by.
const STEPS: [i64; 3] = [3600, -3600, 0];
/// A process looks at its clock's file once a second.
const SEEN: Duration = Duration::from_secs(10);
/// What is right.
const NEAR: Duration = Duration::from_secs(60);

/// The master's. Directories have its time.
pub(super) fn master(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let seconds = step(field, "master", chance)?;
    let probe = field.mounts[2].join("clock");
    until("the master's clock is another", SEEN, || {
        fs::create_dir(&probe)?;
        let modified = modified(&probe);
        fs::remove_dir(&probe)?;
        Ok(is_off_by(modified?, seconds))
    })?;
    Ok(Strike { count: 1, loss: None })
}

/// A chunkserver's. Nobody can see it.
pub(super) fn chunkserver(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let number = usize::try_from(chance.number() >> 33)? % field.servers();
    step(field, &format!("chunkserver-{number}"), chance)?;
    Ok(Strike { count: 1, loss: None })
}

/// That of the mount that is written through. Written files have its time.
pub(super) fn mount(field: &mut Field, chance: &mut Stream) -> Result<Strike> {
    let seconds = step(field, "mount-0", chance)?;
    let probe = field.mounts[0].join("clock-of-mount");
    until("the mount's clock is another", SEEN, || {
        fs::write(&probe, "x")?;
        Ok(is_off_by(modified(&probe)?, seconds))
    })?;
    Ok(Strike { count: 1, loss: None })
}

fn step(field: &Field, name: &str, chance: &mut Stream) -> Result<i64> {
    let seconds = STEPS[usize::try_from(chance.number() >> 33)? % STEPS.len()];
    field.cluster.step_clock(name, seconds)?;
    Ok(seconds)
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).with_context(|| path.display().to_string())
}

/// True if this time is that of a clock that differs by so many seconds from ours.
fn is_off_by(time: SystemTime, seconds: i64) -> bool {
    let now = SystemTime::now();
    let by = Duration::from_secs(seconds.unsigned_abs());
    let right = if seconds < 0 { now - by } else { now + by };
    right.duration_since(time).or_else(|_| time.duration_since(right)).is_ok_and(|apart| apart < NEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_from_another() {
        let now = SystemTime::now();
        assert!(is_off_by(now, 0) && !is_off_by(now, 3600) && !is_off_by(now, -3600));
        assert!(is_off_by(now + Duration::from_secs(3590), 3600));
        assert!(is_off_by(now - Duration::from_secs(3610), -3600));
    }
}
