//! The demo's backend: a server that speaks only `ws://`, and a plain HTTP one for the page, on loopback ports of the
//! system's choice, in one thread of their own.
//!
//! It stands for what people have behind a gateway: no TLS, no Origin check, no idea of who is asking. It counts the
//! handshakes that reach it, so that the page can show which ones never did. Bounded: connections, heads, messages,
//! queues; every wait has a deadline. Dropping [`Backend`] ends the thread and cuts what is open.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::room::Room;
use super::{json, page, socket};
use crate::lifecycle;

/// The subprotocols that `/echo` and `/chat` speak; of those offered the first one known is taken.
pub const SUBPROTOCOLS: [&str; 2] = ["echo-protocol", "chat"];

/// A running backend; ends when dropped.
pub struct Backend {
    /// Speaks WebSocket only: `/echo` and `/chat`.
    pub sockets: SocketAddr,
    /// Plain HTTP: the page.
    pub pages: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the page needs to know to show commands that can be pasted. Empty strings: it shows placeholders.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The configuration file in use.
    pub config: String,
    /// The CA's certificate.
    pub ca: String,
}

impl Backend {
    /// Binds both ports and starts the thread.
    ///
    /// # Errors
    /// No loopback port, no thread, or no runtime to be had.
    pub fn start(facts: Facts) -> io::Result<Self> {
        let bind = || {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok::<_, io::Error>((listener.local_addr()?, listener))
        };
        let (sockets, socket_listener) = bind()?;
        let (pages, page_listener) = bind()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::new(Shared { facts, room: Arc::default(), handshakes: AtomicU64::new(0) });
        let thread = lifecycle::thread("demo-backend", move || {
            runtime.block_on(async {
                tokio::select! {
                    // An error here is the registration of a fresh socket failing; nothing then answers the gateway,
                    // which says so itself (502).
                    _ = serve(socket_listener, shared.clone(), Kind::Sockets) => {}
                    _ = serve(page_listener, shared.clone(), Kind::Pages) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { sockets, pages, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed already.
            let _ = thread.join();
        }
    }
}

struct Shared {
    facts: Facts,
    room: Arc<Mutex<Room>>,
    handshakes: AtomicU64,
}

#[derive(Clone, Copy)]
enum Kind {
    Sockets,
    Pages,
}

/// Never ends by itself. Connections beyond the bound are accepted and closed at once.
async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, kind: Kind) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(connection(stream, shared.clone(), kind));
                }
                Ok(_) => {}
                // Out of descriptors, most likely: a moment for some to come free.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A WebSocket that the HTTP side has agreed to and that begins when HTTP is over on this connection.
struct Agreed {
    upgrade: OnUpgrade,
    endpoint: Endpoint,
}

enum Endpoint {
    /// With the handshake as it was received, in JSON.
    Echo(String),
    Chat,
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, kind: Kind) {
    // Small messages must not wait for acknowledgements; where it cannot be set they do, and that is all.
    let _ = stream.set_nodelay(true);
    let agreed: Arc<Mutex<Option<Agreed>>> = Arc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let answer = match kind {
            Kind::Sockets => handshake(request, &shared, &agreed),
            Kind::Pages => page_answer(&request, &shared),
        };
        async { Ok::<_, Infallible>(answer) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if http.await.is_err() {
        return;
    }
    let agreed = agreed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Agreed { upgrade, endpoint }) = agreed
        && let Ok(upgraded) = upgrade.await
    {
        match endpoint {
            Endpoint::Echo(handshake) => socket::echo(TokioIo::new(upgraded), handshake).await,
            Endpoint::Chat => socket::chat(TokioIo::new(upgraded), shared.room.clone()).await,
        }
    }
}

/// RFC 6455 4.2: agrees to a handshake for `/echo` or `/chat`, answers anything that is none with 426.
fn handshake(mut request: Request<Incoming>, shared: &Shared, agreed: &Mutex<Option<Agreed>>) -> Response<Full<Bytes>> {
    let headers = request.headers();
    let is_handshake = request.method() == Method::GET
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_handshake) else {
        let mut refusal = text(StatusCode::UPGRADE_REQUIRED, "This server speaks WebSocket only.\n");
        refusal.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        refusal.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refusal;
    };
    shared.handshakes.fetch_add(1, Ordering::Relaxed);
    let endpoint = match request.uri().path() {
        "/echo" => Endpoint::Echo(received(&request)),
        "/chat" => Endpoint::Chat,
        _ => return text(StatusCode::NOT_FOUND, "There are /echo and /chat.\n"),
    };
    let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
        return text(StatusCode::BAD_REQUEST, "Bad key.\n");
    };
    let subprotocol = pick_subprotocol(headers);
    let upgrade = hyper::upgrade::on(&mut request);
    *agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Agreed { upgrade, endpoint });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    answer
}

fn page_answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only.\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    if request.uri().path() == "/backend.json" {
        let state = format!(
            r#"{{"handshakes":{},"config":{},"ca":{}}}"#,
            shared.handshakes.load(Ordering::Relaxed),
            json::quote(&shared.facts.config),
            json::quote(&shared.facts.ca)
        );
        return page::answer("application/json", page::PLAIN_POLICY, Bytes::from(state));
    }
    match page::find(request.uri().path()) {
        Some(file) => page::answer(file.media_type, file.policy, Bytes::from_static(file.content.as_bytes())),
        None => text(StatusCode::NOT_FOUND, "There is no such page.\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = page::answer("text/plain; charset=utf-8", page::PLAIN_POLICY, Bytes::from_static(body.as_bytes()));
    *answer.status_mut() = status;
    answer
}

/// The request as it got here, as JSON: what the gateway has added, removed and kept.
fn received(request: &Request<Incoming>) -> String {
    let fields: Vec<String> = request
        .headers()
        .iter()
        .map(|(name, value)| json::array([name.as_str(), &String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    format!(r#"{{"target":{},"headers":[{}]}}"#, json::quote(&request.uri().to_string()), fields.join(","))
}

fn pick_subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    tokens(headers, header::SEC_WEBSOCKET_PROTOCOL)
        .find_map(|offer| SUBPROTOCOLS.iter().find(|known| **known == offer).copied())
}

fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The elements of a list header over all its lines (RFC 9110 5.6.1).
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// On each of the two ports; more than a demo needs, fewer than a process has descriptors.
const MAX_CONNECTIONS: usize = 256;
/// Longer than the gateway keeps an idle connection to an upstream, so that it is never this side that hangs up first.
const KEEP_ALIVE: Duration = Duration::from_secs(120);
