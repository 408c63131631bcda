//! The configuration after reading: complete, typed, immutable, and the only thing other modules see.
//!
//! Every value is final here: defaults are filled in, paths are resolved against the folder of the file that names
//! them, inline upstream URLs have become upstreams. What has to look at other files or other tables (certificates,
//! route clashes) is checked by each stage's `build`, which reports at the spots kept here.

mod admin;
mod health;
mod log;
mod upstream;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::places::Places;
use super::report::{Located, Spot};
use super::written::Written;
use crate::types::Name;

pub use admin::Admin;
pub use health::{Asked, Check, Ejection, Health, Panic};
pub use log::{AccessTarget, Log, LogFormat, LogLevel, Otlp, SyslogTarget};
pub use upstream::{
    Balance, Hash, HashBy, HostHeader, Queue, Resolve, RetryBudget, SameSite, ServerAddress, Sticky, Upstream,
    UpstreamServer,
};

#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub log: Log,
    /// `None`: nobody can ask the gateway anything.
    pub admin: Option<Admin>,
    pub listeners: Vec<Listener>,
    /// In the order of the file; precedence is made by `route/`.
    pub routes: Vec<Route>,
    /// Named upstreams, then those that stand for inline URLs.
    pub upstreams: Vec<Upstream>,
    /// The same as it was written, to be compared with another.
    pub written: Written,
    /// Where it stands.
    pub places: Arc<Places>,
}

#[derive(Clone, Debug)]
pub struct Server {
    /// Number of worker threads; "auto" has become the number of cores.
    pub workers: usize,
    /// How long open requests and tunnels may go on after a stop was asked for.
    pub drain_timeout: Duration,
    /// Tunnels that are closed in a second meanwhile. `None`: they stay until its end.
    pub drain_rate: Option<u32>,
    /// How long a process that is to take this one's place may take to be ready.
    pub upgrade_timeout: Duration,
    /// How long what is open may go on in a process whose place another has taken. `None`: until it ends by itself.
    pub upgrade_drain_timeout: Option<Duration>,
    /// Connections open at once over all listeners; excess is accepted and closed at once. `None`: not written in the
    /// file, so that the process decides (see `limits`).
    pub max_connections: Option<usize>,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Peers,
    /// Asked for the names of servers, in this order. `None`, the default: the system's.
    pub name_servers: Option<Vec<SocketAddr>>,
    /// Adds the RFC 7239 `Forwarded` field to requests that go upstream.
    pub forwarded: bool,
    /// Files that change are read again by themselves. Default false.
    pub watch: bool,
    pub trace: TraceMode,
}

/// What becomes of the trace that a request belongs to (W3C Trace Context).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMode {
    /// The client's goes on as it is.
    #[default]
    Pass,
    /// The gateway has a span of its own, in the trace of trusted proxies, else in a new one.
    Start,
}

#[derive(Clone, Debug)]
pub struct Listener {
    /// Defaults to the address as written.
    pub name: Name,
    pub address: Located<ListenAddress>,
    pub protocols: Protocols,
    /// RFC 8441 is offered on h2 connections. Default true; no effect without `protocols.http2`.
    pub websocket_over_h2: bool,
    /// Every request is answered with a 308 to https; only on clear listeners.
    pub redirect_https: bool,
    /// Peers whose connections begin with a PROXY header, which is believed; nobody else's is. `None`: no peer's.
    pub proxy_protocol: Option<Peers>,
    /// `None`: a clear listener.
    pub tls: Option<ListenerTls>,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
    /// The `[[listener]]` table.
    pub spot: Spot,
}

impl ListenAddress {
    /// Whether only the machine's own users can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
            // Whoever made the socket decides.
            Self::Inherited(_) => false,
        }
    }

    /// Whether the system does not bind both, although they differ: one has an address, the other all of its family. Those of
    /// IPv4 and of IPv6 stand side by side, since sockets for IPv6 take nothing else.
    pub fn shuts_out(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(own), Self::Tcp(other)) => {
                own.port() == other.port()
                    && own.port() != 0
                    && own.is_ipv4() == other.is_ipv4()
                    && own.ip().is_unspecified() != other.ip().is_unspecified()
            }
            _ => false,
        }
    }

    /// Whether somebody who listens here may be what keeps `other` from being bound, or what is reached there.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(own), Self::Tcp(other)) => {
                let (ours, theirs) = (own.ip().to_canonical(), other.ip().to_canonical());
                own.port() == other.port() && (ours == theirs || ours.is_unspecified() || theirs.is_unspecified())
            }
            (Self::Unix(own), Self::Unix(other)) => own == other,
            _ => false,
        }
    }
}

