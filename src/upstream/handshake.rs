//! One WebSocket handshake to a group: a connection of its own or a stream, the request, and the server's answer.
//!
//! On HTTP/1.1 the request is written and a 101 is read without hyper, which would make buffers, a channel and a task for the one
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
use super::attempts::Attempts;
use super::balance::Ask;
use super::carrier::HandshakeCarrier;
use super::connection::{Connection, SharedWire, client_builder};
use super::dial::UpstreamStream;
use super::failure::Failure;
use super::group::{Asker, Group, Picked};
use super::http2::{self, Broken, Connected, Origin, Slot};
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::send::Failed;
use super::server::{Server, TunnelShare};
use super::trail::Trail;
use crate::lifecycle;
use crate::proto::spelling;

/// What the server said to the handshake.
pub enum HandshakeAnswer {
    /// 101, or over HTTP/2 a 2xx, still to be checked.
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

/// A connection that the server has switched, or a stream that it has opened.
pub struct Switched {
    pub head: response::Parts,
    pub stream: UpstreamStream,
    /// What the server sent right behind its 101.
    pub early: Bytes,
    /// Its place in the server's count.
    pub share: TunnelShare,
}

/// What one handshake asks of its group.
pub struct HandshakeOptions<'a> {
    /// Where its way is noted.
    pub trail: &'a Trail,
    pub asker: Asker,
    /// To the head of the answer.
    pub response_timeout: Duration,
    /// Silence within the body of an answer that is no 101.
    pub response_body_idle: Duration,
}

impl Group {
    /// Sends the handshake (its target in origin-form); another server is asked only where connecting failed, or where
    /// the first one says that it has processed nothing. Until a server has room it waits. Also returns the server that
    /// answered.
    pub async fn handshake(
        self: &Rc<Self>,
        mut head: request::Parts,
        options: &HandshakeOptions<'_>,
    ) -> Result<(HandshakeAnswer, Arc<Server>), Failed> {
        let home = self.home(&mut head.headers);
        let mut attempts = Attempts::new(self, options.trail);
        loop {
            let ask = Ask { client: options.asker.client, headers: &head.headers, path: head.uri.path(), home };
            let picked = attempts.next(&ask).await?;
            let member = picked.member.clone();
            let server = member.server.clone();
            let carrier = match self.handshake_carrier(&member, options.asker).await {
                Ok(carrier) => carrier,
                Err(failure) => {
                    attempts.failed(&member, failure)?;
                    continue;
                }
            };
            self.address(&mut head.headers, &server);
            let exchange = self.exchange(carrier, picked, head.clone(), options.response_body_idle);
            match tokio::time::timeout(options.response_timeout, exchange).await {
                Ok(Ok(mut answer)) => {
                    self.tell(answer.headers_mut(), &server, home, options.asker);
                    return Ok((answer, server));
                }
                Ok(Err(Broken { failure, unprocessed: Some(_), .. })) => attempts.interrupted(&member, failure)?,
                Ok(Err(Broken { failure, .. })) => return Err(Failed { failure, server: Some(server) }),
                Err(_) => return Err(Failed { failure: Failure::Timeout, server: Some(server) }),
            }
        }
    }

    async fn exchange(
        self: &Rc<Self>,
        carrier: HandshakeCarrier,
        picked: Picked,
        head: request::Parts,
        response_body_idle: Duration,
    ) -> Result<HandshakeAnswer, Broken> {
        match carrier {
            HandshakeCarrier::Http1(stream) => {
                let shaken = self.shake(stream, picked, head, response_body_idle).await;
                shaken.map_err(|failure| Broken { failure, unprocessed: None, is_lost: false })
            }
            HandshakeCarrier::Http2(slot) => connect(slot, picked, head, response_body_idle).await,
        }
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

/// Over HTTP/2 (RFC 8441): the stream of a 2xx takes the place of the connection.
async fn connect(
    slot: Slot,
    picked: Picked,
    head: request::Parts,
    response_body_idle: Duration,
) -> Result<HandshakeAnswer, Broken> {
    let server = &picked.member.server;
    let origin = Origin { secure: server.tls.is_some(), host: &server.host };
    Ok(match http2::connect(slot, head, &origin).await? {
        Connected::Open(head, stream) => HandshakeAnswer::Switched(Switched {
            head,
            stream: UpstreamStream::Http2(Box::new(stream)),
            early: Bytes::new(),
            share: picked.share.into_tunnel(),
        }),
        Connected::Other(response) => {
            let body = |download| ResponseBody::of_stream(download, picked.share, response_body_idle);
            HandshakeAnswer::Other(response.map(body))
        }
    })
}

async fn send(stream: &mut UpstreamStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
