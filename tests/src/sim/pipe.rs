//! The stream between a chunkserver and the master, between their two ends.

use gfs_proto::control::{FromChunkserver, ToChunkserver};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

#[derive(Default)]
struct State {
    up: Option<UnboundedSender<FromChunkserver>>,
    down: Option<UnboundedSender<ToChunkserver>>,
    /// When the last message of each direction arrives.
    arrivals: [u64; 2],
    broken: bool,
}

/// See the module's text. The receiving ends hear of its end when it is closed.
pub(super) struct Pipe(Mutex<State>);

impl Pipe {
    pub(super) fn new(up: UnboundedSender<FromChunkserver>, down: UnboundedSender<ToChunkserver>) -> Self {
        Self(Mutex::new(State { up: Some(up), down: Some(down), ..State::default() }))
    }

    /// When a message arrives that would arrive then if nothing were before it.
    pub(super) fn order(&self, down: bool, at: u64) -> u64 {
        let mut state = self.0.lock();
        let last = &mut state.arrivals[usize::from(down)];
        *last = at.max(*last);
        *last
    }

    pub(super) fn up(&self, message: FromChunkserver) {
        if let Some(up) = &self.0.lock().up {
            drop(up.send(message)); // its end is gone
        }
    }

    pub(super) fn down(&self, message: ToChunkserver) {
        if let Some(down) = &self.0.lock().down {
            drop(down.send(message)); // its end is gone
        }
    }

    /// Nothing arrives any more.
    pub(super) fn break_off(&self) {
        self.0.lock().broken = true;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    /// Both sides hear that it has ended.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.broken = true;
        (state.up, state.down) = (None, None);
    }
}
