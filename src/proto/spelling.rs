//! The spelling of field names that RFC 6455 uses (`Sec-WebSocket-Key`), for HTTP/1.1 handshakes.
//!
//! Field names are case-insensitive (RFC 9110 5.1), yet hand-written WebSocket servers and clients compare them by
//! case. [`write_request`] writes a handshake's head that way. The 101 is written by hyper, whose title case alone would
//! give `Sec-Websocket-Key`. hyper keeps a message's original spelling in a
//! private extension; this module has hyper read one canned request, once, and hands out clones of what it noted.
//! Names that are not in the canned request are written in title case as everywhere else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Waker};

use http::{Extensions, HeaderName, Request, Response, request};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;

/// Every name whose title case is not what RFC 6455 and common practice write.
const CANNED: &[u8] = b"GET / HTTP/1.1\r\n\
    Sec-WebSocket-Key: x\r\n\
    Sec-WebSocket-Version: x\r\n\
    Sec-WebSocket-Protocol: x\r\n\
    Sec-WebSocket-Extensions: x\r\n\
    Sec-WebSocket-Accept: x\r\n\
    \r\n";

/// The head of an HTTP/1.1 request without a body, as it goes over the wire. The target is written as it stands, which
/// the caller has made origin-form.
pub fn write_request(head: &request::Parts) -> Vec<u8> {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    let mut wire = Vec::with_capacity(head.method.as_str().len() + target.len() + fields + 14);
    for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        wire.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &head.headers {
        write_name(name, &mut wire);
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    wire
}

/// As RFC 6455 spells its own fields; others in title case.
fn write_name(name: &HeaderName, wire: &mut Vec<u8>) {
    const WEBSOCKET: &str = "sec-websocket-";
    let (spelt, rest) = match name.as_str().strip_prefix(WEBSOCKET) {
        Some(rest) => ("Sec-WebSocket-", rest),
        None => ("", name.as_str()),
    };
    wire.extend_from_slice(spelt.as_bytes());
    let mut before = b'-';
    wire.extend(rest.bytes().map(|byte| {
        let written = if before == b'-' { byte.to_ascii_uppercase() } else { byte };
        before = byte;
        written
    }));
}

/// Extensions for a 101 answer that make hyper write the names above as they stand there.
pub fn websocket() -> Extensions {
    static NOTED: OnceLock<Extensions> = OnceLock::new();
    NOTED.get_or_init(read_canned).clone()
}

fn read_canned() -> Extensions {
    let noted = Rc::new(RefCell::new(Extensions::new()));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        *noted.borrow_mut() = request.into_parts().0.extensions;
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    let canned = hyper_util::rt::TokioIo::new(tokio::io::join(CANNED, tokio::io::sink()));
    let mut connection =
        pin!(http1::Builder::new().preserve_header_case(true).keep_alive(false).serve_connection(canned, service));
    // Everything is in memory: one poll reads the request and calls the service.
    let _ = connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    noted.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_in_the_spelling_of_the_rfc_and_of_title_case() {
        let request = Request::get("/chat?x=1")
            .header("host", "a.test")
            .header("sec-websocket-key", "k")
            .header("sec-websocket-x-y", "")
            .header("x--request-id", "1")
            .header("te", "a\u{e9}")
            .header("cookie", "a")
            .header("cookie", "b");
        let wire = write_request(&request.body(()).expect("good").into_parts().0);
        let expected = "GET /chat?x=1 HTTP/1.1\r\nHost: a.test\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-X-Y: \r\n\
            X--Request-Id: 1\r\nTe: a\u{e9}\r\nCookie: a\r\nCookie: b\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&wire), expected);
        assert_eq!(wire.capacity(), wire.len(), "no growing");
    }

    #[test]
    fn the_canned_request_is_read_in_one_poll() {
        assert!(!super::websocket().is_empty());
    }
}
