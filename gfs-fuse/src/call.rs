//! Runs a call to its first wait on the thread that has it, and the rest on the runtime, which is not
//! troubled before there is something to do: handing it a task that only waits would wake a thread of it
//! for nothing, and a wake-up costs more than the rest of a small request.

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use tokio::runtime::Handle;

/// Begins `call` here.
pub(crate) fn begin(runtime: &Handle, call: impl Future<Output = ()> + Send + 'static) {
    let _inside = runtime.enter();
    let mut call: BoxFuture<'static, ()> = Box::pin(call);
    let parked = Arc::new(Parked { runtime: runtime.clone(), place: Mutex::new(Place::Polled) });
    let waker = Waker::from(parked.clone());
    if call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        parked.park(call);
    }
}

/// Runs `wait` on a thread that may wait, and begins there the call that it leaves, if any. The call has that thread
/// no longer than it would have another: it may need such a thread itself, and they are not many.
pub(crate) fn begin_after<C>(runtime: &Handle, wait: impl FnOnce() -> Option<C> + Send + 'static)
where
    C: Future<Output = ()> + Send + 'static,
{
    let handle = runtime.clone();
    runtime.spawn_blocking(move || {
        if let Some(call) = wait() {
            begin(&handle, call);
        }
    });
}

/// A call between its first poll and its life as a task.
struct Parked {
    runtime: Handle,
    place: Mutex<Place>,
}

enum Place {
    /// With the thread that began it.
    Polled,
    /// There too, and woken already.
    Woken,
    /// Here, until it is woken.
    Here(BoxFuture<'static, ()>),
    /// A task; what wakes it now is its own waker.
    Runtime,
}

impl Parked {
    fn park(&self, call: BoxFuture<'static, ()>) {
        let mut place = self.place.lock();
        match *place {
            Place::Woken => {
                *place = Place::Runtime;
                drop(self.runtime.spawn(call));
            }
            Place::Polled | Place::Here(_) | Place::Runtime => *place = Place::Here(call),
        }
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        let mut place = self.place.lock();
        *place = match std::mem::replace(&mut *place, Place::Runtime) {
            Place::Polled | Place::Woken => Place::Woken,
            Place::Here(call) => {
                drop(self.runtime.spawn(call));
                Place::Runtime
            }
            Place::Runtime => Place::Runtime,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// Where a call was after each of its waits.
    fn run(waits: Vec<oneshot::Receiver<()>>) -> (tokio::runtime::Runtime, mpsc::Receiver<thread::ThreadId>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (tell, told) = mpsc::channel();
        begin(runtime.handle(), async move {
            tell.send(thread::current().id()).expect("somebody listens");
            for wait in waits {
                wait.await.expect("woken");
                tell.send(thread::current().id()).expect("somebody listens");
            }
        });
        (runtime, told)
    }

    #[test]
    fn what_need_not_wait_ends_here() {
        let (wake, wait) = oneshot::channel();
        wake.send(()).expect("it will look");
        let (_runtime, told) = run(vec![wait]);
        assert_eq!(told.iter().collect::<Vec<_>>(), [thread::current().id(); 2]);
    }

    #[test]
    fn what_waits_goes_on_in_the_runtime_each_time_it_is_woken() {
        let (wakes, waits): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let (_runtime, told) = run(waits);
        assert_eq!(told.recv(), Ok(thread::current().id()));
        for wake in wakes {
            wake.send(()).expect("it waits");
            assert_ne!(told.recv().expect("it went on"), thread::current().id());
        }
        assert!(told.recv().is_err(), "and ended");
    }

    #[test]
    fn a_wake_during_the_first_poll_is_not_lost() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (tell, told) = mpsc::channel();
        begin(runtime.handle(), async move {
            tokio::task::yield_now().await;
            tell.send(()).expect("somebody listens");
        });
        assert_eq!(told.recv(), Ok(()));
    }

    #[test]
    fn what_is_left_after_a_wait_does_not_hold_the_thread_that_waited() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).build();
        let runtime = runtime.expect("a runtime");
        let (tell, told) = mpsc::channel();
        begin_after(runtime.handle(), move || {
            Some(async move {
                tokio::task::spawn_blocking(|| ()).await.expect("a thread for it");
                tell.send(()).expect("somebody listens");
            })
        });
        let went_on = told.recv_timeout(Duration::from_secs(10));
        runtime.shutdown_background();
        assert_eq!(went_on, Ok(()));
    }
}
