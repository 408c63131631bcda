//! The end reason: the one recorded cause why a request or a tunnel ended.
//!
//! A closed list. The same code stands in the access log (`end`), in `X-Portcullis-Reason` where the gateway itself
//! answers, in metrics and in what `explain` prints. Which status belongs to which reason is `fault.rs`' business.

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Downstream,
    Upstream,
    Gateway,
}

impl Side {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

macro_rules! end_reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal by $side:ident,)*) => {
        /// Why a request or a tunnel ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EndReason { $($(#[$doc])* $variant,)* }

        impl EndReason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name in logs, headers and metrics.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            pub fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side,)* }
            }
        }
    };
}

impl EndReason {
    /// Whether somebody was refused, by what the gateway read of him or by how many there are of him already: what a
    /// stranger can have as often as he likes.
    pub fn is_refusal(self) -> bool {
        match self {
            // Clients that were served until then, or tunnels.
            Self::ClientClosed
            | Self::ClientReset
            | Self::ClientStalled
            | Self::TunnelClosedDownstream
            | Self::TunnelResetDownstream
            | Self::DeadPeerDownstream
            | Self::FrameViolationDownstream
            | Self::MessageTooBigDownstream
            | Self::RateExceeded => false,
            Self::TooManyTunnels => true,
            other => other.side() == Side::Downstream,
        }
    }
}

