//! Times and size of an inode that this client writes, as it knows them before the master does.
//!
//! Every attribute that leaves the client goes through [`Overlay::apply`]: a reply of the master never
//! shows a file as it was before this client's own writes. Pure: the clock and the data plane's
//! numbers are passed in.

use gfs_proto::attr::{Attr, SetTime};
use gfs_proto::ids::TruncateGeneration;
use gfs_proto::time::Timestamp;

/// What the data plane knows at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    /// Size with all writes.
    pub(crate) size: u64,
    /// Time of the last write, if there was one since the last report.
    pub(crate) mtime: Option<Timestamp>,
}

/// What goes into a size report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Report {
    pub(crate) size: u64,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) ctime: Option<Timestamp>,
    pub(crate) generation: TruncateGeneration,
    kept: Option<Kept>,
}

/// Times set by `utimensat` (or a chmod that changes nothing else), kept until the next report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kept {
    mtime: Option<Timestamp>,
    atime: Option<Timestamp>,
    ctime: Timestamp,
    /// Time of the last unreported write when these were set: a later write wins over `mtime`.
    after: Option<Timestamp>,
}

/// What the master has noted without logging it yet: lost if it stops uncleanly, so it is told again to
/// its successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    pub(crate) size: u64,
    pub(crate) generation: TruncateGeneration,
    pub(crate) mtime: Timestamp,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) ctime: Timestamp,
}

impl Noted {
    /// Attributes were set since: the times are what `attr` has.
    pub(crate) fn set(&mut self, attr: &Attr) {
        self.mtime = attr.mtime;
        self.atime = self.atime.map(|_| attr.atime);
        self.ctime = attr.ctime;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Times {
    mtime: Timestamp,
    atime: Timestamp,
    ctime: Timestamp,
}

impl Times {
    const fn of(attr: &Attr) -> Self {
        Self { mtime: attr.mtime, atime: attr.atime, ctime: attr.ctime }
    }
}

/// Of one inode that is open here.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    generation: TruncateGeneration,
    kept: Option<Kept>,
    /// Times that the master last confirmed to us: a reply from before shows older ones.
    confirmed: Option<Times>,
    /// Size and generation that are known to be in the log.
    logged: Option<(u64, TruncateGeneration)>,
    /// The last report, if it was not durable.
    unlogged: Option<Noted>,
}

impl Overlay {
    /// At the open. `logged`: the file was just made, so what the master says is in the log.
    pub(crate) const fn new(attr: &Attr, logged: bool) -> Self {
        let logged = if logged { Some((attr.size, attr.truncate_generation)) } else { None };
        Self { generation: attr.truncate_generation, kept: None, confirmed: None, logged, unlogged: None }
    }

    /// Generation of the last cut that is known here.
    pub(crate) const fn generation(&self) -> TruncateGeneration {
        self.generation
    }

    /// Keeps times instead of sending them now.
    pub(crate) fn keep(
        &mut self,
        (mtime, atime): (Option<SetTime>, Option<SetTime>),
        now: Timestamp,
        written: Written,
    ) {
        let at = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(at) => at,
        };
        let old_mtime = self.kept_mtime(written);
        self.kept = Some(Kept {
            mtime: mtime.map(at).or(old_mtime),
            atime: atime.map(at).or(self.kept.and_then(|kept| kept.atime)),
            ctime: now,
            after: written.mtime,
        });
    }

    /// The time that was set, unless there was a write since.
    fn kept_mtime(&self, written: Written) -> Option<Timestamp> {
        let kept = self.kept?;
        kept.mtime.filter(|_| written.mtime.is_none() || written.mtime == kept.after)
    }

    /// What the master has not been told yet.
    pub(crate) fn unreported(&self, written: Written) -> Option<Report> {
        if self.kept.is_none() && written.mtime.is_none() {
            return None;
        }
        Some(Report {
            size: written.size,
            mtime: self.kept_mtime(written).or(written.mtime),
            atime: self.kept.and_then(|kept| kept.atime),
            ctime: self.kept.map(|kept| kept.ctime).max(written.mtime),
            generation: self.generation,
            kept: self.kept,
        })
    }

    /// What a durable report must say; `None` if all of it is in the log. `data_only`: times do not
    /// matter (`fdatasync`).
    pub(crate) fn unlogged(&self, written: Written, data_only: bool) -> Option<Report> {
        let same_size = self.logged == Some((written.size, self.generation));
        let unreported = self.unreported(written);
        if same_size && (data_only || (self.unlogged.is_none() && unreported.is_none())) {
            return None;
        }
        Some(unreported.unwrap_or(Report {
            size: written.size,
            mtime: None,
            atime: None,
            ctime: None,
            generation: self.generation,
            kept: None,
        }))
    }

