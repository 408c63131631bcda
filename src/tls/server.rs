//! One TLS handshake with a client, under a deadline.
//!
//! Nothing of TLS is set up before the client's first bytes: a connection that never sends costs its socket only. The
//! first of them also tells plain HTTP on a TLS port, which gets a short 400 in its own language. Where a listener has
//! several policies, the ClientHello is read for its SNI: that chooses the policy, and the connection made under it is
//! given the same bytes again. Where there is only one, rustls reads it once, and says the SNI by the way.
//! On failure the alert is sent, the socket shut down and what the client still sends read for a moment: closing with
//! unread bytes would reset the connection, and the client would never see the alert.
//! Dropping the future closes the socket.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{AlertDescription, CommonState, Error, HandshakeKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt, Interest, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::adapter::TlsStream;
use super::makeup::Anchors;
use super::policy::{PolicyId, ServerPolicies};
use super::turns;
use super::{certificate, chooser};
use crate::telemetry::metrics::TlsResult;
use crate::transport::{self, Socket};
use crate::types::HttpVersion;

/// First byte of a TLS record that holds a ClientHello (RFC 8446 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// As logs write it.
pub(super) const TLS13: &str = "TLSv1.3";

/// Bytes read at once; a usual ClientHello with a post-quantum key share has about 1.7 KiB.
const HELLO: usize = 4096;

const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS, not HTTP";

/// How long, and how much, is read after a failed TLS handshake so that the client gets our last words.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 10;

/// A client after its TLS handshake.
#[derive(Debug)]
pub struct TlsAccepted {
    pub stream: TlsStream,
    pub info: TlsInfo,
}

/// What was agreed in a TLS handshake.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// The name the client asked for, lower case; `None`: none, or an address.
    pub sni: Option<Arc<str>>,
    /// By ALPN; a client without ALPN speaks HTTP/1.1.
    pub alpn: HttpVersion,
    /// The CAs by which the client was asked to prove itself; `None`: it was not asked.
    pub anchors: Option<Anchors>,
    /// `Some`: shown, and verified by one of those.
    pub client_certificate: Option<VerifiedClient>,
    /// `TLSv1.3`, `TLSv1.2`
    pub version: &'static str,
    /// As registered with IANA.
    pub cipher: &'static str,
    /// The group of the key exchange, as registered with IANA.
    pub key_exchange: &'static str,
    /// The session continues an earlier one, whose client certificate (if any) was verified then.
    pub resumed: bool,
}

impl TlsInfo {
    /// What a client that asks for this host and shows no certificate would agree on: for questions, not connections.
    pub fn assumed(host: &str, policies: &ServerPolicies) -> Self {
        Self {
            sni: Some(host.into()),
            alpn: HttpVersion::Http1,
            anchors: policies.anchors(policies.select(Some(host))),
            client_certificate: None,
            version: TLS13,
            cipher: "",
            key_exchange: "",
            resumed: false,
        }
    }
}

/// A client certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedClient {
    /// RFC 4514, ASCII only, escaped so that it is one line. Empty where the certificate has none.
    pub subject: Arc<str>,
    /// SHA-256 of the certificate in DER, as 64 lower-case hexadecimal digits.
    pub fingerprint: Arc<str>,
}

/// Why a TLS handshake with a client failed. Whatever could be said to the client has been said.
#[derive(Debug)]
pub enum TlsError {
    /// Not done by the deadline.
    Timeout,
    /// The client left before the end.
    Closed,
    /// What came is not TLS; plain HTTP was told so with a 400.
    NotTls { http: bool },
    /// The client's certificate is missing or does not verify.
    ClientCertificate(io::Error),
    /// The client refuses our certificate.
    OurCertificate(io::Error),
    /// No application protocol in common.
    NoCommonProtocol,
    /// Anything else that the client did or cannot do.
    Handshake(io::Error),
    /// The socket failed.
    Io(io::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Timeout => "the TLS handshake took too long",
            Self::Closed => "the client left during the TLS handshake",
            Self::NotTls { http: true } => "the client speaks plain HTTP on a TLS port",
            Self::NotTls { http: false } => "the client does not speak TLS",
            Self::ClientCertificate(_) => "the client's certificate is missing or not valid",
            Self::OurCertificate(_) => "the client refuses our certificate",
            Self::NoCommonProtocol => "no application protocol in common",
            Self::Handshake(_) => "the TLS handshake failed",
            Self::Io(_) => "the socket failed during the TLS handshake",
        })
    }
}

