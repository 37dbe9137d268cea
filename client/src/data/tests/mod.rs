//! The data plane against fake servers and a fake master: what arrives, whatever fails.

mod bounds;
mod cluster;
mod faults;
mod lending;
mod lent;
mod links;
mod model;
mod paths;
pub(crate) mod server;

use std::time::Duration;

/// Bytes that tell where they are.
fn pattern(offset: u64, length: usize, salt: u8) -> Vec<u8> {
    (offset..offset + length as u64).map(|i| (i as u8) ^ (i >> 8) as u8 ^ (i >> 16) as u8 ^ salt).collect()
}

/// Waits for a condition; a test that waits for ever says for what.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("in vain for: {what}"));
}
