//! What a fake server lends: chunk files made for it and a board, in the real formats.

use gfs_proto::board::{LEASE_AT, MAGIC, MAGIC_AT, SHAPE_AT, SLOTS_AT, Slot, shape, words};
use gfs_proto::checksum::{block_sums, encode_sums};
use gfs_proto::chunk_file::{self, data_at, sum_spans};
use gfs_proto::frame::{Kind, Lent, Prefix};
use gfs_proto::ids::ChunkHandle;
use gfs_proto::layout::ChunkSize;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

const SLOTS: u32 = 64;

pub(crate) struct Lending {
    board: OwnedFd,
    lent: HashMap<ChunkHandle, (u32, Slot, OwnedFd)>,
    next: u32,
    /// Its clock is so far ahead of that of the machine, in nanoseconds.
    pub(super) ahead: i64,
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Lending {
    /// The lease is held for an hour.
    pub(super) fn new() -> Self {
        let board = memfd_create("board", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a file");
        ftruncate(&board, words(SLOTS) as u64 * 8).expect("a size");
        fcntl_add_seals(&board, SealFlags::SHRINK | SealFlags::GROW).expect("sealed");
        let lending = Self { board, lent: HashMap::new(), next: 0, ahead: 0 };
        lending.put(MAGIC_AT, MAGIC);
        lending.put(SHAPE_AT, shape(SLOTS));
        lending.set_lease(3600);
        lending
    }

    fn put(&self, at: usize, word: u64) {
        assert_eq!(rustix::io::pwrite(&self.board, &word.to_le_bytes(), at as u64 * 8), Ok(8));
    }

    /// Seconds from now.
    pub(super) fn set_lease(&self, seconds: u64) {
        self.put(LEASE_AT, now() + seconds * 1_000_000_000);
    }

    /// Another step of the slot: odd steps are unsettled.
    pub(super) fn step(&mut self, handle: ChunkHandle) {
        let (number, slot, _) = self.lent.get_mut(&handle).expect("lent");
        slot.sequence += 1;
        let (number, word) = (*number, slot.encode());
        self.put(SLOTS_AT + number as usize, word);
    }

    pub(super) fn revoke(&mut self, handle: ChunkHandle) {
        if let Some((number, slot, _)) = self.lent.remove(&handle) {
            self.put(SLOTS_AT + number as usize, Slot { tenancy: slot.tenancy + 1, sequence: 1 }.encode());
        }
    }

    /// Number of a file.
    pub(super) fn inode(&self, handle: ChunkHandle) -> u64 {
        fstat(&self.lent[&handle].2).expect("it is open").st_ino
    }

    /// Damages a byte of a file.
    pub(super) fn damage(&self, handle: ChunkHandle, offset: u32) {
        let (.., file) = &self.lent[&handle];
        assert_eq!(rustix::io::pwrite(file, b"!", data_at(offset)), Ok(1));
    }

    pub(super) fn lend(
        &mut self,
        socket: &OwnedFd,
        request: u64,
        (handle, data): (ChunkHandle, &[u8]),
        chunk_size: u32,
    ) {
        if !self.lent.contains_key(&handle) {
            let (number, slot) = (self.next % SLOTS, Slot { tenancy: self.next + 1, sequence: 0 });
            self.next += 1;
            self.put(SLOTS_AT + number as usize, slot.encode());
            self.lent.insert(handle, (number, slot, chunk_file(data, chunk_size)));
        }
        let (number, slot, file) = &self.lent[&handle];
        let header = Lent {
            format: chunk_file::FORMAT,
            slot: *number,
            tenancy: slot.tenancy,
            with_board: true,
            now: now().saturating_add_signed(self.ahead),
        };
        let frame = Prefix::encode(Kind::Lent, request, &header.encode(), 0, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd(), self.board.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let sent = sendmsg(socket, &[IoSlice::new(&frame)], &mut control, SendFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }
}

fn chunk_file(data: &[u8], chunk_size: u32) -> OwnedFd {
    let file = memfd_create("chunk", MemfdFlags::CLOEXEC).expect("a file");
    assert_eq!(rustix::io::pwrite(&file, data, data_at(0)), Ok(data.len()));
    let sums = encode_sums(block_sums(data));
    let mut rest = &sums[..];
    for span in sum_spans(ChunkSize::new(chunk_size).expect("a size"), 0, (sums.len() / 4) as u32) {
        let (part, later) = rest.split_at(span.bytes());
        assert_eq!(rustix::io::pwrite(&file, part, span.at), Ok(part.len()));
        rest = later;
    }
    file
}
