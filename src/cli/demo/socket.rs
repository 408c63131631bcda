//! What the demo's backend does with an open WebSocket: `/echo` sends everything back, `/chat` connects it to the room.
//!
//! Every wait has a deadline and every message a bound; a socket that breaks one is told so with a close code (RFC 6455
//! 7.4.1) and then dropped. A dropped future gives the place in the room back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::room::Room;

/// Bytes of one message on `/echo`: room for a photograph or two.
pub const MAX_ECHO_MESSAGE: usize = 16 << 20;
/// Bytes of one line on `/chat`.
pub const MAX_CHAT_MESSAGE: usize = 4 << 10;

/// Sends text and binary messages back as they came; pings are answered by the protocol machine. Two texts are commands:
/// `/close CODE [REASON]` closes from this side, `/handshake` is answered with `handshake`, the request as it got here.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S, handshake: String) {
    let mut socket = open(stream, MAX_ECHO_MESSAGE).await;
    loop {
        let message = match receive(&mut socket).await {
            Received::Message(message) => message,
            Received::Over => return,
            Received::Fault(code, reason) => return close(socket, code, reason).await,
        };
        let answer = match &message {
            Message::Text(text) => match Command::parse(text) {
                None => message,
                Some(Command::Handshake) => Message::text(handshake.clone()),
                Some(Command::Close(code, reason)) => return close(socket, code, &reason).await,
            },
            Message::Binary(_) => message,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => continue,
        };
        if !send(&mut socket, answer).await {
            return;
        }
    }
}

/// A member of the room for as long as the socket is open.
pub async fn chat<S: AsyncRead + AsyncWrite + Unpin>(stream: S, room: Arc<Mutex<Room>>) {
    let mut socket = open(stream, MAX_CHAT_MESSAGE).await;
    let Some((id, mut queue)) = lock(&room).join() else {
        return close(socket, CloseCode::Again, "the room is full").await;
    };
    let seat = Seat { room, id };
    loop {
        tokio::select! {
            received = receive(&mut socket) => match received {
                Received::Message(Message::Text(line)) => lock(&seat.room).line(id, &line),
                Received::Message(Message::Binary(_)) => {
                    return close(socket, CloseCode::Unsupported, "the room understands text only").await;
                }
                Received::Message(_) => {}
                Received::Over => return,
                Received::Fault(code, reason) => return close(socket, code, reason).await,
            },
            message = queue.recv() => match message {
                Some(message) => if !send(&mut socket, Message::Text(message)).await { return },
                None => return close(socket, CloseCode::Policy, "you read too slowly for this room").await,
            },
        }
    }
}

/// Leaves the room when it is dropped, however the socket has ended.
struct Seat {
    room: Arc<Mutex<Room>>,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.room).leave(self.id);
    }
}

/// Held for a few queue pushes, never across a wait. A panic while it was held has left at worst a message undelivered.
fn lock(room: &Mutex<Room>) -> std::sync::MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Command {
    Handshake,
    Close(CloseCode, String),
}

impl Command {
    /// `None`: an ordinary message, and that includes a code that may not stand in a Close frame (RFC 6455 7.4.2).
    fn parse(text: &str) -> Option<Self> {
        if text == "/handshake" {
            return Some(Self::Handshake);
        }
        let rest = text.strip_prefix("/close ")?;
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let code = CloseCode::from(code.parse::<u16>().ok()?);
        // 125 bytes of a control frame, less the code.
        (code.is_allowed() && reason.len() <= 123).then(|| Self::Close(code, reason.to_owned()))
    }
}

enum Received {
    Message(Message),
    /// Closed by the other side, or broken.
    Over,
    /// To be closed from here.
    Fault(CloseCode, &'static str),
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: S, max_message: usize) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
}

/// Cancel-safe: a message is either returned or still in the socket.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Received {
    match timeout(SILENCE, socket.next()).await {
        Err(_) => Received::Fault(CloseCode::Away, "nothing was heard for a long time"),
        Ok(None) => Received::Over,
        Ok(Some(Ok(message))) => Received::Message(message),
        Ok(Some(Err(error))) => match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Received::Fault(CloseCode::Size, "message too big")
            }
            Error::Utf8(_) => Received::Fault(CloseCode::Invalid, "text is not UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Received::Over,
            Error::Protocol(_) => Received::Fault(CloseCode::Protocol, ""),
            _ => Received::Over,
        },
    }
}

/// False: the other side does not read, or is gone.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, message: Message) -> bool {
    matches!(timeout(STALL, socket.send(message)).await, Ok(Ok(())))
}

/// Says why, and waits a moment for the other side's Close so that ours is not lost in a reset.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, code: CloseCode, reason: &str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from(reason) };
    let _ = timeout(GOODBYE, async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    })
    .await;
}

/// Longer than any idle timeout the gateway is likely to be tried with.
const SILENCE: Duration = Duration::from_secs(60 * 60);
const STALL: Duration = Duration::from_secs(20);
const GOODBYE: Duration = Duration::from_secs(3);
