//! Which sessions have which files open, and the exclusive-writer rule.
//!
//! Volatile: after a restart it is filled again by what clients reclaim. Pure but for the gates that
//! callers wait at; sends nothing itself.
//!
//! Exclusive writer: a session is it for a file while it has the file open for writing and no other
//! session has it open at all. It may buffer writes and number them. When somebody else opens the file
//! the holder is recalled first, and the newcomer waits:
//! ```text
//!   nobody --register(A, write)--> exclusive A --register(B)--> recalling A --recalled--> shared
//!      ^------------------- last open of A released ---'            (B waits at the gate)
//! ```
//! After a restart opens come back as claims ([`Opens::claim`]). Who claims to write and is not alone any
//! more may believe itself exclusive, so it is recalled as well; several recalls of one file may overlap.
//!
//! Invariant: a file has an exclusive holder only if every open of it belongs to that session, or a
//! recall of the holder is under way.

use crate::gate::Gate;
use gfs_proto::chunk::Numbering;
use gfs_proto::ids::{InodeId, OpenId, SessionId};
use gfs_proto::ops::Access;
use parking_lot::Mutex;
use std::collections::HashMap;

/// One registered open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Open {
    session: SessionId,
    open: OpenId,
    access: Access,
}

#[derive(Default, Debug)]
struct OpenFile {
    opens: Vec<Open>,
    exclusive: Option<SessionId>,
    /// Recalls under way; the gate opens when the last of them is done. Nobody is exclusive meanwhile.
    recalls: u32,
    recall: Option<Gate>,
    /// Commands under way that may remove the file: its openers are stamped, none may be added.
    removals: u32,
    removed: Option<Gate>,
}

#[derive(Default, Debug)]
struct Table {
    files: HashMap<InodeId, OpenFile>,
    sessions: HashMap<SessionId, HashMap<OpenId, InodeId>>,
}

/// The table of open files.
#[derive(Default, Debug)]
pub struct Opens(Mutex<Table>);

/// What becomes of an open.
#[derive(Debug)]
pub enum Registered {
    /// Registered; true: the session is the exclusive writer.
    Done(bool),
    /// Registered, but the holder has to be recalled before anything is answered; the caller does so
    /// and calls [`Opens::recalled`].
    Recall {
        /// The exclusive writer until now.
        holder: SessionId,
    },
    /// Not registered: wait at the gate, then try again.
    Wait(Gate),
}

/// What becomes of a claim to an open of before a restart.
#[derive(Debug)]
pub enum Claimed {
    /// Registered; these sessions have to be recalled: the caller does so and calls [`Opens::recalled`]
    /// for each. Others wait until all are done.
    Done(Vec<SessionId>),
    /// Not registered: wait at the gate, then try again.
    Wait(Gate),
}

/// What a release leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// The file.
    pub inode: InodeId,
    /// Nobody has it open any more.
    pub last: bool,
    /// The session has it open no more.
    pub last_of_session: bool,
}

/// Who wants to open what.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// Who.
    pub session: SessionId,
    /// The file.
    pub inode: InodeId,
    /// Chosen by the client.
    pub open: OpenId,
    /// What for.
    pub access: Access,
    /// False while sessions that may have files open are still expected back: nobody is exclusive.
    pub exclusive_possible: bool,
}

impl OpenFile {
    fn others(&self, session: SessionId) -> bool {
        self.opens.iter().any(|open| open.session != session)
    }
    fn writes(&self, session: SessionId) -> bool {
        self.opens.iter().any(|open| open.session == session && open.access.writes())
    }
    fn sessions(&self) -> Vec<SessionId> {
        let mut all: Vec<_> = self.opens.iter().map(|open| open.session).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
    fn idle(&self) -> bool {
        self.opens.is_empty() && self.removals == 0 && self.recall.is_none()
    }
    fn add(&mut self, open: Open) {
        self.opens.retain(|known| (known.session, known.open) != (open.session, open.open));
        self.opens.push(open);
    }
    fn begin_recall(&mut self) {
        self.recalls += 1;
        self.recall.get_or_insert_default();
    }
    /// The holder is one no more when it has nothing open for writing.
    fn settle_exclusive(&mut self) {
        self.exclusive = self.exclusive.filter(|holder| self.writes(*holder));
    }
}

impl Table {
    fn forget_if_idle(&mut self, inode: InodeId) {
        if self.files.get(&inode).is_some_and(OpenFile::idle) {
            self.files.remove(&inode);
        }
    }

