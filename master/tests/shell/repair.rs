//! Re-replication and removal of copies, and what may come in between.

use crate::support::{Client, Cluster, FakeServer, Manners, timings, until};
use gfs_master::config::Timings;
use gfs_master::duties::DutyError;
use gfs_master::servers::Presence;
use gfs_master_core::ChunkRecord;
use gfs_master_core::plan::Standing;
use gfs_proto::FsError;
use gfs_proto::chunk::ChunkGrant;
use gfs_proto::control::{ChunkCommand, ChunkReport, FromChunkserver, ReplicaRow, ReplicaState};
use gfs_proto::ids::{ChunkHandle, InodeId, ServerId};
use gfs_proto::ops::{FlushedChunk, HeldChunk, Op, OpResult};
use std::time::{Duration, Instant};

/// Servers are lost soon; leases end soon after a restart.
pub(crate) fn hasty() -> Timings {
    Timings {
        suspect_after: Duration::from_millis(300),
        lost_after: Duration::from_millis(600),
        lease: Duration::from_secs(3),
        ..timings()
    }
}

/// A file with one written chunk, still leased.
pub(crate) async fn leased(client: &Client, servers: &[FakeServer]) -> (InodeId, ChunkGrant) {
    let made = client.create("file", 1).await;
    let grant = made.grant.expect("a grant");
    for server in servers.iter().filter(|server| grant.replicas.iter().any(|r| r.server == server.id())) {
        server.create(grant.handle, grant.version, 100).await;
    }
    (made.attr.inode, grant)
}

pub(crate) async fn give_back(client: &Client, grant: &ChunkGrant) {
    let held = HeldChunk { handle: grant.handle, epoch: grant.epoch };
    assert!(client.ask(Op::ReturnChunks { chunks: vec![held] }).await.is_ok());
}

async fn written(client: &Client, servers: &[FakeServer]) -> (InodeId, ChunkGrant) {
    let (inode, grant) = leased(client, servers).await;
    give_back(client, &grant).await;
    (inode, grant)
}

pub(crate) fn record(cluster: &Cluster, handle: ChunkHandle) -> ChunkRecord {
    cluster.node().master.store.view().chunk(handle).expect("readable").expect("known")
}

pub(crate) fn entitled(cluster: &Cluster, handle: ChunkHandle) -> Vec<ServerId> {
    let mut servers = record(cluster, handle).entitled;
    servers.sort_unstable();
    servers
}

fn ids(servers: &[FakeServer]) -> Vec<ServerId> {
    let mut ids: Vec<_> = servers.iter().map(FakeServer::id).collect();
    ids.sort_unstable();
    ids
}

fn broken(inode: InodeId, grant: &ChunkGrant, suspects: &[u32]) -> Op {
    Op::BreakChunk {
        inode: inode.into(),
        index: grant.index,
        handle: grant.handle,
        version: grant.version,
        epoch: grant.epoch,
        suspects: suspects.iter().map(|server| ServerId::new(*server)).collect(),
    }
}

/// Says that all members have flushed the chunk.
fn flushed(grant: &ChunkGrant) -> Op {
    let servers = grant.replicas.iter().map(|replica| replica.server).collect();
    Op::AwaitCopies { chunks: vec![FlushedChunk { handle: grant.handle, version: grant.version, servers }] }
}

fn is_copy(command: &ChunkCommand) -> bool {
    matches!(command, ChunkCommand::Copy { .. })
}

