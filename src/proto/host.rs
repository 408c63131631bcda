//! Host and port: from `Host`, `:authority` or an absolute target to one normalised [`Authority`].
//!
//! Stricter than RFC 3986 where the looseness only serves attacks: no userinfo, no percent-escapes, no sub-delims,
//! no zone ids, names of letters, digits, `-`, `_` and dots only. IDN arrives as A-labels. IPv6 is kept in brackets
//! in its RFC 5952 form, so that equal addresses are equal strings.
//!
//! RFC 9110 4.2, 7.2; RFC 9112 3.2 (exactly one Host); RFC 9113 8.3.1 (`:authority`).

use std::fmt;
use std::net::Ipv6Addr;

use http::header::{HOST, HeaderMap};
use http::{Method, Uri, Version};

use crate::types::Scheme;

/// A host and perhaps a port, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Lower case, without a trailing dot; IPv6 in brackets and compressed.
    pub host: String,
    /// As written; `None` where it was left out (or left empty).
    pub port: Option<u16>,
}

impl Authority {
    /// The port that is meant under a scheme.
    pub fn effective_port(&self, scheme: Scheme) -> u16 {
        self.port.unwrap_or_else(|| scheme.default_port())
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(out, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Why a request has no usable authority. All of them are 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAuthority {
    /// HTTP/1.1 without Host, HTTP/2 without `:authority` and Host, extended CONNECT without `:authority`.
    Missing,
    /// More than one Host line.
    Several,
    /// HTTP/2: `host` and `:authority` do not say the same.
    Differs,
    Empty,
    /// Not a host name, an IPv4 address or a bracketed IPv6 address.
    Host,
    /// Not a number from 0 to 65535.
    Port,
}

impl fmt::Display for BadAuthority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Missing => "the request names no host",
            Self::Several => "several Host fields",
            Self::Differs => "host and :authority differ",
            Self::Empty => "an empty host",
            Self::Host => "not a host name or address",
            Self::Port => "not a port",
        })
    }
}

impl std::error::Error for BadAuthority {}

/// The authority a request is for, from the head as hyper gives it; `None` only for HTTP/1.0 that names no host.
///
/// HTTP/1.1 needs exactly one valid Host even where an absolute target says the same and wins (RFC 9112 3.2.2).
pub fn effective_authority(
    method: &Method,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Authority>, BadAuthority> {
    let mut lines = headers.get_all(HOST).into_iter();
    let field = match (lines.next(), lines.next()) {
        (_, Some(_)) => return Err(BadAuthority::Several),
        (None, None) => None,
        (Some(line), None) => Some(parse_authority(line.to_str().map_err(|_| BadAuthority::Host)?)?),
    };
    let target = uri.authority().map(|authority| parse_authority(authority.as_str())).transpose()?;
    if version <= Version::HTTP_11 {
        return match field {
            None if version == Version::HTTP_11 => Err(BadAuthority::Missing),
            field => Ok(target.or(field)),
        };
    }
    match (target, field) {
        (Some(target), Some(field)) if target != field => Err(BadAuthority::Differs),
        (None, _) if method == Method::CONNECT => Err(BadAuthority::Missing),
        (None, None) => Err(BadAuthority::Missing),
        (target, field) => Ok(target.or(field)),
    }
}

/// Parses `host [":" port]`.
pub fn parse_authority(text: &str) -> Result<Authority, BadAuthority> {
    let (host, port) = split_port(text)?;
    let port = match port {
        // RFC 3986 3.2.3: an empty port is no port.
        None | Some("") => None,
        Some(digits) => Some(parse_port(digits)?),
    };
    Ok(Authority { host: parse_host(host)?, port })
}

/// Parses and normalises a host without port; one trailing dot is dropped.
pub fn parse_host(text: &str) -> Result<String, BadAuthority> {
    if text.is_empty() {
        return Err(BadAuthority::Empty);
    }
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(BadAuthority::Host)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| BadAuthority::Host)?;
        return Ok(format!("[{address}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(BadAuthority::Host);
    }
    Ok(name.to_ascii_lowercase())
}

/// Cuts a port (the text behind the colon) from a host; brackets protect the colons of IPv6.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<&str>), BadAuthority> {
    let bracket = match text.strip_prefix('[') {
        Some(_) => text.find(']').ok_or(BadAuthority::Host)? + 1,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(bracket);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(BadAuthority::Host),
    }
}

