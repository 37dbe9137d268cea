//! The client against a fake master: what it asks, what it believes, what it shows.

use super::*;
use crate::data::tests::server::FakeServer;
use crate::fake_master::{FakeMaster, Fault, PAGE_ENTRIES};
use crate::{Lookup, OpenFlags, WriteFlags};
use gfs_proto::attr::{Mode, SetAttr, SetTime};
use gfs_proto::ids::{DirCookie, InodeId};
use gfs_proto::name::Name;
use gfs_proto::ops::{Access, MakeKind, RenameMode};
use gfs_proto::time::Timestamp;

mod coherence;
mod links;
mod threads;

const ROOT: InodeId = InodeId::ROOT;

async fn connect(master: &FakeMaster) -> Arc<Client> {
    let config =
        ClientConfig { master: master.address.clone(), timeout: Duration::from_secs(20), ..ClientConfig::default() };
    let client = Client::connect(config).await.expect("the master listens");
    master.has_listener().await;
    client
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn root() -> Caller {
    Caller::root()
}

fn write_flags() -> OpenFlags {
    OpenFlags { exclusive: true, ..OpenFlags::new(Access::ReadWrite) }
}

async fn mkdir(client: &Client, parent: InodeId, text: &str) -> InodeId {
    let made = client.make(&root(), parent, &name(text), MakeKind::Directory, Mode::new(0o755)).await;
    made.expect("made").attr.inode
}

async fn create(client: &Client, text: &str) -> (InodeId, crate::Opened) {
    let created = client.create(&root(), ROOT, &name(text), (Mode::new(0o644), write_flags())).await;
    let (entry, opened) = created.expect("created");
    (entry.attr.inode, opened)
}

async fn found(client: &Client, parent: InodeId, text: &str) -> Option<InodeId> {
    match client.lookup(&root(), parent, &name(text)).await.expect("answered") {
        Lookup::Found(entry) => Some(entry.attr.inode),
        Lookup::Missing { .. } => None,
    }
}

/// Polls until it is so.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polling = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), polling).await.expect(what);
}

#[tokio::test]
async fn what_was_asked_once_is_not_asked_again() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let file = master.with_namespace(|namespace| namespace.add_file(ROOT, "a"));
    assert_eq!(found(&client, ROOT, "a").await, Some(file));
    assert_eq!(found(&client, ROOT, "b").await, None);
    assert_eq!(master.take_seen().len(), 2);
    assert_eq!(found(&client, ROOT, "a").await, Some(file));
    assert_eq!(found(&client, ROOT, "b").await, None);
    assert!(client.try_getattr(file).is_some());
    assert_eq!(client.getxattr(&root(), file, b"user.x").await, Err(FsError::NoAttribute));
    assert_eq!(client.getxattr(&root(), file, b"security.selinux").await, Err(FsError::NotSupported));
    assert_eq!(client.listxattr(&root(), file).await, Ok(vec![]));
    assert!(master.take_seen().is_empty());
}

#[tokio::test]
async fn own_changes_are_seen_at_once_and_without_asking() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    assert_eq!(found(&client, ROOT, "d").await, None);
    let directory = mkdir(&client, ROOT, "d").await;
    let (file, _) = create(&client, "f").await;
    let target = b"f".to_vec();
    let link = client.make(&root(), ROOT, &name("l"), MakeKind::Symlink(target.clone()), Mode::new(0o777)).await;
    let link = link.expect("made").attr.inode;
    client.link(&root(), file, directory, &name("g")).await.expect("linked");
    client.rename(&root(), (ROOT, &name("f")), (directory, &name("h")), RenameMode::NoReplace).await.expect("renamed");
    client.unlink(&root(), ROOT, &name("l")).await.expect("removed");
    master.take_seen();

    assert_eq!(found(&client, ROOT, "f").await, None);
    assert_eq!(found(&client, ROOT, "l").await, None);
    assert_eq!(client.readlink(&root(), link).await, Ok(target));
    assert_eq!(found(&client, directory, "nothing").await, None, "a new directory is known as a whole");
    assert!(master.take_seen().is_empty(), "all of it was known");
    assert_eq!(found(&client, directory, "h").await, Some(file));
    assert_eq!(found(&client, directory, "g").await, Some(file));
    assert_eq!(found(&client, ROOT, "d").await, Some(directory));
}

