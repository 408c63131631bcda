//! A WebSocket client over TLS (tokio-tungstenite) and the duties that every WebSocket backend behind the gateway has
//! in common: one function, called for each real server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{ALLOWED, FOREIGN, Gateway, NAME, PATIENCE, Tap, certificates, field};

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A refusal as the client got it.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub reason: Option<String>,
    pub location: Option<String>,
}

/// Opens a tunnel through the gateway, or says how it was refused.
pub async fn open(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> Result<(Socket, Response), Refusal> {
    let mut request = format!("wss://{NAME}:{}{path}", gateway.port).into_client_request().expect("a valid URL");
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().expect("a header name");
        request.headers_mut().append(name, value.parse().expect("a header value"));
    }
    let stream = tls(gateway.port).await;
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(PATIENCE, opened).await.expect("an answer to the handshake") {
        Ok(opened) => Ok(opened),
        Err(Error::Http(response)) => {
            let field = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let (reason, location) = (field("x-portcullis-reason"), field("location"));
            Err(Refusal { status: response.status().as_u16(), reason, location })
        }
        Err(error) => panic!("the handshake failed: {error}"),
    }
}

/// A TLS connection to the gateway that has agreed on HTTP/1.1.
pub async fn tls(port: u16) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates().ca_der.clone().into()).expect("the test CA is a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("the gateway accepts");
    let name = NAME.try_into().expect("a valid server name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("a TLS connection")
}

/// The next frame, whatever its kind.
pub async fn next(socket: &mut Socket) -> Message {
    tokio::time::timeout(PATIENCE, socket.next())
        .await
        .expect("a message in time")
        .expect("the tunnel is open")
        .expect("a valid frame")
}

/// The next text or binary message; pings are answered on the way.
pub async fn message(socket: &mut Socket) -> Message {
    loop {
        match next(socket).await {
            Message::Ping(_) | Message::Pong(_) => (),
            other => return other,
        }
    }
}

pub async fn send(socket: &mut Socket, message: Message) {
    tokio::time::timeout(PATIENCE, socket.send(message)).await.expect("room to send").expect("the tunnel is open");
}

/// Sends and expects the same back.
pub async fn echo(socket: &mut Socket, sent: Message) {
    send(socket, sent.clone()).await;
    let got = message(socket).await;
    // Megabytes in a panic message help nobody.
    assert!(got == sent, "sent {} bytes, got {} bytes of {}", sent.len(), got.len(), kind(&got));
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Text(_) => "text",
        Message::Binary(_) => "binary",
        Message::Close(_) => "a Close frame",
        _ => "something else",
    }
}

/// Bytes without a pattern that a compressor or an off-by-one could hide in; the same for the same length.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ length as u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends Close and reads to the peer's.
pub async fn close(socket: &mut Socket, code: u16, reason: &str) -> Option<CloseFrame> {
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
    send(socket, Message::Close(Some(frame))).await;
    closed(socket).await
}

/// Reads to the peer's Close.
pub async fn closed(socket: &mut Socket) -> Option<CloseFrame> {
    loop {
        if let Message::Close(frame) = next(socket).await {
            return frame;
        }
    }
}

/// Code and reason of a Close frame.
pub fn code_and_reason(frame: Option<&CloseFrame>) -> (u16, String) {
    frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.as_str().to_owned()))
}

/// What differs between backends.
pub struct Backend<'a> {
    pub path: &'a str,
    pub subprotocol: Option<&'a str>,
    /// The largest message that it takes.
    pub largest: usize,
    /// What it answers to a Close with `4001 bye`.
    pub answers_close_with: (u16, &'a str),
}

impl Default for Backend<'_> {
    fn default() -> Self {
        Self { path: "/ws", subprotocol: None, largest: 2 * 1024 * 1024 + 1, answers_close_with: (4001, "bye") }
    }
}

/// The duties that do not depend on the backend: Origin first, then a clean handshake, every size of message, pings,
/// and close codes of both sides untouched. The backend closes with `CODE REASON` when told `please close CODE REASON`.
pub async fn has_the_common_duties_done(gateway: &Gateway, tap: &Tap, backend: Backend<'_>) {
    refuses_a_foreign_origin(gateway, tap, &backend).await;
    hands_on_a_clean_handshake(gateway, tap, &backend).await;

    let mut socket = open_allowed(gateway, &backend, "?echo").await;
    echo(&mut socket, Message::text("")).await;
    echo(&mut socket, Message::text("Fallgatter Öffnen! 城門 🏰")).await;
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, backend.largest] {
        if length <= backend.largest {
            echo(&mut socket, Message::binary(noise(length))).await;
        }
    }
    echo(&mut socket, Message::text("x".repeat(backend.largest))).await;
    pings_pass_to_the_backend(&mut socket).await;
    let answer = close(&mut socket, 4001, "bye").await;
    let (code, reason) = backend.answers_close_with;
    assert_eq!(code_and_reason(answer.as_ref()), (code, reason.to_owned()), "the backend's answer to Close 4001");

    let mut socket = open_allowed(gateway, &backend, "?closed-by-backend").await;
    send(&mut socket, Message::text("please close 4002 that is all")).await;
    let frame = closed(&mut socket).await;
    assert_eq!(code_and_reason(frame.as_ref()), (4002, "that is all".to_owned()), "the backend's own Close");
}

