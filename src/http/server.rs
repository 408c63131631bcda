//! hyper's server connections with our settings, behind one small trait.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::answer::AnswerBody;
use super::request::Inbound;
use super::watched::Watched;
use crate::config::model::ListenerLimits;
use crate::lifecycle;
use crate::transport::Transport;

/// Streams that one h2 connection may have open.
const H2_STREAMS: u32 = 100;
/// Bytes that the peer may send on one stream before we have passed them on.
const H2_STREAM_WINDOW: u32 = 64 * 1024;
/// Large enough that stalled streams, all together, leave nothing to starve for.
const H2_CONNECTION_WINDOW: u32 = H2_STREAMS * H2_STREAM_WINDOW;
const H2_SEND_BUFFER: usize = 64 * 1024;
/// hyper reads and writes HTTP/1.1 through buffers of at most this size.
const H1_BUFFER: usize = 64 * 1024;

/// A downstream connection with hyper on it.
pub trait ServerConnection {
    type Stream;

    /// Ready when no further request will come and everything is written; the stream itself is still open on h1.
    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>>;

    /// Open requests finish, no new ones are taken (h1: `Connection: close`; h2: GOAWAY).
    fn finish(&mut self);

    /// The stream, and bytes read beyond the last request; `None` where hyper has closed it by itself (h2).
    fn into_stream(self) -> Option<(Self::Stream, Bytes)>;
}

/// Puts HTTP/1.1 on a stream. Deadlines are the caller's; hyper's own timer is off.
pub fn serve_http1<T, F, Fut>(
    stream: Watched<T>,
    limits: &ListenerLimits,
    serve: F,
) -> impl ServerConnection<Stream = T> + use<T, F, Fut>
where
    T: Transport + 'static,
    F: Fn(Inbound) -> Fut + Unpin + 'static,
    Fut: Future<Output = Response<AnswerBody>> + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .half_close(true)
        .title_case_headers(true)
        .max_header_size(limits.head_size)
        .max_buf_size(H1_BUFFER.max(limits.head_size));
    // hyper's own default is 100, and faster than a configured one.
    if limits.fields != 100 {
        builder.max_headers(limits.fields);
    }
    Http1(builder.serve_connection(TokioIo::new(stream), Adapter(serve)))
}

/// Puts HTTP/2 on a stream.
pub fn serve_http2<T, F, Fut>(
    stream: Watched<T>,
    limits: &ListenerLimits,
    websocket: bool,
    serve: F,
) -> impl ServerConnection<Stream = T> + use<T, F, Fut>
where
    T: Transport + 'static,
    F: Fn(Inbound) -> Fut + Unpin + 'static,
    Fut: Future<Output = Response<AnswerBody>> + 'static,
{
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.head_size).unwrap_or(u32::MAX));
    if websocket {
        builder.enable_connect_protocol();
    }
    Http2(builder.serve_connection(TokioIo::new(stream), Adapter(serve)))
}

struct Http1<T, F, Fut>(http1::Connection<TokioIo<Watched<T>>, Adapter<F>>)
where
    T: Transport + 'static,
    F: Fn(Inbound) -> Fut,
    Fut: Future<Output = Response<AnswerBody>>;

impl<T, F, Fut> ServerConnection for Http1<T, F, Fut>
where
    T: Transport + 'static,
    F: Fn(Inbound) -> Fut + Unpin + 'static,
    Fut: Future<Output = Response<AnswerBody>> + 'static,
{
    type Stream = T;

    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_without_shutdown(cx)
    }

    fn finish(&mut self) {
        Pin::new(&mut self.0).graceful_shutdown();
    }

    fn into_stream(self) -> Option<(T, Bytes)> {
        let parts = self.0.into_parts();
        let (stream, rest) = parts.io.into_inner().into_parts();
        let early = match (parts.read_buf, rest) {
            (early, rest) if rest.is_empty() => early,
            (early, rest) => [early, rest].concat().into(),
        };
        Some((stream, early))
    }
}

struct Http2<T, F, Fut>(http2::Connection<TokioIo<Watched<T>>, Adapter<F>, LocalExecutor>)
where
    T: Transport + 'static,
    F: Fn(Inbound) -> Fut + Unpin + 'static,
    Fut: Future<Output = Response<AnswerBody>> + 'static;

impl<T, F, Fut> ServerConnection for Http2<T, F, Fut>
where
    T: Transport + 'static,
    F: Fn(Inbound) -> Fut + Unpin + 'static,
    Fut: Future<Output = Response<AnswerBody>> + 'static,
{
    type Stream = T;

    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }

    fn finish(&mut self) {
        Pin::new(&mut self.0).graceful_shutdown();
    }

    fn into_stream(self) -> Option<(T, Bytes)> {
        None
    }
}

/// From hyper's request to ours.
struct Adapter<F>(F);

impl<F, Fut> hyper::service::Service<Request<Incoming>> for Adapter<F>
where
    F: Fn(Inbound) -> Fut,
    Fut: Future<Output = Response<AnswerBody>>,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Infallibly<Fut>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Infallibly { answer: Box::pin((self.0)(Inbound::new(request))) }
    }
}

/// A future that cannot fail, in the form hyper asks for. Boxed, so that an idle connection does not keep the room
/// for a request.
struct Infallibly<Fut> {
    answer: Pin<Box<Fut>>,
}

impl<Fut: Future> Future for Infallibly<Fut> {
    type Output = Result<Fut::Output, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(cx).map(Ok)
    }
}

/// hyper's h2 tasks on the worker they belong to.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<Fut> Executor<Fut> for LocalExecutor
where
    Fut: Future<Output = ()> + 'static,
{
    fn execute(&self, future: Fut) {
        lifecycle::spawn_local("h2 stream", future);
    }
}