#[tokio::test]
async fn a_refusal_corrects_a_wrong_belief() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    assert_eq!(found(&client, ROOT, "a").await, None);
    let file = master.with_namespace(|namespace| namespace.add_file(ROOT, "a"));
    let made = client.make(&root(), ROOT, &name("a"), MakeKind::Directory, Mode::new(0o755)).await;
    assert_eq!(made.map(|_| ()), Err(FsError::Exists));
    assert_eq!(found(&client, ROOT, "a").await, Some(file));
}

#[tokio::test]
async fn after_some_misses_the_directory_is_fetched_as_a_whole() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let texts: Vec<String> = (0..PAGE_ENTRIES * 3).map(|number| format!("{number:03}")).collect();
    master.with_namespace(|namespace| {
        for text in &texts {
            namespace.add_file(ROOT, text);
        }
    });
    for text in &texts[..3] {
        assert!(found(&client, ROOT, text).await.is_some());
    }
    eventually("the whole directory is known", || client.try_lookup(ROOT, &name("none")).is_some()).await;
    master.take_seen();
    for text in &texts {
        assert!(found(&client, ROOT, text).await.is_some());
    }
    assert_eq!(found(&client, ROOT, "none").await, None);
    assert!(master.take_seen().is_empty());
}

#[tokio::test]
async fn a_listing_shows_each_name_once_and_nothing_that_was_removed() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let texts: Vec<String> = (0..PAGE_ENTRIES * 2 + 1).map(|number| format!("{number:03}")).collect();
    master.with_namespace(|namespace| {
        for text in &texts {
            namespace.add_file(ROOT, text);
        }
    });
    let handle = client.opendir(&root(), ROOT).expect("opened");
    let first = client.readdir(handle, DirCookie::default(), true).await.expect("listed");
    assert!(!first.end && first.items.iter().all(|item| item.entry.is_some()));
    client.unlink(&root(), ROOT, &name("001")).await.expect("removed");

    let (mut after, mut seen) = (first.items[0].cookie, vec!["000".to_owned()]);
    loop {
        let page = client.readdir(handle, after, true).await.expect("listed");
        seen.extend(page.items.iter().map(|item| item.name.to_string()));
        match page.items.last() {
            Some(last) => after = last.cookie,
            None => assert!(page.end),
        }
        if page.end {
            break;
        }
    }
    let mut expected = texts;
    expected.retain(|text| text != "001");
    assert_eq!(seen, expected);
    client.releasedir(handle);
    assert_eq!(client.readdir(handle, after, true).await, Err(FsError::BadHandle));
}

#[tokio::test]
async fn a_complete_listing_answers_later_lookups() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    master.with_namespace(|namespace| (0..6).map(|n| namespace.add_file(ROOT, &format!("{n}"))).count());
    let handle = client.opendir(&root(), ROOT).expect("opened");
    let first = client.readdir(handle, DirCookie::default(), true).await.expect("listed");
    let last = first.items.last().expect("entries").cookie;
    assert!(client.readdir(handle, last, true).await.expect("listed").end);
    master.take_seen();
    assert!(found(&client, ROOT, "5").await.is_some());
    assert_eq!(found(&client, ROOT, "6").await, None);
    assert!(master.take_seen().is_empty());
}

#[tokio::test]
async fn a_created_file_costs_one_request_and_its_close_one_that_nobody_waits_for() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    assert!(!opened.direct);
    assert!(
        matches!(&master.take_seen()[..], [Op::Make(make), Op::GetAttr { .. }] if make.first_chunk && make.open.is_some())
    );
    client.flush(opened.handle).await.expect("nothing to flush");
    client.release(opened.handle);
    let again = client.open(&root(), file, OpenFlags::new(Access::Write)).await.expect("opened");
    assert!(again.keep_cache, "nobody else has touched it");
    let seen = master.take_seen();
    assert!(matches!(&seen[..], [Op::Release { .. }, Op::Open { .. }]), "in this order: {seen:?}");
    assert_eq!(client.flush(opened.handle).await, Err(FsError::BadHandle));
}

#[tokio::test]
async fn an_open_for_writing_waits_for_the_close_before_it() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    master.take_seen();
    master.inject(Fault::Swallow);
    client.release(opened.handle);
    let caller = root();
    let mut open = std::pin::pin!(client.open(&caller, file, OpenFlags::new(Access::Write)));
    // Long enough for a request; a fault that goes unnoticed here is noticed next time.
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut open).await.is_err());
    assert!(matches!(&master.take_seen()[..], [Op::Release { .. }]));
    master.cut();
    open.await.expect("the close was answered at last");
    assert!(matches!(&master.take_seen()[..], [Op::Release { .. }, Op::Open { .. }]));
}

