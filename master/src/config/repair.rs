//! Settings of failure detection, repair and rebalancing.

use super::{COPIES_DEFAULT, COPIES_MAX, ConfigError, Settings, Timings, bytes};
use crate::repair::{Rebalance, RepairSettings};
use gfs_master_core::plan::Limits;
use gfs_proto::limits::{GOAL_MAX, HEARTBEAT, READ_LEASE};
use gfs_proto::units;
use std::time::Duration;

/// A server is not suspected for losing one heartbeat, nor before its read lease has run out.
const SUSPECT_MIN: Duration = READ_LEASE;
const _: () = assert!(SUSPECT_MIN.as_millis() >= 2 * HEARTBEAT.as_millis());

/// Bounds on what is moved.
pub(super) fn settings(filled: &Settings) -> Result<RepairSettings, ConfigError> {
    let copies_per_server = filled.repair_copies.unwrap_or(COPIES_DEFAULT);
    if !(1..=COPIES_MAX).contains(&copies_per_server) {
        return Err(ConfigError::Copies(copies_per_server));
    }
    let limits = Limits {
        rate: rate("repair-rate", text(&filled.repair_rate))?,
        rate_per_server: rate("repair-rate-per-server", text(&filled.repair_rate_per_server))?,
        copies_per_server,
    };
    let copies_min = filled.copies_min.unwrap_or(RepairSettings::default().copies_min);
    if !(1..=GOAL_MAX).contains(&copies_min) {
        return Err(ConfigError::CopiesMin(copies_min));
    }
    let moved = rate("rebalance-rate", text(&filled.rebalance_rate))?;
    let threshold = threshold(text(&filled.rebalance_threshold))?;
    let rebalance = threshold.map(|threshold| Rebalance { threshold, rate: moved.unwrap_or(u64::MAX) });
    Ok(RepairSettings { limits, copies_min, rebalance })
}

/// When servers count as what.
pub(super) fn timings(filled: &Settings) -> Result<Timings, ConfigError> {
    let suspect_after = time("suspect-after", text(&filled.suspect_after))?;
    if suspect_after < SUSPECT_MIN {
        let value = text(&filled.suspect_after).to_owned();
        return Err(ConfigError::Time { setting: "suspect-after", value, advice: "use 2s or more" });
    }
    let lost_after = time("lost-after", text(&filled.lost_after))?;
    if lost_after < suspect_after {
        let value = text(&filled.lost_after).to_owned();
        return Err(ConfigError::Time { setting: "lost-after", value, advice: "use no less than suspect-after" });
    }
    let maintenance = time("maintenance-window", text(&filled.maintenance_window))?;
    let quarantine = time("quarantine-retention", text(&filled.quarantine_retention))?;
    Ok(Timings { suspect_after, lost_after, maintenance, quarantine, ..Timings::default() })
}

fn text(setting: &Option<String>) -> &str {
    setting.as_deref().unwrap_or_default()
}

/// Bytes per second; none: no bound.
fn rate(setting: &'static str, text: &str) -> Result<Option<u64>, ConfigError> {
    if text.trim() == "unlimited" {
        return Ok(None);
    }
    match bytes(setting, text)? {
        0 => Err(ConfigError::Size { setting, value: text.to_owned() }),
        rate => Ok(Some(rate)),
    }
}

/// In 1/10,000; none: off.
fn threshold(text: &str) -> Result<Option<u64>, ConfigError> {
    match text.trim().trim_end_matches('%') {
        "off" => Ok(None),
        percent => match percent.parse::<u64>() {
            Ok(percent) if (1..100).contains(&percent) => Ok(Some(percent * 100)),
            _ => Err(ConfigError::Threshold(text.to_owned())),
        },
    }
}

fn time(setting: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let advice = "use a number with ms, s, m or min, h or d, such as 30s";
    units::time(text).ok_or_else(|| ConfigError::Time { setting, value: text.to_owned(), advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::default().with_defaults();
        change(&mut settings);
        settings
    }

    #[test]
    fn defaults_are_those_that_are_documented() {
        let filled = with(|_| {});
        let (settings, timings) = (settings(&filled).expect("valid"), timings(&filled).expect("valid"));
        assert_eq!(settings.limits, RepairSettings::default().limits);
        assert_eq!(settings.rebalance, RepairSettings::default().rebalance);
        assert_eq!(settings.copies_min, 2);
        let known = Timings::default();
        assert_eq!(
            (timings.suspect_after, timings.lost_after, timings.maintenance, timings.quarantine),
            (known.suspect_after, known.lost_after, known.maintenance, known.quarantine)
        );
    }

    #[test]
    fn times_rates_and_thresholds_have_units() {
        for (text, millis) in
            [("100ms", 100), ("30s", 30_000), ("10 min", 600_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(time("x", text).expect(text), Duration::from_millis(millis));
        }
        for bad in ["", "s", "5", "1.5s", "-1s", "99999999999999999999s"] {
            assert!(time("x", bad).is_err(), "{bad}");
        }
        let filled = with(|settings| {
            settings.repair_rate = Some("1GiB".into());
            settings.repair_rate_per_server = Some("unlimited".into());
            settings.rebalance_threshold = Some("5%".into());
        });
        let parsed = settings(&filled).expect("valid");
        assert_eq!((parsed.limits.rate, parsed.limits.rate_per_server), (Some(1 << 30), None));
        assert_eq!(parsed.rebalance.map(|rebalance| rebalance.threshold), Some(500));
        let off = settings(&with(|settings| settings.rebalance_threshold = Some("off".into()))).expect("valid");
        assert_eq!(off.rebalance, None);
    }
}
