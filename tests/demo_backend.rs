//! The demo's embedded backend, spoken to directly: what stands behind the gateway has to be right by itself.
#![cfg(feature = "demo")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use portcullis::cli::demo::backend::{Backend, Facts};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

type Socket = WebSocketStream<tokio::net::TcpStream>;

fn backend() -> Backend {
    Backend::start(Facts { config: "/tmp/a \"b\".toml".to_owned(), ca: String::new() }).unwrap()
}

async fn open(address: SocketAddr, path: &str, subprotocols: Option<&str>) -> Result<(Socket, Response), Error> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    if let Some(offered) = subprotocols {
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered.parse().unwrap());
    }
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await
}

async fn next(socket: &mut Socket) -> Message {
    tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap().unwrap().unwrap()
}

async fn next_json(socket: &mut Socket) -> serde_json::Value {
    serde_json::from_str(next(socket).await.to_text().unwrap()).unwrap()
}

fn close_frame(message: Message) -> CloseFrame {
    let Message::Close(Some(frame)) = message else { panic!("{message:?} is no Close with a code") };
    frame
}

/// One request on a connection of its own; the whole answer as text.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn the_echo_sends_back_what_it_got_and_answers_pings() {
    let backend = backend();
    let (mut socket, _) = open(backend.sockets, "/echo", None).await.unwrap();
    let large = vec![0xa5; 1 << 20];
    for message in [Message::text("grüße"), Message::binary(vec![0, 255]), Message::binary(large), Message::text("")]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, message);
    }
    socket.send(Message::Ping("knock".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong("knock".into()));
}

#[tokio::test]
async fn of_the_subprotocols_offered_the_first_known_one_is_taken() {
    let backend = backend();
    for (offered, granted) in
        [(Some("echo-protocol"), Some("echo-protocol")), (Some("x, chat, echo-protocol"), Some("chat")), (None, None)]
    {
        let (_, answer) = open(backend.sockets, "/echo", offered).await.unwrap();
        let field = answer.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(field, granted, "{offered:?}");
    }
}

#[tokio::test]
async fn the_echo_closes_when_asked_with_the_code_and_reason_asked_for() {
    let backend = backend();
    for (command, code, reason) in [("/close 4001 see you", 4001, "see you"), ("/close 1000", 1000, "")] {
        let (mut socket, _) = open(backend.sockets, "/echo", None).await.unwrap();
        socket.send(Message::text(command)).await.unwrap();
        let frame = close_frame(next(&mut socket).await);
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (code, reason));
    }
    // 1005 and 1006 must not stand in a frame (RFC 6455 7.4.1): such a text is only a text.
    let (mut socket, _) = open(backend.sockets, "/echo", None).await.unwrap();
    for text in ["/close 1006 x", "/close 1005", "/close 99999", "/close", "/close x"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text(text));
    }
}

#[tokio::test]
async fn the_echo_shows_the_handshake_as_it_arrived() {
    let backend = backend();
    let (mut socket, _) = open(backend.sockets, "/echo?a=%22", Some("chat")).await.unwrap();
    socket.send(Message::text("/handshake")).await.unwrap();
    let seen = next_json(&mut socket).await;
    assert_eq!(seen["target"], "/echo?a=%22");
    let headers = seen["headers"].as_array().unwrap();
    assert!(headers.contains(&serde_json::json!(["sec-websocket-protocol", "chat"])), "{headers:?}");
}

#[tokio::test]
async fn too_big_a_message_is_refused_with_1009_and_the_backend_goes_on() {
    let backend = backend();
    let (mut socket, _) = open(backend.sockets, "/chat", None).await.unwrap();
    assert_eq!(next_json(&mut socket).await["type"], "welcome");
    socket.send(Message::text("x".repeat(5000))).await.unwrap();
    assert_eq!(u16::from(close_frame(next(&mut socket).await).code), 1009);
    let (mut socket, _) = open(backend.sockets, "/echo", None).await.unwrap();
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::text("still here"));
}

#[tokio::test]
async fn two_in_the_room_hear_each_other_and_see_each_other_leave() {
    let backend = backend();
    let (mut ada, _) = open(backend.sockets, "/chat", Some("chat")).await.unwrap();
    assert_eq!(next_json(&mut ada).await["you"], "guest-1");
    let (mut bob, _) = open(backend.sockets, "/chat", Some("chat")).await.unwrap();
    assert_eq!(next_json(&mut bob).await["members"], serde_json::json!(["guest-1", "guest-2"]));
    assert_eq!(next_json(&mut ada).await["type"], "joined");
    bob.send(Message::text("/name Bob")).await.unwrap();
    assert_eq!(next_json(&mut ada).await["name"], "Bob");
    bob.send(Message::text("hello")).await.unwrap();
    let said = next_json(&mut ada).await;
    assert_eq!((&said["name"], &said["text"]), (&"Bob".into(), &"hello".into()));
    drop(bob);
    let left = next_json(&mut ada).await;
    assert_eq!((&left["type"], &left["members"]), (&"left".into(), &serde_json::json!(["guest-1"])));
}

#[tokio::test]
async fn plain_http_is_not_understood_by_the_socket_server() {
    let backend = backend();
    for request in ["GET /echo", "GET /", "POST /echo"] {
        let answer = exchange(backend.sockets, request);
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("sec-websocket-version: 13"), "{answer}");
    }
    assert!(open(backend.sockets, "/elsewhere", None).await.is_err());
}

#[tokio::test]
async fn handshakes_are_counted_and_other_requests_are_not() {
    let backend = backend();
    let _sockets =
        (open(backend.sockets, "/echo", None).await.unwrap(), open(backend.sockets, "/chat", None).await.unwrap());
    exchange(backend.sockets, "GET /echo");
    let answer = exchange(backend.pages, "GET /backend.json");
    let state: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&state["handshakes"], &state["config"]), (&2.into(), &"/tmp/a \"b\".toml".into()));
}

#[test]
fn the_page_comes_with_a_policy_that_allows_nothing_inline_or_from_outside() {
    let backend = backend();
    for path in ["/", "/foreign", "/page.js", "/page.css", "/foreign.js", "/favicon.svg"] {
        let answer = exchange(backend.pages, &format!("GET {path}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        assert!(head.contains("content-security-policy: default-src 'none';"), "{path}: {head}");
        assert!(!head.contains("unsafe-"), "{path}: {head}");
        assert!(!body.contains("style=\"") && !body.contains(" onclick=") && !body.contains("innerHTML"), "{path}");
        // The only address that may stand in there is a namespace.
        assert!(!body.replace("http://www.w3.org/2000/svg", "").contains("http://"), "{path}");
    }
    assert!(exchange(backend.pages, "GET /nothing").starts_with("HTTP/1.1 404 "));
    assert!(exchange(backend.pages, "DELETE /").starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn dropping_the_backend_ends_it() {
    let backend = backend();
    let address = backend.sockets;
    let (mut socket, _) = open(address, "/echo", None).await.unwrap();
    tokio::task::spawn_blocking(move || drop(backend)).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap();
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    assert!(TcpStream::connect(address).is_err());
}