#[tokio::test]
async fn a_second_open_of_a_file_that_is_ours_asks_nobody() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, first) = create(&client, "f").await;
    master.take_seen();
    let second = client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    client.release(first.handle);
    assert!(master.take_seen().is_empty(), "the second relies on the registration of the first");
    client.release(second.handle);
    eventually("released", || matches!(&master.take_seen()[..], [Op::Release { .. }])).await;
}

#[tokio::test]
async fn an_open_for_writing_that_asks_nobody_relies_on_one_for_writing() {
    let master = FakeMaster::start().await;
    master.set_exclusive(false);
    let client = connect(&master).await;
    let (file, first) = create(&client, "f").await;
    master.set_exclusive(true);
    // the other mount has closed it: by this open we learn that we are alone, thanks to the first
    let reader = client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    client.release(first.handle);
    let writer = client.open(&root(), file, OpenFlags::new(Access::Write)).await.expect("opened");
    // behind everything that was sent before
    client.statfs().await.expect("answered");
    assert!(master.with_namespace(|namespace| namespace.is_written(file)), "it may not write what it buffers");
    client.release(reader.handle);
    client.release(writer.handle);
    eventually("released", || !master.with_namespace(|namespace| namespace.is_written(file))).await;
}

#[tokio::test]
async fn an_open_for_reading_does_not_make_this_mount_the_only_writer() {
    let master = FakeMaster::start().await;
    master.start_servers(3).await;
    let client = connect(&master).await;
    let file = written_and_closed(&client, "f").await;
    // answered while the writer was open, which has been closed since
    master.with_namespace(|namespace| namespace.readers_alone = true);
    let reader = client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    master.take_seen();
    let writer = client.open(&root(), file, OpenFlags::new(Access::Write)).await.expect("opened");
    let seen = master.take_seen();
    assert!(matches!(&seen[..], [Op::Open { .. }]), "the master knows who writes: {seen:?}");
    client.release(writer.handle);
    client.release(reader.handle);
}

#[tokio::test]
async fn a_file_that_is_ours_alone_stays_registered_for_writing_while_it_is_read() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let file = master.with_namespace(|namespace| namespace.add_file(ROOT, "f"));
    let open = async |access| client.open(&root(), file, OpenFlags::new(access)).await.expect("opened");
    let reader = open(Access::Read).await;
    let writer = open(Access::Write).await;
    master.take_seen();
    client.release(writer.handle);
    let again = open(Access::Write).await;
    client.statfs().await.expect("answered, after whatever was posted before");
    let seen = master.take_seen();
    assert!(matches!(&seen[..], [Op::StatFs]), "it is alone as the master sees it, too: {seen:?}");
    client.release(reader.handle);
    client.release(again.handle);
    let mut seen = Vec::new();
    let both = || {
        seen.extend(master.take_seen());
        seen.iter().filter(|op| matches!(op, Op::Release { .. })).count() == 2
    };
    eventually("released", both).await;
}

#[tokio::test]
async fn an_fsync_after_written_data_was_given_up_fails_whatever_the_reason() {
    let master = FakeMaster::start().await;
    master.start_servers(3).await;
    let client = connect(&master).await;
    let file = written_and_closed(&client, "f").await;
    let writer = client.open(&root(), file, OpenFlags::new(Access::Write)).await.expect("opened");
    client.write(writer.handle, 0, b"lost").await.expect("buffered");
    master.inject(Fault::Refuse(FsError::BadHandle));
    assert_eq!(client.fsync(writer.handle, true).await, Err(FsError::Io));
    assert_eq!(client.fsync(writer.handle, true).await, Ok(()), "it has been told");
}

#[tokio::test]
async fn an_answer_from_before_its_size_was_told_does_not_make_a_closed_file_shorter() {
    let master = FakeMaster::start().await;
    master.start_servers(3).await;
    let client = connect(&master).await;
    let file = written_and_closed(&client, "f").await;
    master.with_namespace(|namespace| namespace.set_size(file, 60_000));
    assert_eq!(client.fresh_attr(&root(), file).await.expect("answered").attr.size, 100_000);
    let opened = client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    let read = client.read(opened.handle, 0, 200_000).await.expect("read");
    assert_eq!(read.len(), 100_000);
}

