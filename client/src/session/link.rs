//! One link to a master: the channel for calls and callbacks, the session taken up on it, the connection
//! for requests.

use super::Reclaim;
use super::dial::Dial;
use super::requests::Outgoing;
use super::stream::{self, Receiver, Sender, StreamError};
use crate::config::ConnectError;
use gfs_proto::FsError;
use gfs_proto::ids::{ClusterId, SessionId, Term};
use gfs_proto::layout::ChunkSize;
use gfs_proto::limits::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION};
use gfs_proto::wire::{self, client_message, server_message, session_client::SessionClient};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tracing::debug;

/// Bound on reaching a master and on each answer of the handshake: a master that stopped without a
/// word must not keep us from the next one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a dead peer within this and as much again.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// HTTP/2 windows, so that pages of listings never wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// What the master said when it opened the session.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) session: SessionId,
    pub(crate) secret: [u8; 16],
    pub(crate) cluster: ClusterId,
    pub(crate) chunk_size: ChunkSize,
    pub(crate) goal_default: u8,
    /// An fsync that fewer members confirmed awaits copies.
    pub(crate) copies_min: u8,
    pub(crate) keep_alive: Duration,
    pub(crate) expiry: Duration,
    /// Of the leader: another one knows nothing that was not logged.
    pub(crate) term: Term,
}

impl Identity {
    pub(super) fn attach(&self) -> wire::Attach {
        wire::Attach { session: self.session.get(), secret: self.secret.to_vec().into() }
    }
}

/// Why there is no link.
#[derive(Debug)]
pub(super) enum LinkError {
    /// Another attempt, or another master, may succeed.
    Unreachable(String),
    /// The session to be resumed is gone.
    Expired,
    /// The master answers and will not have us.
    Refused(String),
}

impl LinkError {
    fn of(status: &Status) -> Self {
        match FsError::from_status(status) {
            Some(FsError::SessionExpired) => Self::Expired,
            Some(error) if !error.is_retryable() => Self::Refused(format!("{} ({error})", status.message())),
            Some(error) => Self::Unreachable(error.to_string()),
            None if status.code() == tonic::Code::Unimplemented => {
                Self::Refused("it is no master of this file system".to_owned())
            }
            None => Self::Unreachable(status.message().to_owned()),
        }
    }

    fn protocol(what: &str) -> Self {
        Self::Refused(format!("its answer makes no sense: {what}"))
    }
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io(error) => Self::Unreachable(error.to_string()),
            StreamError::Message(error) => Self::protocol(&error.to_string()),
        }
    }
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::of(&status)
    }
}

/// A connection that is attached to a session.
pub(super) struct Link {
    pub(super) address: String,
    pub(super) channel: Channel,
    pub(super) sender: Sender,
    pub(super) replies: Receiver,
    pub(super) identity: Identity,
}

/// What to open: a new session, or an old one with what is held under it.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) cluster: Option<ClusterId>,
    pub(super) resume: Option<(&'a Identity, Vec<Reclaim>)>,
}

/// The masters, and how they are reached.
pub(super) struct Masters {
    pub(super) endpoints: Vec<(String, Endpoint)>,
    pub(super) dial: Arc<dyn Dial>,
}

/// The masters named by a setting.
pub(super) fn endpoints(masters: &str) -> Result<Vec<(String, Endpoint)>, ConnectError> {
    let bad = || ConnectError::BadAddress { address: masters.to_owned() };
    let each = masters.split(',').map(str::trim).filter(|address| !address.is_empty()).map(|address| {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        port.and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0).ok_or_else(bad)?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
        Ok((address.to_owned(), tuned(endpoint)))
    });
    let endpoints = each.collect::<Result<Vec<_>, ConnectError>>()?;
    if endpoints.is_empty() { Err(bad()) } else { Ok(endpoints) }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

async fn bounded<T>(what: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    let late = |_| Err(LinkError::Unreachable("no answer in time".to_owned()));
    tokio::time::timeout(HANDSHAKE_TIMEOUT, what).await.unwrap_or_else(late)
}

