//! HTTP/2 frames by hand, for what no client library would send (RFC 9113 §4, RFC 7541).

use super::{Client, Peer, Stage, Stream, TlsOptions, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

#[derive(Clone, Debug)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

impl Outcome {
    /// A 400, or an end of the stream or of the connection by a protocol error.
    pub fn is_refusal(self) -> bool {
        self == Self::Status(400) || matches!(self, Self::Reset(_) | Self::GoAway(_) | Self::Closed)
    }
}

pub struct RawH2 {
    stream: Stream,
}

/// Fields as literals without indexing and without Huffman.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        let length = text.len();
        if length < 127 {
            out.push(length as u8);
        } else {
            out.push(127);
            let mut left = length - 127;
            while left >= 128 {
                out.push((left % 128) as u8 | 128);
                left /= 128;
            }
            out.push(left as u8);
        }
        out.extend(text.as_bytes());
    };
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// `:status`, which stands first in every answer (RFC 7541 appendix A: 8 to 14; else a literal with name index 8).
fn status_of(block: &[u8]) -> u16 {
    // Dynamic table size updates may come first.
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        0x08 | 0x18 | 0x48 => {
            let length = usize::from(block[1] & 0x7f);
            let value = &block[2..2 + length];
            let text = if block[1] & 0x80 == 0 { value.to_vec() } else { huffman_digits(value) };
            String::from_utf8_lossy(&text).parse().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Digits only: `0` to `2` have five bits, the others six (RFC 7541 appendix B).
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let mut out = Vec::new();
    let mut rest = &bits[..];
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |sum, bit| sum << 1 | bit);
    while rest.len() >= 5 && out.len() < 3 {
        if number(&rest[..5]) <= 2 {
            out.push(b'0' + number(&rest[..5]));
            rest = &rest[5..];
        } else if rest.len() >= 6 {
            out.push(b'3' + (number(&rest[..6]) - 0b01_1001));
            rest = &rest[6..];
        } else {
            break;
        }
    }
    out
}

impl RawH2 {
    /// Over TLS to the standard topology, with the preface and empty SETTINGS sent.
    pub async fn connect(stage: &Stage) -> Self {
        Self::connect_as(stage, "a.test").await
    }

    pub async fn connect_as(stage: &Stage, sni: &str) -> Self {
        let client = Client::tls(stage.gateway.address("tls"), &TlsOptions::new(sni).alpn(&["h2"])).await;
        let mut raw = Self { stream: client.into_stream() };
        raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.frame(SETTINGS, 0, 0, &[]).await;
        raw
    }

    /// The server's end of a backend's connection: the preface read, these settings sent.
    pub async fn accept(peer: Peer, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self { stream: peer.into_stream() };
        assert!(within("a preface", raw.stream.exact(24)).await.is_ok_and(|preface| preface.starts_with(b"PRI")));
        raw.frame(SETTINGS, 0, 0, &Self::pairs(settings)).await;
        raw
    }

    /// The payload of SETTINGS.
    pub fn pairs(settings: &[(u16, u32)]) -> Vec<u8> {
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect()
    }

    /// The stream of the next HEADERS.
    pub async fn next_headers(&mut self) -> Option<u32> {
        loop {
            let frame = self.next().await?;
            if frame.kind == HEADERS {
                return Some(frame.stream);
            }
        }
    }

    /// Answers what has to be answered, until the connection has ended.
    pub async fn until_over(&mut self) {
        while self.next().await.is_some() {}
    }

    async fn write(&mut self, bytes: &[u8]) {
        // The other side may hang up on us at any time; what it answered is read afterwards.
        let _ = within("room to write", self.stream.write(bytes)).await;
    }

    /// Writes bytes; false when the other side has hung up.
    pub async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write(bytes).await.is_ok()
    }

    pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
        out
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&Self::encode(kind, flags, stream, payload)).await;
    }

    /// Several frames in one write.
    pub async fn frames(&mut self, frames: &[Vec<u8>]) {
        self.write(&frames.concat()).await;
    }

    pub async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.frame(HEADERS, flags, stream, &block(fields)).await;
    }

    /// The next frame, with SETTINGS and PING answered; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<RawFrame> {
        let head = within("a frame", self.stream.exact(9)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = within("a frame's payload", self.stream.exact(length)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = RawFrame { kind: head[3], flags: head[4], stream, payload };
        if frame.kind == SETTINGS && frame.flags & 1 == 0 {
            self.frame(SETTINGS, 1, 0, &[]).await;
        }
        if frame.kind == PING && frame.flags & 1 == 0 {
            self.frame(PING, 1, 0, &frame.payload).await;
        }
        Some(frame)
    }

    /// The settings that the server announced first.
    pub async fn settings(&mut self) -> Vec<(u16, u32)> {
        let frame = self.next().await.expect("SETTINGS");
        assert_eq!(frame.kind, SETTINGS);
        let pair =
            |six: &[u8]| (u16::from_be_bytes([six[0], six[1]]), u32::from_be_bytes([six[2], six[3], six[4], six[5]]));
        frame.payload.chunks_exact(6).map(pair).collect()
    }

    /// Reads until this stream has an answer or has ended.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
        loop {
            let Some(frame) = self.next().await else { return Outcome::Closed };
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Status(status_of(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(word(&frame.payload)),
                // NO_ERROR is a drain, not a verdict on this stream.
                GOAWAY if word(&frame.payload[4..]) != 0 => return Outcome::GoAway(word(&frame.payload[4..])),
                _ => {}
            }
        }
    }
}
