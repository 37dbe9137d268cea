//! One loan: a descriptor of a replica's file, and the rule by which what it reads may be believed.
//!
//! ```text
//! look at slot and lease -> read data and sums -> connected? -> look again -> compare with the sums
//! ```
//! Keeps: bytes are handed out only if the replica had not changed and counted while they were read, as the
//! server would have said. Anything else is a [`Miss`], and the server is asked.

use super::closer::Deferred;
use super::lender::Lender;
use crate::data::replicas::Blocks;
use gfs_proto::board::Slot;
use gfs_proto::checksum::{block_sums, decode_sums};
use gfs_proto::chunk_file::{SUM_LEN, data_at, sum_spans};
use gfs_proto::ids::{ChunkVersion, ServerId};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::{BLOCK_SIZE, FRAME_PAYLOAD_MAX};
use rustix::io::{Errno, ReadWriteFlags};
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Sums of the longest read.
const SUMS_MAX: usize = FRAME_PAYLOAD_MAX as usize / BLOCK_SIZE as usize * SUM_LEN;

/// Why a read by a loan gave nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::data) enum Miss {
    /// It would wait for the device.
    Cold,
    /// The replica is being changed, or the server does not hold its read lease: the loan stays.
    NotNow,
    /// Revoked, or the server is gone.
    Gone,
    /// Data and sums do not match, or cannot be read.
    Bad,
}

/// Whether a read may wait for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::data) enum Wait {
    Never,
    IfCold,
}

/// See the module.
pub(in crate::data) struct Loan {
    pub(super) lender: Arc<Lender>,
    pub(super) version: ChunkVersion,
    /// Dropped anywhere, closed elsewhere.
    pub(super) file: Deferred<OwnedFd>,
    pub(super) slot: u32,
    pub(super) tenancy: u32,
}

impl Loan {
    pub(in crate::data) fn server(&self) -> ServerId {
        self.lender.server()
    }

    /// False if it is of no use any more.
    pub(in crate::data) fn is_good(&self) -> bool {
        !matches!(self.look(), Err(Miss::Gone)) && self.lender.is_connected()
    }

    /// Whole blocks; zeroes where the chunk ends.
    pub(super) fn read(&self, chunk_size: ChunkSize, blocks: Blocks, wait: Wait) -> Result<Vec<u8>, Miss> {
        self.read_with(chunk_size, blocks, |into, at| self.fill(into, at, wait))
    }

    /// `fill` reads from the file.
    pub(in crate::data) fn read_with(
        &self,
        chunk_size: ChunkSize,
        blocks: Blocks,
        mut fill: impl FnMut(&mut [u8], u64) -> Result<(), Miss>,
    ) -> Result<Vec<u8>, Miss> {
        let before = self.look()?;
        let mut data = vec![0; blocks.length as usize];
        let mut sums = [0; SUMS_MAX];
        let (first, count) = (blocks.offset / BLOCK_SIZE, blocks.length / BLOCK_SIZE);
        let sums = &mut sums[..count as usize * SUM_LEN];
        let mut rest = &mut *sums;
        for span in sum_spans(chunk_size, first, count) {
            let (part, later) = rest.split_at_mut(span.bytes());
            fill(part, span.at)?;
            rest = later;
        }
        fill(&mut data, data_at(blocks.offset))?;
        if !self.lender.is_connected() {
            return Err(Miss::Gone);
        }
        if self.look()? != before {
            return Err(Miss::NotNow);
        }
        if block_sums(&data).eq(decode_sums(sums)) { Ok(data) } else { Err(Miss::Bad) }
    }

    /// The slot, if the file may be read now.
    fn look(&self) -> Result<Slot, Miss> {
        let slot = self.lender.slot(self.slot);
        if slot.tenancy != self.tenancy {
            Err(Miss::Gone)
        } else if slot.is_settled() && self.lender.holds_lease() {
            Ok(slot)
        } else {
            Err(Miss::NotNow)
        }
    }

    /// Bytes of the file; what lies beyond its end stays as it is.
    pub(in crate::data) fn fill(&self, into: &mut [u8], at: u64, wait: Wait) -> Result<(), Miss> {
        let flags = if wait == Wait::Never { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
        let mut filled = 0;
        while filled < into.len() {
            let parts = &mut [IoSliceMut::new(&mut into[filled..])];
            match rustix::io::preadv2(&*self.file, parts, at + filled as u64, flags) {
                Ok(0) => return Ok(()),
                Ok(got) => filled += got,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::OPNOTSUPP) if wait == Wait::Never => return Err(Miss::Cold),
                Err(error) => {
                    tracing::debug!(server = %self.server(), %error, "a chunk file cannot be read by its descriptor");
                    return Err(Miss::Bad);
                }
            }
        }
        Ok(())
    }
}
