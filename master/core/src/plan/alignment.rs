//! Whether the replicas of a chunk are the same, and if not, as which of them the others are to become. Pure: from what
//! they report at an install.
//!
//! Keeps: no source is behind another whose last write is known; equal replicas that know the same writes need nothing.

use gfs_proto::control::{InstallReport, WriteOutcome};
use gfs_proto::ids::ServerId;

/// A replica as its server reports it.
pub type Report<'a> = (ServerId, &'a InstallReport);

/// What has to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alignment {
    /// Whose bytes and known writes count.
    pub source: ServerId,
    /// Who has others.
    pub others: Vec<ServerId>,
}

/// `None` if nothing has to be done.
pub fn alignment(reports: &[Report<'_>]) -> Option<Alignment> {
    let (source, chosen) = reports.iter().max_by_key(|report| rank(report, reports))?;
    let differs = |(_, report): &&Report<'_>| report.digest != chosen.digest || !knows_the_same(report, chosen);
    let others: Vec<ServerId> = reports.iter().filter(differs).map(|(server, _)| *server).collect();
    (!others.is_empty()).then_some(Alignment { source: *source, others })
}

/// Who has the last write. Where nobody remembers: what most have, then the longest; the first of equals, so that the
/// choice is the same when it is made again.
fn rank((server, report): &Report<'_>, all: &[Report<'_>]) -> impl Ord + use<> {
    let same = all.iter().filter(|(_, other)| other.digest == report.digest).count();
    (report.position, same, report.length, std::cmp::Reverse(*server))
}

/// The same writes, whatever serials they got, in whatever order.
fn knows_the_same(one: &InstallReport, other: &InstallReport) -> bool {
    let ids = |report: &InstallReport| {
        let mut ids: Vec<_> =
            report.outcomes.iter().map(|WriteOutcome { session, sequence, .. }| (*session, *sequence)).collect();
        ids.sort_unstable();
        ids
    };
    one.outcomes.len() == other.outcomes.len() && ids(one) == ids(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gfs_proto::control::Position;
    use gfs_proto::ids::{Epoch, Sequence, Serial, SessionId, Term};

    /// Digest, epoch and serial of the last write, writes known.
    fn report(digest: u64, (counter, serial): (u64, u64), known: &[u64]) -> InstallReport {
        let outcome = |sequence: &u64| WriteOutcome {
            session: SessionId::new(1),
            sequence: Sequence::new(*sequence),
            serial: Serial::new(*sequence),
        };
        InstallReport {
            digest,
            position: Position { epoch: Epoch { term: Term::new(1), counter }, serial: Serial::new(serial) },
            outcomes: known.iter().map(outcome).collect(),
            ..InstallReport::default()
        }
    }

    fn chosen(reports: &[InstallReport]) -> Option<(u32, Vec<u32>)> {
        let reports: Vec<_> = (1..).map(ServerId::new).zip(reports).collect();
        alignment(&reports).map(|it| (it.source.get(), it.others.iter().map(|server| server.get()).collect()))
    }

    #[test]
    fn who_has_the_last_write_is_the_source_for_those_that_differ() {
        let (same, behind) = (report(7, (2, 5), &[1, 2]), report(8, (2, 4), &[1]));
        let forgot = report(9, (0, 0), &[]);
        let table = [
            (vec![same.clone(), same.clone(), same.clone()], None),
            (vec![same.clone()], None),
            (vec![], None),
            (vec![behind.clone(), same.clone(), behind.clone()], Some((2, vec![1, 3]))),
            (vec![same.clone(), behind.clone(), same.clone()], Some((1, vec![2]))),
            // a later epoch counts for more than a greater serial
            (vec![report(7, (2, 9), &[1]), report(8, (3, 1), &[1])], Some((2, vec![1]))),
            // who knows counts for more than two who forgot
            (vec![forgot.clone(), behind.clone(), forgot.clone()], Some((2, vec![1, 3]))),
            // nobody knows: what most have
            (vec![report(1, (0, 0), &[]), forgot.clone(), forgot.clone()], Some((2, vec![1]))),
            (vec![report(1, (0, 0), &[]), report(2, (0, 0), &[])], Some((1, vec![2]))),
            // the same bytes, but a write that is sent again would not be known everywhere
            (vec![same.clone(), report(7, (0, 0), &[])], Some((1, vec![2]))),
            (vec![same, report(7, (2, 5), &[2, 1])], None),
        ];
        for (reports, expected) in table {
            assert_eq!(chosen(&reports), expected, "{reports:?}");
        }
    }
}
