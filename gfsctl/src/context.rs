//! What every command is given: the master's address, the form of the output, connections.

use crate::failure::usage;
use crate::output::{self, Report};
use crate::remote::Remote;
use anyhow::{Context as _, bail};
use gfs_client::{Client, ClientConfig, ConnectError};
use gfs_proto::FsError;
use gfs_proto::limits::MESSAGE_BYTES_MAX;
use gfs_proto::wire::admin_client::AdminClient;
use gfs_proto::wire::{ReplicasReply, ReplicasRequest};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// A master that has said nothing by then is away. People are told within five seconds.
const PATIENCE: Duration = Duration::from_millis(4500);

/// Between two attempts of a command that does not give up at once.
const AGAIN: Duration = Duration::from_millis(300);

/// A connection for reports.
pub(crate) type Admin = AdminClient<Channel>;

/// See the head of this file.
pub(crate) struct Context {
    master: String,
    json: bool,
}

impl Context {
    pub(crate) const fn new(master: String, json: bool) -> Self {
        Self { master, json }
    }

    /// Prints what a command returned; the exit status.
    pub(crate) fn print<R: Report>(&self, report: &R) -> anyhow::Result<u8> {
        output::print(report, self.json)
    }

    /// One report of the master, from the first of them that gives it. Costs no session, so it is
    /// nothing that the master has to log.
    pub(crate) async fn ask<T>(
        &self,
        request: impl AsyncFn(Admin) -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        ask(&self.master, PATIENCE, request).await
    }

    /// For a command that asks for many reports: over one connection as long as it lasts.
    pub(crate) fn asker(&self) -> Asker {
        let bound = ClientConfig::default().timeout;
        Asker { master: self.master.clone(), open: Mutex::default(), bound }
    }

    /// Where the masters are.
    pub(crate) fn master(&self) -> &str {
        &self.master
    }

    /// Runs `work` within a session of its own, which is closed afterwards, whatever came out: what was
    /// written is at the chunkservers when this returns.
    pub(crate) async fn with_files<T>(
        &self,
        work: impl AsyncFnOnce(&Remote) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let config = ClientConfig { master: self.master.clone(), name: client_name(), ..ClientConfig::default() };
        let client = tokio::time::timeout(PATIENCE, Box::pin(Client::connect(config)))
            .await
            .unwrap_or_else(|_| Err(silent(&self.master, PATIENCE)))?;
        let remote = Remote::new(client);
        let result = Box::pin(work(&remote)).await;
        let closed = remote.close().await.context("cannot close the session");
        result.and_then(|value| closed.map(|()| value))
    }
}

/// See [`Context::asker`].
pub(crate) struct Asker {
    master: String,
    open: Mutex<Option<Admin>>,
    /// After it the master is not asked again.
    bound: Duration,
}

