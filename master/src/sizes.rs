//! Sizes and times of files that are being written: volatile here, logged lazily (close waits
//! for no log). [`Sizes::overlay`] is the one function through which every attribute leaves the master.
//!
//! What is noted counts only for the truncate generation it was reported under: a cut voids it.
//! A record that is being logged and a `SetAttr` of times exclude each other per file (see
//! [`Sizes::hold`]), so that a late record never brings back a time that was set meanwhile.

use crate::gate::Gate;
use gfs_master_core::SizeRecord;
use gfs_proto::attr::{Attr, SetTime};
use gfs_proto::ids::{InodeId, TruncateGeneration};
use gfs_proto::time::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a writer says about its file.
#[derive(Clone, Copy, Debug)]
pub struct SizeReport {
    /// It reaches at least this far.
    pub size: u64,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of attributes.
    pub ctime: Option<Timestamp>,
    /// Void unless it is the file's.
    pub generation: TruncateGeneration,
}

#[derive(Debug)]
struct Volatile {
    size: u64,
    mtime: Option<Timestamp>,
    atime: Option<Timestamp>,
    ctime: Option<Timestamp>,
    generation: TruncateGeneration,
    /// Raised by every change: what was logged meanwhile is not the whole.
    changes: u64,
    /// To be logged at the next opportunity.
    wanted: bool,
    logging: Option<Gate>,
    /// Batches under way that may set its times.
    holders: u32,
    /// Opens when the last of them is done.
    held: Option<Gate>,
}

/// A record under way to the log; hand it back to [`Sizes::logged`].
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// What is logged.
    pub record: SizeRecord,
    changes: u64,
}

/// Volatile sizes and times by file.
#[derive(Default, Debug)]
pub struct Sizes {
    files: Mutex<HashMap<InodeId, Volatile>>,
    /// Entries of `files`, to spare the lock where nothing is being written.
    count: AtomicUsize,
}

impl Volatile {
    fn of(attr: &Attr) -> Self {
        Self {
            size: attr.size,
            mtime: None,
            atime: None,
            ctime: None,
            generation: attr.truncate_generation,
            changes: 0,
            wanted: false,
            logging: None,
            holders: 0,
            held: None,
        }
    }

    fn note(&mut self, attr: &Attr, report: &SizeReport, now: Timestamp) {
        self.size = self.size.max(report.size);
        let latest = self.mtime.unwrap_or(attr.mtime);
        if let Some(mtime) = report.mtime {
            self.mtime = Some(at(mtime, after(latest, now)));
        }
        if let Some(atime) = report.atime {
            self.atime = Some(at(atime, now));
        }
        let changed = report.ctime.or_else(|| report.mtime.map(|_| now.max(self.mtime.unwrap_or(now))));
        self.ctime = self.ctime.max(changed);
        self.changes += 1;
    }

    fn record(&self, inode: InodeId) -> SizeRecord {
        SizeRecord {
            inode,
            size: self.size,
            mtime: self.mtime,
            atime: self.atime,
            ctime: self.ctime,
            truncate_generation: self.generation,
        }
    }

    fn overlay(&self, attr: &mut Attr) {
        if self.generation != attr.truncate_generation {
            return;
        }
        attr.size = attr.size.max(self.size);
        attr.mtime = self.mtime.unwrap_or(attr.mtime);
        attr.atime = self.atime.unwrap_or(attr.atime);
        attr.ctime = self.ctime.map_or(attr.ctime, |ctime| ctime.max(attr.ctime));
    }
}

fn at(time: SetTime, now: Timestamp) -> Timestamp {
    match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    }
}

/// `now`, but later than `latest`: a change is never hidden by a coarse or stepping clock.
fn after(latest: Timestamp, now: Timestamp) -> Timestamp {
    if now > latest { now } else { Timestamp::from_nanos(latest.as_nanos() + 1) }
}

impl Sizes {
    /// Shows what is known beyond the recorded attributes.
    pub fn overlay(&self, mut attr: Attr) -> Attr {
        if self.count.load(Ordering::Acquire) > 0
            && let Some(known) = self.files.lock().get(&attr.inode)
        {
            known.overlay(&mut attr);
        }
        attr
    }

