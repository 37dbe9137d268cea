//! Short-circuit reads: replicas on this machine are read from their files, by descriptors that their servers
//! lend, without a word to the server. It says on its board when that may be done; [`loan`] has the rule.
//!
//! A chunk is asked for when it is read by request for the second time: one that is read once, as a small file,
//! is not worth the question. Asking is done beside the read that led to it.

mod board;
mod closer;
mod lender;
mod lenders;
mod loan;

pub(super) use lender::LendError;
pub(super) use loan::{Loan, Miss, Wait};

use super::connection::Introduction;
use super::replicas::Blocks;
use bytes::Bytes;
use closer::Closer;
use gfs_proto::chunk::{ChunkLocation, Replica};
use gfs_proto::frame::{DataError, Lend};
use gfs_proto::ids::{ChunkHandle, ChunkVersion, ServerId};
use lenders::Lenders;
use lru::LruCache;
use parking_lot::Mutex;
use std::mem;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Loans at the same time, at most a quarter of the files that the process may open.
const LOANS_MAX: u64 = 1024;
/// Chunks that are remembered because they were read, or are not lent.
const CANDIDATES_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// A refusal that may pass is believed so long.
const REFUSAL: Duration = Duration::from_secs(1);
/// Loans that nobody reads are looked at so often: a file that was deleted takes room until it is closed.
const TIDY: Duration = Duration::from_secs(5);

/// What was lent to this client.
pub(super) struct Local {
    us: Introduction,
    runtime: Handle,
    table: Mutex<Table>,
    pub(super) lenders: Lenders,
}

struct Table {
    lent: LruCache<ChunkHandle, Arc<Loan>>,
    candidates: LruCache<ChunkHandle, Candidate>,
    /// A task looks after them.
    tidied: bool,
}

/// A chunk that is not lent.
enum Candidate {
    /// Was read by request once.
    Seen,
    Asked,
    /// Not lent in this version, and for how long that is believed.
    Refused {
        version: ChunkVersion,
        until: Option<Instant>,
    },
    /// Data and sums did not match in the file of this server. For a while it is asked for them before others, and not
    /// to lend.
    Doubted {
        version: ChunkVersion,
        server: ServerId,
        until: Instant,
    },
}

impl Local {
    pub(super) fn new(us: Introduction, runtime: Handle) -> Arc<Self> {
        let table =
            Table { lent: LruCache::new(loans_max()), candidates: LruCache::new(CANDIDATES_MAX), tidied: false };
        let lenders = Lenders::new(us.clone(), Closer::new(runtime.clone()));
        Arc::new(Self { us, runtime, table: Mutex::new(table), lenders })
    }

    /// The loan of a chunk, if it is one of the replicas that the master names.
    pub(super) fn loan(&self, location: &ChunkLocation) -> Option<Arc<Loan>> {
        let mut table = self.table.lock();
        let loan = table.lent.get(&location.handle)?;
        let named = |replica: &Replica| replica.server == loan.server();
        (loan.version == location.version && location.replicas.iter().any(named)).then(|| loan.clone())
    }

    /// The server whose replica of the chunk gave other bytes than its sums say, when it was read without it.
    pub(super) fn doubted(&self, location: &ChunkLocation) -> Option<ServerId> {
        match self.table.lock().candidates.peek(&location.handle) {
            Some(Candidate::Doubted { version, server, until })
                if *version == location.version && Instant::now() < *until =>
            {
                Some(*server)
            }
            _ => None,
        }
    }

    /// Reads whole blocks, on this thread.
    pub(super) fn read_now(
        &self,
        handle: ChunkHandle,
        loan: &Arc<Loan>,
        blocks: Blocks,
        wait: Wait,
    ) -> Result<Bytes, Miss> {
        let read = loan.read(self.us.chunk_size, blocks, wait);
        self.judge(handle, loan, read)
    }

    /// Reads whole blocks; what is cold elsewhere than on the runtime.
    pub(super) async fn read(&self, handle: ChunkHandle, loan: &Arc<Loan>, blocks: Blocks) -> Result<Bytes, Miss> {
        match self.read_now(handle, loan, blocks, Wait::Never) {
            Err(Miss::Cold) => {
                let (loan, chunk_size) = (loan.clone(), self.us.chunk_size);
                let cold = self.runtime.spawn_blocking(move || {
                    let read = loan.read(chunk_size, blocks, Wait::IfCold);
                    (loan, read)
                });
                let (loan, read) = cold.await.map_err(|_| Miss::NotNow)?;
                self.judge(handle, &loan, read)
            }
            read => read,
        }
    }

