//! The ChunkserverLink service.

use crate::master::Master;
use crate::servers::service::{Reader, RegisterError};
use futures_util::stream::{BoxStream, StreamExt};
use gfs_proto::FsError;
use gfs_proto::control::FromChunkserver;
use gfs_proto::limits::PROTOCOL_VERSION;
use gfs_proto::wire::{self, from_chunkserver};
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

/// See the module's text.
pub struct LinkService {
    master: Arc<Master>,
}

impl LinkService {
    /// Of a master.
    pub fn new(master: Arc<Master>) -> Self {
        Self { master }
    }
}

fn turned_away(error: &RegisterError) -> Status {
    warn!("a chunkserver was turned away: {error}");
    let code = match error {
        // It gives up at this one, and tries again after all others.
        RegisterError::Cluster { .. } => FsError::InvalidArgument,
        RegisterError::OlderRun | RegisterError::Elsewhere(_) => FsError::Stale,
        RegisterError::Deposed { .. } => FsError::NotLeader,
        RegisterError::NotLogged(error) => *error,
    };
    code.into_status(error.to_string())
}

fn check_version(message: &wire::FromChunkserver) -> Result<(), Status> {
    match &message.kind {
        Some(from_chunkserver::Kind::Register(register)) if register.protocol_version != PROTOCOL_VERSION => {
            Err(FsError::Protocol.into_status(format!(
                "the chunkserver speaks protocol version {}, this master version {PROTOCOL_VERSION}: use programs of \
                 one release",
                register.protocol_version
            )))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl wire::chunkserver_link_server::ChunkserverLink for LinkService {
    type LinkStream = BoxStream<'static, Result<wire::ToChunkserver, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<wire::FromChunkserver>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.unwrap_or_default();
        check_version(&first)?;
        let FromChunkserver::Register(register) = first.try_into()? else {
            return Err(FsError::Protocol.into_status("the first message has to be a registration"));
        };
        let attached = self.master.register_server(register).await.map_err(|error| turned_away(&error))?;
        let (reader, outgoing) = attached.split(self.master.clone());
        let ended = {
            let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
            tokio::spawn(async move {
                read(reader, incoming).await;
                drop(sender);
            });
            async move { drop(receiver.await) }
        };
        let messages = ReceiverStream::new(outgoing).map(|message| Ok((&message).into()));
        Ok(Response::new(messages.take_until(ended).boxed()))
    }
}

/// Reads until the stream ends or is to end.
async fn read(mut reader: Reader, mut incoming: Streaming<wire::FromChunkserver>) {
    loop {
        let message = tokio::select! {
            biased;
            message = incoming.message() => message,
            () = reader.closed() => return,
        };
        let Ok(Some(raw)) = message else { return };
        match FromChunkserver::try_from(raw) {
            Ok(message) => reader.take(message).await,
            Err(error) => {
                warn!(%error, "a chunkserver's message makes no sense");
                return;
            }
        }
    }
}
