//! The fake master's port: connections for requests beside gRPC.

use super::FakeMaster;
use bytes::BytesMut;
use gfs_proto::message::{self, REQUESTS_PREFACE};
use gfs_proto::wire::{self, client_message, server_message};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Serves connections for requests, gives the others to gRPC.
pub(super) async fn accept(
    master: FakeMaster,
    listener: TcpListener,
    grpc: mpsc::UnboundedSender<io::Result<TcpStream>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (master, grpc) = (master.clone(), grpc.clone());
        tokio::spawn(async move {
            let mut first = [0];
            match stream.peek(&mut first).await {
                Ok(1) if first[0] == REQUESTS_PREFACE[0] => drop(serve(&master, stream).await),
                Ok(1) => drop(grpc.send(Ok(stream))),
                _ => {}
            }
        });
    }
}

/// Until the client goes, something breaks the connection, or a fault does.
async fn serve(master: &FakeMaster, mut stream: TcpStream) -> io::Result<()> {
    let mut cuts = master.cuts.subscribe();
    let mut preface = [0; REQUESTS_PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    let (mut session, mut came, mut out) = (0, BytesMut::new(), BytesMut::new());
    loop {
        while let Some(message) = message::decode::<wire::ClientMessage>(&mut came).map_err(io::Error::other)? {
            let kind = match message.kind {
                Some(client_message::Kind::Attach(attach)) => match master.check(Some(&attach)) {
                    Ok(known) => {
                        session = known;
                        Some(server_message::Kind::Attached(wire::Attached {}))
                    }
                    Err(error) => Some(server_message::Kind::Error(error.code())),
                },
                Some(client_message::Kind::Batch(batch)) => master.answer(session, batch).map_err(io::Error::other)?,
                Some(client_message::Kind::KeepAlive(_)) => Some(server_message::Kind::KeptAlive(wire::KeptAlive {})),
                Some(client_message::Kind::Close(_)) => Some(server_message::Kind::Closed(wire::SessionClosed {})),
                None => None,
            };
            if let Some(kind) = kind {
                message::encode(&wire::ServerMessage { request: message.request, kind: Some(kind) }, &mut out)
                    .map_err(io::Error::other)?;
                stream.write_all_buf(&mut out).await?;
            }
        }
        tokio::select! {
            biased;
            _ = cuts.changed() => return Ok(()),
            count = stream.read_buf(&mut came) => if count? == 0 { return Ok(()) },
        }
    }
}
