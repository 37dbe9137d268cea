//! The simulated network, and who is there: requests with answers, which are delayed, lost, doubled and
//! overtake each other; a stream of messages in both directions between a chunkserver and the master, in
//! order until it breaks, as TCP has it.
//!
//! Who is called is code of the programs: a request is a function of what listens at the other end, run by
//! that process's runtime.

use super::check::Checks;
use super::dice::Dice;
use super::pipe::Pipe;
use super::trace::Trace;
use gfs_chunkserver::node::Node;
use gfs_chunkserver::store::mem::MemDisk;
use gfs_master::master::Master;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The world's clock goes on in these steps.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// A process, by its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    Master,
    Server(u8),
    Client(u8),
}

/// What listens at a place.
#[derive(Clone)]
pub(super) enum Endpoint {
    Master(Arc<Master>),
    Server(Arc<Node<MemDisk>>),
    Client,
}

/// A process that runs.
struct Up {
    endpoint: Endpoint,
    runtime: Handle,
    /// True from the moment its machine stopped in the middle of something until that is noticed.
    is_dead: Box<dyn Fn() -> bool + Send>,
}

type Event = Box<dyn FnOnce(&Arc<Net>) + Send>;
/// A request's way of being carried out.
pub(super) type Serving<R> = Pin<Box<dyn Future<Output = R> + Send>>;

#[derive(Default)]
struct State {
    tick: u64,
    numbers: u64,
    events: BTreeMap<(u64, u64), Event>,
    up: BTreeMap<Place, Up>,
    cut: BTreeSet<(Place, Place)>,
    /// Machines without power: nobody there refuses anything.
    dark: BTreeSet<Place>,
    pipes: Vec<(Place, Arc<Pipe>)>,
    /// Requests that were lost: nobody hears of them.
    lost: Vec<Box<dyn Send>>,
    /// No more faults of its own.
    calm: bool,
}

/// See the module's text.
pub(super) struct Net {
    state: Mutex<State>,
    dice: Mutex<Dice>,
    pub(super) trace: Trace,
    pub(super) checks: Checks,
}

/// No answer, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// The process is gone, or went away before it answered.
    Refused,
    /// Nothing came in time.
    Silence,
}

impl Net {
    pub(super) fn new(dice: Dice, trace: Trace) -> Arc<Self> {
        let (state, dice) = (Mutex::default(), Mutex::new(dice));
        Arc::new(Self { state, dice, trace, checks: Checks::default() })
    }

    /// Ticks since the world began.
    pub(super) fn tick(&self) -> u64 {
        self.state.lock().tick
    }

    /// A process has started.
    pub(super) fn start(
        &self,
        place: Place,
        endpoint: Endpoint,
        runtime: Handle,
        is_dead: Box<dyn Fn() -> bool + Send>,
    ) {
        let mut state = self.state.lock();
        state.dark.remove(&place);
        state.up.insert(place, Up { endpoint, runtime, is_dead });
    }

    /// A process is gone; its streams end after so many ticks.
    pub(super) fn stop(self: &Arc<Self>, place: Place, after: u64) {
        let gone = self.state.lock().up.remove(&place);
        drop(gone);
        let mut state = self.state.lock();
        let (ended, rest) = std::mem::take(&mut state.pipes)
            .into_iter()
            .partition(|(server, _)| *server == place || place == Place::Master);
        state.pipes = rest;
        drop(state);
        let ended: Vec<(Place, Arc<Pipe>)> = ended;
        ended.iter().for_each(|(_, pipe)| pipe.break_off());
        self.after(after, move |_| ended.iter().for_each(|(_, pipe)| pipe.close()));
    }

    /// What listens at a place, if a process runs there.
    pub(super) fn endpoint(&self, place: Place) -> Option<Endpoint> {
        self.state.lock().up.get(&place).map(|up| up.endpoint.clone())
    }

    /// A machine has lost its power.
    pub(super) fn darken(&self, place: Place) {
        self.state.lock().dark.insert(place);
    }

    /// True if somebody who connects hears that no process listens there.
    pub(super) fn refuses(&self, from: Place, to: Place) -> bool {
        let state = self.state.lock();
        let cut = state.cut.contains(&(from.min(to), from.max(to)));
        !cut && !state.up.contains_key(&to) && !state.dark.contains(&to)
    }

    /// Nothing passes between two places from now on.
    pub(super) fn cut(&self, a: Place, b: Place) {
        self.state.lock().cut.insert((a.min(b), a.max(b)));
    }

    pub(super) fn mend(&self, a: Place, b: Place) {
        self.state.lock().cut.remove(&(a.min(b), a.max(b)));
    }

