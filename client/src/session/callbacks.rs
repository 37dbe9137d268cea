//! What the master asks of us, on a stream of its own so that it never queues behind replies.

use super::{Identity, Session};
use crate::session::Hooks;
use gfs_proto::ids::InodeId;
use gfs_proto::name::Name;
use gfs_proto::wire::{self, callback, callback_answer, session_client::SessionClient};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use tracing::debug;

type Answers = mpsc::UnboundedSender<wire::CallbackAnswer>;

/// Between two streams on one connection: a master that refuses them is not flooded.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs as long as the connection, whose keeper ends it: a master that cannot ask us anything would take
/// us for dead. When a stream ends another is opened, and the master repeats what was not answered.
pub(super) async fn serve(session: Weak<Session>, channel: Channel, identity: Identity) {
    while session.strong_count() > 0 {
        let ended = run(&session, channel.clone(), &identity).await;
        debug!(status = ?ended.err(), "the stream of callbacks ended");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn run(session: &Weak<Session>, channel: Channel, identity: &Identity) -> Result<(), Status> {
    let (answers, receiver) = mpsc::unbounded_channel();
    let attach = wire::CallbackAnswer { kind: Some(callback_answer::Kind::Attach(identity.attach())) };
    let _ = answers.send(attach);
    let stream = SessionClient::new(channel).callbacks(UnboundedReceiverStream::new(receiver)).await?;
    let mut callbacks = stream.into_inner();
    while let Some(callback) = callbacks.message().await? {
        let Some(hooks) = session.upgrade().and_then(|session| session.hooks()) else {
            // Nobody holds anything yet, or any more.
            done(&answers, callback.id);
            continue;
        };
        take(hooks, callback, &answers);
    }
    Ok(())
}

/// A recall may have much to flush and must not hold up the next: each has a task of its own.
fn take(hooks: Arc<dyn Hooks>, callback: wire::Callback, answers: &Answers) {
    match callback.kind {
        Some(callback::Kind::Recall(recall)) => {
            debug!(inode = recall.inode, "recalled");
            let answers = answers.clone();
            tokio::spawn(async move {
                hooks.recall(InodeId::new(recall.inode)).await;
                done(&answers, callback.id);
            });
        }
        Some(callback::Kind::Invalidate(invalidate)) => {
            let names = invalidate.names.iter().filter_map(|name| Name::new(name).ok()).collect();
            hooks.invalidate(InodeId::new(invalidate.inode), names);
            done(answers, callback.id);
        }
        Some(callback::Kind::Ping(_)) | None => done(answers, callback.id),
    }
}

/// A stream that is gone takes the answer with it: the master asks again on the next.
fn done(answers: &Answers, id: u64) {
    let _ = answers.send(wire::CallbackAnswer { kind: Some(callback_answer::Kind::Done(id)) });
}