    /// Size and generation, if this client has written the file since the last durable report.
    pub(crate) fn unlogged_writes(&self, written: Written) -> Option<(u64, TruncateGeneration)> {
        (self.unlogged.is_some() || self.unreported(written).is_some()).then_some((written.size, self.generation))
    }

    /// The master has noted `report` and answered with `attr`.
    pub(crate) fn reported(&mut self, report: &Report, attr: &Attr, durable: bool) {
        if self.kept == report.kept {
            self.kept = None;
        }
        self.confirmed = Some(Times::of(attr));
        let earlier = self.unlogged.filter(|noted| noted.generation == report.generation);
        self.unlogged = (!durable).then_some(Noted {
            size: report.size.max(earlier.map_or(0, |noted| noted.size)),
            generation: report.generation,
            mtime: attr.mtime,
            atime: report.atime.or(earlier.and_then(|noted| noted.atime)),
            ctime: attr.ctime,
        });
        if durable {
            self.logged = Some((report.size, report.generation));
        }
    }

    /// It was written here before it was opened: the master may still lose this.
    pub(crate) const fn inherit(&mut self, noted: Noted) {
        self.unlogged = Some(noted);
    }

    /// What the master may lose.
    pub(crate) const fn noted(&self) -> Option<Noted> {
        self.unlogged
    }

    /// The master has changed attributes at our request, in the log.
    pub(crate) fn confirmed(&mut self, attr: &Attr) {
        self.confirmed = Some(Times::of(attr));
        if let Some(noted) = &mut self.unlogged {
            noted.set(attr);
        }
    }

    /// The size was set, by us or by another session.
    pub(crate) fn truncated(&mut self, attr: &Attr) {
        if attr.truncate_generation > self.generation {
            self.generation = attr.truncate_generation;
            self.logged = Some((attr.size, attr.truncate_generation));
            self.unlogged = None;
        }
    }

    /// Lays what is known here over attributes of the master.
    pub(crate) fn apply(&self, attr: &mut Attr, written: Written, exclusive: bool) {
        self.apply_size(attr, written, exclusive);
        if let Some(confirmed) = self.confirmed.filter(|confirmed| exclusive && confirmed.ctime >= attr.ctime) {
            attr.mtime = confirmed.mtime;
            attr.atime = confirmed.atime;
            attr.ctime = confirmed.ctime;
        }
        if let Some(report) = self.unreported(written) {
            attr.mtime = report.mtime.unwrap_or(attr.mtime);
            attr.atime = report.atime.unwrap_or(attr.atime);
            attr.ctime = report.ctime.map_or(attr.ctime, |ctime| ctime.max(attr.ctime));
        }
    }