    fn remove(&mut self, session: SessionId, open: OpenId) -> Option<Released> {
        let opens = self.sessions.get_mut(&session)?;
        let inode = opens.remove(&open)?;
        if opens.is_empty() {
            self.sessions.remove(&session);
        }
        let file = self.files.get_mut(&inode)?;
        file.opens.retain(|known| (known.session, known.open) != (session, open));
        file.settle_exclusive();
        let last_of_session = file.opens.iter().all(|known| known.session != session);
        let released = Released { inode, last: file.opens.is_empty(), last_of_session };
        self.forget_if_idle(inode);
        Some(released)
    }
}

impl Opens {
    /// Registers an open; the same one again changes nothing.
    pub fn register(&self, request: OpenRequest) -> Registered {
        let mut table = self.0.lock();
        let file = table.files.entry(request.inode).or_default();
        if let Some(gate) = file.removed.as_ref().or(file.recall.as_ref()) {
            return Registered::Wait(gate.clone());
        }
        file.add(Open { session: request.session, open: request.open, access: request.access });
        let outcome = match file.exclusive {
            Some(holder) if holder != request.session => {
                file.begin_recall();
                Registered::Recall { holder }
            }
            Some(_) => Registered::Done(true),
            None => {
                let alone = request.exclusive_possible && !file.others(request.session);
                file.exclusive = (alone && file.writes(request.session)).then_some(request.session);
                Registered::Done(file.exclusive.is_some())
            }
        };
        table.sessions.entry(request.session).or_default().insert(request.open, request.inode);
        outcome
    }

    /// Registers an open that the session had before the connection or the master was lost. It is in use,
    /// so no recall holds it up. An open that is known already needs nothing: what its session lost
    /// meanwhile it is told by the recall that took it.
    pub fn claim(&self, request: OpenRequest) -> Claimed {
        let mut table = self.0.lock();
        let session = request.session;
        if table.sessions.get(&session).is_some_and(|opens| opens.contains_key(&request.open)) {
            return Claimed::Done(Vec::new());
        }
        let file = table.files.entry(request.inode).or_default();
        if let Some(gate) = &file.removed {
            return Claimed::Wait(gate.clone());
        }
        file.add(Open { session, open: request.open, access: request.access });
        if file.exclusive.is_none() && file.recall.is_none() && !file.others(session) && file.writes(session) {
            file.exclusive = Some(session);
        }
        let mut recalled: Vec<SessionId> =
            file.exclusive.filter(|holder| *holder != session && file.recall.is_none()).into_iter().collect();
        recalled.extend((request.access.writes() && file.exclusive != Some(session)).then_some(session));
        recalled.iter().for_each(|_| file.begin_recall());
        table.sessions.entry(session).or_default().insert(request.open, request.inode);
        Claimed::Done(recalled)
    }

    /// One recall has ended; with the last of the file everybody is equal.
    pub fn recalled(&self, inode: InodeId) {
        let mut table = self.0.lock();
        if let Some(file) = table.files.get_mut(&inode) {
            debug_assert!(file.recalls > 0, "every end has its beginning");
            file.recalls -= 1;
            file.exclusive = None;
            if file.recalls == 0
                && let Some(gate) = file.recall.take()
            {
                gate.open();
            }
        }
        table.forget_if_idle(inode);
    }

    /// Starts a recall for somebody who does not open the file (a truncation by name). `None` if nobody
    /// else is the exclusive writer.
    pub fn recall_for(&self, inode: InodeId, session: SessionId) -> Option<Registered> {
        let mut table = self.0.lock();
        let file = table.files.get_mut(&inode)?;
        if let Some(gate) = &file.recall {
            return Some(Registered::Wait(gate.clone()));
        }
        let holder = file.exclusive.filter(|holder| *holder != session)?;
        file.begin_recall();
        Some(Registered::Recall { holder })
    }

    /// Forgets an open. `None` if it is not known: it was released before.
    pub fn release(&self, session: SessionId, open: OpenId) -> Option<Released> {
        self.0.lock().remove(session, open)
    }

    /// Forgets all opens of a session.
    pub fn end_session(&self, session: SessionId) -> Vec<Released> {
        let mut table = self.0.lock();
        let opens: Vec<OpenId> = table.sessions.get(&session).into_iter().flat_map(|m| m.keys().copied()).collect();
        opens.into_iter().filter_map(|open| table.remove(session, open)).collect()
    }

