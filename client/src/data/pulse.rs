//! Telling a server that hangs from one that is busy.
//!
//! Whoever waits for an answer asks, when it is late, for a sign of life on a connection that carries
//! nothing else: a server that runs gives it at once, whatever its disks and its other connections do. One
//! that does not is given up, with all its connections; a full disk queue, a long flush or a slow chain is
//! waited for as long as before.

use super::connection::{LinkError, Request};
use super::servers::{PULSE_LANE, Server, Servers};
use crate::retry;
use futures_util::future::join_all;
use gfs_proto::chunk::Replica;
use gfs_proto::frame::Kind;
use gfs_proto::limits::{ANSWER_LATE, PULSE};
use std::sync::Arc;
use tokio::time::{Instant, timeout};

const PING: Request<'_> = Request { kind: Kind::Ping, header: &[], sums: &[], payload: &[] };

/// The last time that somebody asked.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Asked {
    ended: Option<Instant>,
    alive: bool,
}

impl Servers {
    /// Runs `work`, which waits for servers, and looks after those that it still `awaits` while it takes long. `Err`:
    /// these give no sign of life.
    pub(super) async fn attend<'a, T>(
        &self,
        awaits: impl Fn() -> Vec<&'a Replica>,
        work: impl Future<Output = T>,
    ) -> Result<T, Vec<&'a Replica>> {
        let watch = async {
            loop {
                retry::wait(ANSWER_LATE).await;
                let silent = self.silent_of(awaits()).await;
                if !silent.is_empty() {
                    return silent;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            silent = watch => Err(silent),
        }
    }

    async fn silent_of<'a>(&self, replicas: Vec<&'a Replica>) -> Vec<&'a Replica> {
        let asked = replicas.iter().map(async |replica| self.is_silent(&self.get(replica)).await);
        let silent = join_all(asked).await;
        replicas.into_iter().zip(silent).filter_map(|(replica, silent)| silent.then_some(replica)).collect()
    }

    /// Looks, behind whoever goes on, whether a server that was too slow hangs.
    pub(super) fn look_after(self: &Arc<Self>, replica: &Replica) {
        let (servers, server) = (self.clone(), self.get(replica));
        if server.pulse.try_lock().is_ok() {
            self.runtime.spawn(async move { servers.is_silent(&server).await });
        }
    }

    /// True if the server gives no sign of life; then it is given up. Those who ask at the same time share one
    /// question.
    async fn is_silent(&self, server: &Server) -> bool {
        let began = Instant::now();
        let mut asked = server.pulse.lock().await;
        if asked.ended.is_some_and(|ended| ended >= began) {
            return !asked.alive;
        }
        let answer = async { server.connection(self, PULSE_LANE).await?.ask(PING, 0).await };
        let answer = timeout(PULSE, answer).await.unwrap_or(Err(LinkError::Silent));
        *asked = Asked { ended: Some(Instant::now()), alive: answer.is_ok() };
        if let Err(error) = answer {
            tracing::warn!(server = %server.id, address = %server.address.tcp, %error,
                "a chunkserver gives no sign of life, its connections are given up");
            server.give_up();
        }
        !asked.alive
    }
}
