//! The `Origin` field as one serialised origin, and nothing looser.
//!
//! Browsers write origins in exactly one way; whatever deviates (a path, a list, userinfo, a trailing slash or dot,
//! uncompressed IPv6, raw UTF-8) did not come from a browser's serialiser and is refused rather than interpreted.
//! Only case and a spelled-out default port are evened out. Which origins may pass is `upgrade/`'s business.
//!
//! RFC 6454 6.2, 7.1; RFC 5952 (IPv6); RFC 6455 10.2.

use std::fmt;
use std::net::Ipv6Addr;

use http::header::{HeaderMap, ORIGIN};

use super::host::{parse_host, parse_port, split_port};

/// A serialised origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `null`: an opaque origin, which any sandboxed frame can have.
    Null,
    /// `file://`, as some browsers send for pages from disk.
    File,
    Tuple(OriginTuple),
}

/// Scheme, host and port, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginTuple {
    /// Lower case.
    pub scheme: String,
    /// Lower case; IPv6 in brackets and compressed.
    pub host: String,
    /// Filled in where the scheme has a default; see [`default_port`].
    pub port: Option<u16>,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::File => out.write_str("file://"),
            Self::Tuple(tuple) => tuple.fmt(out),
        }
    }
}

impl fmt::Display for OriginTuple {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Some(port) if default_port(&self.scheme) != Some(port) => write!(out, ":{port}"),
            _ => Ok(()),
        }
    }
}

/// Why an `Origin` says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginError {
    /// Bytes that no `Origin` field can have (controls, anything but ASCII): 400.
    Field,
    /// Well-formed as a field, but not one serialised origin: 403.
    NotAnOrigin,
}

impl fmt::Display for OriginError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Field => "Origin has bytes that no origin can have",
            Self::NotAnOrigin => "Origin is not one serialised origin",
        })
    }
}

impl std::error::Error for OriginError {}

/// The request's origin; `None` where it names none. Two lines are no origin.
pub fn origin_of(headers: &HeaderMap) -> Result<Option<Origin>, OriginError> {
    let mut lines = headers.get_all(ORIGIN).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => parse(line.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(OriginError::NotAnOrigin),
    }
}

/// Parses the value of an `Origin` field.
pub fn parse(value: &[u8]) -> Result<Origin, OriginError> {
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return Err(OriginError::Field);
    }
    let text = std::str::from_utf8(value).map_err(|_| OriginError::Field)?;
    match text {
        // RFC 6454 7.1 spells it in lower case, and "null" is the one value where guessing is dangerous.
        "null" => Ok(Origin::Null),
        _ if text.eq_ignore_ascii_case("file://") => Ok(Origin::File),
        _ => parse_origin_tuple(text).map(Origin::Tuple),
    }
}

/// Parses `scheme "://" host [ ":" port ]`, as it stands in a field or in a list of allowed origins.
pub fn parse_origin_tuple(text: &str) -> Result<OriginTuple, OriginError> {
    let (scheme, authority) = text.split_once("://").ok_or(OriginError::NotAnOrigin)?;
    if !is_scheme(scheme) {
        return Err(OriginError::NotAnOrigin);
    }
    let (host, port) = split_port(authority).map_err(|_| OriginError::NotAnOrigin)?;
    let port = match port {
        None => None,
        // A serialiser writes the shortest form, and no colon without a port.
        Some(digits) if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) => {
            return Err(OriginError::NotAnOrigin);
        }
        Some(digits) => Some(parse_port(digits).map_err(|_| OriginError::NotAnOrigin)?),
    };
    let scheme = scheme.to_ascii_lowercase();
    let port = port.or_else(|| default_port(&scheme));
    Ok(OriginTuple { host: parse_origin_host(host)?, scheme, port })
}

/// The port that a scheme means when none is written.
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

fn parse_origin_host(text: &str) -> Result<String, OriginError> {
    let host = parse_host(text).map_err(|_| OriginError::NotAnOrigin)?;
    let serialised = match text.strip_prefix('[') {
        None => !text.ends_with('.'),
        Some(_) => {
            host.eq_ignore_ascii_case(text) || hex_groups(&host).is_some_and(|hex| hex.eq_ignore_ascii_case(text))
        }
    };
    if serialised { Ok(host) } else { Err(OriginError::NotAnOrigin) }
}