    /// Notes a report about the file with these recorded attributes; one of another generation is void.
    /// Gives the attributes that result.
    pub fn note(&self, mut attr: Attr, report: &SizeReport, now: Timestamp) -> Attr {
        let mut files = self.files.lock();
        if report.generation == attr.truncate_generation {
            let known = files.entry(attr.inode).or_insert_with(|| Volatile::of(&attr));
            if known.generation < attr.truncate_generation {
                let (logging, held) = (known.logging.take(), known.held.take());
                *known = Volatile { logging, held, holders: known.holders, ..Volatile::of(&attr) };
            }
            // The attributes may have been looked up before a cut that others know of already.
            if known.generation == attr.truncate_generation {
                known.note(&attr, report, now);
            }
        }
        if let Some(known) = files.get(&attr.inode) {
            known.overlay(&mut attr);
        }
        self.count.store(files.len(), Ordering::Release);
        attr
    }

    /// The file is to be logged soon: nobody writes it any more.
    pub fn want(&self, inode: InodeId) {
        if self.count.load(Ordering::Acquire) > 0
            && let Some(known) = self.files.lock().get_mut(&inode)
        {
            known.wanted = true;
        }
    }

    /// All files are to be logged.
    pub fn want_all(&self) {
        self.files.lock().values_mut().for_each(|known| known.wanted = true);
    }

    /// Up to `max` records of files that are to be logged.
    pub fn take_wanted(&self, max: usize) -> Vec<Pending> {
        let mut files = self.files.lock();
        let free = |known: &&mut Volatile| known.wanted && known.logging.is_none() && known.holders == 0;
        let ready = files.iter_mut().map(|(inode, known)| (*inode, known)).filter(|(_, known)| free(known));
        ready.take(max).map(|(inode, known)| begin(inode, known)).collect()
    }

    /// Of the records that are under way to the log.
    pub fn under_way(&self) -> Vec<Gate> {
        self.files.lock().values().filter_map(|known| known.logging.clone()).collect()
    }

    /// The record of one file, to be logged at once. `None` if nothing is to be said. While another
    /// record of it is under way or its times are being set, the gate to wait at before it is tried again.
    pub fn take(&self, inode: InodeId) -> Result<Option<Pending>, Gate> {
        match self.files.lock().get_mut(&inode) {
            None => Ok(None),
            Some(known) => match known.logging.as_ref().or(known.held.as_ref()) {
                Some(gate) => Err(gate.clone()),
                None => Ok(Some(begin(inode, known))),
            },
        }
    }

    /// A record is in the log (or, if not, was given up): forgets what it said unless more came since.
    pub fn logged(&self, pending: &Pending, success: bool) {
        let mut files = self.files.lock();
        if let Some(known) = files.get_mut(&pending.record.inode) {
            if let Some(gate) = known.logging.take() {
                gate.open();
            }
            if success && known.changes == pending.changes && known.holders == 0 {
                files.remove(&pending.record.inode);
            }
        }
        self.count.store(files.len(), Ordering::Release);
    }

    /// Keeps records of the file from being logged while its attributes are being set. False if there is
    /// nothing to keep; otherwise [`Sizes::set`] must follow.
    pub async fn hold(&self, inode: InodeId) -> bool {
        loop {
            let gate = match self.files.lock().get_mut(&inode) {
                None => return false,
                Some(known) => match &known.logging {
                    None => {
                        known.holders += 1;
                        known.held.get_or_insert_default();
                        return true;
                    }
                    Some(gate) => gate.clone(),
                },
            };
            gate.passed().await;
        }
    }

    /// Attributes were set after [`Sizes::hold`]: what was set is not to be logged again.
    pub fn set(&self, inode: InodeId, mtime: bool, atime: bool) {
        let mut files = self.files.lock();
        if let Some(known) = files.get_mut(&inode) {
            // None is left if the file was forgotten and noted again meanwhile.
            known.holders = known.holders.saturating_sub(1);
            if known.holders == 0
                && let Some(gate) = known.held.take()
            {
                gate.open();
            }
            known.mtime = known.mtime.filter(|_| !mtime);
            known.atime = known.atime.filter(|_| !atime);
        }
    }

    /// The file is gone.
    pub fn forget(&self, inode: InodeId) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut files = self.files.lock();
            if let Some(known) = files.remove(&inode) {
                known.logging.into_iter().chain(known.held).for_each(|gate| gate.open());
            }
            self.count.store(files.len(), Ordering::Release);
        }
    }
}

