//! Time and randomness of a simulated world: whatever a thread that has entered one asks the C library for
//! comes from the world's seed and clock. So `HashMap`, `Instant`, `SystemTime`, session secrets and
//! libraries' own dice are the same in every run of a seed, and the programs need no seam for them.
//!
//! The two functions of the C library are defined here, which puts them in front of the real ones. Threads
//! outside a world get the kernel's answers.

#![expect(unsafe_code, reason = "functions of the C library are replaced")]

use std::cell::Cell;
use std::time::Duration;

/// Where the clock of every world begins: 2001-09-09, seconds since 1970.
const EPOCH: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
struct World {
    dice: u64,
    nanos: u64,
}

thread_local! {
    static WORLD: Cell<Option<World>> = const { Cell::new(None) };
}

/// While it lives this thread is in a world of its own.
pub(super) struct Entered(());

/// Enters the world of a seed.
pub(super) fn enter(seed: u64) -> Entered {
    WORLD.set(Some(World { dice: seed ^ 0x5eed_0000_5eed, nanos: 0 }));
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// Sets the clock of this thread's world.
pub(super) fn set_clock(now: Duration) {
    let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    WORLD.set(WORLD.get().map(|world| World { nanos, ..world }));
}

/// Since the world began.
pub(super) fn clock() -> Duration {
    Duration::from_nanos(WORLD.get().map_or(0, |world| world.nanos))
}

/// True if this thread is in a world.
pub(super) fn is_inside() -> bool {
    WORLD.get().is_some()
}

/// splitmix64.
pub(super) fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The C library's function of that name.
///
/// # Safety
/// As of the real one: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, length: usize, flags: libc::c_uint) -> isize {
    let Some(mut world) = WORLD.get() else {
        // SAFETY: the caller's promise is the system call's.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    // SAFETY: the caller promises room for so many bytes, and nobody else has them during the call.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&mix(&mut world.dice).to_le_bytes()[..part.len()]);
    }
    WORLD.set(Some(world));
    length as isize
}

/// The C library's function of that name.
///
/// # Safety
/// As of the real one: `time` can be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let Some(world) = WORLD.get() else {
        // SAFETY: the caller's promise is the system call's.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    };
    let (secs, nanos) = (EPOCH + world.nanos / 1_000_000_000, world.nanos % 1_000_000_000);
    // SAFETY: the caller promises that it can be written.
    unsafe { *time = libc::timespec { tv_sec: secs as libc::time_t, tv_nsec: nanos as libc::c_long } };
    0
}
