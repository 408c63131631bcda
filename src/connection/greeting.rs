//! From a socket to a connection that is ready for HTTP: the PROXY header where one is expected, the TLS handshake, and
//! which HTTP it is. Dropping the future closes the socket.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use crate::clock::{self, Instant};
use crate::config::model::Protocols;
use crate::exchange::{LiveListener, Tools};
use crate::fault::Rule;
use crate::listener::{ArrivedSocket, NoHeader, read_header};
use crate::snapshot::ListenerPlan;
use crate::telemetry::end::EndReason;
use crate::telemetry::metrics::Closed;
use crate::tls::{self, ClientStream};
use crate::transport::Socket;
use crate::types::{Ends, HttpVersion, Peer};

/// A connection that is ready for HTTP.
pub(super) struct Greeted {
    pub(super) stream: ClientStream,
    pub(super) version: HttpVersion,
    pub(super) tls: Option<Box<tls::TlsInfo>>,
    /// What was read to see which HTTP it is.
    pub(super) read: Bytes,
    pub(super) ends: Ends,
}

/// `ends`: the socket's; `live` is the listener that the plan is of, and counts its TLS handshakes.
///
/// # Errors
/// There will be no HTTP, and why.
pub(super) async fn greet(
    socket: ArrivedSocket,
    mut ends: Ends,
    listener: Arc<ListenerPlan>,
    live: Rc<LiveListener>,
    tools: Rc<Tools>,
) -> Result<Greeted, Closed> {
    let socket = socket.into_socket().map_err(|_| Closed::Broken)?;
    let accepted = clock::now();
    let is_expected = listener.proxy_protocol.as_ref().is_some_and(|from| from.has(ends.peer.ip()));
    if is_expected {
        let introduced = be_introduced(&socket, ends, &listener, &tools, accepted).await;
        ends = introduced.ok_or(Closed::ProxyHeader)?;
    }
    let Some(policies) = &listener.tls else {
        return choose_clear(socket, ends, listener.protocols, listener.timeouts.keep_alive).await;
    };
    match tls::accept(policies, socket, accepted + listener.timeouts.tls_handshake).await {
        Ok(done) => {
            live.counts().note_done(done.info.version, done.info.resumed, accepted.elapsed());
            let version = done.info.alpn;
            let stream = ClientStream::Tls(done.stream);
            Ok(Greeted { stream, version, tls: Some(Box::new(done.info)), read: Bytes::new(), ends })
        }
        Err(error) => {
            live.counts().note_failed(error.result());
            tracing::debug!(listener = listener.name.as_str(), %error, "TLS handshake failed");
            Err(Closed::Tls)
        }
    }
}

/// Reads a PROXY header, and says whose connection it is. The header belongs to the TLS handshake's time, or has to come
/// within that of a request head. Without it the connection is closed without a word, but with a line in the access log.
async fn be_introduced(
    socket: &Socket,
    ends: Ends,
    listener: &ListenerPlan,
    tools: &Tools,
    accepted: Instant,
) -> Option<Ends> {
    let timeouts = &listener.timeouts;
    let patience = if listener.tls.is_some() { timeouts.tls_handshake } else { timeouts.request_head };
    let error = match read_header(socket, &tools.scratch, accepted + patience).await {
        Ok(None) => return Some(ends),
        Ok(Some(said)) => {
            return Some(Ends { peer: Peer::Tcp(said.source), local: Some(said.destination.into()) });
        }
        Err(error) => error,
    };
    let (end, rule) = match error {
        NoHeader::Malformed(_) => (EndReason::BadProxyHeader, Rule::Listener(&["proxy_protocol"])),
        NoHeader::Late if listener.tls.is_some() => {
            (EndReason::ClientTimeout, Rule::Listener(&["timeouts", "tls_handshake"]))
        }
        NoHeader::Late => (EndReason::ClientTimeout, Rule::Listener(&["timeouts", "request_head"])),
        NoHeader::Broken => (EndReason::ClientClosed, Rule::None),
        // A look whether somebody listens, as balancers take every few seconds.
        NoHeader::Silent => return None,
    };
    tools.note_turned_away(listener, &ends.peer, end, rule, &error.to_string());
    None
}

/// On a clear listener: HTTP/1.1, or HTTP/2 with prior knowledge (RFC 9113 3.3) where it is asked for.
async fn choose_clear(
    mut socket: Socket,
    ends: Ends,
    protocols: Protocols,
    patience: Duration,
) -> Result<Greeted, Closed> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let greeted =
        |socket, version, read| Greeted { stream: ClientStream::Clear(socket), version, tls: None, read, ends };
    if !protocols.http2 {
        return Ok(greeted(socket, HttpVersion::Http1, Bytes::new()));
    }
    let mut read = Vec::with_capacity(PREFACE.len());
    let looking = async {
        while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
            let mut rest = [0_u8; PREFACE.len()];
            let wanted = PREFACE.len() - read.len();
            match socket.read(&mut rest[..wanted]).await {
                Ok(0) => return Err(Closed::Finished),
                Err(_) => return Err(Closed::Broken),
                Ok(count) => read.extend_from_slice(&rest[..count]),
            }
        }
        Ok(())
    };
    tokio::time::timeout(patience, looking).await.unwrap_or(Err(Closed::Idle))?;
    let version = if read == PREFACE { HttpVersion::Http2 } else { HttpVersion::Http1 };
    if version == HttpVersion::Http1 && !protocols.http1 {
        return Err(Closed::Malformed);
    }
    Ok(greeted(socket, version, Bytes::from(read)))
}