#[tokio::test]
async fn the_name_of_a_file_that_was_replaced_elsewhere_leads_to_the_new_one_after_one_refusal() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let old = master.with_namespace(|namespace| namespace.add_file(ROOT, "f"));
    assert_eq!(found(&client, ROOT, "f").await, Some(old));
    let new = master.with_namespace(|namespace| {
        namespace.remove_inode(old);
        namespace.add_file(ROOT, "f")
    });
    let refused = client.open(&root(), old, OpenFlags::new(Access::Read)).await;
    assert_eq!(refused.map(|_| ()), Err(FsError::Stale));
    assert_eq!(found(&client, ROOT, "f").await, Some(new), "the kernel asks once more");
}

#[tokio::test]
async fn an_open_that_finds_another_size_than_was_told_reads_past_the_kernel() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let file = master.with_namespace(|namespace| namespace.add_file(ROOT, "a"));
    assert_eq!(found(&client, ROOT, "a").await, Some(file));
    let open = async || client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    assert!(!open().await.direct);
    master.with_namespace(|namespace| namespace.set_size(file, 7));
    assert!(open().await.direct);
    assert!(!open().await.direct, "told by now");
}

#[tokio::test]
async fn times_of_a_file_being_written_travel_with_its_close() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    let past = Timestamp::new(1000, 5).expect("a time");
    let times = SetAttr { mtime: Some(SetTime::At(past)), ..SetAttr::default() };
    let shown = client.setattr(&root(), file, times, Some(opened.handle)).await.expect("set");
    assert_eq!(shown.attr.mtime, past);
    let chmod = SetAttr { mode: Some(Mode::new(0o644)), ..SetAttr::default() };
    client.setattr(&root(), file, chmod, None).await.expect("set");
    assert!(matches!(&master.take_seen()[..], [Op::Make(_), Op::GetAttr { .. }]), "kept back");
    assert_eq!(client.getattr(&root(), file).await.expect("known").attr.mtime, past);
    client.flush(opened.handle).await.expect("reported");
    assert_eq!(master.with_namespace(|namespace| namespace.attr_of(file)).mtime, past);
    let chmod = SetAttr { mode: Some(Mode::new(0o600)), ..SetAttr::default() };
    let shown = client.setattr(&root(), file, chmod, None).await.expect("set");
    assert_eq!((shown.attr.mode, shown.attr.mtime), (Mode::new(0o600), past));
    assert!(matches!(&master.take_seen()[..], [Op::ReportSize { .. }, Op::SetAttr { .. }]));
}

#[tokio::test]
async fn times_set_while_a_file_is_being_closed_are_not_kept_back() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    let past = |secs| Timestamp::new(secs, 5).expect("a time");
    let times = |secs| SetAttr { mtime: Some(SetTime::At(past(secs))), ..SetAttr::default() };
    client.setattr(&root(), file, times(1000), Some(opened.handle)).await.expect("set");
    client.release(opened.handle);
    client.setattr(&root(), file, times(2000), None).await.expect("set");
    let mut seen = master.take_seen();
    assert!(seen.iter().any(|op| matches!(op, Op::SetAttr { .. })), "nobody would tell it later: {seen:?}");
    eventually("released", || {
        seen.extend(master.take_seen());
        seen.iter().any(|op| matches!(op, Op::Release { .. }))
    })
    .await;
    assert_eq!(master.with_namespace(|namespace| namespace.attr_of(file)).mtime, past(2000));
}

#[tokio::test]
async fn an_open_file_is_told_of_in_the_background() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, _opened) = create(&client, "f").await;
    let inode = client.files.inode(file).expect("open");
    for secs in [1000, 2000] {
        let past = Timestamp::new(secs, 5).expect("a time");
        let times = SetAttr { mtime: Some(SetTime::At(past)), ..SetAttr::default() };
        client.setattr(&root(), file, times, None).await.expect("kept back");
        master.take_seen();
        client.report_soon(&inode);
        client.report_soon(&inode);
        eventually("told", || master.with_namespace(|namespace| namespace.attr_of(file)).mtime == past).await;
        assert!(matches!(&master.take_seen()[..], [Op::ReportSize { durable: false, .. }]), "once");
        eventually("there is nothing left to tell", || client.files.inode(file).is_some_and(|f| f.set_report_due()))
            .await;
        inode.clear_report_due();
    }
}