/// The form that browsers write for an IPv4-mapped address: hex groups where RFC 5952 prefers dotted decimals.
fn hex_groups(host: &str) -> Option<String> {
    let address: Ipv6Addr = host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    address.to_ipv4_mapped()?;
    let [.., high, low] = address.segments();
    Some(format!("[::ffff:{high:x}:{low:x}]"))
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn text(value: &str) -> Result<String, OriginError> {
        parse(value.as_bytes()).map(|origin| origin.to_string())
    }

    #[test]
    fn origins_are_normalised() {
        for (value, expected) in [
            ("https://app.example", "https://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("http://app.example:443", "http://app.example:443"),
            ("HTTPS://APP.EXAMPLE", "https://app.example"),
            ("https://app.example:8443", "https://app.example:8443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
            ("https://[::ffff:102:304]", "https://[::ffff:1.2.3.4]"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
            ("null", "null"),
            ("file://", "file://"),
        ] {
            assert_eq!(text(value).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_not_one_serialised_origin_is_refused() {
        for value in [
            "",
            "NULL",
            "null null",
            "https",
            "https:",
            "https://",
            "//app.example",
            "app.example",
            "https:/app.example",
            "https://app.example/",
            "https://app.example/x",
            "https://app.example?x",
            "https://app.example#x",
            "https://app.example\\x",
            "https://app.example.",
            "https://app.example.:443",
            "https://user@app.example",
            "https://user:pw@app.example",
            "https://app.example https://evil.test",
            "https://app.example,https://evil.test",
            "https://app.example, https://evil.test",
            "https://*.app.example",
            "https://app..example",
            "https://app%2eexample",
            "https://app.example:",
            "https://app.example:0443",
            "https://app.example:65536",
            "https://app.example:+443",
            "https://app.example:443:443",
            "https://[0:0:0:0:0:0:0:1]:8443",
            "https://[::0:1]",
            "https://[::0001]",
            "https://[::1",
            "https://::1",
            "https://[::1]x",
            "https://[::ffff:0102:0304]",
            "1https://app.example",
            "ht tps://app.example",
            " https://app.example",
            "file:///",
            "file:///etc/passwd",
            "data:text/html,x",
            "blob:https://app.example",
        ] {
            assert_eq!(text(value), Err(OriginError::NotAnOrigin), "{value}");
        }
    }

    #[test]
    fn bytes_outside_ascii_make_the_field_malformed() {
        assert_eq!(text("https://b\u{fc}cher.example"), Err(OriginError::Field));
        assert_eq!(parse(b"https://app\xff.example"), Err(OriginError::Field));
        assert_eq!(parse(b"https://app.example\0"), Err(OriginError::Field));
    }

    #[test]
    fn two_lines_are_no_origin() {
        let mut headers = HeaderMap::new();
        assert_eq!(origin_of(&headers), Ok(None));
        headers.append(ORIGIN, HeaderValue::from_static("https://app.example"));
        assert!(matches!(origin_of(&headers), Ok(Some(Origin::Tuple(_)))));
        headers.append(ORIGIN, HeaderValue::from_static("https://app.example"));
        assert_eq!(origin_of(&headers), Err(OriginError::NotAnOrigin));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_and_what_parses_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(origin) = parse(&bytes) {
                prop_assert_eq!(parse(origin.to_string().as_bytes()), Ok(origin));
            }
        }

        /// A second implementation: the http crate's URI parser sees the same host and port, and no path behind them.
        #[test]
        fn the_http_crate_sees_the_same_host(
            value in "https?://[a-zA-Z0-9.@:/?#_-]{1,16}|[a-z+.-]{1,8}://[a-z0-9.]{1,12}(:[0-9]{1,6})?",
        ) {
            if let Ok(Origin::Tuple(tuple)) = parse(value.as_bytes()) {
                let uri: http::Uri = value.parse().unwrap();
                prop_assert_eq!(uri.host().unwrap().to_ascii_lowercase(), tuple.host);
                prop_assert_eq!(uri.scheme_str().unwrap().to_ascii_lowercase(), &*tuple.scheme);
                prop_assert_eq!(uri.port_u16().or(default_port(&tuple.scheme)), tuple.port);
                prop_assert!(matches!(uri.path(), "" | "/") && uri.query().is_none());
                prop_assert!(!value.ends_with('/') && !value.contains(['@', '?', '#']));
            }
        }
    }
}
