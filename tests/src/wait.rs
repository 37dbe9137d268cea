//! Waiting for a condition under a deadline: the only place that pauses.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Looks again and again until `condition` holds. `what` completes "it did not become true that …".
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let end = Instant::now() + deadline;
    loop {
        let last = condition();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            match last {
                Err(error) => {
                    return Err(error.context(format!("within {deadline:?} it did not become true that {what}")));
                }
                Ok(_) => bail!("within {deadline:?} it did not become true that {what}"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_named_with_its_last_error() {
        let mut looks = 0;
        let found = until("it is the third look", Duration::from_secs(10), || {
            looks += 1;
            Ok(looks == 3)
        });
        assert!(found.is_ok() && looks == 3);
        let error = until("pigs fly", Duration::ZERO, || bail!("no wings")).expect_err("never");
        assert_eq!(format!("{error:#}"), "within 0ns it did not become true that pigs fly: no wings");
    }
}
