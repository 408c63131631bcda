//! One check of one server: a fresh connection, a question, and whether the answer will do.
//!
//! What is spoken is what requests and handshakes are spoken in (`streams` where that is HTTP/2).
//! By TCP the connection itself is the question, with its TLS handshake where the server has TLS. By HTTP the status
//! decides, and where the file wants it a text within the first [`MOST_OF_BODY`] bytes of the body. By WebSocket a
//! handshake is made and its 101 held to what a tunnel's is; a Close follows, but how the server takes that is not
//! judged (RFC 6455 4.1, 5.5.1, 7.1). Dropping the future closes the connection.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Request, Response, request};
use http_body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::streams::Single;
use crate::clock::{self, Instant};
use crate::config::model::{self, Check, Health};
use crate::proto::frame::{ControlFrame, End, Rules, Sender, Tracker, Until};
use crate::proto::proxy_protocol;
use crate::proto::spelling;
use crate::proto::websocket::{Asked, BadUpgrade, accept_for, check_101, new_key};
use crate::tls::Offer;
use crate::upstream::answer_head::{self, AnswerHead, Glance};
use crate::upstream::carrier;
use crate::upstream::connection::client_builder;
use crate::upstream::definition::Definition;
use crate::upstream::dial::{self, UpstreamStream};
use crate::upstream::failure::Failure;
use crate::upstream::handshake;
use crate::upstream::request_body::RequestBody;
use crate::upstream::server::Server;

/// So much of a body is looked through.
const MOST_OF_BODY: usize = 64 * 1024;

/// How long a server may take over its farewell, and how much it may still say.
const FAREWELL: Duration = Duration::from_secs(1);
const LAST_WORDS: usize = 64 * 1024;

/// What came of a check.
pub(super) struct Checked {
    pub result: Result<(), CheckFailure>,
    /// When the result was there, and how long it had taken.
    pub at: Instant,
    pub took: Duration,
    /// What is still to be closed.
    pub left: Left,
}

/// Why a check failed.
#[derive(Debug)]
pub(super) enum CheckFailure {
    /// As for any request.
    Upstream(Failure),
    TimedOut(Stage),
    /// Closed or reset before an answer, and what the system says of it.
    Closed(Option<String>),
    Malformed,
    Status(u16),
    /// The body does not hold the text, as far as it was read.
    Body,
    /// The body broke off before it did.
    BodyBroken(String),
    NotSwitched(u16),
    BadUpgrade(BadUpgrade),
}

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connecting,
    Asked,
    Body,
}

impl CheckFailure {
    pub(super) fn is_the_servers(&self) -> bool {
        !matches!(self, Self::Upstream(failure) if !failure.is_the_servers())
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(failure) => failure.fmt(out),
            Self::TimedOut(Stage::Connecting) => out.write_str("no connection in time"),
            Self::TimedOut(Stage::Asked) => out.write_str("no answer in time"),
            Self::TimedOut(Stage::Body) => out.write_str("the body did not come in time"),
            Self::Closed(None) => out.write_str("closed before an answer"),
            Self::Closed(Some(cause)) => write!(out, "closed before an answer: {cause}"),
            Self::Malformed => out.write_str("the answer is not HTTP"),
            Self::Status(status) => write!(out, "the answer was {status}"),
            Self::Body => out.write_str("the body does not hold the text"),
            Self::BodyBroken(error) => write!(out, "the body broke off: {error}"),
            Self::NotSwitched(status) => write!(out, "the answer to the handshake was {status}"),
            Self::BadUpgrade(cause) => cause.fmt(out),
        }
    }
}