impl Asker {
    /// Every replica of chunks of a file. It is one of many reports of a long command, so a master that does not answer
    /// is asked again, as long as an operation of a mount would take.
    pub(crate) async fn replicas(&self, request: ReplicasRequest) -> anyhow::Result<ReplicasReply> {
        let began = Instant::now();
        loop {
            let error = match self.replicas_once(request).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let hopeless = error.downcast_ref::<ConnectError>().is_none_or(ConnectError::is_usage);
            if hopeless || began.elapsed() >= self.bound {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn replicas_once(&self, request: ReplicasRequest) -> anyhow::Result<ReplicasReply> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut admin) = open
            && let Ok(Ok(response)) = tokio::time::timeout(PATIENCE, admin.replicas(request)).await
        {
            return Ok(response.into_inner());
        }
        let mut last = None;
        for address in self.master.split(',').map(str::trim) {
            match tokio::time::timeout(PATIENCE, self.replicas_of(address, request)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(silent(address, PATIENCE)),
            }
        }
        Err(last.map_or_else(|| usage("--master names no address"), anyhow::Error::new))
    }

    async fn replicas_of(&self, address: &str, request: ReplicasRequest) -> Result<ReplicasReply, ConnectError> {
        let mut admin = connect(address).await?;
        let reply = admin.replicas(request).await.map_err(|status| no_answer(address, &status))?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(admin);
        Ok(reply.into_inner())
    }
}

/// See [`Context::ask`].
pub(crate) async fn ask<T>(
    masters: &str,
    patience: Duration,
    request: impl AsyncFn(Admin) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    let mut last = None;
    for address in masters.split(',').map(str::trim) {
        let attempt = async { Ok(request(connect(address).await?).await) };
        match tokio::time::timeout(patience, attempt).await {
            Ok(Ok(Ok(response))) => return Ok(response.into_inner()),
            Ok(Ok(Err(status))) => match FsError::from_status(&status) {
                // its word is final, and says what is wrong
                Some(error) if !error.is_retryable() => bail!("{}", status.message()),
                _ => last = Some(no_answer(address, &status)),
            },
            Ok(Err(error @ ConnectError::BadAddress { .. })) => return Err(error.into()),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(silent(address, patience)),
        }
    }
    Err(last.map_or_else(|| usage("--master names no address"), anyhow::Error::new))
}

async fn connect(address: &str) -> Result<Admin, ConnectError> {
    let unreachable = |error| ConnectError::Unreachable { address: address.to_owned(), cause: root_cause(&error) };
    let channel = endpoint(address)?.connect().await.map_err(unreachable)?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let odd = address.contains(|c: char| c.is_whitespace() || c == '/' || c == '@');
    let endpoint = if good && !odd { Endpoint::from_shared(format!("http://{address}")).ok() } else { None };
    endpoint.ok_or_else(|| ConnectError::BadAddress { address: address.to_owned() })
}

/// A master that cannot answer now is told apart from a connection that was lost.
fn no_answer(address: &str, status: &Status) -> ConnectError {
    let address = address.to_owned();
    match FsError::from_status(status) {
        Some(_) => ConnectError::Refused { address, cause: status.message().to_owned() },
        None => ConnectError::Unreachable { address, cause: root_cause(status) },
    }
}

fn silent(address: &str, waited: Duration) -> ConnectError {
    ConnectError::Unreachable { address: address.to_owned(), cause: format!("no answer within {waited:.1?}") }
}

/// tonic says "transport error" and keeps the reason below it.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(below) = deepest.source() {
        deepest = below;
    }
    deepest.to_string()
}

fn client_name() -> String {
    let uts = rustix::system::uname();
    format!("gfsctl on {}, pid {}", uts.nodename().to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::exit_status;
    use gfs_proto::wire::{StatusReply, StatusRequest};

    async fn status_of(masters: &str, patience: Duration) -> anyhow::Error {
        let asked: anyhow::Result<StatusReply> =
            ask(masters, patience, async |mut admin| admin.status(StatusRequest {}).await).await;
        asked.expect_err("nobody is there")
    }

    fn free_address() -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").to_string()
    }

    #[tokio::test]
    async fn an_address_is_checked_before_anything_is_tried() {
        for bad in ["", "nowhere", "host:", ":9400", "host:99999", "http://host:1", "a b:1"] {
            let error = status_of(bad, PATIENCE).await;
            assert_eq!(exit_status(&error), 2, "{bad:?}: {error:#}");
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error:#}");
        }
    }

    #[tokio::test]
    async fn a_master_that_is_away_is_named() {
        let (first, second) = (free_address(), free_address());
        let error = status_of(&format!("{first},{second}"), PATIENCE).await;
        assert_eq!(exit_status(&error), 1);
        let text = error.to_string();
        assert!(text.contains(&second) && text.contains("GFS_MASTER"), "{text}");
    }

    #[tokio::test]
    async fn a_long_command_asks_again_within_its_bound() {
        let asker = |master: &str, bound| Asker { master: master.to_owned(), open: Mutex::default(), bound };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(listener.incoming().take(3).filter(Result::is_ok).count()));
        let patient = asker(&address, Duration::from_secs(60));
        let gone = tokio::time::timeout(Duration::from_secs(20), async {
            tokio::select! {
                given_up = patient.replicas(ReplicasRequest::default()) => panic!("{given_up:?}"),
                attempts = told => assert_eq!(attempts, Ok(3)),
            }
        });
        gone.await.expect("it asked three times");
        let usage = asker("nowhere", Duration::from_secs(60)).replicas(ReplicasRequest::default()).await;
        assert_eq!(exit_status(&usage.expect_err("no address")), 2, "and at once");
    }

    #[tokio::test]
    async fn a_port_that_never_answers_ends_the_attempt() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let error = status_of(&address, Duration::from_millis(100)).await;
        assert!(error.to_string().contains("no answer within"), "{error:#}");
    }
}
