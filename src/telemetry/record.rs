//! What one line of the access log can tell.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::end::{EndReason, Side};
use crate::types::{HttpVersion, Peer, TraceContext};

/// What a line tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessEvent {
    #[default]
    Request,
    TunnelOpen,
    TunnelClose,
}

impl AccessEvent {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::TunnelOpen => "tunnel-open",
            Self::TunnelClose => "tunnel-close",
        }
    }
}

/// One line's worth. What is `None` or empty is left out. Peers' values are given as they came; escaping is done here.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessRecord<'a> {
    pub event: AccessEvent,
    /// `None`: now.
    pub time: Option<SystemTime>,
    /// The request id that also goes upstream.
    pub request: &'a str,
    /// The trace that it belongs to.
    pub trace: Option<&'a TraceContext>,
    /// The connection's number within this process.
    pub connection: u64,
    pub listener: &'a str,
    /// The effective client: what a trusted proxy says, else the peer.
    pub client: Option<IpAddr>,
    /// The socket's other end.
    pub peer: Option<&'a Peer>,
    /// Host or `:authority`.
    pub host: Option<&'a [u8]>,
    pub method: &'a str,
    /// Without the query.
    pub path: &'a [u8],
    /// Without the `?`. Only its names are printed.
    pub query: Option<&'a [u8]>,
    pub protocol: Option<HttpVersion>,
    /// `1.2` or `1.3`.
    pub tls: Option<&'a str>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub server: Option<&'a str>,
    pub status: Option<u16>,
    /// From the client: body bytes of a request, or a tunnel's bytes up.
    pub bytes_in: Option<u64>,
    /// To the client: body bytes of an answer, or a tunnel's bytes down.
    pub bytes_out: Option<u64>,
    /// Whole messages from the client.
    pub messages_in: Option<u64>,
    /// Whole messages to the client.
    pub messages_out: Option<u64>,
    /// Who said Close first.
    pub closed_by: Option<Side>,
    /// The code of that Close.
    pub close_code: Option<u16>,
    /// From our last ping that was answered to its pong.
    pub round_trip: Option<Duration>,
    pub duration: Option<Duration>,
    /// Until the head of the upstream's answer.
    pub upstream_time: Option<Duration>,
    /// Attempts to reach a server after the first one.
    pub retries: Option<u32>,
    /// Of that: waiting for a server to have room.
    pub queued: Option<Duration>,
    /// `None` only when a tunnel opens.
    pub end: Option<EndReason>,
    /// Of a refusal: the key that decided it and its place, `websocket.origins (portcullis.toml:9)`, or what else it was.
    pub rule: Option<&'a str>,
    /// What the end reason's code leaves open, in one line; may hold words of a peer's.
    pub detail: Option<&'a str>,
    pub origin: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
}
