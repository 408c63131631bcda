//! One WebSocket handshake to a group: a connection of its own, the request, and the server's answer.
//!
//! The request is written and a 101 is read without hyper, which would make buffers, a channel and a task for the one
//! exchange; stream and early bytes stay in our hands. Any other answer is an ordinary one: hyper reads it, and its
//! connection runs on until the body has ended. Whether a 101 agrees to the handshake is checked by the caller.
//! Dropping the future closes the connection.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request, response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::answer_head::{self, AnswerHead, Replayed, Unjudged};
use super::balance::Ask;
use super::connection::{Connection, SharedWire, client_builder};
use super::dial::UpstreamStream;
use super::failure::Failure;
use super::group::{Asker, Group, Picked, Tried};
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::send::Failed;
use super::server::{Server, TunnelShare};
use crate::lifecycle;
use crate::proto::spelling;

/// What the server said to the handshake.
pub enum HandshakeAnswer {
    /// 101, still to be checked.
    Switched(Switched),
    /// Anything else.
    Other(Response<ResponseBody>),
}

impl HandshakeAnswer {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Switched(switched) => &mut switched.head.headers,
            Self::Other(response) => response.headers_mut(),
        }
    }
}

/// A connection that the server has switched.
pub struct Switched {
    pub head: response::Parts,
    pub stream: UpstreamStream,
    /// What the server sent right behind its 101.
    pub early: Bytes,
    /// Its place in the server's count.
    pub share: TunnelShare,
}

/// What one handshake asks of its group.
pub struct HandshakeOptions {
    pub asker: Asker,
    /// To the head of the answer.
    pub response_timeout: Duration,
    /// Silence within the body of an answer that is no 101.
    pub response_body_idle: Duration,
}

impl Group {
    /// Sends the handshake (its target in origin-form) on a fresh connection; another server is asked only where
    /// connecting failed. Also returns the server that answered.
    pub async fn handshake(
        self: &Rc<Self>,
        mut head: request::Parts,
        options: &HandshakeOptions,
    ) -> Result<(HandshakeAnswer, Arc<Server>), Failed> {
        let home = self.home(&mut head.headers);
        let ask = Ask { client: options.asker.client, headers: &head.headers, path: head.uri.path(), home };
        let (stream, picked) = self.dial_any(&ask).await?;
        let server = picked.member.server.clone();
        self.address(&mut head.headers, &server);
        let exchange = self.shake(stream, picked, head, options.response_body_idle);
        match tokio::time::timeout(options.response_timeout, exchange).await {
            Ok(Ok(mut answer)) => {
                self.tell(answer.headers_mut(), &server, home, options.asker);
                Ok((answer, server))
            }
            Ok(Err(failure)) => Err(Failed { failure, server: Some(server) }),
            Err(_) => Err(Failed { failure: Failure::Timeout, server: Some(server) }),
        }
    }

    async fn dial_any(&self, ask: &Ask<'_>) -> Result<(UpstreamStream, Picked), Failed> {
        let mut tried = Tried::new();
        let mut last = Failed { failure: Failure::NoServer, server: None };
        for _ in 0..=self.definition.retries {
            let picked = if tried.is_empty() {
                self.pick_first(ask).await.map_err(|failure| Failed { failure, server: None })?
            } else {
                let Some(picked) = self.pick(ask, &tried) else { break };
                picked
            };
            let server = &picked.member.server;
            match self.dial(server).await {
                Ok(stream) => return Ok((stream, picked)),
                Err(failure) => last = Failed { failure, server: Some(server.clone()) },
            }
            tried.push(picked.member);
        }
        Err(last)
    }

    async fn shake(
        self: &Rc<Self>,
        mut stream: UpstreamStream,
        picked: Picked,
        head: request::Parts,
        response_body_idle: Duration,
    ) -> Result<HandshakeAnswer, Failure> {
        // A server may answer and close without having read everything: its answer counts, or its silence.
        let _ = send(&mut stream, &spelling::write_request(&head)).await;
        match answer_head::read(&mut stream).await {
            AnswerHead::Switched(head, early) => {
                let share = picked.share.into_tunnel();
                Ok(HandshakeAnswer::Switched(Switched { head, stream, early, share }))
            }
            // Boxed: rare, and large.
            AnswerHead::Other(unjudged) => {
                Box::pin(self.pass(stream, unjudged, picked, head, response_body_idle)).await
            }
        }
    }

    /// Leaves an answer to hyper, whatever it is.
    async fn pass(
        self: &Rc<Self>,
        stream: UpstreamStream,
        unjudged: Unjudged,
        picked: Picked,
        head: request::Parts,
        response_body_idle: Duration,
    ) -> Result<HandshakeAnswer, Failure> {
        let wire = SharedWire::new(stream);
        let watch = wire.watch();
        let (mut sender, connection) = client_builder()
            .handshake(TokioIo::new(Replayed::new(wire, unjudged)))
            .await
            .map_err(Failure::from_hyper)?;
        let task = lifecycle::spawn_local("upstream connection", async move {
            // Whoever waits for the head, or reads the body, is told of the error.
            let _ = connection.await;
        });
        let answer = sender.send_request(Request::from_parts(head, RequestBody::Empty));
        // Before the wait, so that giving up takes the connection down.
        let mut lease = self.lease(picked, Connection::new(sender, watch, task.abort_handle()));
        lease.reusable = false;
        let response = answer.await.map_err(Failure::from_hyper)?;
        Ok(HandshakeAnswer::Other(response.map(|body| ResponseBody::new(body, lease, response_body_idle))))
    }
}

async fn send(stream: &mut UpstreamStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
