//! A gate that many wait at and that opens once. Waiting after it opened returns at once, so no wake-up
//! can be lost between looking at a table and waiting.

use std::sync::Arc;
use tokio::sync::Semaphore;

/// Closed when made; clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// Closed.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
    /// Lets everybody through, for ever.
    pub fn open(&self) {
        self.0.close();
    }
    /// Returns when the gate is open.
    pub async fn passed(&self) {
        // No permit is ever added: this ends only with the error that says the semaphore is closed.
        drop(self.0.acquire().await);
    }
    /// True once it was opened.
    pub fn is_open(&self) -> bool {
        self.0.is_closed()
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_for_those_before_and_after() {
        let gate = Gate::new();
        let early = tokio::spawn({
            let gate = gate.clone();
            async move { gate.passed().await }
        });
        gate.open();
        early.await.expect("passed");
        gate.passed().await;
        assert!(gate.is_open());
    }
}
