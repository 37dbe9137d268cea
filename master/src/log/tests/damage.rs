//! Every cut and every flipped bit: recovery finds exactly what was flushed, or refuses and leaves
//! everything as it is.

use raft::eraftpb::{Entry, HardState};

use super::super::disk::Disk;
use super::super::error::Damage;
use super::super::mem_disk::SECTOR;
use super::super::segment::HEADER_BYTES;
use super::*;

/// A closed segment and a last one, and where the frames of the last one end.
struct Sample {
    disk: MemDisk,
    commands: Vec<(u64, Vec<u8>)>,
    /// Names of the segments.
    names: Vec<String>,
    /// Ends of the frames in the last segment, the first one without commands, and how many commands
    /// there are up to there.
    ends: Vec<(usize, usize)>,
}

/// Commands of these sizes, each flushed on its own, behind one closed segment.
fn sample(sizes: &[usize]) -> Sample {
    let disk = MemDisk::default();
    let mut log = recovery::open(Arc::new(disk.clone()), &config(), Position::default()).expect("a new log");
    let mut commands = Vec::new();
    let mut ends = Vec::new();
    for (number, &bytes) in [700].iter().chain(sizes).enumerate() {
        let index = number as u64 + 1;
        let entry = Entry { term: 1, index, data: command(number, bytes).into(), ..Default::default() };
        let state = HardState { term: 1, vote: 1, commit: index - 1, ..Default::default() };
        log.append(vec![entry], Some(state)).expect("the disk works");
        commands.push((index, command(number, bytes)));
        if number == 0 {
            log.reserve([14 << 10].into_iter()).expect("the disk works");
        }
        ends.push((log.end as usize, commands.len()));
    }
    let names: Vec<String> = disk.list().expect("works").into_iter().collect();
    Sample { disk, commands, names, ends }
}

