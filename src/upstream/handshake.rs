//! One WebSocket handshake to a group: a connection of its own, the request, and the server's answer.
//!
//! The connection is not spawned while the answer is awaited, so that a 101 leaves stream and early bytes in our
//! hands; any other answer is an ordinary one and its connection runs on until the body has ended. Whether a 101
//! agrees to the handshake is checked by the caller.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;

use super::connection::{Connection, SharedWire, client_builder};
use super::dial::UpstreamStream;
use super::failure::Failure;
use super::group::Group;
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::send::Failed;
use crate::lifecycle;

/// What the server said to the handshake.
pub enum HandshakeAnswer {
    /// 101, still to be checked.
    Switched(Switched),
    /// Anything else.
    Other(Response<ResponseBody>),
}

/// A connection that the server has switched.
pub struct Switched {
    pub head: response::Parts,
    pub stream: UpstreamStream,
    /// What the server sent right behind its 101.
    pub early: Bytes,
}

impl Group {
    /// Sends the handshake on a fresh connection; another server is asked only where connecting failed.
    /// Also returns the index of the server that answered.
    pub async fn handshake(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        response_timeout: Duration,
        response_body_idle: Duration,
    ) -> Result<(HandshakeAnswer, usize), Failed> {
        let (stream, server) = self.dial_any().await?;
        let exchange = self.shake(stream, server, request, response_body_idle);
        match tokio::time::timeout(response_timeout, exchange).await {
            Ok(Ok(answer)) => Ok((answer, server)),
            Ok(Err(failure)) => Err(Failed { failure, server: Some(server) }),
            Err(_) => Err(Failed { failure: Failure::Timeout, server: Some(server) }),
        }
    }

    async fn dial_any(&self) -> Result<(UpstreamStream, usize), Failed> {
        let mut tried = SmallVec::<[usize; 4]>::new();
        let mut last = Failed { failure: Failure::ConnectTimeout, server: None };
        for _ in 0..=self.definition.retries {
            let Some(server) = self.pick(&tried) else { break };
            tried.push(server);
            match self.dial(server).await {
                Ok(stream) => return Ok((stream, server)),
                Err(failure) => last = Failed { failure, server: Some(server) },
            }
        }
        Err(last)
    }

    async fn shake(
        self: &Rc<Self>,
        stream: UpstreamStream,
        server: usize,
        request: Request<RequestBody>,
        response_body_idle: Duration,
    ) -> Result<HandshakeAnswer, Failure> {
        let wire = SharedWire::new(stream);
        let watch = wire.watch();
        let (mut sender, mut connection) =
            client_builder().handshake(TokioIo::new(wire)).await.map_err(Failure::from_hyper)?;

        let mut finished = None;
        let response = {
            let mut answer = pin!(sender.send_request(request));
            poll_fn(|cx| {
                if finished.is_none()
                    && let Poll::Ready(end) = connection.poll_without_shutdown(cx)
                {
                    finished = Some(end);
                }
                answer.as_mut().poll(cx)
            })
            .await
            .map_err(Failure::from_hyper)?
        };

        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let end = match finished {
                Some(end) => end,
                None => poll_fn(|cx| connection.poll_without_shutdown(cx)).await,
            };
            end.map_err(Failure::from_hyper)?;
            let parts = connection.into_parts();
            let stream = parts
                .io
                .into_inner()
                .into_stream()
                .ok_or_else(|| Failure::Malformed("the switched connection is still shared".to_owned()))?;
            let (head, _) = response.into_parts();
            // hyper's buffer lives as long as a slice of it: keep a copy of the few early bytes, or nothing.
            let early = Bytes::copy_from_slice(&parts.read_buf);
            return Ok(HandshakeAnswer::Switched(Switched { head, stream, early }));
        }

        let task = lifecycle::spawn_local("upstream connection", async move {
            let end = match finished {
                Some(end) => end,
                None => connection.await,
            };
            // Whoever reads the body is told of the error.
            drop(end);
        });
        let mut lease = self.lease(server, Connection::new(sender, watch, task.abort_handle()));
        lease.reusable = false;
        Ok(HandshakeAnswer::Other(response.map(|body| ResponseBody::new(body, lease, response_body_idle))))
    }
}
