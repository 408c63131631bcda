//! Requests and handshakes as data, written in HTTP/1.1 or given to an h2 client.

use std::sync::atomic::{AtomicU64, Ordering};

/// The key of RFC 6455's own example, and the accept that belongs to it.
pub const K0: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const A0: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request that nobody may ever see as one.
pub const SMUG: &str = "GET /SMUGGLED HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Any byte, written as Latin-1.
fn h2_value(text: &str) -> http::HeaderValue {
    let bytes: Vec<u8> = text.chars().map(|letter| letter as u8).collect();
    http::HeaderValue::from_bytes(&bytes).expect("a value that h2 can say")
}

/// A plain request to a.test with its own nonce.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub host: String,
    pub nonce: String,
    pub fields: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let nonce = format!("nonce-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (method, path, host) = (method.to_owned(), path.to_owned(), "a.test".to_owned());
        Self { method, path, host, nonce, fields: Vec::new(), body: None }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub fn to_h1(&self) -> Vec<u8> {
        let mut out =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\nX-Nonce: {}\r\n", self.method, self.path, self.host, self.nonce);
        for (name, value) in &self.fields {
            out += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            out += &format!("Content-Length: {}\r\n", body.len());
        }
        out += "\r\n";
        let mut out = out.into_bytes();
        out.extend(self.body.iter().flatten());
        out
    }

    pub fn to_h2(&self) -> http::Request<()> {
        let uri = format!("https://{}{}", self.host, self.path);
        let mut builder = http::Request::builder().method(&*self.method).uri(uri).header("x-nonce", &self.nonce);
        for (name, value) in &self.fields {
            builder = builder.header(name, h2_value(value));
        }
        if let Some(body) = &self.body {
            builder = builder.header("content-length", body.len());
        }
        builder.body(()).expect("a request that h2 can say")
    }
}

/// A canonical handshake that tests bend.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub path: String,
    pub host: String,
    pub fields: Vec<(String, String)>,
}

impl Handshake {
    /// Host a.test, Origin https://app.example, key `K0`, version 13.
    pub fn to(path: &str) -> Self {
        let fields = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", K0),
            ("Sec-WebSocket-Version", "13"),
            ("Origin", "https://app.example"),
        ];
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { path: path.to_owned(), host: "a.test".to_owned(), fields }
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        self
    }

    /// One more line.
    pub fn add(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// This line instead of all with its name.
    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).add(name, value)
    }

    pub fn origin(self, origin: &str) -> Self {
        self.set("Origin", origin)
    }

    pub fn to_h1(&self) -> Vec<u8> {
        let mut out = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.host);
        for (name, value) in &self.fields {
            out += &format!("{name}: {value}\r\n");
        }
        out += "\r\n";
        // Latin-1, so that a test can put any byte into a value.
        out.chars().map(|letter| letter as u8).collect()
    }

    /// RFC 8441: no Upgrade, no Connection, no key.
    pub fn to_h2(&self) -> http::Request<()> {
        let mut builder = http::Request::builder()
            .method("CONNECT")
            .uri(format!("https://{}{}", self.host, self.path))
            .extension(h2::ext::Protocol::from_static("websocket"));
        for (name, value) in &self.fields {
            if !["upgrade", "connection", "sec-websocket-key"].contains(&&*name.to_ascii_lowercase()) {
                builder = builder.header(name, h2_value(value));
            }
        }
        builder.body(()).expect("a handshake that h2 can say")
    }
}
