//! Requests without a connection, for a network that is simulated: what [`super::connection`] does with a
//! frame once it is decoded, and nothing of how frames travel.

use super::connection::Done;
use super::{Failure, read, sums, sync, write};
use crate::net::buffer::Payload;
use crate::net::dial::Answer;
use crate::node::Node;
use crate::peers::Request;
use crate::store::disk::{Disk, DiskFile};
use gfs_proto::frame::{Ack, DataError, DataReply, Kind, Sync};
use std::sync::Arc;

impl<D: Disk> Node<D> {
    /// Carries out a request of a peer or a client.
    pub async fn handle(self: &Arc<Self>, request: Request) -> Answer {
        let outcome = match request {
            Request::Write { write, sums, payload } => {
                write::write(self, write::Incoming { write, sums, payload }, true).await
            }
            Request::Read(request) => match read::later(self, &request).await {
                Ok(found) => return self.data(found),
                Err(failure) => Err(failure),
            },
            Request::Sums(request) => match sums::sums(self, request) {
                Ok((chunk_length, sums)) => return answer(chunk_length, Vec::new(), &sums),
                Err(failure) => Err(failure),
            },
        };
        self.acknowledge(outcome)
    }

    /// Carries out a client's SYNC.
    pub fn handle_sync(&self, request: &Sync) -> Answer {
        self.acknowledge(sync::sync(self, request))
    }

    fn data(&self, found: read::Found<D::File>) -> Answer {
        let (out_sums, chunk_length, bytes) = match found {
            read::Found::Copied(out, mut bytes) => {
                bytes.truncate(out.data_len as usize);
                (out.sums, out.chunk_length, bytes)
            }
            read::Found::Planned { plan, .. } => {
                let mut bytes = Vec::with_capacity(plan.length as usize);
                if plan.file.read(plan.offset, plan.length as usize, &mut bytes).is_err() {
                    return self.acknowledge(Err(DataError::Io.into()));
                }
                bytes.resize(plan.length as usize, 0);
                (plan.sums, plan.chunk_length, bytes)
            }
        };
        answer(chunk_length, out_sums, &bytes)
    }

    fn acknowledge(&self, outcome: Result<Done, Failure>) -> Answer {
        let header = self.ack(outcome).encode().to_vec();
        Answer { kind: Kind::Ack, header, sums: Vec::new(), payload: Payload::new(0) }
    }

    /// How a request went, as the one who asked is told.
    pub(super) fn ack(&self, outcome: Result<Done, Failure>) -> Ack {
        let done = outcome.as_ref().copied().unwrap_or_default();
        let culprit = outcome.as_ref().err().and_then(|failure| failure.culprit);
        Ack {
            culprit: culprit.unwrap_or_else(|| self.server()),
            incarnation: self.incarnation,
            serial: done.serial,
            chunk_length: done.chunk_length,
            outcome: outcome.map(drop).map_err(|failure| failure.error),
        }
    }
}

fn answer(chunk_length: u32, sums: Vec<u8>, bytes: &[u8]) -> Answer {
    let mut payload = Payload::new(bytes.len());
    payload.copy_from_slice(bytes);
    Answer { kind: Kind::Data, header: DataReply { chunk_length }.encode().to_vec(), sums, payload }
}
