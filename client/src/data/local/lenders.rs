//! The servers that lend, each with the connection on which it is asked. One that does not answer keeps those who
//! ask it waiting, and nobody else.

use super::closer::Closer;
use super::lender::{LendError, Lender};
use super::loan::Loan;
use crate::data::connection::{Introduction, LinkError};
use gfs_proto::chunk::{Replica, ServerAddress};
use gfs_proto::frame::Lend;
use gfs_proto::ids::ServerId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Bound on asking, connecting included.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Nothing is asked for while so many descriptors wait to be closed: they count as open files of the process.
const BACKLOG_MAX: usize = 64;

/// See the module.
pub(in crate::data) struct Lenders {
    us: Introduction,
    closer: Closer,
    slots: Mutex<HashMap<ServerId, Arc<Slot>>>,
}

/// The connection to one server and where that was; locked while it is made.
type Slot = tokio::sync::Mutex<Option<(ServerAddress, Arc<Lender>)>>;

impl Lenders {
    pub(in crate::data) fn new(us: Introduction, closer: Closer) -> Self {
        Self { us, closer, slots: Mutex::default() }
    }

    /// Asks a server for the descriptor of its replica. A connection that failed, or on which an answer was given up,
    /// is not used for asking again; what was lent by it stays good as long as it lives.
    pub(in crate::data) async fn ask(&self, lend: Lend, replica: &Replica) -> Result<Loan, LendError> {
        if self.closer.backlog() >= BACKLOG_MAX {
            return Err(LendError::Behind);
        }
        let deadline = Instant::now() + ASK_TIMEOUT;
        let slot = self.slots.lock().entry(replica.server).or_default().clone();
        let lender = timeout_at(deadline, self.lender(&slot, replica)).await.unwrap_or(Err(LinkError::TimedOut))?;
        let asked = timeout_at(deadline, lender.ask(lend)).await.unwrap_or(Err(LinkError::TimedOut.into()));
        if matches!(asked, Err(LendError::Link(_))) {
            slot.lock().await.take_if(|(_, known)| Arc::ptr_eq(known, &lender));
        }
        asked
    }

    /// The connection to a server, made if there is none that lives.
    async fn lender(&self, slot: &Slot, replica: &Replica) -> Result<Arc<Lender>, LinkError> {
        let mut slot = slot.lock().await;
        if let Some((address, lender)) = &*slot
            && *address == replica.address
            && lender.is_connected()
        {
            return Ok(lender.clone());
        }
        let path = replica.address.unix.as_deref().ok_or(LinkError::Unreachable)?;
        let lender = Lender::dial(replica.server, path, &self.us, &self.closer).await?;
        *slot = Some((replica.address.clone(), lender.clone()));
        Ok(lender)
    }
}