    /// Lets go of everything: who is there holds the network as well.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.state.lock());
        drop(gone);
    }

    /// Mends everything and makes no more faults.
    pub(super) fn calm(&self) {
        let mut state = self.state.lock();
        state.cut.clear();
        state.calm = true;
    }

    /// True if a message from one place gets to the other now.
    pub(super) fn passes(&self, from: Place, to: Place) -> bool {
        let cut = self.state.lock().cut.contains(&(from.min(to), from.max(to)));
        !cut && self.is_alive(from) && self.is_alive(to)
    }

    /// A process runs there, and its machine too.
    fn is_alive(&self, place: Place) -> bool {
        self.state.lock().up.get(&place).is_some_and(|up| !(up.is_dead)())
    }

    fn chance(&self, per_mille: u64) -> bool {
        !self.state.lock().calm && self.dice.lock().chance(per_mille)
    }

    fn delay(&self) -> u64 {
        let mut dice = self.dice.lock();
        if dice.chance(20) && !self.state.lock().calm { dice.within(5, 60) } else { dice.below(3) }
    }

    /// Has something happen in so many ticks.
    pub(super) fn after(&self, ticks: u64, event: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let mut state = self.state.lock();
        state.numbers += 1;
        let at = (state.tick + ticks, state.numbers);
        state.events.insert(at, Box::new(event));
    }

    /// One tick on; what is due happens.
    pub(super) fn step(self: &Arc<Self>) {
        self.state.lock().tick += 1;
        loop {
            let event = {
                let mut state = self.state.lock();
                let tick = state.tick;
                match state.events.first_entry() {
                    Some(first) if first.key().0 <= tick => first.remove(),
                    _ => return,
                }
            };
            event(self);
        }
    }

    /// Asks a process and waits for its answer.
    pub(super) async fn call<R: Send + 'static>(
        self: &Arc<Self>,
        (from, to): (Place, Place),
        bound: Duration,
        what: &'static str,
        serve: impl Fn(Endpoint) -> Serving<R> + Send + Sync + 'static,
    ) -> Result<R, Lost> {
        let (tell, told) = oneshot::channel();
        let tell = Arc::new(Mutex::new(Some(tell)));
        let serve = Arc::new(serve);
        let copies = 1 + u64::from(self.chance(15));
        if self.chance(10) {
            self.trace.note(self.tick(), || format!("{from:?} -> {to:?} {what}: lost"));
            self.state.lock().lost.push(Box::new(tell));
        } else {
            for _ in 0..copies {
                let (tell, serve) = (tell.clone(), serve.clone());
                self.after(self.delay(), move |net| net.deliver((from, to), what, &*serve, tell));
            }
        }
        match tokio::time::timeout(bound, told).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Lost::Refused),
            Err(_) => Err(Lost::Silence),
        }
    }

    fn deliver<R: Send + 'static>(
        self: &Arc<Self>,
        (from, to): (Place, Place),
        what: &'static str,
        serve: &dyn Fn(Endpoint) -> Serving<R>,
        tell: Arc<Mutex<Option<oneshot::Sender<R>>>>,
    ) {
        if !self.passes(from, to) {
            self.trace.note(self.tick(), || format!("{from:?} -> {to:?} {what}: does not arrive"));
            if !self.refuses(from, to) {
                self.state.lock().lost.push(Box::new(tell));
            }
            return;
        }
        self.trace.note(self.tick(), || format!("{from:?} -> {to:?} {what}"));
        let (endpoint, runtime) = {
            let state = self.state.lock();
            let up = &state.up[&to];
            (up.endpoint.clone(), up.runtime.clone())
        };
        let (answer, net) = (serve(endpoint), Arc::clone(self));
        runtime.spawn(async move {
            let answer = answer.await;
            // a machine that has stopped in the middle of it says nothing, whatever its program makes of that
            if !net.is_alive(to) || net.chance(10) {
                return net.state.lock().lost.push(Box::new(tell));
            }
            net.after(net.delay(), move |net| {
                if !net.passes(to, from) {
                    return net.state.lock().lost.push(Box::new(tell));
                }
                net.trace.note(net.tick(), || format!("{to:?} -> {from:?} {what}: answer"));
                if let Some(tell) = tell.lock().take() {
                    drop(tell.send(answer)); // who asked may have given up
                }
            });
        });
    }

    /// A new stream between a chunkserver and the master.
    pub(super) fn open_pipe(&self, server: Place, pipe: Arc<Pipe>) {
        self.state.lock().pipes.push((server, pipe));
    }

    /// Sends something along a stream: in order, unless it breaks.
    pub(super) fn send_along(
        self: &Arc<Self>,
        pipe: &Arc<Pipe>,
        (from, to): (Place, Place),
        arrive: impl FnOnce(&Pipe) + Send + 'static,
    ) {
        let at = pipe.order(from == Place::Master, self.tick() + self.delay());
        let (ticks, pipe) = (at - self.tick(), Arc::clone(pipe));
        self.after(ticks, move |net| {
            if pipe.is_broken() {
                return;
            }
            if net.passes(from, to) {
                return arrive(&pipe);
            }
            // TCP loses nothing in the middle: after a while both sides give up
            pipe.break_off();
            let ticks = 20 + net.delay() * 10;
            net.after(ticks, move |_| pipe.close());
        });
    }
}
