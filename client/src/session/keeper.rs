//! Keeps a session's connection: reads replies, sends keep-alives, connects again.
//!
//! ```text
//!   attached --stream ends--> down --resumed--> attached
//!                              | refused: expired
//!                              v
//!                             lost --new session--> attached
//! ```

use super::link::{self, Link, LinkError, Masters, Wanted};
use super::requests::Outgoing;
use super::silence::{Beats, Heard};
use super::{Caller, Current, FsError, Identity, Session, batch, callbacks};
use crate::config::ConnectError;
use gfs_proto::ops::{Batch, BatchReply, KeepAlive};
use gfs_proto::wire::{self, client_message, server_message};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

/// Between rounds of attempts to reach a master.
const ROUND_PAUSE_FIRST: Duration = Duration::from_millis(10);
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(1);
/// For the master to confirm that it closed the session, at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl LinkError {
    pub(super) fn for_people(self, address: &str) -> ConnectError {
        let address = address.to_owned();
        match self {
            Self::Unreachable(cause) => ConnectError::Unreachable { address, cause },
            Self::Refused(cause) => ConnectError::Refused { address, cause },
            Self::Expired => ConnectError::Refused { address, cause: FsError::SessionExpired.to_string() },
        }
    }
}

/// A link to the first master that will have us. An expired session is expired everywhere.
pub(super) async fn first_of(masters: &Masters, wanted: &Wanted<'_>) -> Result<Link, LinkError> {
    let mut worst = LinkError::Unreachable("no address is known".to_owned());
    for endpoint in &masters.endpoints {
        match link::establish(&*masters.dial, endpoint, wanted).await {
            Ok(link) => return Ok(link),
            Err(LinkError::Expired) => return Err(LinkError::Expired),
            Err(error) => {
                debug!(address = endpoint.0, ?error, "no session with this master");
                worst = error;
            }
        }
    }
    Err(worst)
}

