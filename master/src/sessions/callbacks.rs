//! What the master asks of one client, until it is answered: sent on the stream that is attached, and
//! again on the next one if that is lost first. Whoever asks may stop waiting; the question stays, for
//! the client must learn of it all the same when it is back.

use crate::gate::Gate;
use gfs_proto::ids::InodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Callbacks that wait for the stream to take them.
const OUTGOING_MAX: usize = 1024;

/// A question to the client; answered with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Callback {
    /// In the session, from 1.
    pub id: u64,
    /// What is asked.
    pub kind: CallbackKind,
}

/// See [`Callback`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallbackKind {
    /// Flush the file, give its grants back, write through from now on.
    RecallExclusive(InodeId),
}

#[derive(Default)]
struct Table {
    next: u64,
    unanswered: BTreeMap<u64, (CallbackKind, Gate)>,
    stream: Option<mpsc::Sender<Callback>>,
    closed: bool,
}

/// The unanswered callbacks of a session.
#[derive(Default)]
pub struct Callbacks(Mutex<Table>);

impl Table {
    /// A stream that cannot take it any more is given up: the client attaches another.
    fn send(&mut self, callback: Callback) {
        if let Some(stream) = &self.stream
            && stream.try_send(callback).is_err()
        {
            self.stream = None;
        }
    }
}

impl Callbacks {
    /// Asks; the gate opens when the client has answered, or never will because the session ended.
    pub fn ask(&self, kind: CallbackKind) -> Gate {
        let mut table = self.0.lock();
        table.next += 1;
        let (id, gate) = (table.next, Gate::new());
        if table.closed {
            gate.open();
        } else {
            table.unanswered.insert(id, (kind, gate.clone()));
            table.send(Callback { id, kind });
        }
        gate
    }

    /// The client has answered.
    pub fn done(&self, id: u64) {
        if let Some((_, gate)) = self.0.lock().unanswered.remove(&id) {
            gate.open();
        }
    }

    /// A stream takes over; what is unanswered is asked again on it.
    pub fn attach(&self) -> mpsc::Receiver<Callback> {
        let mut table = self.0.lock();
        let again: Vec<_> = table.unanswered.iter().map(|(id, (kind, _))| Callback { id: *id, kind: *kind }).collect();
        // Room for all of them: a stream that is given up at once would never get further.
        let (sender, receiver) = mpsc::channel(again.len() + OUTGOING_MAX);
        table.stream = Some(sender);
        again.into_iter().for_each(|callback| table.send(callback));
        receiver
    }

    /// The session has ended: nobody waits for it any more.
    pub fn close(&self) {
        let mut table = self.0.lock();
        table.closed = true;
        table.stream = None;
        std::mem::take(&mut table.unanswered).into_values().for_each(|(_, gate)| gate.open());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECALL: CallbackKind = CallbackKind::RecallExclusive(InodeId::new(5));

    #[test]
    fn what_is_unanswered_is_asked_again() {
        let callbacks = Callbacks::default();
        let gate = callbacks.ask(RECALL);
        let mut first = callbacks.attach();
        let id = first.try_recv().expect("asked before anybody listened").id;
        drop(first);
        let mut second = callbacks.attach();
        assert_eq!(second.try_recv(), Ok(Callback { id, kind: RECALL }));
        callbacks.done(id);
        assert!(gate.is_open());
        assert!(callbacks.attach().try_recv().is_err(), "answered for good");
    }

    #[test]
    fn a_stream_has_room_for_all_that_is_unanswered() {
        let callbacks = Callbacks::default();
        (0..2 * OUTGOING_MAX).for_each(|_| drop(callbacks.ask(RECALL)));
        let mut stream = callbacks.attach();
        let asked = std::iter::from_fn(|| stream.try_recv().ok()).count();
        assert_eq!(asked, 2 * OUTGOING_MAX);
        callbacks.ask(RECALL);
        assert!(stream.try_recv().is_ok(), "it was not given up");
    }

    #[test]
    fn nobody_waits_for_a_session_that_ended() {
        let callbacks = Callbacks::default();
        let before = callbacks.ask(RECALL);
        callbacks.close();
        let after = callbacks.ask(RECALL);
        assert!(before.is_open() && after.is_open());
    }
}