/// Asks one server, within the check's timeout.
pub(super) async fn ask(upstream: &Definition, server: &Server, health: &Health) -> Checked {
    let began = clock::now();
    let stage = Cell::new(Stage::Connecting);
    let asking = async {
        let asking = Asking { upstream, server, stage: &stage };
        match &health.check {
            Check::Tcp => asking.connect(Offer::Protocols).await.map(Left::Stream),
            Check::Http { asked, status, body } => {
                asking.http(head(server, asked), status, body.as_deref()).await?;
                Ok(Left::Nothing)
            }
            Check::WebSocket { asked } => asking.websocket(head(server, asked)).await,
        }
    };
    // Boxed: what is held between two checks is small.
    let asked = Box::pin(tokio::time::timeout_at(began + health.timeout, asking)).await;
    let at = clock::now();
    let (result, left) = match asked {
        Ok(Ok(left)) => (Ok(()), left),
        Ok(Err(failure)) => (Err(failure), Left::Nothing),
        Err(_) => (Err(CheckFailure::TimedOut(stage.get())), Left::Nothing),
    };
    Checked { result, at, took: at.saturating_duration_since(began), left }
}

/// The head of a check, without what belongs to its kind.
fn head(server: &Server, asked: &model::Asked) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = asked.target.clone().into();
    head.headers.insert(HOST, asked.host.clone().unwrap_or_else(|| server.host.clone()));
    head.headers.insert(USER_AGENT, HeaderValue::from_static("portcullis-health-check"));
    if let Some(origin) = &asked.origin {
        head.headers.insert(ORIGIN, origin.clone());
    }
    head
}

/// One check under way.
struct Asking<'a> {
    upstream: &'a Definition,
    server: &'a Server,
    stage: &'a Cell<Stage>,
}

impl Asking<'_> {
    async fn connect(&self, offer: Offer) -> Result<UpstreamStream, CheckFailure> {
        let deadline = clock::now() + self.upstream.connect_timeout;
        let stream = dial::dial(self.upstream, self.server, proxy_protocol::Sender::Local, offer, deadline).await;
        stream.map_err(CheckFailure::Upstream)
    }

    /// In the HTTP that requests are spoken in.
    async fn http(&self, mut head: request::Parts, wanted: &[u16], text: Option<&str>) -> Result<(), CheckFailure> {
        let stream = self.connect(Offer::Protocols).await?;
        if self.upstream.is_http2(self.server, &stream).map_err(CheckFailure::Upstream)? {
            let connection = Single::open(stream).await?;
            self.stage.set(Stage::Asked);
            let answer = connection.get(self.server, head).await?;
            return self.judge(answer, wanted, text).await;
        }
        self.stage.set(Stage::Asked);
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let refused = |error| CheckFailure::Upstream(Failure::from_hyper(error));
        let (mut sender, connection) = client_builder().handshake(TokioIo::new(stream)).await.map_err(refused)?;
        let exchange = async {
            let answer = sender.send_request(Request::from_parts(head, RequestBody::Empty)).await.map_err(refused)?;
            self.judge(answer, wanted, text).await
        };
        let (mut exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
        tokio::select! {
            biased;
            result = &mut exchange => result,
            // What has come of the answer by then is there to be read.
            _ = connection => exchange.await,
        }
    }

    async fn judge<B>(&self, answer: Response<B>, wanted: &[u16], text: Option<&str>) -> Result<(), CheckFailure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
    {
        let status = answer.status().as_u16();
        if !wanted.contains(&status) {
            return Err(CheckFailure::Status(status));
        }
        self.stage.set(Stage::Body);
        match text {
            Some(text) => holds(answer.into_body(), text).await,
            None => Ok(()),
        }
    }

    /// By the way that a client's handshake would go.
    async fn websocket(&self, head: request::Parts) -> Result<Left, CheckFailure> {
        let Definition { protocols, websocket_over_h2, .. } = *self.upstream;
        if protocols.http2 && websocket_over_h2 {
            let stream = self.connect(Offer::Protocols).await?;
            if !self.upstream.is_http2(self.server, &stream).map_err(CheckFailure::Upstream)? {
                return self.upgrade(stream, head).await;
            }
            let connection = Single::open(stream).await?;
            if connection.opens_tunnels() {
                self.stage.set(Stage::Asked);
                let mut head = head;
                head.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                let stream = connection.shake(self.server, head).await?;
                return Ok(Left::WebSocket(UpstreamStream::Http2(Box::new(stream)), Bytes::new()));
            }
        }
        if !protocols.http1 {
            return Err(CheckFailure::Upstream(carrier::no_way(websocket_over_h2)));
        }
        let stream = self.connect(Offer::Http1).await?;
        self.upgrade(stream, head).await
    }

    async fn upgrade(&self, mut stream: UpstreamStream, mut head: request::Parts) -> Result<Left, CheckFailure> {
        self.stage.set(Stage::Asked);
        let key = new_key();
        handshake_fields(&mut head.headers, &key);
        // As for a client's handshake: a server may answer and close without having read everything.
        let _ = handshake::send(&mut stream, &spelling::write_request(&head)).await;
        match answer_head::read(&mut stream).await {
            AnswerHead::Switched(answer, early) => {
                let asked = Asked { accept: &accept_for(&key), subprotocols: &[], extensions: &[] };
                check_101(&asked, answer.status, answer.version, &answer.headers).map_err(CheckFailure::BadUpgrade)?;
                Ok(Left::WebSocket(stream, early))
            }
            AnswerHead::Other(unjudged) => Err(match unjudged.glance() {
                Glance::Status(status) => CheckFailure::NotSwitched(status),
                Glance::Nothing(cause) => CheckFailure::Closed(cause),
                Glance::Malformed => CheckFailure::Malformed,
            }),
        }
    }
}

