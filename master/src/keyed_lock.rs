//! One lock for each key that somebody holds or waits for, taken in order of arrival, held over awaits.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by key; a key that nobody uses costs nothing.
pub struct KeyedLocks<K>(Mutex<HashMap<K, Arc<AsyncMutex<()>>>>);

/// Holds the key until dropped.
pub struct KeyGuard<'a, K: Hash + Eq> {
    locks: &'a KeyedLocks<K>,
    key: K,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Copy> KeyedLocks<K> {
    /// Waits for its turn.
    pub async fn lock(&self, key: K) -> KeyGuard<'_, K> {
        let lock = self.0.lock().entry(key).or_default().clone();
        let mut guard = KeyGuard { locks: self, key, held: None };
        guard.held = Some(lock.lock_owned().await);
        guard
    }
}

impl<K: Hash + Eq> Drop for KeyGuard<'_, K> {
    fn drop(&mut self) {
        self.held = None;
        let mut locks = self.locks.0.lock();
        // Others hold a clone of the lock while they wait or work.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn one_at_a_time_and_nothing_left() {
        let locks = Arc::new(KeyedLocks::<u32>::default());
        let inside = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..20)
            .map(|i| {
                let (locks, inside) = (locks.clone(), inside.clone());
                tokio::spawn(async move {
                    let _guard = locks.lock(i % 2).await;
                    assert_eq!(inside.fetch_or(1 << (i % 2), Ordering::SeqCst) & (1 << (i % 2)), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_and(!(1 << (i % 2)), Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("nobody else inside");
        }
        assert!(locks.0.lock().is_empty());
    }
}
