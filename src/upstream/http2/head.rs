//! A request's head in the form of HTTP/2 (RFC 9113 8.2.2, 8.3.1), and of a handshake in that of RFC 8441.
//!
//! What comes in is ready for HTTP/1.1; this is the one place that knows what is different here.

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONNECTION, EXPECT, HOST, HeaderName, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Uri, Version, request};

/// Says who is asked, where the request itself does not.
pub(in crate::upstream) struct Origin<'a> {
    pub secure: bool,
    /// The server's own name.
    pub host: &'a HeaderValue,
}

/// The request has an authority that cannot be written.
#[derive(Debug)]
pub(super) struct BadHead;

/// A plain request.
pub(super) fn plain(mut parts: request::Parts, origin: &Origin<'_>) -> Result<Request<()>, BadHead> {
    let trailers_welcome =
        parts.headers.get(TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if !trailers_welcome {
        parts.headers.remove(TE);
    }
    finish(parts, origin)
}

/// A handshake as extended CONNECT (RFC 8441 4, 5).
pub(super) fn extended_connect(mut parts: request::Parts, origin: &Origin<'_>) -> Result<Request<()>, BadHead> {
    parts.method = Method::CONNECT;
    // Has no meaning on HTTP/2, and so has its answer.
    parts.headers.remove(SEC_WEBSOCKET_KEY);
    parts.headers.remove(TE);
    let mut request = finish(parts, origin)?;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Ok(request)
}

fn finish(mut parts: request::Parts, origin: &Origin<'_>) -> Result<Request<()>, BadHead> {
    let host = parts.headers.remove(HOST);
    for name in [&CONNECTION, &UPGRADE, &TRANSFER_ENCODING, &EXPECT, &KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS] {
        parts.headers.remove(name);
    }
    let host = host.as_ref().unwrap_or(origin.host);
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if origin.secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).map_err(|_| BadHead)?);
    let target = std::mem::take(&mut parts.uri).into_parts().path_and_query;
    uri.path_and_query = Some(target.unwrap_or(PathAndQuery::from_static("/")));
    parts.uri = Uri::from_parts(uri).map_err(|_| BadHead)?;
    parts.version = Version::HTTP_2;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, ()))
}

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> request::Parts {
        let mut builder = Request::get("/a?b=%2f");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    static HOST_OF_THE_SERVER: HeaderValue = HeaderValue::from_static("server:81");

    fn names(request: &Request<()>) -> Vec<&str> {
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn origin() -> Origin<'static> {
        Origin { secure: true, host: &HOST_OF_THE_SERVER }
    }

    #[test]
    fn what_belongs_to_one_hop_goes_and_the_host_becomes_the_authority() {
        let fields = [
            ("host", "a.test:8443"),
            ("connection", "te"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("keep-alive", "1"),
            ("cookie", "a=1; b=2"),
        ];
        let request = plain(head(&fields), &origin()).expect("a request");
        assert_eq!(request.uri(), "https://a.test:8443/a?b=%2f");
        assert_eq!(names(&request), ["cookie", "te"]);
        let request = plain(head(&[("te", "gzip")]), &origin()).expect("a request");
        assert_eq!((request.uri().authority().map(Authority::as_str), request.headers().len()), (Some("server:81"), 0));
        assert!(plain(head(&[("host", "a b")]), &origin()).is_err());
    }

    #[test]
    fn a_handshake_loses_what_rfc_8441_has_no_use_for() {
        let fields = [
            ("host", "a.test"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat"),
        ];
        let request = extended_connect(head(&fields), &origin()).expect("a request");
        assert_eq!((request.method(), request.uri().path()), (&Method::CONNECT, "/a"));
        assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        assert_eq!(names(&request), ["sec-websocket-protocol", "sec-websocket-version"]);
    }
}
