//! What never waits is called by threads of the kernel's requests, which are outside of every runtime: what such a
//! call leaves to be done must be given to the client's own.

use super::*;

/// Runs it on a thread that has no runtime.
fn outside<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(call).join().expect("it needs no runtime"))
}

#[tokio::test]
async fn what_is_left_to_do_is_not_left_to_the_thread_that_asked() {
    let master = FakeMaster::start().await;
    let servers = master.start_servers(2).await;
    let client = connect(&master).await;
    let (file, opened) = create(&client, "f").await;
    outside(|| {
        assert!(client.try_lookup(ROOT, &name("f")).is_some() && client.try_getattr(file).is_some());
        assert_eq!(client.try_write(opened.handle, 0, b"written", WriteFlags::default()), Some(Ok(7)));
        assert!(client.try_read(opened.handle, 0, 7).is_ok());
        assert!(client.try_flush(opened.handle).is_none(), "the bytes are not at the servers");
        client.release(opened.handle);
    });
    eventually("what was written is sent", || !servers[0].seen.lock().writes.is_empty()).await;
    eventually("the file is closed", || client.files.inode(file).is_none()).await;
}

#[tokio::test]
async fn a_long_listing_goes_on_without_a_runtime() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let all = PAGE_ENTRIES * 3;
    master.with_namespace(|namespace| (0..all).map(|n| namespace.add_file(ROOT, &format!("{n:03}"))).count());
    let handle = outside(|| client.opendir(&root(), ROOT)).expect("opened");
    let (mut after, mut listed) = (DirCookie::default(), 0);
    while listed < all {
        let page = match outside(|| client.try_readdir(handle, after, true)) {
            Some(page) => page,
            None => client.readdir(handle, after, true).await.expect("listed"),
        };
        after = page.items.last().expect("there are more").cookie;
        listed += page.items.len();
        eventually("the next page comes by itself", || {
            listed == all || outside(|| client.try_readdir(handle, after, true)).is_some()
        })
        .await;
    }
    outside(|| client.releasedir(handle));
}