fn begin(inode: InodeId, known: &mut Volatile) -> Pending {
    known.logging = Some(Gate::new());
    Pending { record: known.record(inode), changes: known.changes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::attr::{FileKind, Mode};

    const FILE: InodeId = InodeId::new(9);

    fn recorded() -> Attr {
        Attr {
            inode: FILE,
            kind: FileKind::File,
            mode: Mode::new(0o644),
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 10,
            chunks: 1,
            atime: Timestamp::default(),
            mtime: time(100),
            ctime: time(100),
            goal: 3,
            has_xattrs: false,
            has_acl: false,
            truncate_generation: TruncateGeneration::new(1),
            map_generation: Default::default(),
        }
    }
    fn time(secs: i64) -> Timestamp {
        Timestamp::new(secs, 0).expect("valid")
    }
    fn report(size: u64, generation: u64) -> SizeReport {
        let generation = TruncateGeneration::new(generation);
        SizeReport { size, mtime: Some(SetTime::Now), atime: None, ctime: None, generation }
    }

    #[test]
    fn sizes_grow_and_times_move_on_even_if_the_clock_stands() {
        let sizes = Sizes::default();
        let first = sizes.note(recorded(), &report(500, 1), time(50));
        assert_eq!(first.size, 500);
        assert!(first.mtime > recorded().mtime, "later although the clock is behind");
        let second = sizes.note(recorded(), &report(20, 1), time(50));
        assert_eq!(second.size, 500, "a report never cuts");
        assert!(second.mtime > first.mtime && second.ctime >= second.mtime);
        assert_eq!(sizes.overlay(recorded()), second);
    }

    #[test]
    fn a_cut_voids_reports_from_before() {
        let sizes = Sizes::default();
        sizes.note(recorded(), &report(500, 1), time(200));
        let cut = Attr { size: 5, truncate_generation: TruncateGeneration::new(2), ..recorded() };
        assert_eq!(sizes.overlay(cut.clone()).size, 5);
        assert_eq!(sizes.note(cut.clone(), &report(700, 1), time(201)).size, 5);
        assert_eq!(sizes.note(cut, &report(6, 2), time(201)).size, 6);
    }

    #[test]
    fn a_report_from_before_a_cut_does_not_take_the_place_of_one_from_after_it() {
        let sizes = Sizes::default();
        let cut = Attr { size: 5, truncate_generation: TruncateGeneration::new(2), ..recorded() };
        sizes.note(cut.clone(), &report(6, 2), time(201));
        // Looked up before the cut, noted after it.
        assert_eq!(sizes.note(recorded(), &report(700, 1), time(202)).size, recorded().size);
        assert_eq!(sizes.overlay(cut).size, 6);
    }

    #[test]
    fn what_came_while_logging_is_logged_again() {
        let sizes = Sizes::default();
        sizes.note(recorded(), &report(500, 1), time(200));
        assert!(sizes.take_wanted(9).is_empty(), "still being written");
        sizes.want(FILE);
        let pending = sizes.take_wanted(9);
        assert_eq!(pending[0].record.size, 500);
        assert!(sizes.take_wanted(9).is_empty(), "under way");
        sizes.note(recorded(), &report(600, 1), time(201));
        sizes.logged(&pending[0], true);
        let again = sizes.take_wanted(9);
        assert_eq!(again[0].record.size, 600);
        sizes.logged(&again[0], true);
        assert_eq!(sizes.overlay(recorded()), recorded(), "all is in the log, nothing is kept");
    }

    #[tokio::test]
    async fn times_that_were_set_are_not_brought_back() {
        let sizes = Sizes::default();
        sizes.note(recorded(), &report(500, 1), time(200));
        sizes.want(FILE);
        assert!(sizes.hold(FILE).await);
        assert!(sizes.take_wanted(9).is_empty(), "attributes are being set");
        sizes.set(FILE, true, false);
        let record = sizes.take_wanted(9)[0].record;
        assert_eq!((record.mtime, record.size), (None, 500));
    }

    #[tokio::test]
    async fn a_record_that_is_asked_for_waits_while_times_are_set() {
        let sizes = Sizes::default();
        sizes.note(recorded(), &report(500, 1), time(200));
        assert!(sizes.hold(FILE).await && sizes.hold(FILE).await, "two batches");
        let gate = sizes.take(FILE).expect_err("not before the times are set");
        sizes.set(FILE, true, false);
        assert!(!gate.is_open(), "one of two");
        sizes.set(FILE, false, false);
        assert!(gate.is_open());
        let pending = sizes.take(FILE).expect("nobody holds it").expect("a size");
        assert_eq!(pending.record.mtime, None, "what was set is not overwritten");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_file_that_is_gone() {
        let sizes = Sizes::default();
        sizes.note(recorded(), &report(500, 1), time(200));
        assert!(sizes.hold(FILE).await);
        let gate = sizes.take(FILE).expect_err("held");
        sizes.forget(FILE);
        assert!(gate.is_open() && matches!(sizes.take(FILE), Ok(None)));
    }
}
