//! What is shown of the links of an inode while its names come and go.

use super::*;

/// A file with the names `a`, `b` and `c`.
async fn with_three_names(master: &FakeMaster, client: &Client) -> InodeId {
    let file = master.with_namespace(|namespace| namespace.add_file(ROOT, "a"));
    assert_eq!(found(client, ROOT, "a").await, Some(file));
    for other in ["b", "c"] {
        client.link(&root(), file, ROOT, &name(other)).await.expect("linked");
    }
    file
}

async fn links(client: &Client, file: InodeId) -> u32 {
    client.fresh_attr(&root(), file).await.expect("answered").attr.nlink
}

async fn links_at_the_master(master: &FakeMaster, file: InodeId, wanted: u32) {
    eventually("the master has done it", || master.with_namespace(|it| it.attr_of(file).nlink == wanted)).await;
}

#[tokio::test]
async fn while_a_name_is_removed_no_fewer_links_are_shown_than_before() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let file = with_three_names(&master, &client).await;
    master.with_namespace(|namespace| namespace.add_file(ROOT, "x"));

    master.inject(Fault::SwallowAnswer);
    let me = client.clone();
    let removing = tokio::spawn(async move { me.unlink(&root(), ROOT, &name("b")).await });
    links_at_the_master(&master, file, 2).await;
    assert_eq!(links(&client, file).await, 3, "the kernel takes one off when it hears of the removal");
    master.cut();
    assert_eq!(removing.await.expect("no panic"), Ok(()));
    assert_eq!(links(&client, file).await, 2);

    master.inject(Fault::SwallowAnswer);
    let me = client.clone();
    let replacing =
        tokio::spawn(
            async move { me.rename(&root(), (ROOT, &name("x")), (ROOT, &name("c")), RenameMode::Replace).await },
        );
    links_at_the_master(&master, file, 1).await;
    assert_eq!(links(&client, file).await, 2);
    master.cut();
    assert_eq!(replacing.await.expect("no panic"), Ok(()));
    assert_eq!(links(&client, file).await, 1);
}

#[tokio::test]
async fn a_removal_that_failed_or_was_given_up_leaves_nothing_behind() {
    let master = FakeMaster::start().await;
    let client = connect(&master).await;
    let file = with_three_names(&master, &client).await;
    master.inject(Fault::Refuse(FsError::AccessDenied));
    assert_eq!(client.unlink(&root(), ROOT, &name("b")).await, Err(FsError::AccessDenied));

    master.take_seen();
    master.inject(Fault::Swallow);
    let me = client.clone();
    let given_up = tokio::spawn(async move { me.unlink(&root(), ROOT, &name("b")).await });
    eventually("it was asked for", || !master.take_seen().is_empty()).await;
    given_up.abort();
    assert!(given_up.await.is_err_and(|end| end.is_cancelled()));

    // another mount does it
    let other = connect(&master).await;
    other.unlink(&root(), ROOT, &name("c")).await.expect("removed");
    assert_eq!(links(&client, file).await, 2);
}
