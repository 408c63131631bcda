//! One plain request to a group: pick, connection, send, answer; retried where nothing can happen twice.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::attempt::{self, Attempt, Terms};
use super::attempts::Attempts;
use super::balance::Ask;
use super::carrier::Carrier;
use super::failure::Failure;
use super::gate::Gate;
use super::group::{Asker, Group, Member};
use super::request_body::{BodyError, RequestBody};
use super::response_body::ResponseBody;
use super::server::Server;
use super::trail::Trail;
use crate::clock::{self, IdleTimer, Instant};

/// What one request asks of its group.
pub struct SendOptions<'a> {
    /// Where its way is noted.
    pub trail: &'a Trail,
    pub asker: Asker,
    /// Hold the body until the server says 100 (the request carries `Expect: 100-continue`).
    pub expect_continue: bool,
    /// From the last progress of the request to the head of the answer.
    pub response_timeout: Duration,
    /// Silence within the answer's body.
    pub response_body_idle: Duration,
}

/// An answer, and the server it came from.
pub struct Answered {
    pub response: Response<ResponseBody>,
    pub server: Arc<Server>,
}

/// A failure, and the server that was asked last.
#[derive(Debug)]
pub struct Failed {
    pub failure: Failure,
    pub server: Option<Arc<Server>>,
}

impl Failed {
    /// An attempt that this server has failed, which is counted.
    pub(super) fn at(member: &Member, failure: Failure) -> Self {
        member.cells.note_failure(&failure);
        Self { failure, server: Some(member.server.clone()) }
    }
}

impl Group {
    /// Sends a request whose head is ready for the wire (origin-form target, framing fields set by the caller).
    ///
    /// Retries follow RFC 9110 9.2.2 strictly: when nothing was written, when the server says that it has processed
    /// nothing (HTTP/2), or for a bodyless idempotent request on a reused connection that ended before a byte of the
    /// answer. Each further attempt goes to another server first, over HTTP/1.1 on a fresh connection. Until a server has
    /// room the request waits, its body unread.
    pub async fn send(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        options: &SendOptions<'_>,
    ) -> Result<Answered, Failed> {
        let mut attempts = Attempts::new(self, options.trail);
        let replayable = is_idempotent(request.method()) && request.body().is_empty();
        let home = self.home(request.headers_mut());
        let gate = options.expect_continue.then(|| hold_body(&mut request));
        let progress = Progress::attach(&mut request);

        loop {
            let (client, path) = (options.asker.client, request.uri().path());
            let ask = Ask { client, headers: request.headers(), path, home };
            let mut picked = attempts.next(&ask).await?;
            let member = picked.member.clone();

            let carrier = match self.carrier(&mut picked, options.asker, attempts.is_first()).await {
                Ok(carrier) => carrier,
                // Nothing was written: another server may be asked, the same one need not be asked again.
                Err(failure) if failure.is_connect() => {
                    attempts.failed(&member, failure)?;
                    continue;
                }
                Err(failure) => return Err(Failed::at(&member, failure)),
            };
            if carrier.is_reused() {
                member.cells.reused.add(1);
            }
            self.address(request.headers_mut(), &member.server);

            progress.touch();
            let terms = Terms { options, progress: &progress, replayable, may_retry: attempts.may_retry() };
            let attempted = match carrier {
                Carrier::Http1(connection) => {
                    attempt::over_http1(self.lease(picked, connection), request, &terms).await
                }
                Carrier::Http2(slot) => {
                    // There is no 100 to wait for: the server's windows say when it wants the body.
                    if let Some(gate) = &gate {
                        gate.open();
                    }
                    attempt::over_http2(slot, picked, request, &terms).await
                }
            };
            match attempted {
                Ok(mut response) => {
                    drop(gate);
                    self.tell(response.headers_mut(), &member.server, home, options.asker);
                    return Ok(Answered { response, server: member.server.clone() });
                }
                Err(Attempt { failure, retry: Some(unsent) }) => {
                    attempts.interrupted(&member, failure)?;
                    request = *unsent;
                }
                Err(Attempt { failure, retry: None }) => {
                    return Err(Failed::at(&member, failure));
                }
            }
        }
    }
}

/// RFC 9110 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

fn hold_body(request: &mut Request<RequestBody>) -> Gate {
    let gate = Gate::default();
    let held = gate.hold(std::mem::take(request.body_mut()));
    *request.body_mut() = held;
    let opener = gate.clone();
    hyper::ext::on_informational(request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            opener.open();
        }
    });
    gate
}

/// How far the request is.
#[derive(Clone)]
pub(super) struct Progress(Rc<Moved>);

struct Moved {
    /// At its sending, and with each piece of its body that the connection took.
    last: Cell<Instant>,
    /// The connection has taken all of its body. Until then the client may be to blame for whatever goes wrong.
    sent: Cell<bool>,
}

impl Progress {
    fn attach(request: &mut Request<RequestBody>) -> Self {
        let sent = request.body().is_end_stream();
        let progress = Self(Rc::new(Moved { last: Cell::new(clock::now()), sent: Cell::new(sent) }));
        if !sent {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = RequestBody::Stream(Box::pin(Watched { progress: progress.clone(), body }));
        }
        progress
    }

    fn touch(&self) {
        self.0.last.set(clock::now());
    }

    pub(super) fn is_sent(&self) -> bool {
        self.0.sent.get()
    }

    /// The future's output, or `None` once nothing has moved for `timeout`.
    pub(super) async fn within<F: Future>(&self, timeout: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut timer = IdleTimer::new(timeout);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            timer.touch_at(self.0.last.get());
            timer.poll_expired(cx).map(|()| None)
        })
        .await
    }
}

struct Watched {
    progress: Progress,
    body: RequestBody,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(frame) = &frame {
            this.progress.touch();
            let ended = frame.is_none() || frame.as_ref().is_some_and(Result::is_ok) && this.body.is_end_stream();
            this.progress.0.sent.set(ended);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
