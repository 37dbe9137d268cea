//! Ports that nobody uses.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to outgoing connections: a server that is restarted finds its
/// port as it left it.
const RANGE: std::ops::Range<u16> = 10_000..30_000;

/// A free port of 127.0.0.1. Somebody may be faster: whoever starts a server on it tries again then.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let length = RANGE.end - RANGE.start;
    // test processes that run at the same time begin at different places
    let begin = (std::process::id().wrapping_mul(97) % u32::from(length)) as u16;
    for _ in 0..length {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % length;
        let port = RANGE.start + (begin + step) % length;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(anyhow::anyhow!("{RANGE:?}")).context("no port is free")
}
