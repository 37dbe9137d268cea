//! Closes descriptors on a thread that may wait. The last descriptor of a deleted chunk file frees its room on
//! the disk, which takes long, and whoever drops a loan may hold a lock, answer the kernel, or run tasks. One
//! thread at a time does it, so that a storm of removals does not take all threads that may wait.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use tokio::runtime::Handle;

/// See the module. Clones are the same closer.
#[derive(Clone)]
pub(in crate::data) struct Closer(Arc<Shared>);

struct Shared {
    /// Has the threads.
    runtime: Handle,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn Send>>,
    /// A thread looks after them.
    attended: bool,
}

impl Closer {
    pub(in crate::data) fn new(runtime: Handle) -> Self {
        Self(Arc::new(Shared { runtime, queue: Mutex::default() }))
    }

    /// Drops it on another thread.
    fn close(&self, what: impl Send + 'static) {
        let mut queue = self.0.queue.lock();
        queue.waiting.push_back(Box::new(what));
        if !mem::replace(&mut queue.attended, true) {
            drop(queue);
            let closer = self.clone();
            self.0.runtime.spawn_blocking(move || while closer.close_next() {});
        }
    }

    /// False if there was nothing: then nobody attends any more.
    fn close_next(&self) -> bool {
        let next = {
            let mut queue = self.0.queue.lock();
            let next = queue.waiting.pop_front();
            queue.attended = next.is_some();
            next
        };
        next.map(drop).is_some()
    }

    /// Descriptors that are not closed yet, but for the one at which the thread is.
    pub(super) fn backlog(&self) -> usize {
        self.0.queue.lock().waiting.len()
    }
}

/// Something that a closer drops.
pub(in crate::data) struct Deferred<T: Send + 'static> {
    /// `None` only while it is dropped.
    what: Option<T>,
    closer: Closer,
}

impl<T: Send + 'static> Deferred<T> {
    pub(in crate::data) const fn new(what: T, closer: Closer) -> Self {
        Self { what: Some(what), closer }
    }
}

impl<T: Send + 'static> Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.what.as_ref().expect("it is there until it is dropped")
    }
}

impl<T: Send + 'static> Drop for Deferred<T> {
    fn drop(&mut self) {
        if let Some(what) = self.what.take() {
            self.closer.close(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Tells who drops it, and then waits.
    struct Slow(mpsc::Sender<ThreadId>, mpsc::Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).expect("somebody listens");
            self.1.recv_timeout(LIMIT).expect("it may go on");
        }
    }

    #[test]
    fn one_other_thread_closes_one_after_the_other() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let closer = Closer::new(runtime.handle().clone());
        for _ in 0..2 {
            let (tell, told) = mpsc::channel();
            let (go_on, slow): (Vec<_>, Vec<_>) = (0..3)
                .map(|_| {
                    let (go_on, wait) = mpsc::channel();
                    (go_on, Deferred::new(Slow(tell.clone(), wait), closer.clone()))
                })
                .unzip();
            drop(slow);
            for go_on in go_on {
                assert_ne!(told.recv_timeout(LIMIT).expect("it is closed"), thread::current().id());
                assert!(told.try_recv().is_err(), "the next one waits");
                go_on.send(()).expect("it waits");
            }
        }
    }
}