impl TlsError {
    /// What it is counted as.
    pub fn result(&self) -> TlsResult {
        match self {
            Self::Timeout => TlsResult::Timeout,
            Self::Closed => TlsResult::Closed,
            Self::NotTls { .. } => TlsResult::NotTls,
            Self::ClientCertificate(_) => TlsResult::ClientCertificate,
            Self::OurCertificate(_) => TlsResult::OurCertificate,
            Self::NoCommonProtocol => TlsResult::NoCommonProtocol,
            Self::Handshake(_) => TlsResult::Handshake,
            Self::Io(_) => TlsResult::Io,
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ClientCertificate(error) | Self::OurCertificate(error) | Self::Handshake(error) | Self::Io(error) => {
                Some(error)
            }
            Self::Timeout | Self::Closed | Self::NotTls { .. } | Self::NoCommonProtocol => None,
        }
    }
}

/// Runs the TLS handshake with a client that has just connected; over by `deadline` whatever the client does, plus
/// at most one second for the client to take a refusal.
///
/// # Errors
/// See [`TlsError`]; the connection is closed then.
pub async fn accept(policies: &ServerPolicies, mut socket: Socket, deadline: Instant) -> Result<TlsAccepted, TlsError> {
    let read = match timeout_at(deadline, poll_fn(|cx| poll_first(&mut socket, cx))).await {
        Err(_) => return Err(TlsError::Timeout),
        Ok(Err(error)) => return Err(io_error(error)),
        Ok(Ok(read)) => read,
    };
    match read.first() {
        None => return Err(TlsError::Closed),
        Some(&HANDSHAKE_RECORD) => {}
        Some(byte) => {
            let http = byte.is_ascii_alphabetic();
            refuse_plain(socket, http).await;
            return Err(TlsError::NotTls { http });
        }
    }
    // Boxed: needed for milliseconds, while the connection's own future would keep the room for it for its lifetime.
    let (mut stream, hello) = match timeout_at(deadline, Box::pin(shake(policies, socket, read))).await {
        Err(_) => return Err(TlsError::Timeout),
        Ok(Err((error, socket))) => {
            linger(socket).await;
            return Err(classify(error));
        }
        Ok(Ok(done)) => done,
    };
    let Some(alpn) = protocol(stream.common(), policies) else {
        let _ = timeout_at(crate::clock::now() + LINGER, stream.shutdown()).await;
        return Err(TlsError::NoCommonProtocol);
    };
    let anchors = policies.anchors(hello.policy);
    let info = describe(stream.common(), hello.sni, anchors, alpn);
    Ok(TlsAccepted { stream, info })
}

/// What a ClientHello decides.
struct Hello {
    sni: Option<Arc<str>>,
    policy: PolicyId,
}

type Failed = (io::Error, Socket);

async fn shake(policies: &ServerPolicies, mut socket: Socket, mut read: Vec<u8>) -> Result<(TlsStream, Hello), Failed> {
    let policy = match policies.only() {
        Some(policy) => policy,
        None => match choose_policy(policies, &mut socket, &mut read).await {
            Ok(policy) => policy,
            Err(error) => return Err((error, socket)),
        },
    };
    let mut turn = Some(turns::next().await);
    if turn.as_ref().is_some_and(|turn| turn.has_stood_in_line) && has_left(&socket) {
        return Err((io::ErrorKind::UnexpectedEof.into(), socket));
    }
    let mut stream = TlsStream::new(Arc::clone(policies.config(policy)), socket)
        .map_err(|(error, socket)| (io::Error::other(error), socket))?;
    let mut sni = None;
    let shaken = {
        let mut handshake = pin!(stream.handshake(&read));
        poll_fn(|cx| {
            let polled = handshake.as_mut().poll(cx);
            sni = chooser::take_sni().or(sni.take());
            // The first poll has read the ClientHello; what follows is cheap.
            turn = None;
            polled
        })
        .await
    };
    match shaken {
        Ok(()) => Ok((stream, Hello { sni, policy })),
        Err(error) => Err((error, stream.into_socket())),
    }
}

