//! Backends that speak HTTP/2 over the `h2` crate, stream by stream as a script says.

use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::request;

use super::h2::{H2Stream, send_all};
use super::{Backend, Frame, OpCode, Peer, ServerKind};

/// One request as the backend sees it.
pub struct Exchange {
    /// The how-manieth stream of its connection, from 0.
    pub number: usize,
    pub head: request::Parts,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
}

/// The heads that a backend has seen, with the connections that they came on.
pub type Seen = Arc<Mutex<Vec<(usize, request::Parts)>>>;

/// How a backend speaks HTTP/2.
#[derive(Clone, Default)]
pub struct H2Server {
    builder: Option<Builder>,
    tls: Option<&'static [&'static str]>,
    pub seen: Seen,
}

impl H2Server {
    /// With ENABLE_CONNECT_PROTOCOL, in the clear.
    pub fn new() -> Self {
        Self::default().settings(|builder| _ = builder.enable_connect_protocol())
    }

    /// Other settings, from the library's defaults.
    pub fn settings(mut self, set: impl FnOnce(&mut Builder)) -> Self {
        set(self.builder.insert(Builder::new()));
        self
    }

    /// Over TLS, with what ALPN may choose; HTTP/1.1 is served in the standard way.
    pub fn tls(mut self, alpn: &'static [&'static str]) -> Self {
        self.tls = Some(alpn);
        self
    }

    /// `/ws` opens a WebSocket and echoes messages; everything else is 200 with the request's `X-Nonce`.
    pub fn standard(&self) -> Backend {
        self.scripted(|exchange| async move { exchange.standard().await })
    }

    /// Runs `script` for every stream.
    pub fn scripted<F, Fut>(&self, script: F) -> Backend
    where
        F: Fn(Exchange) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (builder, seen, script) = (self.builder.clone().unwrap_or_default(), self.seen.clone(), Arc::new(script));
        let serve = move |mut peer: Peer| {
            let (builder, seen, script) = (builder.clone(), seen.clone(), script.clone());
            async move {
                let is_http1 = peer.tls().is_some_and(|tls| tls.get_ref().1.alpn_protocol() != Some(b"h2"));
                if is_http1 {
                    return peer.serve().await;
                }
                let connection = peer.number;
                let Ok(mut server) = builder.handshake::<_, Bytes>(peer.into_wire()).await else { return Ok(()) };
                let mut number = 0;
                while let Some(Ok((request, respond))) = server.accept().await {
                    let (head, body) = request.into_parts();
                    seen.lock().expect("whole heads").push((connection, head.clone()));
                    tokio::spawn(script(Exchange { number, head, body, respond }));
                    number += 1;
                }
                Ok(())
            }
        };
        match self.tls {
            None => Backend::scripted(serve),
            Some(alpn) => Backend::tls_alpn(ServerKind::Good, alpn, serve),
        }
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<request::Parts> {
        self.seen.lock().expect("whole heads").iter().map(|(_, head)| head.clone()).collect()
    }

    /// The only request so far.
    #[track_caller]
    pub fn head(&self) -> request::Parts {
        let mut heads = self.heads();
        assert_eq!(heads.len(), 1, "{heads:?}");
        heads.remove(0)
    }
}

impl Exchange {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    pub async fn standard(self) {
        if self.head.method == "CONNECT" {
            self.open(&[]).echo_all().await;
        } else {
            self.nonce().await;
        }
    }

    /// An answer's head; its body is to be sent.
    pub fn begin(&mut self, status: u16, fields: &[(&str, &str)]) -> SendStream<Bytes> {
        self.respond.send_response(head(status, fields), false).expect("an open stream")
    }

    /// A whole answer; who has left does not get it.
    pub async fn answer(mut self, status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) {
        let body = body.into();
        let Ok(mut stream) = self.respond.send_response(head(status, fields), body.is_empty()) else { return };
        if !body.is_empty() {
            let _ = send_all(&mut stream, body, true).await;
        }
    }

    /// 200 with the request's `X-Nonce` as body, once the request has come whole.
    pub async fn nonce(mut self) {
        self.whole_body().await;
        let nonce = self.field("x-nonce").unwrap_or("none").to_owned();
        let length = nonce.len().to_string();
        let body = if self.head.method == "HEAD" { String::new() } else { nonce };
        self.answer(200, &[("content-length", &length)], body).await;
    }

    /// The request's body; what came before it broke off.
    pub async fn whole_body(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(Ok(part)) = self.body.data().await {
            let _ = self.body.flow_control().release_capacity(part.len());
            all.extend(&part);
        }
        all
    }

    /// 200, and the stream as a tunnel.
    pub fn open(mut self, fields: &[(&str, &str)]) -> H2Stream {
        let send = self.begin(200, fields);
        H2Stream::of_server(send, self.body)
    }
}

fn head(status: u16, fields: &[(&str, &str)]) -> http::Response<()> {
    let mut builder = http::Response::builder().status(status);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).expect("a head")
}

impl H2Stream {
    /// Sends every frame back without its mask, until a Close has been answered or the end.
    pub async fn echo_all(&mut self) {
        loop {
            let Ok(frame) = self.try_frame().await else { return };
            let mut frame: Frame = frame.unmasked();
            if frame.opcode == OpCode::PING {
                frame.opcode = OpCode(10);
            }
            let is_close = frame.opcode == OpCode::CLOSE;
            if send_all(&mut self.send, frame.bytes().into(), is_close).await.is_err() || is_close {
                let _ = self.rest().await;
                return;
            }
        }
    }
}
