//! The head of a server's answer to a handshake, read without hyper's client.
//!
//! A 101 is all that is taken here, with the grammar that hyper would hold it to (the same parser with the same
//! settings). Everything else, an answer that ends early or is none included, is left to hyper with the bytes that have
//! come ([`Replayed`]), so that there is one judge of ordinary answers. RFC 9112 4, RFC 9110 15.2.
//! Dropping the future loses what has been read; the connection is of no use then.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version, response};
use httparse::{ParserConfig, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::connection::MAX_ANSWER_HEAD;
use super::dial::UpstreamStream;

/// Most 101s fit, so that there is one allocation and one read.
const USUAL_HEAD: usize = 512;

/// As hyper has it.
const FIELDS: usize = 100;

/// What has come of an answer.
pub(super) enum AnswerHead {
    /// 101, and what came right behind it.
    Switched(response::Parts, Bytes),
    /// Anything else.
    Other(Unjudged),
}

/// Bytes of an answer that somebody else has to judge, and how reading ended, if it did.
pub(super) struct Unjudged {
    read: Vec<u8>,
    error: Option<io::Error>,
}

impl Unjudged {
    /// What it looks like, for whoever does not want to read on.
    pub(super) fn glance(&self) -> Glance {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let _ = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, &self.read, &mut fields);
        match (parsed.code, &self.error) {
            // A 101 that was one would have been taken.
            (Some(code), _) if code != 101 => Glance::Status(code),
            (None, Some(error)) if self.read.is_empty() => Glance::Nothing(Some(error.to_string())),
            (None, None) if self.read.is_empty() => Glance::Nothing(None),
            _ => Glance::Malformed,
        }
    }
}

/// What an answer that is no 101 looks like.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Glance {
    Status(u16),
    /// The end, and what the system says of it.
    Nothing(Option<String>),
    Malformed,
}

/// Reads until it is clear what the answer is. Interim answers (1xx other than 101) are skipped.
pub(super) async fn read(stream: &mut UpstreamStream) -> AnswerHead {
    let mut read = Vec::with_capacity(USUAL_HEAD);
    loop {
        match stream.read_buf(&mut read).await {
            Ok(1..) => {}
            Ok(0) => return AnswerHead::Other(Unjudged { read, error: None }),
            Err(error) => return AnswerHead::Other(Unjudged { read, error: Some(error) }),
        }
        loop {
            match judge(&read) {
                Verdict::Partial if read.len() < MAX_ANSWER_HEAD => break,
                Verdict::Interim(length) => drop(read.drain(..length)),
                Verdict::Switched(head, early) => return AnswerHead::Switched(head, early),
                Verdict::Partial | Verdict::Other => return AnswerHead::Other(Unjudged { read, error: None }),
            }
        }
        if read.len() == read.capacity() {
            read.reserve(read.len());
        }
    }
}

enum Verdict {
    Partial,
    /// Of so many bytes.
    Interim(usize),
    Switched(response::Parts, Bytes),
    Other,
}

fn judge(read: &[u8]) -> Verdict {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, read, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Verdict::Partial,
        Err(_) => return Verdict::Other,
    };
    match parsed.code {
        Some(101) => {}
        Some(100..=199) => return Verdict::Interim(length),
        _ => return Verdict::Other,
    }
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        // The parser has let through nothing that these would not take.
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        else {
            return Verdict::Other;
        };
        headers.append(name, value);
    }
    // The few early bytes, or nothing, keep no buffer alive.
    let early = Bytes::copy_from_slice(&read[length..]);
    let (mut head, ()) = Response::new(()).into_parts();
    (head.status, head.version, head.headers) = (StatusCode::SWITCHING_PROTOCOLS, version, headers);
    Verdict::Switched(head, early)
}

/// A connection for hyper on which the request has been sent and the answer has begun to arrive: what hyper writes goes
/// nowhere, what it reads is first what has come already. Nothing is read before it has written, since an answer
/// without a request would confuse it.
pub(super) struct Replayed<S> {
    stream: S,
    read: Bytes,
    error: Option<io::Error>,
    asked: bool,
    reader: Option<Waker>,
}

impl<S> Replayed<S> {
    pub(super) fn new(stream: S, unjudged: Unjudged) -> Self {
        Self { stream, read: unjudged.read.into(), error: unjudged.error, asked: false, reader: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.asked {
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !this.read.is_empty() {
            let count = this.read.len().min(buf.remaining());
            buf.put_slice(&this.read[..count]);
            this.read.advance(count);
            return Poll::Ready(Ok(()));
        }
        match this.error.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut this.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asked = true;
        if let Some(reader) = this.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use std::sync::Arc;

    use super::*;
    use crate::transport::Socket;
    use crate::upstream::ports::Link;

    const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nearly";

    /// What `pieces` are taken for, each of them read by itself.
    async fn read_pieces(pieces: &[&[u8]]) -> AnswerHead {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let mut near = UpstreamStream::Clear(Socket::Unix(near), Link::local(&Arc::default()).take());
        let writing = async {
            for piece in pieces {
                far.write_all(piece).await.expect("taken");
                tokio::task::yield_now().await;
            }
            drop(far);
        };
        tokio::join!(read(&mut near), writing).0
    }

    #[tokio::test]
    async fn a_101_is_taken_wherever_it_is_split_and_interim_answers_before_it_are_skipped() {
        for split in 0..SWITCHED.len() - 5 {
            let interim: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
            for pieces in [[&SWITCHED[..split], &SWITCHED[split..]].concat(), [interim, SWITCHED].concat()] {
                let at = split.min(pieces.len());
                let AnswerHead::Switched(head, early) = read_pieces(&[&pieces[..at], &pieces[at..]]).await else {
                    panic!("not switched, split at {split}")
                };
                assert_eq!((head.version, head.headers.len()), (Version::HTTP_11, 2));
                assert_eq!(head.headers["sec-websocket-accept"], "x");
                assert_eq!(&early[..], b"early");
            }
        }
    }

    #[tokio::test]
    async fn everything_else_is_left_with_all_its_bytes() {
        let long = [b"HTTP/1.1 101 x\r\nX: ".to_vec(), vec![b'x'; 2 * MAX_ANSWER_HEAD]].concat();
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
            b"HTTP/1.1 101 cut short\r\nUpgra",
            b"",
            b"\x16\x03\x01",
            &long,
        ] {
            let AnswerHead::Other(Unjudged { read, error: None }) = read_pieces(&[answer]).await else {
                panic!("taken: {}", String::from_utf8_lossy(answer))
            };
            let glance = Unjudged { read: read.clone(), error: None }.glance();
            assert_eq!(glance == Glance::Status(200), answer.starts_with(b"HTTP/1.1 200"), "{glance:?}");
            assert_eq!(glance == Glance::Nothing(None), answer.is_empty(), "{glance:?}");
            assert!(answer.starts_with(&read));
            assert!(read.len() == answer.len() || read.len() >= MAX_ANSWER_HEAD);
        }
    }
}