#[tokio::test]
async fn a_size_is_not_told_before_the_bytes_are_sent() {
    let master = FakeMaster::start().await;
    let timeout = Duration::from_millis(200);
    let config = ClientConfig { master: master.address.clone(), timeout, ..ClientConfig::default() };
    let client = Client::connect(config).await.expect("the master listens");
    let (file, opened) = create(&client, "f").await;
    client.write(opened.handle, 0, b"there is no chunkserver").await.expect("buffered");
    let inode = client.files.inode(file).expect("open");
    assert!(!inode.set_report_due(), "it is to be told of");
    eventually("it was tried", || !inode.data.is_dirty()).await;
    assert!(inode.unreported().is_some());
    assert_eq!(master.with_namespace(|namespace| namespace.attr_of(file)).size, 0);
    assert!(client.flush(opened.handle).await.is_err(), "told to the one who closes it");
}

#[tokio::test]
async fn own_writes_are_in_every_attribute() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    assert_eq!(client.write(opened.handle, 10, b"hello").await, Ok(5));
    assert_eq!(client.try_getattr(file).expect("known").attr.size, 15);
    client.cache.clear();
    let Ok(Lookup::Found(entry)) = client.lookup(&root(), ROOT, &name("f")).await else { panic!("it is there") };
    assert_eq!(entry.attr.size, 15, "the master says 0");
    let read = client.read(opened.handle, 8, 100).await.expect("read");
    assert_eq!(&read[..], b"\0\0hello");
    assert_eq!(client.write(opened.handle, u64::MAX, b"x").await, Err(FsError::FileTooLarge));
}

#[tokio::test]
async fn a_cut_that_the_master_refuses_loses_nothing() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    let refused = || master.inject(Fault::Refuse(FsError::AccessDenied));
    client.write(opened.handle, 0, b"hello").await.expect("buffered");
    client.report(&client.files.inode(file).expect("open"), None).await.expect("reported");
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    refused();
    let set = client.setattr(&root(), file, cut, Some(opened.handle)).await;
    assert_eq!(set.map(drop), Err(FsError::AccessDenied));
    refused();
    let flags = OpenFlags { truncate: true, ..OpenFlags::new(Access::Write) };
    assert_eq!(client.open(&root(), file, flags).await.map(drop), Err(FsError::AccessDenied));
    assert_eq!(&client.read(opened.handle, 0, 100).await.expect("read")[..], b"hello");
    client.open(&root(), file, flags).await.expect("opened");
    assert_eq!(&client.read(opened.handle, 0, 100).await.expect("read")[..], b"");
}

#[tokio::test]
async fn a_shared_write_that_another_mounts_cut_erased_is_made_again() {
    let master = FakeMaster::start().await;
    let servers = master.start_servers(2).await;
    master.set_exclusive(false);
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    client.write(opened.handle, 0, &[1; 150]).await.expect("written");
    master.with_namespace(|namespace| namespace.cut(file, 100));
    client.write(opened.handle, 200, b"late").await.expect("written");
    assert_eq!(master.with_namespace(|namespace| namespace.attr_of(file)).size, 204);
    let expected = [&[1; 100][..], &[0; 100], b"late"].concat();
    for server in servers {
        let chunks = server.chunks.lock();
        assert_eq!(
            chunks.values().map(|chunk| &chunk.data).collect::<Vec<_>>(),
            [&expected],
            "under the new generation"
        );
    }
    assert_eq!(client.read(opened.handle, 0, 1000).await.expect("read"), expected);
    let flags = WriteFlags { from_cache: true, ..WriteFlags::default() };
    client.write_with(opened.handle, 4096, &[2; 4096], flags).await.expect("nothing to write");
    assert_eq!(client.getattr(&root(), file).await.expect("known").attr.size, 204, "a mapping extends nothing");
}

/// True if every server has flushed all that it has.
fn all_is_stable(servers: &[Arc<FakeServer>]) -> bool {
    let stable = |server: &Arc<FakeServer>| server.chunks.lock().values().all(|chunk| chunk.stable == chunk.data);
    servers.iter().all(stable)
}

async fn written_and_closed(client: &Client, text: &str) -> InodeId {
    let (file, opened) = create(client, text).await;
    client.write(opened.handle, 0, &[7; 100_000]).await.expect("buffered");
    client.flush(opened.handle).await.expect("flushed");
    client.release(opened.handle);
    file
}

