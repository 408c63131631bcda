//! From what went wrong to what is said about it: status, fields, end reason, log level. Exhaustive on purpose:
//! a new fault does not compile until someone has decided all of them.
//!
//! Two texts per fault: the client gets a short stable line, the log the whole story (`Display`).

use std::fmt;

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::http::AnswerBody;
use crate::limits::NoTunnel;
use crate::proto::fields::{BadContentLength, ForbiddenConnectionOption};
use crate::proto::host::BadAuthority;
use crate::proto::target::BadTarget;
use crate::telemetry::end::EndReason;
use crate::types::{HttpVersion, RequestBodyFault};
use crate::upgrade::{BadUpgrade, Refusal};
use crate::upstream::Failure;

/// What `Allow` says where CONNECT or TRACE was tried, and to `OPTIONS *`.
pub const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What `Retry-After` says, in seconds, where there is no room for a tunnel: nobody knows when one will end, and this
/// keeps clients from asking all the time.
const NO_ROOM_RETRY: u16 = 10;

/// The same where an upstream has as much as it may: most of that are requests, which end sooner than tunnels.
const OVERLOADED_RETRY: u16 = 5;

/// The same where the route drains: that is over when somebody says so.
const DRAINS_RETRY: u16 = 30;

static X_PORTCULLIS_REASON: HeaderName = HeaderName::from_static("x-portcullis-reason");

/// Why a request does not get an upstream's answer.
#[derive(Debug)]
pub enum Fault {
    Authority(BadAuthority),
    Target(BadTarget),
    TargetTooLong,
    TooManyFields,
    Connection(ForbiddenConnectionOption),
    TransferEncoding,
    ContentLength(BadContentLength),
    Expectation,
    MethodNotAllowed,
    UnknownProtocol,
    Loop,
    Misdirected,
    NoRoute,
    ClientCertificateRequired,
    BodyTooLarge,
    RequestBody(RequestBodyFault),
    WebSocketOnly,
    UpgradeNotAllowed,
    Handshake(Refusal),
    /// No room for one more tunnel.
    Tunnels(NoTunnel),
    /// An operator has asked the route to drain.
    RouteDrains,
    Upstream(Failure),
    /// A 101 that is no agreement to the handshake.
    BadUpgrade(BadUpgrade),
    /// A 101 that nobody asked for, or on h2 a 2xx that is no tunnel.
    UnexpectedUpgrade,
    /// Our own mistake; the text says which.
    Internal(&'static str),
}

/// What decides that a request is refused. Keys are named each inside the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A key of the listener that it came to; of none in particular where there are no keys.
    Listener(&'static [&'static str]),
    Route(&'static [&'static str]),
    /// Of the route's upstream.
    Upstream(&'static [&'static str]),
    Specification(&'static str),
    /// Nobody has decided it; it has happened.
    None,
}

