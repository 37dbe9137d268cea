//! Grants, versions, locations and garbage, between clients and chunkservers.

use crate::support::{Client, Cluster, DEADLINE, FakeServer, Manners, timings, until};
use gfs_master::config::Timings;
use gfs_proto::FsError;
use gfs_proto::attr::SetAttr;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::control::{ChunkCommand, ChunkReport, FromChunkserver};
use gfs_proto::frame::SyncChunk;
use gfs_proto::ids::{ChunkHandle, ChunkIndex, ChunkVersion, InodeId, ServerId};
use gfs_proto::ops::{HeldChunk, Op, OpResult};
use std::time::{Duration, Instant};

/// A file with one written chunk, whose lease was given back.
async fn written(client: &Client, servers: &[FakeServer]) -> (InodeId, ChunkGrant) {
    let made = client.create("file", 1).await;
    let grant = made.grant.expect("a grant");
    for server in servers {
        server.create(grant.handle, grant.version, 100).await;
    }
    let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
    assert!(client.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
    (made.attr.inode, grant)
}

async fn all_reported(cluster: &Cluster, grant: &ChunkGrant) {
    let master = cluster.node().master.clone();
    let reported = || {
        let rows = master.locations.of(grant.handle);
        rows.len() == 3 && rows.iter().all(|row| row.known != gfs_master::servers::locations::Known::Assumed)
    };
    until("all replicas are reported", reported).await;
}

fn broken(inode: InodeId, grant: &ChunkGrant, suspect: ServerId) -> Op {
    broken_by(inode, grant, vec![suspect])
}

fn broken_by(inode: InodeId, grant: &ChunkGrant, suspects: Vec<ServerId>) -> Op {
    Op::BreakChunk {
        inode: inode.into(),
        index: ChunkIndex::new(0),
        handle: grant.handle,
        version: grant.version,
        epoch: grant.epoch,
        suspects,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_installed_at_every_replica_first() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert!(grant.epoch > first.epoch && grant.version == first.version && !grant.created);
    for server in &servers {
        let installs = server.installs(grant.handle);
        assert_eq!(installs.len(), 1);
        assert_eq!((installs[0].epoch, installs[0].raise_to), (grant.epoch, None));
        assert_eq!(installs[0].members, grant.replicas);
    }
    let again = client.grant(inode, 0).await.expect("granted");
    assert_eq!(again.epoch, grant.epoch, "the live lease, extended");
    assert_eq!(servers[0].installs(grant.handle).len(), 1);
    let hole = client.grant(inode, 7).await.expect("allocated");
    assert!(hole.created && hole.handle != grant.handle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_replica_raises_the_version() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let gone = servers.remove(0);
    let gone_id = gone.id();
    // Its process dies: the stream ends, its port refuses connections.
    drop(gone);
    cluster.all_up(2).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert_eq!(grant.version, first.version.next());
    assert!(grant.replicas.len() == 2 && grant.replicas.iter().all(|r| r.server != gone_id));
    for server in &servers {
        assert_eq!(server.version(grant.handle), Some(grant.version), "durable there before the client heard of it");
    }
    let record = cluster.node().master.store.view().chunk(grant.handle).expect("readable").expect("known");
    assert_eq!((record.version, record.entitled.len()), (grant.version, 2), "logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_replica_that_comes_back_is_neither_named_nor_kept() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    // Silent towards commands, so it is left out; its connection stays.
    let mute = servers.remove(1);
    mute.manners(Manners::Mute);
    let grant = client.grant(inode, 0).await.expect("granted without it");
    let served = mute.served_from().expect("acknowledged before").elapsed();
    assert!(served >= cluster.timings.read_lease, "it may still answer reads of the old version: {served:?}");
    assert_eq!(grant.replicas.len(), 2);
    let mute_id = mute.id();
    let back = mute.again(&cluster.url()).await;
    let named = |command: &ChunkCommand| {
        matches!(command, ChunkCommand::Delete { chunks, .. }
        if chunks[..] == [SyncChunk { handle: first.handle, version: first.version }])
    };
    until("the stale replica is deleted", || back.commands().iter().any(named)).await;
    let map = client.chunks(inode).await;
    assert!(map.chunks[0].replicas.iter().all(|r| r.server != mute_id) && map.chunks[0].replicas.len() == 2);
    assert_eq!(back.id(), mute_id, "the same number as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_while_the_others_agree_answers_no_reads_of_what_it_missed() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let dead = servers.remove(2).kill();
    cluster.all_up(2).await;
    // The others are asked, and one does not answer: time enough to come back with what counts until they are done.
    servers[0].manners(Manners::Mute);
    let asked = || !servers[1].installs(first.handle).is_empty();
    let back = async {
        until("the others are asked", asked).await;
        let back = dead.start(&cluster.url()).await;
        until("it may answer reads", || back.acknowledged() > 0).await;
        back
    };
    let (grant, back) = tokio::join!(client.grant(inode, 0), back);
    let grant = grant.expect("granted without it");
    assert!(grant.version > first.version && grant.replicas.iter().all(|replica| replica.server != back.id()));
    let served = back.served_from().expect("acknowledged before").elapsed();
    assert!(served >= cluster.timings.read_lease, "it may still answer reads of the old version: {served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_replica_that_was_kept_for_want_of_a_current_one_goes_with_its_chunk() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let mute = servers.remove(1);
    mute.manners(Manners::Mute);
    let grant = client.grant(inode, 0).await.expect("granted without it");
    let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
    assert!(client.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
    // those with the current version are away when the other one comes back with the old one
    let dead: Vec<_> = servers.into_iter().map(FakeServer::kill).collect();
    let back = mute.again(&cluster.url()).await;
    let master = cluster.node().master.clone();
    let is_located = || master.locations.of(first.handle).iter().any(|row| row.server == back.id());
    until("the full report is worked off", || back.acknowledged() > 0 && is_located()).await;
    assert_eq!(back.version(first.handle), Some(first.version), "it may be all that is left");
    client.release(inode, 1).await;
    assert!(client.unlink("file").await.is_ok());
    until("it is deleted", || back.version(first.handle).is_none()).await;
    let garbage =
        || master.store.view().garbage_chunk(first.handle).expect("readable").expect("two have yet to confirm");
    until("the others are waited for", || garbage().servers.len() == dead.len()).await;
    assert!(!garbage().servers.contains(&back.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_nobody_knows_are_never_deleted() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let handle = ChunkHandle::new(1 << 40);
    let one = servers.remove(0);
    one.create(handle, ChunkVersion::new(1), 100).await;
    let known = || !cluster.node().master.locations.of(handle).is_empty();
    until("the report is worked off", known).await;
    // A full report, too; the heartbeat that is acknowledged after it has seen what it deletes.
    let back = one.again(&cluster.url()).await;
    until("the full report is worked off", || back.acknowledged() > 0).await;
    let delete = |command: &ChunkCommand| matches!(command, ChunkCommand::Delete { .. });
    assert!(!back.commands().iter().any(delete), "{:?}", back.commands());
    assert_eq!(back.version(handle), Some(ChunkVersion::new(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chain_goes_on_without_the_one_that_failed() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    let (inode, first) = (made.attr.inode, made.grant.expect("a grant"));
    // The first frame reached two of three.
    for server in &servers[..2] {
        server.create(first.handle, first.version, 100).await;
    }
    servers[2].manners(Manners::Mute);
    let Ok(OpResult::Grant(grant)) = client.ask(broken(inode, &first, servers[2].id())).await else {
        panic!("a new grant")
    };
    assert!(grant.version > first.version && grant.epoch > first.epoch && !grant.created);
    let mut members: Vec<_> = grant.replicas.iter().map(|r| r.server).collect();
    members.sort_unstable();
    let mut alive: Vec<_> = servers[..2].iter().map(FakeServer::id).collect();
    alive.sort_unstable();
    assert_eq!(members, alive);
    let Ok(OpResult::Grant(again)) = client.ask(broken(inode, &first, servers[2].id())).await else {
        panic!("the same grant")
    };
    assert_eq!(again.epoch, grant.epoch, "a report that comes twice breaks nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_is_left_out_although_it_answers_the_master() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let held = client.grant(inode, 0).await.expect("granted");
    let (asked, failed) = (servers[1].installs(held.handle).len(), servers[1].id());
    let Ok(OpResult::Grant(grant)) = client.ask(broken(inode, &held, failed)).await else { panic!("a new grant") };
    assert!(grant.replicas.len() == 2 && grant.replicas.iter().all(|r| r.server != failed), "{grant:?}");
    assert_eq!(servers[1].installs(held.handle).len(), asked, "not asked again");
    let served = servers[1].served_from().expect("acknowledged before").elapsed();
    assert!(served >= cluster.timings.read_lease, "it may still answer reads of the old version: {served:?}");
    let record = cluster.node().master.store.view().chunk(grant.handle).expect("readable").expect("known");
    assert!(!record.entitled.contains(&failed), "logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn suspects_take_part_if_nobody_else_has_a_replica() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let held = client.grant(inode, 0).await.expect("granted");
    let all = servers.iter().map(FakeServer::id).collect();
    let Ok(OpResult::Grant(grant)) = client.ask(broken_by(inode, &held, all)).await else { panic!("a new grant") };
    assert_eq!((grant.replicas.len(), grant.created), (3, false), "everybody failed: nobody is worse");
    for server in &servers[1..] {
        server.lose(grant.handle);
    }
    let Ok(OpResult::Grant(last)) = client.ask(broken(inode, &grant, servers[0].id())).await else {
        panic!("a new grant")
    };
    let members: Vec<_> = last.replicas.iter().map(|replica| replica.server).collect();
    assert_eq!(members, [servers[0].id()], "the others have none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_started_again_is_no_suspect() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let held = client.grant(inode, 0).await.expect("granted");
    let back = servers.remove(0).again(&cluster.url()).await;
    cluster.all_up(3).await;
    let Ok(OpResult::Grant(grant)) = client.ask(broken(inode, &held, back.id())).await else { panic!("a new grant") };
    assert_eq!(grant.replicas.len(), 3, "no copy is given up for a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_no_server_ever_got_begins_again() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    let (inode, first) = (made.attr.inode, made.grant.expect("a grant"));
    let Ok(OpResult::Grant(grant)) = client.ask(broken(inode, &first, servers[0].id())).await else {
        panic!("a new grant")
    };
    assert!(grant.created && grant.version > first.version, "a late first frame of the old one counts nowhere");
    let avoided = |replica: &gfs_proto::chunk::Replica| replica.server != servers[0].id();
    assert!(grant.replicas.len() == 2 && grant.replicas.iter().all(avoided), "{grant:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_frames_that_come_after_the_chunk_began_again_do_not_stand_in_its_way() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let made = client.create("file", 1).await;
    let (inode, first) = (made.attr.inode, made.grant.expect("a grant"));
    let Ok(OpResult::Grant(second)) = client.ask(broken_by(inode, &first, Vec::new())).await else {
        panic!("a new grant")
    };
    for (number, server) in servers.iter().enumerate() {
        match number {
            0 => drop(server.create_unreported(first.handle, first.version, 100)),
            _ => server.create(first.handle, first.version, 100).await,
        }
    }
    let master = cluster.node().master.clone();
    let late = || master.locations.of(first.handle).iter().filter(|row| row.version == first.version).count() == 2;
    until("the late replicas are reported", late).await;
    let Ok(OpResult::Grant(third)) = client.ask(broken_by(inode, &second, Vec::new())).await else {
        panic!("a grant in spite of them")
    };
    assert!(third.created && third.version > second.version && third.replicas.len() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_chunk_that_was_never_written_is_a_hole() {
    let cluster = Cluster::start().await;
    let _servers = cluster.servers().await;
    let (client, reader) = (Client::start(&cluster.url()).await, Client::start(&cluster.url()).await);
    let inode = client.create("file", 1).await.attr.inode;
    let changes = SetAttr { size: Some(1000), ..SetAttr::default() };
    assert!(client.ask(Op::SetAttr { inode: inode.into(), changes }).await.is_ok());
    assert!(reader.chunks(inode).await.chunks.is_empty(), "reads see zeroes, not missing replicas");
    let grant = client.grant(inode, 0).await.expect("a new chunk");
    assert!(grant.created);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_files_keep_no_chunk() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (empty, full) = (client.create("empty", 1).await, client.create("full", 2).await);
    let grants = [empty.grant.expect("a grant"), full.grant.expect("a grant")];
    servers[0].create(grants[1].handle, grants[1].version, 10).await;
    let held = grants.iter().map(|grant| HeldChunk { handle: grant.handle, epoch: grant.epoch }).collect();
    assert!(client.ask(Op::ReturnChunks { chunks: held }).await.is_ok());
    let master = cluster.node().master.clone();
    let chunks = |inode| master.store.view().attr(inode).map(|attr| attr.chunks);
    until("the unwritten chunk is given up", || chunks(empty.attr.inode) == Ok(0)).await;
    assert_eq!(chunks(full.attr.inode), Ok(1));
    assert!(servers[0].installs(grants[1].handle).is_empty(), "nobody is asked about a reported chunk");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_logged_while_servers_leave_questions_unanswered() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    servers.iter().for_each(|server| server.manners(Manners::Mute));
    let mut held = Vec::new();
    // One after the other they would take longer than anything here may.
    for number in 0..2 * (DEADLINE.as_millis() / cluster.timings.command.as_millis()) {
        let grant = client.create(&format!("empty {number}"), 100).await.grant.expect("a grant");
        held.push(HeldChunk { handle: grant.handle, epoch: grant.epoch });
    }
    assert!(client.ask(Op::ReturnChunks { chunks: held }).await.is_ok());
    until("servers are asked", || servers[0].commands().iter().any(|c| matches!(c, ChunkCommand::Install(_)))).await;
    let attr = client.create("file", 1).await.attr;
    let report = Op::ReportSize {
        inode: attr.inode.into(),
        size: 777,
        mtime: None,
        atime: None,
        ctime: None,
        truncate_generation: attr.truncate_generation,
        durable: false,
    };
    assert!(client.ask(report).await.is_ok());
    client.release(attr.inode, 1).await;
    let master = cluster.node().master.clone();
    until("the size is logged", || master.store.view().attr(attr.inode).is_ok_and(|attr| attr.size == 777)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_ahead_of_the_record_are_brought_to_one_version() {
    let cluster = Cluster::start().await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    // A raise that was installed and never logged.
    let ahead = first.version.next();
    for server in std::mem::take(&mut servers) {
        server.set_version(first.handle, ahead);
        servers.push(server.again(&cluster.url()).await);
    }
    let master = cluster.node().master.clone();
    let reported = || master.locations.of(first.handle).iter().filter(|row| row.version >= ahead).count() == 3;
    until("all report what they have", reported).await;
    cluster.all_up(3).await;
    let map = client.chunks(inode).await;
    assert_eq!(map.chunks[0].version, ahead.next());
    assert_eq!(map.chunks[0].replicas.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_inside_a_chunk_clips_reads_until_the_replicas_made_it() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    let changes = SetAttr { size: Some(40), ..SetAttr::default() };
    assert!(client.ask(Op::SetAttr { inode: inode.into(), changes }).await.is_ok());
    assert_eq!(client.chunks(inode).await.chunks[0].clip, Some(40));
    let grant = client.grant(inode, 0).await.expect("granted");
    assert!(grant.truncate_generation > first.truncate_generation);
    assert!(servers.iter().all(|server| server.installs(first.handle)[0].cut == Some(40)));
    assert_eq!(client.chunks(inode).await.chunks[0].clip, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_made_though_nobody_writes_the_chunk_again_by_the_next_master_too() {
    for next in [false, true] {
        let mut cluster = Cluster::with(Timings { lease: Duration::from_millis(500), ..timings() }).await;
        let mut servers = cluster.servers().await;
        let client = Client::start(&cluster.url()).await;
        let (inode, first) = written(&client, &servers).await;
        all_reported(&cluster, &first).await;
        for server in &servers {
            server.flush(first.handle).await; // what is clean is nobody's cause to look at
        }
        if next {
            servers[2].manners(Manners::Mute);
        }
        let changes = SetAttr { size: Some(40), ..SetAttr::default() };
        assert!(client.ask(Op::SetAttr { inode: inode.into(), changes }).await.is_ok());
        if next {
            cluster.restart().await;
            for server in std::mem::take(&mut servers) {
                servers.push(server.again(&cluster.url()).await);
            }
            cluster.all_up(3).await;
            servers[2].manners(Manners::Good);
            let _ = client.resume(&cluster.url(), &[]).await.expect("resumed");
        }
        let made = |server: &FakeServer| server.installs(first.handle).iter().any(|install| install.cut == Some(40));
        until("all have made it", || servers.iter().all(made)).await;
        let master = cluster.node().master.clone();
        let pending = || master.store.view().pending_cut(first.handle).expect("readable").is_some();
        until("nothing is left to be cut", || !pending()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_removed_file_are_deleted_and_the_record_goes() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    client.release(inode, 1).await;
    servers[2].manners(Manners::Mute);
    assert!(client.unlink("file").await.is_ok());
    let gone = |server: &FakeServer| server.version(first.handle).is_none();
    until("two replicas are deleted", || servers[..2].iter().all(gone)).await;
    let master = cluster.node().master.clone();
    let waiting = || master.store.view().garbage_chunk(first.handle).expect("readable").map(|g| g.servers);
    until("two confirmed", || waiting().is_some_and(|servers| servers.len() == 1)).await;
    servers[2].manners(Manners::Good);
    until("the entry is gone with the last confirmation", || waiting().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locations_come_from_reports_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    all_reported(&cluster, &first).await;
    cluster.restart().await;
    let client = client.resume(&cluster.url(), &[]).await.expect("resumed");
    assert!(client.chunks(inode).await.chunks[0].replicas.is_empty(), "nobody has registered yet");
    let mut back = Vec::new();
    for server in servers {
        back.push(server.again(&cluster.url()).await);
    }
    cluster.all_up(3).await;
    assert_eq!(client.chunks(inode).await.chunks[0].replicas.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_acknowledged_and_leaving_is_noticed() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    until("heartbeats are acknowledged", || servers.iter().all(|server| server.acknowledged() > 2)).await;
    let first = servers.into_iter().next().expect("three");
    let id = first.id();
    first.leave().await;
    let master = cluster.node().master.clone();
    let presence = || master.servers.presence(id, Instant::now());
    until("it has left", || presence() == gfs_master::servers::Presence::Left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_report_ends_no_silence() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let (server, master) = (&servers[0], cluster.node().master.clone());
    let fenced = Instant::now();
    let fence = master.servers.fence(server.id(), None, fenced);
    // Everything that was sent to it before has arrived when it answers.
    let epoch = master.leases.next_epoch(master.term());
    let echo = || ChunkCommand::Revoke { handle: ChunkHandle::new(1), epoch };
    assert!(master.servers.command(server.id(), echo()).await.is_ok());
    let served = server.served_from();
    let heard = |status: &gfs_master::servers::ServerStatus| {
        status.server == server.id() && status.silent.is_some_and(|silent| fenced.elapsed() > silent)
    };
    until("a heartbeat has come", || master.servers.statuses(Instant::now()).iter().any(heard)).await;
    // Reports are worked off one after the other.
    for (full, handle) in [(true, ChunkHandle::new(77)), (false, ChunkHandle::new(78))] {
        let present = vec![server.create_unreported(handle, ChunkVersion::new(1), 10)];
        let report = ChunkReport { full, last: true, present, removed: Vec::new() };
        server.tell(FromChunkserver::Report(report)).await;
        until("the report is worked off", || !master.locations.of(handle).is_empty()).await;
    }
    assert!(master.servers.command(server.id(), echo()).await.is_ok());
    assert_eq!(server.served_from(), served, "no heartbeat was acknowledged");
    drop(fence);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunkservers_of_another_cluster_or_an_older_run_are_turned_away() {
    let cluster = Cluster::start().await;
    let servers = cluster.servers().await;
    let other = gfs_proto::ids::ClusterId::new([9; 16]);
    let refused = crate::support::open_link(&cluster.url(), 7, 1, Some(other)).await.expect_err("another cluster");
    assert!(refused.message().contains(&other.to_string()), "{refused}");
    assert_eq!(FsError::from_status(&refused), Some(FsError::InvalidArgument), "it gives up");
    let back = servers.into_iter().next().expect("three").again(&cluster.url()).await;
    let refused = crate::support::open_link(&cluster.url(), 1, 1, None).await.expect_err("an older run");
    assert_eq!(FsError::from_status(&refused), Some(FsError::Stale), "it tries again");
    drop(back);
}