#[tokio::test]
async fn fsync_by_a_handle_that_did_not_write_flushes_what_was_written() {
    let master = FakeMaster::start().await;
    let servers = master.start_servers(2).await;
    let client = connect(&master).await;
    let other = connect(&master).await;
    let chmod = SetAttr { mode: Some(Mode::new(0o700)), ..SetAttr::default() };
    for (text, way) in [("a", "after a chmod"), ("b", "when it was forgotten"), ("c", "from another mount")] {
        let file = written_and_closed(&client, text).await;
        assert!(!all_is_stable(&servers));
        match text {
            "a" => drop(client.setattr(&root(), file, chmod.clone(), None).await.expect("set")),
            "b" => client.files.forget_parked(),
            _ => {}
        }
        let asks = if text == "c" { &other } else { &client };
        let opened = asks.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
        asks.fsync(opened.handle, false).await.expect("synced");
        assert!(all_is_stable(&servers), "{way}");
    }
}

#[tokio::test]
async fn a_chmod_does_not_make_a_client_forget_what_it_has_not_flushed() {
    let master = FakeMaster::start().await;
    let servers = master.start_servers(2).await;
    let client = connect(&master).await;
    let file = written_and_closed(&client, "a").await;
    let chmod = SetAttr { mode: Some(Mode::new(0o700)), ..SetAttr::default() };
    client.setattr(&root(), file, chmod, None).await.expect("set");
    let opened = client.open(&root(), file, OpenFlags::new(Access::Write)).await.expect("opened");
    assert!(!opened.keep_cache, "who knows what else was changed");
    client.files.inode(file).expect("open").data.sync().await.expect("synced");
    assert!(all_is_stable(&servers));
    let syncs: Vec<usize> = servers.iter().map(|server| server.seen.lock().syncs).collect();
    assert_eq!(syncs, [2, 2], "the members of its two leases");
}

#[tokio::test]
async fn a_rename_over_a_file_flushes_whoever_wrote_it() {
    let master = FakeMaster::start().await;
    let servers = master.start_servers(2).await;
    let client = connect(&master).await;
    written_and_closed(&client, "old").await;
    let rename = async |client: &Client, from: &str| {
        client.rename(&root(), (ROOT, &name(from)), (ROOT, &name("old")), RenameMode::Replace).await.expect("renamed");
    };
    let reopened = written_and_closed(&client, "b").await;
    client.files.forget_parked();
    let opened = client.open(&root(), reopened, OpenFlags::new(Access::Read)).await.expect("opened");
    client.release(opened.handle);
    written_and_closed(&client, "c").await;
    written_and_closed(&client, "d").await;
    let other = connect(&master).await;
    let dirty = || servers[0].chunks.lock().values().filter(|chunk| chunk.stable != chunk.data).count();
    let before = dirty();
    rename(&client, "b").await;
    assert_eq!(dirty(), before - 2, "opened again in between, two chunks");
    client.files.forget_parked();
    rename(&client, "c").await;
    assert_eq!(dirty(), before - 4, "forgotten");
    rename(&other, "d").await;
    assert_eq!(dirty(), before - 6, "a name that the other mount has never looked up");
}

#[tokio::test]
async fn a_recall_makes_the_file_shared() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    let past = Timestamp::new(1000, 5).expect("a time");
    let times = SetAttr { mtime: Some(SetTime::At(past)), ..SetAttr::default() };
    client.setattr(&root(), file, times, Some(opened.handle)).await.expect("set");
    master.recall(file).await;
    assert_eq!(master.with_namespace(|namespace| namespace.attr_of(file)).mtime, past, "reported before done");
    master.set_exclusive(false);
    assert!(client.try_open(file, OpenFlags::new(Access::Read)).is_none(), "no longer ours alone");
    let second = client.open(&root(), file, OpenFlags::new(Access::Write)).await.expect("opened");
    assert!(second.direct, "others write it too");
    master.recall(InodeId::new(99)).await;
}

#[tokio::test]
async fn recalls_are_heard_after_their_stream_has_ended() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, _) = create(&client, "f").await;
    master.end_callbacks();
    tokio::time::timeout(Duration::from_secs(10), master.has_listener()).await.expect("it listens again");
    master.recall(file).await;
    assert!(client.try_open(file, OpenFlags::new(Access::Read)).is_none(), "no longer ours alone");
    assert!(master.take_resumed().is_empty(), "on the same connection");
}

#[tokio::test]
async fn open_files_are_claimed_again_after_a_cut() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    master.inject(Fault::CutAfterMutation);
    mkdir(&client, ROOT, "d").await;
    let claimed: Vec<u64> = master.take_resumed().iter().map(|reclaim| reclaim.inode).collect();
    assert_eq!(claimed, [file.get()]);
    client.flush(opened.handle).await.expect("still open");
}