/// Reads a ClientHello (rustls allows 64 KiB) into `read`, together with whatever follows it at once, for its SNI. `read`
/// holds what has come so far.
async fn choose_policy(policies: &ServerPolicies, socket: &mut Socket, read: &mut Vec<u8>) -> io::Result<PolicyId> {
    let mut acceptor = Acceptor::default();
    let mut start = 0;
    loop {
        let mut fresh = &read[start..];
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh)? == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    return Ok(policies.select(accepted.client_hello().server_name()));
                }
                Err((error, mut alert)) => {
                    let mut words = Vec::new();
                    // Writing to memory does not fail; that to the socket comes second to the error at hand.
                    let _ = alert.write_all(&mut words);
                    let _ = socket.write_all(&words).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        start = read.len();
        read.reserve(HELLO);
        if socket.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whether the client has said that it will send no more, and so will not finish a TLS handshake.
fn has_left(socket: &Socket) -> bool {
    let mut now = Context::from_waker(Waker::noop());
    let closed = match socket {
        Socket::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut now),
        Socket::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut now),
    };
    matches!(closed, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

/// Waits for the first bytes, without a buffer meanwhile. Empty: the client closed instead.
fn poll_first(socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
    let mut room = [MaybeUninit::uninit(); HELLO];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(socket).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().to_vec()))
}

/// Answers what is not TLS: HTTP in its own words, anything else with the alert that it may understand.
async fn refuse_plain(mut socket: Socket, http: bool) {
    // Record: alert, TLS 1.2 on the wire, 2 bytes: fatal, unexpected_message.
    let words = if http { PLAIN_HTTP_ANSWER } else { &[21, 3, 3, 0, 2, 2, 10] };
    // The send buffer of a fresh connection has room for this; if not, the client does not want to know.
    if timeout_at(crate::clock::now() + LINGER, socket.write_all(words)).await.is_ok_and(|written| written.is_ok()) {
        linger(socket).await;
    }
}

/// Closes without a reset, so that our last words arrive.
async fn linger(mut socket: Socket) {
    // Boxed: whoever is let in does not keep room for it. Whether the client listened or not: the connection is over.
    let drain = Box::pin(transport::linger(&mut socket, LINGER_BYTES));
    let _ = timeout_at(crate::clock::now() + LINGER, drain).await;
}

fn protocol(session: &CommonState, policies: &ServerPolicies) -> Option<HttpVersion> {
    match session.alpn_protocol() {
        Some(b"h2") => Some(HttpVersion::Http2),
        Some(_) => Some(HttpVersion::Http1),
        // A client without ALPN cannot be expected to speak h2 (RFC 9113 3.2).
        None => policies.protocols.http1.then_some(HttpVersion::Http1),
    }
}

fn describe(session: &CommonState, sni: Option<Arc<str>>, anchors: Option<Anchors>, alpn: HttpVersion) -> TlsInfo {
    let client_certificate = session.peer_certificates().and_then(<[_]>::first).map(|der| VerifiedClient {
        subject: certificate::subject(der).into(),
        fingerprint: certificate::fingerprint(der).into(),
    });
    TlsInfo {
        sni,
        alpn,
        anchors,
        client_certificate,
        version: session.protocol_version().and_then(|version| version.as_str()).map_or("", |name| match name {
            "TLSv1_3" => TLS13,
            "TLSv1_2" => "TLSv1.2",
            other => other,
        }),
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or(""),
        key_exchange: session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).unwrap_or(""),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

fn classify(error: io::Error) -> TlsError {
    let Some(tls) = tls_error(&error) else { return io_error(error) };
    match tls {
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => TlsError::ClientCertificate(error),
        Error::NoApplicationProtocol => TlsError::NoCommonProtocol,
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => TlsError::NotTls { http: false },
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => TlsError::OurCertificate(error),
        _ => TlsError::Handshake(error),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn io_error(error: io::Error) -> TlsError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::WriteZero => TlsError::Closed,
        _ => TlsError::Io(error),
    }
}
