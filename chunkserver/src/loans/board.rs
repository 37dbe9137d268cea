//! The memory of the board: a sealed memory file, mapped here for writing. Whoever gets its descriptor can map it
//! for reading only, and can neither write to it nor change its size.

use gfs_proto::board::{LEASE_AT, MAGIC, MAGIC_AT, SHAPE_AT, SLOTS_AT, Slot, shape, words};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// See [`gfs_proto::board`] for what is where.
#[derive(Debug)]
pub(super) struct Board {
    file: OwnedFd,
    base: NonNull<AtomicU64>,
    words: usize,
}

#[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
// SAFETY: the mapping belongs to the board until it is dropped, and is only used as atomic words.
unsafe impl Send for Board {}
#[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// All slots revoked, the lease not held.
    pub(super) fn new(slots: u32) -> io::Result<Self> {
        let words = words(slots);
        let length = words * size_of::<u64>();
        let file = memfd_create("gfs-board", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, length as u64)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        #[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
        // SAFETY: a new mapping at an address that the kernel chooses, of a file that is as long.
        let base = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, &file, 0) }?;
        let base = NonNull::new(base.cast::<AtomicU64>()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?;
        let board = Self { file, base, words };
        // ours is the last mapping that can be written to
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&board.file, seals)?;
        board.word(MAGIC_AT).store(MAGIC, Ordering::Relaxed);
        board.word(SHAPE_AT).store(shape(slots), Ordering::Relaxed);
        Ok(board)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "slots are those that the board was made with");
        #[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
        // SAFETY: within the mapping, which is aligned to pages, lives as long as `self`, and is used by atomic
        // operations alone, here and elsewhere.
        unsafe {
            self.base.add(index).as_ref()
        }
    }

    /// Says until when the lease is held, in nanoseconds.
    pub(super) fn set_lease(&self, until: u64) {
        self.word(LEASE_AT).store(until, Ordering::Release);
    }

    /// Says what a slot is. What the file is changed to before comes before it for readers, what it is changed
    /// to afterwards comes after it.
    pub(super) fn set_slot(&self, number: u32, slot: Slot) {
        self.word(SLOTS_AT + number as usize).store(slot.encode(), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(super) fn lease(&self) -> u64 {
        self.word(LEASE_AT).load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(super) fn slot(&self, number: u32) -> Slot {
        Slot::decode(self.word(SLOTS_AT + number as usize).load(Ordering::Acquire))
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
        // SAFETY: mapped by `new` with this length; nobody can use it after this.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.words * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok(), "it was mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn whoever_gets_the_descriptor_can_only_read() {
        let board = Board::new(16).expect("a board");
        board.set_lease(77);
        board.set_slot(3, Slot { tenancy: 5, sequence: 6 });
        let mut raw = vec![0; words(16) * 8];
        assert_eq!(rustix::io::pread(&board, &mut raw[..], 0), Ok(raw.len()));
        assert_eq!(raw[..8], *b"GFSboard");
        assert_eq!(raw[16..24], 77u64.to_le_bytes());
        assert_eq!(raw[(8 + 3) * 8..][..8], Slot { tenancy: 5, sequence: 6 }.encode().to_le_bytes());
        assert_eq!(rustix::io::pwrite(&board, &[1], 0), Err(Errno::PERM));
        assert_eq!(ftruncate(&board, 0), Err(Errno::PERM));
        #[expect(unsafe_code, reason = "the call under test")]
        // SAFETY: a new mapping, which is refused.
        let mapped =
            unsafe { mmap(std::ptr::null_mut(), 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &board, 0) };
        assert_eq!(mapped, Err(Errno::PERM));
    }
}