/// A cluster of three, a written chunk, and a fourth server that came later and is empty.
pub(crate) async fn four(timings: Timings) -> (Cluster, Vec<FakeServer>, FakeServer, Client, InodeId, ChunkGrant) {
    let cluster = Cluster::with(timings).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = written(&client, &servers).await;
    let fourth = FakeServer::start(&cluster.url(), 4).await;
    cluster.all_up(4).await;
    (cluster, servers, fourth, client, inode, grant)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_copy_is_made_again_and_the_returned_one_is_removed() {
    let (cluster, mut servers, fourth, _client, _, grant) = four(hasty()).await;
    let dead = servers.remove(0);
    let (dead_id, dead_state) = (dead.id(), dead.kill());
    let handle = grant.handle;
    until("the new copy counts", || entitled(&cluster, handle).contains(&fourth.id())).await;
    assert_eq!(fourth.version(handle), Some(grant.version), "under the same version");
    let living: Vec<ServerId> = ids(&servers).into_iter().chain([fourth.id()]).collect();
    assert!(living.iter().all(|server| entitled(&cluster, handle).contains(server)));
    for server in &servers {
        assert_eq!(server.installs(handle).len(), 1, "frames of former leases are fenced first");
    }
    // What it has is as good as the others' until somebody writes: there is one too many.
    let back = dead_state.start(&cluster.url()).await;
    cluster.all_up(4).await;
    assert_eq!(back.id(), dead_id);
    until("one of four is removed", || entitled(&cluster, handle).len() == 3).await;
    let all: Vec<&FakeServer> = servers.iter().chain([&fourth, &back]).collect();
    until("and deleted", || all.iter().filter(|server| server.version(handle).is_some()).count() == 3).await;
    for server in all {
        assert_eq!(server.version(handle).is_some(), entitled(&cluster, handle).contains(&server.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_server_or_one_that_took_leave_is_no_cause_for_repair() {
    let (cluster, mut servers, fourth, _client, _, grant) =
        four(Timings { maintenance: Duration::from_secs(3600), ..hasty() }).await;
    let standing = |server| cluster.node().master.servers.repair_view(Instant::now())[&server].standing;
    let (left, silent) = (servers.remove(0), servers.remove(0));
    let (left_id, silent_id) = (left.id(), silent.id());
    drop((left.leave().await, silent));
    until("the killed one is lost", || standing(silent_id) == Standing::Lost).await;
    assert_eq!(standing(left_id), Standing::Away);
    until("its copy was made", || entitled(&cluster, grant.handle).contains(&fourth.id())).await;
    let status = || cluster.node().master.repair.status();
    until("the one that took leave is not missed", || status().looked_everywhere && status().queued == 0).await;
    assert_eq!(fourth.commands().iter().filter(|command| is_copy(command)).count(), 1);
    assert_eq!(servers[0].commands().iter().filter(|command| is_copy(command)).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_took_leave_is_not_missed_after_a_restart_of_the_master_either() {
    let timings = Timings { maintenance: Duration::from_secs(3600), ..hasty() };
    let (mut cluster, mut servers, fourth, _client, _, grant) = four(timings).await;
    let left = servers.remove(0);
    let (left_id, fourth_id) = (left.id(), fourth.id());
    let left = left.leave().await;
    cluster.crash().await;
    let mut back = Vec::new();
    for server in servers.into_iter().chain([fourth]) {
        back.push(server.again(&cluster.url()).await);
    }
    cluster.all_up(3).await;
    let standing = |cluster: &Cluster| cluster.node().master.servers.repair_view(Instant::now())[&left_id].standing;
    let begun = Instant::now();
    until("silence would have been too long", || begun.elapsed() > 2 * timings.lost_after).await;
    assert_eq!(standing(&cluster), Standing::Away);
    assert!(back.iter().all(|server| !server.commands().iter().any(is_copy)));
    let left = left.start(&cluster.url()).await;
    cluster.all_up(4).await;
    assert_eq!(cluster.node().master.server_status(left_id).expect("known").duty.left, None);
    drop(left);
    until("now its silence counts", || standing(&cluster) == Standing::Lost).await;
    until("its copy is made", || entitled(&cluster, grant.handle).contains(&fourth_id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_copies_gets_them_at_once_although_it_holds_the_lease() {
    // Nothing but the wait brings a copy soon: nobody is lost, and a leased chunk is left alone.
    let patient = Duration::from_secs(3600);
    let timings = Timings { lost_after: patient, repair_patience: patient, lease: patient, ..hasty() };
    let (_cluster, mut servers, fourth, client, inode, _) = four(timings).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    assert_eq!(client.ask(flushed(&grant)).await, Ok(OpResult::Done), "three are enough");
    drop(servers.drain(1..));
    let Ok(OpResult::Grant(alone)) = client.ask(broken(inode, &grant, &[2, 3])).await else { panic!("a grant") };
    assert_eq!(alone.replicas.len(), 1);
    assert_eq!(client.ask(flushed(&alone)).await, Ok(OpResult::Done));
    assert_eq!(fourth.version(grant.handle), Some(alone.version), "a copy was made meanwhile");
    let after = client.grant(inode, 0).await.expect("granted");
    assert_eq!(after.replicas.len(), 2, "and is a member of what is granted next");
    let gone = ChunkGrant { handle: ChunkHandle::new(1 << 40), ..after };
    assert_eq!(client.ask(flushed(&gone)).await, Ok(OpResult::Done), "nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_not_flushed_and_may_count_again_is_left_out_before_an_fsync_is_confirmed() {
    let patient = Duration::from_secs(3600);
    let (cluster, mut servers, _fourth, client, inode, _) = four(Timings { lost_after: patient, ..hasty() }).await;
    let grant = client.grant(inode, 0).await.expect("granted");
    let absent = servers.remove(2);
    let others: Vec<_> = grant.replicas.iter().filter(|r| r.server != absent.id()).cloned().collect();
    let by_others = flushed(&ChunkGrant { replicas: others, ..grant.clone() });
    assert_eq!(client.ask(by_others.clone()).await, Err(FsError::StaleGrant), "it is there: to be asked as well");
    let absent_id = absent.id();
    let dead = absent.kill();
    let left_out = || record(&cluster, grant.handle).version > grant.version;
    while !left_out() {
        assert_eq!(client.ask(by_others.clone()).await, Err(FsError::StaleGrant));
    }
    assert!(!entitled(&cluster, grant.handle).contains(&absent_id));
    assert_eq!(client.ask(by_others).await, Err(FsError::StaleGrant), "to be flushed under the new version");
    // A copy that repair makes meanwhile is to be flushed as well.
    let begun = Instant::now();
    loop {
        let chunk = client.chunks(inode).await.chunks[0].clone();
        let again = ChunkGrant { version: chunk.version, replicas: chunk.replicas, ..grant.clone() };
        match client.ask(flushed(&again)).await {
            Ok(OpResult::Done) => break,
            other => assert!(begun.elapsed() < patient / 180, "{other:?}"),
        }
    }
    drop(dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_copy_cannot_be_flushed_is_left_out_although_it_is_there() {
    // Repair must not come first: there is nobody to copy to, and the chunk is leased.
    let patient = Duration::from_secs(3600);
    let cluster = Cluster::with(Timings { repair_patience: patient, lease: patient, ..hasty() }).await;
    let servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, grant) = leased(&client, &servers).await;
    let row = ReplicaRow { handle: grant.handle, version: grant.version, length: 100, state: ReplicaState::Suspect };
    let report = ChunkReport { full: false, last: true, present: vec![row], removed: Vec::new() };
    servers[2].tell(FromChunkserver::Report(report)).await;
    let suspect = gfs_master::servers::locations::Known::Reported(ReplicaState::Suspect);
    let master = cluster.node().master.clone();
    until("it has reported", || {
        master.locations.of(grant.handle).iter().any(|l| l.server == servers[2].id() && l.known == suspect)
    })
    .await;
    let replicas = grant.replicas.iter().filter(|r| r.server != servers[2].id()).cloned().collect();
    let by_others = flushed(&ChunkGrant { replicas, ..grant.clone() });
    assert_eq!(client.ask(by_others).await, Err(FsError::StaleGrant));
    assert!(record(&cluster, grant.handle).version > grant.version, "it does not count any more");
    assert_eq!(entitled(&cluster, grant.handle), ids(&servers[..2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_copy_was_clean_need_not_flush_it() {
    let patient = Duration::from_secs(3600);
    let (cluster, mut servers, _fourth, client, inode, grant) = four(Timings { lost_after: patient, ..hasty() }).await;
    let absent = servers.remove(2);
    let row = ReplicaRow { handle: grant.handle, version: grant.version, length: 100, state: ReplicaState::Clean };
    let report = ChunkReport { full: false, last: true, present: vec![row], removed: Vec::new() };
    absent.tell(FromChunkserver::Report(report)).await;
    let clean = gfs_master::servers::locations::Known::Reported(ReplicaState::Clean);
    let master = cluster.node().master.clone();
    until("it has reported", || {
        master.locations.of(grant.handle).iter().any(|l| l.server == absent.id() && l.known == clean)
    })
    .await;
    let replicas = grant.replicas.iter().filter(|r| r.server != absent.id()).cloned().collect();
    let by_others = flushed(&ChunkGrant { replicas, ..grant.clone() });
    drop(absent);
    assert_eq!(client.ask(by_others).await, Ok(OpResult::Done));
    assert_eq!(client.chunks(inode).await.chunks[0].version, grant.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_nobody_can_take_are_waited_for_in_vain_and_those_that_nobody_wants_not_at_all() {
    let timings = Timings { lease: Duration::from_secs(3600), ..hasty() };
    let cluster = Cluster::with(timings).await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = leased(&client, &servers).await;
    let single = client.create("single", 2).await;
    let one = single.grant.expect("a grant");
    for server in &servers {
        server.create(one.handle, one.version, 10).await;
    }
    give_back(&client, &one).await;
    assert!(client.ask(Op::SetGoal { inode: single.attr.inode.into(), goal: 1 }).await.is_ok());
    until("one copy is left", || entitled(&cluster, one.handle).len() == 1).await;
    let holds = entitled(&cluster, one.handle);
    let only = one.replicas.iter().filter(|r| holds.contains(&r.server)).cloned().collect();
    let by_one = flushed(&ChunkGrant { replicas: only, ..one });
    assert_eq!(client.ask(by_one).await, Ok(OpResult::Done), "one copy is all that is wanted");
    drop(servers.drain(1..));
    let Ok(OpResult::Grant(broke)) = client.ask(broken(inode, &grant, &[2, 3])).await else { panic!("a grant") };
    let alone = |grant: &ChunkGrant| {
        let replicas = grant.replicas.iter().filter(|r| r.server == servers[0].id()).cloned().collect();
        flushed(&ChunkGrant { replicas, ..grant.clone() })
    };
    assert_eq!(client.ask(alone(&broke)).await, Err(FsError::Unavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_during_the_copy_makes_it_void() {
    let (cluster, mut servers, fourth, client, inode, grant) = four(hasty()).await;
    fourth.manners(Manners::SlowCopies);
    drop(servers.remove(0));
    until("a copy is under way", || fourth.copies_waiting() == 1).await;
    // What is written under it may be missing in the copy.
    let newer = client.grant(inode, 0).await.expect("granted beside the copy");
    assert!(newer.version > grant.version && newer.replicas.iter().all(|r| r.server != fourth.id()));
    fourth.make_copies(true).await;
    let handle = grant.handle;
    until("the copy is deleted", || {
        fourth.commands().iter().any(|command| matches!(command, ChunkCommand::Delete { .. }))
    })
    .await;
    until("it is gone", || fourth.version(handle).is_none()).await;
    assert_eq!(entitled(&cluster, handle), ids(&servers));
    give_back(&client, &newer).await;
    until("it is tried again", || fourth.copies_waiting() == 1).await;
    fourth.make_copies(true).await;
    until("it counts", || entitled(&cluster, handle).contains(&fourth.id())).await;
    assert_eq!(fourth.version(handle), Some(newer.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_raises_nothing_makes_the_copy_void_too() {
    let (cluster, servers, fourth, client, inode, grant) = four(hasty()).await;
    let handle = grant.handle;
    fourth.manners(Manners::SlowCopies);
    assert!(client.ask(Op::SetGoal { inode: inode.into(), goal: 4 }).await.is_ok());
    until("a copy is under way", || fourth.copies_waiting() == 1).await;
    let newer = client.grant(inode, 0).await.expect("granted beside the copy");
    assert_eq!((newer.version, newer.replicas.len()), (grant.version, 3));
    fourth.make_copies(true).await;
    let deletes = |command: &ChunkCommand| matches!(command, ChunkCommand::Delete { .. });
    until("the copy is deleted", || fourth.commands().iter().any(deletes)).await;
    assert_eq!(entitled(&cluster, handle), ids(&servers), "record and version tell nothing of it");
    give_back(&client, &newer).await;
    until("it is tried again", || fourth.copies_waiting() == 1).await;
    fourth.make_copies(true).await;
    until("it counts", || entitled(&cluster, handle).contains(&fourth.id())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_a_grant_found_complete_is_not_deleted() {
    let cluster = Cluster::with(hasty()).await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, grant) = written(&client, &servers).await;
    let handle = grant.handle;
    // Its replica is gone, and it is recorded still: it gets a copy without any change of the record.
    let back = servers.remove(0).kill().without(handle).start(&cluster.url()).await;
    back.manners(Manners::SlowCopies);
    until("a copy is under way", || back.copies_waiting() == 1).await;
    let results = back.carry_out_copies();
    let newer = client.grant(inode, 0).await.expect("granted with the copy");
    assert_eq!((newer.version, newer.replicas.len()), (grant.version, 3), "all that are recorded are members");
    for result in results {
        back.tell(result).await;
    }
    // The next command to the server comes after whatever became of the copy.
    give_back(&client, &newer).await;
    let again = || back.installs(handle).len() > 1 || back.copies_waiting() > 0;
    let nothing_to_do = || cluster.node().master.repair.status().looked_everywhere;
    until("the copy is dealt with", || nothing_to_do() && cluster.node().master.repair.target(handle).is_none()).await;
    assert!(client.grant(inode, 0).await.is_ok());
    until("it is asked again", again).await;
    let deletes = |command: &ChunkCommand| matches!(command, ChunkCommand::Delete { .. });
    assert!(!back.commands().iter().any(deletes), "a member's replica was deleted");
    assert_eq!(back.version(handle), Some(grant.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_raise_left_that_was_not_logged_keeps_no_copy_away() {
    let cluster = Cluster::with(hasty()).await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, grant) = written(&client, &servers).await;
    let fourth = FakeServer::start(&cluster.url(), 4).await;
    cluster.all_up(4).await;
    // It was a member of several attempts, and of none that succeeded; nobody else is there when it says so.
    let down: Vec<_> = servers.drain(..).map(FakeServer::kill).collect();
    cluster.all_up(1).await;
    fourth.create(grant.handle, grant.version.next().next(), 100).await;
    let reported = || cluster.node().master.locations.of(grant.handle).iter().any(|row| row.server == fourth.id());
    until("it is reported", reported).await;
    assert_eq!(fourth.version(grant.handle), Some(grant.version.next().next()));
    for server in down {
        servers.push(server.start(&cluster.url()).await);
    }
    until("it is deleted", || fourth.version(grant.handle).is_none()).await;
    drop(servers.remove(0));
    until("the only server with room has a copy", || entitled(&cluster, grant.handle).contains(&fourth.id())).await;
    assert_eq!(fourth.version(grant.handle), Some(grant.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_result_is_lost_does_not_count_and_is_made_again() {
    let (cluster, mut servers, fourth, _client, _, grant) =
        four(Timings { copy: Duration::from_millis(300), ..hasty() }).await;
    fourth.manners(Manners::SlowCopies);
    drop(servers.remove(0));
    let handle = grant.handle;
    until("a copy is under way", || fourth.copies_waiting() == 1).await;
    until("nobody waits for it any more", || cluster.node().master.repair.target(handle).is_none()).await;
    fourth.manners(Manners::Good);
    fourth.make_copies(false).await;
    until("it was deleted", || fourth.commands().iter().any(|command| matches!(command, ChunkCommand::Delete { .. })))
        .await;
    until("a copy counts", || entitled(&cluster, handle).contains(&fourth.id())).await;
    assert_eq!(fourth.version(handle), Some(grant.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_written_all_the_time_is_held_for_its_copy() {
    let cluster = Cluster::with(Timings { repair_patience: Duration::from_millis(200), ..hasty() }).await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, first) = written(&client, &servers).await;
    drop(servers.remove(0));
    let lease = client.grant(inode, 0).await.expect("granted");
    let fourth = FakeServer::start(&cluster.url(), 4).await;
    fourth.manners(Manners::SlowCopies);
    until("a copy is under way", || fourth.copies_waiting() == 1).await;
    assert!(cluster.node().master.leases.is_empty(), "the lease has ended");
    // Whoever wants to write waits for the copy, and gets it as a member.
    let (granted, ()) = tokio::join!(client.grant(inode, 0), fourth.make_copies(true));
    let grant = granted.expect("granted");
    assert!(grant.epoch > lease.epoch && grant.version == lease.version);
    assert!(grant.replicas.iter().any(|r| r.server == fourth.id()) && grant.replicas.len() == 3);
    assert!(first.version < grant.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_goes_on_after_a_restart_of_the_master() {
    let (mut cluster, mut servers, fourth, client, _, grant) = four(hasty()).await;
    let handle = grant.handle;
    fourth.manners(Manners::SlowCopies);
    drop(servers.remove(0));
    until("a copy is under way", || fourth.copies_waiting() == 1).await;
    drop(client);
    cluster.restart().await;
    // Its result finds nobody, and the copy is a replica that nobody knows of.
    let mut living = vec![fourth.kill()];
    living.extend(servers.into_iter().map(FakeServer::kill));
    let url = cluster.url();
    let mut again = Vec::new();
    for server in living {
        again.push(server.start(&url).await);
    }
    let fourth = &again[0];
    until("the copy counts", || entitled(&cluster, handle).contains(&fourth.id())).await;
    assert_eq!(fourth.version(handle), Some(grant.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goal_that_changes_makes_and_removes_copies() {
    let (cluster, servers, fourth, client, inode, grant) = four(hasty()).await;
    let handle = grant.handle;
    let all: Vec<&FakeServer> = servers.iter().chain([&fourth]).collect();
    for goal in [4, 1, 3] {
        assert!(client.ask(Op::SetGoal { inode: inode.into(), goal }).await.is_ok());
        let wanted = usize::from(goal);
        until("the record says so", || entitled(&cluster, handle).len() == wanted).await;
        let holders = || all.iter().filter(|server| server.version(handle).is_some()).map(|server| server.id());
        until("the disks do, too", || holders().count() == wanted).await;
        let mut found: Vec<_> = holders().collect();
        found.sort_unstable();
        assert_eq!(found, entitled(&cluster, handle));
    }
    assert_eq!(record(&cluster, handle).version, grant.version, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_not_confirmed_silences_the_server_first() {
    let (cluster, servers, fourth, client, inode, grant) = four(hasty()).await;
    let handle = grant.handle;
    drop(fourth);
    let victim_candidates = ids(&servers);
    servers.iter().for_each(|server| server.manners(Manners::NoDeletions));
    assert!(client.ask(Op::SetGoal { inode: inode.into(), goal: 2 }).await.is_ok());
    until("the record says so", || entitled(&cluster, handle).len() == 2).await;
    let victim = *victim_candidates.iter().find(|id| !entitled(&cluster, handle).contains(id)).expect("one of three");
    let victim = servers.iter().find(|server| server.id() == victim).expect("one of three");
    // A grant of the two comes only after the third cannot answer reads any more.
    let next = client.grant(inode, 0).await.expect("granted");
    assert_eq!(next.replicas.len(), 2);
    let served = victim.served_from().expect("acknowledged before").elapsed();
    assert!(served >= cluster.timings.read_lease, "it may still answer reads: {served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_on_a_disk_that_fails_are_replaced_and_removed() {
    let (cluster, servers, fourth, _client, _, grant) = four(hasty()).await;
    let handle = grant.handle;
    let row = ReplicaRow { handle, version: grant.version, length: 100, state: ReplicaState::Failing };
    let report = ChunkReport { full: false, last: true, present: vec![row], removed: Vec::new() };
    servers[1].tell(FromChunkserver::Report(report)).await;
    until("it is replaced", || entitled(&cluster, handle).contains(&fourth.id())).await;
    until("and not entitled any more", || !entitled(&cluster, handle).contains(&servers[1].id())).await;
    until("and deleted", || servers[1].version(handle).is_none()).await;
    assert_eq!(entitled(&cluster, handle).len(), 3);
}

fn needed(cluster: &Cluster, server: ServerId) -> u64 {
    let census = cluster.node().master.census().expect("readable");
    census.dependents.get(&server).map_or(0, |dependent| dependent.chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_gives_up_everything_and_may_then_be_removed() {
    let (mut cluster, mut servers, fourth, _client, _, grant) = four(hasty()).await;
    let (handle, drained) = (grant.handle, servers.remove(0));
    let id = drained.id();
    let running = cluster.node().master.remove_server(id, false).await.expect_err("it runs");
    assert!(matches!(running, DutyError::Running(_)), "{running}");
    cluster.node().master.drain(id, true).await.expect("known");
    assert!(matches!(cluster.node().master.drain(ServerId::new(9), true).await, Err(DutyError::Unknown(_))));
    until("nothing depends on it", || needed(&cluster, id) == 0).await;
    until("its copy is deleted", || drained.version(handle).is_none()).await;
    assert_eq!(entitled(&cluster, handle), ids(&servers).into_iter().chain([fourth.id()]).collect::<Vec<_>>());
    // It gets nothing new, after a restart of the master neither.
    drop(drained);
    cluster.restart().await;
    assert!(cluster.node().master.server_status(id).expect("known").duty.draining);
    cluster.node().master.remove_server(id, false).await.expect("nothing is lost");
    assert!(matches!(cluster.node().master.server_status(id), Err(DutyError::Unknown(_))));
    let number = FakeServer::start(&cluster.url(), 1).await;
    cluster.all_up(1).await;
    assert!(number.id() > fourth.id(), "it is another one now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_last_copies_is_not_removed_unless_that_is_said() {
    let cluster = Cluster::with(hasty()).await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (_, grant) = written(&client, &servers).await;
    let last = servers.remove(0);
    let id = last.id();
    drop(servers);
    drop(last);
    let master = &cluster.node().master;
    until("it is down", || master.servers.presence(id, Instant::now()) == Presence::Down).await;
    let refused = master.remove_server(id, false).await.expect_err("a last copy").to_string();
    assert!(refused.contains("the last copy of 1 chunks") && refused.contains("--force"), "{refused}");
    let dependent = master.remove_server(id, true).await.expect("it was said");
    assert_eq!((dependent.chunks, dependent.last_copies), (1, 1));
    assert!(entitled(&cluster, grant.handle).contains(&id), "the record says who had it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_under_maintenance_is_not_missed_until_that_ends() {
    let (cluster, mut servers, fourth, _client, _, grant) = four(hasty()).await;
    let away = servers.remove(0);
    let (id, master) = (away.id(), &cluster.node().master);
    master.maintain(id, Some(Duration::from_secs(3600))).await.expect("known");
    let other = servers.remove(0);
    drop(away);
    drop(other);
    until("the one without maintenance is lost", || entitled(&cluster, grant.handle).contains(&fourth.id())).await;
    until("nothing waits", || master.repair.status().looked_everywhere && master.repair.status().queued == 0).await;
    assert_eq!(servers[0].commands().iter().filter(|command| is_copy(command)).count(), 0);
    let fifth = FakeServer::start(&cluster.url(), 5).await;
    assert_eq!(fifth.commands().iter().filter(|command| is_copy(command)).count(), 0);
    master.maintain(id, None).await.expect("known");
    until("it is missed now", || fifth.commands().iter().any(is_copy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_not_wait_for_a_server_that_was_removed() {
    let cluster = Cluster::with(hasty()).await;
    let mut servers = cluster.servers().await;
    let client = Client::start(&cluster.url()).await;
    let (inode, _) = written(&client, &servers).await;
    let gone = servers.remove(0);
    let id = gone.id();
    drop(gone);
    assert!(client.unlink("file").await.is_ok());
    let master = &cluster.node().master;
    let waits_for = || -> Vec<ServerId> {
        let garbage = master.store.view().garbage(None, 9).expect("readable");
        garbage.into_iter().flat_map(|chunk| chunk.servers).collect()
    };
    client.release(inode, 1).await;
    until("garbage waits for it alone", || waits_for() == [id]).await;
    master.remove_server(id, false).await.expect("nothing is lost");
    until("and then for nobody", || waits_for().is_empty()).await;
}