    /// Gives up loans that are of no use.
    fn judge(&self, handle: ChunkHandle, loan: &Arc<Loan>, read: Result<Vec<u8>, Miss>) -> Result<Bytes, Miss> {
        let miss = match read {
            Ok(data) => return Ok(data.into()),
            Err(miss) => miss,
        };
        if matches!(miss, Miss::Gone | Miss::Bad) {
            let mut table = self.table.lock();
            table.give_up(handle, loan);
            if miss == Miss::Bad {
                tracing::debug!(chunk = %handle, server = %loan.server(), "sums differ in the file; asking the server");
                let (version, server, until) = (loan.version, loan.server(), Instant::now() + REFUSAL);
                table.candidates.put(handle, Candidate::Doubted { version, server, until });
            }
        }
        Err(miss)
    }

    /// A chunk was read by request from a server on this machine that lends.
    pub(super) fn was_read(self: &Arc<Self>, location: &ChunkLocation, replica: &Replica) {
        let lend = Lend { handle: location.handle, version: location.version };
        if self.table.lock().is_worth_asking(lend) {
            let (local, replica) = (self.clone(), replica.clone());
            self.runtime.spawn(async move { local.borrow(lend, &replica).await });
        }
    }

    /// A server is being asked for the chunk.
    #[cfg(test)]
    pub(super) fn is_asking(&self, handle: ChunkHandle) -> bool {
        matches!(self.table.lock().candidates.peek(&handle), Some(Candidate::Asked))
    }

    async fn borrow(self: Arc<Self>, lend: Lend, replica: &Replica) {
        let asked = self.lenders.ask(lend, replica).await;
        let mut table = self.table.lock();
        match asked {
            Ok(loan) => {
                table.candidates.pop(&lend.handle);
                table.lent.put(lend.handle, Arc::new(loan));
                if !mem::replace(&mut table.tidied, true) {
                    self.runtime.spawn(keep_tidy(Arc::downgrade(&self)));
                }
            }
            Err(error) => {
                tracing::debug!(chunk = %lend.handle, server = %replica.server, %error, "not lent");
                let passes = !matches!(error, LendError::Refused(DataError::NotLent | DataError::Protocol));
                let until = passes.then(|| Instant::now() + REFUSAL);
                table.candidates.put(lend.handle, Candidate::Refused { version: lend.version, until });
            }
        }
    }

    /// Closes what was revoked. False if nothing is lent any more: then nobody looks after it.
    pub(super) fn tidy(&self) -> bool {
        let lent: Vec<_> = self.table.lock().lent.iter().map(|(handle, loan)| (*handle, loan.clone())).collect();
        for (handle, loan) in lent {
            if !loan.is_good() {
                self.table.lock().give_up(handle, &loan);
            }
        }
        let mut table = self.table.lock();
        table.tidied = !table.lent.is_empty();
        table.tidied
    }
}

impl Table {
    /// True if its descriptor is to be asked for now.
    fn is_worth_asking(&mut self, lend: Lend) -> bool {
        if self.lent.peek(&lend.handle).is_some_and(|loan| loan.version == lend.version) {
            return false;
        }
        let ask = match self.candidates.get(&lend.handle) {
            None => false,
            Some(Candidate::Asked) => return false,
            Some(Candidate::Refused { version, until })
                if *version == lend.version && until.is_none_or(|until| Instant::now() < until) =>
            {
                return false;
            }
            Some(Candidate::Doubted { version, until, .. }) if *version == lend.version && Instant::now() < *until => {
                return false;
            }
            Some(Candidate::Seen | Candidate::Refused { .. } | Candidate::Doubted { .. }) => true,
        };
        self.candidates.put(lend.handle, if ask { Candidate::Asked } else { Candidate::Seen });
        ask
    }

    /// A loan is of no use any more.
    fn give_up(&mut self, handle: ChunkHandle, loan: &Arc<Loan>) {
        if self.lent.peek(&handle).is_some_and(|lent| Arc::ptr_eq(lent, loan)) {
            self.lent.pop(&handle);
        }
    }
}

/// Looks after loans that nobody reads, as long as anything is lent.
async fn keep_tidy(local: Weak<Local>) {
    loop {
        tokio::time::sleep(TIDY).await;
        match local.upgrade() {
            Some(local) if local.tidy() => {}
            _ => return,
        }
    }
}

fn loans_max() -> NonZeroUsize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    NonZeroUsize::new((files / 4).clamp(1, LOANS_MAX) as usize).unwrap_or(NonZeroUsize::MIN)
}