#[tokio::test]
async fn another_leader_is_told_what_the_former_had_not_logged() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let past = Timestamp::new(1000, 5).expect("a time");
    let times = SetAttr { mtime: Some(SetTime::At(past)), ..SetAttr::default() };
    let (closed, first) = create(&client, "closed").await;
    client.setattr(&root(), closed, times.clone(), None).await.expect("set");
    client.flush(first.handle).await.expect("reported");
    client.release(first.handle);
    let (open, second) = create(&client, "open").await;
    client.setattr(&root(), open, times, None).await.expect("set");
    client.flush(second.handle).await.expect("reported");
    let mtimes = || master.with_namespace(|n| [closed, open].map(|inode| n.attr_of(inode).mtime));
    assert_eq!(mtimes(), [past, past]);
    master.take_seen();
    master.take_over();
    client.statfs().await.expect("answered by the next leader");
    assert!(matches!(&master.take_seen()[..], [Op::ReportSize { .. }, Op::ReportSize { .. }, Op::StatFs]));
    assert_eq!(mtimes(), [past, past]);
    master.cut();
    client.statfs().await.expect("answered");
    assert!(
        !master.take_seen().iter().any(|op| matches!(op, Op::ReportSize { .. })),
        "the same leader has forgotten nothing"
    );
}

#[tokio::test]
async fn a_size_that_was_told_before_a_file_was_read_again_is_not_lost_with_the_leader() {
    let master = FakeMaster::start().await;
    let _servers = master.start_servers(2).await;
    let client = connect(&master).await;
    let file = written_and_closed(&client, "f").await;
    let size = || master.with_namespace(|namespace| namespace.attr_of(file).size);
    let opened = client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    master.take_over();
    client.statfs().await.expect("answered by the next leader");
    assert_eq!(size(), 100_000, "while it is open for reading");
    client.release(opened.handle);
    master.take_over();
    client.statfs().await.expect("answered by the next leader");
    assert_eq!(size(), 100_000, "after it was closed");
}

#[tokio::test]
async fn a_leader_that_is_told_again_has_as_long_to_log_it_as_the_first() {
    let master = FakeMaster::start().await;
    let _servers = master.start_servers(2).await;
    let client = connect(&master).await;
    let began = Instant::now();
    let file = written_and_closed(&client, "f").await;
    let closed = Instant::now();
    assert!(client.files.noted(closed).is_empty(), "whoever was told before that has logged it");
    assert_eq!(client.files.noted(began).len(), 1);
    assert_eq!(client.files.noted(closed).len(), 1, "told again");
    let opened = client.open(&root(), file, OpenFlags::new(Access::Read)).await.expect("opened");
    let open = Instant::now();
    assert!(client.files.noted(open).is_empty(), "reading it is no reason to tell it");
    assert_eq!((client.files.noted(closed).len(), client.files.noted(open).len()), (1, 1));
    client.release(opened.handle);
    let closed = Instant::now();
    assert!(client.files.noted(closed).is_empty(), "nor is closing it then");
}

#[tokio::test]
async fn a_lost_session_fails_dirty_files_and_keeps_the_others() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (_, dirty) = create(&client, "dirty").await;
    let (clean_inode, clean) = create(&client, "clean").await;
    client.write(dirty.handle, 0, b"never written out").await.expect("buffered");
    master.take_seen();
    master.expire_sessions();
    let opened_again = |ops: &[Op]| ops.iter().any(|op| matches!(op, Op::Open { .. }));
    eventually("opened again", || opened_again(&master.take_seen())).await;
    assert_eq!(client.flush(dirty.handle).await, Err(FsError::Io));
    assert_eq!(client.write(dirty.handle, 0, b"x").await, Err(FsError::Io));
    client.flush(clean.handle).await.expect("it lost nothing");
    assert!(client.getattr(&root(), clean_inode).await.is_ok());
    client.release(dirty.handle);
}