impl Fault {
    /// The one recorded cause.
    pub fn end(&self) -> EndReason {
        match self {
            Self::Authority(_) => EndReason::BadHost,
            Self::Target(_) => EndReason::BadTarget,
            Self::TargetTooLong => EndReason::TargetTooLong,
            Self::TooManyFields => EndReason::HeadTooLarge,
            Self::Connection(_) => EndReason::BadConnection,
            Self::TransferEncoding => EndReason::BadTransferEncoding,
            Self::ContentLength(_) => EndReason::Malformed,
            Self::Expectation => EndReason::BadExpectation,
            Self::MethodNotAllowed => EndReason::MethodNotAllowed,
            Self::UnknownProtocol => EndReason::UnknownProtocol,
            Self::Loop => EndReason::LoopDetected,
            Self::Misdirected => EndReason::Misdirected,
            Self::NoRoute => EndReason::NoRoute,
            Self::ClientCertificateRequired => EndReason::ClientCertificateRequired,
            Self::BodyTooLarge | Self::RequestBody(RequestBodyFault::TooLarge) => EndReason::BodyTooLarge,
            Self::RequestBody(RequestBodyFault::Timeout) => EndReason::ClientTimeout,
            Self::RequestBody(RequestBodyFault::Broken) => EndReason::ClientClosed,
            Self::WebSocketOnly => EndReason::WebSocketOnly,
            Self::UpgradeNotAllowed => EndReason::UpgradeNotAllowed,
            Self::Handshake(refusal) => refusal_end(*refusal),
            Self::Tunnels(NoTunnel::Route) => EndReason::TooManyTunnels,
            Self::Tunnels(NoTunnel::Address) => EndReason::TooManyTunnelsFromAddress,
            Self::RouteDrains => EndReason::RouteDrained,
            Self::Upstream(failure) => failure_end(failure),
            Self::BadUpgrade(_) => EndReason::BadUpgrade,
            Self::UnexpectedUpgrade => EndReason::UnexpectedUpgrade,
            Self::Internal(_) => EndReason::Internal,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Authority(_)
            | Self::Target(_)
            | Self::Connection(_)
            | Self::TransferEncoding
            | Self::ContentLength(_)
            | Self::RequestBody(RequestBodyFault::Broken) => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownProtocol => StatusCode::NOT_IMPLEMENTED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::ClientCertificateRequired | Self::UpgradeNotAllowed => StatusCode::FORBIDDEN,
            Self::BodyTooLarge | Self::RequestBody(RequestBodyFault::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestBody(RequestBodyFault::Timeout) => StatusCode::REQUEST_TIMEOUT,
            Self::WebSocketOnly => StatusCode::UPGRADE_REQUIRED,
            Self::Handshake(refusal) => refusal_status(*refusal),
            Self::Tunnels(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::RouteDrains => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(failure) => failure_status(failure),
            Self::BadUpgrade(_) | Self::UnexpectedUpgrade => StatusCode::BAD_GATEWAY,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the connection must end after the answer, because what follows on it cannot be trusted.
    fn closes(&self) -> bool {
        match self {
            Self::Authority(_)
            | Self::TransferEncoding
            | Self::ContentLength(_)
            | Self::BodyTooLarge
            | Self::RequestBody(_)
            | Self::TargetTooLong
            | Self::TooManyFields => true,
            Self::Handshake(refusal) => matches!(refusal, Refusal::Body),
            _ => false,
        }
    }

    /// What `Retry-After` says (RFC 6585 4, RFC 9110 15.6.4).
    fn retry_after(&self) -> Option<u16> {
        match self {
            Self::Tunnels(_) => Some(NO_ROOM_RETRY),
            Self::RouteDrains => Some(DRAINS_RETRY),
            Self::Upstream(Failure::Overloaded | Failure::QueueTimeout) => Some(OVERLOADED_RETRY),
            _ => None,
        }
    }

    /// What decides it: a key of the configuration, or what everybody has to keep to.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Authority(_) => Rule::Specification("RFC 9110 7.2"),
            Self::Target(_) => Rule::Specification("RFC 9112 3.2"),
            Self::TargetTooLong => Rule::Listener(&["limits", "target_size"]),
            Self::TooManyFields => Rule::Listener(&["limits", "fields"]),
            Self::Connection(_) => Rule::Specification("RFC 9110 7.6.1"),
            Self::TransferEncoding => Rule::Specification("RFC 9112 6.1"),
            Self::ContentLength(_) => Rule::Specification("RFC 9110 8.6"),
            Self::Expectation => Rule::Specification("RFC 9110 10.1.1"),
            Self::MethodNotAllowed => Rule::Specification("RFC 9110 9.3"),
            Self::UnknownProtocol => Rule::Specification("RFC 8441 4"),
            Self::Loop => Rule::Specification("RFC 9110 7.6.3"),
            Self::Misdirected => Rule::Listener(&["tls"]),
            Self::NoRoute => Rule::Listener(&[]),
            Self::ClientCertificateRequired => Rule::Route(&["client_certificate"]),
            Self::BodyTooLarge => body_rule(RequestBodyFault::TooLarge),
            Self::RequestBody(fault) => body_rule(*fault),
            Self::WebSocketOnly => Rule::Route(&["upstream"]),
            Self::UpgradeNotAllowed => Rule::Route(&["websocket"]),
            Self::Handshake(refusal) => refusal_rule(*refusal),
            Self::Tunnels(NoTunnel::Route) => Rule::Route(&["websocket", "max_tunnels"]),
            Self::Tunnels(NoTunnel::Address) => Rule::Route(&["websocket", "max_tunnels_per_address"]),
            // Nobody has written it down.
            Self::RouteDrains => Rule::None,
            Self::Upstream(failure) => failure_rule(failure),
            Self::BadUpgrade(_) => Rule::Specification("RFC 6455 4.1"),
            Self::UnexpectedUpgrade => Rule::Specification("RFC 9110 7.8"),
            Self::Internal(_) => Rule::None,
        }
    }

    /// Whether the operator should hear of it beyond the access log.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Internal(_))
    }

    /// The answer: a status, the reason's code, and one line.
    pub fn answer(&self, version: HttpVersion) -> Response<AnswerBody> {
        let (status, code) = (self.status(), self.end().code());
        let mut answer = Response::new(AnswerBody::Full(format!("{}: {code}\n", status.as_u16()).into()));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(X_PORTCULLIS_REASON.clone(), HeaderValue::from_static(code));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if matches!(self, Self::MethodNotAllowed) {
            headers.insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            if version == HttpVersion::Http1 {
                // RFC 9110 15.5.22
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            }
        }
        if self.closes() && version == HttpVersion::Http1 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

fn refusal_end(refusal: Refusal) -> EndReason {
    match refusal {
        Refusal::BadKey => EndReason::BadWebSocketKey,
        Refusal::BadVersion => EndReason::BadWebSocketVersion,
        Refusal::DuplicateHeader => EndReason::DuplicateWebSocketHeader,
        Refusal::Body => EndReason::HandshakeWithBody,
        Refusal::BadOffer => EndReason::BadWebSocketOffer,
        Refusal::OriginNotAllowed => EndReason::OriginNotAllowed,
        Refusal::OriginMissing => EndReason::OriginMissing,
        Refusal::OriginField | Refusal::OriginMalformed => EndReason::OriginMalformed,
        Refusal::SubprotocolRequired => EndReason::SubprotocolRequired,
    }
}

fn refusal_status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::BadVersion => StatusCode::UPGRADE_REQUIRED,
        Refusal::OriginNotAllowed | Refusal::OriginMissing | Refusal::OriginMalformed => StatusCode::FORBIDDEN,
        Refusal::BadKey
        | Refusal::DuplicateHeader
        | Refusal::Body
        | Refusal::BadOffer
        | Refusal::OriginField
        | Refusal::SubprotocolRequired => StatusCode::BAD_REQUEST,
    }
}

fn refusal_rule(refusal: Refusal) -> Rule {
    match refusal {
        Refusal::BadKey => Rule::Specification("RFC 6455 4.2.1"),
        Refusal::BadVersion => Rule::Specification("RFC 6455 4.4"),
        Refusal::DuplicateHeader => Rule::Specification("RFC 6455 11.3"),
        Refusal::Body => Rule::Specification("RFC 6455 4.1"),
        Refusal::BadOffer => Rule::Specification("RFC 6455 4.3"),
        Refusal::OriginField | Refusal::OriginMalformed => Rule::Specification("RFC 6454 7"),
        Refusal::OriginMissing => Rule::Route(&["websocket", "allow_missing_origin"]),
        Refusal::OriginNotAllowed => Rule::Route(&["websocket", "origins"]),
        Refusal::SubprotocolRequired => Rule::Route(&["websocket", "subprotocols", "require"]),
    }
}

fn body_rule(fault: RequestBodyFault) -> Rule {
    match fault {
        RequestBodyFault::TooLarge => Rule::Route(&["limits", "body_size"]),
        RequestBodyFault::Timeout => Rule::Route(&["timeouts", "request_body_idle"]),
        RequestBodyFault::Broken => Rule::Specification("RFC 9112 8"),
    }
}

fn failure_rule(failure: &Failure) -> Rule {
    match failure {
        Failure::Overloaded => Rule::Upstream(&["max_connections"]),
        Failure::QueueTimeout => Rule::Upstream(&["queue", "timeout"]),
        Failure::ConnectTimeout(_) => Rule::Upstream(&["connect_timeout"]),
        Failure::Timeout => Rule::Route(&["timeouts", "response"]),
        Failure::Protocol(_) => Rule::Upstream(&["protocols"]),
        Failure::RequestBody(fault) => body_rule(*fault),
        Failure::NoServer | Failure::Connect(_) | Failure::Tls(_) | Failure::Closed(_) | Failure::Malformed(_) => {
            Rule::None
        }
    }
}

fn failure_end(failure: &Failure) -> EndReason {
    match failure {
        Failure::NoServer => EndReason::UpstreamUnavailable,
        Failure::Overloaded => EndReason::UpstreamOverloaded,
        Failure::QueueTimeout => EndReason::UpstreamQueueTimeout,
        Failure::Connect(_) => EndReason::UpstreamUnreachable,
        Failure::ConnectTimeout(_) => EndReason::UpstreamConnectTimeout,
        Failure::Tls(_) => EndReason::UpstreamTls,
        Failure::Closed(_) => EndReason::UpstreamClosed,
        Failure::Protocol(_) => EndReason::UpstreamProtocol,
        Failure::Malformed(_) => EndReason::UpstreamMalformed,
        Failure::RequestBody(RequestBodyFault::Timeout) => EndReason::ClientTimeout,
        Failure::RequestBody(RequestBodyFault::TooLarge) => EndReason::BodyTooLarge,
        Failure::RequestBody(RequestBodyFault::Broken) => EndReason::ClientClosed,
        Failure::Timeout => EndReason::UpstreamTimeout,
    }
}

fn failure_status(failure: &Failure) -> StatusCode {
    match failure {
        Failure::Connect(_) | Failure::Tls(_) | Failure::Protocol(_) | Failure::Closed(_) | Failure::Malformed(_) => {
            StatusCode::BAD_GATEWAY
        }
        Failure::NoServer | Failure::Overloaded | Failure::QueueTimeout => StatusCode::SERVICE_UNAVAILABLE,
        Failure::ConnectTimeout(_) | Failure::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Failure::RequestBody(RequestBodyFault::Timeout) => StatusCode::REQUEST_TIMEOUT,
        Failure::RequestBody(RequestBodyFault::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::RequestBody(RequestBodyFault::Broken) => StatusCode::BAD_REQUEST,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(cause) => cause.fmt(out),
            Self::Target(cause) => cause.fmt(out),
            Self::TargetTooLong => out.write_str("the target is longer than target_size"),
            Self::TooManyFields => out.write_str("more header fields than `fields` allows"),
            Self::Connection(cause) => cause.fmt(out),
            Self::TransferEncoding => out.write_str("Transfer-Encoding is not exactly chunked"),
            Self::ContentLength(cause) => cause.fmt(out),
            Self::Expectation => out.write_str("only 100-continue can be expected"),
            Self::MethodNotAllowed => out.write_str("the method is not served"),
            Self::UnknownProtocol => out.write_str("extended CONNECT for something other than websocket"),
            Self::Loop => out.write_str("the request has been here before"),
            Self::Misdirected => out.write_str("the connection was opened for another host"),
            Self::NoRoute => out.write_str("no route matches host and path"),
            Self::ClientCertificateRequired => out.write_str("the route wants a verified client certificate"),
            Self::BodyTooLarge => RequestBodyFault::TooLarge.fmt(out),
            Self::RequestBody(cause) => cause.fmt(out),
            Self::WebSocketOnly => out.write_str("the upstream speaks only WebSocket"),
            Self::UpgradeNotAllowed => out.write_str("the route has no websocket table"),
            Self::RouteDrains => out.write_str("the route drains: an operator has asked for it"),
            Self::Handshake(refusal) => refusal.fmt(out),
            Self::Tunnels(NoTunnel::Route) => out.write_str("the route has as many tunnels as max_tunnels allows"),
            Self::Tunnels(NoTunnel::Address) => {
                out.write_str("the client has as many tunnels as max_tunnels_per_address allows")
            }
            Self::Upstream(failure) => failure.fmt(out),
            Self::BadUpgrade(cause) => cause.fmt(out),
            Self::UnexpectedUpgrade => out.write_str("the upstream switched protocols unasked, or did not when asked"),
            Self::Internal(what) => out.write_str(what),
        }
    }
}

impl std::error::Error for Fault {}

impl From<BadAuthority> for Fault {
    fn from(cause: BadAuthority) -> Self {
        Self::Authority(cause)
    }
}

impl From<BadTarget> for Fault {
    fn from(cause: BadTarget) -> Self {
        Self::Target(cause)
    }
}

impl From<ForbiddenConnectionOption> for Fault {
    fn from(cause: ForbiddenConnectionOption) -> Self {
        Self::Connection(cause)
    }
}

impl From<BadContentLength> for Fault {
    fn from(cause: BadContentLength) -> Self {
        Self::ContentLength(cause)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Handshake(refusal)
    }
}

impl From<NoTunnel> for Fault {
    fn from(cause: NoTunnel) -> Self {
        Self::Tunnels(cause)
    }
}

impl From<BadUpgrade> for Fault {
    fn from(cause: BadUpgrade) -> Self {
        Self::BadUpgrade(cause)
    }
}
