//! What others may see of a file while it is read and written (docs/interleavings.md, C and E).

use super::*;

#[tokio::test]
async fn a_read_is_never_shorter_than_the_size_that_somebody_was_told() {
    let master = FakeMaster::start().await;
    let _servers = master.start_servers(2).await;
    master.set_exclusive(false);
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    client.write(opened.handle, 0, b"short").await.expect("written");
    master.with_namespace(|namespace| namespace.set_size(file, 8));
    // what was known of it is old, and nobody has told this client
    client.cache.clear();
    assert!(matches!(client.try_read(opened.handle, 0, 100), Ok(crate::data::Tried::Elsewhere)), "it has to ask");
    assert_eq!(&client.read(opened.handle, 0, 100).await.expect("read")[..], b"short\0\0\0");
}

#[tokio::test]
async fn a_listing_shows_own_writes_that_the_master_was_not_told_of() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let (_file, opened) = create(&client, "f").await;
    client.write(opened.handle, 0, b"hello").await.expect("buffered");
    client.cache.clear();
    let handle = client.opendir(&root(), ROOT).expect("opened");
    let page = client.readdir(handle, DirCookie::default(), true).await.expect("listed");
    let sizes: Vec<_> = page.items.iter().map(|item| item.entry.as_ref().map(|entry| entry.attr.size)).collect();
    assert_eq!(sizes, [Some(5)], "the master says 0");
}

#[tokio::test]
async fn a_page_that_is_written_back_through_an_appending_handle_stays_where_it_was() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let flags = OpenFlags { append: true, ..write_flags() };
    let created = client.create(&root(), ROOT, &name("f"), (Mode::new(0o644), flags)).await;
    let (entry, opened) = created.expect("created");
    client.write(opened.handle, 0, b"0123456789").await.expect("buffered");
    let from_cache = WriteFlags { from_cache: true, ..WriteFlags::default() };
    client.write_with(opened.handle, 2, b"ab", from_cache).await.expect("buffered");
    assert_eq!(client.read(opened.handle, 0, 100).await.expect("read"), &b"01ab456789"[..]);
    assert_eq!(client.getattr(&root(), entry.attr.inode).await.expect("known").attr.size, 10);
}

#[tokio::test]
async fn a_close_after_a_cut_at_open_flushes_what_replaces_the_older_content() {
    let master = FakeMaster::start().await;
    let servers = master.start_servers(2).await;
    let client = connect(&master).await;
    let file = written_and_closed(&client, "f").await;
    let flags = OpenFlags { truncate: true, ..OpenFlags::new(Access::Write) };
    let opened = client.open(&root(), file, flags).await.expect("opened");
    client.write(opened.handle, 0, b"new").await.expect("buffered");
    client.flush(opened.handle).await.expect("flushed");
    let newest = |server: &Arc<FakeServer>| {
        server.chunks.lock().values().any(|chunk| chunk.data == b"new" && chunk.stable == chunk.data)
    };
    assert!(servers.iter().all(newest), "a crash now would leave neither the old content nor the new");
}
