//! The clients' sessions: who is here, when heard of last, what is being asked of them.
//!
//! That a session exists is logged; the rest is volatile. After a restart every logged session is
//! *expected back*: it counts as heard of at the start and may resume until it expires.

pub mod callbacks;
pub mod lifecycle;

use crate::gate::Gate;
use callbacks::Callbacks;
use gfs_master_core::SessionRecord;
use gfs_proto::ids::SessionId;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A client's session.
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Names it on its streams.
    pub secret: [u8; 16],
    /// Host and purpose, for people.
    pub name: String,
    /// What is asked of the client.
    pub callbacks: Callbacks,
    /// Opens when the session has ended: its streams end too.
    pub ended: Gate,
    since: Instant,
    state: Mutex<State>,
    /// The client has opened or resumed it at this master.
    attached: AtomicBool,
}

struct State {
    heard: Instant,
    address: String,
}

/// All sessions.
pub struct Sessions {
    table: RwLock<HashMap<SessionId, Arc<Session>>>,
    /// Told when a session that may have been expected is back, or has ended.
    pub settled: Notify,
}

impl Session {
    fn new(record: SessionRecord, now: Instant) -> Self {
        Self {
            id: record.session,
            secret: record.secret,
            name: record.name,
            callbacks: Callbacks::default(),
            ended: Gate::new(),
            since: now,
            state: Mutex::new(State { heard: now, address: String::new() }),
            attached: AtomicBool::new(false),
        }
    }

    /// The client gave a sign of life.
    pub fn heard(&self, now: Instant) {
        self.state.lock().heard = now;
    }

    /// The client is at this master, calling from there.
    pub fn attach(&self, address: Option<String>, now: Instant) {
        let mut state = self.state.lock();
        state.heard = now;
        if let Some(address) = address {
            state.address = address;
        }
        self.attached.store(true, Ordering::Release);
    }

    /// It was opened or resumed at this master, which knows what it has open.
    pub fn is_back(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    /// Time since the last sign of life.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state.lock().heard)
    }

    /// Time since it was opened, or since this master started.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Where the client calls from; empty before it attached.
    pub fn address(&self) -> String {
        self.state.lock().address.clone()
    }
}

impl Sessions {
    /// With the sessions that the log knows, all expected back.
    pub fn new(records: Vec<SessionRecord>, now: Instant) -> Self {
        let table = records.into_iter().map(|r| (r.session, Arc::new(Session::new(r, now)))).collect();
        Self { table: RwLock::new(table), settled: Notify::new() }
    }

    /// A session was opened and logged.
    pub fn add(&self, record: SessionRecord, now: Instant) -> Arc<Session> {
        let session = Arc::new(Session::new(record, now));
        session.attached.store(true, Ordering::Release);
        self.table.write().insert(session.id, session.clone());
        session
    }

    /// The session of that number and secret.
    pub fn find(&self, id: SessionId, secret: &[u8]) -> Option<Arc<Session>> {
        self.table.read().get(&id).filter(|session| session.secret == *secret).cloned()
    }

    /// The session of that number.
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.table.read().get(&id).cloned()
    }

    /// Takes the session out: from now on it is unknown.
    pub fn remove(&self, id: SessionId) -> Option<Arc<Session>> {
        let session = self.table.write().remove(&id)?;
        session.ended.open();
        session.callbacks.close();
        Some(session)
    }

    /// Sessions that were not heard of for `expiry`.
    pub fn expired(&self, expiry: Duration, now: Instant) -> Vec<SessionId> {
        self.table.read().values().filter(|session| session.idle(now) >= expiry).map(|session| session.id).collect()
    }

    /// This master did not run until now, so it heard of nobody: nobody's silence counts. What clients have said
    /// meanwhile, or could not say, is still on its way.
    pub fn forgive(&self, now: Instant) {
        self.table.read().values().for_each(|session| session.heard(now));
    }

    /// Sessions of before this master's start that have not come back: nobody knows what they have open.
    pub fn expected(&self) -> Vec<SessionId> {
        let away = |session: &&Arc<Session>| !session.attached.load(Ordering::Acquire);
        self.table.read().values().filter(away).map(|session| session.id).collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.table.read().values().cloned().collect()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.table.read().len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64) -> SessionRecord {
        let opened = gfs_proto::time::Timestamp::default();
        SessionRecord { session: SessionId::new(id), secret: [id as u8; 16], name: "test".to_owned(), opened }
    }

    #[test]
    fn logged_sessions_are_expected_back_until_they_expire() {
        let (now, expiry) = (Instant::now(), Duration::from_secs(30));
        let sessions = Sessions::new(vec![record(1), record(2)], now);
        sessions.add(record(3), now);
        assert_eq!(sessions.expected().len(), 2);
        sessions.find(SessionId::new(1), &[1; 16]).expect("known").attach(None, now + expiry / 2);
        assert_eq!(sessions.expected(), [SessionId::new(2)]);
        assert!(sessions.find(SessionId::new(1), &[2; 16]).is_none(), "another's secret");
        let mut late = sessions.expired(expiry, now + expiry);
        late.sort_unstable();
        assert_eq!(late, [SessionId::new(2), SessionId::new(3)], "1 was heard of later");
        assert!(sessions.remove(SessionId::new(2)).expect("known").ended.is_open());
        assert!(sessions.expected().is_empty());
    }

    #[test]
    fn a_master_that_did_not_run_has_not_heard_and_blames_nobody() {
        let (now, expiry) = (Instant::now(), Duration::from_secs(30));
        let sessions = Sessions::new(vec![record(1)], now);
        let awake = now + expiry * 2;
        sessions.forgive(awake);
        assert!(sessions.expired(expiry, awake).is_empty());
        assert_eq!(sessions.expired(expiry, awake + expiry), [SessionId::new(1)], "from now on it counts");
    }
}
