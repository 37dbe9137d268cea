//! Random operations on one chunk against a vector of bytes, with restarts in between.

use super::*;
use crate::store::mem::Loss;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Write(Vec<(u32, u32)>, u8),
    Cut(u32),
    Clean,
    Sync,
    Raise,
    KillAndRestart,
    StopAndRestart,
}

fn action() -> impl Strategy<Value = Action> {
    let offset = prop_oneof![0..CHUNK, (0..16_u32).prop_map(|block| block * BLOCK)];
    let length = prop_oneof![1..200_u32, 1..20_000_u32, Just(BLOCK), Just(3 * BLOCK)];
    let extents = prop::collection::vec((offset, length), 1..4);
    prop_oneof![
        10 => (extents, any::<u8>()).prop_map(|(extents, seed)| Action::Write(extents, seed)),
        2 => (0..CHUNK).prop_map(Action::Cut),
        1 => Just(Action::Clean),
        1 => Just(Action::Sync),
        1 => Just(Action::Raise),
        1 => Just(Action::KillAndRestart),
        1 => Just(Action::StopAndRestart),
    ]
}

/// In order, within the chunk, not overlapping.
fn tidy(mut extents: Vec<(u32, u32)>) -> Vec<Extent> {
    extents.sort_unstable();
    let mut out: Vec<Extent> = Vec::new();
    for (offset, length) in extents {
        let from = out.last().map_or(offset, |last| offset.max(last.offset + last.length));
        let to = (offset + length).min(CHUNK);
        if from < to {
            out.push(Extent { offset: from, length: to - from });
        }
    }
    out.reverse();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_chunk_behaves_like_a_vector(actions in prop::collection::vec(action(), 1..30)) {
        let (disk, mut store) = fresh();
        store.create(h(1), V1, 0).expect("create");
        let mut model: Vec<u8> = Vec::new();
        for action in actions {
            match action {
                Action::Write(extents, seed) => {
                    let extents = tidy(extents);
                    if extents.is_empty() {
                        continue;
                    }
                    let payload = pattern(seed, extents.iter().map(|extent| extent.length).sum());
                    let mut rest = &payload[..];
                    for extent in &extents {
                        let (start, end) = (extent.offset as usize, (extent.offset + extent.length) as usize);
                        model.resize(model.len().max(end), 0);
                        let (now, later) = rest.split_at(end - start);
                        model[start..end].copy_from_slice(now);
                        rest = later;
                    }
                    prop_assert_eq!(store.put_all(h(1), &extents, &payload), Ok(model.len() as u32));
                }
                Action::Cut(length) => {
                    let version = store.row(h(1)).expect("row").version;
                    store.cut(h(1), version, length).expect("cut");
                    model.truncate(length as usize);
                }
                Action::Clean => prop_assert_eq!(store.mark_clean(&[h(1)]), [h(1)]),
                Action::Sync => store.flush(h(1)).expect("flush"),
                Action::Raise => {
                    let version = store.row(h(1)).expect("row").version;
                    store.raise(h(1), version, version.next()).expect("raise");
                }
                Action::KillAndRestart => {
                    drop(store);
                    disk.restart(Loss::Process);
                    store = open(&disk, "boot-1");
                }
                Action::StopAndRestart => {
                    store.stop().expect("stop");
                    drop(store);
                    disk.restart(Loss::Power(model.len() as u64));
                    store = open(&disk, "boot-1");
                }
            }
            prop_assert!(store.get(h(1)).as_ref() == Ok(&model), "{} bytes expected", model.len());
        }
        let version = store.row(h(1)).expect("row").version;
        prop_assert_eq!(store.verify(h(1), version), Ok(0));
    }
}