/// Either all of it is there, or it is refused and untouched.
fn all_or_refused(sample: &Sample, disk: &MemDisk, what: &str) -> bool {
    let before = disk.dump();
    match recover(disk) {
        Ok(found) => {
            assert!(found == sample.commands, "{what}: {} commands", found.len());
            true
        }
        Err(_) => {
            assert_eq!(disk.dump(), before, "{what}: refused, so nothing may change");
            false
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let sample = sample(&[40, 600, 61, 33]);
    for (name, end) in [(&sample.names[0], None), (&sample.names[1], sample.ends.last())] {
        let bytes = sample.disk.bytes(name);
        let written = end.map_or_else(|| bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1), |end| end.0);
        // Of the header's unused part a sample is enough: its checksum covers all of it alike.
        let offsets = (0..HEADER_BYTES as usize).filter(|at| *at < 80 || at % 97 == 0 || *at >= 4088);
        for offset in offsets.chain(HEADER_BYTES as usize..written) {
            for bit in 0..8 {
                let disk = sample.disk.copy();
                let mut bytes = bytes.clone();
                bytes[offset] ^= 1 << bit;
                disk.set_bytes(name, bytes);
                all_or_refused(&sample, &disk, &format!("{name}, byte {offset}, bit {bit}"));
            }
        }
    }
}

#[test]
fn a_bit_in_space_never_written_is_harmless_at_the_end_of_the_log_only() {
    let sample = sample(&[40, 700]);
    for (at, harmless) in [(0, false), (1, true)] {
        let disk = sample.disk.copy();
        let mut bytes = disk.bytes(&sample.names[at]);
        let last = bytes.len() - 100;
        bytes[last] ^= 4;
        disk.set_bytes(&sample.names[at], bytes);
        assert_eq!(all_or_refused(&sample, &disk, "unwritten space"), harmless);
    }
}

#[test]
fn every_prefix_of_the_last_segment_holds_the_frames_that_it_holds_whole() {
    let sample = sample(&[40, 600, 61, 33]);
    let whole = sample.disk.bytes(&sample.names[1]);
    let first_frame = sample.ends[0].0;
    let commands_in = |length: usize, zeroes: bool| {
        // The end mark adds nothing to a frame whose checksum is right, nor do zeroes before it.
        let zeroes_before = |end: usize| whole[..end].iter().rev().take_while(|&&byte| zeroes && byte == 0).count();
        let held = sample.ends.iter().rev().find(|(end, _)| end - 8 - zeroes_before(end - 8) <= length);
        held.map_or(1, |&(_, count)| count)
    };
    for length in 0..=sample.ends.last().map_or(0, |end| end.0) {
        for zeroes in [false, true] {
            let disk = sample.disk.copy();
            let mut bytes = whole[..length].to_vec();
            bytes.resize(if zeroes { whole.len() } else { length }, 0);
            disk.set_bytes(&sample.names[1], bytes);
            match recover(&disk) {
                Ok(found) => assert!(found == sample.commands[..commands_in(length, zeroes)], "cut at {length}"),
                // Header and first frame were durable before the segment had its name.
                Err(fault) => assert!(length < first_frame, "cut at {length}: {fault}"),
            }
        }
    }
}

#[test]
fn every_prefix_of_a_closed_segment_is_refused() {
    let sample = sample(&[40]);
    let bytes = sample.disk.bytes(&sample.names[0]);
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    for length in (0..written - 8).step_by(3) {
        let disk = sample.disk.copy();
        disk.set_bytes(&sample.names[0], bytes[..length].to_vec());
        assert!(!all_or_refused(&sample, &disk, &format!("cut at {length}")), "cut at {length}");
    }
}

/// No entry tells of a vote that was lost, but where the next segment was begun does.
#[test]
fn a_closed_segment_that_lost_its_last_vote_is_refused() {
    let disk = MemDisk::default();
    let mut log = recovery::open(Arc::new(disk.clone()), &config(), Position::default()).expect("a new log");
    let end = log.end;
    log.append(Vec::new(), Some(HardState { term: 5, vote: 1, ..Default::default() })).expect("the disk works");
    log.reserve([14 << 10].into_iter()).expect("the disk works");
    let name = disk.list().expect("works").remove(0);
    let mut bytes = disk.bytes(&name);
    bytes[end as usize..].fill(0);
    disk.set_bytes(&name, bytes);
    let fault = recover(&disk).expect_err("refused");
    assert!(matches!(fault, LogFault::Damaged { offset, damage: Damage::Short(_), .. } if offset == end), "{fault}");
}

#[test]
fn a_write_torn_between_sectors_is_dropped_whole() {
    let sample = sample(&[40, 2000]);
    let (start, end) = (sample.ends[1].0, sample.ends[2].0);
    let sectors: Vec<usize> = (start / SECTOR..end.div_ceil(SECTOR)).collect();
    for missing in 0u32..1 << sectors.len() {
        let disk = sample.disk.copy();
        let mut bytes = disk.bytes(&sample.names[1]);
        for (bit, sector) in sectors.iter().enumerate().filter(|(bit, _)| missing & (1 << bit) != 0) {
            assert!(bit < 32);
            bytes[(sector * SECTOR).max(start)..((sector + 1) * SECTOR).min(end)].fill(0);
        }
        disk.set_bytes(&sample.names[1], bytes);
        let held = if missing == 0 { 3 } else { 2 };
        assert_eq!(recover(&disk).expect("a torn write"), sample.commands[..held], "{missing:b} missing");
        assert_eq!(recover(&disk).expect("again"), sample.commands[..held], "{missing:b} missing, opened twice");
    }
}

#[test]
fn damage_in_front_of_a_good_record_names_segment_and_offsets() {
    let sample = sample(&[40, 700, 61]);
    let disk = sample.disk.copy();
    let mut bytes = disk.bytes(&sample.names[1]);
    let start = sample.ends[0].0;
    // As if none of it had ever arrived: what follows proves that it had.
    bytes[start..sample.ends[1].0].fill(0);
    disk.set_bytes(&sample.names[1], bytes);
    let fault = recover(&disk).expect_err("refused");
    let LogFault::Damaged { segment, offset, damage } = &fault else { panic!("{fault}") };
    assert_eq!((segment, *offset, *damage), (&sample.names[1], start as u64, Damage::Middle(sample.ends[1].0 as u64)));
    assert!(fault.to_string().contains(segment) && fault.to_string().contains(&start.to_string()));
}

#[test]
fn segments_missing_foreign_or_of_a_later_format_are_refused() {
    let sample = sample(&[40, 700, 9000, 9000]);
    let names = &sample.names;
    let disk = sample.disk.copy();
    disk.remove(&names[1]).expect("works");
    assert!(matches!(recover(&disk), Err(LogFault::SegmentMissing { segment }) if segment == names[1]));

    let other = LogConfig { cluster: ClusterId::new([4; 16]), ..config() };
    let fault = recovery::open(Arc::new(sample.disk.copy()), &other, Position::default()).err();
    assert!(matches!(fault, Some(LogFault::Foreign { .. })), "{fault:?}");

    let disk = sample.disk.copy();
    let mut bytes = disk.bytes(&names[0]);
    bytes[8] = 2;
    let sum = crc32c::crc32c(&bytes[..HEADER_BYTES as usize - 4]).to_le_bytes();
    bytes[HEADER_BYTES as usize - 4..HEADER_BYTES as usize].copy_from_slice(&sum);
    disk.set_bytes(&names[0], bytes);
    assert!(matches!(recover(&disk), Err(LogFault::NewerFormat { found: 2, known: 1, .. })));
}
