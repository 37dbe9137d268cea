//! WRITE and SYNC: star and chain, order, deduplication, fences, broken chains.

use crate::harness::{
    CHUNK, Client, HANDLE, Heard, Master, Server, cluster, epoch, install, pattern, read, sums_of, write,
};
use gfs_chunkserver::clock::{BootClock, ManualClock};
use gfs_chunkserver::workers::IDLE;
use gfs_proto::FsError;
use gfs_proto::chunk::Numbering;
use gfs_proto::control::{Install, Position, ReplicaState};
use gfs_proto::frame::{DataError, Extent, Read, Write};
use gfs_proto::ids::{ChunkVersion, Sequence, Serial, ServerId, TruncateGeneration};
use std::sync::Arc;

const VERSION: ChunkVersion = ChunkVersion::new(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_star_write_is_read_back_from_every_server_by_tcp_and_unix() {
    let (master, servers) = cluster().await;
    let data = pattern(10_000, 1);
    for server in &servers {
        let ack = server.client().await.write(&write(server, 1, 0, data.len()), &data).await;
        assert_eq!((ack.outcome, ack.serial, ack.chunk_length), (Ok(()), Serial::new(1), 10_000));
        assert_eq!((ack.culprit, ack.incarnation), (server.id, server.incarnation()));
        for endpoint in [server.tcp(), server.unix()] {
            let back = Client::connect(&endpoint).await.read(read(0, 12_288)).await.expect("read");
            assert_eq!((back.bytes.as_slice(), back.chunk_length), (&data[..], 10_000));
        }
        let id = server.id;
        master.until("a report of the new replica", |heard| heard.row(id, HANDLE)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chunk_that_begins_again_replaces_what_a_late_frame_has_made() {
    let (master, servers) = cluster().await;
    let server = &servers[0];
    let members: Vec<_> = servers.iter().map(|server| server.replica(&master)).collect();
    let client = server.client().await;
    assert_eq!(client.write(&write(server, 1, 0, 5000), &pattern(5000, 1)).await.outcome, Ok(()));
    let second = ChunkVersion::new(2);
    let asked = Install { version: second, ..install(2, &members) };
    assert_eq!(master.install(server.id, asked).await, Err(FsError::NotFound), "it has nothing of that version");
    let again = Write { version: second, epoch: epoch(3), ..write(server, 1, 0, 4096) };
    let ack = client.write(&again, &pattern(4096, 2)).await;
    assert_eq!((ack.outcome, ack.chunk_length), (Ok(()), 4096), "the same write of the client, applied anew");
    let back = client.read(Read { version: second, ..read(0, 8192) }).await.expect("read");
    assert_eq!(back.bytes, pattern(4096, 2));
    assert_eq!(client.write(&write(server, 2, 0, 10), &pattern(10, 3)).await.outcome, Err(DataError::Epoch));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chain_applies_everywhere_before_it_acknowledges() {
    let (_master, servers) = cluster().await;
    let client = servers[0].client().await;
    let data = pattern(1 << 20, 2);
    for n in 1..=4u64 {
        let mut frame = write(&servers[0], n, (n as u32 - 1) << 20, data.len());
        frame.chain = vec![servers[1].hop(), servers[2].hop()];
        frame.sync = n == 4;
        let ack = client.write(&frame, &data).await;
        assert_eq!((ack.outcome, ack.serial), (Ok(()), Serial::new(n)));
    }
    for server in &servers {
        for at in 0..4 {
            let back = server.client().await.read(read(at << 20, 1 << 20)).await.expect("read");
            assert!(back.bytes == data && back.chunk_length == CHUNK);
        }
    }
    let members: Vec<_> = servers.iter().map(|server| server.replica(&_master)).collect();
    let report = _master.install(servers[0].id, install(2, &members)).await.expect("installed");
    assert_eq!(report.position, Position { epoch: epoch(1), serial: Serial::new(4) });
    assert!(report.in_doubt.is_empty(), "the head knows that all have it: {:?}", report.in_doubt);
    assert_eq!(report.outcomes.len(), 4);
    let report = _master.install(servers[2].id, install(2, &members)).await.expect("installed");
    assert_eq!(report.in_doubt.len(), 4, "the tail does not know");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_primary_numbers_the_writes_of_several_clients() {
    let (master, servers) = cluster().await;
    let members: Vec<_> = servers.iter().map(|server| server.replica(&master)).collect();
    for server in &servers {
        assert_eq!(server.client().await.write(&write(server, 1, 0, 100), &pattern(100, 1)).await.outcome, Ok(()));
        let grant = gfs_proto::control::Install { numbering: Numbering::Primary, ..install(2, &members) };
        master.install(server.id, grant).await.expect("installed");
    }
    let frame = |session: u64, n: u64| {
        let mut frame = write(&servers[0], n, 0, 4096);
        (frame.epoch, frame.serial, frame.create) = (epoch(2), None, false);
        frame.session = gfs_proto::ids::SessionId::new(session);
        frame.chain = vec![servers[1].hop(), servers[2].hop()];
        frame
    };
    let clients = [servers[0].client().await, servers[0].client().await];
    let mut serials = Vec::new();
    for n in 1..=20u64 {
        let (frames, data) = ([frame(100, n), frame(200, n)], [pattern(4096, n as u8), pattern(4096, 100 + n as u8)]);
        let (a, b) = tokio::join!(clients[0].write(&frames[0], &data[0]), clients[1].write(&frames[1], &data[1]));
        assert_eq!((a.outcome, b.outcome), (Ok(()), Ok(())));
        serials.extend([a.serial.get(), b.serial.get()]);
    }
    serials.sort_unstable();
    assert_eq!(serials, (1..=40).collect::<Vec<_>>());
    let first = servers[0].client().await.read(read(0, 4096)).await.expect("read").bytes;
    for server in &servers[1..] {
        assert_eq!(
            server.client().await.read(read(0, 4096)).await.expect("read").bytes,
            first,
            "same order everywhere"
        );
    }
    let secondary = Write { incarnation: servers[1].incarnation(), chain: Vec::new(), ..frame(100, 99) };
    let ack = servers[1].client().await.write(&secondary, &pattern(4096, 1)).await;
    assert_eq!(ack.outcome, Err(DataError::Protocol), "a secondary gives no serials");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_arrive_out_of_order_are_applied_in_order() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let data: Vec<_> = (1..=8u8).map(|n| pattern(4096, n)).collect();
    let frames: Vec<_> = (1..=8).map(|n| write(&server, n, 0, 4096)).collect();
    let send = |n: usize| client.write(&frames[n], &data[n]);
    let acks = tokio::join!(send(7), send(3), send(5), send(1), send(6), send(2), send(4), send(0));
    for ack in [acks.0, acks.1, acks.2, acks.3, acks.4, acks.5, acks.6, acks.7] {
        assert_eq!(ack.outcome, Ok(()));
    }
    assert_eq!(client.read(read(0, 4096)).await.expect("read").bytes, data[7], "the last serial wins");
    let gap = client.write(&write(&server, 10, 0, 4096), &data[0]).await;
    assert_eq!(gap.outcome, Err(DataError::SerialGap), "nine never came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_resent_write_is_acknowledged_and_not_applied_again() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let (old, new) = (pattern(4096, 1), pattern(4096, 2));
    let (first, second) = (write(&server, 1, 0, 4096), write(&server, 2, 0, 4096));
    assert_eq!(client.write(&first, &old).await.outcome, Ok(()));
    assert_eq!(client.write(&second, &new).await.outcome, Ok(()));
    assert_eq!(client.write(&first, &old).await.outcome, Ok(()), "in the same epoch");
    master.install(server.id, install(2, &[server.replica(&master)])).await.expect("installed");
    let resent = Write { epoch: epoch(2), serial: Some(Serial::new(1)), ..first.clone() };
    let ack = client.write(&resent, &old).await;
    assert_eq!((ack.outcome, ack.serial, ack.chunk_length), (Ok(()), Serial::new(1), 4096), "in the next epoch");
    assert_eq!(client.read(read(0, 4096)).await.expect("read").bytes, new);
    let third = Write { sequence: Sequence::new(3), serial: Some(Serial::new(2)), ..resent };
    assert_eq!(client.write(&third, &old).await.outcome, Ok(()), "it consumed its serial");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stale_epochs_versions_generations_and_runs_are_refused() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let data = pattern(4096, 1);
    assert_eq!(client.write(&write(&server, 1, 0, 4096), &data).await.outcome, Ok(()));
    let raise = gfs_proto::control::Install { raise_to: Some(ChunkVersion::new(2)), ..install(5, &[]) };
    let raise = gfs_proto::control::Install { members: vec![server.replica(&master)], ..raise };
    let report = master.install(server.id, raise.clone()).await.expect("installed");
    assert_eq!((report.length, report.incarnation), (4096, server.incarnation()));
    master.install(server.id, raise).await.expect("the same command again");
    let good = Write { epoch: epoch(5), version: ChunkVersion::new(2), ..write(&server, 2, 0, 4096) };
    let good = Write { serial: Some(Serial::new(1)), ..good };
    let table = [
        (Write { epoch: epoch(1), ..good.clone() }, DataError::Epoch),
        (Write { epoch: epoch(6), ..good.clone() }, DataError::Epoch),
        (Write { version: VERSION, ..good.clone() }, DataError::Version),
        (Write { truncate_generation: TruncateGeneration::new(1), ..good.clone() }, DataError::Generation),
        (Write { incarnation: server.incarnation().next(), ..good.clone() }, DataError::Incarnation),
    ];
    for (frame, error) in table {
        assert_eq!(client.write(&frame, &data).await.outcome, Err(error), "{frame:?}");
    }
    assert_eq!(client.read(read(0, 4096)).await.err(), Some(DataError::Version), "the old version is not served");
    assert_eq!(client.write(&good, &data).await.outcome, Ok(()));
    let older = master.install(server.id, install(4, &[server.replica(&master)])).await;
    assert!(older.is_err(), "an older epoch is never installed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restarted_server_refuses_the_old_run_and_epoch() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let data = pattern(4096, 1);
    let old = write(&server, 1, 0, 4096);
    let client = server.client().await;
    assert_eq!(client.write(&old, &data).await.outcome, Ok(()));
    let (incarnation, directory) = (server.incarnation(), Arc::clone(&server.directory));
    drop(client);
    server.process.kill().await;
    let server = Server::start_in(&master, directory, Arc::new(BootClock)).await;
    assert!(server.incarnation() > incarnation);
    let client = server.client().await;
    let second = Write { sequence: Sequence::new(2), serial: Some(Serial::new(2)), ..old.clone() };
    assert_eq!(client.write(&second, &data).await.outcome, Err(DataError::Incarnation));
    let renamed = Write { incarnation: server.incarnation(), ..second };
    assert_eq!(
        client.write(&renamed, &data).await.outcome,
        Err(DataError::Epoch),
        "no grant was installed in this run"
    );
    let plain = Write { create: false, ..renamed };
    assert_eq!(client.write(&plain, &data).await.outcome, Err(DataError::Epoch));
    assert_eq!(client.sync(incarnation, HANDLE, VERSION).await.outcome, Err(DataError::Incarnation));
    assert_eq!(client.sync(server.incarnation(), HANDLE, VERSION).await.outcome, Ok(()));
    assert_eq!(client.read(read(0, 4096)).await.expect("the process died, not the machine").bytes, data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broken_chain_names_the_culprit_and_resumes_under_a_new_epoch() {
    let (master, mut servers) = cluster().await;
    let client = servers[0].client().await;
    let data = [pattern(200_000, 1), pattern(200_000, 2)];
    let mut frame = write(&servers[0], 1, 0, 200_000);
    frame.chain = vec![servers[1].hop(), servers[2].hop()];
    assert_eq!(client.write(&frame, &data[0]).await.outcome, Ok(()));
    let middle = servers.remove(1);
    let dead = middle.id;
    middle.process.kill().await;
    let mut next = Write { sequence: Sequence::new(2), serial: Some(Serial::new(2)), ..frame.clone() };
    let ack = client.write(&next, &data[1]).await;
    assert_eq!((ack.outcome, ack.culprit), (Err(DataError::Chain), dead));
    let told = master.until("the chain that broke", |heard| heard.breaks.first().copied()).await;
    assert_eq!((told.handle, told.suspect, told.epoch), (HANDLE, dead, epoch(1)));
    let members: Vec<_> = servers.iter().map(|server| server.replica(&master)).collect();
    for server in &servers {
        let raise = gfs_proto::control::Install { raise_to: Some(ChunkVersion::new(2)), ..install(2, &members) };
        let report = master.install(server.id, raise).await.expect("installed");
        assert_eq!(report.position.serial.get(), if server.id == servers[0].id { 2 } else { 1 });
    }
    (next.epoch, next.serial, next.version) = (epoch(2), Some(Serial::new(1)), ChunkVersion::new(2));
    next.chain = vec![servers[1].hop()];
    assert_eq!(client.write(&next, &data[1]).await.outcome, Ok(()), "known at the head, applied at the tail");
    for server in &servers {
        let read = gfs_proto::frame::Read { version: ChunkVersion::new(2), ..read(0, 200_704) };
        assert!(server.client().await.read(read).await.expect("read").bytes == data[1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hop_that_has_restarted_breaks_the_chain() {
    let (_master, servers) = cluster().await;
    let mut frame = write(&servers[0], 1, 0, 100);
    let mut hop = servers[1].hop();
    hop.incarnation = hop.incarnation.next();
    frame.chain = vec![hop];
    let ack = servers[0].client().await.write(&frame, &pattern(100, 1)).await;
    assert_eq!((ack.outcome, ack.culprit), (Err(DataError::Chain), servers[1].id));
    frame.chain = vec![gfs_proto::frame::Hop { server: ServerId::new(99), ..servers[1].hop() }];
    let ack = servers[0].client().await.write(&frame, &pattern(100, 1)).await;
    assert_eq!((ack.outcome, ack.culprit), (Err(DataError::Chain), ServerId::new(99)), "another server listens there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_payload_is_refused_and_consumes_no_serial() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let data = pattern(10_000, 1);
    let frame = Write {
        extents: vec![Extent { offset: 100, length: 6000 }, Extent { offset: 20_000, length: 4000 }],
        ..write(&server, 1, 0, 0)
    };
    let sums = sums_of(&frame.extents, &data);
    let mut damaged = data.clone();
    damaged[7000] ^= 1;
    assert_eq!(client.write_with(&frame, &damaged, &sums).await.outcome, Err(DataError::Transfer));
    assert_eq!(
        client.write_with(&frame, &data, &sums[4..]).await.outcome.err(),
        Some(DataError::Protocol),
        "a sum too few"
    );
    assert_eq!(client.write_with(&frame, &data, &sums).await.outcome, Ok(()));
    let back = client.read(read(0, 24_576)).await.expect("read");
    assert_eq!(back.chunk_length, 24_000);
    assert_eq!((&back.bytes[100..6100], &back.bytes[20_000..24_000]), (&data[..6000], &data[6000..]));
    assert!(back.bytes[6100..20_000].iter().all(|byte| *byte == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn revoked_chunks_are_flushed_and_reported_clean() {
    let master = Master::start().await;
    let server = Server::start(&master).await;
    let client = server.client().await;
    let data = pattern(4096, 1);
    assert_eq!(client.write(&write(&server, 1, 0, 4096), &data).await.outcome, Ok(()));
    let id = server.id;
    master.until("a dirty replica", |heard| heard.row(id, HANDLE).filter(|row| row.state == ReplicaState::Dirty)).await;
    let held = master
        .until("a lease to extend", |heard| heard.heartbeats.iter().find_map(|(_, beat)| beat.writing.first().copied()))
        .await;
    assert_eq!((held.handle, held.epoch), (HANDLE, epoch(1)));
    let revoke = gfs_proto::control::ChunkCommand::Revoke { handle: HANDLE, epoch: epoch(1) };
    master.command(id, revoke).await.expect("revoked");
    master.until("a clean replica", |heard| heard.row(id, HANDLE).filter(|row| row.state == ReplicaState::Clean)).await;
    let late = client.write(&write(&server, 2, 0, 4096), &data).await;
    assert_eq!(late.outcome, Err(DataError::Epoch));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chain_survives_a_connection_that_was_closed_while_idle() {
    let (_master, servers) = cluster().await;
    let client = servers[0].client().await;
    let data = pattern(4096, 1);
    let mut frame = write(&servers[0], 1, 0, 4096);
    frame.chain = vec![servers[1].hop()];
    assert_eq!(client.write(&frame, &data).await.outcome, Ok(()));
    servers[1].process.close_connections();
    (frame.sequence, frame.serial) = (Sequence::new(2), Some(Serial::new(2)));
    let ack = client.write(&frame, &data).await;
    assert_eq!((ack.outcome, ack.culprit), (Ok(()), servers[0].id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chunks_that_are_written_no_longer_are_flushed_and_keep_their_lease() {
    let master = Master::start().await;
    let clock = Arc::new(ManualClock::default());
    let directory = Arc::new(tempfile::tempdir().expect("directory"));
    let server = Server::start_in(&master, directory, Arc::clone(&clock) as _).await;
    let (client, id) = (server.client().await, server.id);
    assert_eq!(client.write(&write(&server, 1, 0, 100), &pattern(100, 1)).await.outcome, Ok(()));
    let in_state = |heard: &mut Heard, state| heard.row(id, HANDLE).filter(|row| row.state == state);
    master.until("a dirty replica", |heard| in_state(heard, ReplicaState::Dirty)).await;
    clock.advance(IDLE);
    master.until("a clean replica", |heard| in_state(heard, ReplicaState::Clean)).await;
    let second = client.write(&write(&server, 2, 0, 100), &pattern(100, 2)).await;
    assert_eq!(second.outcome, Ok(()), "the lease goes on");
    master.until("a dirty replica", |heard| in_state(heard, ReplicaState::Dirty)).await;
}
