//! The closed lists of what labels may say, beside the end reasons. Each is an index into cells.

/// Declares a list of words.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}
pub(crate) use kinds;

kinds! {
    /// What became of a connection of a client's.
    Closed {
        /// HTTP came to its end: the client left, or one of the two had said that this request is the last.
        Finished = "finished",
        /// The client broke it off.
        Broken = "broken",
        /// Silent for longer than `keep_alive`.
        Idle = "idle",
        /// A head that did not come whole in time.
        LateHead = "late-head",
        /// The client did not read.
        Stalled = "stalled",
        /// What came is no HTTP.
        Malformed = "malformed",
        /// The TLS handshake failed.
        Tls = "tls",
        /// Not the PROXY header that has to come first.
        ProxyHeader = "proxy-header",
        /// A tunnel that ended.
        Tunnel = "tunnel",
        /// The process, its listener or a reload asked for its end.
        Drained = "drained",
    }
}

kinds! {
    /// Why a connection was closed before anybody looked at it.
    Refused {
        MaxConnections = "max-connections",
        Descriptors = "descriptors",
        /// At a unix socket whose listener drains; at a port the kernel refuses them.
        Drained = "drained",
    }
}

kinds! {
    /// The first digit of an answer's status.
    StatusClass {
        Informational = "1xx",
        Successful = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
        /// The client left before there was an answer.
        None = "none",
    }
}

impl StatusClass {
    pub fn of(status: Option<u16>) -> Self {
        match status.map(|status| status / 100) {
            Some(1) => Self::Informational,
            Some(2) => Self::Successful,
            Some(3) => Self::Redirection,
            Some(4) => Self::ClientError,
            Some(5) => Self::ServerError,
            _ => Self::None,
        }
    }
}

kinds! {
    /// The code of a tunnel's first Close (RFC 6455 7.4). What is not registered is not told apart.
    CloseCode {
        Normal = "1000",
        GoingAway = "1001",
        ProtocolError = "1002",
        Unsupported = "1003",
        BadData = "1007",
        Policy = "1008",
        TooBig = "1009",
        MissingExtension = "1010",
        Internal = "1011",
        Restart = "1012",
        TryAgain = "1013",
        BadGateway = "1014",
        /// For libraries and applications that have registered one.
        Registered = "3000-3999",
        Private = "4000-4999",
        Other = "other",
        /// A Close without a code.
        None = "none",
    }
}

impl CloseCode {
    pub fn of(code: Option<u16>) -> Self {
        match code {
            None => Self::None,
            Some(1000) => Self::Normal,
            Some(1001) => Self::GoingAway,
            Some(1002) => Self::ProtocolError,
            Some(1003) => Self::Unsupported,
            Some(1007) => Self::BadData,
            Some(1008) => Self::Policy,
            Some(1009) => Self::TooBig,
            Some(1010) => Self::MissingExtension,
            Some(1011) => Self::Internal,
            Some(1012) => Self::Restart,
            Some(1013) => Self::TryAgain,
            Some(1014) => Self::BadGateway,
            Some(3000..=3999) => Self::Registered,
            Some(4000..=4999) => Self::Private,
            Some(_) => Self::Other,
        }
    }
}

kinds! {
    /// What became of a handshake.
    HandshakeResult {
        /// It became a tunnel.
        Opened = "opened",
        /// The gateway said no.
        Refused = "refused",
        /// The server answered, but with no 101.
        Declined = "declined",
        /// No good answer could be had.
        Failed = "failed",
        /// The client left before there was an answer.
        Abandoned = "abandoned",
    }
}

kinds! {
    /// What became of a TLS handshake with a client.
    TlsResult {
        Done = "done",
        Timeout = "timeout",
        Closed = "closed",
        NotTls = "not-tls",
        ClientCertificate = "client-certificate",
        OurCertificate = "our-certificate",
        NoCommonProtocol = "no-common-protocol",
        Handshake = "handshake",
        Io = "io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_may_be_sent_has_a_word_and_few_of_them() {
        let word = |code| CloseCode::of(Some(code)).as_str();
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014] {
            assert_eq!(word(code), code.to_string());
        }
        assert_eq!((word(3000), word(4999), word(999), word(2999)), ("3000-3999", "4000-4999", "other", "other"));
        assert_eq!(CloseCode::of(None).as_str(), "none");
    }

    #[test]
    fn a_status_has_the_class_of_its_first_digit() {
        for (status, class) in [(101, "1xx"), (200, "2xx"), (308, "3xx"), (431, "4xx"), (504, "5xx"), (600, "none")] {
            assert_eq!(StatusClass::of(Some(status)).as_str(), class);
        }
        assert_eq!(StatusClass::of(None).as_str(), "none");
    }
}