/// Connects to one master, opens or resumes the session there, attaches the stream of requests.
pub(super) async fn establish(
    dial: &dyn Dial,
    (address, endpoint): &(String, Endpoint),
    wanted: &Wanted<'_>,
) -> Result<Link, LinkError> {
    let unreachable = |error: tonic::transport::Error| LinkError::Unreachable(innermost(&error));
    let channel = bounded(async { dial.channel(endpoint).await.map_err(unreachable) }).await?;
    let mut client = SessionClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let identity = bounded(open_session(&mut client, wanted)).await?;
    let (sender, replies) = bounded(attach(dial, address, &identity)).await?;
    debug!(%address, session = %identity.session, "attached to the master");
    Ok(Link { address: address.clone(), channel, sender, replies, identity })
}

async fn open_session(client: &mut SessionClient<Channel>, wanted: &Wanted<'_>) -> Result<Identity, LinkError> {
    let reclaim = wanted.resume.iter().flat_map(|(_, reclaim)| reclaim);
    let request = wire::OpenSessionRequest {
        protocol_version: PROTOCOL_VERSION,
        capabilities: 0,
        cluster_id: wanted.cluster.map(|id| id.as_bytes().to_vec()).unwrap_or_default().into(),
        client_name: wanted.name.to_owned(),
        resume: wanted.resume.as_ref().map(|(identity, _)| identity.attach()),
        reclaim: reclaim.map(Into::into).collect(),
    };
    let reply = client.open_session(request).await?.into_inner();
    let cluster = ClusterId::from_slice(&reply.cluster_id).ok_or_else(|| LinkError::protocol("cluster id"))?;
    if wanted.cluster.is_some_and(|known| known != cluster) {
        return Err(LinkError::Refused(format!("it serves another cluster, {cluster}")));
    }
    Ok(Identity {
        session: SessionId::new(reply.session),
        secret: reply.secret.as_ref().try_into().map_err(|_| LinkError::protocol("secret"))?,
        cluster,
        chunk_size: ChunkSize::new(reply.chunk_size).ok_or_else(|| LinkError::protocol("chunk size"))?,
        goal_default: u8::try_from(reply.goal_default).map_err(|_| LinkError::protocol("goal"))?,
        copies_min: u8::try_from(reply.copies_min).map_err(|_| LinkError::protocol("copies"))?,
        keep_alive: Duration::from_millis(u64::from(reply.keep_alive_ms.max(1))),
        expiry: Duration::from_millis(u64::from(reply.expiry_ms.max(1))),
        term: Term::new(reply.term),
    })
}

/// Connects for requests and names the session.
async fn attach(dial: &dyn Dial, address: &str, identity: &Identity) -> Result<(Sender, Receiver), LinkError> {
    let (sender, mut replies) = stream::connect(dial, address).await.map_err(StreamError::from)?;
    let kind = Some(client_message::Kind::Attach(identity.attach()));
    sender.send(wire::ClientMessage { request: 0, kind });
    match replies.next().await?.and_then(|message| message.kind) {
        Some(server_message::Kind::Attached(_)) => Ok((sender, replies)),
        Some(server_message::Kind::Error(code)) => match FsError::from_code(code) {
            FsError::SessionExpired => Err(LinkError::Expired),
            error => Err(LinkError::Unreachable(error.to_string())),
        },
        Some(_) => Err(LinkError::protocol("it did not attach the connection")),
        None => Err(LinkError::Unreachable("it closed the connection".to_owned())),
    }
}

/// tonic wraps "connection refused" three times; people want the core.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_named_by_host_and_port() {
        for (masters, count) in [("127.0.0.1:9400", 1), ("a:1, b:2", 2), ("[::1]:9400", 1), ("a:1,", 1)] {
            assert_eq!(endpoints(masters).expect(masters).len(), count, "{masters}");
        }
        for bad in ["", ",", "host", ":9400", "host:", "host:0", "host:70000", "host:x", "a b:1"] {
            let error = endpoints(bad).map(|_| ()).expect_err(bad);
            assert!(matches!(&error, ConnectError::BadAddress { address } if address == bad), "{bad}: {error}");
        }
    }
}