/// A tunnel from the allowed Origin.
pub async fn open_allowed(gateway: &Gateway, backend: &Backend<'_>, query: &str) -> Socket {
    let mut fields = vec![("origin", ALLOWED)];
    fields.extend(backend.subprotocol.map(|name| ("sec-websocket-protocol", name)));
    let (socket, response) = open(gateway, &format!("{}{query}", backend.path), &fields).await.expect("a tunnel");
    let agreed = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().expect("ASCII"));
    assert_eq!(agreed, backend.subprotocol, "the subprotocol that was agreed");
    socket
}

async fn refuses_a_foreign_origin(gateway: &Gateway, tap: &Tap, backend: &Backend<'_>) {
    for origin in [FOREIGN, "null", "https://app.test.evil.test", "http://app.test"] {
        let mut fields = vec![("origin", origin)];
        fields.extend(backend.subprotocol.map(|name| ("sec-websocket-protocol", name)));
        let refused = open(gateway, &format!("{}?foreign", backend.path), &fields).await;
        let refusal = refused.err().unwrap_or_else(|| panic!("{origin} opened a tunnel"));
        assert_eq!(refusal.status, 403, "{origin}");
        assert_eq!(refusal.reason.as_deref(), Some("origin-not-allowed"), "{origin}");
    }
    // A later tunnel is complete at the backend, so an earlier request would have been there before it.
    drop(open_allowed(gateway, backend, "?after-foreign").await);
    tap.head("?after-foreign");
    tap.never_saw("?foreign");
}

async fn hands_on_a_clean_handshake(gateway: &Gateway, tap: &Tap, backend: &Backend<'_>) {
    let mut fields = vec![
        ("origin", ALLOWED),
        ("x-forwarded-for", "6.6.6.6, 7.7.7.7"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "evil.test"),
        ("x_forwarded_for", "6.6.6.6"),
    ];
    fields.extend(backend.subprotocol.map(|name| ("sec-websocket-protocol", name)));
    let (mut socket, _) = open(gateway, &format!("{}?spoofed", backend.path), &fields).await.expect("a tunnel");
    echo(&mut socket, Message::text("still an echo")).await;
    let head = tap.head("?spoofed");
    assert!(!head.contains("6.6.6.6") && !head.contains("evil.test"), "a spoofed field went upstream:\n{head}");
    assert_eq!(field(&head, "x-forwarded-for"), ["127.0.0.1"], "{head}");
    assert_eq!(field(&head, "x-forwarded-proto"), ["https"], "{head}");
    assert_eq!(field(&head, "upgrade"), ["websocket"], "{head}");
    assert_eq!(field(&head, "sec-websocket-version"), ["13"], "{head}");
    assert_eq!(field(&head, "host"), [format!("{NAME}:{}", gateway.port)], "{head}");
    assert!(head.contains("\r\nSec-WebSocket-Key: "), "hand-written servers look for this spelling:\n{head}");
}

/// A ping of the client's is answered by the backend with the same payload.
pub async fn pings_pass_to_the_backend(socket: &mut Socket) {
    send(socket, Message::Ping("are you there?".into())).await;
    loop {
        match next(socket).await {
            Message::Pong(payload) => return assert_eq!(&payload[..], b"are you there?"),
            Message::Ping(_) => (),
            other => panic!("expected a pong, got {} bytes of {}", other.len(), kind(&other)),
        }
    }
}

/// Counts the backend's pings, answered by the client library, until there were `count`.
pub async fn pings_pass_to_the_client(socket: &mut Socket, count: usize) {
    let mut seen = 0;
    while seen < count {
        match next(socket).await {
            Message::Ping(_) => seen += 1,
            other => panic!("expected a ping, got {} bytes of {}", other.len(), kind(&other)),
        }
    }
    // The library queues the last pong; a flush with a bound sends it.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.flush()).await;
}

/// The route of most tests: a ws-only upstream that lets [`ALLOWED`] in.
pub fn websocket_route(path: &str, port: u16, more: &str) -> String {
    format!(
        "[[route]]\npath = {path:?}\nupstream = \"ws://127.0.0.1:{port}\"\n\
         websocket = {{ origins = [{ALLOWED:?}]{more} }}\n"
    )
}
