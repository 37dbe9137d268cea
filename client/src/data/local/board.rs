//! A server's board, mapped for reading. What the server has passed is checked before it is believed: a file
//! that could become shorter would end this process.

use gfs_proto::board::{LEASE_AT, MAGIC, MAGIC_AT, SHAPE_AT, SLOTS_AT, SLOTS_MAX, Slot, shape, words};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// See [`gfs_proto::board`] for what is where.
#[derive(Debug)]
pub(super) struct Board {
    base: NonNull<AtomicU64>,
    words: usize,
}

#[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
// SAFETY: the mapping belongs to the board until it is dropped, and is only read, as atomic words.
unsafe impl Send for Board {}
#[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Of a passed descriptor, which is not needed afterwards. `InvalidData` if it is no board of a version that
    /// is known.
    pub(super) fn new(file: BorrowedFd<'_>) -> io::Result<Self> {
        let no_board = || io::Error::from(io::ErrorKind::InvalidData);
        let length = usize::try_from(fstat(file)?.st_size).map_err(|_| no_board())?;
        let fixed = fcntl_get_seals(file)?.contains(SealFlags::SHRINK);
        if !fixed || !(words(1)..=words(SLOTS_MAX)).contains(&(length / size_of::<u64>())) {
            return Err(no_board());
        }
        #[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
        // SAFETY: a new mapping at an address that the kernel chooses, of a file that cannot become shorter.
        let base = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast::<AtomicU64>()).ok_or_else(no_board)?;
        let board = Self { base, words: length / size_of::<u64>() };
        let slots = (board.words - SLOTS_AT) as u32;
        let known = board.word(MAGIC_AT).load(Ordering::Relaxed) == MAGIC
            && board.word(SHAPE_AT).load(Ordering::Relaxed) == shape(slots);
        if known { Ok(board) } else { Err(no_board()) }
    }

    /// True if there is such a slot.
    pub(super) const fn has(&self, slot: u32) -> bool {
        (slot as usize) < self.words - SLOTS_AT
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "slots are checked when they are lent");
        #[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
        // SAFETY: within the mapping, which is aligned to pages, lives as long as `self`, and is used by atomic
        // operations alone, here and at the server.
        unsafe {
            self.base.add(index).as_ref()
        }
    }

    /// Until when the lease is held, in nanoseconds.
    pub(super) fn lease(&self) -> u64 {
        self.word(LEASE_AT).load(Ordering::Acquire)
    }

    /// A slot as it is now: what is read before comes before, what is read afterwards comes after.
    pub(super) fn slot(&self, number: u32) -> Slot {
        fence(Ordering::Acquire);
        Slot::decode(self.word(SLOTS_AT + number as usize).load(Ordering::Acquire))
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "memory that two processes share is mapped by hand")]
        // SAFETY: mapped by `new` with this length; nobody can use it after this. The file may have been longer by
        // less than a word, which is in the same page.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.words * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok(), "it was mapped");
    }
}
