//! The spelling of field names that RFC 6455 uses (`Sec-WebSocket-Key`), for HTTP/1.1 handshakes.
//!
//! Field names are case-insensitive (RFC 9110 5.1), yet hand-written WebSocket servers and clients compare them by
//! case, and hyper's title case alone would write `Sec-Websocket-Key`. hyper keeps a message's original spelling in a
//! private extension; this module has hyper read one canned request, once, and hands out clones of what it noted.
//! Names that are not in the canned request are written in title case as everywhere else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Waker};

use http::{Extensions, Request, Response};
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

/// Extensions for a request or a 101 answer that make hyper write the names above as they stand there.
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
    #[test]
    fn the_canned_request_is_read_in_one_poll() {
        assert!(!super::websocket().is_empty());
    }
}
