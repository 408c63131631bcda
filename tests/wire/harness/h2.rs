//! A client of HTTP/2 over the `h2` crate, with RFC 8441.

use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};

use super::frames::{Source, read_frame};
use super::stream::Wire;
use super::{Answer, End, Frame, Handshake, Request, Stage, TlsOptions, eventually, within};

pub struct H2 {
    sender: SendRequest<Bytes>,
}

fn fields(head: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
    head.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

impl H2 {
    /// Over the standard topology's TLS listener, SNI a.test.
    pub async fn connect(stage: &Stage) -> Self {
        Self::connect_as(stage, &TlsOptions::new("a.test"), &h2::client::Builder::new()).await
    }

    pub async fn connect_as(stage: &Stage, options: &TlsOptions, builder: &h2::client::Builder) -> Self {
        let client = stage.tls_as(&options.clone().alpn(&["h2"])).await;
        assert_eq!(client.alpn().as_deref(), Some("h2"));
        Self::over(client.into_stream().into_wire(), builder).await
    }

    pub async fn over(wire: Wire, builder: &h2::client::Builder) -> Self {
        let (sender, connection) = within("an h2 connection", builder.handshake(wire)).await.expect("an h2 connection");
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends a head and hands over both halves, before any answer.
    pub async fn begin(
        &mut self,
        head: http::Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.try_begin(head, end).await.expect("an open connection")
    }

    /// An error where the connection takes no more requests.
    async fn try_begin(
        &mut self,
        head: http::Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        if head.extensions().get::<h2::ext::Protocol>().is_some() {
            let sender = self.sender.clone();
            eventually("ENABLE_CONNECT_PROTOCOL", || sender.is_extended_connect_protocol_enabled()).await;
        }
        let mut sender = within("room for a stream", self.sender.clone().ready()).await?;
        sender.send_request(head, end)
    }

    /// A whole answer; an error where the stream or the connection was ended instead.
    pub async fn try_ask(&mut self, request: &Request) -> Result<Answer, h2::Error> {
        let (answer, mut send) = self.try_begin(request.to_h2(), request.body.is_none()).await?;
        if let Some(body) = &request.body {
            send_all(&mut send, Bytes::from(body.clone()), true).await?;
        }
        let answer = within("an answer", answer).await?;
        whole(answer).await
    }

    pub async fn ask(&mut self, request: &Request) -> Answer {
        self.try_ask(request).await.expect("a whole answer")
    }

    /// The answer's head, and the stream where it is 200.
    pub async fn open(&mut self, handshake: &Handshake) -> Result<(Answer, Option<H2Stream>), h2::Error> {
        let (answer, send) = self.try_begin(handshake.to_h2(), false).await?;
        let answer = within("an answer", answer).await?;
        if answer.status() != 200 {
            return Ok((whole(answer).await?, None));
        }
        let (head, recv) = answer.into_parts();
        let answer = Answer { status: 200, fields: fields(&head.headers), body: Vec::new(), trailers: Vec::new() };
        Ok((answer, Some(H2Stream::new(send, recv, self.sender.clone()))))
    }

    pub async fn tunnel(&mut self, handshake: &Handshake) -> H2Stream {
        let (answer, stream) = self.open(handshake).await.expect("an answer");
        stream.unwrap_or_else(|| panic!("no tunnel: {answer:?}"))
    }

    /// The answer to a head that was begun before.
    pub fn stream_of(&self, send: SendStream<Bytes>, recv: RecvStream) -> H2Stream {
        H2Stream::new(send, recv, self.sender.clone())
    }
}

/// Reads an answer to its end.
pub async fn whole(answer: http::Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut recv) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(part) = within("a body", recv.data()).await {
        let part = part?;
        let _ = recv.flow_control().release_capacity(part.len());
        body.extend(&part);
    }
    let trailers = within("trailers", recv.trailers()).await?;
    let trailers = trailers.map(|map| fields(&map)).unwrap_or_default();
    Ok(Answer { status: head.status.as_u16(), fields: fields(&head.headers), body, trailers })
}

/// Sends under flow control.
pub async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    if bytes.is_empty() {
        return send.send_data(bytes, end);
    }
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let room = within("a window", poll_fn(|cx| send.poll_capacity(cx))).await;
        let Some(room) = room.transpose()? else {
            return Err(h2::Reason::STREAM_CLOSED.into());
        };
        let part = bytes.split_to(room.min(bytes.len()));
        let last = bytes.is_empty();
        send.send_data(part, end && last)?;
    }
    Ok(())
}

/// One stream used as a tunnel.
pub struct H2Stream {
    pub send: SendStream<Bytes>,
    recv: RecvStream,
    buffer: Vec<u8>,
    /// Keeps a client's connection open.
    _sender: Option<SendRequest<Bytes>>,
}

impl H2Stream {
    fn new(send: SendStream<Bytes>, recv: RecvStream, sender: SendRequest<Bytes>) -> Self {
        Self { send, recv, buffer: Vec::new(), _sender: Some(sender) }
    }

    pub fn of_server(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, buffer: Vec::new(), _sender: None }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        send_all(&mut self.send, bytes, false).await.expect("an open stream");
    }

    pub async fn finish(&mut self) {
        send_all(&mut self.send, Bytes::new(), true).await.expect("an open stream");
    }

    /// One DATA frame into the buffer; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, h2::Error> {
        match within("DATA", self.recv.data()).await {
            None => Ok(false),
            Some(part) => {
                let part = part?;
                let _ = self.recv.flow_control().release_capacity(part.len());
                self.buffer.extend(&part);
                Ok(true)
            }
        }
    }

    pub async fn exact(&mut self, count: usize) -> Vec<u8> {
        self.take(count).await.expect("bytes")
    }

    pub async fn frame(&mut self) -> Frame {
        read_frame(self).await.expect("a frame")
    }

    pub async fn try_frame(&mut self) -> io::Result<Frame> {
        read_frame(self).await
    }

    pub async fn echo(&mut self, text: &str) {
        self.write(Frame::text(text).masked().bytes()).await;
        assert_eq!(self.frame().await, Frame::text(text));
    }

    /// Everything up to the end; `Fin` is END_STREAM, `Reset` is RST_STREAM or the connection's end.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => return (std::mem::take(&mut self.buffer), End::Fin),
                Err(_) => return (std::mem::take(&mut self.buffer), End::Reset),
            }
        }
    }
}

impl Source for H2Stream {
    async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await.map_err(io::Error::other)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }
}
