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
use super::server::Server;
use super::share::Share;
use super::trail::Trail;
use crate::clock::{self, Instant};
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
    /// Its place in the server's count, where it has to be said whether the 101 agrees.
    pub share: Share,
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
            let mut picked = attempts.next(&ask).await?;
            let member = picked.member.clone();
            let server = member.server.clone();
            let carrier = match self.handshake_carrier(&mut picked, options.asker).await {
                Ok(carrier) => carrier,
                Err(failure) => {
                    attempts.failed(&member, failure)?;
                    continue;
                }
            };
            if carrier.is_reused() {
                member.cells.reused.add(1);
            }
            self.address(&mut head.headers, &server);
            match self.exchange(carrier, picked, head.clone(), options).await {
                Ok(mut answer) => {
                    self.tell(answer.headers_mut(), &server, home, options.asker);
                    return Ok((answer, server));
                }
                Err(Broken { failure, unprocessed: Some(_), .. }) => attempts.interrupted(&member, failure)?,
                Err(Broken { failure, .. }) => return Err(Failed::at(&member, failure)),
            }
        }
    }

    async fn exchange(
        self: &Rc<Self>,
        carrier: HandshakeCarrier,
        picked: Picked,
        head: request::Parts,
        options: &HandshakeOptions<'_>,
    ) -> Result<HandshakeAnswer, Broken> {
        match carrier {
            HandshakeCarrier::Http1(stream) => {
                let shaken = self.shake(stream, picked, head, options).await;
                shaken.map_err(|failure| Broken { failure, unprocessed: None, is_lost: false })
            }
            HandshakeCarrier::Http2(slot) => connect(slot, picked, head, options).await,
        }
    }

    async fn shake(
        self: &Rc<Self>,
        mut stream: UpstreamStream,
        mut picked: Picked,
        head: request::Parts,
        options: &HandshakeOptions<'_>,
    ) -> Result<HandshakeAnswer, Failure> {
        let deadline = clock::now() + options.response_timeout;
        let exchange = async {
            // A server may answer and close without having read everything: its answer counts, or its silence.
            let _ = send(&mut stream, &spelling::write_request(&head)).await;
            answer_head::read(&mut stream).await
        };
        match tokio::time::timeout_at(deadline, exchange).await {
            Err(_) => {
                picked.share.failed(&Failure::Timeout);
                Err(Failure::Timeout)
            }
            Ok(AnswerHead::Switched(head, early)) => {
                Ok(HandshakeAnswer::Switched(Switched { head, stream, early, share: picked.share }))
            }
            // Boxed: rare, and large.
            Ok(AnswerHead::Other(unjudged)) => {
                Box::pin(self.pass(stream, unjudged, picked, head, deadline, options.response_body_idle)).await
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
        deadline: Instant,
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
        let answered = match tokio::time::timeout_at(deadline, answer).await {
            Ok(answered) => answered.map_err(Failure::from_hyper),
            Err(_) => Err(Failure::Timeout),
        };
        let response = answered.inspect_err(|failure| lease.share.failed(failure))?;
        lease.share.let_down(response.status());
        Ok(HandshakeAnswer::Other(response.map(|body| ResponseBody::new(body, lease, response_body_idle))))
    }
}

/// Over HTTP/2 (RFC 8441): the stream of a 2xx takes the place of the connection.
async fn connect(
    slot: Slot,
    mut picked: Picked,
    head: request::Parts,
    options: &HandshakeOptions<'_>,
) -> Result<HandshakeAnswer, Broken> {
    let server = picked.member.server.clone();
    let origin = Origin { secure: server.tls.is_some(), host: &server.host };
    let connected = match tokio::time::timeout(options.response_timeout, http2::connect(slot, head, &origin)).await {
        Ok(connected) => connected,
        Err(_) => Err(Broken { failure: Failure::Timeout, unprocessed: None, is_lost: false }),
    };
    match connected {
        Err(broken) => {
            // A server that goes away politely has done nothing wrong.
            if broken.unprocessed.is_none() && broken.failure.is_a_bad_answer() {
                picked.share.failed(&broken.failure);
            }
            Err(broken)
        }
        Ok(Connected::Open(head, stream)) => Ok(HandshakeAnswer::Switched(Switched {
            head,
            stream: UpstreamStream::Http2(Box::new(stream)),
            early: Bytes::new(),
            share: picked.share,
        })),
        Ok(Connected::Other(response)) => {
            picked.share.let_down(response.status());
            let body = |download| ResponseBody::of_stream(download, picked.share, options.response_body_idle);
            Ok(HandshakeAnswer::Other(response.map(body)))
        }
    }
}

/// Writes all of it.
pub(super) async fn send(stream: &mut UpstreamStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