impl Listener {
    pub fn key(&self) -> ListenerKey {
        let address = self.address.value.clone();
        let is_chosen_later = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        ListenerKey { address, name: is_chosen_later.then(|| self.name.clone()) }
    }
}

/// What makes a listener the same one after a reload, with the same socket: where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    pub address: ListenAddress,
    /// Only where the system chooses the port, so that several may have the same address.
    pub name: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// The socket of this name that the process was started with.
    Inherited(Name),
}

/// As the file writes it.
impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Inherited(name) => write!(out, "fd:{name}"),
        }
    }
}

/// What may be spoken. On a TLS listener chosen by ALPN; on a clear one `http2` means h2c with prior knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub http1: bool,
    pub http2: bool,
}

#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// Used where no other policy's hosts match the SNI, and without SNI. Its `hosts` is empty.
    pub default: TlsPolicy,
    pub policies: Vec<TlsPolicy>,
}

#[derive(Clone, Debug)]
pub struct TlsPolicy {
    pub hosts: Vec<Located<HostPattern>>,
    /// Empty in a further policy: it uses the default policy's certificates.
    pub certificates: Vec<CertificateFiles>,
    pub min_version: TlsVersion,
    pub client_auth: ClientAuth,
    pub spot: Spot,
}

#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub cert: Located<PathBuf>,
    pub key: Located<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

#[derive(Clone, Debug)]
pub enum ClientAuth {
    None,
    /// A certificate is asked for; one that is sent must verify.
    Optional {
        ca: Located<PathBuf>,
    },
    Required {
        ca: Located<PathBuf>,
    },
}

#[derive(Clone, Debug)]
pub struct ListenerTimeouts {
    /// From accept to the end of the TLS handshake. Default 10 s.
    pub tls_handshake: Duration,
    /// From the first byte of a request head to its last. Default 10 s.
    pub request_head: Duration,
    /// A connection without open requests. Default 60 s.
    pub keep_alive: Duration,
}

#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Bytes of a request head. Default 16 KiB.
    pub head_size: usize,
    /// Header fields in a request head. Default 100.
    pub fields: usize,
    /// Bytes of a request target. Default 8 KiB.
    pub target_size: usize,
}

/// A host as a route or a TLS policy names it: lower case, no trailing dot, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`, kept as `example.com`: one or more labels before it, never none.
    Wildcard(String),
}

#[derive(Clone, Debug)]
pub struct Route {
    /// Defaults to hosts and path as written.
    pub name: Name,
    /// Empty: any host.
    pub hosts: Vec<Located<HostPattern>>,
    pub path: Located<PathPattern>,
    /// Empty: all listeners.
    pub listeners: Vec<Located<Name>>,
    /// Refused wherever a request could arrive without a verified client certificate.
    pub client_certificate: Located<bool>,
    /// Segments that are cut from the front of the path before it goes upstream; begins with `/`, no trailing `/`.
    pub strip_prefix: Option<Located<String>>,
    pub target: Target,
    pub timeouts: RouteTimeouts,
    /// Bytes of a request body; `None`: no limit.
    pub body_size: Option<u64>,
    /// `None`: this route never upgrades.
    pub websocket: Option<WebSocketPolicy>,
    /// The `[[route]]` table.
    pub spot: Spot,
}

#[derive(Clone, Debug)]
pub enum PathPattern {
    /// Whole segments: `/ws` matches `/ws` and `/ws/x`, not `/wsx`. `/` matches everything.
    Prefix(String),
    Exact(String),
    /// Unanchored as written, against the normalised path; compiled with a size limit.
    Regex(regex::Regex),
}

#[derive(Clone, Debug)]
pub enum Target {
    /// Index into [`Config::upstreams`].
    Upstream(usize),
    /// `to` is absolute (`https://…`) or begins with `/`; the request's path is not appended.
    Redirect {
        to: String,
        status: u16,
    },
    Respond {
        status: u16,
        body: String,
    },
}

#[derive(Clone, Debug)]
pub struct RouteTimeouts {
    /// From the request's last byte (or the handshake's head) to the head of the answer. Default 60 s.
    pub response: Duration,
    /// The client is silent within a request body. Default 30 s.
    pub request_body_idle: Duration,
    /// The upstream is silent within a response body. Default 10 min.
    pub response_body_idle: Duration,
    /// The client does not read. Default 30 s.
    pub client_stall: Duration,
}