/// One to five digits, at most 65535.
pub(super) fn parse_port(digits: &str) -> Result<u16, BadAuthority> {
    // `str::parse` alone would take a leading plus.
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadAuthority::Port);
    }
    digits.parse().map_err(|_| BadAuthority::Port)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Result<String, BadAuthority> {
        parse_authority(text).map(|authority| authority.to_string())
    }

    #[test]
    fn hosts_are_normalised() {
        for (text, expected) in [
            ("a.test", "a.test"),
            ("A.Test.", "a.test"),
            ("a.test:8443", "a.test:8443"),
            ("a.test.:8443", "a.test:8443"),
            ("a.test:", "a.test"),
            ("a.test:0", "a.test:0"),
            ("my_service", "my_service"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("[::ffff:102:304]", "[::ffff:1.2.3.4]"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        use BadAuthority::*;
        for (text, expected) in [
            ("", Empty),
            (":80", Empty),
            (".", Host),
            ("..", Host),
            ("a..test", Host),
            (".a.test", Host),
            ("a.test..", Host),
            ("a.test, b.test", Host),
            ("a.test b.test", Host),
            ("user@a.test", Host),
            ("user:pw@a.test", Port),
            ("a.test/x", Host),
            ("a.test?x", Host),
            ("a.test\\@b", Host),
            ("a%2etest", Host),
            ("b\u{fc}cher.example", Host),
            ("*.a.test", Host),
            ("a.test:80:80", Port),
            ("a.test:+80", Port),
            ("a.test:65536", Port),
            ("a.test:000080", Port),
            ("a.test:8o", Port),
            ("::1", Port),
            ("[::1", Host),
            ("[::1]x", Host),
            ("[::1%25eth0]", Host),
            ("[v1.x]", Host),
            ("[]", Host),
            ("[127.0.0.1]", Host),
        ] {
            assert_eq!(host(text), Err(expected), "{text}");
        }
        assert_eq!(host(&"a".repeat(64)), Err(Host));
        assert_eq!(host(&"a.".repeat(127)).map(|host| host.len()), Ok(253));
        assert_eq!(host(&"a.".repeat(128)), Err(Host));
    }

    fn effective(version: Version, uri: &str, hosts: &[&'static str]) -> Result<Option<String>, BadAuthority> {
        effective_for(&Method::GET, version, uri, hosts)
    }

    fn effective_for(
        method: &Method,
        version: Version,
        uri: &str,
        hosts: &[&'static str],
    ) -> Result<Option<String>, BadAuthority> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        let found = effective_authority(method, version, &uri.parse().unwrap(), &headers)?;
        Ok(found.map(|authority| authority.to_string()))
    }

    #[test]
    fn http_1_1_needs_exactly_one_valid_host_rfc_9112_3_2() {
        let v11 = Version::HTTP_11;
        assert_eq!(effective(v11, "/x", &["A.test"]), Ok(Some("a.test".into())));
        assert_eq!(effective(v11, "/x", &[]), Err(BadAuthority::Missing));
        assert_eq!(effective(v11, "/x", &["a.test", "a.test"]), Err(BadAuthority::Several));
        assert_eq!(effective(v11, "/x", &["a.test, b.test"]), Err(BadAuthority::Host));
        assert_eq!(effective(v11, "/x", &[""]), Err(BadAuthority::Empty));
        assert_eq!(effective(v11, "http://a.test/x", &["b.test"]), Ok(Some("a.test".into())));
        assert_eq!(effective(v11, "http://a.test/x", &[]), Err(BadAuthority::Missing));
        assert_eq!(effective(v11, "http://u@a.test/x", &["a.test"]), Err(BadAuthority::Host));
    }

    #[test]
    fn http_1_0_may_come_without_host() {
        let v10 = Version::HTTP_10;
        assert_eq!(effective(v10, "/x", &[]), Ok(None));
        assert_eq!(effective(v10, "http://a.test/x", &[]), Ok(Some("a.test".into())));
        assert_eq!(effective(v10, "/x", &["a.test", "a.test"]), Err(BadAuthority::Several));
        assert_eq!(effective(v10, "/x", &["a test"]), Err(BadAuthority::Host));
    }

    #[test]
    fn http_2_has_one_authority_whichever_field_says_it_rfc_9113_8_3_1() {
        let v2 = Version::HTTP_2;
        assert_eq!(effective(v2, "https://a.test/x", &[]), Ok(Some("a.test".into())));
        assert_eq!(effective(v2, "https://a.test/x", &["A.test"]), Ok(Some("a.test".into())));
        assert_eq!(effective(v2, "https://a.test/x", &["b.test"]), Err(BadAuthority::Differs));
        assert_eq!(effective(v2, "https://a.test/x", &["a.test:8443"]), Err(BadAuthority::Differs));
        assert_eq!(effective(v2, "/x", &["a.test"]), Ok(Some("a.test".into())));
        assert_eq!(effective(v2, "/x", &[]), Err(BadAuthority::Missing));
        assert_eq!(effective_for(&Method::CONNECT, v2, "/x", &["a.test"]), Err(BadAuthority::Missing));
    }

    proptest! {
        #[test]
        fn a_normalised_authority_parses_to_itself(text in "\\PC{0,24}|[a-zA-Z0-9_.-]{1,20}(:[0-9]{1,5})?") {
            if let Ok(authority) = parse_authority(&text) {
                prop_assert_eq!(parse_authority(&authority.to_string()), Ok(authority));
            }
        }

        /// A second implementation: what we take, the http crate takes too, and it sees the same host.
        #[test]
        fn the_http_crate_agrees_on_what_is_accepted(text in "[a-zA-Z0-9_.:@-]{1,20}|\\[[0-9a-f:]{2,12}\\](:[0-9]{1,5})?") {
            if let Ok(ours) = parse_authority(&text) {
                let theirs: http::uri::Authority = text.parse().unwrap();
                let host = theirs.host().to_ascii_lowercase();
                if !host.starts_with('[') {
                    prop_assert_eq!(host.strip_suffix('.').unwrap_or(&host), ours.host);
                }
                prop_assert_eq!(theirs.port_u16(), ours.port);
            }
        }
    }
}
