//! Limits that both ends of a connection rely on, tied together by compile-time assertions.

use std::time::Duration;

/// Largest name of a directory entry, in bytes (POSIX `NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Largest target of a symbolic link (POSIX `PATH_MAX` without its NUL).
pub const SYMLINK_MAX: usize = 4095;
/// Largest value of an extended attribute, as on Linux (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// Largest name of an extended attribute, as on Linux (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Largest list of extended attribute names of one inode, as on Linux (`XATTR_LIST_MAX`).
pub const XATTR_LIST_MAX: usize = 64 << 10;
/// Largest file: 16 TiB.
pub const FILE_SIZE_MAX: u64 = 16 << 40;
/// Largest number of hard links to one inode, as on ext4.
pub const LINKS_MAX: u32 = 65_000;
/// Groups of a caller that are looked at (Linux `NGROUPS_MAX`).
pub const GROUPS_MAX: usize = 65_536;

/// Granularity of checksums: one CRC32C for each block of a chunk.
pub const BLOCK_SIZE: u32 = 4096;
/// Smallest and largest chunk size that a cluster may be formatted with.
pub const CHUNK_SIZE_MIN: u32 = 64 << 10;
/// See [`CHUNK_SIZE_MIN`].
pub const CHUNK_SIZE_MAX: u32 = 256 << 20;
/// Chunk size of a cluster formatted without saying otherwise (GFS paper, 2.5).
pub const CHUNK_SIZE_DEFAULT: u32 = 64 << 20;
/// Copies of a chunk when nobody said otherwise, and the most that can be asked for.
pub const GOAL_DEFAULT: u8 = 3;
/// See [`GOAL_DEFAULT`].
pub const GOAL_MAX: u8 = 9;

/// Payload of one data frame: what FUSE hands over at most in one request.
pub const FRAME_PAYLOAD_MAX: u32 = 1 << 20;
/// Extents of one vectored WRITE.
pub const FRAME_EXTENTS_MAX: usize = 256;
/// Bytes of a frame's header: the fixed part, extents and chain members.
pub const FRAME_HEADER_MAX: u32 = 16 << 10;
/// Up to this many bytes a write goes to every replica directly (star), above it along the chain.
pub const STAR_BYTES_MAX: u32 = 64 << 10;

/// Operations in one batch.
pub const BATCH_OPS_MAX: usize = 64;
/// Bytes of one page of a reply (directory listing, chunk map).
pub const REPLY_PAGE_BYTES_MAX: u32 = 256 << 10;
/// Replicas named by one command to delete.
pub const DELETIONS_MAX: usize = 512;
/// Blocks that could not be mended, named by one answer.
pub const LOST_BLOCKS_MAX: usize = 64;
/// Chunks named by one location request.
pub const CHUNKS_PER_REQUEST_MAX: u32 = 1024;
/// Largest gRPC message accepted by any service.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Life of a chunk lease (GFS paper, 3.1).
pub const LEASE: Duration = Duration::from_secs(60);
/// A chunkserver may answer reads for this long after the send time of the last heartbeat that the
/// master acknowledged. A raise of the version without it waits as long.
pub const READ_LEASE: Duration = Duration::from_secs(2);
/// Default interval of chunkserver heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Default interval of a session's keep-alives.
pub const SESSION_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A session without keep-alive for this long is expired.
pub const SESSION_EXPIRY: Duration = Duration::from_secs(30);
/// Whoever takes nothing off a connection for requests for so long is gone.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Life of attributes and names handed to a client without a delegation.
pub const ATTRIBUTE_TTL: Duration = Duration::from_secs(1);
/// Default bound on any one operation of a client.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever waits for a chunkserver asks it for a sign of life after this.
pub const ANSWER_LATE: Duration = Duration::from_millis(400);
/// A sign of life takes no longer: no disk takes part. A process that gets no processor for a second is no better
/// than one that hangs. With [`ANSWER_LATE`] and [`READ_LEASE`] it bounds the pause that a hung server makes.
pub const PULSE: Duration = Duration::from_secs(1);
const _: () = assert!(ANSWER_LATE.as_millis() + PULSE.as_millis() < READ_LEASE.as_millis());

/// Address at which a master listens, and everybody looks for it, when nothing else is said.
pub const MASTER_ADDRESS_DEFAULT: &str = "127.0.0.1:9400";
/// Environment variable that overrides [`MASTER_ADDRESS_DEFAULT`] in all programs.
pub const MASTER_ADDRESS_ENV: &str = "GFS_MASTER";

/// Version of the gRPC services and of the data plane, checked in both handshakes.
pub const PROTOCOL_VERSION: u32 = 1;

const _: () = assert!(CHUNK_SIZE_MIN.is_multiple_of(BLOCK_SIZE) && CHUNK_SIZE_MAX.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(CHUNK_SIZE_MIN <= CHUNK_SIZE_DEFAULT && CHUNK_SIZE_DEFAULT <= CHUNK_SIZE_MAX);
const _: () = assert!(FILE_SIZE_MAX / (CHUNK_SIZE_MIN as u64) <= u32::MAX as u64);
const _: () = assert!((REPLY_PAGE_BYTES_MAX as usize) * 2 < MESSAGE_BYTES_MAX);
const _: () = assert!(FRAME_EXTENTS_MAX * 8 + 4096 <= FRAME_HEADER_MAX as usize);
/// The sums of a chunk go into one frame.
const _: () = assert!(CHUNK_SIZE_MAX / BLOCK_SIZE * 4 <= FRAME_PAYLOAD_MAX);
const _: () = assert!(STAR_BYTES_MAX <= FRAME_PAYLOAD_MAX);