#[derive(Clone, Debug)]
pub struct WebSocketPolicy {
    /// Never empty; default `same-origin` alone.
    pub origins: Vec<Located<OriginRule>>,
    /// A handshake without Origin passes. Default true: only browsers send one.
    pub allow_missing_origin: bool,
    pub subprotocols: Subprotocols,
    /// Default true; false: the client's `Sec-WebSocket-Extensions` does not go upstream.
    pub pass_extensions: bool,
    /// No byte either way. Default 10 min.
    pub idle_timeout: Duration,
    /// How old a tunnel gets, give or take a tenth. `None`, the default: any age.
    pub max_lifetime: Option<Duration>,
    /// How long a side may be silent before it is pinged, and again before it is given up. `None`, the default: never.
    pub ping_interval: Option<Duration>,
    /// The server is pinged as well as the client. Default false.
    pub ping_upstream: bool,
    /// Frames are judged and counted. Default true; false: bytes pass unread.
    pub checked_frames: bool,
    /// Payload bytes of one data frame, as on the wire. `None`, the default: no limit.
    pub max_frame_size: Option<u64>,
    /// Payload bytes of one message over all its frames, as on the wire. `None`, the default: no limit.
    pub max_message_size: Option<u64>,
    /// How fast a client may send. `None`, the default: as fast as it can.
    pub rates: Option<Rates>,
    pub tunnels: TunnelCounts,
    /// A reload that takes the route out closes its tunnels. Default false: they stay.
    pub close_removed: bool,
    pub spot: Spot,
}

/// How fast the client of a tunnel may send; at least one of the two is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Messages, small fragments and control frames.
    pub messages_per_second: Option<u32>,
    /// Bytes as on the wire, headers of frames included.
    pub bytes_per_second: Option<u64>,
    pub on_excess: OnExcess,
}

/// What becomes of a client that sends too fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExcess {
    /// It is read no faster than it may send.
    #[default]
    Delay,
    /// Its tunnel is closed with 1008.
    Close,
}

/// How many tunnels a route may have open at once. `None`, the default: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelCounts {
    pub max: Option<u32>,
    /// Of one client address, an IPv6 one by its first 64 bits.
    pub max_per_address: Option<u32>,
}

/// One entry of `origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginRule {
    /// `*`
    Any,
    SameOrigin,
    /// `null`
    Null,
    /// `file://`, as some browsers send for pages from disk.
    File,
    /// Scheme and host in lower case, IPv6 compressed and in brackets, `port` filled in where the scheme has a default
    /// (http, https, ws, wss).
    Exact {
        scheme: String,
        host: String,
        port: Option<u16>,
    },
    /// `https://*.example.com`: `suffix` is `example.com`; one or more labels before it.
    Wildcard {
        scheme: String,
        suffix: String,
        port: Option<u16>,
    },
}

impl fmt::Display for OriginRule {
    /// As an entry of `origins` is written.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tuple = |out: &mut fmt::Formatter<'_>, scheme: &str, host: &str, port: Option<u16>| match (scheme, port) {
            (_, None) | ("http" | "ws", Some(80)) | ("https" | "wss", Some(443)) => write!(out, "{scheme}://{host}"),
            (_, Some(port)) => write!(out, "{scheme}://{host}:{port}"),
        };
        match self {
            Self::Any => out.write_str("*"),
            Self::SameOrigin => out.write_str("same-origin"),
            Self::Null => out.write_str("null"),
            Self::File => out.write_str("file://"),
            Self::Exact { scheme, host, port } => tuple(out, scheme, host, *port),
            Self::Wildcard { scheme, suffix, port } => tuple(out, scheme, &format!("*.{suffix}"), *port),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Subprotocols {
    /// `None`: every offer passes. Compared byte for byte.
    pub allow: Option<Vec<String>>,
    /// A handshake without an acceptable offer is refused.
    pub require: bool,
}

/// Peers who are believed in something; nobody else is. Default: nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    pub networks: Vec<IpNet>,
    /// Peers on unix sockets: who may connect there is decided by the socket's file.
    pub unix: bool,
}

impl Peers {
    /// Whether this one is among them; `None`: a peer on a unix socket.
    pub fn has(&self, peer: Option<IpAddr>) -> bool {
        peer.map_or(self.unix, |address| self.networks.iter().any(|net| net.contains(&address)))
    }
}