    /// The sessions that have the file open, to be stamped into a command that may remove it. From now
    /// on nobody else can open it until [`Opens::end_removal`].
    pub fn begin_removal(&self, inode: InodeId) -> Vec<SessionId> {
        let mut table = self.0.lock();
        let file = table.files.entry(inode).or_default();
        file.removals += 1;
        file.removed.get_or_insert_default();
        file.sessions()
    }

    /// The command was applied or given up.
    pub fn end_removal(&self, inode: InodeId) {
        let mut table = self.0.lock();
        if let Some(file) = table.files.get_mut(&inode) {
            debug_assert!(file.removals > 0, "every end has its beginning");
            file.removals -= 1;
            if file.removals == 0
                && let Some(gate) = file.removed.take()
            {
                gate.open();
            }
        }
        table.forget_if_idle(inode);
    }

    /// How the session may write the file; `None` if it has not opened it for writing.
    pub fn numbering(&self, session: SessionId, inode: InodeId) -> Option<Numbering> {
        let table = self.0.lock();
        let file = table.files.get(&inode).filter(|file| file.writes(session))?;
        let alone = file.exclusive == Some(session) && file.recall.is_none();
        Some(if alone { Numbering::Client } else { Numbering::Primary })
    }

    /// True if any session has the file open for writing.
    pub fn is_written(&self, inode: InodeId) -> bool {
        self.0.lock().files.get(&inode).is_some_and(|file| file.opens.iter().any(|open| open.access.writes()))
    }

    /// The files that the session, and no other, has open for writing.
    pub fn written_by(&self, session: SessionId) -> Vec<InodeId> {
        let table = self.0.lock();
        let alone = |file: &OpenFile| {
            let mut writers = file.opens.iter().filter(|open| open.access.writes()).map(|open| open.session);
            writers.clone().any(|writer| writer == session) && writers.all(|writer| writer == session)
        };
        let mut files: Vec<InodeId> =
            table.sessions.get(&session).into_iter().flat_map(|m| m.values().copied()).collect();
        files.sort_unstable();
        files.dedup();
        files.retain(|inode| table.files.get(inode).is_some_and(alone));
        files
    }

