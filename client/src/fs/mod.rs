//! The file system as its users see it: one method for each call of POSIX.
//!
//! A method checks what the client can check, asks caches, then the master or the data plane, and
//! keeps the caches exact about what it has changed itself. `try_` methods never wait: they answer
//! from what is known, or `None`. Every attribute leaves through [`Client::show`].

mod attributes;
mod directories;
mod files;
mod io;
mod links;
mod names;
mod paths;
mod recall;
mod replicas;
mod reports;
#[cfg(test)]
mod tests;
mod xattrs;

use crate::authority::MasterAuthority;
use crate::cache::{Cache, Seen};
use crate::data::{DataConfig, DataPlane};
use crate::files::Files;
use crate::operation::Operation;
use crate::session::{ByTcp, Dial, Session, SessionConfig};
use crate::{ClientConfig, ClusterInfo, ConnectError, Entry};
use directories::Directories;
use futures_util::future::join_all;
use gfs_proto::FsError;
use gfs_proto::attr::Attr;
use gfs_proto::caller::Caller;
use gfs_proto::ids::InodeId;
use gfs_proto::limits::MESSAGE_BYTES_MAX;
use gfs_proto::ops::{Op, OpResult};
use gfs_proto::wire::admin_client::AdminClient;
use links::Links;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// A connection to a cluster: one session with the master and all that depends on it.
pub struct Client {
    me: Weak<Self>,
    session: Arc<Session>,
    cache: Cache,
    files: Files,
    directories: Directories,
    links: Links,
    plane: Arc<DataPlane>,
    timeout: Duration,
    unreported: Arc<reports::Unreported>,
}

/// Results of a batch, taken one after the other.
struct Answer {
    results: std::vec::IntoIter<Result<OpResult, FsError>>,
    seen: Seen,
}

impl Answer {
    fn next(&mut self) -> Result<OpResult, FsError> {
        self.results.next().unwrap_or(Err(FsError::Protocol))
    }

    fn attr(&mut self) -> Result<Attr, FsError> {
        match self.next()? {
            OpResult::Attr(attr) => Ok(attr),
            _ => Err(FsError::Protocol),
        }
    }

    fn done(&mut self) -> Result<(), FsError> {
        match self.next()? {
            OpResult::Done => Ok(()),
            _ => Err(FsError::Protocol),
        }
    }
}

impl Client {
    /// Opens a session. Must be called inside a tokio runtime with time and I/O; its background
    /// tasks run there until [`Client::shutdown`] or the last reference is dropped.
    pub async fn connect(config: ClientConfig) -> Result<Arc<Self>, ConnectError> {
        Self::connect_over(config, Arc::new(ByTcp)).await
    }

    /// As [`Client::connect`], with masters that are reached in another way.
    ///
    /// # Errors
    /// Those of [`Client::connect`].
    pub async fn connect_over(config: ClientConfig, dial: Arc<dyn Dial>) -> Result<Arc<Self>, ConnectError> {
        config.check()?;
        let session_config =
            SessionConfig { masters: config.master.clone(), name: config.name.clone(), timeout: config.timeout };
        let session = Session::connect(session_config, dial).await?;
        let data = DataConfig {
            cache_bytes: usize::try_from(config.cache_bytes).unwrap_or(usize::MAX),
            dirty_bytes: usize::try_from(config.dirty_bytes).unwrap_or(usize::MAX),
            readahead_max: config.readahead_max,
            timeout: config.timeout,
        };
        let authority = Arc::new(MasterAuthority::new(session.clone()));
        let plane = DataPlane::new(authority, data, tokio::runtime::Handle::current());
        let client = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            session,
            cache: Cache::new(config.attributes_max, config.names_max),
            files: Files::new(),
            directories: Directories::default(),
            links: Links::new(),
            plane,
            timeout: config.timeout,
            unreported: Default::default(),
        });
        tokio::spawn(reports::tell(Arc::downgrade(&client), client.unreported.clone()));
        let hooks: Weak<Self> = Arc::downgrade(&client);
        client.session.set_hooks(hooks);
        Ok(client)
    }

    /// Runs one operation of an application; all that is done for it ends within [`ClientConfig::timeout`]. If it
    /// fails because somebody did not do his part, one line of the log says which server and why.
    ///
    /// # Errors
    /// Those of `call`; [`FsError::TimedOut`] if it has not ended by then.
    pub fn bounded<T>(
        &self,
        name: &'static str,
        inode: InodeId,
        call: impl Future<Output = Result<T, FsError>>,
    ) -> impl Future<Output = Result<T, FsError>> {
        self.bounded_part(1, name, inode, call)
    }

    /// As [`Client::bounded`], for an operation that is made of so many parts, which take equal shares of the bound.
    pub fn bounded_part<T>(
        &self,
        parts: u32,
        name: &'static str,
        inode: InodeId,
        call: impl Future<Output = Result<T, FsError>>,
    ) -> impl Future<Output = Result<T, FsError>> {
        // boxed here: the layers around it would each have room for the whole of it
        Operation::begin(name, Some(inode), self.timeout / parts).run(Box::pin(call))
    }

    /// Of the cluster and the session.
    pub fn info(&self) -> ClusterInfo {
        let identity = self.session.identity();
        let (_, master) = self.session.channel();
        ClusterInfo {
            cluster: identity.cluster,
            chunk_size: identity.chunk_size,
            goal_default: identity.goal_default,
            session: identity.session,
            master,
        }
    }

    /// The master's reports for people.
    pub fn admin(&self) -> AdminClient<Channel> {
        let (channel, _) = self.session.channel();
        AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Writes out everything, tells the master the sizes, closes the session. Calls after it fail
    /// with [`FsError::SessionExpired`]. Fails if something could not be written within the bound on one
    /// operation, which all files share.
    pub async fn shutdown(&self) -> Result<(), FsError> {
        let inodes = self.files.inodes();
        let settled = join_all(inodes.iter().map(|inode| self.settle(inode)));
        let outcome = match tokio::time::timeout_at(self.session.deadline(), settled).await {
            Ok(outcomes) => outcomes.into_iter().collect(),
            Err(_) => Err(FsError::TimedOut),
        };
        for inode in inodes.iter().filter(|inode| !inode.is_settled()) {
            tracing::error!(inode = %inode.id, "written data of an open file could not be stored and is lost");
        }
        self.session.close().await;
        outcome
    }

    /// Sends a batch and takes note of when its answers die: their life counts from the question.
    async fn ask(&self, caller: &Caller, ops: Vec<Op>) -> Result<Answer, FsError> {
        let asked = Instant::now();
        let reply = self.session.call(caller, ops).await?;
        let seen = Seen { index: reply.log_index, expires: asked + reply.ttl };
        Ok(Answer { results: reply.results.into_iter(), seen })
    }

    /// Attributes came in from the master.
    fn take(&self, attr: &Attr, seen: Seen) {
        if let Some(open) = self.files.inode(attr.inode) {
            open.learn(attr);
        }
        self.cache.put_attr(attr, seen);
    }

    /// The one way out for attributes: lays over them what this client has written and not reported.
    fn show(&self, mut attr: Attr, ttl: Duration) -> Entry {
        match self.files.inode(attr.inode) {
            Some(open) => open.lay_over(&mut attr),
            None => self.files.outgrow(&mut attr),
        }
        self.links.show(&mut attr);
        Entry { attr, ttl }
    }

    /// Attributes that just came in, on their way out.
    fn taken(&self, attr: Attr, seen: Seen) -> Entry {
        self.take(&attr, seen);
        self.show(attr, seen.expires.saturating_duration_since(Instant::now()))
    }
}
