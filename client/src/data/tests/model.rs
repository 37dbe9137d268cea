//! Random operations under random faults against an array of bytes.

use super::cluster::{Cluster, config};
use super::pattern;
use crate::data::DataConfig;
use crate::data::Tried;
use gfs_proto::frame::DataError;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const CHUNK: u32 = 64 << 10;
const FILE: u64 = 4 * CHUNK as u64;

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, length: usize, salt: u8 },
    Append { length: usize, salt: u8 },
    Read { offset: u64, length: u32 },
    Flush,
    Sync,
    Truncate(u64),
    Exclusive(bool),
    Invalidate,
    Fault { server: usize, fault: Fault },
}

#[derive(Clone, Debug)]
enum Fault {
    Drop {
        apply: bool,
    },
    Refuse(DataError),
    CorruptRead,
    /// Dies and comes back empty.
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..FILE, (1..4u64, 0..200u64).prop_map(|(chunk, by)| chunk * u64::from(CHUNK) - 100 + by)];
    let length = prop_oneof![1..300usize, 1..9000usize, 60_000..140_000usize];
    let fault = prop_oneof![
        any::<bool>().prop_map(|apply| Fault::Drop { apply }),
        prop::sample::select(vec![DataError::Epoch, DataError::Transfer, DataError::Io, DataError::Busy])
            .prop_map(Fault::Refuse),
        Just(Fault::CorruptRead),
        Just(Fault::Lose),
    ];
    prop_oneof![
        8 => (offset.clone(), length.clone(), any::<u8>()).prop_map(|(offset, length, salt)| Step::Write { offset, length, salt }),
        2 => (1..5000usize, any::<u8>()).prop_map(|(length, salt)| Step::Append { length, salt }),
        6 => (offset.clone(), 1..150_000u32).prop_map(|(offset, length)| Step::Read { offset, length }),
        2 => Just(Step::Flush),
        1 => Just(Step::Sync),
        1 => offset.prop_map(Step::Truncate),
        1 => any::<bool>().prop_map(Step::Exclusive),
        1 => Just(Step::Invalidate),
        3 => (0..3usize, fault).prop_map(|(server, fault)| Step::Fault { server, fault }),
    ]
}

/// Only one server is never harmed, so that acknowledged bytes always have a home; which one it is
/// varies, for the first is the primary.
fn inject(cluster: &Arc<Cluster>, anchor: usize, server: usize, fault: &Fault) {
    let target = &cluster.servers[server];
    match fault {
        Fault::Drop { apply: true } => {
            let mut faults = target.faults.lock();
            (faults.drop_writes, faults.apply_dropped) = (1, true);
        }
        Fault::CorruptRead => target.faults.lock().corrupt_reads += 1,
        _ if server == anchor => {}
        Fault::Drop { apply: false } => {
            let mut faults = target.faults.lock();
            (faults.drop_writes, faults.apply_dropped) = (1, false);
        }
        Fault::Refuse(error) => target.faults.lock().refuse_writes.push_back(*error),
        // under primary numbering a new chunk may be at the primary alone
        Fault::Lose if !cluster.has_home_without(target) => {}
        Fault::Lose => {
            target.kill();
            target.chunks.lock().clear();
            target.restart();
        }
    }
}

async fn run(anchor: usize, steps: Vec<Step>) {
    let cluster = Cluster::start(CHUNK).await;
    let plane = cluster.plane(DataConfig { cache_bytes: 200_000, dirty_bytes: 150_000, ..config() });
    let file = cluster.create(&plane);
    let mut model: Vec<u8> = Vec::new();
    let mut exclusive = true;
    for step in steps {
        match step {
            Step::Write { offset, length, salt } => {
                let data = pattern(offset, length, salt);
                file.write(offset, &data).await.expect("written");
                let end = offset as usize + length;
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&data);
            }
            Step::Append { length, salt } => {
                let data = pattern(0, length, salt);
                assert_eq!(file.append(&data).await.expect("written"), model.len() as u64);
                model.extend(data);
            }
            Step::Read { offset, length } => {
                let (from, to) =
                    ((offset as usize).min(model.len()), (offset as usize + length as usize).min(model.len()));
                if let Tried::Done(read) = file.try_read(offset, length) {
                    assert!(read == model[from..to], "in memory: {offset}+{length}");
                }
                let read = file.read(offset, length).await.expect("read");
                assert!(read == model[from..to], "{offset}+{length}");
            }
            Step::Flush => file.flush().await.expect("flushed"),
            Step::Sync => {
                file.sync().await.expect("synced");
                assert!(cluster.content(model.len() as u64, true) == model, "on stable storage");
            }
            Step::Truncate(size) => {
                let cut = file.truncate_prepare(size).await.expect("prepared");
                let generation = cluster.cut(size);
                file.truncated(size, generation);
                drop(cut);
                model.resize(size as usize, 0);
            }
            Step::Exclusive(wanted) => {
                file.set_exclusive(wanted).await.expect("flushed");
                if wanted != exclusive {
                    exclusive = wanted;
                    file.forget_grants();
                    let mut master = cluster.master.lock();
                    master.shared = !wanted;
                    master.chunks.values_mut().for_each(|known| known.leased = false);
                }
            }
            Step::Invalidate => file.invalidate(),
            Step::Fault { server, fault } => inject(&cluster, anchor, server, &fault),
        }
        assert_eq!(file.size(), model.len() as u64);
    }
    file.sync().await.expect("synced");
    assert!(cluster.content(model.len() as u64, true) == model, "at the replicas");
    assert_eq!(plane.dirty_bytes(), 0);
    let fresh = cluster.open(&cluster.plane(config()), model.len() as u64, None, false);
    assert!(fresh.read(0, 2 * FILE as u32).await.expect("read") == model, "for another client");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_an_array_of_bytes_whatever_fails(anchor in 0..3usize, steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let bounded = async { tokio::time::timeout(Duration::from_secs(60), run(anchor, steps)).await };
        prop_assert!(runtime.block_on(bounded).is_ok(), "hangs");
    }
}