/// Runs until the session is closed or nobody holds it any more.
pub(super) async fn keep(session: Weak<Session>, masters: Masters, mut link: Link, mut stopped: watch::Receiver<bool>) {
    loop {
        let callbacks = tokio::spawn(callbacks::serve(session.clone(), link.channel.clone(), link.identity.clone()));
        let end = read(&session, &mut link).await;
        callbacks.abort();
        let Some(session) = session.upgrade() else { return };
        session.requests.lock().link_down();
        let Link { address, identity, .. } = link; // the connection ends before there is another
        match end {
            End::Closed => {
                session.stopped.send_replace(true);
                return;
            }
            End::Unused => return,
            End::Lost(cause) => info!(address, cause, "connection to the master lost"),
        }
        let lost = std::time::Instant::now();
        tokio::select! {
            biased;
            next = again(&session, &masters, (identity, lost)) => match next {
                Some(next) => link = next,
                None => return,
            },
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Why reading ended.
enum End {
    /// We closed the session.
    Closed,
    /// Nobody uses the session any more.
    Unused,
    /// The peer is gone, or is no leader.
    Lost(String),
}

/// Reads replies, on this task, and wakes whoever waits for them.
async fn read(session: &Weak<Session>, link: &mut Link) -> End {
    let period = link.identity.keep_alive;
    let mut beat = tokio::time::interval_at(Instant::now() + period, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut beats) = (Instant::now(), Beats::default());
    loop {
        let message = tokio::select! {
            biased;
            message = link.replies.next() => message,
            _ = beat.tick() => {
                let Some(session) = session.upgrade() else { return End::Unused };
                // heard a moment after a tick: this is true at the third that is not answered
                if heard.elapsed() > period * 2 {
                    return End::Lost("no answer to keep-alives".to_owned());
                }
                let slow = session.hooks().map(|hooks| hooks.slow_servers()).unwrap_or_default();
                let kind = Some(client_message::Kind::KeepAlive((&KeepAlive { slow }).into()));
                let request = beats.next(Instant::now());
                link.sender.send(wire::ClientMessage { request, kind });
                continue;
            }
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return End::Lost("the master closed it".to_owned()),
            Err(error) => return End::Lost(error.to_string()),
        };
        heard = Instant::now();
        let Some(session) = session.upgrade() else { return End::Unused };
        if let Some(server_message::Kind::KeptAlive(_)) = &message.kind
            && let Some(sent) = beats.acknowledged(message.request)
        {
            session.heard.send_replace(Heard { session: link.identity.session, sent });
        }
        if let Some(end) = take(&session, message) {
            return end;
        }
    }
}

/// One message of the master; `Some` if it is the last.
fn take(session: &Arc<Session>, message: wire::ServerMessage) -> Option<End> {
    match message.kind {
        Some(server_message::Kind::Reply(reply)) => {
            let outcome = BatchReply::try_from(reply).map_err(|error| {
                warn!(%error, "a reply of the master makes no sense");
                FsError::Protocol
            });
            session.complete(message.request, outcome);
        }
        Some(server_message::Kind::Error(code)) => match FsError::from_code(code) {
            // The request stays and goes out again on the next connection.
            error @ (FsError::NotLeader | FsError::SessionExpired) => return Some(End::Lost(error.to_string())),
            error => session.complete(message.request, Err(error)),
        },
        Some(server_message::Kind::Closed(_)) => return Some(End::Closed),
        Some(server_message::Kind::KeptAlive(_) | server_message::Kind::Attached(_)) | None => {}
    }
    None
}

/// Connects again, for as long as it takes. `None`: nobody uses the session any more.
async fn again(
    session: &Arc<Session>,
    masters: &Masters,
    (identity, lost): (Identity, std::time::Instant),
) -> Option<Link> {
    let mut resume = Some(identity.clone());
    let mut pause = ROUND_PAUSE_FIRST;
    loop {
        let hooks = session.hooks();
        let reclaim = || hooks.as_ref().map(|hooks| hooks.opens()).unwrap_or_default();
        let wanted = Wanted {
            name: &session.config.name,
            cluster: Some(identity.cluster),
            resume: resume.as_ref().map(|identity| (identity, reclaim())),
        };
        let sent = Instant::now();
        match first_of(masters, &wanted).await {
            Ok(link) => {
                let heard = Heard { session: link.identity.session, sent };
                let first = match &resume {
                    Some(before) if before.term != link.identity.term => told_again(session, lost),
                    _ => Vec::new(),
                };
                attached(session, &link, (resume.is_none(), first));
                session.heard.send_replace(heard);
                return Some(link);
            }
            Err(LinkError::Expired) if resume.is_some() => {
                lose(session, &identity);
                resume = None;
            }
            Err(error) => {
                debug!(?error, "no master yet");
                if Arc::strong_count(session) == 1 {
                    return None;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ROUND_PAUSE_MAX);
            }
        }
    }
}

/// What a former leader was told and had not logged.
fn told_again(session: &Arc<Session>, lost: std::time::Instant) -> Vec<Batch> {
    let ops = session.hooks().map(|hooks| hooks.told_before(lost)).unwrap_or_default();
    // One operation a batch: a file that is gone by now must not keep the others from being heard.
    ops.into_iter().map(|op| batch(&Caller::root(), vec![op])).collect()
}

/// The link is good: what is unanswered goes out again.
fn attached(session: &Arc<Session>, link: &Link, (new_session, first): (bool, Vec<Batch>)) {
    *session.current.lock() =
        Current { identity: link.identity.clone(), channel: link.channel.clone(), address: link.address.clone() };
    session.requests.lock().link_up(link.sender.clone(), first);
    info!(address = link.address, session = %link.identity.session, new_session, "attached to the master again");
    if new_session && let Some(hooks) = session.hooks() {
        tokio::spawn(async move { hooks.renewed().await });
    }
}

/// The master does not know the session any more.
fn lose(session: &Arc<Session>, identity: &Identity) {
    warn!(
        session = %identity.session,
        expiry = ?identity.expiry,
        "the session has expired at the master: unwritten data of open files is lost, opening a new session"
    );
    if let Some(hooks) = session.hooks() {
        hooks.lost();
    }
    let told = session.requests.lock().expire();
    told.into_iter().for_each(|completion| session.settle(completion));
}

impl Session {
    /// Asks the master to close the session and waits, for a moment, until it has.
    pub(super) async fn closed(&self) {
        let mut stopped = self.stopped.subscribe();
        if tokio::time::timeout(CLOSE_TIMEOUT, stopped.wait_for(|stopped| *stopped)).await.is_err() {
            warn!("the master did not confirm the end of the session; it will expire");
        }
        self.stopped.send_replace(true);
    }
}