    /// The files that the session has open.
    pub fn files_of(&self, session: SessionId) -> Vec<InodeId> {
        let table = self.0.lock();
        let mut files: Vec<InodeId> =
            table.sessions.get(&session).into_iter().flat_map(|m| m.values().copied()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// True if another session has the file open for writing.
    pub fn others_write(&self, session: SessionId, inode: InodeId) -> bool {
        let others = |file: &OpenFile| file.opens.iter().any(|o| o.session != session && o.access.writes());
        self.0.lock().files.get(&inode).is_some_and(others)
    }

    /// True if any session has the file open.
    pub fn is_open(&self, inode: InodeId) -> bool {
        self.0.lock().files.get(&inode).is_some_and(|file| !file.opens.is_empty())
    }

    /// Number of files that the session has open, each open counted.
    pub fn count(&self, session: SessionId) -> usize {
        self.0.lock().sessions.get(&session).map_or(0, HashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId::new(7);
    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);

    fn request(session: SessionId, open: u64, access: Access) -> OpenRequest {
        OpenRequest { session, inode: FILE, open: OpenId::new(open), access, exclusive_possible: true }
    }
    fn exclusive(opens: &Opens, session: SessionId, open: u64, access: Access) -> bool {
        match opens.register(request(session, open, access)) {
            Registered::Done(exclusive) => exclusive,
            other => panic!("expected to be registered at once, not {other:?}"),
        }
    }

    #[test]
    fn alone_and_writing_is_exclusive() {
        let opens = Opens::default();
        assert!(!exclusive(&opens, A, 1, Access::Read), "a reader is not");
        assert!(exclusive(&opens, A, 2, Access::Write), "alone");
        assert!(exclusive(&opens, A, 3, Access::Read), "stays so with further opens of its own");
        assert_eq!(opens.numbering(A, FILE), Some(Numbering::Client));
        opens.release(A, OpenId::new(2)).expect("known");
        assert_eq!(opens.numbering(A, FILE), None, "nothing is open for writing any more");
        assert!(!exclusive(&opens, B, 1, Access::Write), "A still reads");
    }

    #[test]
    fn a_second_session_recalls_the_first() {
        let opens = Opens::default();
        assert!(exclusive(&opens, A, 1, Access::ReadWrite));
        let Registered::Recall { holder } = opens.register(request(B, 1, Access::Read)) else {
            panic!("A has to be recalled");
        };
        assert_eq!(holder, A);
        assert_eq!(opens.numbering(A, FILE), Some(Numbering::Primary), "from the start of the recall");
        let third = SessionId::new(3);
        let Registered::Wait(gate) = opens.register(request(third, 1, Access::Read)) else {
            panic!("a third one waits for the same recall");
        };
        opens.recalled(FILE);
        assert!(gate.is_open());
        assert!(!exclusive(&opens, third, 1, Access::Read));
        assert!(!exclusive(&opens, A, 2, Access::Write), "not while others have it open");
        opens.end_session(B);
        opens.end_session(third);
        assert!(exclusive(&opens, A, 3, Access::Write), "alone again");
    }

    #[test]
    fn nobody_opens_what_is_being_removed() {
        let opens = Opens::default();
        exclusive(&opens, A, 1, Access::Read);
        assert_eq!(opens.begin_removal(FILE), [A]);
        let Registered::Wait(gate) = opens.register(request(B, 1, Access::Read)) else {
            panic!("openers are stamped already");
        };
        opens.end_removal(FILE);
        assert!(gate.is_open());
        exclusive(&opens, B, 1, Access::Read);
    }

    #[test]
    fn releases_say_what_is_left() {
        let opens = Opens::default();
        exclusive(&opens, A, 1, Access::Read);
        exclusive(&opens, A, 2, Access::Read);
        exclusive(&opens, A, 2, Access::Read);
        exclusive(&opens, B, 1, Access::Read);
        let released = |session, open| opens.release(session, OpenId::new(open));
        assert_eq!(released(A, 1), Some(Released { inode: FILE, last: false, last_of_session: false }));
        assert_eq!(released(A, 2), Some(Released { inode: FILE, last: false, last_of_session: true }));
        assert_eq!(released(A, 2), None);
        assert_eq!(opens.end_session(B), [Released { inode: FILE, last: true, last_of_session: true }]);
        assert!(!opens.is_open(FILE) && opens.0.lock().files.is_empty(), "nothing is kept of closed files");
    }

    fn claim(opens: &Opens, session: SessionId, open: u64, access: Access) -> Vec<SessionId> {
        match opens.claim(request(session, open, access)) {
            Claimed::Done(recalled) => recalled,
            other => panic!("expected to be registered at once, not {other:?}"),
        }
    }

    #[test]
    fn who_claims_to_write_and_is_not_alone_is_recalled() {
        let opens = Opens::default();
        assert!(matches!(
            opens.register(OpenRequest { exclusive_possible: false, ..request(B, 1, Access::Read) }),
            Registered::Done(false)
        ));
        assert_eq!(claim(&opens, A, 1, Access::Read), [], "a reader buffers nothing");
        assert_eq!(claim(&opens, A, 2, Access::Write), [A]);
        assert_eq!(claim(&opens, A, 2, Access::Write), [], "known by now");
        let Registered::Wait(gate) = opens.register(request(SessionId::new(3), 1, Access::Read)) else {
            panic!("nobody looks before A has flushed");
        };
        assert_eq!(opens.numbering(A, FILE), Some(Numbering::Primary));
        opens.recalled(FILE);
        assert!(gate.is_open());
    }

    #[test]
    fn recalls_of_several_claims_overlap() {
        let opens = Opens::default();
        let third = SessionId::new(3);
        assert_eq!(claim(&opens, A, 1, Access::Write), [], "alone so far");
        assert_eq!(opens.numbering(A, FILE), Some(Numbering::Client));
        assert_eq!(claim(&opens, B, 1, Access::Write), [A, B]);
        assert_eq!(claim(&opens, third, 1, Access::Write), [third], "A is being recalled");
        let Registered::Wait(gate) = opens.register(request(SessionId::new(4), 1, Access::Read)) else {
            panic!("a newcomer waits for all of them");
        };
        [A, B].iter().for_each(|_| opens.recalled(FILE));
        assert!(!gate.is_open());
        opens.end_session(A);
        opens.end_session(B);
        assert_eq!(opens.numbering(third, FILE), Some(Numbering::Primary), "its recall is under way");
        opens.recalled(FILE);
        assert!(gate.is_open());
        assert!(exclusive(&opens, third, 2, Access::Write));
    }

    #[test]
    fn exclusive_only_when_nobody_is_expected_back() {
        let opens = Opens::default();
        let asked = OpenRequest { exclusive_possible: false, ..request(A, 1, Access::Write) };
        assert!(matches!(opens.register(asked), Registered::Done(false)));
    }
}
