//! When the session may have expired at the master without our knowing: its clock and ours agree on
//! nothing but durations, so the session counts as alive for its expiry from when the last sign of life
//! that the master acknowledged was *sent*. After that, and a little before, others may have been let in.
//!
//! ```text
//!   alive --expiry - margin after the last acknowledged sign of life--> silent --acknowledged--> alive
//! ```

use super::Session;
use gfs_proto::ids::SessionId;
use gfs_proto::limits::ATTRIBUTE_TTL;
use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

/// What was given to the kernel lives on for [`ATTRIBUTE_TTL`]; as much again for clocks that differ and
/// for tasks that run late.
const MARGIN: Duration = ATTRIBUTE_TTL.saturating_mul(2);

/// When the last acknowledged sign of life was sent, and in which session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    pub(super) session: SessionId,
    pub(super) sent: Instant,
}

/// Keep-alives of one connection that are not acknowledged yet: no more than it takes to give it up.
#[derive(Default)]
pub(super) struct Beats {
    last: u64,
    sent: VecDeque<(u64, Instant)>,
}

impl Beats {
    /// The number of one that is sent now.
    pub(super) fn next(&mut self, now: Instant) -> u64 {
        self.last += 1;
        self.sent.push_back((self.last, now));
        self.last
    }

    /// When the one that was acknowledged was sent.
    pub(super) fn acknowledged(&mut self, number: u64) -> Option<Instant> {
        while let Some((sent, at)) = self.sent.pop_front() {
            if sent == number {
                return Some(at);
            }
        }
        None
    }
}

/// Tells the hooks of silence and of its end, until the session is gone.
pub(super) async fn watch(session: Weak<Session>, mut heard: watch::Receiver<Heard>, expiry: Duration) {
    let life = expiry - MARGIN.min(expiry / 4);
    loop {
        let last = *heard.borrow_and_update();
        tokio::time::sleep_until(last.sent + life).await;
        let silent = heard.borrow().sent + life <= Instant::now();
        match session.upgrade() {
            None => return,
            Some(session) if silent => session.begin_silence(),
            Some(_) => continue,
        }
        if heard.changed().await.is_err() {
            return;
        }
        let resumed = heard.borrow().session == last.session;
        if let Some(session) = session.upgrade() {
            session.end_silence(resumed);
        }
    }
}

impl Session {
    /// Nobody is known to be alone with anything any more.
    fn begin_silence(&self) {
        self.silent.store(true, Ordering::Release);
        warn!(session = %self.id(), "the master is silent: others may be let in, nothing is answered from memory");
        if let Some(hooks) = self.hooks() {
            hooks.silent();
        }
    }

    /// The master answers again. `resumed`: in the same session, which goes on; a new one begins anew.
    fn end_silence(&self, resumed: bool) {
        self.silent.store(false, Ordering::Release);
        if resumed && let Some(hooks) = self.hooks() {
            tokio::spawn(async move { hooks.heard_again().await });
        }
    }

    /// True while the session may have expired without our knowing.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_counts_from_when_it_was_sent() {
        let (mut beats, start) = (Beats::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let numbers: Vec<u64> = (0..3).map(|secs| beats.next(at(secs))).collect();
        assert_eq!(beats.acknowledged(numbers[1]), Some(at(1)), "the one before it was lost");
        assert_eq!(beats.acknowledged(numbers[2]), Some(at(2)));
        assert_eq!(beats.acknowledged(numbers[0]), None, "too late to matter");
    }
}