#[tokio::test]
async fn a_client_that_is_cut_off_stops_by_its_own_clock_and_goes_on_when_it_is_back() {
    let master = FakeMaster::start().await;
    let expiry = Duration::from_secs(2);
    master.set_expiry(expiry);
    let (began, client) = (Instant::now(), connect(&master).await);
    let (file, opened) = create(&client, "f").await;
    let write = |byte: &[u8]| client.try_write(opened.handle, 0, byte, WriteFlags::default());
    eventually("it is older than its expiry", || began.elapsed() > expiry).await;
    assert_eq!(write(b"a"), Some(Ok(1)), "it keeps itself alive");
    assert!(client.try_open(file, OpenFlags::new(Access::Read)).is_some() && client.try_getattr(file).is_some());
    let cut = Instant::now();
    master.set_away(true);
    eventually("nothing is taken into memory", || write(b"b").is_none()).await;
    let patience = cut.elapsed();
    assert!(patience > expiry / 3 && patience < expiry, "{patience:?}");
    assert!(client.try_open(file, OpenFlags::new(Access::Read)).is_none(), "others may have it open");
    assert!(client.try_getattr(file).is_none(), "nothing is answered from memory");
    master.set_away(false);
    eventually("it is alone with the file again", || write(b"c") == Some(Ok(1))).await;
    assert_eq!(client.try_getattr(file).expect("known again").attr.size, 1);
    master.set_exclusive(false);
    master.set_away(true);
    eventually("nothing is taken into memory", || write(b"d").is_none()).await;
    master.set_away(false);
    client.statfs().await.expect("answered again");
    eventually("silence is over", || !client.session.is_silent()).await;
    assert!(write(b"e").is_none(), "somebody else has it open now");
}

#[tokio::test]
async fn paths_are_walked_through_links_and_dots() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let a = mkdir(&client, ROOT, "a").await;
    let b = mkdir(&client, a, "b").await;
    let symlink = async |parent, text: &str, target: &str| {
        let kind = MakeKind::Symlink(target.as_bytes().to_vec());
        client.make(&root(), parent, &name(text), kind, Mode::new(0o777)).await.expect("made").attr.inode
    };
    symlink(b, "up", "../b/../..").await;
    let absolute = symlink(ROOT, "abs", "/a/b").await;
    symlink(ROOT, "loop", "loop").await;
    let resolve = async |path: &str| client.resolve(&root(), path.as_bytes()).await.map(|entry| entry.attr.inode);
    for (path, expected) in [
        ("/", Ok(ROOT)),
        ("", Ok(ROOT)),
        ("a//b/", Ok(b)),
        ("/a/./b/..", Ok(a)),
        ("/../..", Ok(ROOT)),
        ("/abs", Ok(b)),
        ("/abs/up/a", Ok(a)),
        ("/loop", Err(FsError::Loop)),
        ("/a/none", Err(FsError::NotFound)),
        ("/a/none/x", Err(FsError::NotFound)),
    ] {
        assert_eq!(resolve(path).await, expected, "{path}");
    }
    let itself = client.resolve_no_follow(&root(), b"/abs").await.expect("found");
    assert_eq!(itself.attr.inode, absolute);
    assert_eq!(client.resolve_parent(&root(), b"/abs/new").await, Ok((b, name("new"))));
    assert_eq!(client.resolve_parent(&root(), b"/").await, Err(FsError::Busy));
}

#[tokio::test]
async fn after_shutdown_nothing_works_any_more() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    client.shutdown().await.expect("nothing is dirty");
    client.cache.clear();
    assert_eq!(client.getattr(&root(), file).await.map(|_| ()), Err(FsError::SessionExpired));
    client.release(opened.handle);
}

#[tokio::test]
async fn a_shutdown_without_chunkservers_takes_the_time_of_one_file() {
    let master = FakeMaster::start().await;
    let timeout = Duration::from_secs(2);
    let config = ClientConfig { master: master.address.clone(), timeout, ..ClientConfig::default() };
    let client = Client::connect(config).await.expect("the master listens");
    for text in ["a", "b", "c", "d"] {
        let (_, opened) = create(&client, text).await;
        client.write(opened.handle, 0, b"nobody takes it").await.expect("buffered");
    }
    let began = Instant::now();
    client.shutdown().await.expect_err("the data could not be written");
    assert!(began.elapsed() < timeout * 3 / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let config = ClientConfig { dirty_bytes: 0, ..ClientConfig::default() };
    let error = Client::connect(config).await.map(|_| ()).expect_err("refused");
    assert!(error.is_usage() && error.to_string().contains("dirty_bytes"), "{error}");
}

#[tokio::test]
async fn a_directory_is_known_again_with_the_answer_that_changed_it() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (_, opened) = create(&client, "f").await;
    client.release(opened.handle);
    client.rename(&root(), (ROOT, &name("f")), (ROOT, &name("g")), RenameMode::Replace).await.expect("renamed");
    assert!(client.try_getattr(ROOT).is_some(), "after a rename");
    client.unlink(&root(), ROOT, &name("g")).await.expect("removed");
    let known = client.try_getattr(ROOT).expect("after a removal");
    assert_eq!(known.attr, master.with_namespace(|namespace| namespace.attr_of(ROOT)));
}
