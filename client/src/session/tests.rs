//! The session against a fake master: reconnects, exactly once, expiry.

use super::*;
use crate::fake_master::{FakeMaster, Fault};
use gfs_proto::attr::Mode;
use gfs_proto::ops::{Make, MakeKind};

async fn connect(master: &FakeMaster, timeout: Duration) -> Arc<Session> {
    let config = SessionConfig { masters: master.address.clone(), name: "test".into(), timeout };
    Session::connect(config, Arc::new(ByTcp)).await.expect("the master listens")
}

fn mkdir(name: &str) -> Vec<Op> {
    vec![Op::Make(Make {
        parent: InodeId::ROOT.into(),
        name: Name::new(name.as_bytes()).expect("a good name"),
        kind: MakeKind::Directory,
        mode: Mode::new(0o755),
        exclusive: true,
        open: None,
        first_chunk: false,
        ids: None,
    })]
}

const LONG: Duration = Duration::from_secs(20);

async fn made(session: &Session, name: &str) -> Result<OpResult, FsError> {
    session.call(&Caller::root(), mkdir(name)).await?.results.remove(0)
}

#[tokio::test]
async fn many_requests_share_the_stream() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    let names: Vec<String> = (0..50).map(|number| format!("{number:03}")).collect();
    let calls = names.iter().map(|name| made(&session, name));
    for result in futures_util::future::join_all(calls).await {
        assert!(matches!(result, Ok(OpResult::Made(_))), "{result:?}");
    }
    assert_eq!(master.with_namespace(|namespace| namespace.names(InodeId::ROOT)), names);
    assert!(made(&session, "000").await.is_err_and(|error| error == FsError::Exists));
    session.call(&Caller::root(), vec![Op::StatFs]).await.expect("answered");
    assert_eq!(master.acknowledged(), 51, "all answered");
}

#[tokio::test]
async fn a_mutation_whose_answer_was_lost_is_done_once() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    master.inject(Fault::CutAfterMutation);
    let result = made(&session, "a").await;
    assert!(matches!(result, Ok(OpResult::Made(_))), "the first answer, not `exists`: {result:?}");
    assert_eq!(master.replays(), 1);
    assert_eq!(master.take_seen().len(), 2, "it was sent twice");
}

#[tokio::test]
async fn requests_under_way_survive_a_cut() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    for _ in 0..10 {
        master.inject(Fault::Swallow);
    }
    let names: Vec<String> = (0..10).map(|number| format!("{number:03}")).collect();
    let calls = futures_util::future::join_all(names.iter().map(|name| made(&session, name)));
    let cut = async {
        let mut swallowed = 0;
        while swallowed < 10 {
            swallowed += master.take_seen().len();
            tokio::task::yield_now().await;
        }
        master.cut();
    };
    let (results, ()) = tokio::join!(calls, cut);
    assert!(results.iter().all(|result| matches!(result, Ok(OpResult::Made(_)))), "{results:?}");
    assert_eq!(master.with_namespace(|namespace| namespace.names(InodeId::ROOT)), names);
}

#[tokio::test]
async fn a_cluster_that_is_not_ready_is_asked_again() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    for error in [FsError::Unavailable, FsError::Unavailable, FsError::NotLeader] {
        master.inject(Fault::Refuse(error));
    }
    let result = made(&session, "a").await;
    assert!(matches!(result, Ok(OpResult::Made(_))), "{result:?}");
    assert_eq!(master.take_seen().len(), 4);
    master.inject(Fault::Refuse(FsError::NotPermitted));
    assert_eq!(made(&session, "b").await, Err(FsError::NotPermitted), "final");
}

#[tokio::test]
async fn everything_ends_at_its_deadline() {
    let master = FakeMaster::start().await;
    let session = connect(&master, Duration::from_millis(100)).await;
    master.inject(Fault::Swallow);
    assert_eq!(made(&session, "a").await, Err(FsError::TimedOut));
    for _ in 0..100 {
        master.inject(Fault::Refuse(FsError::Unavailable));
    }
    assert_eq!(made(&session, "b").await, Err(FsError::TimedOut));
}

#[tokio::test]
async fn a_mutation_that_timed_out_is_not_acknowledged_before_it_was_answered() {
    let master = FakeMaster::start().await;
    let session = connect(&master, Duration::from_millis(100)).await;
    master.inject(Fault::Swallow);
    assert_eq!(made(&session, "a").await, Err(FsError::TimedOut));
    assert!(made(&session, "b").await.is_ok());
    assert_eq!(master.acknowledged(), 0);
    master.cut();
    while master.with_namespace(|namespace| namespace.names(InodeId::ROOT)) != ["a", "b"] {
        tokio::task::yield_now().await;
    }
    assert!(made(&session, "c").await.is_ok());
    assert!(made(&session, "d").await.is_ok());
    assert_eq!(master.acknowledged(), 3, "answered behind its caller's back");
}

#[tokio::test]
async fn a_lost_session_fails_what_was_under_way_and_a_new_one_begins() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    let first = session.id();
    master.inject(Fault::Swallow);
    let call = made(&session, "a");
    let expire = async {
        while master.take_seen().is_empty() {
            tokio::task::yield_now().await;
        }
        master.expire_sessions();
    };
    let (result, ()) = tokio::join!(call, expire);
    assert_eq!(result, Err(FsError::SessionExpired), "never sent in another session");
    let result = made(&session, "b").await;
    assert!(matches!(result, Ok(OpResult::Made(_))), "{result:?}");
    assert_ne!(session.id(), first);
    assert_eq!(master.with_namespace(|namespace| namespace.names(InodeId::ROOT)), ["b"]);
}

#[tokio::test]
async fn a_read_outlives_the_session_it_was_asked_in() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    master.inject(Fault::Swallow);
    let caller = Caller::root();
    let call = session.call(&caller, vec![Op::StatFs]);
    let expire = async {
        while master.take_seen().is_empty() {
            tokio::task::yield_now().await;
        }
        master.expire_sessions();
    };
    let (reply, ()) = tokio::join!(call, expire);
    assert!(reply.is_ok(), "{reply:?}");
}

#[tokio::test]
async fn nothing_is_accepted_after_the_end() {
    let master = FakeMaster::start().await;
    let session = connect(&master, LONG).await;
    session.close().await;
    assert_eq!(made(&session, "a").await, Err(FsError::SessionExpired));
}

#[tokio::test]
async fn nobody_at_the_address_is_said_to_people() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let config = SessionConfig { masters: address.clone(), name: "test".into(), timeout: LONG };
    let error = Session::connect(config, Arc::new(ByTcp)).await.map(|_| ()).expect_err("nobody listens");
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("refused") && text.contains("gfs-master"), "{text}");
}