    fn apply_size(&self, attr: &mut Attr, written: Written, exclusive: bool) {
        match attr.truncate_generation.cmp(&self.generation) {
            std::cmp::Ordering::Greater => {}
            std::cmp::Ordering::Equal if exclusive => attr.size = written.size,
            std::cmp::Ordering::Equal => attr.size = attr.size.max(written.size),
            std::cmp::Ordering::Less => {
                attr.size = written.size;
                attr.truncate_generation = self.generation;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::attr::{FileKind, Mode};
    use gfs_proto::ids::{InodeId, MapGeneration};

    const fn at(secs: i64) -> Timestamp {
        match Timestamp::new(secs, 0) {
            Some(time) => time,
            None => unreachable!(),
        }
    }

    fn attr(size: u64, time: i64) -> Attr {
        Attr {
            inode: InodeId::new(2),
            kind: FileKind::File,
            mode: Mode::new(0o644),
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            chunks: 0,
            atime: at(time),
            mtime: at(time),
            ctime: at(time),
            goal: 3,
            has_xattrs: false,
            has_acl: false,
            truncate_generation: TruncateGeneration::new(1),
            map_generation: MapGeneration::default(),
        }
    }

    fn written(size: u64, mtime: Option<i64>) -> Written {
        Written { size, mtime: mtime.map(at) }
    }

    fn shown(overlay: &Overlay, mut attr: Attr, written: Written) -> (u64, i64, i64) {
        overlay.apply(&mut attr, written, true);
        (attr.size, attr.mtime.secs(), attr.ctime.secs())
    }

    #[test]
    fn own_writes_are_seen_before_they_are_reported() {
        let overlay = Overlay::new(&attr(0, 10), true);
        assert_eq!(shown(&overlay, attr(0, 10), written(0, None)), (0, 10, 10));
        assert_eq!(shown(&overlay, attr(0, 10), written(7, Some(20))), (7, 20, 20));
        let report = overlay.unreported(written(7, Some(20))).expect("something to report");
        assert_eq!((report.size, report.mtime, report.ctime, report.atime), (7, Some(at(20)), Some(at(20)), None));
    }

    #[test]
    fn a_reply_from_before_a_report_does_not_bring_old_times_back() {
        let mut overlay = Overlay::new(&attr(0, 10), true);
        let report = overlay.unreported(written(7, Some(20))).expect("something to report");
        overlay.reported(&report, &attr(7, 20), false);
        assert_eq!(shown(&overlay, attr(0, 10), written(7, None)), (7, 20, 20), "late");
        assert_eq!(shown(&overlay, attr(7, 30), written(7, None)), (7, 30, 30), "another session's utimes");
    }

    #[test]
    fn kept_times_win_over_earlier_writes_and_lose_to_later_ones() {
        let mut overlay = Overlay::new(&attr(0, 10), true);
        overlay.keep((Some(SetTime::At(at(5))), None), at(21), written(7, Some(20)));
        assert_eq!(shown(&overlay, attr(0, 10), written(7, Some(20))), (7, 5, 21));
        let report = overlay.unreported(written(7, Some(20))).expect("something to report");
        assert_eq!((report.mtime, report.ctime), (Some(at(5)), Some(at(21))));
        assert_eq!(shown(&overlay, attr(0, 10), written(8, Some(22))), (8, 22, 22));
        // a chmod that changes nothing keeps the time that was set
        overlay.keep((None, None), at(23), written(7, Some(20)));
        assert_eq!(shown(&overlay, attr(0, 10), written(7, Some(20))), (7, 5, 23));
        let report = overlay.unreported(written(7, Some(20))).expect("something to report");
        overlay.reported(&report, &Attr { mtime: at(5), ..attr(7, 23) }, false);
        assert_eq!(overlay.unreported(written(7, None)), None, "told once");
    }

    #[test]
    fn times_set_while_a_report_is_under_way_are_reported_next() {
        let mut overlay = Overlay::new(&attr(0, 10), true);
        let report = overlay.unreported(written(7, Some(20))).expect("something to report");
        overlay.keep((Some(SetTime::At(at(5))), None), at(21), written(7, Some(20)));
        overlay.reported(&report, &attr(7, 20), false);
        let next = overlay.unreported(written(7, None)).expect("the times");
        assert_eq!((next.mtime, next.ctime), (Some(at(5)), Some(at(21))));
    }

    #[test]
    fn a_durable_report_is_made_only_when_the_log_lacks_something() {
        let mut overlay = Overlay::new(&attr(4, 10), true);
        assert_eq!(overlay.unlogged(written(4, None), false), None, "nothing happened");
        assert_eq!(overlay.unlogged(written(4, Some(20)), true), None, "fdatasync of an overwrite");
        assert!(overlay.unlogged(written(4, Some(20)), false).is_some(), "fsync logs the mtime");
        assert!(overlay.unlogged(written(5, Some(20)), true).is_some(), "the size matters to both");
        assert_eq!(overlay.unlogged_writes(written(4, None)), None);
        let report = overlay.unreported(written(5, Some(20))).expect("something to report");
        overlay.reported(&report, &attr(5, 20), false);
        assert!(overlay.unlogged_writes(written(5, None)).is_some());
        let durable = overlay.unlogged(written(5, None), true).expect("reported, not yet in the log");
        let noted = overlay.noted().expect("the master may lose it");
        assert_eq!((noted.size, noted.mtime, noted.atime), (5, at(20), None));
        overlay.reported(&durable, &attr(5, 20), true);
        assert_eq!(overlay.unlogged(written(5, None), false), None);
        assert_eq!(overlay.noted(), None);
        let opened = Overlay::new(&attr(4, 10), false);
        assert!(opened.unlogged(written(4, None), true).is_some(), "who knows what an earlier writer left");
    }

    #[test]
    fn generations_decide_whose_size_counts() {
        let mut overlay = Overlay::new(&attr(9, 10), true);
        let cut =
            |size, generation| Attr { truncate_generation: TruncateGeneration::new(generation), ..attr(size, 10) };
        overlay.truncated(&cut(3, 2));
        assert_eq!(shown(&overlay, cut(9, 1), written(3, None)).0, 3, "from before our cut");
        assert_eq!(shown(&overlay, cut(0, 3), written(3, None)).0, 0, "another session's cut");
        let mut shared = cut(8, 2);
        overlay.apply(&mut shared, written(5, None), false);
        assert_eq!(shared.size, 8, "others may have written further");
    }
}
