//! The mark journal under prefixes, flipped bits, crashes, full disks and many threads.

use super::*;
use crate::store::mem::{Fault, Loss, MemDisk};

const DIR: &str = "/d";

fn disk() -> Arc<MemDisk> {
    let disk = MemDisk::default();
    disk.make_dir(Path::new(DIR)).expect("directory");
    disk.sync_dir(Path::new("/")).expect("flush");
    Arc::new(disk)
}

fn journal(disk: &Arc<MemDisk>) -> MarkJournal<MemDisk> {
    MarkJournal::create(disk.clone(), DIR.into(), Marks::new(), Harmed::new()).expect("journal")
}

fn content(disk: &MemDisk) -> Vec<u8> {
    disk.content(&Path::new(DIR).join(FILE)).expect("journal file")
}

fn h(raw: u64) -> ChunkHandle {
    ChunkHandle::new(raw)
}

/// Ten records, all durable, and the marks after each of them.
fn sample() -> (Vec<u8>, Vec<Marks>) {
    let disk = disk();
    let journal = journal(&disk);
    let mut states = vec![Marks::new()];
    for step in 0..10 {
        if step % 4 == 3 {
            journal.clear(h(step - 1));
            journal.flush().expect("flush");
        } else {
            let mark = if step % 3 == 0 { Mark::Suspect } else { Mark::Dirty };
            journal.mark(h(step), mark).expect("mark");
        }
        states.push(journal.marks());
    }
    let raw = content(&disk)[..11 * SLOT].to_vec();
    (raw, states)
}

#[test]
fn every_prefix_gives_the_marks_of_its_whole_records() {
    let (raw, states) = sample();
    for end in 0..=raw.len() {
        let got = replay(&raw[..end]);
        match (end / SLOT).checked_sub(1) {
            None => assert!(got.damaged, "no header in {end} bytes"),
            Some(records) => {
                assert_eq!(got, Replayed { marks: states[records].clone(), ..Replayed::default() }, "{end}")
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (raw, _) = sample();
    for bit in 0..raw.len() * 8 {
        let mut bad = raw.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(replay(&bad).damaged, "bit {bit}");
    }
}

#[test]
fn a_zeroed_durable_record_is_noticed_but_not_a_lost_unflushed_one() {
    let (raw, _) = sample();
    for slot in 1..10 {
        let mut bad = raw.clone();
        bad[slot * SLOT..][..SLOT].fill(0);
        assert!(replay(&bad).damaged, "slot {slot}");
    }
    let disk = disk();
    let journal = journal(&disk);
    journal.mark(h(1), Mark::Dirty).expect("mark");
    journal.clear(h(1));
    journal.write_queued();
    journal.mark_later(h(2), Mark::Dirty);
    journal.write_queued();
    let mut lost = content(&disk);
    lost[2 * SLOT..][..SLOT].fill(0);
    assert_eq!(replay(&lost).marks, Marks::from([(h(1), Mark::Dirty), (h(2), Mark::Dirty)]));
    assert!(!replay(&lost).damaged, "the clearing record had never been flushed");
}

#[test]
fn a_full_journal_is_replaced_and_keeps_the_marks_in_force() {
    let disk = disk();
    let journal = journal(&disk);
    for round in 0..3 * SLOTS_MIN as u64 {
        journal.mark(h(round % 100), Mark::Dirty).expect("mark");
        journal.clear(h((round + 50) % 100));
    }
    journal.flush().expect("flush");
    assert_eq!(content(&disk).len(), SLOTS_MIN * SLOT, "no larger than at first");
    assert_eq!(replay(&content(&disk)), Replayed { marks: journal.marks(), ..Replayed::default() });
}

#[test]
fn many_marks_make_a_larger_journal() {
    let disk = disk();
    let marks: Marks = (0..20_000).map(|n| (h(n), Mark::Suspect)).collect();
    let journal = MarkJournal::create(disk.clone(), DIR.into(), marks.clone(), Harmed::new()).expect("journal");
    journal.mark(h(77_777), Mark::Dirty).expect("mark");
    let got = replay(&content(&disk));
    assert!(!got.damaged && got.marks.len() == 20_001);
}

#[test]
fn an_acknowledged_mark_survives_any_crash() {
    for operation in 0..200 {
        for seed in 0..4 {
            let disk = disk();
            let journal = journal(&disk);
            disk.fail(operation, Fault::Crash);
            let mut acknowledged = Marks::new();
            for n in 0..20 {
                if journal.mark(h(n), Mark::Dirty).is_ok() {
                    acknowledged.insert(h(n), Mark::Dirty);
                }
            }
            let over = !disk.failed();
            disk.restart(Loss::Power(seed));
            let got = replay(&content(&disk));
            assert!(!got.damaged, "operation {operation}");
            assert!(acknowledged.keys().all(|handle| got.marks.contains_key(handle)), "operation {operation}");
            if over {
                return;
            }
        }
    }
    panic!("the run is longer than expected");
}

#[test]
fn damage_stays_noted_whatever_else_is_said_of_a_replica() {
    let disk = disk();
    let journal = journal(&disk);
    journal.mark(h(1), Mark::Dirty).expect("mark");
    journal.harm(h(1)).expect("note");
    journal.clear(h(1));
    journal.harm(h(2)).expect("note");
    journal.harm(h(3)).expect("note");
    journal.mended(h(2));
    journal.mark(h(3), Mark::Suspect).expect("mark");
    let expected =
        Replayed { marks: Marks::from([(h(3), Mark::Suspect)]), harmed: [h(1), h(3)].into(), damaged: false };
    assert_eq!(replay(&content(&disk)), expected);
    for round in 0..2 * SLOTS_MIN as u64 {
        journal.mark(h(100 + round % 10), Mark::Dirty).expect("mark");
        journal.clear(h(100 + round % 10));
    }
    journal.flush().expect("flush");
    assert_eq!(replay(&content(&disk)), expected, "a new journal has it too");
    journal.forget(h(3));
    journal.flush().expect("flush");
    assert_eq!(replay(&content(&disk)), Replayed { harmed: [h(1)].into(), ..Replayed::default() });
}

#[test]
fn a_failed_flush_fails_for_good_a_full_disk_only_for_now() {
    let disk_one = disk();
    let one = journal(&disk_one);
    disk_one.fail(1, Fault::Eio);
    assert_eq!(one.mark(h(1), Mark::Dirty), Err(DataError::Io));
    assert_eq!(one.mark(h(2), Mark::Dirty), Err(DataError::Io), "what a failed flush lost is not known");

    let disk_two = disk();
    let two = journal(&disk_two);
    disk_two.fail(0, Fault::Enospc);
    assert_eq!(two.mark(h(1), Mark::Dirty), Err(DataError::NoSpace));
    two.mark(h(2), Mark::Dirty).expect("there is room again");
    let marks = replay(&content(&disk_two)).marks;
    assert_eq!(marks.keys().copied().collect::<Vec<_>>(), [h(1), h(2)], "a refused mark may stay");
}

#[test]
fn threads_share_flushes_and_lose_nothing() {
    let disk = disk();
    let journal = journal(&disk);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let journal = &journal;
            scope.spawn(move || (0..500).for_each(|n| journal.mark(h(thread * 1000 + n), Mark::Dirty).expect("mark")));
        }
    });
    disk.restart(Loss::Power(3));
    let got = replay(&content(&disk));
    assert!(!got.damaged && got.marks.len() == 4000);
}