async fn holds<B>(mut body: B, text: &str) -> Result<(), CheckFailure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let finder = memmem::Finder::new(text);
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| CheckFailure::BodyBroken(error.to_string()))?.into_data() else {
            continue;
        };
        // The text may have begun in what came before.
        let from = read.len().saturating_sub(text.len());
        let room = MOST_OF_BODY - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if finder.find(&read[from..]).is_some() {
            return Ok(());
        }
        if read.len() == MOST_OF_BODY {
            break;
        }
    }
    Err(CheckFailure::Body)
}

fn handshake_fields(headers: &mut HeaderMap, key: &str) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Ok(key) = HeaderValue::from_str(key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// What a check leaves open.
pub(super) enum Left {
    Nothing,
    Stream(UpstreamStream),
    /// With what the server sent right behind its 101.
    WebSocket(UpstreamStream, Bytes),
}

impl Left {
    /// Ends it as a good client does, by `deadline` and soon.
    pub(super) async fn part(self, deadline: Instant) {
        let parting = async {
            match self {
                Self::Nothing => {}
                Self::Stream(mut stream) => _ = stream.shutdown().await,
                Self::WebSocket(mut stream, early) => {
                    if say_close(&mut stream).await.is_ok() {
                        hear_close(&mut stream, &early).await;
                    }
                    _ = stream.shutdown().await;
                }
            }
        };
        // Whoever does not play along is cut.
        let _ = Box::pin(tokio::time::timeout_at(deadline.min(clock::now() + FAREWELL), parting)).await;
    }
}

async fn say_close(stream: &mut UpstreamStream) -> std::io::Result<()> {
    let mut mask = [0; 4];
    aws_lc_rs::rand::fill(&mut mask).map_err(std::io::Error::other)?;
    let close = ControlFrame::close(1000, "", Some(u32::from_be_bytes(mask)));
    handshake::send(stream, &close).await
}

/// Reads until the server has said Close, said too much, or ended.
async fn hear_close(stream: &mut UpstreamStream, early: &[u8]) {
    let mut tracker = Tracker::new(Sender::Server);
    let mut heard = early.len();
    let mut buffer = early.to_vec();
    loop {
        let mut at = 0;
        while at < buffer.len() {
            let step = tracker.feed(&Rules::default(), &mut buffer[at..], Until::Input, &mut ());
            at += step.consumed;
            if matches!(step.end, Some(End::Close | End::Violation(_))) {
                return;
            }
        }
        let withheld = tracker.withheld();
        buffer.clear();
        buffer.resize(withheld + 4096, 0);
        match stream.read(&mut buffer[withheld..]).await {
            Ok(count @ 1..) if heard < LAST_WORDS => {
                heard += count;
                buffer.truncate(withheld + count);
            }
            _ => return,
        }
    }
}
