//! One plain request to a group: pick, connection, send, answer; retried where nothing can happen twice.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::balance::Ask;
use super::failure::Failure;
use super::gate::Gate;
use super::group::{Asker, Group, Member, Tried};
use super::pool::Lease;
use super::request_body::{BodyError, RequestBody};
use super::response_body::ResponseBody;
use super::server::Server;
use crate::clock::{self, IdleTimer, Instant};

/// What one request asks of its group.
pub struct SendOptions {
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
pub struct Failed {
    pub failure: Failure,
    pub server: Option<Arc<Server>>,
}

impl Group {
    /// Sends a request whose head is ready for the wire (origin-form target, framing fields set by the caller).
    ///
    /// Retries follow RFC 9110 9.2.2 strictly: when nothing was written, or for a bodyless idempotent request on a
    /// reused connection that ended before a byte of the answer. Each further attempt has a fresh connection, to
    /// another server first.
    pub async fn send(
        self: &Rc<Self>,
        mut request: Request<RequestBody>,
        options: &SendOptions,
    ) -> Result<Answered, Failed> {
        let mut tried = Tried::new();
        // What is said, and who may be asked once more, where nobody is left that was not tried.
        let mut last = Failed { failure: Failure::NoServer, server: None };
        let mut again: Option<Rc<Member>> = None;
        let mut attempts_left = self.definition.retries;
        let replayable = is_idempotent(request.method()) && request.body().is_empty();
        let home = self.home(request.headers_mut());
        let gate = options.expect_continue.then(|| hold_body(&mut request));
        let progress = Progress::attach(&mut request);

        loop {
            let first = tried.is_empty();
            let (client, path) = (options.asker.client, request.uri().path());
            let ask = Ask { client, headers: request.headers(), path, home };
            let picked = if first {
                self.pick_first(&ask).await.map_err(|failure| Failed { failure, server: None })?
            } else {
                let picked = self.pick(&ask, &tried).or_else(|| again.take().map(|member| member.pick()));
                let Some(picked) = picked else { return Err(last) };
                picked
            };
            let member = picked.member.clone();
            let failed = |failure| Failed { failure, server: Some(member.server.clone()) };
            tried.push(member.clone());

            let pooled = if first { self.checkout(&member) } else { None };
            let connection = match pooled {
                Some(connection) => connection,
                None => match self.open(&member.server).await {
                    Ok(connection) => connection,
                    // Nothing was written: another server may be asked, the same one need not be asked again.
                    Err(failure) if failure.is_connect() && attempts_left > 0 => {
                        attempts_left -= 1;
                        last = failed(failure);
                        continue;
                    }
                    Err(failure) => return Err(failed(failure)),
                },
            };
            let mut lease = self.lease(picked, connection);
            self.address(request.headers_mut(), &member.server);

            progress.touch();
            match attempt(&mut lease, request, replayable, &progress, options.response_timeout).await {
                Ok(mut response) => {
                    drop(gate);
                    self.tell(response.headers_mut(), &member.server, home, options.asker);
                    let server = member.server.clone();
                    return Ok(Answered { response: admit(response, lease, options), server });
                }
                Err(Attempt { retry: Some(unsent), .. }) if attempts_left > 0 => {
                    attempts_left -= 1;
                    request = *unsent;
                    again = Some(member);
                }
                Err(Attempt { failure, .. }) => return Err(failed(failure)),
            }
        }
    }
}

/// RFC 9110 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

struct Attempt {
    failure: Failure,
    /// The request, where sending it again cannot make anything happen twice.
    retry: Option<Box<Request<RequestBody>>>,
}

async fn attempt(
    lease: &mut Lease,
    request: Request<RequestBody>,
    replayable: bool,
    progress: &Progress,
    timeout: Duration,
) -> Result<Response<Incoming>, Attempt> {
    let Some(connection) = lease.connection() else {
        return Err(Attempt { failure: Failure::Timeout, retry: Some(Box::new(request)) });
    };
    let replay = (replayable && connection.reused).then(|| copy_head(&request));
    let read_before = connection.bytes_read();
    let answer = connection.sender.try_send_request(request);

    match progress.within(timeout, answer).await {
        None => Err(Attempt { failure: Failure::Timeout, retry: None }),
        Some(Ok(response)) => Ok(response),
        Some(Err(error)) => Err(judge(error, replay, lease, read_before)),
    }
}

fn judge(
    mut error: TrySendError<Request<RequestBody>>,
    replay: Option<request::Parts>,
    lease: &mut Lease,
    read_before: u64,
) -> Attempt {
    if let Some(unsent) = error.take_message() {
        return Attempt { failure: Failure::from_hyper(error.into_error()), retry: Some(Box::new(unsent)) };
    }
    let silent = lease.connection().is_none_or(|connection| connection.bytes_read() <= read_before);
    let failure = Failure::from_hyper(error.into_error());
    let retry = replay
        .filter(|_| silent && matches!(failure, Failure::Closed(_)))
        .map(|head| Box::new(Request::from_parts(head, RequestBody::Empty)));
    Attempt { failure, retry }
}

fn copy_head(request: &Request<RequestBody>) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.version = request.version();
    parts.headers = request.headers().clone();
    parts
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

/// Puts the answer's body on its lease, and decides whether the connection may serve again.
fn admit(response: Response<Incoming>, mut lease: Lease, options: &SendOptions) -> Response<ResponseBody> {
    let framing_is_doubtful =
        response.headers().contains_key(TRANSFER_ENCODING) && response.headers().contains_key(CONTENT_LENGTH);
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    lease.reusable = !framing_is_doubtful && !switched;
    response.map(|incoming| ResponseBody::new(incoming, lease, options.response_body_idle))
}

/// When the request last moved: at its sending, and with each piece of its body that the connection took.
#[derive(Clone)]
struct Progress(Rc<Cell<Instant>>);

impl Progress {
    fn attach(request: &mut Request<RequestBody>) -> Self {
        let progress = Self(Rc::new(Cell::new(clock::now())));
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = RequestBody::Stream(Box::pin(Watched { progress: progress.clone(), body }));
        }
        progress
    }

    fn touch(&self) {
        self.0.set(clock::now());
    }

    /// The future's output, or `None` once nothing has moved for `timeout`.
    async fn within<F: Future>(&self, timeout: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut timer = IdleTimer::new(timeout);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            timer.touch_at(self.0.get());
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
        if frame.is_ready() {
            this.progress.touch();
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