end_reasons! {
    /// The upstream's answer went to the client whole.
    Completed = "completed" by Upstream,

    // Answers that the configuration asks for.
    /// A `redirect` target or `redirect_https`.
    Redirected = "redirected" by Gateway,
    /// A `respond` target, or `OPTIONS *`.
    Responded = "responded" by Gateway,

    // Requests that are refused for what they are.
    /// No PROXY header where one is expected, or a malformed one.
    BadProxyHeader = "bad-proxy-header" by Downstream,
    /// Not HTTP, or HTTP whose framing cannot be trusted.
    Malformed = "malformed" by Downstream,
    HeadTooLarge = "head-too-large" by Downstream,
    TargetTooLong = "target-too-long" by Downstream,
    /// No, several or invalid Host; a `host` that differs from `:authority`.
    BadHost = "bad-host" by Downstream,
    /// Dot segments, broken escapes, control characters.
    BadTarget = "bad-target" by Downstream,
    /// `Connection` lists a field that must not be hop-by-hop.
    BadConnection = "bad-connection" by Downstream,
    /// `Transfer-Encoding` other than exactly `chunked`.
    BadTransferEncoding = "bad-transfer-encoding" by Downstream,
    /// `Expect` other than `100-continue`.
    BadExpectation = "bad-expectation" by Downstream,
    /// CONNECT without `:protocol`, TRACE.
    MethodNotAllowed = "method-not-allowed" by Downstream,
    /// Our own Via came back.
    LoopDetected = "loop-detected" by Downstream,
    BodyTooLarge = "body-too-large" by Downstream,
    /// The authority belongs to another TLS policy, or to no route while SNI said something else.
    Misdirected = "misdirected" by Downstream,
    NoRoute = "no-route" by Downstream,
    /// The route wants a verified client certificate.
    ClientCertificateRequired = "client-certificate-required" by Downstream,
    /// Plain HTTP for an upstream that speaks only WebSocket.
    WebSocketOnly = "websocket-only" by Downstream,

    // Handshakes that are refused.
    UpgradeNotAllowed = "upgrade-not-allowed" by Downstream,
    BadWebSocketKey = "bad-websocket-key" by Downstream,
    BadWebSocketVersion = "bad-websocket-version" by Downstream,
    /// A `Sec-WebSocket-*` field that must stand alone stands twice.
    DuplicateWebSocketHeader = "duplicate-websocket-header" by Downstream,
    /// A list of subprotocols or extensions that does not follow its grammar.
    BadWebSocketOffer = "bad-websocket-offer" by Downstream,
    HandshakeWithBody = "handshake-with-body" by Downstream,
    /// Extended CONNECT for anything but websocket.
    UnknownProtocol = "unknown-protocol" by Downstream,
    OriginNotAllowed = "origin-not-allowed" by Downstream,
    OriginMissing = "origin-missing" by Downstream,
    /// Not one serialised origin.
    OriginMalformed = "origin-malformed" by Downstream,
    SubprotocolRequired = "subprotocol-required" by Downstream,
    /// The route has `max_tunnels` open.
    TooManyTunnels = "too-many-tunnels" by Gateway,
    /// The client's address has `max_tunnels_per_address` open.
    TooManyTunnelsFromAddress = "too-many-tunnels-from-address" by Downstream,

    // Upstreams that fail.
    /// None of its servers may take work.
    UpstreamUnavailable = "upstream-unavailable" by Upstream,
    /// Its servers and its queue have as much as they may.
    UpstreamOverloaded = "upstream-overloaded" by Upstream,
    /// No place at a server within the queue's timeout.
    UpstreamQueueTimeout = "upstream-queue-timeout" by Upstream,
    UpstreamUnreachable = "upstream-unreachable" by Upstream,
    UpstreamConnectTimeout = "upstream-connect-timeout" by Upstream,
    UpstreamTls = "upstream-tls" by Upstream,
    /// The server speaks another HTTP than `protocols` asks for, or opens no WebSockets over it.
    UpstreamProtocol = "upstream-protocol" by Upstream,
    /// No head of an answer in time.
    UpstreamTimeout = "upstream-timeout" by Upstream,
    /// Closed or reset before the head of an answer.
    UpstreamClosed = "upstream-closed" by Upstream,
    UpstreamMalformed = "upstream-malformed" by Upstream,
    /// A 101 that does not agree to this handshake.
    BadUpgrade = "bad-upgrade" by Upstream,
    /// A 101 that was not asked for, or on h2 a 2xx that is no tunnel.
    UnexpectedUpgrade = "unexpected-upgrade" by Upstream,
    /// The answer's body ended before its end.
    UpstreamTruncated = "upstream-truncated" by Upstream,
    UpstreamBodyTimeout = "upstream-body-timeout" by Upstream,

    // Clients that leave or stall.
    ClientClosed = "client-closed" by Downstream,
    ClientReset = "client-reset" by Downstream,
    /// A request head or body that did not arrive in time.
    ClientTimeout = "client-timeout" by Downstream,
    /// The client does not read.
    ClientStalled = "client-stalled" by Downstream,

    // Tunnels.
    TunnelClosedDownstream = "closed-by-client" by Downstream,
    TunnelClosedUpstream = "closed-by-upstream" by Upstream,
    TunnelResetDownstream = "reset-by-client" by Downstream,
    TunnelResetUpstream = "reset-by-upstream" by Upstream,
    IdleTimeout = "idle-timeout" by Gateway,
    /// One direction closed and the other silent.
    HalfCloseTimeout = "half-close-timeout" by Gateway,
    /// As old as `max_lifetime` allows.
    MaxLifetime = "max-lifetime" by Gateway,
    /// Nothing came for an interval after our ping.
    DeadPeerDownstream = "dead-peer-downstream" by Downstream,
    DeadPeerUpstream = "dead-peer-upstream" by Upstream,
    /// A frame that breaks RFC 6455.
    FrameViolationDownstream = "frame-violation-by-client" by Downstream,
    FrameViolationUpstream = "frame-violation-by-upstream" by Upstream,
    /// Over `max_frame_size` or `max_message_size`.
    MessageTooBigDownstream = "message-too-big-by-client" by Downstream,
    MessageTooBigUpstream = "message-too-big-by-upstream" by Upstream,
    /// Over `messages_per_second` or `bytes_per_second`, where `on_excess` is to close.
    RateExceeded = "rate-exceeded" by Downstream,

    // The gateway itself.
    /// Its server drains, and the upstream says how fast.
    ServerDrained = "server-drained" by Gateway,
    /// A reload has taken the route out, and the route says that its tunnels go with it.
    RouteRemoved = "route-removed" by Gateway,
    /// An operator has asked the route to drain: its tunnels, and handshakes that come meanwhile.
    RouteDrained = "route-drained" by Gateway,
    /// An operator has asked the listener by which it came to drain.
    ListenerDrained = "listener-drained" by Gateway,
    ClosedByOperator = "closed-by-operator" by Gateway,
    /// The process drains: closed at `drain_rate`, or cut at the end.
    Drained = "drained" by Gateway,
    Internal = "internal-error" by Gateway,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::EndReason;

    #[test]
    fn every_code_is_kebab_case_and_stands_once() {
        let codes: HashSet<_> = EndReason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), EndReason::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
    }
}
